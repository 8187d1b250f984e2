"""Retrieval that knows walls (`visible`) and retrieval in space (`frustum`)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from context_as_memory.camera import (
    PROFILE,
    Cameras,
    horizon_profile,
    look,
    pinhole,
    planar,
)
from context_as_memory.errors import UserError
from context_as_memory.retrieval import Candidates, retrieve
from context_as_memory.retrieval.space import explained_in_space, frustum_samples, inside_frusta
from context_as_memory.retrieval.surfaces import MARGIN_M, MARGIN_SHARE, foreseen_surfaces, in_sight
from reference_retrieval import frustum_planes, rule_of
from tiny import transformed

SEEDS = st.integers(0, 2**32 - 1)
FAR = 15.0
K = pinhole(70, 160, 96)


def walk(seed: int, number: int) -> Cameras:
    """Small steps and turns from the origin."""
    rng = np.random.default_rng(seed)
    place = np.cumsum(rng.normal(0, 0.2, (number, 3)) * (1, 1, 0), axis=0)
    return look(place, np.cumsum(rng.normal(0, 0.3, number)), K, 160, 96)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_in_sight_equals_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    views = planar(walk(seed, 6), np.eye(2, 3))
    profiles = rng.uniform(0.5, 8, (6, PROFILE)).astype(np.float32)
    profiles[rng.random(profiles.shape) < 0.2] = np.inf
    points = views.origin[0] + rng.uniform(-6, 6, (40, 2))
    found = in_sight(points, views, profiles)
    for c in range(6):
        (hx, hy), k = views.heading[c], views.half_width_tan[c]
        for s, (x, y) in enumerate(points - views.origin[c]):
            ahead, across = x * hx + y * hy, x * hy - y * hx
            expected = ahead > 0 and abs(across) < k * ahead  # inside the lens
            if expected:
                column = int((across / (k * ahead) + 1) / 2 * PROFILE)
                expected = ahead <= profiles[c, column] * (1 + MARGIN_SHARE) + MARGIN_M
            assert found[c, s] == expected


def test_visible_asks_the_frame_that_sees_past_the_wall() -> None:
    """Both stored frames look ahead; the newer one stands closer to the target, but before a shut door."""
    bank = look(np.array([[1.0, 0, 0], [1.8, 0, 0], [0.0, 30, 0]]), np.zeros(3), K, 160, 96)
    target = look(np.array([[2.0, 0, 0]]), np.zeros(1), K, 160, 96)
    profiles = np.full((3, PROFILE), 6.0, np.float32)
    profiles[1] = 0.15
    first = {}
    for strategy in ("coverage", "visible"):
        rule = rule_of(strategy=strategy, max_context=2, layers=1)
        first[strategy] = retrieve(Candidates(bank, profiles_m=profiles), target, rule, recent=2).frame_ids[0]
        unknown = retrieve(bank, target, rule, recent=2)
        assert unknown.frame_ids[0] == 1  # without profiles they are the same rule: the one that stands closer
    assert first == {"coverage": 1, "visible": 0}


def test_surfaces_are_foreseen_where_they_are() -> None:
    """A frame looks at a wall 4 m ahead; from 1 m on it is foreseen at 3 m, and nothing where none was."""
    seen = planar(look(np.array([[0.0, 0, 0]]), np.zeros(1), K, 160, 96), np.eye(2, 3))
    goal = planar(look(np.array([[1.0, 0, 0]]), np.zeros(1), K, 160, 96), np.eye(2, 3))
    profile = np.full((1, PROFILE), 4.0, np.float32)
    profile[0, PROFILE // 2 :] = np.inf
    points, rays, distance = foreseen_surfaces(goal, seen, profile, FAR)
    np.testing.assert_allclose(points[:, 0], 4.0, atol=1e-6)
    np.testing.assert_allclose(points, [1.0, 0.0] + rays * distance[:, None], atol=1e-9)
    assert (points[:, 1] > 0).all()  # to the left of the way, where the wall is known
    assert len(points) >= PROFILE // 2 - 2
    assert not len(foreseen_surfaces(goal, seen, np.full((1, PROFILE), np.inf, np.float32), FAR)[0])


def test_horizon_profile_reads_the_rows_at_eye_level() -> None:
    depth = np.full((96, 160), 2.0)
    depth[40:56] = np.linspace(1, 9, 160)
    depth[:, -1] = 0  # unknown
    profile = horizon_profile(depth)
    assert profile.shape == (PROFILE,) and profile.dtype == np.float32
    np.testing.assert_allclose(profile, np.linspace(1, 9, 160).reshape(PROFILE, 5)[:, 2], atol=0.05)
    assert np.isinf(horizon_profile(np.full((96, 160), np.nan))).all()
    with pytest.raises(UserError, match="32 image columns"):
        horizon_profile(np.ones((4, 8)))


@pytest.mark.parametrize("profiles", [np.ones((2, PROFILE)), np.ones((3, 5)), np.zeros((3, PROFILE))])
def test_bad_profiles_are_refused(profiles: np.ndarray) -> None:
    bank = walk(0, 3)
    with pytest.raises(UserError, match="depth profiles"):
        retrieve(Candidates(bank, profiles_m=profiles), bank[[0]], rule_of(strategy="visible"), recent=2)


# --- in space ---------------------------------------------------------------------------------------------------------


def _flying(rng: np.random.Generator, number: int) -> Cameras:
    """Cameras anywhere in a box, turned in any way."""
    c2w = np.tile(np.eye(4), (number, 1, 1))
    c2w[:, :3, :3] = Rotation.random(number, random_state=rng.integers(2**31)).as_matrix()
    c2w[:, :3, 3] = rng.uniform(-4, 4, (number, 3))
    return Cameras(c2w, K, 160, 96)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_points_inside_frusta_are_those_before_all_six_planes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    views, points, config = _flying(rng, 12), rng.uniform(-12, 12, (200, 3)), rule_of()
    planes = frustum_planes(views, config.near_m, config.far_m)
    height = np.einsum("nki,si->nsk", planes[..., :3], points) + planes[:, None, :, 3]
    clear = np.abs(height).min(axis=2) > 1e-9  # a point on a plane may fall on either side of it
    np.testing.assert_array_equal(inside_frusta(points, views, config)[clear], (height >= 0).all(axis=2)[clear])


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_explained_in_space_equals_loop_and_ignores_rigid_motion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    views, target, config = _flying(rng, 8), _flying(rng, 2), rule_of(strategy="frustum")
    samples = frustum_samples(target, config)
    fast = explained_in_space(samples, views, config)
    inside = inside_frusta(samples[0], views, config)
    for row in range(8):
        for s in rng.integers(0, len(samples[0]), 60):
            offset = samples[0][s] - views.position[row]
            length = np.linalg.norm(offset)
            turn = np.arccos(np.clip(offset @ samples[1][s] / length, -1, 1))
            ratio = length / samples[2][s]
            low, high = config.coverage.scale_band
            assert fast[row, s] == (inside[row, s] and turn <= config.coverage.parallax_rad and low <= ratio <= high)
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = Rotation.random(random_state=1).as_matrix(), (3, -2, 9)
    bank = _flying(rng, 40)
    here = retrieve(bank, target, config, recent=39)
    there = retrieve(transformed(bank, move), transformed(target, move), config, recent=39)
    assert here.frame_ids.tolist() == there.frame_ids.tolist()


def test_in_space_a_look_down_is_not_a_look_ahead() -> None:
    """Two stored frames of one place and heading: on the ground one view, in space only one shows the target."""
    ahead = look(np.zeros((1, 3)), np.zeros(1), K, 160, 96)
    down = np.eye(4)
    down[:3, :3] = Rotation.from_euler("x", -80, degrees=True).as_matrix()
    bank = Cameras.concat(
        [ahead, Cameras(ahead.c2w @ down, K, 160, 96), look(np.array([[0, 40.0, 0]]), 0.0, K, 160, 96)]
    )
    rule = rule_of(strategy="frustum", max_context=2)
    assert retrieve(bank, ahead, rule, recent=2).frame_ids.tolist() == [0, 2]
    assert retrieve(bank, bank[[1]], rule, recent=2).frame_ids.tolist() == [1, 2]
