"""Every kind of fault that people report, replayed: the tests that hold it, counted by kind.

    python benchmarks/cases.py [--only NaN tokens ...] [--json cases.json]

A kind is a fault with its siblings, and lives in tests: this runs them, kind by kind, and prints how many are good,
wrong and left out (for want of a browser, say). Exit code 1 if one is wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Xml
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Kind -> file of tests, and what is in the names of its tests.
KINDS: dict[str, tuple[str, str]] = {
    "lens, axes, units": ("test_formats.py test_formats_cameras.py", ""),
    "pictures and videos": ("test_formats_pictures.py test_formats_video.py", ""),
    "pipes, devices, arrays of objects": ("test_formats_files.py", ""),
    "commands given no plain file": ("test_cli.py", "no_plain_file or cannot_be_written"),
    "layouts of other systems": ("test_formats_importers.py", ""),
    "walks told by checksum": ("test_suite_videos.py", ""),
    "NaN becomes memory": ("test_weights_hostile.py", "finite"),
    "settings that ask for too much": ("test_weights_hostile.py", "settings or read_as_before"),
    "weights in several files": ("test_weights_hostile.py", "index or header"),
    "measuring interrupted": ("test_suite_result.py", ""),
    "worlds of strangers": ("test_storage_hostile.py", "taken or larger or latents or note or lens or settings"),
    "damaged worlds": ("test_storage_hostile.py test_storage_damage.py", "flipped or page or checksum or damage"),
    "archives": ("test_storage_hostile.py test_storage.py", "export or import or archive or sent or names_no_folder"),
    "after a pulled plug": ("test_storage_hostile.py", "disk or fork or killed or left_behind"),
    "names, prefixes, headers": ("test_server_guard.py", "name or pages or rules or files or proxy or prefix"),
    "tokens": ("test_server_guard.py", "token or operators"),
    "ports and folders": ("test_server_guard.py", "port or folder or program_says"),
    "floods and strangers": ("test_server_guard.py", "pace or slowed or strangers"),
    "pictures that cost": ("test_server_guard.py", "picture or photo"),
    "room and downloads": ("test_server_guard.py", "counted or room or download"),
    "worlds that make room": ("test_server_room.py", ""),
    "a second tab": ("test_server_guard.py", "another_tab or another_program or not_here or heartbeats"),
    "the page and its line": ("e2e/test_explorer_lines.py", ""),
    "training interrupted": ("test_training_run_folder.py", "asked or killed or checkpoint or full_disk or finite"),
    "owner and record of a run": ("test_training_run_folder.py", "second or resumed or settings or content"),
    "latents": ("test_training_run_folder.py", "latents or stamp"),
    "walks interrupted": ("test_cli.py", "asked_to_end or second_ctrl"),
    "what a message says": ("test_errors.py", ""),
    "packaging": ("test_build.py test_hashes.py", ""),
}


def run(files: str, names: str) -> tuple[int, int, int]:
    """Tests of a kind: how many are good, wrong and left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        words += [*(f"tests/{name}" for name in files.split()), *(["-k", names] if names else [])]
        subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        cases = list(Xml.parse(report).getroot().iter("testcase"))
    wrong = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    left_out = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - wrong - left_out, wrong, left_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="kinds with one of these words")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {}
    print(f"{'kind':32s} good wrong left out")
    for kind, (files, names) in KINDS.items():
        if options.only and not any(word in kind for word in options.only):
            continue
        good, wrong, left_out = rows[kind] = run(files, names)
        print(f"{kind:32s} {good:4d} {wrong:5d} {left_out:8d}", flush=True)
    print(f"{'all':32s} {sum(r[0] for r in rows.values()):4d} {sum(r[1] for r in rows.values()):5d}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row[1] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
