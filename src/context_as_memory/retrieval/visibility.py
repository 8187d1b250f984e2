"""What stored frames show and what walls hide from them, by a depth profile along each frame's horizon.

Profiles answer two questions that poses cannot: which surfaces will the target see, and which frames have seen them?
"""

import numpy as np

from context_as_memory.camera import PlanarViews
from context_as_memory.errors import UserError
from context_as_memory.retrieval.config import Bools, Floats, Samples

PROFILE = 32  # depths along the horizon, in equal image columns from left to right
COLUMNS = 48  # of the horizon that is foreseen
BETWEEN = 4  # points on a wall from one profile column to the next
MARGIN_M, MARGIN_SHARE = 0.1, 0.02  # what lies this little behind the profile is the surface itself


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


def foreseen_surfaces(keys: PlanarViews, views: PlanarViews, profiles_m: np.ndarray, far_m: float) -> Samples:
    """What the key poses will show along their horizon, as far as stored frames have seen it: the nearest known surface
    in each of `COLUMNS` columns of each pose. Ground points [S, 2], unit directions to them [S, 2], distances [S].

    views, profiles_m: stored frames [C] and their profiles [C, PROFILE].
    """
    walls = _walls(views, profiles_m)
    points, rays = [np.empty((0, 2))], [np.empty((0, 2))]
    for pose in range(len(keys.origin)):
        heading, origin, k = keys.heading[pose], keys.origin[pose], keys.half_width_tan[pose]
        right = np.array([heading[1], -heading[0]])
        ahead, across = (walls - origin) @ heading, (walls - origin) @ right
        inside = (ahead > 0) & (ahead < far_m) & (np.abs(across) < k * ahead)
        column = ((across[inside] / (k * ahead[inside]) + 1) / 2 * COLUMNS).astype(np.int64)
        depth = np.full(COLUMNS, np.inf)
        np.minimum.at(depth, np.clip(column, 0, COLUMNS - 1), ahead[inside])
        known = np.isfinite(depth)
        middle = ((np.arange(COLUMNS) + 0.5) / COLUMNS * 2 - 1)[known, None]
        rays.append(depth[known, None] * (heading + middle * k * right))
        points.append(origin + rays[-1])
    offset = np.concatenate(rays)
    distance = np.sqrt((offset**2).sum(axis=1))
    return np.concatenate(points), offset / distance[:, None], distance


def _walls(views: PlanarViews, profiles_m: np.ndarray) -> Floats:
    """Ground points [n, 2] on the surfaces that the profiles meet, close enough together to leave no gaps where
    neighbouring columns meet one and the same wall."""
    column = (np.arange(PROFILE) + 0.5) / PROFILE * 2 - 1
    share = np.arange(BETWEEN) / BETWEEN
    left, right = profiles_m[:, :-1, None], profiles_m[:, 1:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        one_wall = np.abs(left - right) < MARGIN_M + 0.2 * np.minimum(left, right)  # false where one is unknown
        # Along a straight wall the inverse of depth is linear in the image column.
        depth = 1 / ((1 - share) / left + share / right)
    across = column[:-1, None] + share * (column[1] - column[0])
    sideways = np.stack([views.heading[:, 1], -views.heading[:, 0]], axis=1) * views.half_width_tan[:, None]
    ray = views.heading[:, None, None] + across[..., None] * sideways[:, None, None]
    points = views.origin[:, None, None] + np.where(one_wall, depth, 0)[..., None] * ray
    return points[np.broadcast_to(one_wall, depth.shape)]


def in_sight(points: Floats, views: PlanarViews, profiles_m: np.ndarray) -> Bools:
    """Which ground points [S, 2] lie inside each view's lens and not behind its profile [C, PROFILE]: bool [C, S]."""
    offset = points[None] - views.origin[:, None]
    (hx, hy) = (views.heading[:, None, axis] for axis in (0, 1))
    ahead = offset[..., 0] * hx + offset[..., 1] * hy
    across = offset[..., 0] * hy - offset[..., 1] * hx
    with np.errstate(divide="ignore", invalid="ignore"):
        column = across / (ahead * views.half_width_tan[:, None])
    inside = (ahead > 0) & (np.abs(column) < 1)
    bins = (np.where(inside, column + 1, 0) / 2 * PROFILE).astype(np.int64)
    depth = np.take_along_axis(profiles_m, bins, axis=1)
    return np.asarray(inside & (ahead <= depth * (1 + MARGIN_SHARE) + MARGIN_M))
