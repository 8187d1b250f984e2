"""How deep a frame looks along its horizon: the little depth that retrieval can use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from context_as_memory.camera.actions import Z_UP
from context_as_memory.camera.checks import floats
from context_as_memory.camera.core import Cameras
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float, Float32

MIN_DEPTH_M = 0.001  # depths are noted to the millimetre, and none is 0
PROFILE = 32  # depths along the horizon, in equal image columns from left to right


def horizon_profile(
    depth_m: Float[np.ndarray, "*batch h w"], horizon: float | None = None
) -> Float32[np.ndarray, "*batch profile"]:
    """The profile of a depth map: [..., H, W], metres along the viewing direction -> float32 [..., PROFILE].

    horizon: the row at eye level as a share of the height; the middle if None. A profile's column is the median over
    its image columns and the rows within 5 % of the horizon: one post or one gap does not speak for a wall. Values that
    are not finite and positive count as unknown (inf).
    """
    depth = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.inf).astype(np.float32)
    height, width = depth.shape[-2:]
    if width < PROFILE:
        raise UserError(f"a depth profile needs {PROFILE} image columns, the depth map has {width}; enlarge it first")
    middle, half = (0.5 if horizon is None else horizon) * height, max(1, round(0.05 * height))
    rows = slice(max(0, round(middle) - half), min(height, round(middle) + half))
    edges = np.round(np.linspace(0, width, PROFILE + 1)).astype(int)
    band = depth[..., rows, :]
    columns = [np.median(band[..., a:b], axis=(-2, -1)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return np.stack(columns, axis=-1)


def eye_level(cameras: Cameras, up: ArrayLike = Z_UP) -> Float[np.ndarray, " n"]:
    """The row at eye level as a share of the height, [N] in [0, 1]: where a level ray ahead meets the picture, or the
    edge it passes beyond. up: [3], upwards in the world; cameras do not roll."""
    above = floats(up, "up")
    sine = np.clip(cameras.forward @ (above / np.linalg.norm(above)), -1, 1)
    row = cameras.K[:, 3] + cameras.K[:, 1] * np.tan(np.arcsin(sine))  # looking up moves it down
    return np.asarray(np.clip(row / cameras.height, 0, 1))


def checked_profiles(profiles_m: np.ndarray, frames: int) -> Float32[np.ndarray, "frames profile"]:
    """float32 [frames, PROFILE] without NaN; `UserError` for other shapes and depths that are not positive."""
    profiles = np.asarray(profiles_m, np.float32)
    if profiles.shape != (frames, PROFILE):
        raise UserError(f"depth profiles are {list(profiles.shape)}; give [{frames}, {PROFILE}], a row per frame")
    profiles = np.where(np.isnan(profiles), np.float32(np.inf), profiles)
    if (profiles <= 0).any():
        raise UserError("depth profiles hold depths of 0 m or less; use inf for what is not known")
    return profiles


def profiles_to_note(profiles_m: np.ndarray, frames: int) -> list[list[float | None]]:
    """Profiles [frames, PROFILE], metres, as numbers for JSON, to the millimetre; None where unknown. `UserError` as
    `checked_profiles`."""
    rows = checked_profiles(profiles_m, frames).tolist()
    return [[max(round(depth, 3), MIN_DEPTH_M) if np.isfinite(depth) else None for depth in row] for row in rows]


def profiles_from_note(
    rows: Sequence[Sequence[float | None]] | None, frames: int
) -> Float32[np.ndarray, "frames profile"]:
    """Profiles float32 [frames, PROFILE], metres, of what `profiles_to_note` made; all unknown (inf) of None."""
    if rows is None:
        return np.full((frames, PROFILE), np.inf, np.float32)
    return checked_profiles(np.array(rows, np.float32), frames)  # None, read as nan, is unknown
