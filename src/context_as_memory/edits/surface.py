"""Where a changed surface is, and which views show it.

Every changed pixel is a ray from the edited camera. How far the surface is along it is known where the frame has a
depth profile. Elsewhere the other remembered views tell: at the right depth they show the same colours (a plane sweep).
Where these do not decide, several depths remain, each with its share.
"""

from dataclasses import dataclass

import numpy as np

from context_as_memory.camera import PROFILE, Cameras
from context_as_memory.memory import MemoryBank
from context_as_memory.retrieval.surfaces import MARGIN_M, MARGIN_SHARE
from context_as_memory.shapes import Bool, Float

CHANGED = 16.0  # difference of smoothed colours, of 255, from which a pixel counts as changed: most JPEG stays below
POINTS = 256  # changed pixels that stand for all
DEPTHS = 32  # candidates along a ray, log-spaced
NEAREST_M = 0.3  # a surface is at least this far away
WITNESSES = 48  # views that are asked for the depth
BASELINE_M = 0.25  # how far a witness must stand from the edited camera
NEIGHBOURS = 9  # changed pixels whose depths are judged together
UNLIKE = 40.0  # difference of colour, of 255, from which more says no more
DECIDED = 1.5  # difference of colour, of 255, that makes a depth e times less likely


@dataclass(frozen=True)
class Surface:
    """What changed pixels of a frame show: `POINTS` of them or fewer, evenly spread.

    camera: of the frame, [1]. rows, columns: of the pixels, [P]. depths: how deep the surface may be behind each,
    metres [P, D]. weights: how likely each depth is, [P, D], adding up to 1 for a pixel.
    """

    camera: Cameras
    rows: np.ndarray
    columns: np.ndarray
    depths: Float[np.ndarray, "p d"]
    weights: Float[np.ndarray, "p d"]

    def points(self, depths: Float[np.ndarray, "*p"]) -> Float[np.ndarray, "n 3"]:
        """World points behind the pixels at depths [P] or [P, D] in metres, [P, 3] or [P D, 3]."""
        return _points(self.camera, self.rows, self.columns, depths)


def changed_pixels(before_u8: np.ndarray, after_u8: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Where two pictures uint8 [H, W, 3] differ by more than the noise of a lossy file: bool [H, W]."""
    difference = smooth(smooth(before_u8.astype(np.float32)) - smooth(after_u8.astype(np.float32)))
    return np.asarray(np.abs(difference).max(axis=-1) > CHANGED)


def smooth(picture: Float[np.ndarray, "*n H W 3"]) -> Float[np.ndarray, "*n H W 3"]:
    """Means over 3x3 pixels of pictures [..., H, W, 3]; the border is repeated."""
    height, width = picture.shape[-3:-1]
    wide = np.pad(picture, [(0, 0)] * (picture.ndim - 3) + [(1, 1), (1, 1), (0, 0)], mode="edge")
    return np.asarray(sum(wide[..., y : y + height, x : x + width, :] for y in range(3) for x in range(3)) / 9)


def find_surface(bank: MemoryBank, frame: int, changed: Bool[np.ndarray, "H W"], far_m: float) -> Surface:
    """The surface behind the changed pixels [H, W] of a frame, no deeper than `far_m` metres unless its depth is
    known."""
    rows, columns = np.nonzero(changed)
    chosen = evenly(len(rows), POINTS)
    rows, columns = rows[chosen], columns[chosen]
    depths = np.tile(np.geomspace(min(NEAREST_M, far_m / 2), far_m, DEPTHS), (len(rows), 1))
    cost = _sweep(bank, frame, rows, columns, depths[0])
    likely = np.exp((cost.min(axis=1, keepdims=True) - cost) / DECIDED)
    profile = bank.profiles_m[frame][((columns + 0.5) / bank.cameras.width * PROFILE).astype(np.int64)]
    known = np.isfinite(profile)
    depths[known] = profile[known, None]
    return Surface(bank.cameras[frame], rows, columns, depths, likely / likely.sum(axis=1, keepdims=True))


def shares(bank: MemoryBank, surface: Surface, far_m: float) -> Float[np.ndarray, " n"]:
    """Which share of a surface each remembered view shows, [N] in [0, 1]: its points project into the view, in front of
    it, no farther than views reach (`far_m` metres), and not behind the view's own depths."""
    points = surface.points(surface.depths)
    far_m = max(far_m, surface.depths.max()) * (1 + MARGIN_SHARE)
    found = np.zeros(len(bank))
    for first in range(0, len(bank), 128):
        part = slice(first, first + 128)
        cameras = bank.cameras[part]
        u, v, z = project(points, cameras)
        inside = (u >= 0) & (u < cameras.width) & (v >= 0) & (v < cameras.height) & (z > 0) & (z <= far_m)
        bins = np.clip(np.where(inside, u, 0) / cameras.width * PROFILE, 0, PROFILE - 1).astype(np.int64)
        reach = np.take_along_axis(bank.profiles_m[part], bins, axis=1)
        visible = inside & (z <= reach * (1 + MARGIN_SHARE) + MARGIN_M)
        found[part] = visible @ surface.weights.reshape(-1)
    return found / surface.weights.sum()


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` numbers from 0, evenly spread, int64 [n]."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def _points(camera: Cameras, rows: np.ndarray, columns: np.ndarray, depths: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """World points [P, 3] or [P D, 3] at depths [P] or [P, D] metres behind pixels of a camera [1]."""
    rays = pixel_rays(camera, rows, columns) @ camera.c2w[0, :3, :3].T
    return np.asarray(camera.position[0] + depths.reshape(len(rows), -1, 1) * rays[:, None]).reshape(-1, 3)


def pixel_rays(camera: Cameras, rows: np.ndarray, columns: np.ndarray) -> Float[np.ndarray, "p 3"]:
    """Vectors [P, 3] through the centres of pixels in the camera's own axes: x right, y down, z = 1 forward."""
    fx, fy, cx, cy = camera.K[0]
    return np.stack([(columns + 0.5 - cx) / fx, (rows + 0.5 - cy) / fy, np.ones(len(rows))], axis=1)


def project(points: Float[np.ndarray, "p 3"], cameras: Cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image coordinates u, v in pixels and depth z in metres of points in each view, [N, P] each; u and v mean nothing
    where z <= 0."""
    w2c = cameras.w2c[:, :3]
    x, y, z = (points @ w2c[:, axis, :3].T + w2c[:, axis, 3] for axis in range(3))
    safe = np.where(z > 1e-9, z, 1.0)
    fx, fy, cx, cy = cameras.K.T
    return (fx * x / safe + cx).T, (fy * y / safe + cy).T, z.T


def _sweep(
    bank: MemoryBank, frame: int, rows: np.ndarray, columns: np.ndarray, depths: Float[np.ndarray, " d"]
) -> Float[np.ndarray, "p d"]:
    """How much the colours differ, of 255, that a frame and other remembered views show at each depth behind each
    pixel, [P, D]; the same for all depths where no other view can tell."""
    camera, offered = bank.cameras[frame], bank.offered()
    points = _points(camera, rows, columns, np.tile(depths, (len(rows), 1)))
    apart = np.linalg.norm(bank.cameras.position - camera.position[0], axis=1) >= BASELINE_M
    apart &= (bank.cameras.forward @ camera.forward[0]) > 0.5
    able = np.flatnonzero(apart if offered is None else apart & offered)
    able = able[evenly(len(able), WITNESSES)]
    seen, total = np.zeros((len(rows), len(depths))), np.zeros((len(rows), len(depths)))
    if not len(able):
        return total
    own = smooth(bank.frames_u8(frame)[0].astype(np.float32))[rows, columns]
    u, v, z = (part.reshape(len(able), *seen.shape) for part in project(points, bank.cameras[able]))
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height) & (z > 0)
    for row, picture in enumerate(smooth(bank.frames_u8(able).astype(np.float32))):
        at = inside[row]
        theirs = picture[np.where(at, v[row], 0).astype(np.int64), np.where(at, u[row], 0).astype(np.int64)]
        difference = np.abs(theirs - own[:, None]).max(axis=-1)
        total += np.where(at, np.minimum(difference, UNLIKE), 0)  # a view that something hides it from says little
        seen += at
    # Neighbours on a surface are about equally deep: their answers count together.
    offset = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    near = np.argsort(offset, axis=1, kind="stable")[:, :NEIGHBOURS]
    total, seen = total[near].sum(axis=1), seen[near].sum(axis=1)
    told = seen >= 2 * NEIGHBOURS
    cost = np.where(told, total / np.maximum(seen, 1), 0)
    neutral = cost.sum(axis=1, keepdims=True) / np.maximum(told.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(told, cost, neutral))
