"""Hashes of what is installed: from pip's report to lines that make pip refuse other bits."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DIGEST = "ab" * 32


def _pinned(folder: Path, *downloads: dict) -> subprocess.CompletedProcess:
    environment = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}
    rows = [{"metadata": {"name": f"p{i}", "version": "1.0+cpu"}, "download_info": d} for i, d in enumerate(downloads)]
    report = folder / "report.json"
    report.write_text(json.dumps({"environment": environment, "install": rows}))
    script = ROOT / "scripts" / "pin_hashes.py"
    return subprocess.run([sys.executable, script, report], capture_output=True, text=True, check=False)


def test_every_package_of_a_report_but_the_project_has_its_line(tmp_path):
    done = _pinned(
        tmp_path,
        {"url": "file:///w/b.whl", "archive_info": {"hash": f"sha256={DIGEST}"}},  # as pip 23.0 says it
        {"url": "file:///here", "dir_info": {"editable": True}},
        {"url": "https://x/a.whl", "archive_info": {"hash": "md5=1", "hashes": {"md5": "1", "sha256": DIGEST}}},
    )
    head, *rest = done.stdout.splitlines()
    assert "linux x86_64, Python 3.11" in head
    assert rest == [f"p{i}==1.0+cpu --hash=sha256:{DIGEST}" for i in (0, 2)]


@pytest.mark.parametrize(
    "source",
    [
        {"url": "https://x/a.whl", "archive_info": {"hash": f"md5={DIGEST}"}},
        {"url": "https://x/a.whl", "archive_info": {}},
        {"url": "git+https://x/a", "vcs_info": {"vcs": "git"}},
    ],
)
def test_what_has_no_sha256_is_told_and_nothing_is_written(tmp_path, source):
    done = _pinned(tmp_path, source)
    assert (done.returncode, done.stdout) == (1, "") and "p0 1.0+cpu" in done.stderr


def _wheel(folder: Path, text: str) -> Path:
    folder.mkdir()
    wheel = folder / "pinned_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pinned_thing.py", text)
        info = "pinned_thing-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pinned-thing\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_pip_takes_the_file_that_was_noted_and_refuses_other_bits(tmp_path):
    noted, other = _wheel(tmp_path / "noted", "good = 1\n"), _wheel(tmp_path / "other", "good = 0\n")
    digest = hashlib.sha256(noted.read_bytes()).hexdigest()
    done = _pinned(tmp_path, {"url": noted.as_uri(), "archive_info": {"hash": f"sha256={digest}"}})
    lines = tmp_path / "requirements-hashed.txt"
    lines.write_text(done.stdout.replace("p0==1.0+cpu", "pinned-thing==1.0"))
    results = {}
    for wheel in (noted, other):
        words = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--disable-pip-version-check"]
        words += ["--dry-run", "--no-index", "--find-links", str(wheel.parent)]
        words += ["--ignore-installed", "--no-deps", "--require-hashes", "-r", str(lines)]
        results[wheel] = subprocess.run(words, capture_output=True, text=True, check=False)
    assert results[noted].returncode == 0, results[noted].stderr
    assert results[other].returncode != 0 and "DO NOT MATCH THE HASHES" in results[other].stderr
