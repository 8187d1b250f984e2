"""Which stored frames go into the context of the next chunk? Decided from camera poses alone (numpy only).

A frame's view, seen from above, is a wedge: the trapezoid between a near and a far depth inside its horizontal field of
view. Two frames can only show the same things where their wedges overlap. Five strategies:

`coverage`  exact wedge overlap, then greedy residual coverage: each pick must show parts of the target views that the
            picks before it (and the most recent frame) do not show from a similar direction and distance. The default.
`paper`     the rule of Context-as-Memory (arXiv 2506.03141, section 3.3 and figure 4): both left and both right
            boundary rays of a pair meet; then one random frame of each run of consecutive survivors; then far ones.
`recent`    a sliding window over the newest frames (Diffusion Forcing, arXiv 2502.06764).
`random`    frames drawn without replacement.
`first`     the oldest frames.

Every answer is deterministic given the seed, holds no index twice, and may be shorter than asked for: a context padded
with frames that show nothing of the target costs time and teaches nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from context_as_memory.camera import Cameras, PlanarViews, ground_basis, planar
from context_as_memory.errors import UserError

STRATEGIES = ("coverage", "paper", "recent", "random", "first")

COLUMNS, ROWS = 24, 12  # samples of each key pose: image columns x log-spaced depths
SHORTLIST = 256  # candidates that enter the greedy stage, best overlap first
STAND_IN_MOVE, STAND_IN_TURN = 0.1, 0.25  # shares of the far limit and the field of view: see ranking_poses
MIN_OVERLAP = 1e-6  # overlaps below this are rounding, not shared view
MEET_EPS_M = 1e-6  # rays "meet" only beyond this distance: at the apex of coinciding cameras the sign is rounding noise
BLOCK, VIEWS_AT_ONCE = 2048, 32  # sizes at which intermediate arrays stay in the processor's cache

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Pick = slice | list[int]
Pose = tuple[Floats, Floats, Floats, Floats]  # x, z, sin, cos: see relative_pose
Segments = tuple[Floats, Floats, Floats, Floats]  # x0, z0, dx, dz
Share = Callable[[Pose, Floats, Floats, float, float], Floats]


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """How the context is chosen.

    strategy: one of STRATEGIES. max_context: frames in the context, the most recent one included (>= 1).
    near_m, far_m: depth limits of a view for the overlap (metres, 0 < near < far).
    coverage: a stored frame explains a sample of the target view only if it sees it from a direction at most
    `parallax_rad` away and from `scale_band` times the target's distance; picking stops when the best gain is under
    `min_gain` of all samples.
    paper: limits on the distance from the target camera to the meeting points of the rays (`paper_near_m`,
    `paper_far_m`; None: no far limit, as in the published labels); headings within `paper_parallel_rad` count as
    parallel; `paper_far_share` of the slots go to frames far apart in space and time when runs alone leave too many;
    `literal` keeps the published rule as it stands: no near limit, no special cases for turning on the spot and
    parallel views.
    """

    strategy: str = "coverage"
    max_context: int = 8
    near_m: float = 0.1
    far_m: float = 15.0
    parallax_rad: float = float(np.radians(35.0))
    scale_band: tuple[float, float] = (0.4, 2.5)
    min_gain: float = 0.01
    paper_near_m: float = 1.0
    paper_far_m: float | None = None
    paper_parallel_rad: float = 0.01
    paper_far_share: float = 0.25
    literal: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"unknown retrieval strategy {self.strategy!r}: choose one of {', '.join(STRATEGIES)}")
        if self.max_context < 1:
            raise UserError(f"max_context is {self.max_context}: the context needs room for at least 1 frame")
        _check_depths(self.near_m, self.far_m)
        low, high = self.scale_band
        if not 0 < low <= 1 <= high:
            raise UserError(f"scale_band is {self.scale_band}: it must be (low, high) with 0 < low <= 1 <= high")
        if not 0 < self.parallax_rad <= np.pi / 2:
            raise UserError(f"parallax_rad is {self.parallax_rad}: give an angle above 0 and up to pi / 2")
        for name in ("min_gain", "paper_far_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.paper_near_m < 0 or (self.paper_far_m is not None and self.paper_far_m <= self.paper_near_m):
            raise UserError(f"paper_near_m {self.paper_near_m}, paper_far_m {self.paper_far_m}: need 0 <= near < far")


@dataclass(frozen=True)
class Retrieval:
    """The chosen context.

    indices: int64 [m], m <= max_context, bank indices without duplicates; retrieved frames in pick order, the most
    recent frame last. scores: float64 [m] in [0, 1]: `coverage`: share of the target's samples that this pick was the
    first to explain; `paper`: share of the target poses whose ray test it passes; other strategies, and the most recent
    frame in every strategy: exact overlap (mean over `ranking_poses`).
    candidates: int64 [c], ascending: all retrievable entries that pass the strategy's overlap rule (strategies without
    one: all retrievable entries); the most recent frame is among them if it passes.
    """

    indices: Indices
    scores: Floats
    candidates: Indices


def retrieve(
    bank: Cameras,
    target: Cameras,
    config: RetrievalConfig,
    *,
    recent: int | None,
    allowed: Bools | None = None,
    seed: int = 0,
) -> Retrieval:
    """Chooses the context for a chunk.

    bank: cameras of all N stored frames. target: cameras of the T >= 1 frames to be generated. recent: index of the
    most recent frame, always in the context and listed last; None: there is none. allowed: bool [N], entries that may
    be retrieved (all if None; `recent` needs no permission). seed: for the random draws of `paper` and `random`.
    Raises UserError for a bad index, mask or empty target.
    """
    number = len(bank)
    if len(target) == 0:
        raise UserError("no target cameras: give the camera of at least one frame to be generated")
    if recent is not None and not 0 <= recent < number:
        raise UserError(f"recent frame {recent} is not in the bank: its {number} frames are numbered from 0")
    eligible = np.ones(number, bool) if allowed is None else np.array(allowed)
    if eligible.shape != (number,) or eligible.dtype != np.bool_:
        raise UserError(f"allowed is {eligible.dtype} {list(eligible.shape)}: give {number} booleans, one a frame")
    if number == 0:
        return Retrieval(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    last_eligible = recent is not None and bool(eligible[recent])
    if recent is not None:
        eligible[recent] = False  # it has a slot of its own

    basis = ground_basis(bank)
    views, goals = planar(bank, basis), planar(target, basis)
    keys = key_poses(goals)
    rankers = ranking_poses(keys, config.far_m)
    pool = np.flatnonzero(eligible)
    budget = config.max_context - (recent is not None)
    rng = np.random.default_rng(seed)
    last = np.array([], np.int64) if recent is None else np.array([recent])

    def overlap(indices: Indices) -> Floats:
        return np.asarray(fov_overlap(rankers, take(views, indices), config.near_m, config.far_m).mean(0))

    candidates: Indices = pool
    recent_passes: Bools = np.ones(len(last), bool)
    if config.strategy == "coverage":
        shared = overlap(np.append(pool, last))
        passed = np.flatnonzero(shared[: len(pool)] > MIN_OVERLAP)
        candidates = pool[passed]
        picks, scores = _coverage(views, keys, candidates, shared[passed], recent, budget, config)
        scores = np.append(scores, shared[len(pool) :])
        recent_passes = np.asarray(shared[len(pool) :] > MIN_OVERLAP)
    elif config.strategy == "paper":
        share = paper_overlap(goals, take(views, pool), config).mean(0)
        candidates = pool[share > 0]
        picks = thin_runs(candidates, views.origin, goals.origin.mean(0), recent, budget, config.paper_far_share, rng)
        scores = np.append(share[np.searchsorted(pool, picks)], overlap(last))
        recent_passes = np.asarray(paper_overlap(goals, take(views, last), config).any(0))
    else:
        if config.strategy == "recent":
            older = pool if recent is None else pool[pool < recent]
            picks = older[max(0, len(older) - budget) :]
        elif config.strategy == "random":
            picks = rng.permutation(pool)[:budget]
        else:
            picks = pool[:budget]
        scores = overlap(np.append(picks, last))
    if last_eligible:
        candidates = np.union1d(candidates, last[recent_passes])
    return Retrieval(np.append(picks, last).astype(np.int64), scores.astype(np.float64), candidates.astype(np.int64))


# --- exact overlap of two wedges --------------------------------------------------------------------------------------


def fov_overlap(target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float) -> Floats:
    """Share of each target's image that lies in each candidate's wedge: float64 [T, N] in [0, 1], exact (about 1e-7).

    Area is weighed by 1/depth^2 as seen from the target, i.e. measured in image column x log-depth, so a metre close by
    counts as much as it fills the picture; the share is of the target wedge's own measure (log-uniform depth).
    Raises UserError unless 0 < near_m < far_m.
    """
    return _overlap(target, candidates, near_m, far_m, _image_share)


def fov_overlap_area(target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float) -> Floats:
    """Like `fov_overlap` but in plain ground area: share of the target wedge's area, float64 [T, N] in [0, 1]."""
    return _overlap(target, candidates, near_m, far_m, _ground_share)


def _check_depths(near_m: float, far_m: float) -> None:
    if not (0 < near_m < far_m and np.isfinite(far_m)):
        raise UserError(f"near_m {near_m}, far_m {far_m}: the view needs finite depths 0 < near < far in metres")


def _overlap(target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float, share: Share) -> Floats:
    _check_depths(near_m, far_m)
    result = np.zeros((len(target.origin), len(candidates.origin)))
    t, c = np.nonzero(_within_reach(target, candidates, near_m, far_m))
    x, z, sin, cos = relative_pose(take(target, t), take(candidates, c))
    # Identical poses share all edges, and an edge on a boundary is neither inside nor outside. A shift far below any
    # tolerance, in a direction no real edge has, makes every such case generic.
    x, z = x + 0.61e-7 * near_m, z + 0.79e-7 * near_m
    k_t, k_c = target.half_width_tan[t], candidates.half_width_tan[c]
    found = np.empty(len(t))
    with np.errstate(all="ignore"):  # edges parallel to a boundary or clipped away divide by zero, to no effect
        for first in range(0, len(t), BLOCK):
            part = slice(first, first + BLOCK)
            found[part] = share((x[part], z[part], sin[part], cos[part]), k_t[part], k_c[part], near_m, far_m)
    result[t, c] = np.clip(found, 0.0, 1.0)
    return result


def _within_reach(target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float) -> Bools:
    """[T, N]: the enclosing circles of the two wedges touch. A cheap test that never rejects a true overlap."""

    def circles(views: PlanarViews) -> tuple[Floats, Floats]:
        k = views.half_width_tan
        ahead = np.minimum(far_m, (1 + k * k) * (near_m + far_m) / 2)
        return views.origin + ahead[:, None] * views.heading, np.hypot(k * far_m, far_m - ahead)

    (centre_t, radius_t), (centre_c, radius_c) = circles(target), circles(candidates)
    dx, dy = (centre_c[None, :, axis] - centre_t[:, None, axis] for axis in (0, 1))
    reach = radius_t[:, None] + radius_c[None, :]
    return np.asarray(dx * dx + dy * dy <= reach * reach)


def relative_pose(target: PlanarViews, candidates: PlanarViews) -> Pose:
    """Candidates [M] as seen by their targets [M] (or [1]): x to the right, z ahead, sine and cosine of the turn."""
    offset_x, offset_y = (candidates.origin - target.origin).T
    (hx, hy), (cx, cy) = target.heading.T, candidates.heading.T
    return offset_x * hy - offset_y * hx, offset_x * hx + offset_y * hy, cx * hy - cy * hx, cx * hx + cy * hy


def _boundary(
    pose: Pose, k_t: Floats, k_c: Floats, near_m: float, far_m: float, edges: tuple[list[int], list[int]]
) -> tuple[Segments, Segments]:
    """The boundary of the intersection as segments x0, z0, dx, dz in the target frame.

    For convex shapes it is (candidate's edges inside the target) + (target's edges inside the candidate). First answer:
    the candidate's four edges [4, M], counter-clockwise. Second: the target's edges from corners edges[0] to edges[1]
    (corners: 0 near left, 1 near right, 2 far right, 3 far left). What is clipped away has zero length.
    """
    x, z, sin, cos = pose
    depth = np.array([near_m, near_m, far_m, far_m, near_m])[:, None]
    across = np.array([-near_m, near_m, far_m, -far_m, -near_m])[:, None]
    corner_x, corner_z = x + k_c * across * cos + depth * sin, z - k_c * across * sin + depth * cos
    own_x, own_z = k_t * across, depth + 0 * k_t
    seen_x, seen_z = (own_x - x) * cos - (own_z - z) * sin, (own_x - x) * sin + (own_z - z) * cos  # by the candidate

    def clipped(x: Floats, z: Floats, frame_x: Floats, frame_z: Floats, k: Floats, start: Pick, end: Pick) -> Segments:
        before, after = np.zeros(1), np.zeros(1)  # parts of the edge cut off at its start (negative) and its end
        for height in (frame_z - near_m, far_m - frame_z, k * frame_z - frame_x, k * frame_z + frame_x):  # >= 0: inside
            under, rise = np.minimum(height, 0.0), height[end] - height[start]
            before, after = np.fmin(before, under[start] / rise), np.fmax(after, under[end] / rise)
        length, dx, dz = np.maximum(1.0 - after + before, 0.0), x[end] - x[start], z[end] - z[start]
        return x[start] - before * dx, z[start] - before * dz, length * dx, length * dz

    theirs = clipped(corner_x, corner_z, corner_x, corner_z, k_t, slice(0, 4), slice(1, 5))
    return theirs, clipped(own_x, own_z, seen_x, seen_z, k_c, *edges)


def _image_share(pose: Pose, k_t: Floats, k_c: Floats, near_m: float, far_m: float) -> Floats:
    """Intersection in d(x/z) dz/z = dA/z^2 as a share of the target's. By Green's theorem it is the integral of
    x/z^2 dz over the boundary: edges of constant depth add nothing, so of the target only its two sides count."""
    (x0, z0, dx, dz), (_, side_z, _, side_dz) = _boundary(pose, k_t, k_c, near_m, far_m, ([1, 0], [2, 3]))
    # Along x = x0 + t dx, z = z0 + t dz with r = dz/z0: the exact integral, arranged so that r -> 0 loses no digits.
    r = dz / z0
    tail = r / (1 + r)
    theirs = np.where(dz == 0, 0.0, (x0 * tail + dx * ((np.log1p(r) - tail) / r)) / z0)
    own = np.where(side_dz == 0, 0.0, k_t * np.log1p(side_dz / side_z))
    return np.asarray((theirs.sum(0) + own.sum(0)) / (2 * k_t * np.log(far_m / near_m)))


def _ground_share(pose: Pose, k_t: Floats, k_c: Floats, near_m: float, far_m: float) -> Floats:
    """Intersection in ground area as a share of the target's: half the sum of cross(p, dp) over the boundary. The
    target's sides run through the origin and add nothing."""
    area = np.zeros_like(k_t)
    for x0, z0, dx, dz in _boundary(pose, k_t, k_c, near_m, far_m, ([0, 2], [1, 3])):
        area += np.where((dx == 0) & (dz == 0), 0.0, x0 * dz - z0 * dx).sum(0) / 2
    return area / (k_t * (far_m**2 - near_m**2))


# --- coverage: greedy, over what is still unexplained -----------------------------------------------------------------


def take(views: PlanarViews, indices: Indices | Bools | slice) -> PlanarViews:
    """A subset of planar views."""
    return PlanarViews(views.origin[indices], views.heading[indices], views.half_width_tan[indices])


def key_poses(target: PlanarViews) -> PlanarViews:
    """The first, middle and last pose of a chunk (fewer when it has fewer)."""
    number = len(target.origin)
    return take(target, np.unique(np.array([0, number // 2, number - 1])))


def ranking_poses(keys: PlanarViews, far_m: float) -> PlanarViews:
    """The key poses by which candidates are ranked: all, or just the middle one if the others hardly differ from it."""
    middle = take(keys, slice(len(keys.origin) // 2, len(keys.origin) // 2 + 1))
    moved = np.hypot(*(keys.origin - middle.origin).T)
    turned = np.arccos(np.clip(keys.heading @ middle.heading[0], -1.0, 1.0))
    alike = (moved <= STAND_IN_MOVE * far_m) & (turned <= STAND_IN_TURN * 2 * np.arctan(middle.half_width_tan))
    return middle if alike.all() else keys


def target_samples(keys: PlanarViews, near_m: float, far_m: float) -> tuple[Floats, Floats, Floats]:
    """Sample points of the key views, COLUMNS image columns x ROWS log-spaced depths each.

    Returns points [S, 2] in metres, unit directions to them from the view's own origin [S, 2], distances [S] in metres.
    """
    column = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2 - 1
    depth = near_m * (far_m / near_m) ** ((np.arange(ROWS) + 0.5) / ROWS)
    right = np.stack([keys.heading[:, 1], -keys.heading[:, 0]], 1)
    ray = keys.heading[:, None] + column[:, None] * (keys.half_width_tan[:, None] * right)[:, None]  # [P, COLUMNS, 2]
    step = depth[:, None] * ray[:, :, None]
    points = (keys.origin[:, None, None] + step).reshape(-1, 2)
    distance = np.sqrt((step**2).sum(-1)).reshape(-1)
    return points, step.reshape(-1, 2) / distance[:, None], distance


def explained(samples: tuple[Floats, Floats, Floats], views: PlanarViews, config: RetrievalConfig) -> Bools:
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
    (rx, ry), k, one = rays.T, views.half_width_tan, np.ones_like
    # Every condition is (numbers of the view) . (numbers of the sample) >= 0, one thin matrix product each. The places
    # from which a sample has at most the allowed parallax fill a wedge with its tip on the sample: two half-planes.
    point, origin = np.array([px, py, one(px)]), np.array([ox, oy, one(ox)])
    ahead, across = np.array([hx, hy, -hx * ox - hy * oy]), np.array([hy, -hx, hx * oy - hy * ox])
    near, far = np.array([[0.0], [0.0], [config.near_m]]), np.array([[0.0], [0.0], [config.far_m]])
    square = np.array([-2 * ox, -2 * oy, one(ox), ox * ox + oy * oy])  # . (px, py, p.p, 1): squared distance
    low, high = (np.array([px, py, px * px + py * py - (band * distance) ** 2, one(px)]) for band in config.scale_band)
    sin, cos = np.sin(config.parallax_rad), np.cos(config.parallax_rad)
    normals = [(-sin * rx - side * cos * ry, -sin * ry + side * cos * rx) for side in (-1.0, 1.0)]
    forms = [
        (ahead - near, point),
        (far - ahead, point),
        (k * ahead - across, point),
        (k * ahead + across, point),
        (square, low),
        (-square, high),
        *((origin, np.array([nx, ny, -nx * px - ny * py])) for nx, ny in normals),
    ]
    inside = np.empty((len(ox), len(px)), bool)
    for first in range(0, len(ox), VIEWS_AT_ONCE):
        rows = slice(first, first + VIEWS_AT_ONCE)
        least = forms[0][0].T[rows] @ forms[0][1]
        value = np.empty_like(least)
        for of_views, of_samples in forms[1:]:
            np.minimum(least, np.matmul(of_views.T[rows], of_samples, out=value), out=least)
        np.greater_equal(least, 0.0, out=inside[rows])
    return inside


def greedy_cover(claims: Bools, tie_break: Floats, budget: int, least: float) -> tuple[list[int], list[int]]:
    """Repeatedly picks the row of claims [C, S] with most samples that no earlier pick has claimed.

    Equal gains go to the larger tie_break [C] in [0, 1), then to the earlier row. Stops at `budget` picks, at a gain
    below `least` samples, or at none. Returns the rows and their gains.
    """
    packed = np.packbits(claims, axis=1)  # in 64-bit words a pick is an AND and a bit count
    words = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)
    rows: list[int] = []
    gains: list[int] = []
    while len(rows) < min(budget, len(claims)):
        gain = np.bitwise_count(words).sum(1)
        best = int(np.argmax(gain + tie_break))
        if gain[best] < max(least, 1):
            break
        rows.append(best)
        gains.append(int(gain[best]))
        words = words & ~words[best]
    return rows, gains


def _coverage(
    views: PlanarViews,
    keys: PlanarViews,
    candidates: Indices,
    overlap: Floats,
    recent: int | None,
    budget: int,
    config: RetrievalConfig,
) -> tuple[Indices, Floats]:
    """Greedy residual coverage over the best candidates (ascending indices with their overlaps)."""
    tie_break = overlap[::-1].round(6)  # newest first; rounded, so that equal views tie whatever their last digit
    best = np.sort(np.argsort(-tie_break, kind="stable")[:SHORTLIST])
    rows = candidates[::-1][best]
    samples = target_samples(keys, config.near_m, config.far_m)
    number = len(samples[0])
    if recent is not None:
        new = ~explained(samples, take(views, np.array([recent])), config)[0]
        samples = (samples[0][new], samples[1][new], samples[2][new])
    claims = explained(samples, take(views, rows), config)
    picked, gains = greedy_cover(claims, tie_break[best] * 0.99, budget, config.min_gain * number)
    return rows[picked], np.array(gains, np.float64) / number


# --- the paper's rule -------------------------------------------------------------------------------------------------


def paper_overlap(target: PlanarViews, candidates: PlanarViews, config: RetrievalConfig) -> Bools:
    """The ray test of arXiv 2506.03141, figure 4: bool [T, N].

    A pair passes when the two left boundary rays meet and the two right ones do, and both meeting points are between
    `paper_near_m` and `paper_far_m` from the *target* camera (the thresholds are not published; the defaults agree with
    the published overlap labels). Coinciding and parallel cameras defeat that test, so, unless `literal`, these pass as
    well: cameras closer than `paper_near_m` whose headings differ by less than the (mean) field of view, and cameras
    whose headings agree within `paper_parallel_rad` with one standing inside the other's field of view.
    """
    target_k = target.half_width_tan
    rows = []
    for i in range(len(target.origin)):
        one = take(target, slice(i, i + 1))
        x, z, sin, cos = relative_pose(one, candidates)
        k_t, k_c = target_k[i], candidates.half_width_tan
        near = 0.0 if config.literal else config.paper_near_m
        far = np.inf if config.paper_far_m is None else config.paper_far_m
        meets = np.ones(len(x), bool)
        for side in (-1.0, 1.0):
            ux, uz = side * k_t / np.hypot(k_t, 1.0), 1 / np.hypot(k_t, 1.0)
            norm = np.hypot(k_c, 1.0)
            vx, vz = (sin + side * k_c * cos) / norm, (cos - side * k_c * sin) / norm
            across = ux * vz - uz * vx
            with np.errstate(divide="ignore", invalid="ignore"):
                along_target, along_candidate = (x * vz - z * vx) / across, (x * uz - z * ux) / across
            meets &= (np.abs(across) > 1e-9) & (along_target > MEET_EPS_M) & (along_candidate > MEET_EPS_M)
            meets &= (along_target >= near) & (along_target <= far)
        if not config.literal:
            turn = np.abs(np.arctan2(sin, cos))
            turned_on_the_spot = (np.hypot(x, z) < near) & (turn < np.arctan(k_t) + np.arctan(k_c))
            back_x, back_z = z * sin - x * cos, -x * sin - z * cos  # the target's origin in the candidate's frame
            in_line = ((z > 0) & (np.abs(x) <= k_t * z)) | ((back_z > 0) & (np.abs(back_x) <= k_c * back_z))
            meets |= turned_on_the_spot | ((turn < config.paper_parallel_rad) & in_line)
        rows.append(meets)
    return np.stack(rows)


def runs(indices: Indices) -> list[Indices]:
    """Splits ascending indices into runs of consecutive numbers."""
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if len(indices) else []


def thin_runs(
    candidates: Indices,
    origin: Floats,
    goal: Floats,
    recent: int | None,
    budget: int,
    far_share: float,
    rng: np.random.Generator,
) -> Indices:
    """From the survivors of the ray test to at most `budget` frames, in the paper's order (section 3.3).

    No more than the budget: keep all. Else "Non-adj": one random frame of each run of consecutive frames. Still too
    many: "Far-space-time" for `far_share` of the slots: repeatedly the frame furthest from the target and from the
    frames chosen so far, in space (as a share of the largest distance to the target) plus time (as a share of the
    longest gap to the most recent frame). How many such frames, and far from what, is not published; the rest is drawn
    at random.
    """
    if len(candidates) <= budget:
        return candidates
    kept = np.array([run[rng.integers(len(run))] for run in runs(candidates)])
    if len(kept) <= budget:
        return kept
    now = float(len(origin) if recent is None else recent)
    space = np.hypot(*(origin[kept] - goal).T)
    space_unit, time_unit = max(float(space.max()), 1e-9), max(float(np.abs(kept - now).max()), 1.0)
    distance = space / space_unit + np.abs(kept - now) / time_unit
    far: list[int] = []
    for _ in range(int(budget * far_share)):
        best = int(np.argmax(distance))
        far.append(best)
        apart = np.hypot(*(origin[kept] - origin[kept[best]]).T) / space_unit + np.abs(kept - kept[best]) / time_unit
        distance = np.minimum(distance, apart)
    rest = np.setdiff1d(np.arange(len(kept)), far)
    chosen = np.append(np.array(far, np.int64), rng.permutation(rest)[: budget - len(far)])
    return np.asarray(kept[chosen])
