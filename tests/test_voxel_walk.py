"""Walks through voxel worlds: never in a wall, up the stairs, through the door, and the same everywhere."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import look, pinhole
from context_as_memory.data.trajectories import MODES
from context_as_memory.data.voxel.walk import BODY_RADIUS_M, EYE_M, VoxelGround, path_cameras, plan_voxel_path
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions
from voxel_house import DOOR, GLASS, GROUND, POND, STONE, UPSTAIRS, house, solid_boxes

FRAMES = 1000


@pytest.fixture(scope="module")
def ground():
    return VoxelGround.of(house())


@pytest.fixture(scope="module")
def paths(ground):
    return [plan_voxel_path(house(), FRAMES, seed, ground=ground) for seed in range(4)]


def _clearance(world, feet_m: np.ndarray, low_m: float, high_m: float) -> np.ndarray:
    """Distance [M] on the ground from feet [M, 3] to all that is solid between two heights above them."""
    boxes = solid_boxes(world)
    apart = np.maximum(boxes[:, :2] - feet_m[:, None, :2], feet_m[:, None, :2] - boxes[:, 3:5]).clip(0)
    level = (boxes[:, 5] > feet_m[:, None, 2] + low_m) & (boxes[:, 2] < feet_m[:, None, 2] + high_m)
    return np.where(level, np.hypot(*np.moveaxis(apart, -1, 0)), np.inf).min(axis=1)


def test_a_body_fits_wherever_one_can_stand(ground):
    """Against every box of the world, one by one."""
    points = ground.points
    assert _clearance(house(), points, 0.51, 1.8).min() > BODY_RADIUS_M
    boxes = solid_boxes(house())
    inside = (points[:, None, :2] > boxes[:, :2]) & (points[:, None, :2] < boxes[:, 3:5])
    tops = np.where(inside.all(axis=2) & (boxes[:, 5] <= points[:, None, 2]), boxes[:, 5], -1).max(axis=1)
    np.testing.assert_array_equal(tops, points[:, 2])  # one stands on something, not above it


def test_ground_is_garden_stairs_and_both_floors_and_nothing_else(ground):
    heights = set(ground.points[:, 2])
    assert heights == {GROUND + 0.5 * step for step in range(7)} and max(heights) == UPSTAIRS
    blocks = ground.square // 4
    for place in (POND, np.s_[5:7, 10:12]):  # no walking on water; nor up a whole block
        inside = (blocks >= [axis.start for axis in place]) & (blocks < [axis.stop for axis in place])
        assert not inside.all(axis=1).any()
    assert (blocks == (6, 3)).all(axis=1).any()  # grass is walked through
    assert (blocks == DOOR).all(axis=1).any()
    assert ground.covered[(blocks[:, 0] > 8)].all() and not ground.covered[blocks[:, 0] < 8].any()


def test_links_are_steps_both_ways_and_turn_no_corner(ground):
    start, end = ground._pairs
    assert set(zip(start.tolist(), end.tolist(), strict=True)) == set(zip(end.tolist(), start.tolist(), strict=True))
    apart = np.abs(ground.points[start] - ground.points[end])
    assert (apart[:, :2] <= 0.25).all() and (apart[:, 2] <= 0.5).all()
    corner = (apart[:, :2] > 0).all(axis=1)
    known = set(map(tuple, ground.square.tolist()))
    for a, b in ground.square[np.stack([start, end], axis=1)[corner]].tolist():
        assert {(a[0], b[1]), (b[0], a[1])} <= known


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_keeps_clear_of_everything_and_within_the_speeds(paths, seed):
    path = paths[seed]
    feet = path.position_m - [0, 0, EYE_M]
    assert _clearance(house(), feet, EYE_M - 0.1, EYE_M + 0.1).min() > 0.2  # the eye, also on stairs
    assert _clearance(house(), feet, 0.8, EYE_M).min() > 0.2  # the body above the step that a ramp smooths away
    steps = np.diff(path.position_m, axis=0)
    assert np.hypot(steps[:, 0], steps[:, 1]).max() <= 0.2 + 1e-5
    assert np.abs(steps[:, 2]).max() <= 0.35  # stairs are ramps
    assert np.abs(np.diff(path.yaw_rad)).max() <= np.deg2rad(5) + 1e-5
    assert np.abs(np.diff(path.pitch_rad)).max() <= np.deg2rad(3) + 1e-5
    assert np.abs(path.pitch_rad).max() <= np.deg2rad(30) + 1e-5


def test_walks_use_door_and_stairs_look_up_and_down_and_come_back(paths):
    position = np.concatenate([path.position_m for path in paths])
    assert (np.floor(position[:, :2]) == DOOR).all(axis=1).sum() > 20
    feet = position[:, 2] - EYE_M
    assert (feet > UPSTAIRS - 0.1).mean() > 0.05 and (np.abs(feet - GROUND) < 0.1).mean() > 0.3
    pitch = np.concatenate([path.pitch_rad for path in paths])
    assert pitch.max() > np.deg2rad(20) and pitch.min() < -np.deg2rad(20) and np.abs(pitch).mean() < np.deg2rad(12)
    share = np.bincount(np.concatenate([path.mode for path in paths]), minlength=4) / len(pitch)
    assert 0.4 < share[0] < 0.8 and (share[1:] > 0.01).all()
    for path in paths:
        old = np.arange(FRAMES)[:, None] - np.arange(FRAMES) > 200
        near = np.linalg.norm(path.position_m[:, None] - path.position_m, axis=-1) < 1.0
        assert (near & old).any(axis=1).mean() > 0.2
    # Returns go through the very same poses again, pitch included.
    path = next(path for path in paths if (path.mode == MODES.index("return")).any())
    first = np.flatnonzero(path.mode == MODES.index("return"))[0]
    for name in ("position_m", "yaw_rad", "pitch_rad"):
        np.testing.assert_array_equal(getattr(path, name)[first], getattr(path, name)[first - 2])


def test_deliberate_looks_have_the_speed_of_the_keys(paths):
    """Somewhere one stands and looks up or down exactly as a held I or K would."""
    key = np.deg2rad(3)
    for path in paths:
        standing = ~np.diff(path.position_m, axis=0).any(axis=1) & (np.diff(path.yaw_rad) == 0)
        if (np.abs(np.abs(np.diff(path.pitch_rad))[standing] - key) < 2e-6).sum() >= 4:
            return
    raise AssertionError("nobody looks up or down")


DIGEST = """
import hashlib, sys
sys.path.insert(0, "tests")
from voxel_house import house
from context_as_memory.data.voxel.walk import path_cameras, plan_voxel_path
path = plan_voxel_path(house(), 400, 5)
print(hashlib.sha256(path_cameras(path, 32, 20).c2w.tobytes() + path.mode.tobytes()).hexdigest())
"""


def test_a_walk_is_the_same_on_every_machine():
    """Without the wide instructions that numpy uses where it finds them, in another process."""
    path = plan_voxel_path(house(), 400, 5)
    here = hashlib.sha256(path_cameras(path, 32, 20).c2w.tobytes() + path.mode.tobytes()).hexdigest()
    root = Path(__file__).parents[1]
    features = "AVX2 FMA3 AVX512F AVX512_SKX X86_V3 X86_V4"
    baseline = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIGEST],
        cwd=root,
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": features, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert baseline.stdout.strip() == here
    assert not np.array_equal(plan_voxel_path(house(), 400, 6).position_m, path.position_m)


def test_a_world_without_ground_says_so():
    water = replace(house("sea-1"), blocks=np.full((8, 8, 4), 2, np.uint8))
    with pytest.raises(UserError, match="sea-1 has no ground"):
        plan_voxel_path(water, 10, 0)
    pillar = np.zeros((8, 8, 4), np.uint8)
    pillar[4, 4, 0] = STONE
    with pytest.raises(UserError, match="too little walkable ground"):
        plan_voxel_path(replace(house(), blocks=pillar), 10, 0)


def test_home_chooses_the_part_of_the_ground():
    """The door is shut: a walk stays on the side of home, be it the smaller one; without a home, on the larger."""
    blocks = house().blocks.copy()
    blocks[(*DOOR, slice(2, 4))] = GLASS
    shut = replace(house(), blocks=blocks)
    sides = [VoxelGround.of(replace(shut, home=home)).points[:, 0] for home in ((4.0, 8.0), (13.0, 9.0), (-50.0, 0.0))]
    assert (sides[0] < 8).all() and (sides[1] > 8).all() and len(sides[0]) < len(sides[1])
    np.testing.assert_array_equal(sides[2], sides[1])


def test_ground_knows_the_floor_one_is_on(ground):
    place = np.array([[10.1, 9.1, GROUND + 0.2], [10.1, 9.1, UPSTAIRS - 0.3], [3.1, 3.1, 2.0], [-5.0, 3.0, 2.0]])
    np.testing.assert_array_equal(ground.floor_z(place), [GROUND, UPSTAIRS, np.nan, np.nan])


def test_looking_up_is_what_the_keys_do():
    K = pinhole(90.0, 32, 20)
    start = look([1.0, 2.0, 3.0], 0.7, K, 32, 20)
    for keys, pitch in (("i", 12), ("k", -12)):
        by_keys = cameras_from_actions(start, f"{keys}-4")
        np.testing.assert_allclose(by_keys.c2w[-1], look([1, 2, 3], 0.7, K, 32, 20, pitch_rad=np.deg2rad(pitch)).c2w[0])
    np.testing.assert_array_equal(look([1, 2, 3], 0.7, K, 32, 20, pitch_rad=0.0).c2w, start.c2w)
    tilted = look([0, 0, 0], [0.1, 0.2], K, 32, 20, pitch_rad=[0.3, -0.3])
    assert tilted.forward[0, 2] > 0 > tilted.forward[1, 2]
    with pytest.raises(UserError, match="do not fit"):
        look([0, 0, 0], [0.1, 0.2], K, 32, 20, pitch_rad=[0.1, 0.2, 0.3])
