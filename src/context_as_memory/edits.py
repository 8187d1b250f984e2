"""Worlds that change and stay changed: a remembered view is replaced by an edited one.

Memory is made of pictures, so an edit is one: the edited view is appended to the branch as a recorded frame, and the
views that show the changed surface as it was are withdrawn from retrieval. Nothing is deleted. To undo an edit is to
rewind the branch; a branch forked before it keeps the world as it was.

Which views show the surface? Every changed pixel is a ray from the edited camera. How far the surface is along it is
known where the frame has a depth profile. Elsewhere the other remembered views tell: at the right depth they show the
same colours (a plane sweep). Where these do not decide, several depths remain, each with its share.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from context_as_memory.camera import PROFILE, Cameras
from context_as_memory.errors import UserError
from context_as_memory.retrieval.surfaces import MARGIN_M, MARGIN_SHARE
from context_as_memory.shapes import Bool, Float
from context_as_memory.world import World

CHANGED = 16.0  # difference of smoothed colours, of 255, from which a pixel counts as changed: most JPEG stays below
# A view that shows this share of the changed surface is withdrawn. On a validation map, after a walk of 60 frames, 0.1
# and 0.3 left alike of an edit (0.82 and 0.81, 103 and 63 of 177 views withdrawn), 0.6 only 0.45.
SHOWN = 0.1

POINTS = 256  # changed pixels that stand for all
DEPTHS = 32  # candidates along a ray, log-spaced
NEAREST_M = 0.3  # a surface is at least this far away
WITNESSES = 48  # views that are asked for the depth
BASELINE_M = 0.25  # how far a witness must stand from the edited camera
NEIGHBOURS = 9  # changed pixels whose depths are judged together
UNLIKE = 40.0  # difference of colour, of 255, from which more says no more
DECIDED = 1.5  # difference of colour, of 255, that makes a depth e times less likely


@dataclass(frozen=True)
class EditResult:
    """What an edit did. frame: the view that was edited; entry: the number of its edited version; withdrawn: views that
    retrieval does not choose any more, ascending; of: how many it could choose from; changed: bool [H, W]; still_seen:
    whether the walker's last frame shows the surface as it was, which the next chunk then goes on with."""

    frame: int
    entry: int
    withdrawn: tuple[int, ...]
    of: int
    changed: Bool[np.ndarray, "H W"]
    still_seen: bool


@torch.inference_mode()
def edit(world: World, frame: int, picture_u8: np.ndarray) -> EditResult:
    """Replace what the world remembers of the surface that differs between frame number `frame` and its edited version,
    uint8 [H, W, 3]. One entry or two are appended: the edited view, and the walker's last frame again, so that the walk
    goes on from where it stands (not if that is the edited frame).

    Raises `UserError` for a frame that is not in the memory or was lost, a picture of another size, and one that
    changes nothing. The world is then as it was.
    """
    bank = world.bank
    if not 0 <= frame < len(bank):
        raise UserError(f"frame {frame} is not in the memory: its {len(bank)} frames are numbered from 0")
    readable = bank.store.readable()
    if readable is not None and not readable[frame]:
        raise UserError(f"frame {frame} was lost with a damaged chunk; edit another one")
    before = bank.frames_u8(frame)[0]
    if picture_u8.dtype != np.uint8 or picture_u8.shape != before.shape:
        raise UserError(
            f"the edited picture is {picture_u8.dtype} {list(picture_u8.shape)}, frame {frame} is uint8 "
            f"{list(before.shape)}; change the frame itself and keep its size"
        )
    changed = changed_pixels(before, picture_u8)
    if not changed.any():
        raise UserError(f"the edited picture shows frame {frame} unchanged, but for noise; paint something")
    offered = bank.offered()
    offered = np.ones(len(bank), bool) if offered is None else offered
    shown = shares(world, frame, changed)
    gone = offered & (shown >= SHOWN)
    gone[frame] = offered[frame]
    entry, last = len(bank), len(bank) - 1
    withdrawn = np.flatnonzero(gone).tolist()
    rows, pictures = [frame], [picture_u8]
    if last != frame:
        rows.append(last)
        pictures.append(bank.frames_u8(last)[0])
    note: dict[str, Any] = {"edit": {"frame": frame, "views": len(withdrawn)}}
    # The repeated frame is there to be the most recent one; memory has its first copy.
    note["withdrawn"] = [*withdrawn, *([entry + 1] if last != frame else [])]
    frames = np.stack(pictures)
    known = bank.profiles_m[rows]
    profiles_m = known if np.isfinite(known).any() else None
    bank.append(frames, bank.cameras[rows], world.engine.pictures.encode(frames), note, profiles_m)
    seen = last != frame and bool(shown[last] >= SHOWN)
    return EditResult(frame, entry, tuple(withdrawn), int(offered.sum()), changed, seen)


def changed_pixels(before_u8: np.ndarray, after_u8: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Where two pictures uint8 [H, W, 3] differ by more than the noise of a lossy file: bool [H, W]."""
    difference = _smooth(_smooth(before_u8.astype(np.float32)) - _smooth(after_u8.astype(np.float32)))
    return np.asarray(np.abs(difference).max(axis=-1) > CHANGED)


def _smooth(picture: Float[np.ndarray, "*n H W 3"]) -> Float[np.ndarray, "*n H W 3"]:
    """Means over 3x3 pixels of pictures [..., H, W, 3]; the border is repeated."""
    height, width = picture.shape[-3:-1]
    wide = np.pad(picture, [(0, 0)] * (picture.ndim - 3) + [(1, 1), (1, 1), (0, 0)], mode="edge")
    return np.asarray(sum(wide[..., y : y + height, x : x + width, :] for y in range(3) for x in range(3)) / 9)


def shares(world: World, frame: int, changed: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, " n"]:
    """Which share of the surface behind the changed pixels of a frame each remembered view shows, [N] in [0, 1]: its
    points project into the view, in front of it, no farther than views reach, and not behind the view's own depths."""
    bank, far_m = world.bank, world.config.retrieval.far_m
    camera = bank.cameras[frame]
    rows, columns = _spread(changed)
    rays = _rays(camera, rows, columns)
    depths, weights = _depths(world, frame, rows, columns)
    points = camera.position[0] + depths[..., None] * rays[:, None]
    far_m = max(far_m, depths.max()) * (1 + MARGIN_SHARE)
    found = np.zeros(len(bank))
    for first in range(0, len(bank), 128):
        part = slice(first, first + 128)
        cameras = bank.cameras[part]
        u, v, z = project(points.reshape(-1, 3), cameras)
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height) & (z > 0) & (z <= far_m)
        bins = np.clip(np.where(inside, u, 0) / camera.width * PROFILE, 0, PROFILE - 1).astype(np.int64)
        reach = np.take_along_axis(bank.profiles_m[part], bins, axis=1)
        visible = inside & (z <= reach * (1 + MARGIN_SHARE) + MARGIN_M)
        found[part] = visible @ weights.reshape(-1)
    return found / weights.sum()


def _spread(changed: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of at most `POINTS` changed pixels, evenly spread."""
    rows, columns = np.nonzero(changed)
    chosen = _evenly(len(rows), POINTS)
    return rows[chosen], columns[chosen]


def _evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` numbers from 0, evenly spread, int64."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def _rays(camera: Cameras, rows: np.ndarray, columns: np.ndarray) -> Float[np.ndarray, "p 3"]:
    """World vectors [P, 3] from a camera [1] through the centres of pixels, one metre deep along its axis."""
    fx, fy, cx, cy = camera.K[0]
    x, y = (columns + 0.5 - cx) / fx, (rows + 0.5 - cy) / fy
    return np.asarray(np.stack([x, y, np.ones_like(x)], axis=1) @ camera.c2w[0, :3, :3].T)


def project(points: Float[np.ndarray, "p 3"], cameras: Cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image coordinates u, v in pixels and depth z in metres of points in each view, [N, P] each; u and v mean nothing
    where z <= 0."""
    w2c = cameras.w2c[:, :3]
    x, y, z = (points @ w2c[:, axis, :3].T + w2c[:, axis, 3] for axis in range(3))
    safe = np.where(z > 1e-9, z, 1.0)
    fx, fy, cx, cy = cameras.K.T
    return (fx * x / safe + cx).T, (fy * y / safe + cy).T, z.T


def _depths(
    world: World, frame: int, rows: np.ndarray, columns: np.ndarray
) -> tuple[Float[np.ndarray, "p d"], Float[np.ndarray, "p d"]]:
    """How deep the surface may be behind pixels of a frame, metres [P, D], and how likely each depth is, [P, D]; the
    likelihoods of a pixel add up to 1."""
    bank, far_m = world.bank, world.config.retrieval.far_m
    depths = np.tile(np.geomspace(min(NEAREST_M, far_m / 2), far_m, DEPTHS), (len(rows), 1))
    cost = _sweep(world, frame, rows, columns, depths[0])
    likely = np.exp((cost.min(axis=1, keepdims=True) - cost) / DECIDED)
    profile = bank.profiles_m[frame][((columns + 0.5) / bank.cameras.width * PROFILE).astype(np.int64)]
    known = np.isfinite(profile)
    depths[known] = profile[known, None]
    return depths, likely / likely.sum(axis=1, keepdims=True)


def _sweep(
    world: World, frame: int, rows: np.ndarray, columns: np.ndarray, depths: Float[np.ndarray, " d"]
) -> Float[np.ndarray, "p d"]:
    """How much the colours differ, of 255, that a frame and other remembered views show at each depth behind each
    pixel, [P, D]; the same for all depths where no other view can tell."""
    bank = world.bank
    camera, offered = bank.cameras[frame], bank.offered()
    points = camera.position[0] + depths[:, None] * _rays(camera, rows, columns)[:, None]
    apart = np.linalg.norm(bank.cameras.position - camera.position[0], axis=1) >= BASELINE_M
    apart &= (bank.cameras.forward @ camera.forward[0]) > 0.5
    able = np.flatnonzero(apart if offered is None else apart & offered)
    able = able[_evenly(len(able), WITNESSES)]
    if not len(able):
        return np.zeros(points.shape[:2])
    own = _smooth(bank.frames_u8(frame)[0].astype(np.float32))[rows, columns]
    seen, total = np.zeros(points.shape[:2]), np.zeros(points.shape[:2])
    u, v, z = (part.reshape(len(able), *seen.shape) for part in project(points.reshape(-1, 3), bank.cameras[able]))
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height) & (z > 0)
    for row, picture in enumerate(_smooth(bank.frames_u8(able).astype(np.float32))):
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
