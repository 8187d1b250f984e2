"""Edits carried over to other views: what is painted there, and where nothing is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.edits import MOST_CARRIED, edit
from context_as_memory.edits.carry import APART_M, between_pixels, fit_plane, moved_along, registered
from context_as_memory.edits.surface import find_surface
from context_as_memory.retrieval import RetrievalConfig
from test_edits import PATCH, repainted, room, views, wall_profile
from tiny import ROOM_HEIGHT, ROOM_WIDTH, paint_room

WALL_M = 13.0  # where the room ends along x
GREEN = np.array([20, 200, 40])


def seen_on_plane(cameras: Cameras, normal: np.ndarray, distance_m: float) -> tuple[np.ndarray, np.ndarray]:
    """What one camera sees of a plane with soft waves on it, pixel by pixel: colours [H, W, 3] and whether it is
    there [H, W]."""
    fx, fy, cx, cy = cameras.K[0]
    colours = np.zeros((cameras.height, cameras.width, 3))
    there = np.zeros((cameras.height, cameras.width), bool)
    for row in range(cameras.height):
        for column in range(cameras.width):
            ray = cameras.c2w[0, :3, :3] @ [(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0]
            depth = (distance_m - normal @ cameras.position[0]) / (normal @ ray)
            point = cameras.position[0] + depth * ray
            there[row, column] = depth > 0
            colours[row, column] = 128 + 100 * np.sin(0.4 * point + [0, 1, 2])
    return colours, there


@settings(max_examples=10, deadline=None)
@given(
    lean=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    place=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-0.5, 0.5)),
    yaw=st.floats(-25, 25),
)
def test_a_plane_is_moved_as_it_is_seen_from_elsewhere(lean, place, yaw):
    lens = pinhole(80, 24, 16)
    here = look([0.0, 0.0, 0.0], 0.0, lens, 24, 16)
    there = look(place, np.radians(yaw), lens, 24, 16)
    normal = np.array([1.0, *lean])  # normal X = 6 metres
    ours, _ = seen_on_plane(here, normal, 6.0)
    theirs, ahead = seen_on_plane(there, normal, 6.0)
    plane = here.c2w[0, :3, :3].T @ normal / 6.0
    moved, shown = moved_along(ours, here, there, plane)
    assert not (shown & ~ahead).any()
    if shown.any():
        wrong = np.abs(moved - theirs)[shown]
        assert wrong.mean() < 2 and wrong.max() < 30, "at most half a pixel of the waves, at the border"
    same, all_of_it = moved_along(ours, here, here, plane)
    np.testing.assert_allclose(same[all_of_it], ours[all_of_it], atol=1e-6)


def test_between_pixels_is_exact_where_colours_are_linear():
    y, x = np.mgrid[:5, :7] + 0.5
    picture = np.stack([2 * x + 3 * y, x - y], axis=-1)
    u, v = np.array([0.5, 3.3, 6.5]), np.array([0.5, 2.1, 4.5])
    np.testing.assert_allclose(between_pixels(picture, u, v), np.stack([2 * u + 3 * v, u - v], axis=-1))


@pytest.mark.parametrize("yaw", [0, 20, -35])
def test_the_plane_of_known_depths_is_found(yaw):
    cameras = views([(6, 0, yaw)])
    changed = np.zeros((ROOM_HEIGHT, ROOM_WIDTH), bool)
    changed[PATCH] = True
    world = room(cameras, wall_profile(cameras, WALL_M))
    plane = fit_plane(find_surface(world.bank, 0, changed, 15.0))
    expected = cameras.c2w[0, :3, :3].T @ [1.0, 0.0, 0.0] / 7.0
    assert np.linalg.norm(plane - expected) < 0.1 * np.linalg.norm(expected)


def painted_room(cameras: Cameras, edited: Cameras) -> np.ndarray:
    """The room whose wall is green where the edited camera's patch lies on it, by ray casting."""
    frames = paint_room(cameras)
    for number in range(len(cameras)):
        fx, fy, cx, cy = cameras.K[number]
        for row in range(cameras.height):
            for column in range(cameras.width):
                ray = cameras.c2w[number, :3, :3] @ [(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0]
                point = cameras.position[number] + (WALL_M - cameras.position[number, 0]) / ray[0] * ray
                x, y, z, _ = np.linalg.inv(edited.c2w[0]) @ [*point, 1.0]
                u, v = fx * x / z + cx, fy * y / z + cy
                inside = PATCH[1].start <= u < PATCH[1].stop and PATCH[0].start <= v < PATCH[0].stop
                if ray[0] > 0 and z > 0 and inside:
                    frames[number, row, column] = GREEN
    return frames


def test_views_near_by_are_painted_as_the_painted_room_looks():
    cameras = views([(9, 0, 0), (8.6, 0.2, 0), (9, 0, 14), (9.2, -0.4, -12), (9, 0, 170)])
    world = room(cameras, np.where(np.arange(5)[:, None] < 4, wall_profile(cameras, WALL_M), np.inf).astype(np.float32))
    done = edit(world, 0, repainted(world, 0))
    assert done.carried == (1, 2, 3) and done.withdrawn == (0, 1, 2, 3) and done.entry == 8
    truth = painted_room(cameras, cameras[:1])
    for entry, view in ((5, 1), (6, 2), (7, 3), (8, 0)):
        picture = world.bank.frames_u8(entry)[0]
        np.testing.assert_array_equal(world.bank.cameras.c2w[entry], cameras.c2w[view])
        wrong = np.abs(picture.astype(int) - truth[view]).max(axis=-1) > 40
        assert wrong.mean() < 0.04, f"view {view}: only seams may differ"
        assert (np.abs(truth[view] - GREEN).max(axis=-1) == 0).sum() > 150
    offered = world.bank.offered()
    assert offered is not None and np.flatnonzero(offered).tolist() == [4, 5, 6, 7, 8]


def test_a_view_of_which_too_little_is_known_is_only_withdrawn():
    turned, moved = (0, 0, 12), (2, 2, 0)
    world = room(views([(0, 0, 0), turned, moved, (0, 0, 180)]))
    done = edit(world, 0, repainted(world, 0))
    assert done.withdrawn == (0, 1, 2) and done.carried == (1,), "a turn needs no depth, a step does"


def test_a_view_that_shows_something_else_there_is_only_withdrawn():
    cameras = views([(0, 0, 0), (0, 0, 12), (0, 0, 180)])
    world = room(cameras)
    frames = paint_room(cameras)
    frames[1] = 255 - frames[1]
    world.reset(frames, cameras)
    done = edit(world, 0, repainted(world, 0))
    assert done.withdrawn == (0, 1) and done.carried == ()


@settings(max_examples=20, deadline=None)
@given(down=st.integers(-6, 6), across=st.integers(-6, 6), wide=st.sampled_from([160, 320]))
def test_paint_that_is_off_by_a_shift_is_found(down, across, wide):
    rng, stride = np.random.default_rng(1), wide // 160
    picture = np.kron(rng.uniform(0, 255, (6, 10, 3)), np.ones((wide // 10, wide // 10, 1)))
    layers = np.concatenate([np.zeros((*picture.shape[:2], 4)), picture], axis=-1)
    layers[30 * stride : 60 * stride, 50 * stride : 100 * stride, 3] = 255
    off = np.roll(layers, (-down * stride, -across * stride), axis=(0, 1))
    found, cost = registered(off, picture)
    np.testing.assert_array_equal(found[..., 3], layers[..., 3])
    assert cost < 2, "what the shift costs"
    layers[..., 3] = 0
    assert registered(layers, picture)[1] == np.inf


def test_the_last_frame_is_changed_too_where_it_can_be():
    cameras = views([(0, 0, 0), (0, 0, 12)])
    world = room(cameras)
    done = edit(world, 0, repainted(world, 0))
    assert not done.still_seen and done.withdrawn == (0, 1) and done.entry == 2 and len(world.bank) == 4
    now, before = world.bank.frames_u8(np.array([3, 1]))
    assert (np.abs(now.astype(int) - GREEN).max(axis=-1) < 20).sum() > 100 and (now != before).any()
    np.testing.assert_array_equal(world.bank.cameras.c2w[3], cameras.c2w[1])
    offered = world.bank.offered()
    assert offered is not None and offered.tolist() == [False, False, True, True]


def test_near_duplicates_are_painted_once_and_never_too_many():
    turns = [(0.0, 0.0, yaw) for yaw in np.linspace(-30, 30, 61)]
    world = room(views([(0, 0, 0), *turns, (0, 0, 180)]), retrieval=RetrievalConfig(max_context=4))
    done = edit(world, 0, repainted(world, 0))
    assert 2 <= len(done.carried) <= MOST_CARRIED
    yaws = np.array([turns[view - 1][2] for view in done.carried])
    assert np.diff(np.sort(np.append(yaws, 0))).min() >= 6 - 1e-6
    assert APART_M > 0 and world.bank.frames_u8(done.entry)[0].tolist() == repainted(world, 0).tolist()
