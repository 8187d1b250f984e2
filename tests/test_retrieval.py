"""Which frames are remembered: geometry against polygons, fast paths against loops, and the promises to callers."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import reference_retrieval as reference
from context_as_memory.camera import Cameras, PlanarViews, ground_basis, look, pinhole, planar
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import read_unreal_json
from context_as_memory.retrieval import (
    STRATEGIES,
    Candidates,
    Retrieval,
    RetrievalConfig,
    ViewIndex,
    explained,
    retrieve,
    target_samples,
)
from context_as_memory.retrieval.cover import Offer, cover
from context_as_memory.retrieval.ground import key_rows, ranking_rows
from context_as_memory.retrieval.overlap import MIN_OVERLAP, fov_overlap
from context_as_memory.retrieval.paper import paper_overlap, runs, thin_runs
from reference_retrieval import rule_of
from tiny import transformed

SEEDS = st.integers(0, 2**32 - 1)
NEAR, FAR = 0.1, 15.0
K = pinhole(70, 160, 96)


def random_views(rng: np.random.Generator, number: int, box_m: float = 12.0) -> PlanarViews:
    """Views all over a box, of mixed fields of view (up to 126 degrees)."""
    yaw = rng.uniform(-np.pi, np.pi, number)
    heading = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    return PlanarViews(rng.uniform(-box_m / 2, box_m / 2, (number, 2)), heading, rng.uniform(0.3, 2.0, number))


def view(x: float = 0.0, y: float = 0.0, yaw_deg: float = 0.0, k: float = 0.7) -> PlanarViews:
    yaw = np.radians(yaw_deg)
    return PlanarViews(np.array([[x, y]]), np.array([[np.cos(yaw), np.sin(yaw)]]), np.array([k]))


def walk(seed: int, number: int, box_m: float = 8.0) -> Cameras:
    """A camera that wanders, strafes, turns and stands still inside a box: revisits and repeated poses abound."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=(number, 2)) * 0.15 * (rng.random((number, 1)) > 0.2)
    drift = np.repeat(rng.normal(size=(number // 10 + 1, 2)) * 0.2, 10, axis=0)[:number]
    place = box_m / 2 * np.sin(np.cumsum(step + drift, 0) / box_m * 4)
    yaw = np.cumsum(np.repeat(rng.normal(size=number // 10 + 1) * 0.08, 10)[:number])
    return look(np.column_stack([place, np.full(number, 1.6)]), yaw, K, 160, 96)


# --- overlap ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([(0.1, 15.0), (0.5, 4.0), (1.0, 50.0)]))
def test_overlap_equals_polygon_clipping(seed: int, depths: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    target, others = random_views(rng, 3), random_views(rng, 12)
    image = fov_overlap(target, others, *depths)
    assert (image > 0).any()
    for t in range(3):
        for c in range(12):
            assert abs(image[t, c] - reference.overlap_image(target, t, others, c, *depths)) <= 1e-6


@settings(max_examples=25)
@given(SEEDS)
def test_overlap_of_views_that_share_edges(seed: int) -> None:
    """Same place, same heading, or straight ahead: whole edges coincide, where clipping goes wrong first."""
    rng = np.random.default_rng(seed)
    target = random_views(rng, 1)
    step = rng.choice([0.0, 0.25, 1.0, 3.0], 16)[:, None] * target.heading
    fov = 2 * np.arctan(target.half_width_tan[0])
    turn = rng.choice([0.0, 0.0, fov, -fov, np.pi, np.pi / 2], 16)
    yaw = np.arctan2(target.heading[0, 1], target.heading[0, 0]) + turn
    heading = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    others = PlanarViews(target.origin + step, heading, np.repeat(target.half_width_tan, 16))
    image = fov_overlap(target, others, NEAR, FAR)[0]
    for c in range(16):
        assert abs(image[c] - reference.overlap_image(target, 0, others, c, NEAR, FAR)) <= 1e-6


def test_overlap_values_known_by_hand() -> None:
    turned = fov_overlap(view(k=1.0), view(yaw_deg=45, k=1.0), 0.1, 1e5)[0, 0]
    assert turned == pytest.approx(0.5, abs=0.05)  # half of the image columns, but for the ends of the depth range
    assert fov_overlap(view(k=1.0), view(k=0.5), NEAR, FAR)[0, 0] == pytest.approx(0.5, abs=1e-6)
    assert fov_overlap(view(k=0.5), view(k=1.0), NEAR, FAR)[0, 0] == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=25)
@given(SEEDS)
def test_overlap_is_one_with_itself_and_zero_behind(seed: int) -> None:
    views = random_views(np.random.default_rng(seed), 5)
    behind = PlanarViews(views.origin - 0.01 * views.heading, -views.heading, views.half_width_tan)
    assert np.abs(np.diag(fov_overlap(views, views, NEAR, FAR)) - 1).max() <= 1e-6
    assert (np.diag(fov_overlap(views, behind, NEAR, FAR)) == 0).all()


@settings(max_examples=10)
@given(SEEDS)
def test_everything_is_invariant_under_rigid_motion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rigid = np.eye(4)
    rigid[:3, :3] = Rotation.random(random_state=int(seed) % 2**31).as_matrix()
    rigid[:3, 3] = rng.uniform(-500, 500, 3)
    bank = walk(seed, 60)
    moved = transformed(bank, rigid)
    here, there = planar(bank, ground_basis(bank)), planar(moved, ground_basis(moved))
    first, second = fov_overlap(here, here, NEAR, FAR), fov_overlap(there, there, NEAR, FAR)
    assert np.abs(first - second).max() <= 1e-6
    for strategy in STRATEGIES:
        config = rule_of(strategy=strategy, max_context=5)
        answers = [retrieve(b[:50], b[52:56], config, recent=49, seed=seed) for b in (bank, moved)]
        if strategy != "paper":  # its yes/no rays flip at yaw difference zero: a standing camera is a coin toss
            assert answers[0].frame_ids.tolist() == answers[1].frame_ids.tolist()


@pytest.mark.parametrize("depths", [(0.0, 1.0), (2.0, 1.0), (1.0, np.inf)])
def test_impossible_depths_are_refused(depths: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="near"):
        fov_overlap(view(), view(), *depths)


# --- coverage ---------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(SEEDS)
def test_explained_equals_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = rule_of(parallax_rad=rng.uniform(0.2, 1.5), scale_band=(rng.uniform(0.2, 1), rng.uniform(1, 4)))
    keys, others = random_views(rng, 2), random_views(rng, 40, box_m=6.0)
    fast = explained(target_samples(keys, config.near_m, config.far_m), others, config)
    points = reference.samples(keys, config)
    centre = np.mean([p for p, _ in points], axis=0)
    unsure = 0
    for i in range(40):
        for s, (p, apex) in enumerate(points):
            slow = reference.explains_in_single_precision(others, i, p, apex, config, centre)
            unsure += slow is None
            assert slow is None or fast[i, s] == slow
    assert fast.any() and unsure < 0.001 * fast.size


@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    st.integers(1, 10),
    st.sampled_from([0.0, 0.01, 0.1]),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([None, 0.15, 0.5]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_coverage_equals_plain_greedy(
    seed: int, size: int, min_gain: float, with_recent: bool, layers: int, fill: float | None, given_share: float
) -> None:
    rng = np.random.default_rng(seed)
    bank = walk(seed, 90)
    cameras, target = bank[:80], bank[82:86]
    recent = 79 if with_recent else None
    known = rng.random(80) < given_share
    config = rule_of(
        max_context=size, min_gain=min_gain, layers=layers, fill_share=fill, alike_m=rng.choice([0.01, 0.2, 2.0])
    )
    answer = retrieve(Candidates(cameras, recorded=known), target, config, recent=recent)
    basis = ground_basis(cameras)
    views, keys = planar(cameras, basis), planar(target, basis)[key_rows(4)]
    share = fov_overlap(keys[ranking_rows(keys, FAR)], views, NEAR, FAR).mean(0)
    passing = {i: float(share[i]) for i in range(80) if share[i] > MIN_OVERLAP and i != recent}
    picks, gains = reference.coverage(views, keys, passing, recent, size - with_recent, config, known.tolist())
    assert answer.frame_ids.tolist() == picks + ([79] if with_recent else [])
    assert answer.scores[: len(gains)].tolist() == pytest.approx(gains)
    assert [i for i in answer.candidates.tolist() if i != recent] == list(passing)
    if given_share == 1.0:  # recorded frames all count alike, whether one says so or not
        assert retrieve(cameras, target, config, recent=recent).frame_ids.tolist() == answer.frame_ids.tolist()


def test_cover_prefers_gain_then_overlap_then_the_earlier_row() -> None:
    claims = np.zeros((5, 100), bool)
    claims[0, :10] = claims[1, :10] = claims[2, :10] = True  # equal: row 1 has the larger tie-break
    claims[3, 5:40] = True
    claims[4, 90:] = True  # equal to row 0 and 2 in gain after row 3, smaller tie-break than none
    tie = np.array([0.2, 0.5, 0.5, 0.0, 0.1])

    def picked(budget: int, least: float, rows: int = 5) -> tuple[list[int], list[float]]:
        offer = Offer(
            claims=claims[:rows], poses=9.0 * np.arange(rows)[None], recorded=np.zeros(rows, bool), tie_break=tie[:rows]
        )
        found, scores = cover(offer, budget, rule_of(layers=1, fill_share=None, min_gain=least).coverage)
        return found, scores.tolist()

    assert picked(5, 0.01) == ([3, 4, 1], [0.35, 0.1, 0.05])
    assert picked(5, 0.08) == ([3, 4], [0.35, 0.1])
    assert picked(1, 0.01) == ([3], [0.35])
    assert picked(3, 0.01, rows=0) == ([], [])
    assert picked(3, 0.01, rows=1) == ([0], [0.1])


def test_on_a_straight_way_the_context_is_no_row_of_neighbours() -> None:
    """80 frames straight ahead from one recorded picture: neighbours of a chosen frame are left out, every slot is used
    as soon as there are views enough, and the recorded picture stays while it shows enough of the target."""
    way = look(np.c_[0.15 * np.arange(84), np.zeros((84, 2))], np.zeros(84), K, 160, 96)
    recorded = np.arange(84) == 0
    for strategy in ("coverage", "visible", "frustum"):
        rule = rule_of(strategy=strategy)
        for now in range(4, 80, 4):
            found = retrieve(Candidates(way[:now], recorded=recorded[:now]), way[now : now + 4], rule, recent=now - 1)
            picked = np.sort(found.frame_ids)
            apart_m = 0.15 * np.diff(picked[1:] if picked[0] == 0 else picked)
            assert (apart_m > rule.coverage.alike_m).all()
            assert 0 in picked or now > 24, "the first picture shows enough of the target until it is 4 m behind"
            assert len(picked) == 8 or now < 40
            bare = retrieve(way[:now], way[now : now + 4], rule_of(rule, fill_share=None), recent=now - 1)
            assert len(bare.frame_ids) < 5, "the layers alone leave slots free"


def test_standing_still_the_given_picture_stays_and_copies_of_it_do_not_crowd_in() -> None:
    still = look(np.zeros((40, 3)), np.zeros(40), K, 160, 96)
    for strategy in ("coverage", "frustum"):
        found = retrieve(
            Candidates(still[:36], recorded=np.arange(36) < 1), still[36:], rule_of(strategy=strategy), recent=35
        )
        assert found.frame_ids.tolist() == [0, 35]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["coverage", "visible", "frustum"]), st.booleans())
def test_no_two_generated_frames_of_a_context_are_near_duplicates(seed: int, strategy: str, filled: bool) -> None:
    rng = np.random.default_rng(seed)
    path = walk(seed, 84)
    rule = rule_of(strategy=strategy, fill_share=0.15 if filled else None, max_context=12)
    known = rng.random(80) < 0.2
    found = retrieve(Candidates(path[:80], recorded=known), path[80:], rule, recent=79)
    views = planar(path, ground_basis(path))
    for one, a in enumerate(found.frame_ids):
        for b in found.frame_ids[:one]:
            alike = reference.apart(views, int(a), int(b), rule) <= 1 - 1e-5
            assert not alike or known[a] != known[b]
    more = set(
        retrieve(
            Candidates(path[:80], recorded=known), path[80:], rule_of(rule, fill_share=0.0), recent=79
        ).frame_ids.tolist()
    )
    assert set(found.frame_ids.tolist()) <= more or filled


def test_a_look_back_recalls_what_was_seen_there_and_nothing_twice() -> None:
    """Turning once around on the spot, then on to where the turn began: to explain all once, one old frame is enough,
    not its neighbours. Every further layer explains it once more, with another frame."""
    yaw = np.radians(np.arange(0, 330, 3.0))
    bank = look([0, 0, 0], yaw, K, 160, 96)
    target = look([0, 0, 0], np.radians([360.0]), K, 160, 96)
    answer = retrieve(bank, target, rule_of(layers=1, fill_share=None), recent=len(bank) - 1)
    assert answer.frame_ids.tolist() == [0, len(bank) - 1]
    three = retrieve(bank, target, rule_of(layers=3, fill_share=None), recent=len(bank) - 1)
    assert three.frame_ids.tolist()[0] == 0 and len(three.frame_ids) > 2
    assert (np.minimum(yaw, 2 * np.pi - yaw)[three.frame_ids[:-1]] < np.radians(70)).all()
    paper = retrieve(bank, target, rule_of(strategy="paper"), recent=len(bank) - 1)
    turn = np.abs((yaw[paper.candidates] + np.pi) % (2 * np.pi) - np.pi)
    assert (turn < np.radians(70.1)).all() and len(paper.candidates) > 20
    published = retrieve(bank, target, rule_of(strategy="paper", paper_as_published=True), recent=len(bank) - 1)
    assert len(published.candidates) == 0  # the published rule is blind here


def test_new_territory_needs_no_memory() -> None:
    bank = look(np.c_[np.arange(30) * 0.2, np.zeros(30), np.zeros(30)], np.zeros(30), K, 160, 96)
    target = look([-1.0, 0, 0], np.pi, K, 160, 96)
    for strategy in ("coverage", "paper"):
        answer = retrieve(bank, target, rule_of(strategy=strategy), recent=29)
        assert answer.frame_ids.tolist() == [29] and len(answer.candidates) == 0


def test_all_key_poses_rank_when_the_chunk_turns_far() -> None:
    yaw = np.radians([0.0, 60.0, 120.0])
    heading = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    turning = PlanarViews(np.zeros((3, 2)), heading, np.full(3, 0.5))
    assert ranking_rows(turning, FAR).tolist() == [0, 1, 2]
    assert ranking_rows(turning[np.array([1, 1, 1])], FAR).tolist() == [1]


# --- the paper's rule -------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS, st.booleans(), st.sampled_from([None, 6.0]))
def test_paper_rule_equals_loop(seed: int, as_published: bool, far_m: float | None) -> None:
    rng = np.random.default_rng(seed)
    config = rule_of(strategy="paper", paper_as_published=as_published, paper_far_m=far_m)
    target, others = random_views(rng, 4, 4.0), random_views(rng, 40, 4.0)
    others.heading[:8], others.half_width_tan[:8] = target.heading[0], target.half_width_tan[0]  # parallel
    others.origin[8:16] = target.origin[1]  # turned on the spot
    fast = paper_overlap(target, others, config.paper)
    slow = [[reference.paper_pair(target, i, others, j, config) for j in range(40)] for i in range(4)]
    assert fast.tolist() == slow and (as_published or fast.any())


def test_paper_rule_on_the_cases_of_figure_4_and_its_blind_spots() -> None:
    rule, published = rule_of(), rule_of(paper_as_published=True)

    def test(config: RetrievalConfig, other: PlanarViews) -> bool:
        return bool(paper_overlap(view(k=0.5), other, config.paper)[0, 0])

    crossing = view(0.0, -3.0, 25.0, 0.5)  # from the right, turned to the left: both pairs meet ahead
    assert test(rule, crossing) and test(published, crossing)
    assert not test(rule, view(-3.0, 0.0, 180.0, 0.5))  # back to back
    assert not test(rule, view(0.0, 3.0, 25.0, 0.5))  # from the left, turned away
    too_near = view(0.0, -1.1, 40.0, 0.5)
    assert not test(published, too_near) and not test(rule, too_near)  # figure 4 (d)
    assert test(rule_of(paper_as_published=True, paper_near_m=0.0), too_near)
    assert not test(rule_of(paper_far_m=4.0), crossing)
    assert test(rule, view(2.0, 0.0, 0.0, 0.5)) and not test(published, view(2.0, 0.0, 0.0, 0.5))  # straight ahead
    assert not test(rule, view(0.0, 2.0, 0.0, 0.5))  # parallel, but side by side
    assert test(rule, view(yaw_deg=50, k=0.5)) and not test(published, view(yaw_deg=50, k=0.5))  # 53 degrees of view
    assert not test(rule, view(yaw_deg=54, k=0.5))


def published_walk(pieces: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A walk of our own made as the public pose file is: pieces of 76 steps, eased at both ends, 3 to 6 m and up to 60
    degrees each, inside a box of 9 m, heading independent of the way; centimetres [T, 3] and degrees [T, 3]."""
    rng = np.random.default_rng(seed)
    corners, yaw = [np.zeros(2)], [105.0]
    while len(corners) <= pieces:
        step = rng.uniform(300, 600) * np.array([np.cos(a := rng.uniform(-np.pi, np.pi)), np.sin(a)])
        if np.abs(corners[-1] + step).max() < 450:
            corners.append(corners[-1] + step)
            yaw.append(yaw[-1] + rng.uniform(-60, 60))
    share = np.arange(pieces * 76 + 1) / 76
    piece = np.minimum(share.astype(int), pieces - 1)
    eased = (1 - np.cos(np.pi * (share - piece)))[:, None] / 2
    corner, turn = np.array(corners), np.array(yaw)
    place = corner[piece] * (1 - eased) + corner[piece + 1] * eased
    heading = np.interp(share, np.arange(pieces + 1), turn)
    level = np.zeros(len(share))
    return np.column_stack([place, level - 200]), np.column_stack([level, level, heading])


def test_the_published_rule_finds_the_runs_that_published_labels_have(tmp_path) -> None:
    """On poses in the published format: what the labels of the data set were found to be. Left with left rays and right
    with right ones, at least 1 m from the target camera, at any distance from the other one, no far limit, no special
    cases; runs of tens of frames, past and future, and neighbours in time only where the camera turned enough."""
    place, angles = published_walk(20, seed=4)
    frames = {
        str(i): {"position": list(p), "rotation": list(a), "scale": [1.0, 1.0, 1.0]}
        for i, (p, a) in enumerate(zip(place.tolist(), angles.tolist(), strict=True))
    }
    (tmp_path / "walk_0.json").write_text(json.dumps({"CineCameraActor": frames}))
    bank = read_unreal_json(tmp_path / "walk_0.json")
    rule = rule_of(strategy="paper", paper_as_published=True)
    views, query = planar(bank, ground_basis(bank)), 760
    goal = views[np.array([query])]
    found = retrieve(bank, bank[[query]], rule, recent=None).candidates.tolist()
    plain = [i for i in range(len(bank)) if reference.paper_pair(goal, 0, views, i, rule)]
    assert found == plain
    assert [(int(run[0]), int(run[-1])) for run in runs(np.array(found))] == [
        (278, 314), (451, 540), (674, 758), (764, 856), (977, 998), (1128, 1129), (1159, 1177), (1250, 1503)
    ]  # fmt: skip

    def with_limits(near_m: float, far_m: float | None) -> set[int]:
        limits = rule_of(rule, paper_near_m=near_m, paper_far_m=far_m)
        return set(retrieve(bank, bank[[query]], limits, recent=None).candidates.tolist())

    assert with_limits(0.0, None) - set(found) > {query - 1, query + 1}, "neighbours meet within a metre"
    assert set(found) - with_limits(1.0, 100.0), "nearly parallel views that meet far away are listed"
    ours = set(retrieve(bank, bank[[query]], rule_of(rule, paper_as_published=False), recent=None).candidates.tolist())
    assert ours > {*found, query - 1, query + 1}, "the special cases let in what stands in the same place"


def test_runs_are_thinned_to_one_frame_each_then_to_the_budget() -> None:
    groups = [[0, 1, 2, 3], [7], [10, 11], [20, 21, 22], [30]]
    candidates = np.array(sum(groups, []))
    assert [run.tolist() for run in runs(candidates)] == groups
    origin = np.c_[np.arange(40.0), np.zeros(40)]
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kept = thin_runs(candidates, origin, origin[39], 39, 5, 0.25, rng).tolist()
        assert all(len(set(group) & set(kept)) == 1 for group in groups)
        seen.update(kept)
        few = thin_runs(candidates, origin, origin[39], 39, 4, 0.25, rng).tolist()
        assert len(set(few)) == 4 and few[0] in groups[0]  # one far slot: furthest in both space and time
    assert seen == set(candidates.tolist())  # any frame of a run may be drawn
    assert thin_runs(candidates, origin, origin[39], 39, 11, 0.25, rng).tolist() == candidates.tolist()
    assert len(thin_runs(candidates, origin, origin[39], 39, 0, 0.25, rng)) == 0


# --- promises to callers ----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(STRATEGIES), st.integers(1, 12), st.integers(1, 9), st.booleans(), st.booleans())
def test_promises(seed: int, strategy: str, size: int, frames: int, with_recent: bool, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 60))
    path = walk(seed, number + frames)
    bank, target = path[:number], path[number:]
    recent = int(rng.integers(number)) if with_recent else None
    allowed = rng.random(number) < 0.5 if masked else None
    config = rule_of(strategy=strategy, max_context=size)
    answer = retrieve(Candidates(bank, allowed=allowed), target, config, recent=recent, seed=seed)
    again = retrieve(Candidates(bank, allowed=allowed), target, config, recent=recent, seed=seed)
    picked = answer.frame_ids.tolist()
    assert picked == again.frame_ids.tolist() and answer.scores.tolist() == again.scores.tolist()
    assert answer.frame_ids.dtype == np.int64 and answer.scores.dtype == np.float64
    assert answer.candidates.dtype == np.int64 and (np.diff(answer.candidates) > 0).all()
    assert len(picked) == len(set(picked)) == len(answer.scores) <= size
    assert (answer.scores >= 0).all() and (answer.scores <= 1).all()
    retrieved = picked
    if recent is not None:
        assert picked[-1] == recent
        retrieved = picked[:-1]
    assert set(retrieved) <= set(answer.candidates.tolist())
    if allowed is not None:
        assert allowed[answer.candidates].all()
    if strategy in ("random", "first") or (strategy == "recent" and recent is None):
        room = size - (recent is not None)
        others = [index for index in answer.candidates.tolist() if index != recent]
        assert len(retrieved) == min(room, len(others))


def test_baselines_take_what_their_names_say() -> None:
    bank, target = walk(0, 20), walk(0, 24)[20:]

    def choose(strategy: str, **kwargs: object) -> Retrieval:
        config = rule_of(strategy=strategy, max_context=4)
        return retrieve(bank, target, config, **({"recent": 15} | kwargs))  # type: ignore[arg-type]

    assert choose("recent").frame_ids.tolist() == [12, 13, 14, 15]
    assert choose("recent", recent=1).frame_ids.tolist() == [0, 1]
    assert choose("recent", recent=None).frame_ids.tolist() == [16, 17, 18, 19]
    assert choose("first").frame_ids.tolist() == [0, 1, 2, 15]
    assert choose("first", recent=0).frame_ids.tolist() == [1, 2, 3, 0]
    drawn = {tuple(choose("random", seed=seed).frame_ids.tolist()) for seed in range(10)}
    assert len(drawn) > 5 and all(d[-1] == 15 for d in drawn)


def test_empty_bank_gives_empty_context() -> None:
    bank = walk(0, 3)
    empty = Cameras(bank.c2w[:0], bank.K[:0], bank.width, bank.height)
    for strategy in STRATEGIES:
        answer = retrieve(empty, bank, rule_of(strategy=strategy), recent=None)
        assert len(answer.frame_ids) == len(answer.scores) == len(answer.candidates) == 0


def test_bad_input_is_refused() -> None:
    bank = walk(0, 5)
    config = rule_of()
    for wrong in (
        {"strategy": "newest"},
        {"max_context": 0},
        {"near_m": 0.0},
        {"near_m": 20.0},
        {"scale_band": (1.5, 2.0)},
        {"parallax_rad": 0.0},
        {"min_gain": 1.5},
        {"fill_share": -0.1},
        {"alike_m": 0.0},
        {"alike_rad": 4.0},
        {"paper_far_m": 0.5},
    ):
        with pytest.raises(UserError):
            rule_of(**wrong)
    with pytest.raises(UserError, match="recent frame 5"):
        retrieve(bank, bank[:1], config, recent=5)
    with pytest.raises(UserError, match="recent frame -1"):
        retrieve(bank, bank[:1], config, recent=-1)
    with pytest.raises(UserError, match="target"):
        retrieve(bank, bank[:0], config, recent=None)
    masks: list[Any] = [np.ones(4, bool), np.ones(5)]
    for mask in masks:
        with pytest.raises(UserError, match="allowed"):
            retrieve(Candidates(bank, allowed=mask), bank[:1], config, recent=None)
        with pytest.raises(UserError, match="recorded"):
            retrieve(Candidates(bank, recorded=mask), bank[:1], config, recent=None)
    with pytest.raises(UserError, match="depths or bins"):
        retrieve(bank, bank[:1], config, recent=None, index=ViewIndex(rule_of(far_m=9.0)))


def test_mask_is_not_changed() -> None:
    bank, allowed = walk(0, 5), np.ones(5, bool)
    retrieve(Candidates(bank, allowed=allowed), bank[:1], rule_of(), recent=4)
    assert allowed.all()


def test_import_is_light() -> None:
    heavy = "m for m in ('torch', 'scipy', 'matplotlib') if m in sys.modules"
    code = f"import sys, context_as_memory.retrieval; print([{heavy}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_given_frames_go_before_generated_ones_of_about_equal_gain() -> None:
    cameras = look(np.zeros((12, 3)), np.linspace(-0.05, 0.05, 12), pinhole(90, 160, 96), 160, 96)
    target = look(np.zeros((1, 3)), np.zeros(1), pinhole(90, 160, 96), 160, 96)
    recorded = np.arange(12) < 2  # the oldest, and a little aside

    def picked(bonus: float) -> list[int]:
        config = rule_of(recorded_bonus=bonus, max_context=2, fill_share=None, alike_m=1e-6, alike_rad=1e-6)
        return retrieve(Candidates(cameras, recorded=recorded), target, config, recent=None).frame_ids.tolist()

    assert not set(picked(0.0)) & {0, 1} and set(picked(0.15)) & {0, 1}
    away = look(np.zeros((12, 3)), np.full(12, np.pi), pinhole(90, 160, 96), 160, 96)
    mixed = Cameras.concat([away[:2], cameras[2:]])  # recorded, but they show nothing of it
    config = rule_of(recorded_bonus=0.15, max_context=4)
    assert not set(retrieve(Candidates(mixed, recorded=recorded), target, config, recent=None).frame_ids.tolist()) & {
        0,
        1,
    }
