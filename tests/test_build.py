"""A wheel and an sdist can be built, and work outside the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The sdist, and the wheel that is built from it: what is missing in the one fails in the other."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sdist_holds_all_that_a_change_needs(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for name in ("README.md", "NOTICE", "Makefile", "constraints.txt", "tests/tiny.py", "examples/01_walk.py"):
        assert name in names
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_wheel_walks_outside_the_checkout(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(tmp_path / "site")

    def run(*words: str) -> str:
        command = [sys.executable, "-P", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import context_as_memory; print(context_as_memory.__file__)")
    assert where.strip().startswith(str(tmp_path))
    assert "explore" in run("-m", "context_as_memory", "--help")
    code = (
        "from context_as_memory import World\n"
        "walk = World.from_pretrained(engine='plain').start('vault').walk('j-4')\n"
        "print(walk.save('walk.mp4').stat().st_size > 0, walk.frames.shape)\n"
    )
    assert run("-c", code).split("\n")[0] == "True (4, 96, 160, 3)"
