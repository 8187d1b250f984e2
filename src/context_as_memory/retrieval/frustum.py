"""Overlap in space, for cameras that fly, pitch and roll: sample points of the target's frusta, tested against others.

The planar strategies see cameras from above, which is exact and cheap for walkers. Here a view is a frustum between the
same two depths, and everything is asked of sample points: image columns x rows x log-spaced depths of each key pose.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from context_as_memory.camera import Cameras
from context_as_memory.retrieval.config import Floats, RetrievalConfig, Samples
from context_as_memory.retrieval.cover import ALIKE_LENS, SHORTLIST, Offer, cover, shortlist
from context_as_memory.retrieval.query import Query

COLUMNS, ROWS, DEPTHS = 8, 6, 8
AT_ONCE = 256  # views per block: intermediate arrays stay small


def frustum_samples(keys: Cameras, config: RetrievalConfig) -> Samples:
    """Points [S, 3] of the key frusta, unit directions to them from their own cameras [S, 3], distances [S]; metres."""

    def middles(number: int) -> Floats:
        return (np.arange(number) + 0.5) / number

    fx, fy, cx, cy = (keys.normalized_K()[:, i, None, None] for i in range(4))
    x = (middles(COLUMNS)[:, None] * 2 - 1 - cx) / fx
    y = (middles(ROWS)[None, :] * 2 - 1 - cy) / fy
    ray = np.stack(np.broadcast_arrays(x, y, 1.0), axis=-1).reshape(len(keys), -1, 3)
    depth = config.near_m * (config.far_m / config.near_m) ** middles(DEPTHS)
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
    """Which samples each view explains, bool [N, S]: as `coverage.explained`, with frusta in place of wedges."""
    points, rays, distance = samples
    offset = points - views.position[:, None]
    length = np.maximum(np.linalg.norm(offset, axis=-1), 1e-12)
    low, high = config.scale_band
    alike = (offset * rays).sum(axis=-1) >= np.cos(config.parallax_rad) * length
    usable = (length >= low * distance) & (length <= high * distance)
    return np.asarray(inside_frusta(points, views, config) & alike & usable)


def spheres(cameras: Cameras, near_m: float, far_m: float) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """A sphere around each frustum, with its centre on the view axis: centres [N, 3], radii [N], metres."""
    fx, fy, cx, cy = cameras.normalized_K().T
    k = np.hypot((1 + np.abs(cx)) / fx, (1 + np.abs(cy)) / fy)
    ahead = np.minimum(far_m, (1 + k * k) * (near_m + far_m) / 2)
    return cameras.position + ahead[:, None] * cameras.forward, np.hypot(k * far_m, far_m - ahead)


def frustum_overlap(
    samples: Float[np.ndarray, "samples 3"], pool: Int[np.ndarray, " n"], bank: Cameras, config: RetrievalConfig
) -> Float[np.ndarray, " n"]:
    """Share of the samples [S, 3] that lie in the frustum of each of the given views, [len(pool)]."""
    part = Cameras.known_good(bank.c2w[pool], bank.K[pool], bank.width, bank.height)
    return np.asarray(inside_frusta(samples, part, config).mean(axis=1))


def coverage_in_space(
    query: Query, samples: Samples, candidates: Int[np.ndarray, " c"], overlap: Float[np.ndarray, " c"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Picks and their scores among the candidates, as `coverage.coverage`, by samples in space."""
    config = query.config
    tie_break, best = shortlist(overlap, SHORTLIST)
    rows = candidates[::-1][best]
    entries = np.append(rows, query.last)
    seen = query.bank[entries]
    offer = Offer(
        claims=explained_in_space(samples, seen, config),
        poses=places_in_space(seen, config),
        given=query.given[entries],
        tie_break=tie_break[best],
    )
    picked, scores = cover(offer, query.budget, config)
    return rows[picked], scores


def places_in_space(cameras: Cameras, config: RetrievalConfig) -> Float[np.ndarray, "14 n"]:
    """Cameras as points [14, N] that are at most 1 apart for near-duplicates, as `coverage.places`; turns about any
    axis count alike."""
    # The columns of two rotations differ by 2 sqrt(2) sin(angle / 2) in all.
    turn = cameras.c2w[:, :3, :3].reshape(len(cameras), 9).T / (2 * np.sqrt(2) * np.sin(config.alike_rad / 2))
    lens = np.log(cameras.normalized_K()[:, :2].T) / ALIKE_LENS
    return np.concatenate([cameras.position.T / config.alike_m, turn, lens])
