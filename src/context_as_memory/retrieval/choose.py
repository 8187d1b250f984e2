"""The one entry: cameras in, frame numbers out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.retrieval.cover import Offer, cover, shortlist
from context_as_memory.retrieval.ground import Geometry, Ground
from context_as_memory.retrieval.index import AllViews, Index
from context_as_memory.retrieval.overlap import MIN_OVERLAP
from context_as_memory.retrieval.paper import paper_overlap, thin_runs
from context_as_memory.retrieval.rule import Bools, Candidates, Floats, Indices, Retrieval, RetrievalConfig
from context_as_memory.retrieval.space import Space


def retrieve(
    bank: Cameras | Candidates,
    target: Cameras,
    config: RetrievalConfig,
    *,
    recent: int | None,
    index: Index | None = None,
    seed: int = 0,
) -> Retrieval:
    """Chooses the context for a chunk.

    bank: cameras of all N stored frames, or those and what else is known of them. target: cameras of the T >= 1 frames
    to be generated. recent: index of the most recent frame, always in the context and listed last; None: there is none.
    index: an index kept from call to call, brought up to date with the bank here; `coverage` then costs about the same
    however many there are, and `recorded` must be the same in every call. seed: for the random draws of `paper` and
    `random`. Raises UserError for a bad index, mask or empty target.
    """
    stored = bank if isinstance(bank, Candidates) else Candidates(bank)
    number = len(stored.cameras)
    if len(target) == 0:
        raise UserError("no target cameras: give the camera of at least one frame to be generated")
    if recent is not None and not 0 <= recent < number:
        raise UserError(f"recent frame {recent} is not in the bank: its {number} frames are numbered from 0")
    if number == 0:
        return Retrieval(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    looking: Index = AllViews() if index is None else index
    if not looking.fits(config):
        raise UserError("this index was made for a rule with other depths or bins; make one for this rule")
    looking.update(stored.cameras, stored.recorded)
    sight: Geometry = (
        Space(config, stored, target) if config.strategy == "frustum" else Ground(config, stored, target, looking)
    )
    strategy = _STRATEGIES[config.strategy]
    if strategy is _cover:
        pool = looking.within_reach(target[sight.ranking], stored.allowed)
    else:
        pool = np.arange(number) if stored.allowed is None else np.flatnonzero(stored.allowed)
    last = np.array([], np.int64) if recent is None else np.array([recent])
    pool = pool[pool != recent]  # it has a slot of its own
    query = _Slots(config, sight, pool, last, config.max_context - len(last), seed)
    answer = strategy(query)
    candidates = answer.candidates
    if recent is not None and (stored.allowed is None or stored.allowed[recent]):
        candidates = np.sort(np.append(candidates, last[answer.last_passes]))
    picks, scores = np.append(answer.picks, last), np.append(answer.scores, answer.last_scores)
    return Retrieval(picks.astype(np.int64), scores.astype(np.float64), candidates.astype(np.int64))


@dataclass(frozen=True)
class _Slots:
    """What a strategy is asked for: at most `budget` entries of `pool`."""

    config: RetrievalConfig
    sight: Geometry
    pool: Indices  # entries that may be retrieved, ascending, without the most recent frame
    last: Indices  # the most recent frame, [1], or [0] if there is none
    budget: int
    seed: int


@dataclass(frozen=True)
class _Answer:
    """What a strategy picks and which entries pass its rule at all; the most recent frame ([1] or [0]) apart."""

    picks: Indices
    scores: Floats
    candidates: Indices
    last_scores: Floats
    last_passes: Bools


def _cover(asked: _Slots) -> _Answer:
    """`coverage` and `visible` on the ground, `frustum` in space: greedy, over what is still unexplained."""
    sight, pool, last = asked.sight, asked.pool, asked.last
    shared = sight.overlap(np.append(pool, last))
    ours, last_scores = shared[: len(pool)], shared[len(pool) :]
    passed = np.flatnonzero(ours > MIN_OVERLAP)
    candidates = pool[passed]
    tie_break, best = shortlist(ours[passed], sight.shortlist)
    rows = candidates[::-1][best]
    entries = np.append(rows, last)
    offer = Offer(
        claims=sight.explains(sight.samples(rows), entries),
        poses=sight.places(entries),
        recorded=sight.recorded[entries],
        tie_break=tie_break[best],
    )
    picked, scores = cover(offer, asked.budget, asked.config.coverage)
    return _Answer(rows[picked], scores, candidates, last_scores, last_scores > MIN_OVERLAP)


def _paper(asked: _Slots) -> _Answer:
    rule, sight, pool, last = asked.config.paper, asked.sight, asked.pool, asked.last
    assert isinstance(sight, Ground)
    goals, views = sight.goals, sight.views
    share = paper_overlap(goals, views[pool], rule).mean(0)
    candidates = pool[share > 0]
    recent = int(last[0]) if len(last) else None
    rng = np.random.default_rng(asked.seed)
    picks = thin_runs(candidates, views.origin, goals.origin.mean(0), recent, asked.budget, rule.far_share, rng)
    scores = share[np.searchsorted(pool, picks)]
    last_passes = np.asarray(paper_overlap(goals, views[last], rule).any(0))
    return _Answer(picks, scores, candidates, sight.overlap(last), last_passes)


def _recent(asked: _Slots) -> _Answer:
    older = asked.pool[asked.pool < asked.last[0]] if len(asked.last) else asked.pool
    return _whatever(asked, older[max(0, len(older) - asked.budget) :])


def _random(asked: _Slots) -> _Answer:
    return _whatever(asked, np.random.default_rng(asked.seed).permutation(asked.pool)[: asked.budget])


def _first(asked: _Slots) -> _Answer:
    return _whatever(asked, asked.pool[: asked.budget])


def _whatever(asked: _Slots, picks: Indices) -> _Answer:
    """The answer of a strategy that does not ask what the picks show."""
    every: Bools = np.ones(len(asked.last), bool)
    return _Answer(picks, asked.sight.overlap(picks), asked.pool, asked.sight.overlap(asked.last), every)


_STRATEGIES: dict[str, Callable[[_Slots], _Answer]] = {
    "coverage": _cover,
    "visible": _cover,
    "frustum": _cover,
    "paper": _paper,
    "recent": _recent,
    "random": _random,
    "first": _first,
}
