"""Overlap in space, for cameras that fly, pitch and roll: sample points of the target's frusta, tested against others.

The planar strategies see cameras from above, which is exact and cheap for walkers. Here a view is a frustum between the
same two depths, and everything is asked of sample points: image columns x rows x log-spaced depths of each key pose.
"""

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.retrieval.cover import ALIKE_LENS, SHORTLIST
from context_as_memory.retrieval.ground import key_rows
from context_as_memory.retrieval.rule import Candidates, RetrievalConfig, Samples
from context_as_memory.shapes import Bool, Float, Int

COLUMNS, ROWS, DEPTHS = 8, 6, 8
AT_ONCE = 256  # views per block: intermediate arrays stay small


class Space:
    """Frusta in space, in sample points: the same questions as `ground.Ground`."""

    shortlist = SHORTLIST

    def __init__(self, config: RetrievalConfig, stored: Candidates, target: Cameras) -> None:
        self.config, self.cameras = config, stored.cameras
        self.ranking = key_rows(len(target))
        self.recorded = np.zeros(len(stored.cameras), bool) if stored.recorded is None else stored.recorded
        self._samples = frustum_samples(target[self.ranking], config)

    def overlap(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Share of the samples that lie in each frustum."""
        return np.asarray(inside_frusta(self._samples[0], self.cameras[entries], self.config).mean(axis=1))

    def samples(self, entries: Int[np.ndarray, " n"]) -> Samples:
        return self._samples

    def explains(self, samples: Samples, entries: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n samples"]:
        return explained_in_space(samples, self.cameras[entries], self.config)

    def places(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, "14 n"]:
        """As `Ground.places`; turns about any axis count alike."""
        cameras, rule = self.cameras[entries], self.config.coverage
        # The columns of two rotations differ by 2 sqrt(2) sin(angle / 2) in all.
        turn = cameras.c2w[:, :3, :3].reshape(len(cameras), 9).T / (2 * np.sqrt(2) * np.sin(rule.alike_rad / 2))
        lens = np.log(cameras.normalized_K()[:, :2].T) / ALIKE_LENS
        return np.concatenate([cameras.position.T / rule.alike_m, turn, lens])


def frustum_samples(keys: Cameras, config: RetrievalConfig) -> Samples:
    """Points [S, 3] of the key frusta, unit directions to them from their own cameras [S, 3], distances [S]; metres."""
    columns, rows, depths = ((np.arange(number) + 0.5) / number for number in (COLUMNS, ROWS, DEPTHS))
    fx, fy, cx, cy = (keys.normalized_K()[:, i, None, None] for i in range(4))
    x = (columns[:, None] * 2 - 1 - cx) / fx
    y = (rows[None, :] * 2 - 1 - cy) / fy
    ray = np.stack(np.broadcast_arrays(x, y, 1.0), axis=-1).reshape(len(keys), -1, 3)
    depth = config.near_m * (config.far_m / config.near_m) ** depths
    local = (ray[:, :, None] * depth[:, None]).reshape(len(keys), -1, 3)
    step = local @ keys.c2w[:, :3, :3].transpose(0, 2, 1)
    distance = np.linalg.norm(step, axis=-1)
    points = keys.position[:, None] + step
    return points.reshape(-1, 3), (step / distance[..., None]).reshape(-1, 3), distance.ravel()


def inside_frusta(
    points: Float[np.ndarray, "samples 3"], views: Cameras, config: RetrievalConfig
) -> Bool[np.ndarray, "n samples"]:
    """Which points [S, 3] lie in each view's frustum between the two depths: bool [N, S]."""
    result = np.empty((len(views), len(points)), bool)
    fx, fy, cx, cy = views.normalized_K().T[..., None]
    for first in range(0, len(views), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        seen = (points - views.position[rows, None]) @ views.c2w[rows, :3, :3]
        x, y, z = np.moveaxis(seen, -1, 0)
        inside = (z >= config.near_m) & (z <= config.far_m)
        inside &= np.abs(fx[rows] * x + cx[rows] * z) <= z
        result[rows] = inside & (np.abs(fy[rows] * y + cy[rows] * z) <= z)
    return result


def explained_in_space(samples: Samples, views: Cameras, config: RetrievalConfig) -> Bool[np.ndarray, "n samples"]:
    """Which samples each view explains, bool [N, S]: as `ground.explained`, with frusta in place of wedges."""
    points, rays, distance = samples
    offset = points - views.position[:, None]
    length = np.maximum(np.linalg.norm(offset, axis=-1), 1e-12)
    low, high = config.coverage.scale_band
    alike = (offset * rays).sum(axis=-1) >= np.cos(config.coverage.parallax_rad) * length
    usable = (length >= low * distance) & (length <= high * distance)
    return np.asarray(inside_frusta(points, views, config) & alike & usable)
