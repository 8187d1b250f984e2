"""Worlds, paths, pictures and episodes: a real engine renders a few dozen frames of a real map."""

import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_as_memory import camera
from context_as_memory.data import doom_map, episode, render, trajectories, wad
from context_as_memory.errors import UserError

MAP = "f2_MAP31"  # small: quick to plan in
NUM_FRAMES = 40

needs_engine = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs the vizdoom package")


@pytest.fixture(scope="module")
def world() -> doom_map.DoomMap:
    return render.load_map(MAP)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """One rendered episode, stored raw."""
    root = tmp_path_factory.mktemp("dataset")
    summary = render.render_dataset(
        root, maps=[MAP], frames_per_video=NUM_FRAMES, videos_per_map=1, seed=3, workers=1, raw=True, progress=False
    )
    assert summary.written == [f"{MAP}_0"] and summary.existing == []
    return root


# --- WAD archives -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("ABCXYZ019_", min_size=1, max_size=8), st.binary(max_size=40)), max_size=6))
def test_wad_round_trip(tmp_path_factory, lumps):
    path = tmp_path_factory.mktemp("wad") / "some.wad"
    wad.write_wad(path, lumps)
    assert wad.read_wad(path) == lumps


@pytest.mark.parametrize("damage", [lambda d: b"JUNK" + d[4:], lambda d: d[:-10], lambda d: d[:7], lambda d: b""])
def test_damaged_wad_is_refused(tmp_path, damage):
    path = tmp_path / "some.wad"
    wad.write_wad(path, [("ONE", b"12345678"), ("TWO", b"abc")])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"some\.wad"):
        wad.read_wad(path)


def test_lump_beyond_the_end_is_refused(tmp_path):
    path = tmp_path / "some.wad"
    wad.write_wad(path, [("ONE", b"12345678")])
    data = bytearray(path.read_bytes())
    data[12 + 8 + 4 : 12 + 8 + 8] = (999).to_bytes(4, "little")  # the size in the directory entry
    path.write_bytes(data)
    with pytest.raises(UserError, match="ONE"):
        wad.read_wad(path)


@needs_engine
def test_another_freedoom_release_is_another_world(tmp_path):
    assert wad.wad_sha256(render.wad_path(MAP)) == wad.FREEDOOM_SHA256["freedoom2.wad"]
    other = tmp_path / "freedoom2.wad"
    wad.write_wad(other, [("ONE", b"")])
    with pytest.raises(UserError, match="another world"):
        wad.wad_sha256(other)
    with pytest.raises(UserError, match="another world"):
        render.render_dataset(tmp_path / "out", maps=[MAP], wad_folder=tmp_path, progress=False)
    assert not (tmp_path / "out").exists()
    assert len(wad.wad_sha256(other, allow_other_wads=True)) == 64


# --- Maps -------------------------------------------------------------------------------------------


@needs_engine
def test_map_round_trip_and_cleaning():
    lumps = wad.find_maps(wad.read_wad(render.wad_path(MAP)))["MAP31"]
    original = doom_map.DoomMap.from_lumps("MAP31", lumps)
    assert original.lumps() == [("MAP31", b""), *((name, lumps[name]) for name in wad.MAP_LUMPS)]

    static = original.static()
    changed = {name for name, data in static.lumps()[1:] if data != lumps[name]}
    assert changed <= {"THINGS", "LINEDEFS", "SECTORS"}
    assert not static.sectors["special"].any() and not static.linedefs["special"].any()
    assert set(static.things["type"]) <= {1, *doom_map.DECORATION_RADIUS} and 1 in static.things["type"]
    assert static.sectors["light"].min() >= 100
    assert (original.linedefs["special"] != 0).any()  # static() works on a copy


@needs_engine
def test_doors_stand_open():
    lumps = wad.find_maps(wad.read_wad(render.wad_path("f2_MAP01")))["MAP01"]
    original = doom_map.DoomMap.from_lumps("MAP01", lumps)
    static = original.static()
    was_closed = original.sectors["ceiling"] - original.sectors["floor"] <= 8
    opened = original.sectors["ceiling"] != static.sectors["ceiling"]
    assert opened.any() and not (opened & ~was_closed).any()
    assert ((static.sectors["ceiling"] - static.sectors["floor"])[opened] >= doom_map.BODY_HEIGHT).all()


@needs_engine
def test_sector_at_agrees_with_counting_crossings(world):
    rng = np.random.default_rng(0)
    cells = np.argwhere(world.grid.free)
    points = world.grid.centres(cells[rng.integers(len(cells), size=40)]) + rng.uniform(-3, 3, (40, 2))
    found = world.sector_at(points.reshape(8, 5, 2)).ravel()
    for point, sector in zip(points, found, strict=True):
        # A point lies in a sector when a ray from it crosses the sector's outline an odd number of times.
        outline = world.line_ends[(world.line_sectors == sector).sum(axis=1) == 1] - point
        (x1, y1), (x2, y2) = outline[:, 0].T, outline[:, 1].T
        straddles = (y1 > 0) != (y2 > 0)
        crossing_x = x1[straddles] - y1[straddles] * (x2 - x1)[straddles] / (y2 - y1)[straddles]
        assert (crossing_x > 0).sum() % 2 == 1


@needs_engine
def test_ray_depth_agrees_with_shapely(world):
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(1)
    cells = np.argwhere(world.grid.free)
    for origin in world.grid.centres(cells[rng.integers(len(cells), size=4)]):
        eye_z = float(world.sectors["floor"][world.sector_at(origin)]) + doom_map.EYE_HEIGHT
        walls = shapely.MultiLineString(list(world.wall_segments(eye_z)))
        angles = rng.uniform(-np.pi, np.pi, (2, 5))
        depths = world.ray_depth(origin, angles)
        assert depths.shape == angles.shape
        for angle, depth in zip(angles.ravel(), depths.ravel(), strict=True):
            ray = shapely.LineString([origin, origin + 1e5 * np.array([np.cos(angle), np.sin(angle)])])
            assert depth == pytest.approx(shapely.Point(origin).distance(ray.intersection(walls)), rel=1e-6)


def _exact_clearance(points: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Distance [N] of points [N, 2] to the nearest of the segments [S, 2, 2]."""
    start, edge = segments[:, 0], segments[:, 1] - segments[:, 0]
    along = ((points[:, None] - start) * edge).sum(-1) / (edge**2).sum(-1)
    nearest = start + np.clip(along, 0, 1)[..., None] * edge
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@needs_engine
def test_clearance_is_exact_to_a_cell(world):
    rng = np.random.default_rng(2)
    cells = np.argwhere(world.grid.free)
    points = world.grid.centres(cells[rng.integers(len(cells), size=200)]) + rng.uniform(-4, 4, (200, 2))
    walls = _exact_clearance(points, world.wall_segments())
    for thing in world.things:
        if radius := doom_map.DECORATION_RADIUS.get(int(thing["type"]), 0):
            walls = np.minimum(walls, np.linalg.norm(points - [thing["x"], thing["y"]], axis=1) - radius)
    assert np.abs(world.grid.clearance_at(points) - walls).max() < 1.5 * doom_map.CELL


# --- Paths ------------------------------------------------------------------------------------------


@needs_engine
@pytest.mark.parametrize("seed", [0, 1])
def test_path_keeps_clear_of_walls_and_within_speed(world, seed):
    path = trajectories.plan_path(world, 600, seed)
    xy, z = path.position_m[:, :2] * doom_map.UNITS_PER_M, path.position_m[:, 2] * doom_map.UNITS_PER_M
    assert _exact_clearance(xy, world.wall_segments()).min() > 10
    sector = world.sector_at(xy)
    assert (z > world.sectors["floor"][sector] + 16).all() and (z < world.sectors["ceiling"][sector]).all()
    assert np.linalg.norm(np.diff(path.position_m[:, :2], axis=0), axis=1).max() <= 0.2 + 1e-9
    assert np.abs(np.diff(path.yaw_rad)).max() <= np.deg2rad(5) + 1e-9


@needs_engine
def test_paths_are_seeded_mixed_and_come_back(world):
    path, again, other = (trajectories.plan_path(world, 1000, seed) for seed in (5, 5, 6))
    for name in ("position_m", "yaw_rad", "mode"):
        np.testing.assert_array_equal(getattr(path, name), getattr(again, name))
    assert not np.array_equal(path.position_m, other.position_m)
    share = np.bincount(np.concatenate([path.mode, other.mode]), minlength=4) / 2000
    assert 0.4 < share[0] < 0.8 and (share[1:] > 0.01).all()

    turning = path.mode[1:] == trajectories.MODES.index("turn")
    assert not np.diff(path.position_m, axis=0)[turning].any()
    # Returns go through the very same poses again.
    returning = np.flatnonzero(other.mode == trajectories.MODES.index("return"))
    first = returning[0]
    np.testing.assert_array_equal(other.position_m[first], other.position_m[first - 2])
    assert other.yaw_rad[first] == other.yaw_rad[first - 2]

    old = np.arange(1000)[:, None] - np.arange(1000) > 200
    near = np.linalg.norm(path.position_m[:, None] - path.position_m, axis=-1) < 1.5
    assert (near & old).any(axis=1).mean() > 0.2


@needs_engine
def test_a_path_needs_frames(world):
    with pytest.raises(UserError, match="at least 1"):
        trajectories.plan_path(world, 0, 0)
    assert trajectories.plan_path(world, 1, 0).position_m.shape == (1, 3)


# --- Pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 160])
def test_reduction_is_the_exact_area_average(width):
    buffer = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    full_height, columns = width * 5 // 8, 640 // width
    left = buffer[:, : 6 * columns].astype(np.int64)  # six picture columns are enough
    fine = np.repeat(left, full_height, axis=0)  # every picture row is now 480 fine rows
    mean = fine.reshape(full_height, 480, 6, columns, 3).mean(axis=(1, 3))
    margin = (full_height - width * 3 // 5) // 2
    expected = np.floor(255 * (mean[margin : full_height - margin] / 255) ** render.GAMMA + 0.5)
    np.testing.assert_array_equal(render._Reducer(width)(buffer)[:, :6], expected)


@needs_engine
def test_rendered_episode_revisits_exactly(dataset):
    assert episode.check_dataset(dataset) == {}
    (recorded,) = episode.list_episodes(dataset, "test")
    frames, cameras = recorded.frames(), recorded.cameras()
    assert frames.shape == (NUM_FRAMES, 96, 160, 3) and recorded.meta["seed"] == render.episode_seed(MAP, 0, 3)
    assert 20 < frames.mean() < 220 and frames.std(axis=(1, 2, 3)).min() > 5  # neither dark nor inside a wall
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)).max() > 0.5  # it does move
    np.testing.assert_allclose(cameras.K, np.tile([80.0, 80.0, 80.0, 48.0], (NUM_FRAMES, 1)), atol=1e-9)

    # The same poses in another order, in another process: the same pixels.
    order = np.random.default_rng(0).permutation(NUM_FRAMES)
    np.testing.assert_array_equal(render.render_at(MAP, cameras[order]), frames[order])


@needs_engine
def test_pictures_agree_with_the_stated_intrinsics(world):
    """Turning on the spot moves pixels by K R K^-1; the stated focal length explains the pictures best."""
    standing = trajectories.plan_path(world, 1, 8).position_m[0]
    angle = np.deg2rad(8)
    pictures = render.render_at(
        MAP, camera.look(standing, np.array([0.0, angle]), camera.pinhole(90.0, 160, 96), 160, 96)
    ).astype(float)

    def mismatch(focal: float) -> float:
        column, row = np.meshgrid(np.arange(60, 120) + 0.5, np.arange(24, 72) + 0.5)
        x, y = (column - 80) / focal, (row - 48) / focal
        # A pixel of the second picture, seen from the first camera (the second is turned to the left).
        depth = np.cos(angle) + x * np.sin(angle)
        first_x, first_y = (x * np.cos(angle) - np.sin(angle)) / depth, y / depth
        seen = pictures[0, (48 + focal * first_y).astype(int), (80 + focal * first_x).astype(int)]
        return float(np.abs(seen - pictures[1, 24:72, 60:120]).mean())

    assert mismatch(80.0) < 0.8 * min(mismatch(68.0), mismatch(92.0))


@needs_engine
def test_cameras_the_engine_cannot_paint_are_refused():
    cameras = camera.look(np.zeros(3), 0.3, camera.pinhole(90.0, 160, 96), 160, 96)
    with pytest.raises(UserError, match="field of view"):
        render.render_at(MAP, camera.Cameras(cameras.c2w, camera.pinhole(60.0, 160, 96), 160, 96))
    pitch = np.eye(4)
    pitch[1:3, 1:3] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    with pytest.raises(UserError, match="camera 0 is tilted"):
        render.render_at(MAP, camera.Cameras(cameras.c2w @ pitch, cameras.K, 160, 96))


# --- The data set -----------------------------------------------------------------------------------


def test_splits_are_whole_maps_fixed_by_name():
    count = {split: list(render.SPLIT_OF_MAP.values()).count(split) for split in episode.SPLITS}
    assert count == {"train": 56, "val": 6, "test": 6}
    for split_maps in (render.VALIDATION_MAPS, render.TEST_MAPS):
        assert {name[:2] for name in split_maps} == {"f1", "f2"}
    assert not set(render.VALIDATION_MAPS) & set(render.TEST_MAPS)


@needs_engine
def test_rendering_again_gives_the_same_or_refuses_another_recipe(dataset, tmp_path):
    recipe = {"maps": MAP, "videos_per_map": 1, "workers": 1, "progress": False}
    again = render.render_dataset(dataset, frames_per_video=NUM_FRAMES, seed=3, **recipe)
    assert again.existing == [f"{MAP}_0"] and again.written == []
    with pytest.raises(UserError, match="another recipe.*seed"):
        render.render_dataset(dataset, frames_per_video=NUM_FRAMES, seed=4, **recipe)

    render.render_dataset(tmp_path, frames_per_video=NUM_FRAMES, seed=3, **recipe)  # as a video this time
    first, again = episode.list_episodes(dataset)[0], episode.list_episodes(tmp_path)[0]
    assert again.meta["frame_hash"] == first.meta["frame_hash"]
    np.testing.assert_array_equal(again.cameras().c2w, first.cameras().c2w)
    assert (tmp_path / f"{MAP}_0" / "video.mp4").exists()
    assert np.abs(again.frames().astype(int) - first.frames()).mean() < 4
    assert episode.check_dataset(tmp_path) == {}


def _runs(pid: str) -> bool:
    try:
        return (Path("/proc") / pid / "stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


@needs_engine
def test_a_hang_and_a_crash_name_the_video_and_leave_nothing(tmp_path, monkeypatch):
    recipe = {"maps": [MAP], "frames_per_video": 2, "videos_per_map": 1, "progress": False}
    with pytest.raises(UserError, match=rf"1 of 1 videos failed.*{MAP}_0: no answer within 0\.05 s"):
        render.render_dataset(tmp_path, timeout_s=0.05, **recipe)
    crash = tmp_path / "crash.sh"
    engine = tmp_path / "engine.pid"  # what the crashed process leaves running must end too
    crash.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {engine}\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(UserError, match=rf"{MAP}_0: the engine crashed \(SIGSEGV\)"):
        render.render_dataset(tmp_path, **recipe)
    assert set(tmp_path.iterdir()) == {crash, engine}
    patience = time.monotonic() + 10
    while _runs(engine.read_text().strip()):  # the signal is sent, its work takes a moment
        assert time.monotonic() < patience, "the engine outlived its renderer"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": ["f1_E9M9"]}, "f1_E9M9"),
        ({"maps": []}, "none given"),
        ({"width": 100}, "80, 160, 320 or 640"),
        ({"height": 90}, "height 96"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        render.render_dataset(tmp_path, progress=False, **arguments)


# --- Episodes on disk -------------------------------------------------------------------------------

META = {"split": "train", "fps": 15, "map": "none", "seed": 0}


def _sample(num_frames: int = 12) -> tuple[np.ndarray, camera.Cameras]:
    ramp = np.linspace(0, 200, 32 * 16).reshape(16, 32, 1)
    frames = (ramp + 4 * np.arange(num_frames)[:, None, None, None] + [0, 5, 10]).astype(np.uint8)
    cameras = camera.look(np.zeros(3), np.linspace(0, 1, num_frames), camera.pinhole(90.0, 32, 16), 32, 16)
    return frames, cameras


@pytest.mark.parametrize("raw", [True, False])
def test_episode_round_trip(tmp_path, raw):
    frames, cameras = _sample()
    written = episode.write_episode(tmp_path / "one", frames, cameras, META, raw=raw)
    (read,) = episode.list_episodes(tmp_path)
    assert read == written and (read.name, read.split, read.num_frames) == ("one", "train", 12)
    np.testing.assert_array_equal(read.cameras().c2w, cameras.c2w)
    assert np.abs(read.frames().astype(int) - frames).mean() <= (0 if raw else 3)
    assert episode.check_dataset(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def _edit_note(folder: Path, **changes: object) -> None:
    note = json.loads((folder / "episode.json").read_text())
    (folder / "episode.json").write_text(json.dumps(note | changes))


def _edit_poses(folder: Path, change) -> None:
    poses = np.load(folder / "poses.npy")
    np.save(folder / "poses.npy", change(poses))


def _scaled_rotation(poses: np.ndarray) -> np.ndarray:
    poses[5, :3, :3] *= 1.1
    return poses


def _not_a_number(poses: np.ndarray) -> np.ndarray:
    poses[7, 0, 3] = np.nan
    return poses


def _fewer_frames(folder: Path) -> None:
    from context_as_memory.formats.video import VideoWriter

    with VideoWriter(folder / "video.mp4", 32, 16, 15) as writer:
        writer.write(_sample(9)[0])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKAGES = {
    "missing video": (lambda f: (f / "video.mp4").unlink(), "neither video.mp4 nor frames.npy"),
    "truncated video": (lambda f: _truncate(f / "video.mp4"), "hash mismatch: video.mp4.*cut short"),
    "fewer frames": (_fewer_frames, r"\[9, 16, 32, 3\], expected \[12, 16, 32, 3\]"),
    "missing poses": (lambda f: (f / "poses.npy").unlink(), "poses.npy is missing"),
    "truncated poses": (lambda f: _truncate(f / "poses.npy"), "poses.npy: damaged"),
    "fewer poses": (lambda f: _edit_poses(f, lambda p: p[:-1]), r"\[11, 4, 4\], expected \[12, 4, 4\]"),
    "no rotation": (lambda f: _edit_poses(f, _scaled_rotation), "5"),
    "not finite": (lambda f: _edit_poses(f, _not_a_number), "7"),
    "another pose": (lambda f: _edit_poses(f, lambda p: p[::-1]), "hash mismatch: poses.npy"),
    "unknown version": (lambda f: _edit_note(f, format_version=99), "unknown format version 99"),
    "unknown split": (lambda f: _edit_note(f, split="dev"), "unknown split 'dev'"),
    "no size": (lambda f: _edit_note(f, width="wide"), "width"),
    "no hashes": (lambda f: _edit_note(f, file_hashes={}), "lacks file hashes"),
    "missing note": (lambda f: (f / "episode.json").unlink(), "episode.json is missing"),
    "damaged note": (lambda f: (f / "episode.json").write_text("{"), "episode.json: damaged"),
    "renamed": (lambda f: _edit_note(f, name="two"), "called broken, the episode two"),
}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_check_names_the_broken_episode_and_why(tmp_path, kind):
    frames, cameras = _sample()
    for name in ("broken", "sound"):
        episode.write_episode(tmp_path / name, frames, cameras, META)
    break_it, reason = BREAKAGES[kind]
    break_it(tmp_path / "broken")
    found = episode.check_dataset(tmp_path)
    assert list(found) == ["broken"]
    assert any(re.search(reason, problem) for problem in found["broken"]), found


def test_changed_raw_frames_are_found(tmp_path):
    frames, cameras = _sample()
    episode.write_episode(tmp_path / "one", frames, cameras, META, raw=True)
    np.save(tmp_path / "one" / "frames.npy", frames[::-1])
    assert any("frame_hash" in problem for problem in episode.check_episode(tmp_path / "one"))


def test_no_half_written_episode(tmp_path, monkeypatch):
    frames, cameras = _sample()

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        episode.write_episode(tmp_path / "one", frames, cameras, META)
    assert list(tmp_path.iterdir()) == []


def test_bad_episodes_are_refused(tmp_path):
    frames, cameras = _sample()
    with pytest.raises(UserError, match="one camera per frame"):
        episode.write_episode(tmp_path / "one", frames[:3], cameras, META)
    with pytest.raises(UserError, match="32x16|16x32"):
        episode.write_episode(tmp_path / "one", frames[:, :, :16], cameras, META)
    with pytest.raises(UserError, match="split"):
        episode.write_episode(tmp_path / "one", frames, cameras, META | {"split": "dev"})
    episode.write_episode(tmp_path / "one", frames, cameras, META)
    with pytest.raises(UserError, match="already exists"):
        episode.write_episode(tmp_path / "one", frames, cameras, META)
    with pytest.raises(UserError, match="no episodes of split val"):
        episode.list_episodes(tmp_path, "val")
    with pytest.raises(UserError, match="unknown split"):
        episode.list_episodes(tmp_path, "dev")
    with pytest.raises(UserError, match="no data set"):
        episode.list_episodes(tmp_path / "nowhere")


def test_a_file_is_not_advised_to_be_rendered_over(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("of somebody")
    with pytest.raises(UserError, match="is a file, not the folder"):
        episode.episode_folders(file)
    with pytest.raises(UserError, match="no data set at .*; render one"):
        episode.episode_folders(tmp_path / "none")
