"""The strategy `paper`: the rule of Context-as-Memory (arXiv 2506.03141, section 3.3 and figure 4)."""

import numpy as np

from context_as_memory.camera import PlanarViews
from context_as_memory.retrieval.overlap import relative_pose
from context_as_memory.retrieval.rule import Indices, Paper
from context_as_memory.shapes import Bool, Float, Int

MEET_EPS_M = 1e-6  # rays "meet" only beyond this distance: at the apex of coinciding cameras the sign is rounding noise


def paper_overlap(target: PlanarViews, candidates: PlanarViews, rule: Paper) -> Bool[np.ndarray, "t n"]:
    """The ray test of arXiv 2506.03141, figure 4: bool [T, N].

    A pair passes when the two left boundary rays meet and the two right ones do, and both meeting points are between
    `near_m` and `far_m` from the *target* camera (the thresholds are not published; the defaults agree with the
    published overlap labels). Coinciding and parallel cameras defeat that test, so, unless `as_published`, these pass
    as well: cameras closer than `near_m` whose headings differ by less than the (mean) field of view, and cameras whose
    headings agree within `parallel_rad` with one standing inside the other's field of view.
    """
    target_k = target.half_width_tan
    rows = []
    for i in range(len(target.origin)):
        one = target[i : i + 1]
        x, z, sin, cos = relative_pose(one, candidates)
        k_t, k_c = target_k[i], candidates.half_width_tan
        near, far = rule.near_m, np.inf if rule.far_m is None else rule.far_m
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
        if not rule.as_published:
            turn = np.abs(np.arctan2(sin, cos))
            turned_on_the_spot = (np.hypot(x, z) < near) & (turn < np.arctan(k_t) + np.arctan(k_c))
            back_x, back_z = z * sin - x * cos, -x * sin - z * cos  # the target's origin in the candidate's frame
            in_line = ((z > 0) & (np.abs(x) <= k_t * z)) | ((back_z > 0) & (np.abs(back_x) <= k_c * back_z))
            meets |= turned_on_the_spot | ((turn < rule.parallel_rad) & in_line)
        rows.append(meets)
    return np.stack(rows)


def runs(indices: Int[np.ndarray, " n"]) -> list[Indices]:
    """Splits ascending indices [n] into runs of consecutive numbers."""
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if len(indices) else []


def thin_runs(
    candidates: Int[np.ndarray, " n"],
    origin: Float[np.ndarray, "bank 2"],
    goal: Float[np.ndarray, "2"],
    recent: int | None,
    budget: int,
    far_share: float,
    rng: np.random.Generator,
) -> Indices:
    """From the survivors [n] of the ray test to at most `budget` frames [m], in the paper's order (section 3.3).

    No more than the budget: keep all. Else "Non-adj": one random frame of each run of consecutive frames. Still too
    many: "Far-space-time" for `far_share` of the slots: repeatedly the frame furthest from the target and from the
    frames chosen so far, in space (as a share of the largest distance to the target) plus time (as a share of the
    longest gap to the most recent frame). How many such frames, and far from what, is not published; the rest is drawn
    at random.
    """
    if len(candidates) <= budget:
        return candidates
    survivors = np.array([run[rng.integers(len(run))] for run in runs(candidates)])
    if len(survivors) <= budget:
        return survivors
    now = float(len(origin) if recent is None else recent)
    space = np.hypot(*(origin[survivors] - goal).T)
    space_unit, time_unit = max(float(space.max()), 1e-9), max(float(np.abs(survivors - now).max()), 1.0)
    distance = space / space_unit + np.abs(survivors - now) / time_unit
    far: list[int] = []
    for _ in range(int(budget * far_share)):
        best = int(np.argmax(distance))
        far.append(best)
        last = survivors[best]
        apart = np.hypot(*(origin[survivors] - origin[last]).T) / space_unit + np.abs(survivors - last) / time_unit
        distance = np.minimum(distance, apart)
    rest = np.setdiff1d(np.arange(len(survivors)), far)
    chosen = np.append(np.array(far, np.int64), rng.permutation(rest)[: budget - len(far)])
    return np.asarray(survivors[chosen])
