"""What frames truly show, by the geometry of the map: level rays against its walls."""

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.doom_map import DoomMap, horizon_rays

RAYS, BIT_M = 48, 0.25  # rays per frame; walls are told apart in bits of this size


def shown(doom_map: DoomMap, cameras: Cameras) -> np.ndarray:
    """The bits of wall that each frame shows: int64 [N, RAYS], one number per bit, -1 where a ray meets none."""
    rays, depth_m = horizon_rays(doom_map, cameras, RAYS)
    hit = np.isfinite(depth_m)
    point = cameras.position[:, None, :2] + np.where(hit, depth_m, 0)[..., None] * rays
    x, y = np.moveaxis(np.floor(point / BIT_M).astype(np.int64), -1, 0) + 100_000
    return np.where(hit, x * 1_000_000 + y, -1)


def grown(bits: np.ndarray) -> np.ndarray:
    """Numbers of bits [...], -1 for none, and those of their neighbours, ascending [m]: a wall is not seen in quarter
    metres."""
    bits = np.unique(bits[bits >= 0])
    return np.unique(np.concatenate([bits + 1_000_000 * x + y for x in (-1, 0, 1) for y in (-1, 0, 1)]))
