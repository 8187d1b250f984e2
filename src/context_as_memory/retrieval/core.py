"""The one entry: cameras in, frame numbers out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from context_as_memory.camera import Cameras, checked_profiles, planar
from context_as_memory.errors import UserError
from context_as_memory.retrieval.config import Bools, Floats, Indices, Retrieval, RetrievalConfig, take
from context_as_memory.retrieval.coverage import coverage, key_rows, ranking_rows
from context_as_memory.retrieval.frustum import coverage_in_space, frustum_overlap, frustum_samples
from context_as_memory.retrieval.index import AllViews, Index
from context_as_memory.retrieval.overlap import MIN_OVERLAP
from context_as_memory.retrieval.paper import paper_overlap, thin_runs
from context_as_memory.retrieval.query import Query


def retrieve(
    bank: Cameras,
    target: Cameras,
    config: RetrievalConfig,
    *,
    recent: int | None,
    allowed: Bools | None = None,
    index: Index | None = None,
    profiles_m: np.ndarray | None = None,
    given: Bools | None = None,
    seed: int = 0,
) -> Retrieval:
    """Chooses the context for a chunk.

    bank: cameras of all N stored frames. target: cameras of the T >= 1 frames to be generated. recent: index of the
    most recent frame, always in the context and listed last; None: there is none. allowed: bool [N], entries that may
    be retrieved (all if None; `recent` needs no permission). index: an index kept from call to call, brought up to date
    with the bank here; `coverage` then costs about the same however many frames there are. profiles_m: [N, PROFILE]
    depths along each frame's horizon, metres, inf where unknown; `visible` without any is `coverage`. given: bool [N],
    entries that were not generated (None: all count alike); with an index the same in every call. seed: for the random
    draws of `paper` and `random`. Raises UserError for a bad index, mask or empty target.
    """
    number = len(bank)
    if len(target) == 0:
        raise UserError("no target cameras: give the camera of at least one frame to be generated")
    if recent is not None and not 0 <= recent < number:
        raise UserError(f"recent frame {recent} is not in the bank: its {number} frames are numbered from 0")
    for name, mask in (("allowed", allowed), ("given", given)):
        if mask is not None and (mask.shape != (number,) or mask.dtype != np.bool_):
            raise UserError(f"{name} is {mask.dtype} {list(mask.shape)}: give {number} booleans, one a frame")
    profiles = None
    if config.strategy == "visible" and profiles_m is not None:
        profiles = checked_profiles(profiles_m, number)
    if number == 0:
        return Retrieval(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))

    looking: Index = AllViews() if index is None else index
    if not looking.fits(config):
        raise UserError("this index was made for a rule with other depths or bins; make one for this rule")
    looking.update(bank, given)
    key = key_rows(len(target))
    goals = planar(target, looking.basis)
    key_goals = take(goals, key)
    rank = key[ranking_rows(key_goals, config.far_m)]
    if config.strategy in ("coverage", "visible", "frustum"):
        pool = looking.within_reach(target[key if config.strategy == "frustum" else rank], allowed)
    else:
        pool = np.arange(number) if allowed is None else np.flatnonzero(allowed)
    last = np.array([], np.int64) if recent is None else np.array([recent])
    query = Query(
        config=config,
        bank=bank,
        views=looking.all_views(),
        pool=pool[pool != recent],  # it has a slot of its own
        last=last,
        budget=config.max_context - len(last),
        target=target,
        key=key,
        goals=goals,
        key_goals=key_goals,
        rank_goals=take(goals, rank),
        profiles_m=profiles,
        given=np.zeros(number, bool) if given is None else given,
        seed=seed,
    )
    answer = _STRATEGIES[config.strategy](query)
    candidates = answer.candidates
    if recent is not None and (allowed is None or allowed[recent]):
        candidates = np.sort(np.append(candidates, last[answer.last_passes]))
    picks, scores = np.append(answer.picks, last), np.append(answer.scores, answer.last_scores)
    return Retrieval(picks.astype(np.int64), scores.astype(np.float64), candidates.astype(np.int64))


@dataclass(frozen=True)
class _Answer:
    """What a strategy picks and which entries pass its rule at all; the most recent frame ([1] or [0]) apart."""

    picks: Indices
    scores: Floats
    candidates: Indices
    last_scores: Floats
    last_passes: Bools


def _coverage(query: Query) -> _Answer:
    """`coverage`, and with profiles `visible`."""
    shared = query.overlap(np.append(query.pool, query.last))
    ours, last = shared[: len(query.pool)], shared[len(query.pool) :]
    passed = np.flatnonzero(ours > MIN_OVERLAP)
    picks, scores = coverage(query, query.pool[passed], ours[passed])
    return _Answer(picks, scores, query.pool[passed], last, last > MIN_OVERLAP)


def _frustum(query: Query) -> _Answer:
    samples = frustum_samples(query.target[query.key], query.config)
    shared = frustum_overlap(samples[0], np.append(query.pool, query.last), query.bank, query.config)
    ours, last = shared[: len(query.pool)], shared[len(query.pool) :]
    passed = np.flatnonzero(ours > MIN_OVERLAP)
    picks, scores = coverage_in_space(query, samples, query.pool[passed], ours[passed])
    return _Answer(picks, scores, query.pool[passed], last, last > MIN_OVERLAP)


def _paper(query: Query) -> _Answer:
    config, views, goals = query.config, query.views, query.goals
    share = paper_overlap(goals, take(views, query.pool), config).mean(0)
    candidates = query.pool[share > 0]
    recent = int(query.last[0]) if len(query.last) else None
    centre = goals.origin.mean(0)
    rng = np.random.default_rng(query.seed)
    picks = thin_runs(candidates, views.origin, centre, recent, query.budget, config.paper_far_share, rng)
    scores = share[np.searchsorted(query.pool, picks)]
    last_passes = np.asarray(paper_overlap(goals, take(views, query.last), config).any(0))
    return _Answer(picks, scores, candidates, query.overlap(query.last), last_passes)


def _recent(query: Query) -> _Answer:
    older = query.pool[query.pool < query.last[0]] if len(query.last) else query.pool
    return _whatever(query, older[max(0, len(older) - query.budget) :])


def _random(query: Query) -> _Answer:
    return _whatever(query, np.random.default_rng(query.seed).permutation(query.pool)[: query.budget])


def _first(query: Query) -> _Answer:
    return _whatever(query, query.pool[: query.budget])


def _whatever(query: Query, picks: Indices) -> _Answer:
    """The answer of a strategy that does not ask what the picks show."""
    every: Bools = np.ones(len(query.last), bool)
    return _Answer(picks, query.overlap(picks), query.pool, query.overlap(query.last), every)


_STRATEGIES: dict[str, Callable[[Query], _Answer]] = {
    "coverage": _coverage,
    "visible": _coverage,
    "frustum": _frustum,
    "paper": _paper,
    "recent": _recent,
    "random": _random,
    "first": _first,
}
