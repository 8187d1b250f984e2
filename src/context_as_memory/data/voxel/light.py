"""Light of a voxel world, worked out once: sun, sky and lamps in each cell.

Rays are traced only from cells beside a block, since light is read nowhere else. Sky and lamp light then also spread
from cell to cell, through doors and windows, and lose a part with each metre; that stands in for light that walls
throw back. The spread is done in whole numbers, and its result is the one fixed point whatever the order of cells.
"""

import numpy as np

from context_as_memory.data.voxel.compiled import compiled
from context_as_memory.data.voxel.rays import lamp_share, light_share
from context_as_memory.data.voxel.scene import AIR, filled, make_scene
from context_as_memory.data.voxel.world import BOXES, CUBE, SEE_THROUGH, VoxelWorld

SUN_PLACES = ((0.25, 0.25, 0.75), (0.75, 0.75, 0.75), (0.25, 0.75, 0.25), (0.75, 0.25, 0.25))  # inside a cell
SKY_DIRECTIONS = 13
LAMP_REACH_M = 16.0
LAMP_HALF_M = 4.5  # distance at which a lamp is half as bright
SPREAD_PER_M = 228  # of 256: what is left of spreading light after one metre
BOUNCED_SUN, BOUNCED_LAMP = 0.55, 0.5  # the part of direct light that spreads
LAMP_GROUP = 3  # glowing blocks within so many metres shine as one


def bake_light(world: VoxelWorld) -> np.ndarray:
    """Sun, sky and lamp light of a world, uint8 [X, Y, Z, 3]; 0 inside opaque cubes. Its own `light` is not used.

    The same bytes on every x86 machine. Raises `UserError` without numba.
    """
    scene = make_scene(world, lit=False)
    X, Y, Z = (int(side) for side in scene.size)
    blocks = world.blocks[:, :, :Z]
    codes = scene.cells.reshape(X + 2, Y + 2, Z + 2)[1:-1, 1:-1, 1:-1]
    full = filled(world)
    opaque = full[blocks] >= 1
    sealed = full[blocks] >= 0.45
    near = np.pad(world.kinds[blocks] != 0, 1)
    near = _any_of_27(near)
    traced = np.argwhere(near & ~opaque).astype(np.int64)

    covered = np.flip(np.maximum.accumulate(np.flip(sealed, 2), 2), 2)  # something lies above, or here
    light = np.zeros((X, Y, Z, 3), np.uint8)
    light[~covered & (codes >= AIR)] = (255, 255, 0)
    found = np.empty((len(traced), 3), np.uint8)
    _trace(scene, traced, np.array(SUN_PLACES), _sky_directions(), _lamps(world, blocks, opaque), found)
    light[tuple(traced.T)] = found

    leave = openness(world)
    sun, sky, lamp = (light[..., channel].astype(np.int64) for channel in range(3))
    for direct, seed in ((sky, np.maximum(sky, (BOUNCED_SUN * sun).astype(np.int64))),
                         (lamp, (BOUNCED_LAMP * lamp).astype(np.int64))):  # fmt: skip
        seed[opaque] = 0
        while _spread(seed, blocks, leave, ~opaque, SPREAD_PER_M):
            pass
        np.maximum(direct, _smooth(seed, ~sealed), out=direct)
    weak = np.sqrt(np.arange(256) / 255)  # lift weak light from the sky, so that rooms can be read
    light[..., 1], light[..., 2] = np.round(255 * (0.5 * weak + 0.5 * weak**2)).astype(np.uint8)[sky], lamp
    light[opaque] = 0
    whole = np.zeros((*world.blocks.shape, 3), np.uint8)
    whole[:, :, :Z] = light
    whole[:, :, Z:] = (255, 255, 0)
    return whole


def openness(world: VoxelWorld) -> np.ndarray:
    """Light that passes a kind of block along x, y and z, in 256ths, int64 [N, 3].

    For boxes: the share of the cell's cross-section, in a grid of 16 x 16, that no box covers.
    """
    share = np.full((len(world.kinds), 3), 256, np.int64)
    for kind, how in enumerate(world.kinds):
        if how == CUBE:
            share[kind] = 0
        elif how == SEE_THROUGH:
            share[kind] = round(256 * float(world.through[kind]))
        elif how == BOXES:
            for axis in range(3):
                covered = np.zeros((16, 16), bool)
                p, q = (other for other in range(3) if other != axis)
                for box in world.boxes[slice(*world.box_range[kind])]:
                    low, high = np.round(16 * box[:3]).astype(int), np.round(16 * box[3:]).astype(int)
                    covered[low[p] : high[p], low[q] : high[q]] = True
                share[kind, axis] = 256 - int(covered.sum())
    return share


def _sky_directions() -> np.ndarray:
    """Directions over the upper half and their weights, float64 [13, 4]: one up, four steep, eight low."""
    rows = [(0.0, 0.0, 1.0, 0.16)]
    rows += [(x, y, 1.2, 0.11) for x, y in ((0.8, 0.3), (-0.3, 0.8), (-0.8, -0.3), (0.3, -0.8))]
    rows += [(x, y, 0.42, 0.05) for x in (-1.0, -0.42, 0.42, 1.0) for y in (-1.0, -0.42, 0.42, 1.0) if abs(x) != abs(y)]
    return np.array(rows)


def _lamps(world: VoxelWorld, blocks: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    """Places and strengths of lamps, float64 [L, 4]. Glowing blocks close together are one stronger lamp."""
    open_side = _any_of_27(np.pad(~opaque, 1))
    cells = np.argwhere((world.glow[blocks] > 0) & open_side)
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for cell in cells:
        groups.setdefault(tuple(int(i) for i in cell // LAMP_GROUP), []).append(cell)
    lamps = []
    for members in groups.values():
        x, y, z = members[len(members) // 2]
        kind = blocks[x, y, z]
        first, last = world.box_range[kind]
        middle = (world.boxes[first, :3] + world.boxes[first, 3:]) / 2 if last > first else np.full(3, 0.5)
        strength = float(world.glow[kind]) * min(2.0, len(members) ** 0.5)
        lamps.append((x + middle[0], y + middle[1], z + middle[2], strength))
    return np.array(lamps, np.float64).reshape(-1, 4)


def _any_of_27(padded: np.ndarray) -> np.ndarray:
    """Whether a cell or one of its 26 neighbours is set; takes a border of one cell, which it removes."""
    for axis in range(3):
        middle, before, after = ([slice(None)] * 3 for _ in range(3))
        middle[axis], before[axis], after[axis] = slice(1, -1), slice(None, -2), slice(2, None)
        padded = padded[tuple(middle)] | padded[tuple(before)] | padded[tuple(after)]
    return padded


def _smooth(values: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Means over free neighbours, so that spread light shows no steps. Blocked cells keep their value."""
    total, count = 2 * np.where(free, values, 0), 2 * free.astype(np.int64)
    masked = np.where(free, values, 0)
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        for to, source in ((tuple(ahead), tuple(behind)), (tuple(behind), tuple(ahead))):
            total[to] += masked[source]
            count[to] += free[source]
    return np.where(free, total // np.maximum(count, 1), values)


@compiled
def _trace(scene, cells, places, directions, lamps, found):
    """Direct light at cells [C, 3] -> found uint8 [C, 3]."""
    sun_x, sun_y, sun_z = scene.sky[2, 0], scene.sky[2, 1], scene.sky[2, 2]
    for n in range(cells.shape[0]):
        x, y, z = float(cells[n, 0]), float(cells[n, 1]), float(cells[n, 2])
        sun = 0.0
        if sun_z > 0.0:
            for k in range(places.shape[0]):
                sun += light_share(scene, x + places[k, 0], y + places[k, 1], z + places[k, 2], sun_x, sun_y, sun_z)
        found[n, 0] = int(255.0 * sun / places.shape[0] + 0.5)
        sky = 0.0
        for k in range(directions.shape[0]):
            sky += directions[k, 3] * light_share(
                scene, x + 0.5, y + 0.5, z + 0.5, directions[k, 0], directions[k, 1], directions[k, 2]
            )
        dark = 1.0 - min(sky, 1.0)
        found[n, 1] = int(255.0 * (1.0 - dark * dark) + 0.5)  # half the sky is three quarters of the light
        lamp = 0.0
        for k in range(lamps.shape[0]):
            dx, dy, dz = lamps[k, 0] - x - 0.5, lamps[k, 1] - y - 0.5, lamps[k, 2] - z - 0.5
            square = dx * dx + dy * dy + dz * dz
            if square < LAMP_REACH_M * LAMP_REACH_M:
                bright = lamps[k, 3] / (1.0 + square / (LAMP_HALF_M * LAMP_HALF_M))
                bright *= 1.0 - square / (LAMP_REACH_M * LAMP_REACH_M)
                if square < 0.6 or lamp_share(scene, x + 0.5, y + 0.5, z + 0.5, dx, dy, dz) > 0.0:
                    lamp += bright
        found[n, 2] = int(255.0 * min(lamp, 1.0) + 0.5)


@compiled
def _spread(values, blocks, leave, free, rest):
    """One sweep there and back: a cell takes what its best neighbour lets go. Says whether anything changed."""
    X, Y, Z = values.shape
    changed = False
    for sweep in range(2):
        for i in range(X * Y * Z):
            n = i if sweep == 0 else X * Y * Z - 1 - i
            x, y, z = n // (Y * Z), n // Z % Y, n % Z
            if not free[x, y, z]:
                continue
            best = values[x, y, z]
            if x > 0:
                best = max(best, values[x - 1, y, z] * leave[blocks[x - 1, y, z], 0] * rest >> 16)
            if x < X - 1:
                best = max(best, values[x + 1, y, z] * leave[blocks[x + 1, y, z], 0] * rest >> 16)
            if y > 0:
                best = max(best, values[x, y - 1, z] * leave[blocks[x, y - 1, z], 1] * rest >> 16)
            if y < Y - 1:
                best = max(best, values[x, y + 1, z] * leave[blocks[x, y + 1, z], 1] * rest >> 16)
            if z > 0:
                best = max(best, values[x, y, z - 1] * leave[blocks[x, y, z - 1], 2] * rest >> 16)
            if z < Z - 1:
                best = max(best, values[x, y, z + 1] * leave[blocks[x, y, z + 1], 2] * rest >> 16)
            if best > values[x, y, z]:
                values[x, y, z] = best
                changed = True
    return changed
