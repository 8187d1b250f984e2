"""An edit carried over to other views: what was painted on one picture is painted where they show the same surface.

Without this a place loses most of what it is remembered by, for a change in its middle. The surface is taken to be a
plane. The picture as it was, moved along the plane, tells where in the view the paint belongs: it is shifted to where
that agrees best. A view is painted only where this is safe: likely depths must not lie far apart in it, and the picture
as it was must agree with it in the end.
"""

from itertools import product

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.edits.surface import NEIGHBOURS, UNLIKE, Surface, pixel_rays, project, smooth
from context_as_memory.memory import MemoryBank
from context_as_memory.shapes import Bool, Float

MOST_CARRIED = 12  # views that a change is carried over to: see docs/log.md
TRIED = 200  # views that are looked at for it, so that an edit costs the same however many there are
UNSURE = 12.0  # pixels of a picture 160 wide between likely depths, from which a view is not painted
APART_M, APART_RAD = 0.2, float(np.radians(6.0))  # painted views differ from each other, and the edited one, by either
ALIKE = 24.0  # difference of smoothed colours, of 255, up to which a pixel shows what it should
AGREED = 0.8  # share of the painted pixels that must
LEAST_PIXELS = 12
SHIFT = 6  # pixels of a picture 160 wide, rows and columns, that the paint may be off by
SHIFT_COST = 0.1  # difference of colour, of 255, that each of them must be worth
ROUNDS = 10  # of the fit: points that do not lie on the plane count less in each
SURE = 0.02  # 1 / metres: no depth is known better
LEAN = 1.0  # tangent of the angle by which planes commonly lean away from the camera, where depths do not say more


class Paint:
    """A change that can be carried over to the views of a memory."""

    def __init__(
        self, bank: MemoryBank, surface: Surface, before_u8: np.ndarray, after_u8: np.ndarray, changed: np.ndarray
    ) -> None:
        """surface: what the changed pixels, bool [H, W], show in the edited frame, which was `before_u8` and is now
        `after_u8`, uint8 [H, W, 3] each."""
        self._bank, self._surface = bank, surface
        plane = fit_plane(surface)
        # Where depths are unsure the plane may lean though the wall does not: one that faces the camera is tried too.
        middle = pixel_rays(surface.camera, surface.rows, surface.columns).mean(axis=0)
        self._planes = plane, np.array([0.0, 0.0, plane @ middle])
        # What is looked up in the edited frame for each pixel of a view: paint, how much of it, and what was there.
        layers = after_u8, 255 * changed[..., None], smooth(before_u8.astype(np.float32))
        self._layers = np.concatenate(layers, axis=-1, dtype=np.float32)

    def over(self, views: np.ndarray) -> dict[int, np.ndarray]:
        """Those of the views, frame numbers [V], that are painted, at most `MOST_CARRIED`, with their new pictures
        uint8 [H, W, 3], ascending. The surest come first; near-duplicates of the edited view and of each other are
        left out."""
        doubt = self._doubt(views)
        kept = self._surface.camera
        found: dict[int, np.ndarray] = {}
        for row in np.argsort(doubt, kind="stable")[:TRIED]:
            view = int(views[row])
            if len(found) == MOST_CARRIED or not self._is_sure(doubt[row]):
                break
            here = self._bank.cameras[view]
            if _is_apart(here, kept) and (picture := self._painted(view)) is not None:
                found[view], kept = picture, Cameras.concat([kept, here])
        return dict(sorted(found.items()))

    def onto(self, view: int) -> np.ndarray | None:
        """One view with the change in it, uint8 [H, W, 3]; None where this is not safe."""
        return self._painted(view) if self._is_sure(self._doubt(np.array([view]))[0]) else None

    def _is_sure(self, doubt: float) -> bool:
        return doubt <= UNSURE * self._bank.cameras.width / 160

    def _doubt(self, views: np.ndarray) -> Float[np.ndarray, " v"]:
        """How far likely depths of the surface lie apart in views [V]: pixels [V], the median of its points; infinite
        where they lie behind the view."""
        mean, spread = _inverse_depths(self._surface)
        ends = [self._surface.points(1 / np.maximum(inverse, 1e-3)) for inverse in (mean + spread, mean - spread)]
        found = np.empty(len(views))
        for first in range(0, len(views), 128):
            part = slice(first, first + 128)
            near, far = (project(points, self._bank.cameras[views[part]]) for points in ends)
            length = np.hypot(near[0] - far[0], near[1] - far[1])
            found[part] = np.median(np.where((near[2] > 0) & (far[2] > 0), length, np.inf), axis=1)
        return found

    def _painted(self, view: int) -> np.ndarray | None:
        """A view with the change in it, as far as the picture of before agrees with it; else None."""
        picture = self._bank.frames_u8(view)[0].astype(np.float32)
        seen = smooth(picture)
        both = (registered(self._moved(view, plane), seen) for plane in self._planes)
        moved, _ = min(both, key=lambda found: found[1])
        paint, opacity, was = moved[..., :3], moved[..., 3] / 255, moved[..., 4:]
        painted = opacity > 0.5
        agrees = np.abs(was - seen).max(axis=-1) < ALIKE
        if painted.sum() < LEAST_PIXELS or agrees[painted].mean() < AGREED:
            return None
        mixed = picture + opacity[..., None] * (paint - picture)
        return np.asarray(mixed.round().clip(0, 255).astype(np.uint8))

    def _moved(self, view: int, plane: Float[np.ndarray, "3"]) -> Float[np.ndarray, "H W c"]:
        layers, shown = moved_along(self._layers, self._surface.camera, self._bank.cameras[view], plane)
        layers[..., 3] *= shown
        return layers


def registered(
    layers: Float[np.ndarray, "H W c"], picture: Float[np.ndarray, "H W 3"]
) -> tuple[Float[np.ndarray, "H W c"], float]:
    """Layers [H, W, C] shifted to where those from 4 on agree best with a picture, in and around what layer 3 covers:
    what a wrong depth does to a small part of a picture is mostly that. And how much they differ there, of 255;
    infinite where nothing is covered."""
    height, width = picture.shape[:2]
    stride = max(1, width // 160)
    most = SHIFT * stride
    rows, columns = np.nonzero(layers[..., 3] > 127)
    if not len(rows):
        return layers, np.inf
    part = (
        slice(max(rows.min() - most, 0), rows.max() + most + 1, stride),
        slice(max(columns.min() - most, 0), columns.max() + most + 1, stride),
    )
    wide = np.pad(layers, [(most, most), (most, most), (0, 0)], mode="edge")
    here, best = layers, np.inf
    for down, across in product(range(-SHIFT, SHIFT + 1), repeat=2):
        top, left = most - stride * down, most - stride * across
        shifted = wide[top : top + height, left : left + width]
        error = np.abs(shifted[*part, 4:] - picture[part]).max(axis=-1)
        cost = np.minimum(error, UNLIKE).mean() + SHIFT_COST * np.hypot(down, across)
        if cost < best:
            here, best = shifted, cost
    return here, float(best)


def _is_apart(view: Cameras, others: Cameras) -> bool:
    """Whether a view [1] is no near-duplicate of any other."""
    moved = np.linalg.norm(others.position - view.position[0], axis=1) >= APART_M
    return bool((moved | (others.forward @ view.forward[0] < np.cos(APART_RAD))).all())


def fit_plane(surface: Surface) -> Float[np.ndarray, "3"]:
    """n [3] of the plane n X = 1 on which a surface lies, X in metres in the axes of its camera: x right, y down, z
    forward. 1 / depth is then linear in the pixel. A weighted fit; points off the plane count less in each round."""
    rays = pixel_rays(surface.camera, surface.rows, surface.columns)
    inverse, spread = _inverse_depths(surface)
    noise = np.hypot(spread, SURE)
    sure = 1 / noise**2 / NEIGHBOURS  # neighbours were judged together
    weights, plane = sure, np.zeros(3)
    for _ in range(ROUNDS):
        middle = (weights @ inverse) / weights.sum()
        weighted = rays * weights[:, None]
        level = np.diag([1.0, 1.0, 0.0]) / (LEAN * middle) ** 2
        plane = np.linalg.solve(weighted.T @ rays + level, weighted.T @ inverse)
        weights = sure / (1 + ((rays @ plane - inverse) / noise) ** 2)
    return plane


def _inverse_depths(surface: Surface) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Mean and deviation of 1 / depth at every point, 1 / metres [P] each."""
    mean = (surface.weights / surface.depths).sum(axis=1)
    squares = (surface.weights * (1 / surface.depths - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(squares)


def moved_along(
    layers: Float[np.ndarray, "H W c"], camera: Cameras, view: Cameras, plane: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "H W c"], Bool[np.ndarray, "H W"]]:
    """Layers [H, W, C] of a camera [1] as a view [1] of the same size shows them if all that is seen lies on a plane
    (`fit_plane`), and where it does so at all, [H, W]."""
    rows, columns = np.mgrid[: view.height, : view.width].reshape(2, -1)
    across = camera.w2c[0] @ view.c2w[0]
    rays, origin = pixel_rays(view, rows, columns) @ across[:3, :3].T, across[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (1 - plane @ origin) / (rays @ plane)
        x, y, z = (origin + along[:, None] * rays).T
        fx, fy, cx, cy = camera.K[0]
        u, v = fx * x / z + cx, fy * y / z + cy
        shown = (along > 0) & (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    u, v = np.where(shown, u, 0), np.where(shown, v, 0)
    size = view.height, view.width
    return between_pixels(layers, u, v).reshape(*size, -1), shown.reshape(size)


def between_pixels(layers: Float[np.ndarray, "H W c"], u: np.ndarray, v: np.ndarray) -> Float[np.ndarray, "p c"]:
    """Layers [H, W, C] at image coordinates u, v [P] in pixels, each mixed of its four neighbours, [P, C]."""
    height, width = layers.shape[:2]
    x, y = np.clip(u - 0.5, 0, width - 1), np.clip(v - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    right, below = (x - left)[:, None], (y - top)[:, None]
    above = layers[top, left] * (1 - right) + layers[top, left + 1] * right
    under = layers[top + 1, left] * (1 - right) + layers[top + 1, left + 1] * right
    return np.asarray(above * (1 - below) + under * below)
