"""What would otherwise be assumed of a camera path, measured: which way is up, forward, and how long a step is."""

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.formats.poses import inverse

TURNED_DEG = 75.0  # a camera that turns so far about its own x axis was held upright, on its side: nobody nods so far
ONE_AXIS = 0.97  # how well all turning must go about one axis for that axis to be the vertical
SPREAD_DEG = 40.0  # up vectors farther apart than this (median) mean nothing
FAR_M = 15.0  # the far limit of retrieval
LONG_STEP = 0.1  # of the far limit: a longer step a frame is no metre
_FEW = 8  # steps below which nothing is said about direction


def measured_up(c2w: np.ndarray) -> tuple[np.ndarray, str]:
    """Upwards in the world of some cameras [N,4,4], [3], and how it was found: "image", or "turning" for cameras on
    their side.

    Usually it is the mean of the pictures' up. But where a camera turns far about its own x axis and about nothing
    else, as a phone does that is held upright while its owner looks around, that axis is the vertical.
    """
    if not len(c2w):
        return np.array([0.0, 0.0, 1.0]), "image"
    R = c2w[:, :3, :3]
    up = -R[:, :, 1].mean(0)
    up = -R[0, :, 1] if np.linalg.norm(up) < 1e-3 else up / np.linalg.norm(up)
    # A direction of the world that every camera sees alike is the axis of all turning.
    U, strength, Vt = np.linalg.svd(R.mean(0))
    axis, seen = U[:, 0], Vt[0]
    if up[2] > np.cos(np.radians(15)):  # as in most worlds: it looked up and down
        return up, "image"
    if strength[0] < ONE_AXIS or abs(seen[0]) < np.cos(np.radians(35)):
        return up, "image"
    level = R[:, :, 2] - np.outer(R[:, :, 2] @ axis, axis)
    length = np.linalg.norm(level, axis=1)
    if length.min() < 0.1:
        return up, "image"
    level /= length[:, None]
    cosines = level @ level[np.argmin(level @ level[0])]
    if np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < TURNED_DEG:
        return up, "image"
    return axis * np.sign(axis[np.argmax(np.abs(axis))]), "turning"


def quarter_turns(c2w: np.ndarray, up: np.ndarray) -> int:
    """By how many quarter turns counter-clockwise (0 to 3) pictures must be turned so that `up` [3] is up in them.

    0 where that is not clear: cameras that look along the vertical, or lean by about 45 degrees.
    """
    if not len(c2w):
        return 0
    x, y = np.einsum("nji,j->in", c2w[:, :3, :3], up)[:2]
    strength = np.hypot(x, y)
    shares = np.stack([-y, x, y, -x], axis=1) / np.maximum(strength, 1e-9)[:, None]
    clear = (shares > np.cos(np.radians(35))) & (strength > 0.3)[:, None]
    best = int(np.argmax(clear.mean(0)))
    return best if clear[:, best].mean() > 0.8 else 0


def turned(cameras: Cameras, turns: int) -> Cameras:
    """The cameras of pictures that were turned by quarter turns counter-clockwise, as `numpy.rot90` turns them."""
    for _ in range(turns % 4):
        c2w = cameras.c2w.copy()
        c2w[:, :3, 0], c2w[:, :3, 1] = cameras.c2w[:, :3, 1], -cameras.c2w[:, :3, 0]
        fx, fy, cx, cy = cameras.K.T
        K = np.stack([fy, fx, cy, cameras.width - cx], axis=1)
        cameras = Cameras(c2w, K, cameras.height, cameras.width)
    return cameras


def doubts(c2w: np.ndarray, up: np.ndarray, *, scale_known: bool = True, far_m: float = FAR_M) -> list[str]:
    """What looks wrong about a path [N,4,4] with this vertical [3], in plain sentences that say what to try."""
    found: list[str] = []
    if len(c2w) == 0:
        return found
    tilt = np.degrees(np.arccos(np.clip(-c2w[:, :3, 1] @ up, -1, 1)))
    if np.median(tilt) > SPREAD_DEG:
        found.append(
            f"the pictures lean by {np.median(tilt):.0f} degrees from the vertical {_direction(up)}; if that is wrong, "
            "say --up or --axes"
        )
    steps = np.diff(c2w[:, :3, 3], axis=0)
    length = np.linalg.norm(steps, axis=1)
    moving = length > max(0.1 * float(np.median(length[length > 0])), 1e-9) if (length > 0).any() else length > 0
    if moving.sum() >= _FEW:
        found += _direction_doubts(c2w)
        step = float(np.median(length[moving]))
        if scale_known and step > LONG_STEP * far_m:
            unit = "cm" if step < 100 * LONG_STEP * far_m else "mm"
            found.append(
                f"a step is {step:.3g} m long in the median, so nothing returns and hardly anything is in reach; if "
                f"the positions are in {'centimetres' if unit == 'cm' else 'millimetres'}, say --unit {unit}"
            )
    return found


def forward_share(c2w: np.ndarray) -> float:
    """Share of the steps of a path [N,4,4] that go forward, within 60 degrees of the view; NaN without a step."""
    steps = np.diff(c2w[:, :3, 3], axis=0)
    length = np.linalg.norm(steps, axis=1)
    if not (length > 1e-9).any():  # less is rounding: a camera that circles the origin stands still when inverted
        return float("nan")
    moving = length > max(0.1 * float(np.median(length[length > 0])), 1e-9)
    ahead = np.einsum("ni,ni->n", steps[moving] / length[moving, None], c2w[:-1, :3, 2][moving])
    return float((ahead > 0.5).mean())


def _direction_doubts(c2w: np.ndarray) -> list[str]:
    """Whether the path would go forward under another reading of the file, but does not under this one."""
    now = forward_share(c2w)
    if now > 0.4:
        return []
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    others = {
        "--w2c": inverse(c2w),
        "--axes opengl": c2w @ flip,
        "--w2c --axes opengl": inverse(c2w @ flip) @ flip,
    }
    shares = {words: float(np.nan_to_num(forward_share(other))) for words, other in others.items()}
    words = max(shares, key=lambda name: shares[name])
    if shares[words] < max(0.6, now + 0.3):
        return []
    return [
        f"only {100 * now:.0f} % of the steps go forward; read with {words} it would be {100 * shares[words]:.0f} %, "
        "so try that unless the camera really moves so"
    ]


def _direction(up: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.2g}" for v in np.round(up, 2) + 0.0) + ")"
