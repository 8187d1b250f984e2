"""The index: what it looks at is what looking at everything finds; and in a crowd no place vanishes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_retrieval as reference
from context_as_memory.camera import PROFILE, Cameras, look, pinhole
from context_as_memory.retrieval import AllViews, Candidates, Retrieval, ViewIndex, retrieve
from context_as_memory.retrieval.index import pose_bins
from reference_retrieval import rule_of

SEEDS = st.integers(0, 2**32 - 1)
K = pinhole(70, 160, 96)


def _pitched(rng: np.random.Generator, number: int, box_m: float, pitch_deg: float) -> Cameras:
    """A random walk whose cameras look up and down by up to so many degrees."""
    yaw = np.cumsum(rng.normal(0, 0.4, number))
    position = np.mod(np.cumsum(rng.normal(0, 0.6, (number, 3)), axis=0), box_m)
    level = look(position, yaw, K, 160, 96)
    pitch = np.radians(rng.uniform(-pitch_deg, pitch_deg, number))
    tilt = np.tile(np.eye(4), (number, 1, 1))
    tilt[:, 1, 1], tilt[:, 1, 2], tilt[:, 2, 1], tilt[:, 2, 2] = (
        np.cos(pitch), -np.sin(pitch), np.sin(pitch), np.cos(pitch),
    )  # fmt: skip
    return Cameras(level.c2w @ tilt, level.K, 160, 96)


def _turning(rng: np.random.Generator, bank: Cameras) -> Cameras:
    """A chunk of 3 to 6 poses that starts near a stored one and turns by up to 150 degrees."""
    number, start = int(rng.integers(3, 7)), bank.position[int(rng.integers(len(bank)))]
    place = start + np.cumsum(rng.normal(0, 0.3, (number, 3)) * (1, 1, 0), axis=0)
    yaw = rng.uniform(-np.pi, np.pi) + np.linspace(0, rng.uniform(-2.6, 2.6), number)
    return look(place, yaw, K, 160, 96)


def _same(one: Retrieval, other: Retrieval) -> None:
    np.testing.assert_array_equal(one.candidates, other.candidates)
    np.testing.assert_array_equal(one.frame_ids, other.frame_ids)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)


@settings(max_examples=24, deadline=None)
@given(
    SEEDS,
    st.sampled_from([4.0, 60.0]),
    st.sampled_from([0.0, 40.0]),
    st.booleans(),
    st.sampled_from(["coverage", "visible", "frustum"]),
)
def test_the_index_gives_what_looking_at_everything_gives(seed, box_m, pitch_deg, crowded, strategy):
    """Whole answers, while the bank grows. Reference: `AllViews`; in a crowd, with what a plain loop finds in the bins
    as its mask."""
    rng = np.random.default_rng(seed)
    bank = _pitched(rng, 120, box_m, pitch_deg)
    bank = Cameras(bank.c2w, np.where(rng.random((120, 1)) < 0.2, pinhole(100, 160, 96), K), 160, 96)
    recorded = rng.random(120) < rng.choice([0.0, 0.3])
    profiles = rng.uniform(0.5, 8, (120, PROFILE)).astype(np.float32)
    profiles[rng.random(120) < 0.3] = np.inf
    config = rule_of(
        strategy=strategy,
        far_m=6.0,
        frames=0 if crowded else 10**6,
        bin_m=float(rng.choice([1.5, 4.0])),
        bin_rad=float(rng.choice([0.4, 1.5])),
        recorded_bonus=0.1,
    )
    index = ViewIndex(config)
    for end in sorted({*rng.integers(1, 120, 4).tolist(), 120}):
        target, recent = _turning(rng, bank[:end]), None if rng.random() < 0.2 else int(rng.integers(end))
        for share in (1.0, 0.9, 0.3, 0.0):
            allowed = rng.random(end) < share

            def ask(index, mask, end=end, target=target, recent=recent):
                stored = Candidates(bank[:end], mask, recorded[:end], profiles[:end])
                return retrieve(stored, target, config, recent=recent, index=index)

            found = ask(index, allowed)
            mask = allowed
            if crowded:
                mask = reference.newest_of_each_bin(bank[:end], index.basis, config, allowed, recorded[:end])
                if recent is not None:
                    mask[recent] = allowed[recent]  # it has a slot of its own
            _same(found, ask(reference.OnGround(index.basis), mask))
            if pitch_deg == 0 or strategy == "frustum":  # one ground
                _same(found, ask(AllViews(), mask))
            if share == 1.0:
                _same(found, ask(index, None))


def test_in_a_crowd_no_place_vanishes_behind_what_is_not_allowed() -> None:
    """One place seen again and again, of which only the oldest frame may be read."""
    bank = look(np.r_[np.zeros((9, 3)), [[50.0, 0, 0]]], 0.1, K, 160, 96)
    for strategy in ("coverage", "frustum"):
        config = rule_of(strategy=strategy, frames=4)
        index = ViewIndex(config)
        for oldest in (0, 5):
            allowed = np.isin(np.arange(10), [oldest, 9])
            found = retrieve(Candidates(bank, allowed=allowed), bank[[0]], config, recent=9, index=index)
            assert found.frame_ids.tolist() == [oldest, 9]
        assert retrieve(bank, bank[[0]], config, recent=9, index=index).frame_ids.tolist() == [8, 9]


def test_in_a_crowd_given_frames_stay_in_sight_among_what_was_made_of_them() -> None:
    bank = look(np.r_[np.zeros((9, 3)), [[50.0, 0, 0]]], 0.1, K, 160, 96)
    for bonus, expected in ((0.0, 8), (0.1, 2)):
        config = rule_of(frames=4, recorded_bonus=bonus, max_context=2)
        found = retrieve(
            Candidates(bank, recorded=np.arange(10) < 3), bank[[0]], config, recent=9, index=ViewIndex(config)
        )
        assert found.candidates.tolist() == [2, 8] and found.frame_ids.tolist() == [expected, 9]


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 60.0]))
def test_an_index_that_grew_equals_one_that_was_read_at_once(seed, pitch_deg):
    """Bit for bit, so that a saved world goes on exactly as it would have."""
    rng = np.random.default_rng(seed)
    bank = _pitched(rng, 80, 8.0, pitch_deg)
    config = rule_of(frames=0)
    grown, read = ViewIndex(config), ViewIndex(config)
    for end in range(1, 81):
        grown.update(bank[:end])
    read.update(bank)
    np.testing.assert_array_equal(grown.basis, read.basis)
    for a, b in zip(vars(grown.all_views()).values(), vars(read.all_views()).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    goals = bank[[5]]
    np.testing.assert_array_equal(grown.within_reach(goals), read.within_reach(goals))
    assert len(read.within_reach(goals)) <= len(np.unique(pose_bins(bank, read.basis, config), axis=0))


def test_a_crowd_is_cut_to_the_nearest_which_hold_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of views in reach the cut changes which weak candidates are listed, not what is picked."""
    from context_as_memory.retrieval import index as module

    rng = np.random.default_rng(3)
    place = np.concatenate([rng.uniform(0, 25, (6000, 2)), np.zeros((6000, 1))], axis=1)
    bank = look(place, rng.uniform(-np.pi, np.pi, 6000), K, 160, 96)
    config = rule_of()
    for row in range(8):
        target = bank[[row]]
        index = ViewIndex(config)
        cut = retrieve(bank[100:], target, config, recent=None, index=index)
        monkeypatch.setattr(module, "NEAREST", 10**6)
        full = retrieve(bank[100:], target, config, recent=None, index=index)
        monkeypatch.undo()
        assert len(cut.candidates) <= module.NEAREST < len(full.candidates)
        np.testing.assert_array_equal(cut.frame_ids, full.frame_ids)
