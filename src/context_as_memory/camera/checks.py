"""What is no camera is refused, with one sentence that says how to mend it."""

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.shapes import Bool, Float

ROTATION_TOLERANCE = 1e-4
FARTHEST_M = 1e9  # that is believed: no product of such numbers overflows


def floats(value: object, name: str) -> np.ndarray:
    """An array of any shape [...] as float64; `UserError` for anything but real numbers."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise UserError(f"{name} is not an array of real numbers; give one") from None


def refuse(bad: Bool[np.ndarray, " n"], complaint: str) -> None:
    """Raise for the first True in `bad` [N]."""
    if bad.any():
        raise UserError(f"camera {int(np.argmax(bad))} {complaint}")


def check_poses(c2w: Float[np.ndarray, "n 4 4"]) -> None:
    finite = np.isfinite(c2w).all((1, 2))
    refuse(~finite, "has a pose that is not finite; remove or repair it")
    refuse(np.abs(c2w[:, :3, 3]).max(1) > FARTHEST_M, f"is further than {FARTHEST_M:.0e} m away; repair or scale it")
    R = c2w[:, :3, :3]
    skew = np.abs(R.transpose(0, 2, 1) @ R - np.eye(3)).max((1, 2))
    refuse(~(skew <= ROTATION_TOLERANCE), "has a rotation that is not orthonormal; give poses without scale or shear")
    refuse(np.linalg.det(R) < 0, "has a rotation that mirrors (determinant -1); convert left-handed poses first")
    wrong = np.abs(c2w[:, 3] - [0, 0, 0, 1]).max(1) > 1e-6
    refuse(wrong, "has a bottom row other than 0 0 0 1; give 4x4 matrices that act on columns")


def check_size(width: object, height: object) -> None:
    for value in (width, height):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise UserError(f"an image of {width}x{height} pixels is impossible; give positive whole numbers")
