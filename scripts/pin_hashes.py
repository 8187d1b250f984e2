"""Which files an installation consists of, by their SHA-256: from pip's report to lines that pip can hold others to.

    python scripts/pin_hashes.py report.json > requirements-hashed.txt

The report comes from `pip install --dry-run --ignore-installed --report report.json ...`; `make hashes` does both. The
lines are for the kind of machine and the Python that the report was made with: others have other files.
"""

import json
import sys
from pathlib import Path
from typing import Any


def lines(report: dict[str, Any]) -> list[str]:
    """One line `name==version --hash=sha256:...` for each package of a report, by name; `ValueError` where a package
    has no SHA-256. The project itself, a folder, is left out."""
    found = []
    for entry in report["install"]:
        source = entry["download_info"]
        if "dir_info" in source:
            continue
        name, version = entry["metadata"]["name"], entry["metadata"]["version"]
        archive = source.get("archive_info", {})
        kind, _, digest = archive.get("hash", "").partition("=")  # up to pip 23.0 the only one
        digest = archive.get("hashes", {}).get("sha256") or (digest if kind == "sha256" else "")
        if not digest:
            raise ValueError(f"{name} {version} has no SHA-256 where it comes from; pin it by hand")
        found.append(f"{name}=={version} --hash=sha256:{digest}")
    return sorted(found, key=str.lower)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    report = json.loads(Path(sys.argv[1]).read_text())
    try:
        pinned = lines(report)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    here = [report["environment"][key] for key in ("sys_platform", "platform_machine", "python_version")]
    print("# Made by `make hashes` for {} {}, Python {}".format(*here))
    print(*pinned, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
