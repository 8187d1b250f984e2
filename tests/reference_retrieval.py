"""Slow, obvious versions of what retrieval does with array expressions: a polygon library and plain loops."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
from shapely.geometry import Polygon

from context_as_memory.camera import Cameras, PlanarViews, planar
from context_as_memory.retrieval import AllViews, Coverage, Crowd, Paper, RetrievalConfig
from context_as_memory.retrieval.cover import ALIKE, ALIKE_LENS, SHORTLIST
from context_as_memory.retrieval.ground import COLUMNS, ROWS
from context_as_memory.retrieval.index import pose_bins

NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def rule_of(rule: RetrievalConfig | None = None, **settings: object) -> RetrievalConfig:
    """A rule with some settings changed, those in groups by their names alone; `paper_` before those of the paper."""
    groups = {field.name: ("coverage", field.name) for field in fields(Coverage)}
    groups |= {f"paper_{field.name}": ("paper", field.name) for field in fields(Paper)}
    groups |= {field.name: ("crowd", field.name) for field in fields(Crowd)}
    rule = rule or RetrievalConfig()
    for key, value in settings.items():
        group, name = groups.get(key, ("", key))
        changed = replace(getattr(rule, group), **{name: value}) if group else value
        rule = replace(rule, **{group or name: changed})  # type: ignore[arg-type]
    return rule


def wedge(views: PlanarViews, i: int, near_m: float, far_m: float) -> list[tuple[float, float]]:
    (ox, oy), (hx, hy), k = views.origin[i], views.heading[i], views.half_width_tan[i]
    corners = ((-k * near_m, near_m), (k * near_m, near_m), (k * far_m, far_m), (-k * far_m, far_m))
    return [(ox + z * hx + x * hy, oy + z * hy - x * hx) for x, z in corners]


def from_view(views: PlanarViews, i: int, point: Sequence[float]) -> tuple[float, float]:
    """(x to the right, z ahead) of a point of the plane."""
    dx, dy = point[0] - views.origin[i][0], point[1] - views.origin[i][1]
    hx, hy = views.heading[i]
    return dx * hy - dy * hx, dx * hx + dy * hy


def overlap_area(target: PlanarViews, t: int, others: PlanarViews, c: int, near_m: float, far_m: float) -> float:
    own = Polygon(wedge(target, t, near_m, far_m))
    return own.intersection(Polygon(wedge(others, c, near_m, far_m))).area / own.area


def overlap_image(target: PlanarViews, t: int, others: PlanarViews, c: int, near_m: float, far_m: float) -> float:
    """Integral of 1/z^2 over the clipped polygon, by quadrature along its edges in log-depth."""
    seen = [[from_view(target, t, p) for p in wedge(v, i, near_m, far_m)] for v, i in ((target, t), (others, c))]
    both = Polygon(seen[0]).intersection(Polygon(seen[1]))
    if both.area == 0:
        return 0.0
    corners = list(both.exterior.coords)
    total = 0.0
    for (x0, z0), (x1, z1) in zip(corners, corners[1:], strict=False):
        if abs(z1 - z0) > 1e-13:
            w0, w1 = math.log(z0), math.log(z1)
            z = np.exp((w0 + w1) / 2 + (w1 - w0) / 2 * NODES)
            x = x0 + (z - z0) / (z1 - z0) * (x1 - x0)
            total += float((x / z * WEIGHTS).sum()) * (w1 - w0) / 2
    return abs(total) / (2 * target.half_width_tan[t] * math.log(far_m / near_m))


def samples(keys: PlanarViews, config: RetrievalConfig) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """(point, apex it is seen from) for each sample of the key views."""
    found = []
    for i in range(len(keys.origin)):
        (ox, oy), (hx, hy), k = keys.origin[i], keys.heading[i], keys.half_width_tan[i]
        for column in range(COLUMNS):
            for row in range(ROWS):
                z = config.near_m * (config.far_m / config.near_m) ** ((row + 0.5) / ROWS)
                x = k * z * ((column + 0.5) / COLUMNS * 2 - 1)
                found.append(((ox + z * hx + x * hy, oy + z * hy - x * hx), (ox, oy)))
    return found


def explains(
    views: PlanarViews,
    i: int,
    point: tuple[float, float],
    apex: tuple[float, float],
    config: RetrievalConfig,
    slack_m: float = 0.0,
    slack_m2: float = 0.0,
) -> bool:
    """slack: how far outside a border still counts, in metres; for limits of distance in square metres."""
    (x, z), k = from_view(views, i, point), views.half_width_tan[i]
    if not config.near_m - slack_m <= z <= config.far_m + slack_m:
        return False
    if abs(x) > k * z + slack_m * math.hypot(1, k):
        return False
    to_view = complex(*(views.origin[i] - point))
    to_apex = complex(apex[0] - point[0], apex[1] - point[1])
    parallax = abs(math.atan2((to_view / to_apex).imag, (to_view / to_apex).real))
    low, high = (band * abs(to_apex) for band in config.coverage.scale_band)
    return (
        parallax <= config.coverage.parallax_rad + math.asin(slack_m / abs(to_view))
        and low**2 - slack_m2 <= abs(to_view) ** 2 <= high**2 + slack_m2
    )


def explains_in_single_precision(
    views: PlanarViews,
    i: int,
    point: tuple[float, float],
    apex: tuple[float, float],
    config: RetrievalConfig,
    centre: Sequence[float],
) -> bool | None:
    """What sums of products in single precision must find, or None where either answer is right. centre: their origin.

    A sum of n products of rounded numbers is off by at most (n + 2) / 2^24 of the sum of the products' sizes; n is 3
    for the edges and 4 for the squared distance.
    """
    size = math.dist(point, centre) + math.dist(views.origin[i], centre)
    slack_m = 5 / 2**24 * (size + config.far_m)
    slack_m2 = 6 / 2**24 * (size**2 + (config.coverage.scale_band[1] * math.dist(point, apex)) ** 2)
    surely, maybe = (explains(views, i, point, apex, config, sign * slack_m, sign * slack_m2) for sign in (-1.0, 1.0))
    return surely if surely == maybe else None


class OnGround(AllViews):
    """The plain index, on a given ground [2, 3] instead of that of its cameras."""

    def __init__(self, basis: np.ndarray) -> None:
        super().__init__()
        self._given_basis = basis

    def update(self, cameras: Cameras, recorded: np.ndarray | None = None) -> None:
        self.basis = self._given_basis
        self._views = planar(cameras, self.basis)


def newest_of_each_bin(
    cameras: Cameras, basis: np.ndarray, config: RetrievalConfig, allowed: np.ndarray, recorded: np.ndarray
) -> np.ndarray:
    """Which entries a crowded index looks at, bool [N]."""
    newest = {}
    for row, pose in enumerate(pose_bins(cameras, basis, config).tolist()):
        if allowed[row]:
            newest[(*pose, bool(recorded[row]))] = row
    return np.isin(np.arange(len(cameras)), list(newest.values()))


def apart(views: PlanarViews, i: int, j: int, config: RetrievalConfig) -> float:
    """How unlike two poses are; near-duplicates have at most `ALIKE`."""
    way = math.dist(views.origin[i], views.origin[j]) / config.coverage.alike_m
    yaw = [math.atan2(views.heading[n][1], views.heading[n][0]) for n in (i, j)]
    turn = math.sin((yaw[0] - yaw[1]) / 2) / math.sin(config.coverage.alike_rad / 2)
    lens = math.log(views.half_width_tan[i] / views.half_width_tan[j]) / ALIKE_LENS
    return way**2 + turn**2 + lens**2


def coverage(
    views: PlanarViews,
    keys: PlanarViews,
    overlap: dict[int, float],
    recent: int | None,
    budget: int,
    config: RetrievalConfig,
    recorded: Sequence[bool],
) -> tuple[list[int], list[float]]:
    """Greedy residual coverage among the frames of `overlap`; then free slots are filled up."""
    points = samples(keys, config)
    chosen = [] if recent is None else [recent]
    times = [0 if recent is None else int(explains(views, recent, *point, config)) for point in points]
    ranked = sorted(overlap, key=lambda i: (-round(overlap[i], 6), -i))[:SHORTLIST]
    claims = {i: {s for s in range(len(points)) if explains(views, i, *points[s], config)} for i in ranked}
    scores: list[float] = []

    def difference(i: int) -> float:
        """From the most similar chosen frame; a recorded frame is compared with recorded ones only."""
        return min((apart(views, i, j, config) for j in chosen if recorded[j] or not recorded[i]), default=math.inf)

    def choose(i: int, score: int) -> None:
        chosen.append(i)
        scores.append(score / len(points))

    first = len(chosen)
    for layer in range(config.coverage.layers):
        left = {s for s, number in enumerate(times) if number <= layer}
        while len(chosen) < first + budget:
            gains = {i: len(claims[i] & left) for i in claims if i not in chosen and difference(i) > ALIKE}
            gains = {i: gain for i, gain in gains.items() if gain >= max(1, config.coverage.min_gain * len(points))}
            if not gains:
                break
            bonus = config.coverage.recorded_bonus * len(points)
            best = max(gains, key=lambda i: (gains[i] + bonus * bool(recorded[i]), round(overlap[i], 6), i))
            left -= claims[best]
            for s in claims[best]:
                times[s] += 1
            choose(best, gains[best])
    while config.coverage.fill_share is not None and len(chosen) < first + budget:
        free = [i for i in claims if i not in chosen and difference(i) > ALIKE]
        free = [i for i in free if len(claims[i]) / len(points) >= config.coverage.fill_share]
        free = [i for i in free if recorded[i]] or free
        if not free:
            break
        best = max(free, key=lambda i: (round(difference(i), 6), i))
        choose(best, len(claims[best]))
    return chosen[first:], scores


def paper_pair(target: PlanarViews, i: int, others: PlanarViews, j: int, config: RetrievalConfig) -> bool:
    """The ray test for one pair, with angles."""

    def cross(a: np.ndarray, b: np.ndarray) -> float:
        return float(a[0] * b[1] - a[1] * b[0])

    yaw = [math.atan2(v.heading[n][1], v.heading[n][0]) for v, n in ((target, i), (others, j))]
    half = [math.atan(v.half_width_tan[n]) for v, n in ((target, i), (others, j))]
    offset = others.origin[j] - target.origin[i]
    near = config.paper.near_m
    far = math.inf if config.paper.far_m is None else config.paper.far_m
    meets = []
    for side in (-1, 1):
        a, b = (np.array([math.cos(y + side * h), math.sin(y + side * h)]) for y, h in zip(yaw, half, strict=True))
        if abs(cross(a, b)) <= 1e-9:
            meets.append(False)
            continue
        s, t = cross(offset, b) / cross(a, b), cross(offset, a) / cross(a, b)
        meets.append(s > 1e-6 and t > 1e-6 and near <= s <= far)
    if all(meets):
        return True
    if config.paper.as_published:
        return False
    turn = abs(math.remainder(yaw[1] - yaw[0], 2 * math.pi))
    if math.hypot(*offset) < near and turn < sum(half):
        return True

    def in_view(views: PlanarViews, n: int, point: np.ndarray) -> bool:
        x, z = from_view(views, n, point.tolist())
        return z > 0 and abs(x) <= views.half_width_tan[n] * z

    return turn < config.paper.parallel_rad and (
        in_view(target, i, others.origin[j]) or in_view(others, j, target.origin[i])
    )


def image_edges(
    cameras: Cameras,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x/z at the left and right and y/z at the top and bottom edge of the image, each [N]; heeds cx and cy."""
    fx, fy, cx, cy = cameras.K.T
    return -cx / fx, (cameras.width - cx) / fx, -cy / fy, (cameras.height - cy) / fy


def frustum_planes(cameras: Cameras, near_m: float, far_m: float) -> np.ndarray:
    """Planes [N,6,4] as (unit normal, d), a point is inside when n.x + d >= 0: near, far, left, right, top, bottom."""
    left, right, top, bottom = image_edges(cameras)
    zero, one = np.zeros_like(left), np.ones_like(left)
    local = np.stack(
        [
            np.stack([zero, zero, one], 1),
            np.stack([zero, zero, -one], 1),
            np.stack([one, zero, -left], 1),
            np.stack([-one, zero, right], 1),
            np.stack([zero, one, -top], 1),
            np.stack([zero, -one, bottom], 1),
        ],
        axis=1,
    )
    local /= np.linalg.norm(local, axis=2, keepdims=True)
    normal = local @ cameras.c2w[:, :3, :3].transpose(0, 2, 1)
    offset = np.array([-near_m, far_m, 0.0, 0.0, 0.0, 0.0]) - np.einsum("nki,ni->nk", normal, cameras.position)
    return np.concatenate([normal, offset[..., None]], axis=2)
