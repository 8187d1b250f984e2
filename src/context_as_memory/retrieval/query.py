"""What a strategy is asked for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from context_as_memory.camera import Cameras, PlanarViews
from context_as_memory.retrieval.config import Bools, Indices, RetrievalConfig, take
from context_as_memory.retrieval.overlap import fov_overlap, touching_overlap


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a strategy is asked for: at most `budget` entries of `pool`."""

    config: RetrievalConfig
    bank: Cameras
    views: PlanarViews  # of all entries of the bank
    pool: Indices  # entries that may be retrieved, ascending, without the most recent frame
    last: Indices  # the most recent frame, [1], or [0] if there is none
    budget: int
    target: Cameras
    key: Indices  # which of its poses are its key poses
    goals: PlanarViews  # of all poses of the target
    key_goals: PlanarViews
    rank_goals: PlanarViews  # of the key poses by which candidates are ranked
    profiles_m: np.ndarray | None
    given: Bools  # which entries were not generated, [N]
    seed: int

    def overlap(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Exact overlap of entries with the target: the mean over the ranking poses."""
        seen, near_m, far_m = take(self.views, entries), self.config.near_m, self.config.far_m
        if len(self.rank_goals.origin) == 1:
            return touching_overlap(self.rank_goals, seen, near_m, far_m)
        return np.asarray(fov_overlap(self.rank_goals, seen, near_m, far_m).mean(0))
