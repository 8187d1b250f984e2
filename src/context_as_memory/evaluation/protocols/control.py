"""Does the picture move as commanded? Protocol `control`: how the camera moved, told from pairs of pictures alone.

Points are matched between two pictures some frames apart (SIFT). If one rotation explains nearly as many of the matches
as a rotation with a translation does (essential matrix), the camera only turned; otherwise the direction of its motion
is known too, its length never. That is compared with the commanded cameras. No network and no training is behind it;
what it is worth is measured on worlds whose cameras are known (`benchmarks/control.py`, docs/yardstick.md). Needs
OpenCV, the extra `bench`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError, install

GAP = 4  # frames from one picture of a pair to the other
WIDEST = 320  # pixels: smaller pictures are enlarged to this width, where SIFT finds enough
FEWEST = 12  # matches that must agree, else a pair tells nothing
NEAR = 1.5  # pixels at `WIDEST` between a match and a motion that explains it
TURNED = 0.85  # of the matches that a motion explains, so many must fit the rotation alone for it to be one
SMALL_TURN_DEG, SMALL_STEP_M = 2.0, 0.1  # commanded motions below these are not asked about
DRAWS = 300
MOST, MOST_OF_A_WALK = 64, 8  # pairs of a video, and of each of many walks in a suite; spread evenly

Read = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Motion:
    """From one camera to another: rotation [3,3] and, if the camera went somewhere, the direction [3] of the
    translation, so that a point x of the first camera is rotation @ x + a positive multiple of direction in the other.
    matches: how many points say so."""

    rotation: np.ndarray
    direction: np.ndarray | None
    matches: int


@lru_cache(maxsize=1)
def has_opencv() -> bool:
    """Whether the extra `bench` is installed."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        return False
    return True


def relative_motion(a_u8: np.ndarray, b_u8: np.ndarray, a_K: np.ndarray, b_K: np.ndarray) -> Motion | None:
    """How the camera moved from picture a to picture b, uint8 [H, W, 3] each, with lenses [4]; None if too little
    matches. The same pictures give the same answer. `UserError` without OpenCV."""
    if not has_opencv():
        raise UserError(f"whether pictures move as commanded is measured with OpenCV; {install('bench')}")
    a_points, b_points = _matches(a_u8, b_u8)
    if len(a_points) < FEWEST:
        return None
    a_rays, b_rays = _rays(a_points, a_K), _rays(b_points, b_K)
    near = NEAR * a_u8.shape[1] / max(WIDEST, a_u8.shape[1]) / float(a_K[0])
    turn, turned = _turn(a_rays, b_rays, near)
    rotation, direction, moved = _translation(a_rays, b_rays, turn, near)
    if max(turned, moved) < FEWEST:
        return None
    if turned >= TURNED * moved:
        return Motion(turn, None, turned)
    return Motion(rotation, direction, moved)


def measure_control(read: Read, cameras: Cameras, first: int = 0, most: int = MOST) -> dict[str, float | None]:
    """Means over at most so many pairs of a video's frames, `GAP` frames apart and without overlap, from `first` on.

    read: frame numbers -> pictures uint8 [n, H, W, 3], seen (as commanded) from `cameras`. The values:

    - `control.rotation_deg`: angle between the commanded rotation and the one that is seen;
    - `control.turn_share`: of commanded turns, the part that is seen: 1 all of it, 0 nothing, -1 the other way;
    - `control.direction_deg`: angle between the commanded translation and the one that is seen;
    - `control.moved_share`: of commanded translations, in how many pairs one is seen;
    - `control.measured`: share of the pairs that tell anything. Where it is low, the other values say little.
    """
    starts = np.arange(first, len(cameras) - GAP, GAP)
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(int)]
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(f"control.{name}", []).append(value)

    for start in starts:
        pair = read(np.array([start, start + GAP]))
        assert pair is not None
        seen = relative_motion(pair[0], pair[1], cameras.K[start], cameras.K[start + GAP])
        note("measured", float(seen is not None))
        if seen is None:
            continue
        asked = cameras.w2c[start + GAP] @ cameras.c2w[start]
        turn, made = _vector(asked[:3, :3]), _vector(seen.rotation)
        note("rotation_deg", float(np.degrees(np.linalg.norm(_vector(seen.rotation @ asked[:3, :3].T)))))
        if np.degrees(np.linalg.norm(turn)) >= SMALL_TURN_DEG:
            note("turn_share", float(made @ turn / (turn @ turn)))
        step = float(np.linalg.norm(asked[:3, 3]))
        if step >= SMALL_STEP_M:
            note("moved_share", float(seen.direction is not None))
            if seen.direction is not None:
                cosine = float(np.clip(seen.direction @ asked[:3, 3] / step, -1.0, 1.0))
                note("direction_deg", float(np.degrees(np.arccos(cosine))))
    return {name: float(np.mean(values)) for name, values in found.items()}


def control_of(video: np.ndarray, cameras: Cameras) -> dict[str, float | None]:
    """`measure_control` of a walk, frames uint8 [n, H, W, 3] in memory; nothing without OpenCV."""
    return measure_control(lambda rows: video[rows], cameras, most=MOST_OF_A_WALK) if has_opencv() else {}


def _matches(a_u8: np.ndarray, b_u8: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points that look alike, in pixels of either picture: [n, 2] twice."""
    import cv2

    enlarge = max(1.0, WIDEST / a_u8.shape[1])
    sift: Any = cv2.SIFT.create(nfeatures=2000, contrastThreshold=0.01)

    def points(picture: np.ndarray) -> tuple[Any, Any]:
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        big = cv2.resize(grey, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        return sift.detectAndCompute(big, None)

    (a_keys, a_looks), (b_keys, b_looks) = points(a_u8), points(b_u8)
    if a_looks is None or b_looks is None or min(len(a_keys), len(b_keys)) < 2:
        return np.empty((0, 2)), np.empty((0, 2))
    away = (a_looks**2).sum(1)[:, None] + (b_looks**2).sum(1) - 2 * a_looks @ b_looks.T  # squared; SIFT's are whole
    rows, nearest, back = np.arange(len(away)), away.argmin(1), away.argmin(0)
    best = away[rows, nearest]
    away[rows, nearest] = np.inf
    good = np.flatnonzero((best < 0.8**2 * away.min(1)) & (back[nearest] == rows))
    a_points = np.array([a_keys[row].pt for row in good], np.float64).reshape(-1, 2)
    b_points = np.array([b_keys[nearest[row]].pt for row in good], np.float64).reshape(-1, 2)
    return (a_points + 0.5) / enlarge, (b_points + 0.5) / enlarge


def _rays(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Unit directions [n, 3] in the camera's axes."""
    rays = np.column_stack([(points - K[2:]) / K[:2], np.ones(len(points))])
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _turn(a: np.ndarray, b: np.ndarray, near_rad: float) -> tuple[np.ndarray, int]:
    """The rotation that takes most rays a [n, 3] to their b within an angle, and how many."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(a), DRAWS)
    second = (first + rng.integers(1, len(a), DRAWS)) % len(a)
    guesses = _frames(b[first], b[second]) @ _frames(a[first], a[second]).transpose(0, 2, 1)
    fits = np.linalg.norm(np.einsum("gij,nj->gni", guesses, a) - b, axis=2) < near_rad
    inside = fits[np.argmax(fits.sum(axis=1))]
    rotation = np.eye(3)
    for _ in range(3):
        if inside.sum() < 2:
            break
        U, _, Vt = np.linalg.svd(b[inside].T @ a[inside])
        rotation = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        inside = np.linalg.norm(a @ rotation.T - b, axis=1) < near_rad
    return rotation, int(inside.sum())


def _frames(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Orthonormal axes [g, 3, 3] spanned by pairs of rays [g, 3]; of equal rays, whatever comes out."""
    middle, across = v + w, v - w
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    return np.stack([middle, across, np.cross(middle, across)], axis=2)


def _translation(a: np.ndarray, b: np.ndarray, turn: np.ndarray, near_rad: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Rotation, direction of the translation and how many rays fit them. An essential matrix found by drawing (MAGSAC)
    begins; then both are fitted to all rays, from there and from translations along each axis, and the best is taken:
    the essential matrix of few matches is easily another motion that explains them nearly as well."""
    import cv2
    from scipy.optimize import least_squares

    flat_a, flat_b = a[:, :2] / a[:, 2:], b[:, :2] / b[:, 2:]
    starts: list[tuple[np.ndarray, np.ndarray]] = [(turn, axis) for axis in np.eye(3)]
    cv2.setRNGSeed(0)
    E, _ = cv2.findEssentialMat(flat_a, flat_b, np.eye(3), cv2.USAC_MAGSAC, 0.999, near_rad)
    if E is not None and E.shape == (3, 3):
        one, other, along = (np.asarray(part, np.float64) for part in cv2.decomposeEssentialMat(E))
        starts += [(one, along.ravel()), (other, along.ravel())]

    def away(values: np.ndarray, rotation: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return _off(a, b, _rotated(values[:3]) @ rotation, axes @ [values[3], values[4], 1.0])

    best: tuple[int, np.ndarray, np.ndarray] = (0, turn, np.eye(3)[2])
    for rotation, direction in starts:
        axes = _axes_along(direction)
        fit = least_squares(away, np.zeros(5), args=(rotation, axes), loss="cauchy", f_scale=near_rad / 3, max_nfev=40)
        rotation, direction = _rotated(fit.x[:3]) @ rotation, axes @ [fit.x[3], fit.x[4], 1.0]
        direction = direction / np.linalg.norm(direction)
        inside = np.abs(_off(a, b, rotation, direction)) < near_rad
        for side in (direction, -direction):
            count = int((inside & _before(a, b, rotation, side, near_rad)).sum())
            if count > best[0]:
                best = count, rotation, side
    return best[1], best[2], best[0]


def _off(a: np.ndarray, b: np.ndarray, rotation: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How far rays [n, 3] are from the planes that a motion keeps them in, about radians (Sampson's measure), [n]."""
    E = _across(direction / np.linalg.norm(direction)) @ rotation
    planes, back = a @ E.T, b @ E
    return np.sum(b * planes, axis=1) / np.sqrt(np.sum(planes**2 + back**2, axis=1) + 1e-12)


def _before(a: np.ndarray, b: np.ndarray, rotation: np.ndarray, direction: np.ndarray, near_rad: float) -> np.ndarray:
    """Which points lie before both cameras, bool [n]; those too far away to tell count as such."""
    turned = a @ rotation.T
    across = np.cross(b, turned)
    first = np.sum(np.cross(direction, b) * across, axis=1)
    second = np.sum(np.cross(direction, turned) * across, axis=1)
    return ((first > 0) & (second > 0)) | (np.linalg.norm(across, axis=1) < near_rad)


def _axes_along(direction: np.ndarray) -> np.ndarray:
    """Orthonormal axes [3, 3] whose last column is a direction."""
    across = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
    across /= np.linalg.norm(across)
    return np.column_stack([across, np.cross(direction, across), direction])


def _rotated(vector: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] about an axis times an angle [3] in radians (Rodrigues; quicker than SciPy's for one)."""
    angle = float(np.sqrt(vector @ vector))
    if angle < 1e-9:
        return np.eye(3) + _across(vector)
    K = _across(vector / angle)
    return np.asarray(np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * (K @ K))


def _across(v: np.ndarray) -> np.ndarray:
    """The matrix [3, 3] of x -> v x x."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def _vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle [3] in radians of a rotation [3, 3] of less than 180 degrees."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_matrix(rotation).as_rotvec())
