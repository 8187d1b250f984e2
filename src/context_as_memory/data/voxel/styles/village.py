"""Villages: a square with a well and stalls, streets with lamps, houses with gardens, a pond, hills around."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import any_tree, cottage, flora, hills, lamp_post, lay_ground, rim
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (96, 96, 36)
LEVEL = 6  # the first free cell above the streets
BORDER = 13

Lot = tuple[int, int, int, int, str]  # x0, y0, x1, y1 and the side of the street


def build(seed: int) -> VoxelWorld:
    b = Builder("village", seed, SIZE)
    p = b.palette
    slope = rim(SIZE[:2], BORDER + 2)
    heights = LEVEL + np.floor(slope * (4 + 7 * hills(b.rng, SIZE[:2], 9)))
    lay_ground(b, heights, p.biome.ground)
    cx, cy = SIZE[0] // 2 + b.between(-6, 6), SIZE[1] // 2 + b.between(-6, 6)
    low, high = BORDER, SIZE[0] - BORDER
    for x0, y0, x1, y1 in ((low, cy - 2, high, cy + 2), (cx - 2, low, cx + 2, high)):
        b.box(x0, y0, LEVEL - 1, x1, y1, LEVEL, p.biome.path)
        b.reserve(x0, y0, LEVEL, x1, y1, LEVEL + 3)
    lots = _lots(b, cx, cy, low, high)
    pond = b.between(0, len(lots) - 1)
    field = (pond + 1 + b.between(0, len(lots) - 3)) % len(lots)
    rooms = ("kitchen", "living", "study", "dining", "store", "kitchen", "living")
    for i, lot in enumerate(lots):
        if i == pond:
            _pond(b, lot)
        elif i == field:
            _field(b, lot)
        else:
            _house(b, lot, rooms[i % len(rooms)], 2 if b.chance(0.4) else 1)
    _square(b, cx, cy)
    for s in range(low + 2, high, 8):
        lamp_post(b, s, cy - 3, LEVEL)
        lamp_post(b, cx + 2, s, LEVEL)
    _woods(b, heights)
    b.home = (cx + 0.5, cy - 9.5)
    return b.finish()


def _lots(b: Builder, cx: int, cy: int, low: int, high: int) -> list[Lot]:
    """Lots along both sides of the street along x, about 17 wide."""
    lots: list[Lot] = []
    for x0, x1 in ((low, cx - 3), (cx + 3, high)):
        count = 2 if x1 - x0 >= 26 else 1
        edges = [x0 + (x1 - x0) * i // count for i in range(count + 1)]
        for left, right in zip(edges[:-1], edges[1:], strict=True):
            lots.append((left, cy + 3, right, min(cy + 19, high), "-y"))
            lots.append((left, max(cy - 19, low), right, cy - 3, "+y"))
    for y0, y1 in ((low, cy - 20), (cy + 20, high)):
        if y1 - y0 >= 12:
            lots.append((cx - 20, y0, cx - 3, y1, "+x"))
            lots.append((cx + 3, y0, cx + 20, y1, "-x"))
    return lots


def _house(b: Builder, lot: Lot, room: str, storeys: int) -> None:
    """A house in a fenced garden with a path from the street to its door."""
    x0, y0, x1, y1, side = lot
    p = b.palette
    w, d = min(x1 - x0 - 4, b.between(9, 12)), min(y1 - y0 - 5, b.between(8, 10))
    if side[1] == "x":
        w, d = min(x1 - x0 - 5, b.between(8, 10)), min(y1 - y0 - 4, b.between(9, 12))
    hx, hy = x0 + (x1 - x0 - w) // 2, y0 + (y1 - y0 - d) // 2
    hx += {"-x": 1, "+x": -1}.get(side, 0)
    hy += {"-y": 1, "+y": -1}.get(side, 0)
    fence = b.some(p.woods, 3)
    gx, gy = hx + w // 2 - 1, hy + d // 2 - 1  # the way to the door
    hedge = b.chance(0.35)
    leaves = p.biome.trees[0][1]
    for x in range(x0 + 1, x1 - 1):
        for y in range(y0 + 1, y1 - 1):
            edge_x, edge_y = y in (y0 + 1, y1 - 2), x in (x0 + 1, x1 - 2)
            gate = gy <= y < gy + 2 if side[1] == "x" else gx <= x < gx + 2
            front = {"-x": x == x0 + 1, "+x": x == x1 - 2, "-y": y == y0 + 1, "+y": y == y1 - 2}[side]
            if (edge_x or edge_y) and not (gate and front):
                kind = "xy" if edge_x and edge_y else "x" if edge_x else "y"
                b.place(x, y, LEVEL, f"hedge:{leaves}" if hedge else f"fence_{kind}:{fence}")
    cottage(b, hx, hy, hx + w, hy + d, LEVEL, side, room, storeys)
    for i in range(20):  # the path
        x, y = {"-x": (hx - 1 - i, gy), "+x": (hx + w + i, gy), "-y": (gx, hy - 1 - i), "+y": (gx, hy + d + i)}[side]
        for j in range(2):
            px, py = (x, y + j) if side[1] == "x" else (x + j, y)
            if x0 <= px < x1 and y0 <= py < y1:
                b.put(px, py, LEVEL - 1, p.biome.path)
                b.reserve(px, py, LEVEL, px + 1, py + 1, LEVEL + 3)
    petal = b.some(p.petals, 5)
    for x in range(x0 + 2, x1 - 2):
        for y in range(y0 + 2, y1 - 2):
            near = hx - 2 <= x <= hx + w + 1 and hy - 2 <= y <= hy + d + 1
            if near:
                continue
            if b.chance(0.3):
                b.place(x, y, LEVEL, f"flower:flower_{petal}")
            elif b.chance(0.04) and b.free(x, y, LEVEL):
                any_tree(b, x, y, LEVEL)


def _pond(b: Builder, lot: Lot) -> None:
    """A pond with a bench and trees."""
    x0, y0, x1, y1, _ = lot
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    for x in range(x0 + 2, x1 - 2):
        for y in range(y0 + 2, y1 - 2):
            r = ((x + 0.5 - cx) / (x1 - x0 - 6) * 2) ** 2 + ((y + 0.5 - cy) / (y1 - y0 - 6) * 2) ** 2
            if r < 0.8:
                b.box(x, y, LEVEL - 3, x + 1, y + 1, LEVEL - 2, "sand")
                b.box(x, y, LEVEL - 2, x + 1, y + 1, LEVEL, "water")
                b.put(x, y, LEVEL - 1, "water")
            elif r < 1.1:
                b.put(x, y, LEVEL - 1, "sand")
            elif b.chance(0.12):
                flora(b, x, y, LEVEL)
    for x, y in ((x0 + 2, y0 + 2), (x1 - 3, y1 - 3), (x0 + 2, y1 - 3)):
        any_tree(b, x, y, LEVEL)


def _field(b: Builder, lot: Lot) -> None:
    """Rows of crops with water between them and a scarecrow."""
    x0, y0, x1, y1, _ = lot
    b.box(x0 + 2, y0 + 2, LEVEL - 1, x1 - 2, y1 - 2, LEVEL, "soil")
    crops = ("crop:wheat", "patch:cabbage", "patch:pumpkin", "crop:stem")
    for x in range(x0 + 2, x1 - 2):
        for y in range(y0 + 2, y1 - 2):
            row = (y - y0 - 2) % 4
            if row == 3:
                b.put(x, y, LEVEL - 1, b.palette.biome.path)
            else:
                b.place(x, y, LEVEL, crops[(y - y0) // 4 % len(crops)])
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    b.box(cx, cy, LEVEL, cx + 1, cy + 1, LEVEL + 2, "post:oak")
    b.put(cx, cy, LEVEL + 1, f"pillar:{b.some(b.palette.wools, 4)}")
    b.put(cx, cy, LEVEL + 2, "hedge:pumpkin")


def _square(b: Builder, cx: int, cy: int) -> None:
    """The square: a well in the middle and stalls at its corners."""
    p = b.palette
    b.reserved[cx - 7 : cx + 7, cy - 7 : cy + 7] = False
    b.box(cx - 7, cy - 7, LEVEL, cx + 7, cy + 7, LEVEL + 14, "")
    b.box(cx - 7, cy - 7, LEVEL - 1, cx + 7, cy + 7, LEVEL, b.pick("stone_bricks", "tile_warm", "cobble", "brick_sand"))
    stone, wood = b.pick("stone_bricks", "cobble", "brick_red", "marble"), b.some(p.woods, 3)
    b.box(cx - 2, cy - 2, LEVEL, cx + 2, cy + 2, LEVEL + 1, stone)
    b.box(cx - 1, cy - 1, LEVEL, cx + 1, cy + 1, LEVEL + 1, "water")
    for x in (cx - 2, cx + 1):
        for y in (cy - 2, cy + 1):
            b.box(x, y, LEVEL + 1, x + 1, y + 1, LEVEL + 3, f"post:{wood}")
    roof = b.some(p.roofs, 4)
    b.box(cx - 2, cy - 2, LEVEL + 3, cx + 2, cy + 2, LEVEL + 4, f"slab:{roof}")
    b.box(cx - 1, cy - 1, LEVEL + 3, cx + 1, cy + 1, LEVEL + 4, roof)
    b.put(cx, cy, LEVEL + 2, "hanging:lamp")
    awnings = ("awning_red", "awning_blue", "awning_green", "awning_red")
    wares = ("pumpkin", "cabbage", "crate", "wheat", "barrel", "gold")
    for i, (x, y) in enumerate(((cx - 7, cy - 7), (cx + 4, cy - 7), (cx - 7, cy + 4), (cx + 4, cy + 4))):
        for px in (x, x + 2):
            for py in (y, y + 2):
                b.box(px, py, LEVEL, px + 1, py + 1, LEVEL + 2, f"post:{wood}")
        b.box(x, y, LEVEL + 2, x + 3, y + 3, LEVEL + 3, f"slab:{awnings[(i + b.seed) % 4]}")
        front = y + 2 if y < cy else y
        for px in range(x, x + 3):
            if px != x + 1:
                continue
            b.put(px, front, LEVEL, "barrel")
            b.put(px, front, LEVEL + 1, f"patch:{b.pick(*wares)}")
        b.put(x + 1, y + 1, LEVEL, "crate")
    for x, y in ((cx - 4, cy), (cx + 3, cy), (cx, cy - 4), (cx, cy + 3)):
        b.put(x, y, LEVEL, f"bench{'+x' if x < cx - 2 else '-x' if x > cx + 2 else '+y' if y < cy else '-y'}:{wood}")


def _woods(b: Builder, heights: np.ndarray) -> None:
    """Trees and flowers on the hills and on free ground."""
    for x in range(3, SIZE[0] - 3):
        for y in range(3, SIZE[1] - 3):
            z = int(heights[x, y])
            if z > LEVEL and b.chance(0.05):
                any_tree(b, x, y, z)
            elif b.chance(0.06) and b.at(x, y, z - 1) == b.id(b.palette.biome.ground):
                flora(b, x, y, z)
