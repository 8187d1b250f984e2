"""Exact overlap of two wedges in closed form, by Green's theorem over the boundary of their intersection."""

import numpy as np

from context_as_memory.camera import PlanarViews
from context_as_memory.retrieval.rule import Floats, check_depths
from context_as_memory.shapes import Float

MIN_OVERLAP = 1e-6  # overlaps below this are rounding, not shared view
BLOCK = 2048  # candidates at once: intermediate arrays stay in the processor's cache

Pose = tuple[Floats, Floats, Floats, Floats]  # x, z, sin, cos: see relative_pose
Segments = tuple[Floats, Floats, Floats, Floats]  # x0, z0, dx, dz


def fov_overlap(target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float) -> Float[np.ndarray, "t n"]:
    """Share of each target's image that lies in each candidate's wedge: float64 [T, N] in [0, 1], exact (about 1e-7).

    Area is weighed by 1/depth^2 as seen from the target, i.e. measured in image column x log-depth, so a metre close by
    counts as much as it fills the picture; the share is of the target wedge's own measure (log-uniform depth).
    Raises UserError unless 0 < near_m < far_m.
    """
    check_depths(near_m, far_m)
    rows = (target[row : row + 1] for row in range(len(target.origin)))
    return np.stack([touching_overlap(one, candidates, near_m, far_m) for one in rows])


def touching_overlap(
    target: PlanarViews, candidates: PlanarViews, near_m: float, far_m: float
) -> Float[np.ndarray, " n"]:
    """`fov_overlap` of a single target: [N]."""
    found = np.empty(len(candidates.origin))
    for first in range(0, len(found), BLOCK):
        part = slice(first, first + BLOCK)
        seen = candidates[part]
        x, z, sin, cos = relative_pose(target, seen)
        # Identical poses share all edges, and an edge on a boundary is neither inside nor outside. A shift far below
        # any tolerance, in a direction no real edge has, makes every such case generic.
        pose = x + 0.61e-7 * near_m, z + 0.79e-7 * near_m, sin, cos
        with np.errstate(all="ignore"):  # edges parallel to a boundary or clipped away divide by zero, harmlessly
            found[part] = _image_share(pose, target.half_width_tan, seen.half_width_tan, near_m, far_m)
    return np.minimum(np.maximum(found, 0.0), 1.0)


def circles(
    views: PlanarViews, near_m: float, far_m: float
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """The smallest circle on the heading that encloses each wedge: centres [N, 2], radii [N], metres."""
    k = views.half_width_tan
    ahead = np.minimum(far_m, (1 + k * k) * (near_m + far_m) / 2)
    return views.origin + ahead[:, None] * views.heading, np.hypot(k * far_m, far_m - ahead)


def relative_pose(target: PlanarViews, candidates: PlanarViews) -> Pose:
    """Candidates [M] as seen by their targets ([M], or one): x to the right, z ahead, sine and cosine of the turn."""
    offset_x, offset_y = (candidates.origin - target.origin).T
    (hx, hy), (cx, cy) = target.heading.T, candidates.heading.T
    return offset_x * hy - offset_y * hx, offset_x * hx + offset_y * hy, cx * hy - cy * hx, cx * hx + cy * hy


def _boundary(
    pose: Pose, k_t: Floats, k_c: Floats, near_m: float, far_m: float, edges: tuple[slice, slice]
) -> tuple[Segments, Segments]:
    """The boundary of the intersection as segments x0, z0, dx, dz in the target frame.

    For convex shapes it is (candidate's edges inside the target) + (target's edges inside the candidate). First answer:
    the candidate's four edges [4, M], counter-clockwise. Second: the target's edges from corners edges[0] to edges[1]
    (corners: 0 near left, 1 near right, 2 far right, 3 far left). What is clipped away has zero length.
    """
    x, z, sin, cos = pose
    depth = np.array([near_m, near_m, far_m, far_m, near_m])[:, None]
    across = np.array([-near_m, near_m, far_m, -far_m, -near_m])[:, None]
    half = k_c * across
    corner_x, corner_z = x + half * cos + depth * sin, z - half * sin + depth * cos
    own_x, own_z = k_t * across[:4], depth[:4]
    seen_x, seen_z = (own_x - x) * cos - (own_z - z) * sin, (own_x - x) * sin + (own_z - z) * cos  # by the candidate
    depths = near_m, far_m
    theirs = _clipped((corner_x, corner_z), (corner_x, corner_z), k_t, depths, (slice(0, 4), slice(1, 5)))
    return theirs, _clipped((own_x, own_z), (seen_x, seen_z), k_c, depths, edges)


def _clipped(
    corners: tuple[Floats, Floats],
    seen: tuple[Floats, Floats],
    k: Floats,
    depths_m: tuple[float, float],
    edges: tuple[slice, slice],
) -> Segments:
    """What of the edges between corners lies in a wedge. corners: x, z; seen: the same ones as the wedge sees them."""
    (x, z), (seen_x, seen_z), (start, end) = corners, seen, edges
    # How far each corner lies outside, and the quantity it is outside in: both depths at once, then each side.
    wide = k * seen_z
    height, excess = np.empty((3, *wide.shape)), np.empty((3, *wide.shape))
    height[0] = seen_z
    np.subtract(wide, seen_x, out=height[1])
    np.add(wide, seen_x, out=height[2])
    np.minimum(height[1:], 0.0, out=excess[1:])
    np.subtract(seen_z, np.maximum(np.minimum(seen_z, depths_m[1]), depths_m[0]), out=excess[0])
    rise = height[:, end] - height[:, start]
    # Parts of the edge cut off at its start (negative) and at its end.
    before = np.fmin.reduce(excess[:, start] / rise, axis=0, initial=0.0)
    after = np.fmax.reduce(excess[:, end] / rise, axis=0, initial=0.0)
    length, dx, dz = np.maximum(1.0 - after + before, 0.0), x[end] - x[start], z[end] - z[start]
    return x[start] - before * dx, z[start] - before * dz, length * dx, length * dz


def _image_share(pose: Pose, k_t: Floats, k_c: Floats, near_m: float, far_m: float) -> Floats:
    """Intersection in d(x/z) dz/z = dA/z^2 as a share of the target's. By Green's theorem it is the integral of
    x/z^2 dz over the boundary: edges of constant depth add nothing, so of the target only its two sides count."""
    (x0, z0, dx, dz), (_, side_z, _, side_dz) = _boundary(
        pose, k_t, k_c, near_m, far_m, (slice(1, None, -1), slice(2, 4))
    )
    # Along x = x0 + t dx, z = z0 + t dz: the exact integral, arranged so that dz -> 0 loses no digits.
    tail = dz / (z0 + dz)
    theirs = np.where(dz == 0, 0.0, (x0 * tail) / z0 + dx * ((np.log1p(dz / z0) - tail) / dz))
    own = np.where(side_dz == 0, 0.0, k_t * np.log1p(side_dz / side_z))
    return np.asarray((theirs.sum(0) + own.sum(0)) / (2 * k_t * np.log(far_m / near_m)))
