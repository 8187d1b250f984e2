"""Edits: which views show a changed surface, what an edit leaves in a world and its file, and how it is undone."""

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from context_as_memory.camera import PROFILE, Cameras, horizon_profile, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.data.episode import Episode, write_episode
from context_as_memory.edits import changed_pixels, edit
from context_as_memory.edits.surface import find_surface, shares
from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench import edits as bench
from context_as_memory.formats.pictures import write_image
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.storage import create_world, file_of, open_world, verify
from context_as_memory.storage.content import is_note, row_sha256
from context_as_memory.world import World
from tiny import ROOM_HEIGHT, ROOM_WIDTH, paint_room, save_model

LENS = pinhole(90, ROOM_WIDTH, ROOM_HEIGHT)
PATCH = (slice(14, 34), slice(20, 44))


def views(places: list[tuple[float, float, float]]) -> Cameras:
    """Cameras in the painted room from (x, y, yaw in degrees)."""
    rows = np.array(places, np.float64)
    position = np.concatenate([rows[:, :2], np.zeros((len(rows), 1))], axis=1)
    return look(position, np.radians(rows[:, 2]), LENS, ROOM_WIDTH, ROOM_HEIGHT)


def room(cameras: Cameras, profiles_m: np.ndarray | None = None, **changes: Any) -> World:
    """A world that remembers these views of the painted room."""
    made = tiny.world(width=ROOM_WIDTH, height=ROOM_HEIGHT, **changes)
    made.reset(paint_room(cameras), cameras, profiles_m)
    return made


def repainted(world: World, frame: int) -> np.ndarray:
    picture = world.bank.frames_u8(frame)[0].copy()
    picture[PATCH] = [20, 200, 40]
    return picture


def wall_profile(cameras: Cameras, wall_x: float) -> np.ndarray:
    """Exact depth profiles of cameras before an endless wall across x: inf where they look away from it."""
    u = (np.arange(320) + 0.5) / 320 * 2 - 1
    rays = cameras.forward[:, None] + u[:, None] * cameras.half_width_tan[:, None, None] * cameras.right[:, None]
    with np.errstate(divide="ignore"):
        depth = (wall_x - cameras.position[:, :1]) / rays[..., 0]
    return horizon_profile(np.where(depth > 0, depth, np.inf)[:, None, :].repeat(8, axis=1))


# -- which views -------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    yaw=st.floats(-180, 180),
    away=st.floats(100, 260),
    x=st.floats(-3, 3),
    y=st.floats(-3, 3),
    known_m=st.none() | st.floats(1.0, 8.0),
)
def test_the_frame_and_its_pose_are_withdrawn_and_a_view_that_looks_away_is_not(yaw, away, x, y, known_m):
    cameras = views([(x, y, yaw), (x, y, yaw + away), (x, y, yaw), (x, y, yaw + 180)])
    profiles = np.full((4, PROFILE), np.inf if known_m is None else known_m, np.float32)
    world = room(cameras, profiles)
    done = edit(world, 0, repainted(world, 0))
    assert done.withdrawn == (0, 2) and done.of == 4 and done.entry == 4 and not done.still_seen
    offered = world.bank.offered()
    # The edited view can be chosen; the walker's last frame, repeated to be the most recent one, was there before.
    assert offered is not None and offered.tolist() == [False, True, False, True, True, False]


def test_with_known_depths_a_view_behind_a_wall_keeps_its_place_and_without_them_it_does_not():
    # The wall at x = 2: views 0 and 1 stand before it, view 2 looks the same way from behind it, view 3 towards it.
    cameras = views([(0, 0, 0), (-1, 1, 0), (5, 0, 180), (-2, 0, 0), (0, 0, 150)])
    profiles = wall_profile(cameras, 2.0)
    profiles[2] = 2.6  # sees its own side of the wall, which is 0.4 m thick
    world = room(cameras, profiles)
    assert edit(world, 0, repainted(world, 0)).withdrawn == (0, 1, 3)
    profiles[2] = np.inf
    world = room(cameras, profiles)
    assert edit(world, 0, repainted(world, 0)).withdrawn == (0, 1, 2, 3)


def test_depth_is_told_by_other_views_where_no_profile_knows_it():
    """The wall of the room at x = 13, seen from x = 6 and from around there: 7 m, but for the pattern's repeats."""
    cameras = views([(6, 0, 0), *[(6 - 0.3 * i, 0.37 * (i % 7 - 3), 2 * (i % 5 - 2)) for i in range(1, 15)]])
    changed = np.zeros((ROOM_HEIGHT, ROOM_WIDTH), bool)
    changed[20:30:3, 26:40:3] = True
    found = find_surface(room(cameras).bank, 0, changed, 15.0)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    best = found.depths[np.arange(len(found.rows)), found.weights.argmax(axis=1)]
    assert len(best) == changed.sum() and abs(np.median(best) - 7) < 1, best
    alone = room(cameras[:1])  # nothing to compare with: all depths alike
    assert np.ptp(find_surface(alone.bank, 0, changed, 15.0).weights) == 0


def test_shares_are_those_of_a_slow_obvious_projection():
    cameras = views([(0, 0, 0), (0, 2, 20), (0, 0, 45), (-2, 0, 0), (4, 0, 180), (0, 1, -40)])
    profiles = np.full((6, PROFILE), 4.0, np.float32)
    world = room(cameras, profiles)
    changed = np.zeros((ROOM_HEIGHT, ROOM_WIDTH), bool)
    changed[10:20, 10:30] = True  # 200 pixels: every one counts
    expected = np.zeros(6)
    for row, column in zip(*np.nonzero(changed), strict=True):
        fx, fy, cx, cy = LENS
        point = cameras.c2w[0] @ [4 * (column + 0.5 - cx) / fx, 4 * (row + 0.5 - cy) / fy, 4, 1]
        for number in range(6):
            x, y, z, _ = np.linalg.inv(cameras.c2w[number]) @ point
            if z > 0 and 0 <= fx * x / z + cx < ROOM_WIDTH and 0 <= fy * y / z + cy < ROOM_HEIGHT and z <= 4.18:
                expected[number] += 1 / 200
    surface = find_surface(world.bank, 0, changed, 15.0)
    np.testing.assert_allclose(shares(world.bank, surface, 15.0), expected, atol=1e-9)
    assert 0 < expected[2] < 0.9 and expected[0] == pytest.approx(1)


def test_noise_of_a_lossy_file_is_no_change():
    picture = paint_room(views([(0, 0, 30)]))[0]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=92)
    noisy = np.array(Image.open(file))
    assert (noisy != picture).any() and not changed_pixels(picture, noisy).any()
    noisy[PATCH] = [20, 200, 40]
    found = changed_pixels(picture, noisy)
    assert found[PATCH].all() and found.sum() < 1.4 * found[PATCH].sum()


# -- what an edit leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["coverage", "visible", "frustum", "paper", "recent", "random", "first"])
def test_no_strategy_chooses_a_withdrawn_view(strategy):
    cameras = views([(0, 0, 0)] * 6 + [(0, 0, 30), (0, 0, 180)])
    world = room(cameras, retrieval=RetrievalConfig(max_context=8, strategy=strategy))
    done = edit(world, 0, repainted(world, 0))
    assert {0, 1, 2, 3, 4, 5} <= set(done.withdrawn)
    for _ in range(2):
        chunk = world.step(views([(0, 0, 0)] * 2))
        *chosen, recent = chunk.retrieval.frame_ids.tolist()
        assert set(chosen).isdisjoint(done.withdrawn) and recent == len(world.bank) - 3
        assert done.entry in chosen or strategy in ("recent", "random")


def test_the_walk_goes_on_from_where_it_stands():
    cameras = views([(0, 0, 0), (0, 0, 90)])
    world = room(cameras)
    edit(world, 0, repainted(world, 0))
    np.testing.assert_array_equal(world.bank.cameras.c2w[-1], cameras.c2w[1])
    np.testing.assert_array_equal(world.bank.frames_u8(-1), world.bank.frames_u8(1))
    assert world.steps == 0, "an edit is no generated chunk"
    again = room(cameras)
    done = edit(again, 1, repainted(again, 1))
    assert len(again.bank) == 3 and not done.still_seen, "the last frame itself was edited: nothing to repeat"
    beside = room(views([(0, 0, 0), (1, 1, 10)]))  # one view alone does not tell how deep the surface is
    assert edit(beside, 0, repainted(beside, 0)).still_seen
    np.testing.assert_array_equal(beside.bank.frames_u8(-1), beside.bank.frames_u8(1))


def test_a_second_edit_withdraws_the_first():
    world = room(views([(0, 0, 0), (0, 0, 180)]))
    first = edit(world, 0, repainted(world, 0))
    second = edit(world, first.entry, world.bank.frames_u8(0)[0])
    assert second.withdrawn == (first.entry,) and second.of == 2


def test_bad_edits_are_one_clear_error_and_change_nothing():
    world = room(views([(0, 0, 0), (0, 0, 180)]))
    good = repainted(world, 0)
    for frame, picture, words in (
        (2, good, "frame 2 is not in the memory: its 2 frames"),
        (-1, good, "frame -1 is not"),
        (0, good[:-1], "keep its size"),
        (0, good.astype(np.float32), "is float32"),
        (0, world.bank.frames_u8(0)[0], "unchanged"),
    ):
        with pytest.raises(UserError, match=words):
            edit(world, frame, picture)
    assert len(world.bank) == 2 and world.bank.offered() is None


def test_a_fork_has_the_edit_and_its_twin_has_not():
    world = room(views([(0, 0, 0), (0, 0, 180)]))
    before, path = world.fork(), views([(0, 0, 20)] * 4)
    edit(world, 0, repainted(world, 0))
    after = world.fork()
    assert before.bank.offered() is None and len(before.bank) == 2
    np.testing.assert_array_equal(after.bank.offered(), world.bank.offered())
    np.testing.assert_array_equal(after.walk(path).frames, world.walk(path).frames)
    assert 0 in before.step(path[:2]).retrieval.frame_ids


# -- in a world file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A world file of two recorded views and one generated chunk, and an edited picture of frame 0."""
    world = create_world(tmp_path / "world", save_model(tmp_path / "weights"), device="cpu")
    cameras = views([(0, 0, 0), (0, 0, 170)])
    world.reset(paint_room(cameras), cameras)
    world.walk(views([(0, 0, 180)] * 4))
    write_image(tmp_path / "edited.png", repainted(world, 0))
    world.close()
    return tmp_path / "world"


def walked(folder, branch="main"):
    """Frames that a branch would go on with, and what its memory offers; the file stays as it is."""
    world = open_world(folder, branch, device="cpu", write=False)
    twin = world.fork()
    frames = twin.walk(views([(0, 0, 90), (0, 0, 40), (0, 0, 20), (0, 0, 0)] * 2)).frames
    world.close()
    return frames, world.bank.offered()


def edit_command(folder, *more: str) -> int:
    return main(["world", "edit", str(folder), "--frame", "0", "--image", str(folder.parent / "edited.png"), *more])


def test_an_edit_lasts_in_the_file_rewind_undoes_it_and_a_fork_keeps_both(folder, capsys):
    before, _ = walked(folder)
    assert main(["world", "fork", str(folder), "as-it-was"]) == 0
    capsys.readouterr()
    assert edit_command(folder) == 0
    told = capsys.readouterr().out
    assert "frame 0 is frame 6 now" in told and "1 of 6 frames showed what changed" in told and "0 of them" in told
    assert "--branch main --at 2" in told
    edited, offered = walked(folder)
    assert offered is not None and np.flatnonzero(~offered).tolist() == [0, 7]
    assert (edited != before).any()
    np.testing.assert_array_equal(walked(folder)[0], edited)
    np.testing.assert_array_equal(walked(folder, "as-it-was")[0], before)
    assert main(["world", "rewind", str(folder), "--at", "2"]) == 0
    np.testing.assert_array_equal(walked(folder)[0], before)


def test_what_an_edit_adds_is_no_part_of_an_exported_walk(folder, tmp_path):
    assert edit_command(folder) == 0
    assert main(["world", "info", str(folder)]) == 0
    assert main(["export", str(folder), "--to", "frames", "--out", str(tmp_path / "out")]) == 0
    world = open_world(folder, device="cpu", write=False)
    assert len(world.bank) == 8 and len(list((tmp_path / "out").rglob("*.png"))) == 6
    world.close()


def test_a_world_opened_again_goes_on_as_one_that_stayed_open(folder):
    picture = np.array(Image.open(folder.parent / "edited.png"))
    path = views([(0, 0, 90), (0, 0, 20), (0, 0, 0), (0, 0, 0)])
    world = open_world(folder, device="cpu")
    edit(world, 0, picture)
    stayed = world.fork().walk(path).frames
    world.close()
    again = open_world(folder, device="cpu")
    np.testing.assert_array_equal(again.walk(path).frames, stayed)
    file = file_of(again)
    assert file is not None and verify(file).sound
    again.close()


def test_the_command_says_what_is_wrong(folder, tmp_path, capsys):
    small = tmp_path / "small.png"
    write_image(small, np.zeros((10, 10, 3), np.uint8))
    world = open_world(folder, device="cpu")
    picture = world.bank.frames_u8(0)[0]
    write_image(tmp_path / "same.png", picture)
    assert edit_command(folder) != 0  # the file is open for writing here
    assert "written" in capsys.readouterr().err
    world.close()
    for changes, words in (
        (["--frame", "99"], "frame 99 is not in the memory"),
        (["--image", str(small)], "keep its size"),
        (["--image", str(tmp_path / "same.png")], "unchanged"),
        (["--branch", "nowhere"], "no branch 'nowhere'"),
    ):
        assert edit_command(folder, *changes) != 0
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("withdrawn", [[-1], [8], [1.0], [True], "0", {"0": 1}, [2**70], None])
def test_ids_of_a_foreign_file_are_checked(withdrawn):
    assert is_note({"withdrawn": [0, 7]}, 6, 2)
    assert not is_note({"withdrawn": withdrawn}, 6, 2)


def test_a_foreign_note_that_withdraws_what_is_not_there_counts_as_lost(folder, capsys):
    """Its checksum may be right: a stranger can compute one too."""
    assert edit_command(folder) == 0
    with sqlite3.connect(folder / "world.sqlite") as database:
        names = "parent, first, frames, steps, token, frames_sha256, latents_sha256, note"
        *row, note = database.execute(f"SELECT {names} FROM chunk WHERE id = 3").fetchone()
        hostile = json.dumps(json.loads(note) | {"withdrawn": [10**9]})
        database.execute("UPDATE chunk SET note = ? WHERE id = 3", (hostile,))
        database.execute("UPDATE checksum SET row_sha256 = ? WHERE chunk = 3", (row_sha256(*row, hostile),))
    database.close()
    world = open_world(folder, device="cpu")
    offered = world.bank.offered()
    assert offered is not None and np.flatnonzero(~offered).tolist() == [6, 7]
    world.close()
    assert main(["world", "verify", str(folder)]) == 1
    assert "chunk 3" in capsys.readouterr().out


# -- measured ----------------------------------------------------------------------------------------------------------


def test_scores_of_an_edit_say_what_they_say():
    before = paint_room(views([(0, 0, 30)]))[0]
    after = bench.recoloured(before)
    kept = bench.compared(before, after, after, before)
    assert kept["left"] == 1 and kept["strength"] == pytest.approx(1) and kept["surroundings_db"] == pytest.approx(0)
    gone = bench.compared(before, after, before, before)
    assert gone["left"] == 0 and gone["strength"] == 0
    noise = np.random.default_rng(0).integers(-8, 9, before.shape)
    noisy = (after + noise).clip(0, 255).astype(np.uint8), (before + noise // 2).clip(0, 255).astype(np.uint8)
    blurred = bench.compared(before, after, *noisy)
    assert blurred["left"] > 0.9 and -8 < blurred["surroundings_db"] < -4, "twice the error is 6 dB"


@pytest.mark.parametrize("kind", list(bench.KINDS))
def test_edits_made_by_code_change_a_part_of_the_picture(kind):
    before = paint_room(views([(0, 0, 30)]))[0]
    changed = changed_pixels(before, bench.KINDS[kind](before))
    assert 0.01 < changed.mean() < 0.4


def test_places_are_spread_and_too_short_walks_refused(tmp_path):
    episodes = [_episode(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(UserError, match="has 24 frames; edits need 151"):
        bench.places(episodes)


def _episode(folder: Path) -> Episode:
    cameras = views([(0.2 * i - 2, 0, 15 * i) for i in range(24)])
    return write_episode(folder, paint_room(cameras), cameras, {"split": "test", "fps": 15}, raw=True)


def test_the_bench_measures_edits_and_goes_on_where_it_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "EARLIEST", 8)
    monkeypatch.setattr(bench, "AHEAD", 4)
    monkeypatch.setattr(bench, "PLACES", 2)
    _episode(tmp_path / "data" / "room")
    weights = save_model(tmp_path / "weights")
    command = ["bench", "edits", "--inputs", str(tmp_path / "data"), "--weights", str(weights), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "out"), "--limit", "1"]) == 0
    assert "left_holds" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["places"] == 1 and len(report["clips"]) == len(bench.ROUTES)
    assert 0 <= report["summary"]["walk.painted.left"] <= 1 and 0 < report["summary"]["walk.painted.withdrawn"] <= 1
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == len(bench.ROUTES)
    assert "nothing withdrawn" in (tmp_path / "out" / "report.md").read_text()
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").iterdir()}
    assert main([*command, "--out", str(tmp_path / "out"), "--limit", "1"]) == 0
    assert clips == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").iterdir()}
