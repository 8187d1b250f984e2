"""Houses: a villa of two floors with many furnished rooms, and a garden with a pool, a glasshouse and a pavilion."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import (
    any_tree,
    doorway,
    flat_roof,
    flora,
    furnish,
    gable_roof,
    hills,
    lamp_post,
    lay_ground,
    lined_room,
    passage,
    rim,
)
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (72, 72, 40)
LEVEL = 5  # the first free cell of the garden and the ground floor
HIGH = 4  # of a room
STOREY = HIGH + 1

Room = tuple[int, int, int, int]


def build(seed: int) -> VoxelWorld:
    b = Builder("house", seed, SIZE)
    p = b.palette
    heights = LEVEL + np.floor(rim(SIZE[:2], 7) * (3 + 5 * hills(b.rng, SIZE[:2], 8)))
    lay_ground(b, heights, p.biome.ground)
    wide, deep = b.between(30, 34), b.between(20, 24)
    x0 = (SIZE[0] - wide) // 2 + b.between(-3, 3)
    y0 = 22 + b.between(0, 4)
    x1, y1 = x0 + wide, y0 + deep
    hall = (x0 + wide // 2 - 4, x0 + wide // 2 + 4)
    outer, trim = b.some(p.walls, 5), b.pick("stone_bricks", "marble", "brick_white", "brick_dark", "oak")
    b.box(x0, y0, LEVEL - 1, x1, y1, LEVEL, trim)
    kinds = [
        ["living", "kitchen", "dining", "study", "store", "living"],
        ["bedroom", "study", "bedroom", "bedroom", "living", "bedroom"],
    ]
    rooms: list[tuple[Room, int, str]] = []
    number = b.between(0, 9)
    for storey in range(2):
        z = LEVEL + storey * STOREY
        b.walls(x0, y0, z, x1, y1, z + STOREY, outer)
        b.walls(x0, y0, z + HIGH, x1, y1, z + STOREY, trim)
        lined_room(
            b, hall[0], y0 + 1, hall[1], y1 - 1, z, HIGH, p.rooms[number % len(p.rooms)], p.floors[0], p.woods[0]
        )
        for left, right, door_x in ((x0 + 1, hall[0], hall[0]), (hall[1], x1 - 1, hall[1])):
            cuts = _cuts(b, y0 + 1, y1 - 1)
            for low, high in zip(cuts[:-1], cuts[1:], strict=True):
                number += 1
                wall, floor = p.rooms[number % len(p.rooms)], p.floors[(number + 3) % len(p.floors)]
                lined_room(b, left, low, right, high, z, HIGH, wall, floor, b.pick("birch", "plaster", p.woods[1]))
                kind = kinds[storey][int(b.rng.integers(len(kinds[storey])))]
                rooms.append(((left, low, right, high), z, kind))
                y = b.between(low + 2, max(high - 4, low + 2))
                passage(b, door_x - 1, y, door_x + 1, y + 2, z)
            if len(cuts) > 2 and b.chance(0.7):  # a way from room to room
                x = b.between(left + 2, right - 4)
                passage(b, x, cuts[1] - 1, x + 2, cuts[1] + 1, z)
    _hall(b, hall, y0, y1)
    for i, ((left, low, right, high), z, kind) in enumerate(rooms):
        _windows(b, (left, low, right, high), (x0, y0, x1, y1), z)
        for x in (left + (right - left) // 3, right - 1 - (right - left) // 3):
            b.put(x, (low + high) // 2, z + HIGH - 1, "hanging:lamp" if i % 2 else "ceiling:lamp")
        furnish(b, kind if i != 0 else "kitchen", left + 1, low + 1, right - 1, high - 1, z)
    top = LEVEL + 2 * STOREY
    if b.chance(0.7):
        gable_roof(b, x0, y0, x1, y1, top, b.some(p.roofs, 5), outer)
    else:
        flat_roof(b, x0, y0, x1, y1, top, trim, outer)
    _garden(b, (x0, y0, x1, y1), hall, heights)
    b.home = (hall[0] + 4.5, y0 - 7.5)
    return b.finish()


def _cuts(b: Builder, low: int, high: int) -> list[int]:
    """Edges of two rooms along y, or of three when there is space."""
    span = high - low
    if span >= 21 and b.chance(0.4):
        return [low, low + 7, low + 14, high]
    return [low, low + b.between(8, span - 8), high]


def _hall(b: Builder, hall: tuple[int, int], y0: int, y1: int) -> None:
    """The hall: a door at each end, stairs up with railings, a chandelier and paintings."""
    p = b.palette
    left, right = hall
    middle = (left + right) // 2 - 1
    wood = p.woods[0] if p.woods[0] != "grey_wood" else "oak"
    for y, side, inside in ((y0, "-y", 1), (y1 - 1, "+y", -1)):
        b.box(middle, min(y, y + inside), LEVEL, middle + 2, max(y, y + inside) + 1, LEVEL + 3, "")
        b.reserve(middle - 1, y - 3, LEVEL, middle + 3, y + 4, LEVEL + 3)
        doorway(b, middle, y, LEVEL, side, 2, 3, 2, f"door_{b.pick('oak', 'mahogany', 'teal_wood')}")
    start = (y0 + y1) // 2 - 3
    b.flight(right - 3, start, LEVEL, "+y", STOREY, 2, wood)
    b.reserve(right - 3, start - 2, LEVEL, right - 1, start, LEVEL + 3)
    upper = LEVEL + STOREY
    b.reserve(left, start - 1, upper, right, start + STOREY + 3, upper + 3)
    for i in range(STOREY):  # railings around the opening above
        b.put(right - 4, start + i, upper, f"fence_y:{wood}")
    for x in (right - 3, right - 2):
        b.put(x, start - 1, upper, f"fence_x:{wood}")
    for z in (LEVEL, upper):
        for y in range(y0 + 4, y1 - 3, 6):
            b.put(middle, y, z + HIGH - 1, "hanging:lamp")
        for y in range(y0 + 3, y1 - 3):
            if b.at(left + 2, y, z) == 0 and z == LEVEL:
                b.put(middle, y, z, "carpet:red")
        for y in range(y0 + 2, y1 - 4, 3):
            b.paint(left + 1, y, z + 1, "-x", (2, 2))
            b.paint(right - 2, y, z + 1, "+x", (2, 2) if b.chance(0.5) else (1, 1))
    for y, inner in ((y0, y0 + 1), (y1 - 1, y1 - 2)):  # large windows at both ends of the upper hall
        for x in range(middle - 1, middle + 3):
            for k in (0, 1, 2):
                b.put(x, inner, upper + k, "")
                b.put(x, y, upper + k, "pane_x:glass")
    for x in (left + 1, right - 2):
        b.place(x, y0 + 2, LEVEL, "potted:pot")
        b.place(x, y1 - 3, LEVEL, "potted:pot")


def _windows(b: Builder, room: Room, house: Room, z: int) -> None:
    """Windows through the outer wall and the lining, three wide and two high."""
    left, low, right, high = room
    x0, y0, x1, y1 = house
    frame = b.pick("glass", "glass", "stained")
    for y, edge, inner in ((y0, low == y0 + 1, y0 + 1), (y1 - 1, high == y1 - 1, y1 - 2)):
        if edge:
            for x in range(left + 2, right - 4, 5):
                for i in range(3):
                    for k in (1, 2):
                        b.put(x + i, inner, z + k, "")
                        b.put(x + i, y, z + k, f"pane_x:{frame}")
                        b.reserve(x + i, inner - 1, z + 1, x + i + 1, inner + 2, z + 3)
    for x, edge, inner in ((x0, left == x0 + 1, x0 + 1), (x1 - 1, right == x1 - 1, x1 - 2)):
        if edge:
            for y in range(low + 2, high - 4, 5):
                for i in range(3):
                    for k in (1, 2):
                        b.put(inner, y + i, z + k, "")
                        b.put(x, y + i, z + k, f"pane_y:{frame}")
                        b.reserve(inner - 1, y + i, z + 1, inner + 2, y + i + 1, z + 3)


def _garden(b: Builder, house: Room, hall: tuple[int, int], heights: np.ndarray) -> None:
    p = b.palette
    x0, y0, x1, y1 = house
    middle = (hall[0] + hall[1]) // 2 - 1
    for y_low, y_high in ((8, y0), (y1, SIZE[1] - 8)):  # the way from door to door
        b.box(middle, y_low, LEVEL - 1, middle + 2, y_high, LEVEL, p.biome.path)
        b.reserve(middle, y_low, LEVEL, middle + 2, y_high, LEVEL + 3)
    b.box(8, y0 - 5, LEVEL - 1, SIZE[0] - 8, y0 - 3, LEVEL, p.biome.path)
    b.reserve(8, y0 - 5, LEVEL, SIZE[0] - 8, y0 - 3, LEVEL + 3)
    for x in (x0 - 5, x1 + 3):  # and around the house
        b.box(x, y0 - 5, LEVEL - 1, x + 2, min(y1 + 6, SIZE[1] - 8), LEVEL, p.biome.path)
        b.reserve(x, y0 - 5, LEVEL, x + 2, min(y1 + 6, SIZE[1] - 8), LEVEL + 3)
    b.box(x0 - 5, y1 + 4, LEVEL - 1, x1 + 5, y1 + 6, LEVEL, p.biome.path)
    left_pool = b.chance(0.5)
    _pool(b, 10 if left_pool else middle + 6, 8)
    _pavilion(b, middle + 8 if left_pool else 13, 8)
    if y1 + 16 < SIZE[1] - 5:
        _glasshouse(b, middle + 5, y1 + 8)
    leaves = p.biome.trees[0][1]
    for x in range(x0, x1):  # beds along the front
        if not hall[0] - 1 <= x <= hall[1]:
            for y in (y0 - 1, y1):
                b.place(x, y, LEVEL, f"hedge:{leaves}" if x % 4 == 0 else f"flower:flower_{p.petals[x % 3]}")
    for s in range(10, SIZE[1] - 8, 9):
        lamp_post(b, middle - 1, s, LEVEL)
        lamp_post(b, middle + 2, s, LEVEL)
    for x in range(3, SIZE[0] - 3):
        for y in range(3, SIZE[1] - 3):
            z = int(heights[x, y])
            if b.at(x, y, z - 1) != b.id(p.biome.ground) or b.at(x, y, z):
                continue
            near = x0 - 4 < x < x1 + 3 and y0 - 4 < y < y1 + 3
            if not near and b.chance(0.06 if z > LEVEL else 0.016) and b.free(x, y, z):
                any_tree(b, x, y, z)
            elif b.chance(0.09):
                flora(b, x, y, z)


def _pool(b: Builder, x: int, y: int) -> None:
    """A swimming pool with a tiled edge and benches."""
    wide, deep = 11, 6
    b.box(x - 1, y - 1, LEVEL - 1, x + wide + 1, y + deep + 1, LEVEL, "tile_warm")
    b.box(x, y, LEVEL - 3, x + wide, y + deep, LEVEL - 2, "mosaic")
    b.box(x, y, LEVEL - 2, x + wide, y + deep, LEVEL, "water")
    for i in range(3):
        b.place(x + 2 + 3 * i, y - 1, LEVEL, f"bed:{b.palette.wools[i]}")
    b.reserve(x - 1, y - 1, LEVEL, x + wide + 1, y + deep + 1, LEVEL + 8)


def _pavilion(b: Builder, x: int, y: int) -> None:
    """Four columns with a roof over a table."""
    b.box(x, y, LEVEL - 1, x + 6, y + 6, LEVEL, "tile_diamond")
    for px in (x, x + 5):
        for py in (y, y + 5):
            b.box(px, py, LEVEL, px + 1, py + 1, LEVEL + 3, "pillar:marble")
    roof = b.palette.roofs[1]
    for k in range(3):
        b.box(
            x - 1 + k, y - 1 + k, LEVEL + 3 + k, x + 7 - k, y + 7 - k, LEVEL + 4 + k, f"slab:{roof}" if k < 1 else roof
        )
        if k:
            b.box(x + k, y + k, LEVEL + 3 + k, x + 6 - k, y + 6 - k, LEVEL + 4 + k, f"slab:{roof}")
    b.put(x + 2, y + 2, LEVEL + 2, "hanging:lamp")
    b.put(x + 2, y + 2, LEVEL, "table:oak")
    b.put(x + 3, y + 2, LEVEL, "chair-x:oak")
    b.put(x + 1, y + 2, LEVEL, "chair+x:oak")
    b.reserve(x - 1, y - 1, LEVEL, x + 7, y + 7, LEVEL + 8)


def _glasshouse(b: Builder, x: int, y: int) -> None:
    """A glasshouse with beds of crops."""
    wide, deep = 10, 7
    b.box(x, y, LEVEL, x + wide, y + deep, LEVEL + 6, "")
    b.walls(x, y, LEVEL, x + wide, y + deep, LEVEL + 3, "glass")
    b.box(x, y, LEVEL + 3, x + wide, y + deep, LEVEL + 4, "glass")
    for px in (x, x + wide - 1):
        for py in (y, y + deep - 1):
            b.box(px, py, LEVEL, px + 1, py + 1, LEVEL + 4, "white")
    b.box(x, y, LEVEL - 1, x + wide, y + deep, LEVEL, "tile_warm")
    for row, crop in ((1, "crop:stem"), (deep - 2, "patch:pumpkin")):
        for i in range(1, wide - 1):
            b.put(x + i, y + row, LEVEL - 1, "soil")
            b.put(x + i, y + row, LEVEL, crop)
    for i in range(deep // 2 - 1, deep // 2 + 1):
        b.box(x, y + i, LEVEL, x + 1, y + i + 1, LEVEL + 3, "")
        b.box(x + wide - 1, y + i, LEVEL, x + wide, y + i + 1, LEVEL + 3, "")
    b.reserve(x - 1, y - 1, LEVEL, x + wide + 1, y + deep + 1, LEVEL + 5)
