"""The one entry: cameras in, frame numbers out."""

import numpy as np

from context_as_memory.camera import Cameras, checked_profiles, planar
from context_as_memory.errors import UserError
from context_as_memory.retrieval.config import Bools, Floats, Indices, Retrieval, RetrievalConfig, take
from context_as_memory.retrieval.coverage import coverage, key_rows, ranking_rows
from context_as_memory.retrieval.frustum import coverage_in_space, frustum_overlap, frustum_samples
from context_as_memory.retrieval.index import AllViews, Index
from context_as_memory.retrieval.overlap import MIN_OVERLAP, fov_overlap
from context_as_memory.retrieval.paper import paper_overlap, thin_runs


def retrieve(
    bank: Cameras,
    target: Cameras,
    config: RetrievalConfig,
    *,
    recent: int | None,
    allowed: Bools | None = None,
    index: Index | None = None,
    profiles_m: np.ndarray | None = None,
    kept: Indices | None = None,
    given: Bools | None = None,
    seed: int = 0,
) -> Retrieval:
    """Chooses the context for a chunk.

    bank: cameras of all N stored frames. target: cameras of the T >= 1 frames to be generated. recent: index of the
    most recent frame, always in the context and listed last; None: there is none. allowed: bool [N], entries that may
    be retrieved (all if None; `recent` needs no permission). index: an index kept from call to call, brought up to date
    with the bank here; `coverage` then costs about the same however many frames there are. profiles_m: [N, PROFILE]
    depths along each frame's horizon, metres, inf where unknown; `visible` without any is `coverage`. kept: entries
    whose keys and values are at hand. given: bool [N], entries that were not generated. seed: for the random draws
    of `paper` and `random`. Raises UserError for a bad index, mask or empty target.
    """
    number = len(bank)
    if len(target) == 0:
        raise UserError("no target cameras: give the camera of at least one frame to be generated")
    if recent is not None and not 0 <= recent < number:
        raise UserError(f"recent frame {recent} is not in the bank: its {number} frames are numbered from 0")
    if allowed is not None and (allowed.shape != (number,) or allowed.dtype != np.bool_):
        raise UserError(f"allowed is {allowed.dtype} {list(allowed.shape)}: give {number} booleans, one a frame")
    profiles = None
    if config.strategy == "visible" and profiles_m is not None:
        profiles = checked_profiles(profiles_m, number)
    if number == 0:
        return Retrieval(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))

    looking: Index = AllViews() if index is None else index
    looking.update(bank)
    basis, views = looking.basis, looking.all_views()
    goals = planar(target, basis)
    key = key_rows(len(target))
    keys = take(goals, key)
    rank = ranking_rows(keys, config.far_m)
    rankers = take(keys, rank)
    covers = config.strategy in ("coverage", "visible", "frustum")
    reaching = target[key if config.strategy == "frustum" else key[rank]]
    pool = looking.within_reach(reaching) if covers else np.arange(number)
    if allowed is not None:
        pool = pool[allowed[pool]]
    last_eligible = recent is not None and (allowed is None or bool(allowed[recent]))
    pool = pool[pool != recent]  # it has a slot of its own
    budget = config.max_context - (recent is not None)
    rng = np.random.default_rng(seed)
    last = np.array([], np.int64) if recent is None else np.array([recent])

    def overlap(indices: Indices) -> Floats:
        return np.asarray(fov_overlap(rankers, take(views, indices), config.near_m, config.far_m).mean(0))

    candidates: Indices = pool
    recent_passes: Bools = np.ones(len(last), bool)
    if covers:
        if config.strategy == "frustum":
            samples = frustum_samples(target[key], config)
            shared = frustum_overlap(samples[0], np.append(pool, last), bank, config)
        else:
            shared = overlap(np.append(pool, last))
        passed = np.flatnonzero(shared[: len(pool)] > MIN_OVERLAP)
        candidates = pool[passed]
        if config.strategy == "frustum":
            picks, scores = coverage_in_space(
                samples, bank, candidates, shared[passed], last, budget, config, kept, given
            )
        else:
            picks, scores = coverage(
                views,
                keys,
                candidates,
                shared[passed],
                recent,
                budget,
                config,
                profiles_m=profiles,
                kept=kept,
                given=given,
            )
        scores = np.append(scores, shared[len(pool) :])
        recent_passes = np.asarray(shared[len(pool) :] > MIN_OVERLAP)
    elif config.strategy == "paper":
        share = paper_overlap(goals, take(views, pool), config).mean(0)
        candidates = pool[share > 0]
        picks = thin_runs(candidates, views.origin, goals.origin.mean(0), recent, budget, config.paper_far_share, rng)
        scores = np.append(share[np.searchsorted(pool, picks)], overlap(last))
        recent_passes = np.asarray(paper_overlap(goals, take(views, last), config).any(0))
    else:
        if config.strategy == "recent":
            older = pool if recent is None else pool[pool < recent]
            picks = older[max(0, len(older) - budget) :]
        elif config.strategy == "random":
            picks = rng.permutation(pool)[:budget]
        else:
            picks = pool[:budget]
        scores = overlap(np.append(picks, last))
    if last_eligible:
        candidates = np.sort(np.append(candidates, last[recent_passes]))
    return Retrieval(np.append(picks, last).astype(np.int64), scores.astype(np.float64), candidates.astype(np.int64))
