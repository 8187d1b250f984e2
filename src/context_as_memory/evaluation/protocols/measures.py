"""Which frames of a walk answer for `closure` and `mirror`, told by its cameras: any video with cameras has them.

`closure`: the given picture against the frames that come back to its camera. `mirror`: a path walked out and back, the
frames of the way back against their mirrors (as the scene consistency of MIND; public page: CSU-JPG/MIND).
"""

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.evaluation.returns import pose_distance

NEAR_M, NEAR_RAD = 0.2, float(np.radians(5.0))  # a frame within these is back
LEFT_M, LEFT_RAD = 1.0, float(np.radians(20.0))  # a camera beyond one of these has left
SAME_M, SAME_RAD = 0.02, float(np.radians(0.5))  # between two cameras of a mirrored path at most
SHORTEST = 8  # frames of one way


def closure_rows(cameras: Cameras, given: int = 0) -> np.ndarray:
    """Frames that come back to the camera of frame `given` after it was left, int64 [n]: of every return the one with
    the closest pose, the first of equally close ones."""
    metres, radians = pose_distance(cameras.c2w[[given]], cameras.c2w[given:])[:, 0]
    far = (metres > LEFT_M) | (radians > LEFT_RAD)
    near = (metres <= NEAR_M) & (radians <= NEAR_RAD)
    away = (metres / NEAR_M + radians / NEAR_RAD).round(6)
    rows: list[int] = []
    left, since = False, -1
    for frame in range(len(away)):
        left = left or bool(far[frame])
        if left and near[frame] and since < 0:
            since = frame
        if since >= 0 and (not near[frame] or frame == len(away) - 1):
            end = frame + bool(near[frame])
            rows.append(given + since + int(np.argmin(away[since:end])))
            left, since = bool(far[frame]), -1
    return np.array(rows, np.int64)


def mirror_pairs(cameras: Cameras) -> np.ndarray:
    """Frames of a way back with their mirrors on the way out, int64 [n, 2] rows (out, back); none if the path is not
    walked out and back.

    The path turns round at a frame or between two; of all places where it could, the one with the longest ways counts,
    and the frame at the turn is no pair. A camera that stands still mirrors nothing.
    """
    c2w, count = cameras.c2w, len(cameras)
    moved = np.append(0.0, np.cumsum(_apart(c2w[1:], c2w[:-1]).sum(axis=0)))
    best = np.empty((0, 2), np.int64)
    turns = np.arange(2 * SHORTEST - 1, 2 * (count - SHORTEST))  # twice the places of the turn: half frames too
    for steps in range(1, SHORTEST + 1):  # those that fit closest to the turn
        out = (turns + 1) // 2 - steps
        turns = turns[_same(c2w[out], c2w[turns - out])]
    ways = np.minimum((turns + 1) // 2, count - 1 - turns // 2)
    for turn, way in zip(turns[np.argsort(-ways, kind="stable")], np.sort(-ways) * -1, strict=True):
        if way <= len(best):
            break
        out = (turn + 1) // 2 - 1 - np.arange(way)
        same = _same(c2w[out], c2w[turn - out])
        length = way if same.all() else int(np.argmin(same))
        if length > len(best) and moved[out[0]] - moved[out[length - 1]] > SHORTEST * SAME_RAD:
            best = np.stack([out[:length], turn - out[:length]], axis=1)
    return best


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Metres and radians between poses [n, 4, 4] and as many others: [2, n]."""
    cosine = (np.einsum("nij,nij->n", a[:, :3, :3], b[:, :3, :3]) - 1) / 2
    return np.stack([np.linalg.norm(a[:, :3, 3] - b[:, :3, 3], axis=1), np.arccos(np.clip(cosine, -1, 1))])


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    metres, radians = _apart(a, b)
    return np.asarray((metres <= SAME_M) & (radians <= SAME_RAD))
