"""What stored frames show and what walls hide from them, by a depth profile along each frame's horizon.

Profiles answer two questions that poses cannot: which surfaces will the target see, and which frames have seen them?
"""

import numpy as np

from context_as_memory.camera import PROFILE, PlanarViews
from context_as_memory.retrieval.rule import Samples
from context_as_memory.shapes import Bool, Float

COLUMNS = 48  # of the horizon that is foreseen
BETWEEN = 4  # points on a wall from one profile column to the next
MARGIN_M, MARGIN_SHARE = 0.1, 0.02  # what lies this little behind the profile is the surface itself


def foreseen_surfaces(
    keys: PlanarViews, views: PlanarViews, profiles_m: Float[np.ndarray, "c profile"], far_m: float
) -> Samples:
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


def _walls(views: PlanarViews, profiles_m: Float[np.ndarray, "c profile"]) -> Float[np.ndarray, "n 2"]:
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
    return np.asarray(points[np.broadcast_to(one_wall, depth.shape)])


def in_sight(
    points: Float[np.ndarray, "samples 2"], views: PlanarViews, profiles_m: Float[np.ndarray, "c profile"]
) -> Bool[np.ndarray, "c samples"]:
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
