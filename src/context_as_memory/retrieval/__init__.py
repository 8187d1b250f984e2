"""Which stored frames go into the context of the next chunk? Decided from camera poses alone (numpy only).

A frame's view, seen from above, is a wedge: the trapezoid between a near and a far depth inside its horizontal field of
view. Two frames can only show the same things where their wedges overlap. Seven strategies:

`coverage`  exact wedge overlap, then greedy residual coverage: each pick must show parts of the target views that the
            picks before it (and the most recent frame) do not show from a similar direction and distance. Near-
            duplicates of a pick are left out; slots that stay free go to other frames that show a good part of the
            target. The default.
`visible`   the same, where depth along the horizon is known: over the surfaces that the target will see, and by what
            each frame really shows of them.
`frustum`   the same in space, by sample points, for cameras that fly, pitch and roll.
`paper`     the rule of Context-as-Memory (arXiv 2506.03141, section 3.3 and figure 4): both left and both right
            boundary rays of a pair meet; then one random frame of each run of consecutive survivors; then far ones.
`recent`    a sliding window over the newest frames (Diffusion Forcing, arXiv 2502.06764).
`random`    frames drawn without replacement.
`first`     the oldest frames.

Training, evaluation and use call the same `retrieve`; nothing that is kept to save time has a vote in it.

Every answer is deterministic given the seed, holds no index twice, and may be shorter than asked for: a context padded
with frames that show nothing of the target costs time and teaches nothing.
"""

from context_as_memory.retrieval.choose import retrieve
from context_as_memory.retrieval.ground import explained, target_samples
from context_as_memory.retrieval.index import AllViews, CachedIndex, Index, ViewIndex
from context_as_memory.retrieval.rule import (
    STRATEGIES,
    Candidates,
    Coverage,
    Crowd,
    Paper,
    Retrieval,
    RetrievalConfig,
)

__all__ = [
    "STRATEGIES",
    "AllViews",
    "Candidates",
    "Coverage",
    "Crowd",
    "Index",
    "CachedIndex",
    "Paper",
    "Retrieval",
    "RetrievalConfig",
    "ViewIndex",
    "explained",
    "retrieve",
    "target_samples",
]
