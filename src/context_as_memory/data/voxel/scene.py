"""A voxel world laid out for rays."""

from typing import NamedTuple

import numpy as np

from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, VoxelWorld

AIR = 256  # cell codes from here on: air, plus how far the nearest block is; 0: outside; between: kinds of blocks
FURTHEST = 250

# Light that falls on a face from the whole sky and from lamps, by its direction -x, +x, -y, +y, -z, +z.
SKY_BY_FACE = (0.84, 0.84, 0.72, 0.72, 0.58, 1.00)
LAMP_BY_FACE = (0.92, 0.92, 0.84, 0.84, 0.80, 1.00)
SUN_STRENGTH = 0.72
AMBIENT_STRENGTH = 0.80
LAMP_STRENGTH = 0.92
OCCLUSION = (1.0, 0.80, 0.64, 0.50, 0.42)  # light left at a corner by how many of its 4 cells are full


class Scene(NamedTuple):
    """A world laid out for rays. Cells carry a border of one cell outside the world, so lookups need no bounds check.

    With X, Y, Z cells of the world up to its highest block, the border makes them (X+2) (Y+2) (Z+2) = C.
    """

    size: np.ndarray  # int64 [3]: X, Y, Z
    cells: np.ndarray  # uint16 [C]: codes, see `AIR`
    corners: np.ndarray  # uint8 [3 * C, 4]: sun, sky, lamp light and occlusion, by axis of the face, then by corner
    kinds: np.ndarray  # uint8 [N], as in `VoxelWorld`
    faces: np.ndarray  # int16 [N, 6]
    boxes: np.ndarray  # float64 [B, 6]
    box_range: np.ndarray  # int32 [N, 2]
    through: np.ndarray  # float64 [N]
    glow: np.ndarray  # float64 [N]
    textures: np.ndarray  # uint8 [T * 5 * 16 * 16, 3]
    face_light: np.ndarray  # float64 [6, 4, 3]: colour of full sun, sky and lamp light and of darkness on each face
    sky: np.ndarray  # float64 [5, 3]: zenith, horizon, direction to the sun, colour of the sun, (haze, clouds, seed)


def make_scene(world: VoxelWorld, *, lit: bool = True) -> Scene:
    """Lay a world out for rays. `lit=False`: for geometry alone, before there is any light."""
    used = np.flatnonzero((world.kinds[world.blocks] != EMPTY).any((0, 1)))
    top = int(used[-1]) + 1 if len(used) else 1
    blocks = world.blocks[:, :, :top]
    size = np.array(blocks.shape, np.int64)
    sky = world.sky
    sun_direction = np.array(sky.sun_direction, np.float64)
    normals = np.array([(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)], np.float64)
    lambert = np.maximum(normals[:, 0] * sun_direction[0] + normals[:, 1] * sun_direction[1]
                         + normals[:, 2] * sun_direction[2], 0.0)  # fmt: skip
    face_light = np.empty((6, 4, 3))
    for face in range(6):
        face_light[face, 0] = SUN_STRENGTH * lambert[face] * np.array(sky.sun)
        face_light[face, 1] = AMBIENT_STRENGTH * SKY_BY_FACE[face] * np.array(sky.ambient)
        face_light[face, 2] = LAMP_STRENGTH * LAMP_BY_FACE[face] * np.array(sky.lamp)
        face_light[face, 3] = LAMP_BY_FACE[face] * sky.dark
    return Scene(
        size=size,
        cells=cell_codes(blocks, world.kinds).reshape(-1),
        corners=corner_light(world, blocks).reshape(-1, 4) if lit else np.zeros((1, 4), np.uint8),
        kinds=world.kinds,
        faces=world.faces,
        boxes=world.boxes,
        box_range=world.box_range,
        through=world.through,
        glow=world.glow,
        textures=np.ascontiguousarray(world.textures).reshape(-1, 3),
        face_light=face_light,
        sky=np.array([sky.zenith, sky.horizon, sky.sun_direction, sky.sun, (sky.haze_m, sky.clouds, sky.seed)]),
    )


def cell_codes(blocks: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """What a ray needs to know of each cell, uint16 [X+2, Y+2, Z+2]; see `AIR`.

    For air it is how many cells away the nearest block or the border is (a step to any of 26 neighbours counts 1).
    """
    from scipy.ndimage import distance_transform_cdt

    solid = np.pad(kinds[blocks] != EMPTY, 1, constant_values=True)
    away = distance_transform_cdt(~solid, metric="chessboard")
    return np.where(solid, np.pad(blocks, 1), AIR + np.minimum(away, FURTHEST)).astype(np.uint16)


def corner_light(world: VoxelWorld, blocks: np.ndarray) -> np.ndarray:
    """Light at the corners of faces, uint8 [3, X+2, Y+2, Z+2, 4]: sun, sky, lamp, occlusion.

    A face with its normal along `axis` looks into a cell. Each of its corners touches 4 cells of the same layer: the
    light there is the mean over those that are not full, and the full ones take away light as in a real corner.
    """
    full = filled(world)
    opaque = np.pad(full[blocks] >= 1, 1)
    weight = np.pad(np.where(full[blocks] >= 1, 0, np.where(full[blocks] >= 0.45, 1, 64)), 1, constant_values=64)
    light = world.light[:, :, : blocks.shape[2]].astype(np.int64)
    padded = np.pad(light, ((1, 1), (1, 1), (1, 1), (0, 0)))
    padded[_border(padded.shape[:3])] = (255, 255, 0)
    weighed = padded * weight[..., None]
    amount = np.round(np.where(opaque, 1.0, np.pad(full[blocks] ** 2, 1)) * 64).astype(np.int64)
    table = np.round(255 * np.interp(np.arange(257) / 64, np.arange(5), OCCLUSION)).astype(np.uint8)
    corners = np.empty((3, *opaque.shape, 4), np.uint8)
    for axis in range(3):
        total, share, occluded = (_sum_of_four(part, axis) for part in (weighed, weight, amount))
        share = np.maximum(share, 1)[..., None]
        corners[axis, ..., :3] = (2 * total + share) // (2 * share)
        corners[axis, ..., 3] = table[occluded]
    return corners


def filled(world: VoxelWorld) -> np.ndarray:
    """The share of its cell that each kind fills and keeps light from, float64 [N], 1 for opaque cubes."""
    full = np.zeros(len(world.kinds))
    for kind, how in enumerate(world.kinds):
        if how == CUBE:
            full[kind] = 1.0
        elif how == BOXES:
            first, last = world.box_range[kind]
            low, high = world.boxes[first:last, :3], world.boxes[first:last, 3:]
            full[kind] = min((high - low).prod(1).sum(), 0.99)
    return full


def _border(shape: tuple[int, ...]) -> np.ndarray:
    inside = np.zeros(shape, bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return ~inside


def _sum_of_four(values: np.ndarray, axis: int) -> np.ndarray:
    """Each cell plus its lower neighbours along the two other axes: the 4 cells around a corner."""
    for other in {0, 1, 2} - {axis}:
        lower = np.zeros_like(values)
        ahead, behind = [slice(None)] * values.ndim, [slice(None)] * values.ndim
        ahead[other], behind[other] = slice(1, None), slice(None, -1)
        lower[tuple(ahead)] = values[tuple(behind)]
        values = values + lower
    return values
