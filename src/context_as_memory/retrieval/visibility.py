"""What a stored frame shows and what walls hide from it, by a depth profile along its horizon."""

import numpy as np

from context_as_memory.camera import PlanarViews
from context_as_memory.errors import UserError
from context_as_memory.retrieval.config import Bools, Floats

PROFILE = 32  # depths along the horizon, in equal image columns from left to right
MARGIN_M, MARGIN_SHARE = 0.25, 0.05  # what lies this little behind the profile is the surface itself


def horizon_profile(depth_m: np.ndarray, horizon: float | None = None) -> np.ndarray:
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


def checked_profiles(profiles_m: np.ndarray, frames: int) -> np.ndarray:
    """float32 [frames, PROFILE] without NaN; raises `UserError` for other shapes and for depths that are not positive."""
    profiles = np.asarray(profiles_m, np.float32)
    if profiles.shape != (frames, PROFILE):
        raise UserError(f"depth profiles are {list(profiles.shape)}; give [{frames}, {PROFILE}], a row per frame")
    profiles = np.where(np.isnan(profiles), np.float32(np.inf), profiles)
    if (profiles <= 0).any():
        raise UserError("depth profiles hold depths of 0 m or less; use inf for what is not known")
    return profiles


def in_sight(points: Floats, views: PlanarViews, profiles_m: np.ndarray) -> Bools:
    """Which ground points [S, 2] lie in front of each view's profile [C, PROFILE]: bool [C, S].

    Points outside a view's lens are answered by its first or last column: ask for them with `explained` first.
    """
    offset = points[None] - views.origin[:, None]
    (hx, hy) = (views.heading[:, None, axis] for axis in (0, 1))
    ahead = offset[..., 0] * hx + offset[..., 1] * hy
    across = offset[..., 0] * hy - offset[..., 1] * hx
    with np.errstate(divide="ignore", invalid="ignore"):
        column = across / (ahead * views.half_width_tan[:, None])
    bins = np.clip(np.nan_to_num((column + 1) / 2 * PROFILE, nan=0.0, posinf=PROFILE, neginf=0), 0, PROFILE - 1)
    depth = np.take_along_axis(profiles_m, bins.astype(np.int64), axis=1)
    return np.asarray(ahead <= depth * (1 + MARGIN_SHARE) + MARGIN_M)
