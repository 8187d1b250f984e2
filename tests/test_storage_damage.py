"""World files under attack: interrupts, flipped bits in the database, files from strangers, barred folders."""

import errno
import hashlib
import io
import os
import re
import sqlite3
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.camera import PROFILE
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.memory import MemoryBank
from context_as_memory.storage import (
    MAIN,
    BranchStore,
    LeaseTaken,
    NotWritable,
    WorldFile,
    compact,
    export_world,
    import_world,
    schema,
    verify,
)
from context_as_memory.storage.content import cameras_sha256, decode_frames, encode_frames
from context_as_memory.stores import RamStore
from test_storage import SETTINGS, _filled, _latents


def _sql(folder: Path, *statements: str) -> None:
    """Change a world's database behind its back."""
    with sqlite3.connect(folder / schema.DATABASE) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def _append(world: WorldFile, seed: int = 0) -> None:
    world.append(MAIN, tiny.pictures(2, seed), tiny.walk(2), _latents(2, seed), {})


# -- every store of a bank ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["RamStore", "BranchStore"])
def store(request, tmp_path):
    if request.param == "RamStore":
        yield RamStore()
    else:
        with WorldFile.create(tmp_path / "world", SETTINGS) as file:
            yield BranchStore(file)


def test_a_store_keeps_what_it_is_given_and_opens_filled(store):
    cameras, pictures, latents = tiny.walk(5), tiny.pictures(5), _latents(5)
    assert store.cameras() is None
    for part, note in ((slice(0, 2), {}), (slice(2, 5), {"step": 0, "profiles_m": [[2.5] * PROFILE] * 3})):
        store.append(pictures[part], cameras[part], latents[:, part], note)
    np.testing.assert_array_equal(store.frames_u8([4, 0, 4]), pictures[[4, 0, 4]])
    assert torch.equal(store.latents([1, 3]), latents[:, [1, 3]])
    assert [count for count, _ in store.notes()] == [2, 3]
    assert store.notes()[1][1]["step"] == 0
    assert store.readable() is None
    np.testing.assert_array_equal(store.cameras().c2w, cameras.c2w)
    bank = MemoryBank(store)
    assert len(bank) == 5
    np.testing.assert_array_equal(bank.cameras.K, cameras.K)
    np.testing.assert_array_equal(bank.generated, [False, False, True, True, True])
    assert bank.profiles_m[4, 0] == 2.5
    bank.append(pictures[:1], cameras[:1], latents[:, :1])
    assert len(store.cameras()) == 6


def test_a_store_keeps_all_of_an_append_or_nothing(store):
    store.append(tiny.pictures(2), tiny.walk(2), _latents(2), {})

    class Broken(torch.Tensor):
        def detach(self):
            raise MemoryError("no room")

    for latents in (_latents(1).as_subclass(Broken), torch.zeros(())):
        with pytest.raises((MemoryError, IndexError, UserError, RuntimeError)):
            MemoryBank(store).append(tiny.pictures(1), tiny.walk(1), latents)
        assert len(store.cameras()) == 2
        assert len(store.notes()) == 1
        with pytest.raises(IndexError):
            store.frames_u8([2])


def test_a_depth_below_a_millimetre_is_kept_as_one(tmp_path):
    """Rounded it was 0, which no reader takes: the world could not be opened again."""
    profiles = np.full((2, PROFILE), 2.0, np.float32)
    profiles[0, 0], profiles[1, 1] = 0.0004, 1e-30
    with WorldFile.create(tmp_path / "world", SETTINGS) as file:
        MemoryBank(BranchStore(file)).append(tiny.pictures(2), tiny.walk(2), _latents(2), profiles_m=profiles)
        bank = MemoryBank(BranchStore(file))
        assert bank.profiles_m[0, 0] == bank.profiles_m[1, 1] == np.float32(0.001)


# -- interrupts --------------------------------------------------------------------------------------------------------


class _Interrupted:
    """A connection that is interrupted right after a statement was executed."""

    def __init__(self, database: sqlite3.Connection, statement: str) -> None:
        self._database, self._statement = database, statement

    def __getattr__(self, name):
        return getattr(self._database, name)

    def execute(self, sql, *values):
        cursor = self._database.execute(sql, *values)
        if sql.startswith(self._statement):
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize(("statement", "kept"), [("COMMIT", 3), ("BEGIN", 2), ("UPDATE branch", 2)])
def test_ctrl_c_in_an_append_keeps_the_whole_chunk_or_nothing(tmp_path, statement, kept):
    with _filled(tmp_path / "world", 2) as world:
        database = world._database
        world._database = _Interrupted(database, statement)
        with pytest.raises(KeyboardInterrupt):
            _append(world, 9)
        world._database = database
        assert world.branch(MAIN).frames == 2 * kept
        verdict = verify(world)
        assert verdict.sound
        assert verdict.orphans == []
        _append(world)
        assert world.branch(MAIN).frames == 2 * kept + 2


def test_a_branch_that_was_moved_under_an_open_store_takes_no_chunk(tmp_path):
    with _filled(tmp_path / "world") as world:
        bank = MemoryBank(BranchStore(world))
        world.rewind(MAIN, 2)
        with pytest.raises(UserError, match=r"moved meanwhile .*open the world again"):
            bank.append(tiny.pictures(2), tiny.walk(2), _latents(2))
        assert len(bank) == 8
        assert world.branch_head(MAIN) == 2
        MemoryBank(BranchStore(world)).append(tiny.pictures(2), tiny.walk(2), _latents(2))
        assert world.branch(MAIN).frames == 6


# -- damage inside the database ----------------------------------------------------------------------------------------

DAMAGE = {
    "pose": "UPDATE frame SET c2w = x'00' || substr(c2w, 2) WHERE chunk = 2 AND row = 1",
    "lens": "UPDATE frame SET K = substr(K, 1, 8) || x'01' || substr(K, 10) WHERE chunk = 2 AND row = 0",
    "short pose": "UPDATE frame SET c2w = substr(c2w, 1, 100) WHERE chunk = 2 AND row = 1",
    "pose as text": "UPDATE frame SET c2w = 'x' WHERE chunk = 2 AND row = 1",
    "swapped": "UPDATE frame SET row = 1 - row WHERE chunk = 2",
    "missing pose": "DELETE FROM frame WHERE chunk = 2 AND row = 1",
    "note": "UPDATE chunk SET note = replace(note, '1', '3') WHERE id = 2",
    "no JSON": "UPDATE chunk SET note = '{' WHERE id = 2",
    "no object": "UPDATE chunk SET note = '7' WHERE id = 2",
    "no UTF-8": "UPDATE chunk SET note = CAST(x'7bff7d' AS TEXT) WHERE id = 2",
    "steps": "UPDATE chunk SET steps = 7 WHERE id = 2",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_chunk_whose_rows_are_damaged_is_lost_and_the_rest_opens(tmp_path, how):
    _filled(tmp_path / "world").close()
    _sql(tmp_path / "world", DAMAGE[how])
    for write in (False, True):
        with WorldFile.open(tmp_path / "world", write=write) as world:
            expected = [True, True, False, False] + [True] * 4
            np.testing.assert_array_equal(BranchStore(world).readable(), expected)
            bank = MemoryBank(BranchStore(world))
            np.testing.assert_array_equal(bank.offered(), expected)
            np.testing.assert_array_equal(bank.cameras.c2w[expected], tiny.walk(8).c2w[expected])
            assert set(verify(world).problems) == {2}
    with WorldFile.open(tmp_path / "world") as world:
        MemoryBank(BranchStore(world)).append(tiny.pictures(2), tiny.walk(2), _latents(2))


def test_a_flipped_bit_of_a_pose_in_the_file_is_found(tmp_path):
    _filled(tmp_path / "world").close()
    path = tmp_path / "world" / schema.DATABASE
    data, pose = bytearray(path.read_bytes()), tiny.walk(8).c2w[5].astype("<f8").tobytes()
    assert data.count(pose) == 1
    data[data.index(pose)] ^= 1  # the last bit of a fraction: the pose stays a good one
    path.write_bytes(data)
    with WorldFile.open(tmp_path / "world") as world:
        with pytest.raises(UserError, match=r"cameras of chunk 3 .* are damaged"):
            world.cameras(world.chunks())
        np.testing.assert_array_equal(BranchStore(world).readable(), [True] * 4 + [False] * 2 + [True] * 2)


def test_rows_of_other_chunks_that_a_damaged_index_leads_to_are_passed_over(tmp_path, monkeypatch):
    with WorldFile.create(tmp_path / "world", SETTINGS) as world:
        for seed in range(2):
            _append(world, seed)
        first, second = world.chunks()
        c2w, K = world.cameras([first])
        rows = world._query("SELECT chunk, c2w, K FROM frame ORDER BY chunk, row")
        assert {row[0] for row in rows} == {first.id, second.id}
        monkeypatch.setattr(WorldFile, "_query", lambda file, sql, values=(): rows)
        found = world.whole_cameras([first])
        assert list(found) == [first.id] and (found[first.id][0] == c2w).all() and (found[first.id][1] == K).all()


def test_poses_that_are_none_are_lost_also_with_a_checksum_that_fits(tmp_path):
    with _filled(tmp_path / "world") as world:
        rows = [(bytes(128), K) for _, K in world._query("SELECT c2w, K FROM frame WHERE chunk = 1 ORDER BY row")]
    _sql(tmp_path / "world", "UPDATE frame SET c2w = zeroblob(128) WHERE chunk = 1")
    _sql(tmp_path / "world", f"UPDATE checksum SET cameras_sha256 = '{cameras_sha256(rows)}' WHERE chunk = 1")
    with WorldFile.open(tmp_path / "world") as world:
        np.testing.assert_array_equal(BranchStore(world).readable(), [False] * 2 + [True] * 6)
        np.testing.assert_array_equal(BranchStore(world).cameras().c2w[:3], tiny.walk(8).c2w[[2, 2, 2]])


def test_a_history_that_does_not_hang_together_is_one_clear_error(tmp_path):
    with _filled(tmp_path / "world") as world:
        world.fork("attic", at=2)
    for damage in ("first = 5", "frames = 3", "parent = 1"):
        _sql(tmp_path / "world", f"UPDATE chunk SET {damage} WHERE id = 3")
        with WorldFile.open(tmp_path / "world") as world:
            with pytest.raises(UserError, match=r"chunk 4 .* damaged after chunk [123]; .*--at [123]`"):
                BranchStore(world)
            with pytest.raises(UserError, match="damaged after"):
                compact(world)  # would remove what is only cut off
            assert any("damaged after" in complaint for complaint in verify(world).database)
            assert len(BranchStore(world, "attic").chunks) == 2
        _sql(tmp_path / "world", "UPDATE chunk SET first = 4, frames = 2, parent = 2 WHERE id = 3")
    _sql(tmp_path / "world", "UPDATE chunk SET frames = 3 WHERE id = 4")
    with WorldFile.open(tmp_path / "world") as world, pytest.raises(UserError, match=r"rewind to chunk 3"):
        _append(world)  # what comes next would get wrong numbers


def test_damaged_pages_are_one_clear_error_and_hide_no_other_world(tmp_path, capsys):
    for name in ("a", "b", "c"):
        _filled(tmp_path / "worlds" / name, 1).close()
    path = tmp_path / "worlds" / "b" / schema.DATABASE
    with sqlite3.connect(path) as database:
        pages = dict(database.execute("SELECT name, rootpage FROM sqlite_master WHERE name IN ('setting', 'branch')"))
        page = database.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    data = bytearray(path.read_bytes())
    for number in pages.values():
        data[(number - 1) * page : number * page] = b"\xff" * page
    path.write_bytes(data)
    with WorldFile.open(tmp_path / "worlds" / "b", write=False) as world:
        for read in (lambda: world.settings, world.branches, lambda: world.branch(MAIN), lambda: verify(world)):
            with pytest.raises(UserError, match=r"is damaged or no world \(.*\); restore it"):
                read()
    assert main(["world", "list", str(tmp_path / "worlds")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert ["main (2 frames)" in line for line in told] == [True, False, True]
    _sql(tmp_path / "worlds" / "a", "UPDATE setting SET value = '{' WHERE key = 'width'")
    with WorldFile.open(tmp_path / "worlds" / "a") as world, pytest.raises(UserError, match="settings .* damaged"):
        BranchStore(world)


def test_missing_files_are_named_and_keep_a_world_from_being_sent_until_they_are_known(tmp_path, capsys):
    with _filled(tmp_path / "world") as world:
        world.file_path(world.chunks()[1], "latents").unlink()
        with pytest.raises(UserError, match="chunk 2 is missing a file"):
            export_world(world, tmp_path / "out.camworld")
        assert not (tmp_path / "out.camworld").exists()
        assert set(verify(world).problems) == {2}
        export_world(world, tmp_path / "out.camworld")
    for path in (tmp_path / "world" / "frames").iterdir():
        path.unlink()
    (tmp_path / "world" / "frames").rmdir()
    assert main(["world", "verify", str(tmp_path / "world")]) == 1
    assert len(re.findall("^lost: chunk", capsys.readouterr().out, re.MULTILINE)) == 4


# -- chunks of any size ------------------------------------------------------------------------------------------------


def test_what_can_be_appended_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # larger pictures than twice this are bombs to Pillow
    with _filled(tmp_path / "world", 1) as world:
        np.testing.assert_array_equal(BranchStore(world).frames_u8([0, 1]), tiny.pictures(2))
    large = np.zeros((16, 2000, 2048, 3), np.uint8)  # 65 megapixels
    assert not decode_frames(encode_frames(large), 16, 2048, 2000, "pictures").any()
    with pytest.raises(UserError, match="expected"):
        decode_frames(encode_frames(large[:2]), 1, 2048, 2000, "pictures")


# -- folders and files from strangers ----------------------------------------------------------------------------------


def test_links_in_a_world_lead_nowhere(tmp_path):
    folder, target = tmp_path / "world", tmp_path / "precious"
    _filled(folder).close()
    target.write_text("precious")
    (folder / "writer.lock").unlink()
    (folder / "writer.lock").symlink_to(target)
    with pytest.raises(UserError, match="is a link"):
        WorldFile.open(folder)
    assert target.read_text() == "precious"
    (folder / "writer.lock").unlink()
    os.mkfifo(folder / "writer.lock")
    with pytest.raises(UserError, match="no plain file"):
        WorldFile.open(folder)
    (folder / "writer.lock").unlink()

    elsewhere = tmp_path / "elsewhere"
    for part in ("frames", "latents", schema.DATABASE):
        (folder / part).rename(elsewhere)
        (folder / part).symlink_to(elsewhere)
        for write in (True, False):
            with pytest.raises(UserError, match="is a link"):
                WorldFile.open(folder, write=write)
        (folder / part).unlink()
        elsewhere.rename(folder / part)
    with WorldFile.open(folder) as world:
        path = world.file_path(world.chunks()[0], "frames")
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert set(verify(world).problems) == {1}
        (folder / "latents").rename(tmp_path / "latents")
        (folder / "latents").symlink_to(tmp_path / "latents")
        (tmp_path / "latents" / "letter.txt").write_text("dear")
        with pytest.raises(UserError, match="is a link"):
            compact(world)
        assert (tmp_path / "latents" / "letter.txt").exists()


def test_a_history_in_a_circle_is_refused(tmp_path):
    with _filled(tmp_path / "world") as world:
        world._database.execute("UPDATE chunk SET parent = 4 WHERE id = 1")
        with pytest.raises(UserError, match="damaged"):
            world.history(4)
        export = tmp_path / "circle.camworld"
        with pytest.raises(UserError, match="before its parent"):
            export_world(world, export)
    with pytest.raises(UserError, match="before its parent"):
        WorldFile.open(tmp_path / "world")
    with tarfile.open(export, "w") as archive:
        archive.add(tmp_path / "world" / schema.DATABASE, schema.DATABASE)
    with pytest.raises(UserError, match="before its parent"):
        import_world(export, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_only_the_statistics_of_the_planner_are_no_foreign_tables(tmp_path):
    _filled(tmp_path / "world").close()
    _sql(tmp_path / "world", "ANALYZE")
    WorldFile.open(tmp_path / "world").close()
    _sql(
        tmp_path / "world",
        "CREATE TRIGGER surprise AFTER INSERT ON chunk BEGIN DELETE FROM branch; END",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET name = 'sqlite_stat9', sql = replace(sql, 'surprise', 'sqlite_stat9') "
        "WHERE name = 'surprise'",
    )
    with pytest.raises(UserError, match="other tables|damaged"):
        WorldFile.open(tmp_path / "world")


def test_an_archive_holds_no_more_than_it_is_long(tmp_path):
    sparse = tmp_path / "sparse"
    member = tarfile.TarInfo(schema.DATABASE)
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**9)}
    data = b"1\n0\n0\n".ljust(512, b"\0")
    member.size = len(data)
    with tarfile.open(sparse, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match="no part of a world|too large"):
        import_world(sparse, tmp_path / "one")
    short = tmp_path / "short"
    member = tarfile.TarInfo(schema.DATABASE)
    member.size = 10**9
    short.write_bytes(member.tobuf() + b"\0" * 1024)
    with pytest.raises(UserError, match="too large"):
        import_world(short, tmp_path / "two")
    assert not list(tmp_path.glob("*/*"))


# -- worlds in use and out of reach ------------------------------------------------------------------------------------


def test_a_busy_database_is_not_called_damaged(tmp_path):
    with _filled(tmp_path / "world", 2) as world:
        world._database.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(tmp_path / "world" / schema.DATABASE)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="in use by another program"):
            _append(world)
        other.rollback()
        other.close()
        assert verify(world).orphans == []
        _append(world)
    (tmp_path / "world" / (schema.DATABASE + "-wal")).mkdir()  # stands for what must not be opened
    with pytest.raises(UserError, match="cannot be reached|disk") as raised:
        WorldFile.open(tmp_path / "world")
    assert "damaged" not in str(raised.value)


def test_a_world_in_a_folder_that_is_read_only_can_be_read_and_verified(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "world"
    _filled(folder, 2).close()
    before = sorted(path.name for path in folder.iterdir())
    opened = os.open

    def barred(path, flags, *rest):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *rest)

    monkeypatch.setattr(schema.os, "access", lambda path, mode: False)
    with WorldFile.open(folder, write=False) as world:
        assert verify(world).sound
        assert sorted(path.name for path in folder.iterdir()) == before, "a reader makes no file"
    monkeypatch.setattr("context_as_memory.storage.lease.os.open", barred)
    with pytest.raises(NotWritable, match="Read-only file system"):
        WorldFile.open(folder)
    assert main(["world", "verify", str(folder)]) == 0
    assert "only read, nothing is marked" in capsys.readouterr().out


def test_a_world_that_is_being_written_can_be_verified(tmp_path, capsys):
    with _filled(tmp_path / "world", 2) as world:
        assert main(["world", "verify", str(tmp_path / "world")]) == 0
        assert "all 2 chunks are whole" in capsys.readouterr().out
        world.file_path(world.chunks()[0], "frames").unlink()
        assert main(["world", "verify", str(tmp_path / "world")]) == 1
        assert not world.chunks()[0].lost


def test_only_a_lock_that_is_held_is_another_process(tmp_path, monkeypatch):
    _filled(tmp_path / "world", 1).close()

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("context_as_memory.storage.lease.fcntl.flock", flock)
    with pytest.raises(NotWritable, match="No locks available") as raised:
        WorldFile.open(tmp_path / "world")
    assert not isinstance(raised.value, LeaseTaken)


# -- the document ------------------------------------------------------------------------------------------------------


def test_the_document_says_what_is_written(tmp_path):
    """Its tables are those of the package, and its rule for checksums, followed to the letter, gives them."""
    text = (Path(__file__).parents[1] / "docs" / "world-format.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", text, flags=re.DOTALL)
    blank = sqlite3.connect(":memory:")
    blank.executescript(block)
    assert schema._shape(blank) == schema._expected_shape()
    blank.close()
    assert f"# The world file, version {schema.VERSION}" in text

    _filled(tmp_path / "world").close()
    database = sqlite3.connect(tmp_path / "world" / schema.DATABASE)
    columns = "parent, first, frames, steps, token, frames_sha256, latents_sha256, note"
    for number in (1, 4):
        (row,) = database.execute(f"SELECT {columns} FROM chunk WHERE id = ?", (number,))
        lines = "\n".join("" if value is None else str(value) for value in row)
        blobs = database.execute("SELECT c2w, K FROM frame WHERE chunk = ? ORDER BY row", (number,)).fetchall()
        expected = [hashlib.sha256(data).hexdigest() for data in (lines.encode(), b"".join(c + K for c, K in blobs))]
        (found,) = database.execute("SELECT row_sha256, cameras_sha256 FROM checksum WHERE chunk = ?", (number,))
        assert list(found) == expected
    database.close()


# -- branches side by side ---------------------------------------------------------------------------------------------


def test_branches_are_compared(tmp_path, capsys):
    with _filled(tmp_path / "world") as world:
        world.fork("attic", at=2)
        world.append("attic", tiny.pictures(1), tiny.walk(1), _latents(1), {"step": 1})
        world.fork("bare")
        world.rewind("bare", None)
        found = world.compare(MAIN, "attic")
        assert (found.common, found.common_frames, found.frames_since) == (2, 4, (4, 1))
        assert world.compare("attic", "attic").frames_since == (0, 0)
        found = world.compare("bare", MAIN)
        assert (found.common, found.common_frames, found.frames_since) == (None, 0, (0, 8))
        with pytest.raises(UserError, match="no branch 'cellar'"):
            world.compare(MAIN, "cellar")
    assert main(["world", "compare", str(tmp_path / "world"), "main", "attic"]) == 0
    assert "share chunk 2, 4 frames; since then main has 4, attic has 1" in capsys.readouterr().out
