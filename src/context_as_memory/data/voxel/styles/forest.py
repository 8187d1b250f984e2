"""Forest and hills: winding paths, ponds and a stream with bridges, many trees, cabins, a camp, giant mushrooms."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import cottage, flatten, flora, hills, lay_ground, rim, tree
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (96, 96, 44)
WATER = 6.0  # height of the water
MARGIN = 13


def build(seed: int) -> VoxelWorld:
    b = Builder("forest", seed, SIZE, ("green", "autumn", "snow", "tropic"))
    p = b.palette
    heights = 4.5 + 9 * hills(b.rng, SIZE[:2], 4) + 1.5 * hills(b.rng, SIZE[:2], 8)
    cabins, spots = _places(b)
    for x, y, level_w, level_d in cabins:
        level = max(float(np.round(heights[x : x + level_w, y : y + level_d].mean())), WATER + 1)
        flatten(heights, x - 2, y - 2, x + level_w + 2, y + level_d + 2, level)
    for x, y in spots:
        level = max(float(np.round(heights[x - 3 : x + 4, y - 3 : y + 4].mean())), WATER + 1)
        flatten(heights, x - 4, y - 4, x + 5, y + 5, level, 5)
    path = _paths(b, [(x + w // 2, y - 3) for x, y, w, _ in cabins] + spots)
    heights += np.floor(rim(SIZE[:2], 9) * (4 + 6 * hills(b.rng, SIZE[:2], 9)))
    lay_ground(b, heights, p.biome.ground)
    shore = (heights < WATER + 0.5) & (heights >= WATER - 2)
    for x, y in np.argwhere(shore):
        _surface(b, int(x), int(y), float(heights[x, y]), "sand" if p.biome.name != "snow" else "gravel")
    for x, y in np.argwhere(path):
        if heights[x, y] >= WATER:
            _surface(b, int(x), int(y), float(heights[x, y]), p.biome.path)
    wet = np.argwhere(np.floor(heights * 2) / 2 < WATER)
    for x, y in wet:
        low = int(np.floor(heights[x, y] * 2) // 2)
        b.box(int(x), int(y), low, int(x) + 1, int(y) + 1, int(WATER), "water")
    _bridges(b, path, heights)
    reserved = path.copy()
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            reserved |= np.roll(path, (dx, dy), (0, 1))
    for x, y in np.argwhere(reserved):
        b.reserve(int(x), int(y), 0, int(x) + 1, int(y) + 1, SIZE[2])
    for i, (x, y, w, d) in enumerate(cabins):
        z = int(heights[x, y])
        cottage(b, x, y, x + w, y + d, z, "-y", ("living", "study", "kitchen", "bedroom")[i % 4], 1)
        b.reserve(x - 1, y - 1, z, x + w + 1, y + d + 1, SIZE[2])
        for s in (0, 4):
            b.place(x + s, y - 2, z, "crate" if s else "barrel")
    for i, (x, y) in enumerate(spots):
        _SCENES[(i + seed) % len(_SCENES)](b, x, y, int(heights[x, y]))
        b.reserve(x - 4, y - 4, 0, x + 5, y + 5, SIZE[2])
    _grow(b, heights)
    first = cabins[0]
    b.home = (first[0] + first[2] // 2 + 0.5, first[1] - 2.5)
    return b.finish()


def _places(b: Builder) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """Cabins (x, y, width, depth) and spots for scenes, one in each field of a grid of 3 x 3."""
    cabins, spots = [], []
    size = (SIZE[0] - 2 * MARGIN) // 3
    for k, cell in enumerate(b.rng.permutation(9)):
        x0, y0 = MARGIN + int(cell) % 3 * size, MARGIN + int(cell) // 3 * size
        if k < 3:
            w, d = b.between(8, 11), b.between(7, 9)
            cabins.append((x0 + b.between(3, size - w - 3), y0 + b.between(5, size - d - 2), w, d))
        else:
            spots.append((x0 + b.between(6, size - 6), y0 + b.between(6, size - 6)))
    return cabins, spots


def _paths(b: Builder, places: list[tuple[int, int]]) -> np.ndarray:
    """Paths two wide that wind from place to place and back to the first: bool [X, Y]."""
    path = np.zeros(SIZE[:2], bool)
    order = [places[0]]
    left = places[1:]
    while left:
        x, y = order[-1]
        nearest = min(left, key=lambda q: (q[0] - x) ** 2 + (q[1] - y) ** 2)
        left.remove(nearest)
        order.append(nearest)
    order.append(order[0])
    for (x0, y0), (x1, y1) in zip(order[:-1], order[1:], strict=True):
        bend_x, bend_y = b.between(-6, 6), b.between(-6, 6)
        steps = 2 * (abs(x1 - x0) + abs(y1 - y0)) + 2
        for i in range(steps + 1):
            t = i / steps
            wx = x0 + (x1 - x0) * t + bend_x * 4 * t * (1 - t)
            wy = y0 + (y1 - y0) * t + bend_y * 4 * t * (1 - t)
            cx, cy = min(max(int(wx), MARGIN), SIZE[0] - MARGIN), min(max(int(wy), MARGIN), SIZE[1] - MARGIN)
            path[cx : cx + 2, cy : cy + 2] = True
    return path


def _surface(b: Builder, x: int, y: int, height: float, name: str) -> None:
    """Pave the ground with a material."""
    halves = int(np.floor(height * 2))
    b.put(x, y, halves // 2 - 1, name)
    if halves % 2:
        b.put(x, y, halves // 2, f"slab:{name}")


def _bridges(b: Builder, path: np.ndarray, heights: np.ndarray) -> None:
    """Boards with rails where a path crosses water."""
    wet = path & (heights < WATER)
    wood = b.palette.woods[0]
    for x, y in np.argwhere(wet):
        b.put(int(x), int(y), int(WATER), f"slab:{wood}")
    near = path | (heights >= WATER)
    for x, y in np.argwhere(wet):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if not near[x + dx, y + dy]:
                b.put(int(x + dx), int(y + dy), int(WATER), f"slab:{wood}")
                b.put(int(x + dx), int(y + dy), int(WATER) + 1, f"fence_{'y' if dx else 'x'}:{wood}")


def _camp(b: Builder, x: int, y: int, z: int) -> None:
    """Two tents around a fire."""
    b.put(x, y, z, "patch:flame")
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        b.put(x + dx, y + dy, z, "patch:cobble")
    for side, dy in ((-4, 0), (2, 0)):
        cloth = b.some(b.palette.wools, 5)
        for j in range(-2, 2):
            for i, name in enumerate((f"stairs+x:{cloth}", f"stairs-x:{cloth}")):
                b.put(x + side + i * 2, y + dy + j, z, name)
            b.put(x + side + 1, y + dy + j, z + 1, f"slab:{cloth}")
    b.put(x, y + 2, z, "bench-y:oak")
    b.put(x, y - 2, z, "bench+y:oak")


def _mushrooms(b: Builder, x: int, y: int, z: int) -> None:
    """Giant mushrooms in a ring."""
    for i, (dx, dy) in enumerate(((-3, -2), (2, -3), (3, 2), (-2, 3))):
        high, cap = b.between(3, 5), ("red", "orange", "purple", "pink")[(i + b.seed) % 4]
        b.box(x + dx, y + dy, z, x + dx + 1, y + dy + 1, z + high, "pillar:white")
        b.box(x + dx - 1, y + dy - 1, z + high, x + dx + 2, y + dy + 2, z + high + 1, cap)
        b.box(x + dx - 2, y + dy - 1, z + high - 1, x + dx + 3, y + dy + 2, z + high, f"top:{cap}")
        b.box(x + dx - 1, y + dy - 2, z + high - 1, x + dx + 2, y + dy + 3, z + high, f"top:{cap}")
        b.put(x + dx, y + dy, z + high - 1, "white")
    b.put(x, y, z, "lantern:lamp")


def _stones(b: Builder, x: int, y: int, z: int) -> None:
    """A circle of standing stones."""
    stone = b.pick("stone", "mossy", "rock", "marble_dark")
    for dx, dy in ((-3, 0), (3, 0), (0, -3), (0, 3), (-2, -2), (2, 2), (-2, 2), (2, -2)):
        b.box(x + dx, y + dy, z, x + dx + 1, y + dy + 1, z + b.between(2, 4), stone)
    b.put(x, y, z, f"plinth:{stone}")
    b.put(x, y, z + 1, f"shard:{b.pick('crystal_blue', 'crystal_pink', 'crystal_green')}")


def _tower(b: Builder, x: int, y: int, z: int) -> None:
    """A lookout with stairs around a solid core."""
    wood = b.some(b.palette.woods, 3)
    b.box(x - 1, y - 1, z, x + 1, y + 1, z + 6, b.some(b.palette.walls, 4))
    level = z
    for direction, sx, sy in (("+x", x - 1, y - 3), ("+y", x + 1, y - 1), ("-x", x, y + 1)):
        b.flight(sx, sy, level, direction, 2, 2, wood)
        level += 2
        lx, ly = {"+x": (x + 1, y - 3), "+y": (x + 1, y + 1), "-x": (x - 3, y + 1)}[direction]
        b.box(lx, ly, z, lx + 2, ly + 2, level, wood)
    b.box(x - 3, y - 1, level - 1, x - 1, y + 1, level, wood)
    b.box(x - 3, y - 1, z, x - 2, y, level - 1, f"post:{wood}")
    b.put(x - 1, y - 1, level, f"fence_xy:{wood}")
    b.put(x, y - 1, level, f"fence_x:{wood}")
    b.put(x, y, level, "lantern:lamp")


def _ruin(b: Builder, x: int, y: int, z: int) -> None:
    """A small ruin with columns and a broken wall."""
    stone = b.pick("stone_bricks", "mossy_bricks", "sandstone", "brick_white")
    b.box(x - 3, y - 3, z - 1, x + 4, y + 4, z, b.pick("tile_grey", "tile_warm", "marble"))
    for dx in (-3, 0, 3):
        for dy in (-3, 3):
            high = b.between(1, 4)
            b.put(x + dx, y + dy, z, f"base:{stone}")
            b.box(x + dx, y + dy, z + 1, x + dx + 1, y + dy + 1, z + high, f"pillar:{stone}")
    for i in range(-2, 3):
        b.box(x + 3, y + i, z, x + 4, y + i + 1, z + b.between(1, 3), stone)
    b.put(x, y, z, f"plinth:{stone}")
    b.put(x, y, z + 1, "orb:gold")


def _orchard(b: Builder, x: int, y: int, z: int) -> None:
    """Beds of flowers in stripes, with beehives."""
    for dx in range(-3, 4):
        for dy in range(-3, 4):
            if dx % 2:
                b.put(x + dx, y + dy, z, f"flower:flower_{b.palette.petals[abs(dx) // 2 % 3]}")
    for dy in (-3, 0, 3):
        b.put(x, y + dy, z, "hedge:thatch")


_SCENES = (_camp, _mushrooms, _stones, _tower, _ruin, _orchard)


def _grow(b: Builder, heights: np.ndarray) -> None:
    """Trees in groves of one kind, rocks, logs and flowers."""
    p = b.palette
    grove = hills(b.rng, SIZE[:2], 10)
    kind = hills(b.rng, SIZE[:2], 5)
    for x in range(3, SIZE[0] - 3):
        for y in range(3, SIZE[1] - 3):
            if heights[x, y] < WATER + 0.5:
                continue
            halves = int(np.floor(heights[x, y] * 2))
            z = halves // 2
            if not b.free(x, y, z):
                continue
            if b.chance(0.055 if grove[x, y] > 0.5 else 0.012):
                trunk, leaves = p.biome.trees[int(kind[x, y] * 0.999 * len(p.biome.trees))]
                tree(b, x, y, z, trunk, leaves)
            elif b.chance(0.006):
                b.put(x, y, z, b.pick("rock", "mossy", "slab:stone", f"beam_x:{p.biome.trees[0][0]}"))
            elif b.chance(0.12) and halves % 2 == 0:
                flora(b, x, y, z)
            elif (
                b.chance(0.3)
                and b.blocks[x, y, z] == 0
                and b.at(x, y, z - 1) == b.id(p.biome.ground)
                and grove[x, y] > 0.62
            ):
                b.place(x, y, z, f"tuft:{p.biome.tuft}")
