"""World files: what is committed stays, branches share it, and damage is found, named and survived."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from context_as_memory.camera import PROFILE
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.memory import MemoryBank
from context_as_memory.retrieval import Candidates, RetrievalConfig, retrieve
from context_as_memory.storage import (
    MAIN,
    BranchStore,
    WorldFile,
    care,
    compact,
    create_world,
    export_world,
    file_of,
    import_world,
    open_world,
    schema,
    verify,
)
from context_as_memory.storage import file as worldfile
from context_as_memory.world import World
from tiny import save_model

SETTINGS = {"width": tiny.WIDTH, "height": tiny.HEIGHT, "seed": 0}


def _latents(frames: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(4, frames, 2, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _filled(folder: Path, chunks: int = 4) -> WorldFile:
    """A world of 2-frame chunks; chunk i holds pictures and latents of seed i."""
    world = WorldFile.create(folder, SETTINGS)
    cameras = tiny.walk(2 * chunks)
    for i in range(chunks):
        part = slice(2 * i, 2 * i + 2)
        world.append(MAIN, tiny.pictures(2, i), cameras[part], _latents(2, i), {"step": i} if i else {})
    return world


# -- as the store of a bank --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bank_in_a_world_file_equals_one_in_working_memory(tmp_path, dtype):
    """One test for every store: entries, cameras, pictures and latents come back exactly, also after reopening."""
    cameras = tiny.walk(9)
    file = WorldFile.create(tmp_path / "world", SETTINGS)
    banks = [MemoryBank(), MemoryBank(BranchStore(file))]
    profiles = np.linspace(0.5, 9, 9 * PROFILE).reshape(9, PROFILE).round(3).astype(np.float32)
    profiles[:4], profiles[5, 3] = np.inf, np.inf
    for start, end in ((0, 1), (1, 4), (4, 9)):
        part = slice(start, end)
        for bank in banks:
            known = profiles[part] if start == 4 else None
            bank.append(tiny.pictures(9)[part], cameras[part], _latents(9, 0, dtype)[:, part], profiles_m=known)
    file.close()
    file = WorldFile.open(tmp_path / "world", write=False)
    banks.append(MemoryBank(BranchStore(file)))
    rows = np.array([8, 0, 3, 3, 4])
    for bank in banks:
        assert len(bank) == 9
        np.testing.assert_array_equal(bank.cameras.c2w, cameras.c2w)
        np.testing.assert_array_equal(bank.cameras.K, cameras.K)
        np.testing.assert_array_equal(bank.frames_u8(rows), tiny.pictures(9)[rows])
        assert torch.equal(bank.latents(rows), _latents(9, 0, dtype)[:, rows])
        np.testing.assert_array_equal(bank.profiles_m, profiles)
        assert bank.offered() is None
    file.close()


def test_what_does_not_belong_together_is_refused_and_leaves_nothing(tmp_path):
    with WorldFile.create(tmp_path / "world", SETTINGS) as file:
        bank = MemoryBank(BranchStore(file))
        with pytest.raises(UserError, match="one of each"):
            bank.append(tiny.pictures(3), tiny.walk(2), _latents(3))
        assert len(bank) == 0
        assert file.branch(MAIN).head is None
        assert not list((tmp_path / "world" / "frames").iterdir())


# -- worlds that go on -------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> Path:
    from context_as_memory.weights import save_pretrained

    folder = tmp_path / "weights"
    save_pretrained(tiny.model(), folder / "transformer")
    save_pretrained(tiny.codec(), folder / "vae")
    values = {"width": 32, "height": 16, "chunk_latents": 2, "num_steps": 2, "retrieval": {"max_context": 4}}
    values["memory_noise"] = 0.2
    (folder / "model.json").write_text(json.dumps(values))
    return folder


def _walk_on(world: World, cameras, start: int, end: int) -> list[np.ndarray]:
    return [chunk.frames_u8 for chunk in world.rollout(cameras[start:end])]


@pytest.mark.parametrize("engine", ["plain", "torch", "openvino"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_load_continue_and_fork_give_the_frames_of_an_uninterrupted_walk(
    tmp_path, weights, monkeypatch, dtype, engine
):
    """With every engine that is installed; the file says with which."""
    values = json.loads((weights / "model.json").read_text())
    (weights / "model.json").write_text(json.dumps(values | {"engine": engine}))
    monkeypatch.setattr("context_as_memory.compute.fast_dtype", lambda device: dtype)
    cameras = tiny.walk(41)
    whole = World.from_pretrained(weights, device="cpu", seed=3)
    whole.reset(tiny.pictures(1), cameras[:1])
    expected = np.concatenate(_walk_on(whole, cameras, 1, 41))

    world = create_world(tmp_path / "world", weights, device="cpu", seed=3)
    world.reset(tiny.pictures(1), cameras[:1])
    found = _walk_on(world, cameras, 1, 21)
    world.close()
    world = open_world(tmp_path / "world", device="cpu")
    assert len(world.bank) == 21
    held = file_of(world)
    assert held is not None
    held.fork("other")
    found += _walk_on(world, cameras, 21, 41)
    world.close()
    np.testing.assert_array_equal(np.concatenate(found), expected)

    other = open_world(tmp_path / "world", "other", device="cpu")
    np.testing.assert_array_equal(np.concatenate(_walk_on(other, cameras, 21, 41)), expected[20:])
    file = file_of(other)
    assert file is not None
    back = file.history(file.branch_head(MAIN))[5]
    file.rewind("other", back.id)
    other.close()
    again = open_world(tmp_path / "world", "other", device="cpu")
    start = back.first + back.frames
    np.testing.assert_array_equal(np.concatenate(_walk_on(again, cameras, start, 41)), expected[start - 1 :])
    again.close()


@pytest.mark.parametrize("strategy", ["coverage", "frustum"])
def test_a_world_remembers_what_training_would_have_shown(tmp_path, weights, strategy):
    """24 chunks, the last half in a world that was opened again: in each the context is the answer of plain `retrieve`,
    which knows nothing of indexes, of what is kept in working memory, or of how the memory came to be."""
    cameras = tiny.walk(52)
    rule = RetrievalConfig(strategy=strategy, max_context=4)
    world = create_world(tmp_path / "world", weights, device="cpu", retrieval=rule, cached_frames=6)
    world.reset(tiny.pictures(4), cameras[:4])
    for now in range(4, 52, 2):
        if now == 28:
            world.close()
            world = open_world(tmp_path / "world", device="cpu")
        target = cameras[now : now + 2]
        plain = retrieve(Candidates(cameras[:now], recorded=np.arange(now) < 4), target, rule, recent=now - 1)
        found = world.step(target).retrieval
        assert found.frame_ids.tolist() == plain.frame_ids.tolist()
        np.testing.assert_allclose(found.scores, plain.scores, atol=1e-12)
    world.close()


def test_a_world_knows_its_weights_and_does_not_forget(tmp_path, weights):
    world = create_world(tmp_path / "world", weights, device="cpu")
    world.reset(tiny.pictures(1), tiny.walk(1))
    with pytest.raises(UserError, match="rewind or fork"):
        world.reset(tiny.pictures(1), tiny.walk(1))
    chunk = world.step(tiny.walk(3)[1:])
    world.close()
    with WorldFile.open(tmp_path / "world", write=False) as file:
        note = file.chunks()[-1].note
        assert note["step"] == 0
        assert note["context"] == chunk.retrieval.frame_ids.tolist()
        assert note["retrieval"]["strategy"] == "coverage"
    (weights / "model.json").write_text("{}")
    changed = weights / "transformer" / "config.json"
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(UserError, match="other weights"):
        open_world(tmp_path / "world", device="cpu")


# -- the tree ----------------------------------------------------------------------------------------------------------


def test_branches_share_history_and_compact_gives_back_what_nobody_reaches(tmp_path):
    with _filled(tmp_path / "world") as world:
        head = world.branch_head(MAIN)
        second = world.history(head)[1].id
        fork = world.fork("attic", at=second)
        assert (fork.head, fork.frames) == (second, 4)
        world.append("attic", tiny.pictures(2, 9), tiny.walk(2), _latents(2, 9), {"step": 1})
        assert [info.name for info in world.branches()] == ["attic", MAIN]
        assert [info.id for info in world.history(world.branch_head("attic"))][:2] == [1, 2]
        assert world.branch(MAIN).head == head

        world.rewind(MAIN, second)
        assert world.branch(MAIN).frames == 4
        assert len(world.chunks()) == 5, "rewinding removes nothing"
        world.rewind(MAIN, head)
        np.testing.assert_array_equal(BranchStore(world).frames_u8([7])[0], tiny.pictures(2, 3)[1])

        world.rewind(MAIN, second)
        removed, freed = compact(world)
        assert removed == 2
        assert freed > 0
        assert [info.id for info in world.chunks()] == [1, 2, 5]
        assert len(list((tmp_path / "world" / "frames").iterdir())) == 3
        assert verify(world).sound
        world.delete("attic")
        assert compact(world)[0] == 1
        with pytest.raises(UserError, match="only branch"):
            world.delete(MAIN)


def test_clear_errors_of_the_tree(tmp_path):
    with _filled(tmp_path / "world", 2) as world:
        for action, message in (
            (lambda: world.branch("attic"), "no branch 'attic'; it has main"),
            (lambda: world.fork(MAIN), "already"),
            (lambda: world.fork("x\n"), "no name"),
            (lambda: world.rewind(MAIN, 99), "no chunk 99"),
        ):
            with pytest.raises(UserError, match=message):
                action()
    with pytest.raises(UserError, match="not an empty folder"):
        WorldFile.create(tmp_path / "world", SETTINGS)
    with pytest.raises(UserError, match="no world"):
        WorldFile.open(tmp_path / "nothing")
    with WorldFile.open(tmp_path / "world", write=False) as reader, pytest.raises(UserError, match="reading only"):
        reader.fork("attic")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["step", "fork", "rewind"]), st.integers(0, 5)), max_size=12))
def test_any_sequence_of_steps_forks_and_rewinds_reads_like_lists(tmp_path_factory, actions):
    """Reference: a branch is a list of chunk seeds."""
    folder = tmp_path_factory.mktemp("world") / "world"
    lists: dict[str, list[int]] = {MAIN: []}
    ids: dict[str, list[int]] = {MAIN: []}
    with WorldFile.create(folder, SETTINGS) as world:
        for seed, (kind, number) in enumerate(actions):
            name = sorted(lists)[number % len(lists)]
            at = min(number, len(lists[name]))
            if kind == "step":
                info = world.append(name, tiny.pictures(1, seed), tiny.walk(1), _latents(1, seed), {"step": 0})
                lists[name], ids[name] = [*lists[name], seed], [*ids[name], info.id]
            elif kind == "fork" and lists[name]:
                new = f"b{seed}"
                at = max(at, 1)
                world.fork(new, name, ids[name][at - 1])
                lists[new], ids[new] = lists[name][:at], ids[name][:at]
            elif kind == "rewind":
                world.rewind(name, ids[name][at - 1] if at else None)
                lists[name], ids[name] = lists[name][:at], ids[name][:at]
        compact(world)
        for name, seeds in lists.items():
            store = BranchStore(world, name)
            assert store.steps == len(seeds)
            if seeds:
                expected = np.concatenate([tiny.pictures(1, seed) for seed in seeds])
                np.testing.assert_array_equal(store.frames_u8(range(len(seeds))), expected)


# -- one writer, many readers ------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_the_first_is_and_readers_see_what_is_committed(tmp_path):
    with _filled(tmp_path / "world", 2) as world:
        with pytest.raises(UserError, match=rf"written by process {os.getpid()} on .* since"):
            WorldFile.open(tmp_path / "world")
        with WorldFile.open(tmp_path / "world", write=False) as reader:
            assert reader.branch(MAIN).frames == 4
            world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})
            assert reader.branch(MAIN).frames == 6
    with WorldFile.open(tmp_path / "world"):
        pass


def test_a_killed_writer_loses_its_lease_and_no_committed_chunk(tmp_path):
    folder = tmp_path / "world"
    _filled(folder, 2).close()
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "import test_storage as t\n"
        "world = t.WorldFile.open(sys.argv[1])\n"
        "for i in range(10 ** 6):\n"
        "    info = world.append(t.MAIN, t.tiny.pictures(2, i), t.tiny.walk(2), t._latents(2, i), {'step': i})\n"
        "    print(info.id, flush=True)\n"
    )
    here = str(Path(__file__).parent)
    writer = subprocess.Popen([sys.executable, "-c", program, str(folder), here], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    committed = [int(writer.stdout.readline()) for _ in range(5)]
    time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    committed += [int(line) for line in writer.communicate()[0].split()]
    with WorldFile.open(folder) as world:
        assert set(committed) <= {info.id for info in world.history(world.branch_head(MAIN))}
        verdict = verify(world)
        assert verdict.sound
        compact(world)
        assert verify(world).orphans == []


# -- damage ------------------------------------------------------------------------------------------------------------


def _break(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("folder", ["frames", "latents"])
def test_damage_is_found_named_and_left_out_and_the_rest_opens(tmp_path, how, folder):
    with _filled(tmp_path / "world") as world:
        second = world.chunks()[1]
        _break(world.file_path(second, folder), how)
        store = BranchStore(world)
        read = store.frames_u8 if folder == "frames" else store.latents
        with pytest.raises(UserError, match=rf"chunk {second.id} \(frames 2 to 3\).*verify"):
            read([2])
        read([0, 1, 4, 7])
        verdict = verify(world)
        assert set(verdict.problems) == {second.id}
        np.testing.assert_array_equal(BranchStore(world).readable(), [True, True, False, False] + [True] * 4)
        assert MemoryBank(BranchStore(world)).cameras.c2w.shape == (8, 4, 4)


def test_a_damaged_database_is_one_clear_error(tmp_path):
    _filled(tmp_path / "world").close()
    path = tmp_path / "world" / schema.DATABASE
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    with pytest.raises(UserError, match="damaged or no world"):
        WorldFile.open(tmp_path / "world")
    with pytest.raises(UserError, match="damaged or no world"):
        WorldFile.open(tmp_path / "world", write=False)


def test_a_disk_that_is_full_keeps_all_that_was_committed(tmp_path, monkeypatch):
    """The disk fills up while files are written, and while the database is."""
    with _filled(tmp_path / "world", 2) as world:
        before = sorted(path.name for path in (tmp_path / "world").rglob("*"))

        def full(path, data):
            path.write_bytes(data[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(worldfile, "_write_file", full)
            with pytest.raises(UserError, match=r"No space left.*all before it is safe"):
                world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})
        pages = world._database.execute("PRAGMA page_count").fetchone()[0]
        world._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="full"):
            for _ in range(200):
                world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {"text": "x" * 2000})
        world._database.execute("PRAGMA max_page_count = 1000000")
        kept = world.branch(MAIN).frames // 2
        assert len(list((tmp_path / "world" / "frames").iterdir())) == kept
        assert verify(world).sound
        world.append(MAIN, tiny.pictures(2), tiny.walk(2), _latents(2), {})
        assert len(before) <= len(list((tmp_path / "world").rglob("*")))


def test_versions_of_the_past_and_the_future(tmp_path):
    _filled(tmp_path / "world", 2).close()
    path = tmp_path / "world" / schema.DATABASE

    def set_version(number: int) -> None:
        with sqlite3.connect(path) as database:
            database.execute(f"PRAGMA user_version = {number}")
        database.close()

    set_version(schema.VERSION + 1)
    with pytest.raises(UserError, match="install a newer"):
        WorldFile.open(tmp_path / "world")
    set_version(schema.VERSION - 1)
    with pytest.raises(UserError, match=f"version {schema.VERSION - 1}.* make the world anew"):
        WorldFile.open(tmp_path / "world")


# -- one file for a friend ---------------------------------------------------------------------------------------------


def test_export_and_import_carry_the_whole_tree(tmp_path):
    with _filled(tmp_path / "world") as world:
        world.fork("attic", at=2)
        export_world(world, tmp_path / "attic.camworld")
        with pytest.raises(UserError, match="already exists"):
            export_world(world, tmp_path / "attic.camworld")
    import_world(tmp_path / "attic.camworld", tmp_path / "copy")
    with WorldFile.open(tmp_path / "copy") as copy:
        assert verify(copy).sound
        assert [info.name for info in copy.branches()] == ["attic", MAIN]
        np.testing.assert_array_equal(BranchStore(copy).frames_u8([6]), tiny.pictures(2, 3)[:1])
        copy.append("attic", tiny.pictures(2), tiny.walk(2), _latents(2), {})
    with pytest.raises(UserError, match="already exists"):
        import_world(tmp_path / "attic.camworld", tmp_path / "copy")


def _archive(path: Path, members: list[tuple[tarfile.TarInfo, Path | None]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, source in members:
            if source is None:
                archive.addfile(member)
            else:
                member.size = source.stat().st_size
                with source.open("rb") as data:
                    archive.addfile(member, data)
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "frames/../../evil", "frames/evil.png", "world.sqlite-wal", "latents"]
)
def test_an_archive_from_a_stranger_cannot_write_elsewhere(tmp_path, name):
    source = tmp_path / "data"
    source.write_bytes(b"evil")
    archive = _archive(tmp_path / "evil.camworld", [(tarfile.TarInfo(name), source)])
    with pytest.raises(UserError, match="no part of a world"):
        import_world(archive, tmp_path / "in" / "world")
    assert list((tmp_path / "in").iterdir()) == []


def test_links_triggers_foreign_paths_and_no_archives_are_refused(tmp_path):
    link = tarfile.TarInfo(schema.DATABASE)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UserError, match="no part of a world"):
        import_world(_archive(tmp_path / "link", [(link, None)]), tmp_path / "one")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="no exported world"):
        import_world(tmp_path / "text", tmp_path / "two")
    with pytest.raises(UserError, match="missing"):
        import_world(_archive(tmp_path / "empty", []), tmp_path / "three")

    _filled(tmp_path / "world", 2).close()
    path = tmp_path / "world" / schema.DATABASE
    with sqlite3.connect(path) as database:
        database.execute("CREATE TRIGGER surprise AFTER INSERT ON chunk BEGIN DELETE FROM branch; END")
    database.close()
    with pytest.raises(UserError, match="other tables"):
        WorldFile.open(tmp_path / "world")
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER surprise")
        database.execute("UPDATE chunk SET token = '../../../etc/passwd' WHERE id = 1")
    database.close()
    with WorldFile.open(tmp_path / "world") as world, pytest.raises(UserError, match="outside the world"):
        BranchStore(world)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["world"]
    assert care.MAX_MEMBER_BYTES > 0


# -- the command line --------------------------------------------------------------------------------------------------


def test_a_world_is_made_continued_forked_and_sent_from_the_command_line(tmp_path, capsys):
    weights = save_model(tmp_path / "weights")
    home, out = tmp_path / "worlds" / "attic", tmp_path / "out"

    def cam(*words: object) -> str:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    walk = ("generate", "--world", home, "--out", out, "--threads", 1)
    cam(*walk, "--start", "vault", "--actions", "j-6", "--weights", weights, "--no-compare", "--seed", 5)
    cam(*walk, "--actions", "l-6")
    report = json.loads((out / "report.json").read_text())
    assert report["frames_generated"] == 6
    assert "main (13 frames)" in cam("world", "list", tmp_path / "worlds")
    chunks = cam("world", "info", home, "--chunks")
    assert "chunk 3 after 2: frames 5 to 6" in chunks
    cam("world", "fork", home, "other", "--at", 3)
    cam(*walk, "--branch", "other", "--actions", "w-4")
    assert "branch other: 11 frames" in cam("world", "info", home)
    cam("world", "rewind", home, "--branch", "other", "--at", 2)
    assert "1 chunks removed" in cam("world", "compact", home)
    assert "all 5 chunks are whole" in cam("world", "verify", home)
    cam("world", "export", home, tmp_path / "attic.camworld")
    cam("world", "import", tmp_path / "attic.camworld", tmp_path / "worlds" / "copy")
    cam("world", "delete", tmp_path / "worlds" / "copy", "other")
    assert "copy: main (13 frames)" in cam("world", "list", tmp_path / "worlds")

    with WorldFile.open(home, write=False) as file:
        _break(file.file_path(file.chunks()[1], "latents"), "flipped")
    assert main(["world", "verify", str(home)]) == 1
    assert "lost: chunk 2, frames 1 to 4" in capsys.readouterr().out
    cam(*walk, "--actions", "w-4")  # memory leaves the lost chunk out

    for words, message in (
        (["--world", home, "--image", "x.png", "--actions", "w-4"], "goes on from its last frame"),
        (["--world", home, "--actions", "w-4", "--branch", "none"], "no branch 'none'"),
        (["--world", tmp_path / "weights", "--start", "vault", "--actions", "w-4"], "not an empty folder"),
    ):
        assert main(["generate", "--out", str(out), *(str(word) for word in words)]) == 2
        assert message in capsys.readouterr().err


def test_what_holds_no_world_is_told_by_what_it_is(tmp_path):
    """And each advice can be followed: no world is made where something lies already."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").touch()
    for name, message in (
        ("nowhere", "there is no such folder; make one with `cam generate --world"),
        ("folder", "world.sqlite is missing; name the folder of a world"),
        ("folder/a.txt", "it is a file; name the folder of a world"),
    ):
        with pytest.raises(UserError, match=message):
            WorldFile.open(tmp_path / name)
