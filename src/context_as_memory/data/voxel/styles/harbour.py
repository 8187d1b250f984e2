"""Harbours: piers and boats, warehouses, a row of painted houses, a lighthouse with stairs, and the open sea.

This style is for tests only.
"""

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import any_tree, cottage, doorway, flora, gable_roof, hills, lamp_post
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (96, 96, 40)
SEA = 5  # the first free cell above the water
LEVEL = 6  # and above the quay
QUAY = 46  # y of the edge of the quay; the sea lies at lower y


def build(seed: int) -> VoxelWorld:
    b = Builder("harbour", seed, SIZE, ("green", "autumn", "tropic"))
    p = b.palette
    b.box(0, 0, 0, SIZE[0], QUAY, 2, "sand")
    b.box(0, 0, 2, SIZE[0], QUAY, SEA, "water")
    b.box(0, QUAY, 0, SIZE[0], SIZE[1], LEVEL - 1, "stone_bricks")
    b.box(0, QUAY, LEVEL - 1, SIZE[0], QUAY + 8, LEVEL, b.pick("cobble", "path", "tile_grey", "brick_sand"))
    b.box(0, QUAY + 8, LEVEL - 1, SIZE[0], SIZE[1], LEVEL, p.biome.ground)
    b.box(0, QUAY + 20, LEVEL - 1, SIZE[0], QUAY + 24, LEVEL, p.biome.path)
    slope = hills(b.rng, (SIZE[0], SIZE[1]), 9)
    for x in range(SIZE[0]):  # hills behind the town and at its sides
        for y in range(QUAY + 2, SIZE[1]):
            edge = max(y - (SIZE[1] - 12), 9 - x, x - (SIZE[0] - 10), 0)
            high = int(edge * (0.5 + 0.9 * slope[x, y]))
            if high and not (y < QUAY + 8 and edge < 5):
                b.box(x, y, LEVEL - 1, x + 1, y + 1, LEVEL - 1 + high, "stone")
                b.put(x, y, LEVEL - 1 + high, p.biome.ground)
                if b.chance(0.06):
                    any_tree(b, x, y, LEVEL + high)
    wood = b.some(p.woods, 4)
    piers = [14, 34, 55] if b.chance(0.5) else [20, 40, 60]
    for i, x in enumerate(piers):
        _pier(b, x, b.between(24, 34), wood, i)
    for i, (x, y) in enumerate(((piers[0] + 6, 30), (piers[1] + 7, 26), (piers[1] - 9, 34), (piers[2] + 7, 32))):
        _boat(b, x, y, p.wools[i], p.wools[i + 4], 9 + 2 * (i % 2))
    _lighthouse(b, 80, 30)
    _town(b)
    _quay(b, wood)
    for x in range(10, SIZE[0] - 10):
        for y in range(QUAY + 8, SIZE[1] - 12):
            if b.at(x, y, LEVEL - 1) == b.id(p.biome.ground) and b.free(x, y, LEVEL):
                if b.chance(0.012):
                    any_tree(b, x, y, LEVEL)
                elif b.chance(0.12):
                    flora(b, x, y, LEVEL)
    b.home = (piers[1] + 1.5, QUAY + 3.5)
    return b.finish()


def _pier(b: Builder, x: int, length: int, wood: str, index: int) -> None:
    """A pier four wide on posts, with lamps, crates and a hut at its end."""
    end = QUAY - length
    b.box(x, end, SEA, x + 4, QUAY, SEA + 1, wood)
    for y in range(end, QUAY, 4):
        for px in (x, x + 3):
            b.box(px, y, 1, px + 1, y + 1, SEA, "log")
            b.put(px, y, SEA + 1, f"post:{wood}")
        if (y - end) % 8 == 0:
            b.put(x + 3, y, SEA + 2, "lantern:lamp")
    if index != 1:
        b.box(x - 3, end - 4, SEA, x + 7, end + 3, SEA + 1, wood)
        for px in (x - 3, x + 6):
            for y in (end - 4, end + 2):
                b.box(px, y, 1, px + 1, y + 1, SEA, "log")
                b.box(px, y, SEA + 1, px + 1, y + 1, SEA + 4, "log")
        b.box(x - 4, end - 5, SEA + 4, x + 8, end + 4, SEA + 5, f"slab:{b.palette.roofs[index]}")
        b.put(x + 1, end - 1, SEA + 3, "hanging:lamp")
        b.put(x - 2, end - 3, SEA + 1, "barrel")
        b.put(x + 5, end - 3, SEA + 1, "crate")
        b.put(x + 5, end - 3, SEA + 2, "patch:pumpkin")
        b.put(x - 2, end, SEA + 1, f"bench+x:{wood}")
    else:
        for y in (end, end + 1):
            b.put(x, y, SEA + 1, b.pick("crate", "barrel"))


def _boat(b: Builder, x: int, y: int, paint: str, sail: str, length: int) -> None:
    """A boat that lies along y, with a mast and a sail."""
    for i in range(length):
        half = 1 if i in (0, length - 1) else 2
        for dx in range(-half, half + 1):
            rim_ = abs(dx) == half or i in (0, length - 1)
            b.put(x + dx, y + i, SEA - 1, paint)
            b.put(x + dx, y + i, SEA, paint if rim_ else "slab:oak")
            if rim_:
                b.put(x + dx, y + i, SEA + 1, "slab:white")
    b.put(x, y + length, SEA + 1, f"slab:{paint}")
    mast = y + length // 2
    b.box(x, mast, SEA, x + 1, mast + 1, SEA + 9, "post:oak")
    for k in range(5):
        b.box(x - 2, mast - 1, SEA + 3 + k, x + 3, mast, SEA + 4 + k, f"pane_x:{sail if k % 2 else 'white'}")
    b.put(x, mast, SEA + 9, f"pane_x:{paint}")
    b.put(x, y + 2, SEA, "crate")
    b.put(x, y + length - 3, SEA, "barrel")


def _lighthouse(b: Builder, x: int, y: int) -> None:
    """A striped tower with stairs inside, on a mole of rock."""
    a, c = ("red", "white") if b.chance(0.5) else (b.pick("blue", "black", "orange"), "white")
    b.box(x - 6, y - 6, 1, x + 7, QUAY, LEVEL - 1, "rock")
    b.box(x - 6, y - 6, LEVEL - 1, x + 7, QUAY, LEVEL, "cobble")
    lo_x, lo_y = x - 4, y - 4
    top = LEVEL + 18
    for k in range(18):
        b.walls(lo_x, lo_y, LEVEL + k, lo_x + 9, lo_y + 9, LEVEL + k + 1, a if k // 3 % 2 == 0 else c)
    b.box(lo_x + 1, lo_y + 1, LEVEL - 1, lo_x + 8, lo_y + 8, LEVEL, "tile_black")
    ix, iy, z = lo_x + 1, lo_y + 1, LEVEL
    turn = (("+x", 2, 0, 5, 0), ("+y", 5, 2, 5, 5), ("-x", 4, 5, 0, 5), ("-y", 0, 4, 0, 0))
    for k in range(6):
        direction, sx, sy, lx, ly = turn[k % 4]
        b.flight(ix + sx, iy + sy, z, direction, 3, 2, "oak", solid=False)
        z += 3
        b.box(ix + lx, iy + ly, z - 1, ix + lx + 2, iy + ly + 2, z, "oak")
    b.box(ix + 2, iy + 2, LEVEL, ix + 5, iy + 5, top - 1, "")
    for k in range(17):
        b.put(ix + 3, iy + 3, LEVEL + k, "lamp" if k % 4 == 2 else "pillar:white")
    for i in range(-2, 9):  # the gallery around the lamp
        for j in range(-2, 9):
            if not (0 <= i < 7 and 0 <= j < 7) or b.at(ix + i, iy + j, top - 1) == 0:
                over_stairs = 5 <= i <= 6 and 1 <= j <= 4
                if not over_stairs:
                    b.put(ix + i, iy + j, top - 1, "stone_bricks")
    for s in range(-2, 9):
        for i, j in ((s, -2), (s, 8), (-2, s), (8, s)):
            corner = abs(i - 3) == 5 and abs(j - 3) == 5
            kind = "xy" if corner else "x" if j in (-2, 8) else "y"
            b.put(ix + i, iy + j, top, f"fence_{kind}:iron")
    b.box(ix + 2, iy + 2, top, ix + 4, iy + 4, top + 3, "lamp")
    for i, j in ((0, 0), (6, 0), (0, 6), (6, 6)):
        b.box(ix + i, iy + j, top, ix + i + 1, iy + j + 1, top + 4, f"pillar:{c}")
    for k in range(4):
        b.box(ix - 1 + k, iy - 1 + k, top + 4 + k, ix + 8 - k, iy + 8 - k, top + 5 + k, a)
    b.box(x - 1, lo_y + 8, LEVEL, x + 1, lo_y + 9, LEVEL + 3, "")
    b.reserve(x - 2, lo_y + 7, LEVEL, x + 2, lo_y + 13, LEVEL + 3)
    for k in (5, 10, 14):
        for wx, wy in ((x, lo_y), (lo_x, y), (lo_x + 8, y)):
            b.put(wx, wy, LEVEL + k, "")


def _town(b: Builder) -> None:
    """Warehouses along the quay and a row of painted houses behind the street."""
    p = b.palette
    x = 11
    for _ in range(3):
        w = b.between(15, 18)
        _warehouse(b, x, QUAY + 9, x + w, QUAY + 18, b.some(p.walls, 8), b.some(p.roofs, 5))
        x += w + b.between(5, 8)
    x = 11
    rooms = ("living", "kitchen", "study", "dining", "bedroom", "living", "store")
    i = 0
    while x + 9 < SIZE[0] - 11:
        w = b.between(8, 9)
        cottage(b, x, QUAY + 26, x + w, QUAY + 35, LEVEL, "-y", rooms[i % len(rooms)], 2 if i % 2 else 1)
        for px in (x + w // 2 - 1, x + w // 2):
            for y in range(QUAY + 24, QUAY + 26):
                b.put(px, y, LEVEL - 1, p.biome.path)
                b.reserve(px, y, LEVEL, px + 1, y + 1, LEVEL + 3)
        x += w + b.between(3, 4)
        i += 1


def _warehouse(b: Builder, x0: int, y0: int, x1: int, y1: int, wall: str, roof: str) -> None:
    """A long hall with wide gates on both sides, full of goods."""
    b.box(x0, y0, LEVEL - 1, x1, y1, LEVEL, b.pick("oak", "grey_wood", "tile_grey", "cobble"))
    b.walls(x0, y0, LEVEL, x1, y1, LEVEL + 5, wall)
    middle = (x0 + x1) // 2
    for y, side in ((y0, "-y"), (y1 - 1, "+y")):
        doorway(b, middle - 2, y, LEVEL, side, 4, 4, 1, "door_oak")
        for x in (x0 + 2, x1 - 4):
            for i in range(2):
                b.put(x + i, y, LEVEL + 2, "lattice_x:dark")
                b.put(x + i, y, LEVEL + 3, "lattice_x:dark")
    b.reserve(middle - 2, y0, LEVEL, middle + 2, y1, LEVEL + 4)
    goods = ("crate", "barrel", "hedge:thatch", f"hedge:{b.palette.wools[0]}", f"hedge:{b.palette.wools[1]}", "crate")
    for x in range(x0 + 1, x1 - 1):
        for y in (y0 + 1, y0 + 2, y1 - 3, y1 - 2):
            if abs(x - middle) > 3 and b.chance(0.7):
                name = goods[(x // 2 + y) % len(goods)]
                for k in range(b.between(1, 3)):
                    b.place(x, y, LEVEL + k, name)
    for x in (x0 + 3, middle, x1 - 4):
        b.box(x, y0 + 1, LEVEL + 4, x + 1, y1 - 1, LEVEL + 5, "beam_y:log")
        b.put(x, (y0 + y1) // 2, LEVEL + 3, "hanging:lamp")
    gable_roof(b, x0, y0, x1, y1, LEVEL + 5, roof, wall)
    b.hang(middle - 1, y0 - 1, LEVEL + 4, "+y", b.pick("banner_red", "banner_blue", "banner_green"), 2, 1)


def _quay(b: Builder, wood: str) -> None:
    """Lamps, bollards, nets of goods, a crane and market stalls along the quay."""
    p = b.palette
    for x in range(9, SIZE[0] - 9, 7):
        lamp_post(b, x, QUAY + 1, LEVEL)
    for i, x in enumerate(range(12, SIZE[0] - 24, 13)):
        y = QUAY + 5
        if i % 2 == 0:
            for px in (x, x + 3):
                b.place(px, y, LEVEL, f"post:{wood}")
                b.place(px, y, LEVEL + 1, f"post:{wood}")
            b.box(
                x,
                y,
                LEVEL + 2,
                x + 4,
                y + 2,
                LEVEL + 3,
                f"slab:{('awning_red', 'awning_blue', 'awning_green')[i // 2 % 3]}",
            )
            for px, thing, ware in ((x + 1, "barrel", "cabbage"), (x + 2, "crate", "pumpkin")):
                if b.place(px, y, LEVEL, thing):
                    b.put(px, y, LEVEL + 1, f"patch:{ware}")
        else:
            for k in range(b.between(1, 2)):
                b.place(x, y, LEVEL + k, "crate")
            b.place(x + 1, y, LEVEL, "barrel")
            b.place(x + 1, y + 1, LEVEL, f"hedge:{p.wools[i]}")
    x = SIZE[0] // 2 + 20
    b.box(x, QUAY + 2, LEVEL, x + 1, QUAY + 3, LEVEL + 7, "pillar:iron")
    for y in range(QUAY - 5, QUAY + 3):
        b.put(x, y, LEVEL + 7, "beam_y:iron")
    b.box(x, QUAY - 4, LEVEL + 3, x + 1, QUAY - 3, LEVEL + 7, "post:iron")
    b.put(x, QUAY - 4, LEVEL + 2, "crate")
