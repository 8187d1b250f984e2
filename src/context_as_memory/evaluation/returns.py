"""When does a camera come back? Two definitions, both from camera poses alone.

*Pose returns* (`find_returns`) pair frames taken from nearly the same place and direction with the camera having looked
away in between: the pictures should then be equal, so a video can be compared with itself (the paper's history
comparison, section 4.1).

*View returns* (`return_tasks`) need no equal pose: at least half of the view was seen before and less than a quarter of
it is visible in the last four frames. Only a memory can know such a view. Used against ground truth.

"Seen" is the sample coverage of `retrieval.explained`: inside the wedge, from a similar direction and distance. Walls
are not known.
"""

from dataclasses import dataclass

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews, ground_basis, planar
from context_as_memory.errors import UserError
from context_as_memory.retrieval import RetrievalConfig, explained, target_samples

RECENT_FRAMES = 4  # "the last frames": what a model without memory could still see
LEFT_SHARE = 0.25  # a view is out of sight when these show less than this share of it
MAX_WINDOWS = 64  # how many times are looked at to find out whether the camera looked away
GRID = (24, 12)  # columns and depths of the samples; fixed, so that what counts as a return never changes
SEEN_SHARE = 0.5  # a view counts as seen before when all earlier frames together show at least this share


@dataclass(frozen=True)
class Visit:
    """One coming back: consecutive return frames. frames, firsts: int64 [n], each return frame and the frame of its
    first visit."""

    frames: np.ndarray
    firsts: np.ndarray

    @property
    def gap_frames(self) -> int:
        """Frames between first visit and return; the largest of the visit."""
        return int((self.frames - self.firsts).max())


def pose_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances in metres and rotation angles in radians between all pairs of poses [A, 4, 4], [B, 4, 4]: [2, A, B]."""
    metres = np.linalg.norm(a[:, None, :3, 3] - b[None, :, :3, 3], axis=-1)
    trace = a[:, :3, :3].reshape(-1, 9) @ b[:, :3, :3].reshape(-1, 9).T
    return np.stack([metres, np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))])


def find_returns(
    cameras: Cameras,
    min_gap_frames: int = 24,
    *,
    near_m: float = 0.2,
    near_rad: float = float(np.radians(5.0)),
    config: RetrievalConfig | None = None,
) -> np.ndarray:
    """Pairs (first, return) of frame numbers, int64 [R, 2], ascending in `return`.

    A frame is a return if an earlier one, at least `min_gap_frames` before, was taken within `near_m` and `near_rad` of
    it and at some time in between `RECENT_FRAMES` consecutive frames together showed less than `LEFT_SHARE` of the
    view. It is paired with the closest pose of the earliest visit. config: depth limits and rules of "seen" (defaults
    of `RetrievalConfig`).
    """
    if min_gap_frames < 1:
        raise UserError(f"min_gap_frames is {min_gap_frames}; give at least 1")
    from scipy.spatial import cKDTree  # four tenths of a second, and not needed before the first frame is shown

    config = config or RetrievalConfig()
    if len(cameras) <= min_gap_frames:
        return np.empty((0, 2), np.int64)
    pairs: list[tuple[int, int]] = []
    views = planar(cameras, ground_basis(cameras))
    tree = cKDTree(cameras.position)  # so that a frame is compared with its neighbours only, however long the walk
    for i in range(min_gap_frames, len(cameras)):
        close = np.sort(np.array(tree.query_ball_point(cameras.position[i], near_m * (1 + 1e-9)), np.int64))
        close = close[close <= i - min_gap_frames]
        metres, radians = pose_distance(cameras.c2w[i : i + 1], cameras.c2w[close])[:, 0]
        near = (metres <= near_m) & (radians <= near_rad)
        earlier, metres, radians = close[near], metres[near], radians[near]
        if len(earlier) == 0:
            continue
        away = _last_time_away(views, i, int(earlier[0]), config)
        if away is None:
            continue
        # The earliest visit ends where its run of near frames ends, or where the camera leaves.
        run = earlier[: np.argmax(np.append(np.diff(earlier) > 1, True)) + 1]
        run = run[run < away]
        closeness = metres[: len(run)] / near_m + radians[: len(run)] / near_rad
        pairs.append((int(run[np.argmin(closeness.round(6))]), i))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _last_time_away(views: PlanarViews, i: int, since: int, config: RetrievalConfig) -> int | None:
    """The last frame in (since, i) to start `RECENT_FRAMES` frames that hardly show view i; None if there is none.

    At most `MAX_WINDOWS` evenly spaced starts are looked at, so that long videos cost no more than short ones.
    """
    last = i - RECENT_FRAMES
    if last <= since:
        return None
    starts = np.unique(np.linspace(since + 1, last, min(last - since, MAX_WINDOWS)).round().astype(np.int64))
    frames = starts[:, None] + np.arange(RECENT_FRAMES)
    seen = _seen(views[i : i + 1], views[frames.ravel()], config)
    shares = seen.reshape(len(starts), RECENT_FRAMES, -1).any(1).mean(1)
    away = starts[shares < LEFT_SHARE]
    return int(away[-1]) if len(away) else None


def visits(pairs: np.ndarray) -> list[Visit]:
    """Group the pairs of `find_returns`, [n, 2], into visits: runs of consecutive return frames whose first visits are
    not far apart either."""
    if len(pairs) == 0:
        return []
    step = np.diff(pairs, axis=0)
    cuts = np.flatnonzero((step[:, 1] > 1) | (np.abs(step[:, 0]) > RECENT_FRAMES)) + 1
    return [Visit(frames=part[:, 1], firsts=part[:, 0]) for part in np.split(pairs, cuts)]


def seen_share(past: Cameras, targets: Cameras, config: RetrievalConfig | None = None) -> np.ndarray:
    """Share of each target view that at least one of the past cameras has seen: float64 [T] in [0, 1]; zeros without a
    past."""
    if len(past) == 0 or len(targets) == 0:
        return np.zeros(len(targets))
    config = config or RetrievalConfig()
    basis = ground_basis(past)
    views, goals = planar(past, basis), planar(targets, basis)
    return np.array([_seen(goals[i : i + 1], views, config).any(0).mean() for i in range(len(targets))])


def return_tasks(
    cameras: Cameras,
    chunk_frames: int,
    *,
    stride: int = 8,
    max_withheld: int = 64,
    config: RetrievalConfig | None = None,
) -> np.ndarray:
    """View returns in a recorded sequence: int64 [n, 2] rows (now, start), ascending in `start`.

    A model that remembers frames [0, now) is asked for the chunk [start, start + chunk_frames). First and last view of
    the chunk must be seen to at least `SEEN_SHARE` in the remembered frames, and to less than `LEFT_SHARE` in the last
    `RECENT_FRAMES` of them. Recorded cameras turn smoothly, so the frame before a return nearly always shows it
    already: therefore up to `max_withheld` frames right before the chunk (a multiple of chunk_frames, as few as do) are
    withheld. stride: spacing of the starts looked at.
    """
    if chunk_frames < 1 or stride < 1 or max_withheld < 0:
        raise UserError(
            f"chunk_frames {chunk_frames}, stride {stride}: give at least 1; max_withheld {max_withheld}: at least 0"
        )
    config = config or RetrievalConfig()
    tasks: list[tuple[int, int]] = []
    if len(cameras) == 0:
        return np.empty((0, 2), np.int64)
    views = planar(cameras, ground_basis(cameras))
    for start in range(RECENT_FRAMES + stride, len(cameras) - chunk_frames + 1, stride):
        past = views[:start]
        ends = [views[i : i + 1] for i in sorted({start, start + chunk_frames - 1})]
        seen = [_seen(end, past, config) for end in ends]
        recent = np.max(
            [_window_share(mask, RECENT_FRAMES) for mask in seen], axis=0
        )  # [k]: frames k .. k + RECENT_FRAMES - 1
        first_seen = [np.where(mask.any(0), mask.argmax(0), start) for mask in seen]
        for now in range(start, max(start - max_withheld, RECENT_FRAMES) - 1, -chunk_frames):
            if (
                recent[now - RECENT_FRAMES] < LEFT_SHARE
                and min((first < now).mean() for first in first_seen) >= SEEN_SHARE
            ):
                tasks.append((now, start))
                break
    return np.array(tasks, np.int64).reshape(-1, 2)


def _seen(view: PlanarViews, past: PlanarViews, config: RetrievalConfig) -> np.ndarray:
    """Which samples of one view each past view has seen: bool [N, S]."""
    return explained(target_samples(view, config.near_m, config.far_m, *GRID), past, config)


def _window_share(seen: np.ndarray, window: int) -> np.ndarray:
    """Share of samples that each run of `window` consecutive frames shows: bool [N, S] -> float64 [N - window + 1]."""
    number = len(seen) - window + 1
    if number < 1:
        return np.empty(0)
    joined = seen[:number].copy()
    for offset in range(1, window):
        joined |= seen[offset : offset + number]
    return joined.mean(1)
