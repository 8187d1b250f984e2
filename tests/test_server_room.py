"""Room for new worlds: the least recently walked go, and nothing else does."""

import json
import subprocess
import sys
import time

import pytest
import torch
from fastapi.testclient import TestClient

import tiny
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.server.app import LOOPBACK, PATH, create_app
from context_as_memory.server.limits import Limits
from context_as_memory.server.protocol import FrameBatch, Init, decode, encode
from context_as_memory.server.room import REMOVED, make_room, removed
from context_as_memory.storage import BranchStore, WorldFile, export_world, import_world

HOSTS = [*LOOPBACK, "testserver"]
HOUR = 3600.0
SETTINGS = {"width": tiny.WIDTH, "height": tiny.HEIGHT, "weights_sha256": "none"}


def _world(folder, number: int, hours_ago: float, monkeypatch) -> str:
    """A world of a few frames that was last walked in so long ago; its name."""
    name = f"{number:016x}"
    now = time.time() - hours_ago * HOUR
    with monkeypatch.context() as clock:
        clock.setattr("context_as_memory.storage.file.time.time", lambda: now)
        with WorldFile.create(folder / name, SETTINGS) as file:
            BranchStore(file).append(tiny.pictures(2), tiny.walk(2), torch.zeros(4, 2, 2, 2), {})
    return name


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """Four worlds, walked in 4, 3, 2 and 1 hours ago, and their names in this order."""
    return tmp_path, [_world(tmp_path, number, 4 - number, monkeypatch) for number in range(4)]


def _left(folder, names):
    return [name for name in names if (folder / name).exists()]


def _size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_least_recently_walked_go_first_and_only_as_many_as_must(worlds, caplog):
    folder, names = worlds
    assert make_room(folder, names, 1e9, 60.0) == []
    each = _size(folder / names[0])  # reading it has made its index of shared memory
    assert make_room(folder, names, 4.5 * each, 60.0) == [] and not (folder / REMOVED).exists()
    gone = make_room(folder, names, 2.5 * each, 60.0)
    assert [one.name for one in gone] == names[:2] and gone[0].bytes == pytest.approx(each, rel=0.05)
    assert _left(folder, names) == names[2:]
    assert "removed world 0000000000000000 to make room" in caplog.text
    assert [one.name for one in removed(folder)] == names[1::-1]
    assert sorted(path.name for path in folder.iterdir()) == [*names[2:], REMOVED]  # nothing is left half removed


def test_the_last_one_and_those_of_the_last_minutes_stay_whatever_they_take(worlds):
    folder, names = worlds
    assert len(make_room(folder, names, 1, 2.5 * HOUR)) == 2  # of 4 and 3 hours ago
    assert len(make_room(folder, names, 1, 60.0)) == 1
    assert _left(folder, names) == names[3:]


HOLD = """
import sys
from context_as_memory.storage import WorldFile
with WorldFile.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_an_open_world_stays_here_and_in_another_process(worlds):
    folder, names = worlds
    words = [sys.executable, "-c", HOLD, str(folder / names[0])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with WorldFile.open(folder / names[1]):
            assert [one.name for one in make_room(folder, names, 1, 60.0)] == names[2:3]
        other.communicate("")
    assert [one.name for one in make_room(folder, names, 1, 60.0)] == names[:2]  # closed by now


def test_what_is_no_sound_world_is_never_touched(worlds, tmp_path_factory, monkeypatch):
    folder, names = worlds
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    linked = _world(elsewhere, 99, 99, monkeypatch)
    (folder / f"{10:016x}").symlink_to(elsewhere / linked)
    (folder / f"{11:016x}").mkdir()
    (folder / f"{11:016x}" / "thesis.txt").write_text("of somebody else")
    (folder / "notes").mkdir()
    (folder / f"{12:016x}").write_text("a file of a world's name")
    (folder / names[0] / "thesis.txt").write_text("put into a world")
    (folder / names[1] / "world.sqlite").write_bytes(b"damaged")
    everything = sorted(path.name for path in folder.iterdir())
    gone = make_room(folder, [*names, *(f"{number:016x}" for number in range(10, 14)), "notes"], 1, 60.0)
    assert [one.name for one in gone] == names[2:3]
    assert sorted(path.name for path in folder.iterdir()) == sorted({*everything, REMOVED} - {names[2]})
    assert (elsewhere / linked / "world.sqlite").exists()


def test_a_world_that_is_a_copy_of_another_goes_alone(worlds):
    folder, names = worlds
    with WorldFile.open(folder / names[3], write=False) as file:
        archive = export_world(file, folder / "world.tar")
    import_world(archive, folder / f"{20:016x}")
    make_room(folder, [*names, f"{20:016x}"], 1, 60.0)
    with WorldFile.open(_one(folder), write=False) as file:
        assert file.branch("main").frames == 2 and file.frames_in_all() == 2
    assert archive.exists()


def _one(folder):
    (found,) = [path for path in folder.iterdir() if path.is_dir()]
    return found


def test_lines_of_removed_worlds_that_are_damaged_are_passed_over(tmp_path):
    assert removed(tmp_path) == []
    row = {"name": "a", "bytes": 1, "walked_s": 2.0, "removed_s": 3.0}
    (tmp_path / REMOVED).write_text(f'{json.dumps(row)}\n{{"name": 3}}\n[1]\nnull\n{{"na')
    assert [one.name for one in removed(tmp_path)] == ["a"]


@pytest.mark.parametrize("most_gb", [None, 1e-9])
def test_a_server_removes_only_where_it_is_told_to_and_tells_it(store, monkeypatch, most_gb):
    old = [_world(store.folder, number, 4 - number, monkeypatch) for number in range(2)]
    app = create_app(store, Limits(keep_worlds_gb=most_gb, free_bytes=0), hosts=HOSTS)
    with TestClient(app, base_url="http://127.0.0.1") as client, client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init()))
        while not isinstance(decode(line.receive_bytes(), 10_000_000), FrameBatch):
            pass
        told = client.get("/v1/removed").json()
        if most_gb is None:
            assert told == [] and _left(store.folder, old) == old
        else:
            assert [row["name"] for row in told] == old[:1] and _left(store.folder, old) == old[1:]
            with pytest.raises(UserError, match="was removed on .* to make room"):
                store.open(old[0])
    locked = TestClient(create_app(store, token="s" * 20, hosts=HOSTS), base_url="http://127.0.0.1")
    assert locked.get("/v1/removed").json() == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_what_is_no_size_is_refused(value, capsys, tmp_path):
    assert main(["explore", "--keep-worlds-gb", value, "--worlds", str(tmp_path)]) != 0
    assert "--keep-worlds-gb is" in capsys.readouterr().err
