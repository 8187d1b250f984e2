"""Camera paths from held keys."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite, radians

import numpy as np
from numpy.typing import ArrayLike

from context_as_memory.camera.checks import floats
from context_as_memory.camera.core import Cameras, level_heading
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float

PITCH_LIMIT_RAD = radians(85.0)
Z_UP = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class MotionSpeed:
    """How far one held key moves or turns the camera in one frame."""

    move_m: float = 0.15
    turn_rad: float = radians(3.0)

    def __post_init__(self) -> None:
        if not (isfinite(self.move_m) and isfinite(self.turn_rad)):
            raise UserError(f"speed {self.move_m} m and {self.turn_rad} rad per frame; give finite numbers")


PACE = MotionSpeed()


def cameras_from_keys(
    start: Cameras, keys: Sequence[Collection[str]], speed: MotionSpeed = PACE, up: ArrayLike | None = None
) -> Cameras:
    """Go from a start camera by the keys that are held in each frame, of `wasdijkl`; others count for nothing.

    W and S move ahead and back, A and D to the left and right, always level; J and L turn left and right about the
    vertical; I and K look up and down, to at most 85 degrees. Keys held together add up. A frame that turns and moves
    goes along its mean heading, so undoing the keys in reverse order retraces the path exactly.

    Args:
        start: the one camera to start from; not part of the result, which has its intrinsics.
        keys: one collection of letters for each frame of the result.
        speed: metres and radians per frame for each key held.
        up: the vertical [3]. None takes the start camera to be level. Give it (`Z_UP` in worlds with z up) when the
            start camera may already look up or down, as when continuing an earlier string.
    """
    if len(start) != 1:
        raise UserError(f"{len(start)} start cameras; give exactly one")
    right, down, forward, origin = (start.c2w[0, :3, i] for i in range(4))
    vertical = -down if up is None else floats(up, "up")
    if vertical.shape != (3,) or not np.isfinite(vertical).all() or np.linalg.norm(vertical) < 1e-9:
        raise UserError(f"up is {vertical.tolist()}; give a direction of three numbers")
    vertical = vertical / np.linalg.norm(vertical)
    # One row per frame, one column per key; none of these letters is in "none".
    held = np.stack([np.fromiter((key in frame for frame in keys), bool, len(keys)) for key in "wsadjlik"], axis=1)
    ahead_m, left_m = ((held[:, [0, 2]].astype(float) - held[:, [1, 3]]) * speed.move_m).T
    turn, tilt = ((held[:, [4, 6]].astype(float) - held[:, [5, 7]]) * speed.turn_rad).T

    yaw = np.cumsum(turn)
    first_pitch = float(np.arcsin(np.clip(forward @ vertical, -1, 1)))
    lowest, highest = min(-PITCH_LIMIT_RAD, first_pitch), max(PITCH_LIMIT_RAD, first_pitch)
    pitch, now = np.empty(len(tilt)), first_pitch
    for i, step in enumerate(tilt):
        now = pitch[i] = min(max(now + step, lowest), highest)

    ahead = level_heading(vertical, right, forward)
    left = np.cross(vertical, ahead)
    cos, sin = np.cos(yaw - turn / 2)[:, None], np.sin(yaw - turn / 2)[:, None]
    steps_m = ahead_m[:, None] * (cos * ahead + sin * left) + left_m[:, None] * (cos * left - sin * ahead)

    # Tilt about the camera's own x axis first, then turn about the vertical: roll, if any, is kept.
    cos, sin = np.cos(pitch - first_pitch)[:, None], np.sin(pitch - first_pitch)[:, None]
    level = np.broadcast_to(right, (len(yaw), 3))
    tilted = np.stack([level, cos * down + sin * forward, cos * forward - sin * down], axis=2)
    c2w = np.tile(np.eye(4), (len(yaw), 1, 1))
    c2w[:, :3, :3] = _rotations_about(vertical, yaw) @ tilted
    c2w[:, :3, 3] = origin + np.cumsum(steps_m, axis=0)
    return Cameras(c2w, start.K[0], start.width, start.height)


def _rotations_about(axis: Float[np.ndarray, "3"], angle_rad: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3 3"]:
    """Rotations [N,3,3] by `angle_rad` [N] about a unit `axis` [3] (Rodrigues)."""
    cross = np.cross(np.eye(3), axis)  # rows e_i x axis, which is the matrix of v -> axis x v
    cos, sin = np.cos(angle_rad)[:, None, None], np.sin(angle_rad)[:, None, None]
    return np.asarray(cos * np.eye(3) + sin * cross + (1 - cos) * np.outer(axis, axis))
