"""Walks that must leave and come back, on own frames: protocol `gate`.

A walk counts only if the pictures left and came back. Around its farthest point the generated frames must look more
like the recorded ones there than like that of the start, and at the return more like the recorded ones there than like
that of the farthest point: by `GATE_DB` in PSNR each, the median over `GATE_FRAMES` frames. Pictures that are the same,
or noise, everywhere cannot pass: start and return look alike, so what they gain on one test they lose on the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from context_as_memory.camera import Cameras, ground_basis, planar
from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.metrics import psnr
from context_as_memory.evaluation.protocols.control import control_of
from context_as_memory.evaluation.protocols.scenes import recorded, spread
from context_as_memory.evaluation.returns import GRID, find_returns, visits
from context_as_memory.evaluation.suite.result import Measured, picture_scores
from context_as_memory.evaluation.suite.system import System
from context_as_memory.retrieval import RetrievalConfig, explained, target_samples

GATE_FRAMES = 5  # around the farthest point, and up to the return
GATE_DB = 1.0  # by so much more alike: far above what noise differs by, far below what the right picture does
REMEMBERED = 100  # recorded frames before a walk


@dataclass(frozen=True)
class GateWalk:
    """A recorded stretch that leaves a view and comes back to it: frame numbers of first visit, farthest point and
    return."""

    episode: Episode
    first: int
    away: int
    back: int

    @property
    def name(self) -> str:
        """Where the walk is, for the name of a clip."""
        return f"{self.episode.name}/{self.first}-{self.back}"


def choose_walks(
    episodes: Sequence[Episode], count: int, seed: int, *, shortest: int = 40, longest: int = 200
) -> list[GateWalk]:
    """Draw recorded stretches that come back after `shortest` to `longest` frames, evenly over the episodes."""
    rng = np.random.default_rng(seed)
    queues: list[list[GateWalk]] = []
    for episode in episodes:
        cameras = episode.cameras()
        found = []
        for visit in visits(find_returns(cameras)):
            first, back = int(visit.firsts[0]), int(visit.frames[0])
            if shortest <= back - first <= longest:
                found.append(GateWalk(episode, first, farthest(cameras, first, back), back))
        queues.append([found[i] for i in rng.permutation(len(found))])
    return spread(queues, count)


def farthest(cameras: Cameras, first: int, back: int) -> int:
    """The frame between `first` and `back` that shows least of the view of `first`; the middle one of several."""
    views = planar(cameras[first:back], ground_basis(cameras))
    config = RetrievalConfig()
    goal = planar(cameras[[first]], ground_basis(cameras))
    share = explained(target_samples(goal, config.near_m, config.far_m, *GRID), views, config).mean(axis=1)
    least = np.flatnonzero(share == share.min())
    return first + int(least[len(least) // 2])


def gate_margins_db(made: np.ndarray, frames: np.ndarray, walk: GateWalk) -> tuple[float, float]:
    """By how many dB frames [first + 1, back] as generated are more like where they should be than like where they
    should not: around the farthest point than the start, and at the return than the farthest point. Medians over
    `GATE_FRAMES` frames, judged by the recorded frames."""

    def margin(rows: np.ndarray, wrong: int) -> float:
        rows = rows[(rows > walk.first) & (rows <= walk.back)]
        ours = made[rows - walk.first - 1]
        elsewhere = np.broadcast_to(frames[wrong], ours.shape)
        return float(np.median(psnr(ours, frames[rows]) - psnr(ours, elsewhere)))

    around = walk.away + np.arange(GATE_FRAMES) - GATE_FRAMES // 2
    ending = walk.back - np.arange(GATE_FRAMES)
    return margin(around, walk.first), margin(ending, walk.away)


def measure_walk(system: System, walk: GateWalk, seed: int, networks: bool) -> Measured:
    """One walk on own frames with memory and with recent frames only; its film is that of `walk_film`."""
    frames, cameras = recorded(walk.episode)
    start = slice(max(0, walk.first + 1 - REMEMBERED), walk.first + 1)
    values: dict[str, float | None] = {}
    videos = []
    for strategy in ("coverage", "recent"):
        made = system.walk(frames[start], cameras[start], cameras[walk.first + 1 : walk.back + 1], strategy, seed)
        left_db, returned_db = gate_margins_db(made, frames, walk)
        passed = min(left_db, returned_db) >= GATE_DB
        values |= {f"gate.{strategy}": float(passed), f"gate_left_db.{strategy}": left_db}
        values[f"gate_returned_db.{strategy}"] = returned_db
        scores = picture_scores(f"walk_{strategy}", made[-1:], frames[walk.back : walk.back + 1], networks)
        values |= scores if passed else dict.fromkeys(scores)
        videos.append(np.concatenate([frames[walk.first : walk.first + 1], made]))
        if strategy == "coverage":
            values |= control_of(videos[-1], cameras[walk.first : walk.back + 1])
    return Measured(values, arrays={"film": walk_film(videos, walk.away - walk.first)})


def walk_film(videos: Sequence[np.ndarray], away: int) -> np.ndarray:
    """The way back of walks beside their first visit, uint8 [T, n H, 2 W, 3]: on the left the way out played backwards,
    at the pace of the way back; on the right the way back; one video below the other. away: their farthest frame."""
    rows = []
    for video in videos:
        back = video[away:]
        out = video[np.linspace(away, 0, len(back)).round().astype(int)]
        rows.append(np.concatenate([out, back], axis=2))
    return np.concatenate(rows, axis=1)
