"""Cameras seen from above: what they cover, and what that explains of a target.

`Ground` answers the questions of a strategy for walkers, `space.Space` the same ones for cameras that fly.
"""

import math
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews, checked_profiles, planar
from context_as_memory.retrieval.cover import ALIKE_LENS, SHORTLIST
from context_as_memory.retrieval.index import Index
from context_as_memory.retrieval.overlap import fov_overlap, touching_overlap
from context_as_memory.retrieval.rule import Bools, Candidates, Indices, RetrievalConfig, Samples
from context_as_memory.retrieval.surfaces import foreseen_surfaces, in_sight
from context_as_memory.shapes import Bool, Float, Int

COLUMNS, ROWS = 10, 8  # samples of each key pose: image columns x log-spaced depths; 16 or 32 columns choose no better
DEEP_SHORTLIST = 1024  # with depth profiles: a frame with little overlap may be the only one that sees round a corner
STAND_IN_MOVE, STAND_IN_TURN = 0.1, 0.25  # shares of the far limit and the field of view: see ranking_rows
VIEWS_AT_ONCE = 129  # intermediate arrays stay in the processor's cache


@runtime_checkable
class Geometry(Protocol):
    """How stored frames and a target are compared. Entries are numbers of stored frames."""

    ranking: Indices  # which of the target's poses rank the candidates
    shortlist: int  # how many candidates are compared closely
    recorded: Bools  # which entries were not generated, [N]

    def overlap(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Share of the target that each entry covers, [n] in [0, 1]."""
        ...

    def samples(self, entries: Int[np.ndarray, " n"]) -> Samples:
        """Sample points of the target; entries: the candidates, which may know where its surfaces are."""
        ...

    def explains(self, samples: Samples, entries: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n samples"]:
        """Which samples each entry explains."""
        ...

    def places(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, "d n"]:
        """Entries as points that are at most 1 apart for near-duplicates."""
        ...


class Ground:
    """Wedges on the ground. With depth profiles (`visible`) the samples are the surfaces that candidates foresee."""

    def __init__(self, config: RetrievalConfig, stored: Candidates, target: Cameras, index: Index) -> None:
        number = len(stored.cameras)
        self.config, self.views = config, index.all_views()
        self.goals = planar(target, index.basis)
        key = key_rows(len(target))
        self.keys = self.goals[key]
        self.ranking = key[ranking_rows(self.keys, config.far_m)]
        self.rank_goals = self.goals[self.ranking]
        self.recorded = np.zeros(number, bool) if stored.recorded is None else stored.recorded
        self.profiles_m: np.ndarray | None = None
        if config.strategy == "visible" and stored.profiles_m is not None:
            self.profiles_m = checked_profiles(stored.profiles_m, number)
        self.shortlist = SHORTLIST if self.profiles_m is None else DEEP_SHORTLIST

    def overlap(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Exact overlap with the target: the mean over the ranking poses."""
        seen, near_m, far_m = self.views[entries], self.config.near_m, self.config.far_m
        if len(self.ranking) == 1:
            return touching_overlap(self.rank_goals, seen, near_m, far_m)
        return np.asarray(fov_overlap(self.rank_goals, seen, near_m, far_m).mean(0))

    def samples(self, entries: Int[np.ndarray, " n"]) -> Samples:
        if self.profiles_m is not None:
            known = entries[np.isfinite(self.profiles_m[entries]).any(axis=1)]
            foreseen = foreseen_surfaces(self.keys, self.views[known], self.profiles_m[known], self.config.far_m)
            if len(foreseen[0]):
                return foreseen
        return target_samples(self.keys, self.config.near_m, self.config.far_m)

    def explains(self, samples: Samples, entries: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n samples"]:
        seen = self.views[entries]
        claims = explained(samples, seen, self.config)
        if self.profiles_m is not None:
            deep = np.isfinite(self.profiles_m[entries]).any(axis=1)
            part, wide_rad = seen[deep], self.config.coverage.visible_parallax_rad
            shown = in_sight(samples[0], part, self.profiles_m[entries[deep]])
            claims[deep] = explained(samples, part, self.config, wide_rad) & shown
        return claims

    def places(self, entries: Int[np.ndarray, " n"]) -> Float[np.ndarray, "5 n"]:
        """`alike_m` of way, `alike_rad` of turn or a lens a fifth wider are 1 apart."""
        views, rule = self.views[entries], self.config.coverage
        turn = views.heading.T / (2 * math.sin(rule.alike_rad / 2))
        return np.concatenate([views.origin.T / rule.alike_m, turn, np.log(views.half_width_tan)[None] / ALIKE_LENS])


def key_rows(number: int) -> Int[np.ndarray, " keys"]:
    """Which of a chunk's poses are its key poses: the first, the middle and the last (fewer when it has fewer)."""
    return np.array(sorted({0, number // 2, number - 1}))


def ranking_rows(keys: PlanarViews, far_m: float) -> Int[np.ndarray, " ranking"]:
    """The key poses by which candidates are ranked: all, or just the middle one if the others hardly differ from it."""
    middle = len(keys.origin) // 2
    moved = np.sqrt(((keys.origin - keys.origin[middle]) ** 2).sum(axis=1))
    limit = math.cos(STAND_IN_TURN * 2 * math.atan(keys.half_width_tan[middle]))
    alike = (moved <= STAND_IN_MOVE * far_m) & (keys.heading @ keys.heading[middle] >= limit)
    return np.array([middle]) if alike.all() else np.arange(len(moved))


def target_samples(keys: PlanarViews, near_m: float, far_m: float, columns: int = COLUMNS, rows: int = ROWS) -> Samples:
    """Sample points of the key views, so many image columns x log-spaced depths each.

    Returns points [S, 2] in metres, unit directions to them from the view's own origin [S, 2], distances [S] in metres.
    """
    column, depth = _sample_grid(near_m, far_m, columns, rows)
    across = keys.half_width_tan[:, None] * column  # [P, columns], of a ray that goes one metre ahead
    hx, hy = keys.heading[:, :1], keys.heading[:, 1:]
    ray = np.array([hx + across * hy, hy - across * hx])  # [2, P, columns]
    length = np.sqrt(1 + across * across)
    points = keys.origin.T[:, :, None, None] + ray[..., None] * depth  # [2, P, columns, rows]
    rays = np.repeat((ray / length).reshape(2, -1), rows, axis=1)
    return points.reshape(2, -1).T, rays.T, (length[..., None] * depth).reshape(-1)


@lru_cache(maxsize=8)
def _sample_grid(
    near_m: float, far_m: float, columns: int, rows: int
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " rows"]]:
    """Image columns in [-1, 1] and log-spaced depths in metres."""
    column = (np.arange(columns) + 0.5) / columns * 2 - 1
    return column, near_m * (far_m / near_m) ** ((np.arange(rows) + 0.5) / rows)


def explained(
    samples: Samples, views: PlanarViews, config: RetrievalConfig, parallax_rad: float | None = None
) -> Bool[np.ndarray, "c samples"]:
    """Which of the target's samples [S] each view [C] explains: bool [C, S].

    A sample counts when it lies in the view's wedge, is seen from a direction at most `parallax_rad` (None: the rule's)
    away from the target's, and at `scale_band` times the target's distance. Similar rays hit the same surface first, so
    this stands in for "not hidden by a wall" without knowing any depth, and it asks for usable resolution.
    """
    points, rays, distance = samples
    if not len(points) or not len(views.origin):
        return np.zeros((len(views.origin), len(points)), bool)
    centre = points.mean(0)  # small numbers lose no digits far from the world's origin
    (px, py), (ox, oy), (hx, hy) = (points - centre).T, (views.origin - centre).T, views.heading.T
    (rx, ry), k, one, each = rays.T, views.half_width_tan, np.ones(len(points)), np.ones(len(views.origin))
    # Every condition is (numbers of the view) . (numbers of the sample) >= 0, one thin matrix product each. The places
    # from which a sample has at most the allowed parallax fill a wedge with its tip on the sample: two half-planes.
    # Single precision is twice as fast. A sum of n products is off by at most (n + 2) / 2^24 of the sum of their sizes.
    # With views and samples within 20 m of `centre` that moves the edges of wedges and of parallax by 0.02 mm at most;
    # a squared distance is off by up to 0.001 m2, which for a sample a decimetre away can be a few millimetres.
    point, origin = np.array([px, py, one], np.float32), np.array([ox, oy, each], np.float32)
    ahead, across = np.array([hx, hy, -hx * ox - hy * oy]), np.array([hy, -hx, hx * oy - hy * ox])
    near, far = np.array([[0.0], [0.0], [config.near_m]]), np.array([[0.0], [0.0], [config.far_m]])
    square = np.array([-2 * ox, -2 * oy, each, ox * ox + oy * oy], np.float32)  # . (px, py, p.p, 1): squared distance
    low, high = (
        np.array([px, py, px * px + py * py - (band * distance) ** 2, one], np.float32)
        for band in config.coverage.scale_band
    )
    parallax = config.coverage.parallax_rad if parallax_rad is None else parallax_rad
    sin, cos = np.sin(parallax), np.cos(parallax)
    normals = [(-sin * rx - side * cos * ry, -sin * ry + side * cos * rx) for side in (-1.0, 1.0)]
    edges = (ahead - near, far - ahead, k * ahead - across, k * ahead + across)
    forms = [
        *((edge.astype(np.float32), point) for edge in edges),
        (square, low),
        (-square, high),
        *((origin, np.array([nx, ny, -nx * px - ny * py], np.float32)) for nx, ny in normals),
    ]
    inside = np.empty((len(ox), len(px)), bool)
    for first in range(0, len(ox), VIEWS_AT_ONCE):
        rows = slice(first, first + VIEWS_AT_ONCE)
        least = forms[0][0][:, rows].T @ forms[0][1]
        value = np.empty_like(least)
        for of_views, of_samples in forms[1:]:
            np.minimum(least, np.matmul(of_views[:, rows].T, of_samples, out=value), out=least)
        np.greater_equal(least, 0.0, out=inside[rows])
    return inside
