"""World files from strangers and after a pulled plug: what is believed, what is checked, and what is on the disk."""

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import tiny
from context_as_memory.camera import PROFILE
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.memory import MemoryBank
from context_as_memory.storage import (
    MAIN,
    BranchStore,
    WorldFile,
    compact,
    create_world,
    export_world,
    import_world,
    open_world,
    schema,
    verify,
)
from context_as_memory.storage.content import cameras_sha256, decode_frames, encode_frames, row_sha256, sha256
from test_storage import _filled, _latents

LAST = 4  # the last chunk of a filled world


def _rewrite(folder: Path, chunk: int = LAST, **columns: object) -> None:
    """Change the row of a chunk as a stranger would: with a checksum that fits."""
    names = ["parent", "first", "frames", "steps", "token", "frames_sha256", "latents_sha256", "note"]
    database = sqlite3.connect(folder / schema.DATABASE)
    with database:
        for name, value in columns.items():
            database.execute(f"UPDATE chunk SET {name} = ? WHERE id = ?", (value, chunk))
        row = database.execute(f"SELECT {', '.join(names)} FROM chunk WHERE id = ?", (chunk,)).fetchone()
        database.execute("UPDATE checksum SET row_sha256 = ? WHERE chunk = ?", (row_sha256(*row), chunk))
    database.close()


def _put_latents(folder: Path, latents: torch.Tensor, chunk: int = LAST) -> None:
    """Replace the latents of a chunk, with a hash that fits."""
    data = save({"latents": latents})
    with WorldFile.open(folder, write=False) as world:
        path = world.file_path(world.chunk(chunk), "latents")
    path.write_bytes(data)
    _rewrite(folder, chunk, latents_sha256=sha256(data))


def _set(folder: Path, key: str, value: str | None) -> None:
    database = sqlite3.connect(folder / schema.DATABASE)
    with database:
        if value is None:
            database.execute("DELETE FROM setting WHERE key = ?", (key,))
        else:
            database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, value))
    database.close()


# -- what is believed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [{"frames": 10**9}, {"frames": 10**12}, {"first": 2**62}, {"frames": 40_000}])
def test_no_memory_is_taken_for_frames_that_a_world_cannot_hold(tmp_path, columns):
    """A database holds 160 bytes of cameras for every frame: it cannot name more frames than it has bytes for."""
    _filled(tmp_path / "world").close()
    _rewrite(tmp_path / "world", **columns)
    with (
        WorldFile.open(tmp_path / "world", write=False) as world,
        pytest.raises(UserError, match=f"chunk {LAST} .* is damaged"),
    ):
        MemoryBank(BranchStore(world))


def test_pictures_larger_than_their_file_can_be_are_not_unpacked():
    data = encode_frames(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="cannot be 100000 of 8192x8192"):
        decode_frames(data, 100_000, 8192, 8192, "pictures")
    assert decode_frames(encode_frames(np.zeros((3, 400, 500, 3), np.uint8)), 3, 500, 400, "pictures").shape[0] == 3


@pytest.mark.parametrize(
    "latents",
    [
        torch.full((4, 2, 2, 4), float("nan")),
        torch.full((4, 2, 2, 4), -float("inf")),
        torch.zeros(4, 1, 2, 4),
        torch.zeros(4, 3, 2, 4),
        torch.zeros(2, 2, 4),
        torch.zeros(4, 2, 2, 4, dtype=torch.int64),
        torch.zeros(0, 2, 2, 4),
        torch.zeros(5, 2, 2, 4),
        torch.zeros(4, 2, 3, 4),
    ],
    ids=["nan", "inf", "too few", "too many", "flat", "whole numbers", "empty", "other channels", "other size"],
)
def test_latents_that_no_network_can_read_are_lost_and_the_rest_walks_on(tmp_path, latents):
    _filled(tmp_path / "world").close()
    _put_latents(tmp_path / "world", latents)
    with WorldFile.open(tmp_path / "world") as world:
        store = BranchStore(world)
        store.latent_shape = (4, 2, 4)
        with pytest.raises(UserError, match=f"latents of chunk {LAST}"):
            store.latents([6])
        assert list(verify(world).problems) == [LAST]
        assert BranchStore(world).readable().tolist() == [True] * 6 + [False] * 2
        world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})


@pytest.mark.parametrize(
    "note",
    [
        {"context": 5},
        {"context": "text"},
        {"context": None},
        {"context": ["a"]},
        {"context": [1.5]},
        {"scores": 3},
        {"step": "one"},
        {"step": None},
        {"made_with": []},
        {"profiles_m": "deep"},
        {"profiles_m": [[1.0], [2.0, 3.0]]},
        {"profiles_m": [[-1.0] * PROFILE] * 2},
        {"profiles_m": {"a": 1}},
        [],
        None,
        7,
    ],
    ids=str,
)
def test_a_note_of_another_kind_loses_its_chunk_alone(tmp_path, note):
    _filled(tmp_path / "world").close()
    _rewrite(tmp_path / "world", note=json.dumps(note))
    with WorldFile.open(tmp_path / "world") as world:
        bank = MemoryBank(BranchStore(world))
        assert len(bank) == 8 and bank.offered().tolist() == [True] * 6 + [False] * 2
        assert list(verify(world).problems) == [LAST]


@pytest.mark.parametrize("lens", [1e-300, 1e300, -1.0, float("nan"), 0.0])
@pytest.mark.parametrize("place", ["lens", "position"])
def test_a_lens_or_a_place_that_cannot_be_loses_its_chunk(tmp_path, lens, place):
    if place == "position" and lens in (1e-300, -1.0, 0.0):
        return  # fine places
    _filled(tmp_path / "world").close()
    database = sqlite3.connect(tmp_path / "world" / schema.DATABASE)
    with database:
        poses = database.execute("SELECT c2w, K FROM frame WHERE chunk = ? ORDER BY row", (LAST,)).fetchall()
        changed = []
        for c2w, K in poses:
            numbers, pixels = np.frombuffer(c2w, "<f8").copy(), np.frombuffer(K, "<f8").copy()
            if place == "lens":
                pixels[0] = lens
            else:
                numbers[3] = lens
            changed.append((numbers.tobytes(), pixels.tobytes()))
        for row, pose in enumerate(changed):
            database.execute("UPDATE frame SET c2w = ?, K = ? WHERE chunk = ? AND row = ?", (*pose, LAST, row))
        database.execute("UPDATE checksum SET cameras_sha256 = ? WHERE chunk = ?", (cameras_sha256(changed), LAST))
    database.close()
    with WorldFile.open(tmp_path / "world") as world:
        assert BranchStore(world).readable().tolist() == [True] * 6 + [False] * 2
        assert list(verify(world).problems) == [LAST]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("config", None, "no set of settings"),
        ("config", "[]", "no set of settings"),
        ("config", '{"memory_noise": NaN}', "memory_noise is nan"),
        ("config", '{"memory_noise": 1e30}', "memory_noise"),
        ("config", '{"num_steps": 1000000000}', "num_steps"),
        ("config", '{"width": Infinity}', "another type"),
        ("config", "[" * 100_000, "settings of the world .* damaged"),
        ("config", '{"width": 32, "height": 16}', "two sizes"),
        ("width", "Infinity", "pictures are inf"),
        ("width", "-3", "pictures are -3"),
        ("width", "1000000000", "pictures are 1000000000"),
        ("width", '"64"', "pictures are 64x48"),
        ("height", None, "pictures are 64xNone"),
        ("weights", "7", "does not say which weights"),
        ("weights", None, "does not say which weights"),
        ("weights_sha256", None, "made with other weights"),
        ("up", '"north"', "for up"),
        ("up", "[0, 0, NaN]", "for up"),
    ],
)
def test_settings_of_a_stranger_get_one_sentence(tmp_path, weights, capsys, key, value, told):
    create_world(tmp_path / "world", weights, device="cpu").close()
    _set(tmp_path / "world", key, value)
    with pytest.raises(UserError, match=told), contextlib.ExitStack() as stack:
        opened = open_world(tmp_path / "world", device="cpu")
        stack.callback(opened.close)
        assert opened.bank.store.file.up is None  # `up` is read when one walks
    for command in ("info", "verify"):
        assert main(["world", command, str(tmp_path / "world")]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_made_with_of_another_kind_does_not_matter(tmp_path, weights):
    create_world(tmp_path / "world", weights, device="cpu").close()
    for value in ("[]", "5", '"text"', "null"):
        _set(tmp_path / "world", "made_with", value)
        open_world(tmp_path / "world", device="cpu").close()


def test_flipped_bits_in_the_schema_are_one_error_and_hide_no_other_world(tmp_path, capsys):
    for name in ("a", "b", "c"):
        _filled(tmp_path / "worlds" / name, 1).close()
    path = tmp_path / "worlds" / "b" / schema.DATABASE
    whole = path.read_bytes()
    words = b"CREATE TABLE chunk|parent INTEGER|checksum"
    for at in [found.start() for found in re.finditer(words, whole)]:
        for value in (0xFF, 0xC3, 0x00, whole[at] ^ 0x10):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            assert main(["world", "list", str(tmp_path / "worlds")]) == 0
            told = capsys.readouterr().out.splitlines()
            assert [line.split(":")[0].rsplit("/", 1)[-1] for line in told] == ["a", "b", "c"]
            assert "main (2 frames)" in told[0] and "main (2 frames)" in told[2]


# -- archives ----------------------------------------------------------------------------------------------------------


def _repacked(source: Path, target: Path, change) -> Path:
    """An archive with the members of another one, their bytes changed."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            held = old.extractfile(member)
            assert held is not None
            data = bytearray(held.read())
            change(member.name, data)
            member.size = len(data)
            new.addfile(member, io.BytesIO(bytes(data)))
    return target


@pytest.mark.parametrize("part", ["frames/", "latents/", "world.sqlite"])
def test_import_reads_every_checksum_before_a_world_appears(tmp_path, part):
    with _filled(tmp_path / "world") as world:
        export_world(world, tmp_path / "good")

    def flip(name: str, data: bytearray) -> None:
        if name.startswith(part) and part != "world.sqlite":
            data[len(data) // 2] ^= 4
        elif name == part:  # somewhere in what is written of a chunk
            data[data.find(b'{"step": 2}') + 9] ^= 1

    with pytest.raises(UserError, match="is damaged .*get the file once more"):
        import_world(_repacked(tmp_path / "good", tmp_path / "bad", flip), tmp_path / "in" / "copy")
    assert list((tmp_path / "in").iterdir()) == []
    import_world(_repacked(tmp_path / "good", tmp_path / "same", lambda *_: None), tmp_path / "in" / "copy")


def test_no_page_of_the_database_is_damaged_without_a_word(tmp_path):
    """Each page in turn is overwritten in part; the world is refused, or it is whole."""
    with _filled(tmp_path / "world") as world:
        export_world(world, tmp_path / "good")
    with tarfile.open(tmp_path / "good") as archive:
        member = archive.extractfile("world.sqlite")
        assert member is not None
        data = member.read()
    size = int.from_bytes(data[16:18], "big")
    refused = 0
    for page in range(len(data) // size):

        def spoil(name: str, held: bytearray, page: int = page) -> None:
            if name == "world.sqlite":
                held[(page + 1) * size - 200 : (page + 1) * size - 100] = b"\xa5" * 100

        (tmp_path / "bad").unlink(missing_ok=True)
        try:
            import_world(_repacked(tmp_path / "good", tmp_path / "bad", spoil), tmp_path / f"copy{page}")
        except UserError:
            refused += 1
            continue
        with WorldFile.open(tmp_path / f"copy{page}", write=False) as copy:
            assert verify(copy).sound and copy.branch(MAIN).frames == 8
    assert refused >= 4, "tables of chunks, cameras, checksums and settings"


def test_a_damaged_picture_is_not_sent_until_it_is_known(tmp_path):
    with _filled(tmp_path / "world") as world:
        path = world.file_path(world.chunk(2), "frames")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"chunk 2 .*is damaged; `cam world verify .*marks the chunk as lost"):
            export_world(world, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        verify(world)  # does what the sentence says
        export_world(world, tmp_path / "out")
    import_world(tmp_path / "out", tmp_path / "copy")
    with WorldFile.open(tmp_path / "copy") as copy:
        assert BranchStore(copy).readable().tolist() == [True, True, False, False, True, True, True, True]


def test_an_export_names_no_folder_of_this_computer(tmp_path, weights):
    folder = tmp_path / "secret-project" / "weights"
    shutil.copytree(weights, folder)
    world = create_world(tmp_path / "world", folder, device="cpu")
    world.reset(np.zeros((1, 48, 64, 3), np.uint8), tiny.walk(1).resized(64, 48))
    export_world(world.bank.store.file, tmp_path / "out")
    world.close()
    assert b"secret-project" not in (tmp_path / "out").read_bytes()
    import_world(tmp_path / "out", tmp_path / "copy")
    with pytest.raises(UserError, match="weights is no folder"):
        open_world(tmp_path / "copy", device="cpu")
    opened = open_world(tmp_path / "copy", weights=folder, device="cpu")
    assert len(opened.bank) == 1
    opened.close()


def test_an_export_beside_compact_tries_again(tmp_path, monkeypatch):
    """Another process removes what no branch reaches while the export packs it."""
    with _filled(tmp_path / "world") as world:
        world.rewind(MAIN, 2)
        read, calls = WorldFile.frames_u8, []

        def interrupted(self, info, size):
            calls.append(info.id)
            if calls == [1]:
                compact(world)
            return read(self, info, size)

        monkeypatch.setattr(WorldFile, "frames_u8", interrupted)
        export_world(world, tmp_path / "out")
    import_world(tmp_path / "out", tmp_path / "copy")
    with WorldFile.open(tmp_path / "copy") as copy:
        assert len(copy.chunks()) == 2 and copy.branch(MAIN).frames == 4


# -- what is on the disk -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("what", ["create", "export", "import"])
def test_success_is_reported_after_it_is_on_the_disk(tmp_path, what):
    """Every file is synchronised before it gets its name, and the folder of that name after."""
    with _filled(tmp_path / "world") as world:
        export_world(world, tmp_path / "archive")
    lines = {
        "create": "WorldFile.create(here / 'made', {'width': 32, 'height': 16}).close()",
        "export": "export_world(WorldFile.open(here / 'world', write=False), here / 'made')",
        "import": "import_world(here / 'archive', here / 'made')",
    }
    program = "from pathlib import Path\nfrom context_as_memory.storage import *\nhere = Path(%r)\n%s\n"
    log = tmp_path / "log"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"]
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [*command, sys.executable, "-c", program % (str(tmp_path), lines[what])],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("this system does not let strace look")
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    named = [row for row, call in enumerate(calls) if "rename" in call and '/made"' in call]
    assert len(named) == 1
    before = [call for call in calls[: named[0]] if "sync(" in call and ".made." in call or "made." in call]
    after = [call for call in calls[named[0] + 1 :] if "fsync(" in call]
    assert any(f"<{tmp_path}>" in call for call in after), calls
    if what == "export":
        assert any(".partial>" in call for call in before)
    else:
        wanted = {"create": ["world.sqlite", "frames", "latents"], "import": ["world.sqlite", ".png", ".safetensors"]}
        for name in wanted[what]:
            assert any(f"{name}>" in call for call in before), (name, calls)


def test_a_world_does_not_go_over_fork(tmp_path):
    with _filled(tmp_path / "world", 1) as world:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            told = b"nothing was said"
            try:
                world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})
            except UserError as error:
                told = str(error).encode()
            finally:
                os.write(writing, told)
                os._exit(0)
        os.close(writing)
        assert b"opened by another process" in os.read(reading, 1000)
        os.close(reading)
        os.waitpid(child, 0)
        world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})
        assert verify(world).sound and verify(world).orphans == []


def test_a_killed_writers_world_on_a_read_only_disk_is_read_and_sent(tmp_path, monkeypatch):
    world = _filled(tmp_path / "world", 3)
    folder = tmp_path / "disk" / "world"
    shutil.copytree(tmp_path / "world", folder)  # with the log, as a kill leaves it
    world.close()
    assert (folder / "world.sqlite-wal").stat().st_size > 0
    (folder / "world.sqlite-shm").unlink()
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(schema.os, "access", lambda path, mode: not str(path).startswith(str(tmp_path / "disk")))
    with WorldFile.open(folder, write=False) as held:
        assert held.branch(MAIN).frames == 6 and verify(held).sound
        export_world(held, tmp_path / "out")
        assert sorted(path.name for path in folder.iterdir()) == before
    import_world(tmp_path / "out", tmp_path / "copy")


def test_files_that_a_damaged_log_has_left_behind_are_told(tmp_path, capsys):
    world = _filled(tmp_path / "world", 3)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "world", copy)
    world.close()
    (copy / "world.sqlite-shm").unlink()
    log = bytearray((copy / "world.sqlite-wal").read_bytes())
    log[len(log) - 6000] ^= 1
    (copy / "world.sqlite-wal").write_bytes(log)
    with WorldFile.open(copy) as held:
        assert held.branch(MAIN).frames < 6
    assert main(["world", "verify", str(copy)]) == 0
    assert "copy the folder first if frames are missing" in " ".join(capsys.readouterr().out.split())
