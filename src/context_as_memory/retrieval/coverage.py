"""The strategy `coverage`: greedy, over what is still unexplained."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from context_as_memory.camera import PlanarViews
from context_as_memory.retrieval.config import Bools, Floats, Indices, RetrievalConfig, Samples, take
from context_as_memory.retrieval.visibility import foreseen_surfaces, in_sight

COLUMNS, ROWS = 10, 8  # samples of each key pose: image columns x log-spaced depths; 16 or 32 columns choose no better
SHORTLIST = 256  # candidates that enter the greedy stage, best overlap first
DEEP_SHORTLIST = 1024  # with depth profiles: a frame with little overlap may be the only one that sees round a corner
STAND_IN_MOVE, STAND_IN_TURN = 0.1, 0.25  # shares of the far limit and the field of view: see ranking_rows
Words = NDArray[np.uint64]
VIEWS_AT_ONCE = 129  # intermediate arrays stay in the processor's cache


def key_rows(number: int) -> Indices:
    """Which of a chunk's poses are its key poses: the first, the middle and the last (fewer when it has fewer)."""
    return np.array(sorted({0, number // 2, number - 1}))


def ranking_rows(keys: PlanarViews, far_m: float) -> Indices:
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
def _sample_grid(near_m: float, far_m: float, columns: int, rows: int) -> tuple[Floats, Floats]:
    """Image columns in [-1, 1] and log-spaced depths in metres."""
    column = (np.arange(columns) + 0.5) / columns * 2 - 1
    return column, near_m * (far_m / near_m) ** ((np.arange(rows) + 0.5) / rows)


def explained(samples: Samples, views: PlanarViews, config: RetrievalConfig) -> Bools:
    """Which of the target's samples [S] each view [C] explains: bool [C, S].

    A sample counts when it lies in the view's wedge, is seen from a direction at most `parallax_rad` away from the
    target's, and at `scale_band` times the target's distance. Similar rays hit the same surface first, so this stands
    in for "not hidden by a wall" without knowing any depth, and it asks for usable resolution.
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
        np.array([px, py, px * px + py * py - (band * distance) ** 2, one], np.float32) for band in config.scale_band
    )
    sin, cos = np.sin(config.parallax_rad), np.cos(config.parallax_rad)
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


def packed(claims: Bools) -> Words:
    """Claims [..., S] as bits in 64-bit words: a pick of the greedy stage is then an AND and a bit count."""
    octets = np.packbits(claims, axis=-1)
    words = np.zeros((*octets.shape[:-1], -(-octets.shape[-1] // 8) * 8), np.uint8)
    words[..., : octets.shape[-1]] = octets
    return words.view(np.uint64)


def greedy_cover(words: Words, bonus: Floats, budget: int, least: float) -> tuple[list[int], list[int]]:
    """Repeatedly picks the row of `packed` claims with most samples that no earlier pick has claimed, plus its bonus
    [C].

    A bonus below 1 only decides between equal gains; then the earlier row wins. Rows that gain less than `least`
    samples, or none, are not picked; stops when there is no other, or at `budget` picks. Returns the rows and their
    gains.
    """
    rows: list[int] = []
    gains: list[int] = []
    left = words.T.copy()  # sums over the first axis are twice as fast
    least = max(least, 1)
    while len(rows) < min(budget, len(words)):
        gain = np.add.reduce(np.bitwise_count(left), axis=0, dtype=np.float64)
        worth = np.where(gain >= least, gain + bonus, -1.0)
        best = int(worth.argmax())
        if worth[best] < 0:
            break
        rows.append(best)
        gains.append(int(gain[best]))
        left &= ~left[:, best : best + 1]
    return rows, gains


def coverage(
    views: PlanarViews,
    keys: PlanarViews,
    candidates: Indices,
    overlap: Floats,
    recent: int | None,
    budget: int,
    config: RetrievalConfig,
    *,
    profiles_m: Floats | None = None,
    kept: Indices | None = None,
    given: Bools | None = None,
) -> tuple[Indices, Floats]:
    """Greedy residual coverage over the best candidates (ascending indices with their overlaps).

    profiles_m: depth profiles [N, PROFILE] of all views; the samples are then the surfaces that the candidates foresee,
    if any. kept: views that cost nothing to read; they get `kept_bonus`. given: which of all views were not generated;
    they get `given_bonus`.
    """
    tie_break, best = shortlist(overlap, SHORTLIST if profiles_m is None else DEEP_SHORTLIST)
    rows = candidates[::-1][best]
    samples = target_samples(keys, config.near_m, config.far_m)
    if profiles_m is not None:
        known = rows[np.isfinite(profiles_m[rows]).any(axis=1)]
        foreseen = foreseen_surfaces(keys, take(views, known), profiles_m[known], config.far_m)
        samples = foreseen if len(foreseen[0]) else samples

    def claimed(which: Indices) -> Bools:
        found = explained(samples, take(views, which), config)
        if profiles_m is not None:
            deep = np.isfinite(profiles_m[which]).any(axis=1)
            seen, profiles = take(views, which[deep]), profiles_m[which[deep]]
            wide = replace(config, parallax_rad=config.visible_parallax_rad)
            found[deep] = explained(samples, seen, wide) & in_sight(samples[0], seen, profiles)
        return found

    claims = claimed(rows if recent is None else np.append(rows, recent))
    shown: Bools = np.asarray(claims[len(rows) :].any(axis=0))  # by the most recent frame, if there is one
    picked, gains = layered_cover(claims[: len(rows)], shown, tie_break[best], rows, budget, config, kept, given)
    return rows[picked], gains


def shortlist(overlap: Floats, size: int) -> tuple[Floats, Indices]:
    """Candidates (ascending, with their overlaps [C]) newest first: overlaps in that order, and the `size` best."""
    tie_break = overlap[::-1].round(6)  # rounded, so that equal views tie whatever their last digit
    if len(tie_break) <= size:
        return tie_break, np.arange(len(tie_break))
    least = np.partition(tie_break, -size)[-size]
    above = np.flatnonzero(tie_break > least)
    equal = np.flatnonzero(tie_break == least)[: size - len(above)]  # the newest of them
    return tie_break, np.sort(np.append(above, equal))


def layered_cover(
    claims: Bools,
    shown: Bools,
    tie_break: Floats,
    rows: Indices,
    budget: int,
    config: RetrievalConfig,
    kept: Indices | None,
    given: Bools | None = None,
) -> tuple[list[int], Floats]:
    """Greedy cover of samples by the views `rows`, whose claims are [C, S], in `layers` rounds.

    The first round explains every sample once, what the most recent frame shows ([S]) counting as explained; the next
    explain those again that few frames explain, since what seems to be shown may be hidden by a wall there. Returns the
    picked positions in `rows` and their gains as shares of all samples.
    """
    number = claims.shape[1]
    bonus = tie_break * 0.99
    if kept is not None:
        bonus = bonus + config.kept_bonus * number * (rows[:, None] == kept).any(axis=1)
    if given is not None:
        bonus = bonus + config.given_bonus * number * given[rows]
    words = packed(claims)
    explained_more = np.zeros((config.layers, words.shape[1]), np.uint64)  # row i: samples explained more than i times
    explained_more[0] = packed(shown)
    picked: list[int] = []
    gains: list[int] = []
    for layer in range(config.layers):
        left = words & ~explained_more[layer]
        left[picked] = 0
        more, gained = greedy_cover(left, bonus, budget - len(picked), config.min_gain * number)
        picked, gains = picked + more, gains + gained
        for row in more:
            explained_more[1:] |= explained_more[:-1] & words[row]
            explained_more[0] |= words[row]
    return picked, np.array(gains, np.float64) / number
