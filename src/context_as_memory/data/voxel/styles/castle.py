"""Castles: walls to walk on, towers with winding stairs, a courtyard, a great hall with upper rooms, and a moat."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import (
    any_tree,
    flat_roof,
    flora,
    furnish,
    hills,
    lamp_post,
    lay_ground,
    lined_room,
    passage,
    rim,
    window,
)
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (88, 88, 44)
LEVEL = 8  # the first free cell of the courtyard
WALL = 6  # height of the walk on the walls above the courtyard
LOW, HIGH = 20, 68  # the outer edges of the castle
TOWER = 9


def build(seed: int) -> VoxelWorld:
    b = Builder("castle", seed, SIZE, ("green", "autumn", "snow", "tropic"))
    p = b.palette
    heights = LEVEL + np.floor(rim(SIZE[:2], 9) * (4 + 8 * hills(b.rng, SIZE[:2], 8)))
    lay_ground(b, heights, p.biome.ground)
    stone = b.pick("stone_bricks", "brick_grey", "sandstone", "brick_white", "cobble", "brick_sand", "brick_rose")
    trim = b.pick("brick_dark", "stone_bricks", "brick_red", "brick_blue", "marble")
    wood = b.some(p.woods, 4)
    _moat(b)
    b.box(LOW, LOW, LEVEL - 1, HIGH, HIGH, LEVEL, b.pick("cobble", "path", "gravel", "tile_grey"))
    _walls(b, stone, trim)
    roofs = [p.roofs[0], p.roofs[0], p.roofs[1], p.roofs[0]]
    for i, (x, y) in enumerate(((LOW - 3, LOW - 3), (HIGH - 6, LOW - 3), (LOW - 3, HIGH - 6), (HIGH - 6, HIGH - 6))):
        _tower(b, x, y, i, stone, trim, wood, roofs[i])
    _gate(b, stone, trim, wood)
    _keep(b, stone, trim, wood)
    _yard(b, wood)
    for x in range(3, SIZE[0] - 3):
        for y in range(3, SIZE[1] - 3):
            z = int(heights[x, y])
            if b.at(x, y, z - 1) == b.id(p.biome.ground) and b.free(x, y, z):
                if b.chance(0.05 if z > LEVEL else 0.012):
                    any_tree(b, x, y, z)
                elif b.chance(0.1):
                    flora(b, x, y, z)
    b.home = ((LOW + HIGH) / 2 + 0.5, LOW + 9.5)
    return b.finish()


def _moat(b: Builder) -> None:
    """Water around the castle, three deep and four wide."""
    low, high = LOW - 8, HIGH + 8
    b.box(low, low, LEVEL - 3, high, high, LEVEL - 2, "gravel")
    b.box(low, low, LEVEL - 2, high, high, LEVEL, "")
    b.box(low, low, LEVEL - 2, high, high, LEVEL, "water")
    b.box(low, low, LEVEL - 1, high, high, LEVEL, "")
    b.box(low, low, LEVEL - 2, high, high, LEVEL - 1, "water")
    b.box(LOW - 4, LOW - 4, LEVEL - 3, HIGH + 4, HIGH + 4, LEVEL, b.palette.biome.ground)


def _walls(b: Builder, stone: str, trim: str) -> None:
    """Walls four thick with a walk on top, battlements outside and stairs up from the yard."""
    top = LEVEL + WALL
    for k in range(4):
        b.walls(LOW + k, LOW + k, LEVEL, HIGH - k, HIGH - k, top, stone)
    b.walls(LOW, LOW, top - 1, HIGH, HIGH, top, trim)
    for k in range(1, 4):
        b.walls(LOW + k, LOW + k, top - 1, HIGH - k, HIGH - k, top, "path" if k < 3 else trim)
    b.walls(LOW, LOW, top, HIGH, HIGH, top + 1, stone)
    for s in range(LOW, HIGH, 3):
        for x, y in ((s, LOW), (s, HIGH - 1), (LOW, s), (HIGH - 1, s)):
            b.put(x, y, top + 1, trim)
    for s in range(LOW + 12, HIGH - 10, 10):  # lamps on the inner side
        for x, y, side in ((s, LOW + 4, "-y"), (s, HIGH - 5, "+y"), (LOW + 4, s, "-x"), (HIGH - 5, s, "+x")):
            b.put(x, y, LEVEL + 3, f"torch{side}:flame")
    b.flight(LOW + 4, LOW + 16, LEVEL, "+y", WALL, 2, stone)  # beside the western wall
    b.box(LOW + 4, LOW + 16 + WALL, LEVEL, LOW + 6, LOW + 19 + WALL, top, stone)
    b.flight(HIGH - 6, HIGH - 17, LEVEL, "-y", WALL, 2, stone)
    b.box(HIGH - 6, HIGH - 19 - WALL, LEVEL, HIGH - 4, HIGH - 16 - WALL, top, stone)


def _tower(b: Builder, x: int, y: int, corner: int, stone: str, trim: str, wood: str, roof: str) -> None:
    """A square tower with stairs along its inner walls; its doors open to the yard and to the walk."""
    top = LEVEL + 2 * WALL
    b.box(x, y, LEVEL - 2, x + TOWER, y + TOWER, LEVEL, trim)
    b.box(x, y, LEVEL, x + TOWER, y + TOWER, top + 6, "")
    b.walls(x, y, LEVEL, x + TOWER, y + TOWER, top + 4, stone)
    b.walls(x, y, LEVEL + WALL - 1, x + TOWER, y + TOWER, LEVEL + WALL, trim)
    b.walls(x, y, top - 1, x + TOWER, y + TOWER, top, trim)
    ix, iy, z = x + 1, y + 1, LEVEL
    # Corners in the order in which the stairs meet them; the first landing is the ground.
    turn = (("+x", 2, 0, 5, 0), ("+y", 5, 2, 5, 5), ("-x", 4, 5, 0, 5), ("-y", 0, 4, 0, 0))
    for k in range(4):
        direction, sx, sy, lx, ly = turn[k]
        b.flight(ix + sx, iy + sy, z, direction, 3, 2, wood, solid=False)
        z += 3
        b.box(ix + lx, iy + ly, z - 1, ix + lx + 2, iy + ly + 2, z, wood)
        b.box(ix + lx, iy + ly, z, ix + lx + 2, iy + ly + 2, z + 3, "")
    b.box(ix + 2, iy + 2, LEVEL, ix + 5, iy + 5, top, "")
    for k in range(top - LEVEL):
        b.put(ix + 3, iy + 3, LEVEL + k, f"pillar:{trim}" if k % 4 != 3 else "lamp")
    b.box(ix + 2, iy, top - 1, ix + 5, iy + 2, top, "")
    # The top floor: a deck over all but the last flight.
    b.box(ix + 2, iy + 2, top - 1, ix + 7, iy + 7, top, wood)
    b.box(ix, iy, top - 1, ix + 7, iy + 2, top, wood)
    for j in range(2, 5):
        b.put(ix + 2, iy + j, top, f"fence_y:{wood}")
    for s in range(2, TOWER - 2, 2):  # openings all around the top and slits below
        for wx, wy in ((x + s, y), (x + s, y + TOWER - 1), (x, y + s), (x + TOWER - 1, y + s)):
            b.box(wx, wy, top + 1, wx + 1, wy + 1, top + 3, "")
            if s == 4:
                b.put(wx, wy, LEVEL + WALL + 2, "")
                b.put(wx, wy, LEVEL + 3, "")
    b.put(ix + 4, iy + 4, top + 3, "hanging:lamp")
    for k in range(6):  # a pointed roof
        b.box(x - 1 + k, y - 1 + k, top + 4 + k, x + TOWER + 1 - k, y + TOWER + 1 - k, top + 5 + k, roof)
        if k < 4:
            b.box(x + k, y + k, top + 4 + k, x + TOWER - k, y + TOWER - k, top + 5 + k, "" if k == 0 else roof)
    b.box(x, y, top + 4, x + TOWER, y + TOWER, top + 5, wood)
    b.box(x + 4, y + 4, top + 10, x + 5, y + 5, top + 13, "post:iron")
    b.put(x + 5, y + 4, top + 12, f"pane_x:{b.palette.wools[corner]}")
    # Doors: to the yard below, to the walk on the two walls above.
    to_x, to_y = (1 if corner % 2 == 0 else -1), (1 if corner < 2 else -1)
    inner_x = x + TOWER - 1 if to_x > 0 else x
    inner_y = y + TOWER - 1 if to_y > 0 else y
    walk_x = LOW + 1 if corner % 2 == 0 else HIGH - 3
    walk_y = LOW + 1 if corner < 2 else HIGH - 3
    up = LEVEL + WALL
    b.box(inner_x, walk_y, up, inner_x + 1, walk_y + 2, up + 3, "")
    b.box(walk_x, inner_y, up, walk_x + 2, inner_y + 1, up + 3, "")
    _deck(b, ix, iy, up, wood)
    yard_x = inner_x - 2 * to_x if to_x > 0 else inner_x + 1
    b.box(yard_x, inner_y, LEVEL, yard_x + 2, inner_y + 1, LEVEL + 3, "")
    b.box(
        yard_x,
        inner_y + to_y if to_y > 0 else inner_y - 3,
        LEVEL,
        yard_x + 2,
        inner_y + 4 if to_y > 0 else inner_y,
        LEVEL + 3,
        "",
    )


def _deck(b: Builder, ix: int, iy: int, z: int, wood: str) -> None:
    """A floor in a tower at the height of the walk, with holes where the stairs pass."""
    for i in range(7):
        for j in range(7):
            stairs_here = any(b.at(ix + i, iy + j, z + k) for k in (-3, -2, -1, 0, 1, 2))
            if not stairs_here:
                b.put(ix + i, iy + j, z - 1, wood)


def _gate(b: Builder, stone: str, trim: str, wood: str) -> None:
    """The gatehouse in the southern wall, with a bridge over the moat."""
    middle = (LOW + HIGH) // 2
    x0, x1 = middle - 6, middle + 6
    top = LEVEL + WALL
    b.box(x0, LOW - 2, LEVEL, x1, LOW + 6, top + 5, stone)
    b.box(x0, LOW - 2, top - 1, x1, LOW + 6, top, trim)
    b.box(middle - 2, LOW - 2, LEVEL, middle + 2, LOW + 6, LEVEL + 4, "")
    b.box(x0 + 1, LOW - 1, top, x1 - 1, LOW + 5, top + 4, "")
    b.box(x0, LOW + 1, top, x0 + 1, LOW + 4, top + 3, "")
    b.box(x1 - 1, LOW + 1, top, x1, LOW + 4, top + 3, "")
    for s in (-4, 2):
        window(b, middle + s, LOW - 2, top + 1, "x", 2, 2, "lattice", "iron")
        window(b, middle + s, LOW + 5, top + 1, "x", 2, 2, "lattice", "iron")
    b.put(middle, LOW + 2, top + 3, "ceiling:lamp")
    b.put(middle, LOW + 2, LEVEL + 3, "ceiling:lamp")
    b.put(middle - 1, LOW - 2, LEVEL + 3, "bars_x:iron")
    b.put(middle, LOW - 2, LEVEL + 3, "bars_x:iron")
    b.walls(x0, LOW - 2, top + 5, x1, LOW + 6, top + 6, f"slab:{trim}")
    for s in (-4, 3):
        b.hang(
            middle + s,
            LOW - 3,
            LEVEL + 3,
            "+y",
            b.pick("banner_red", "banner_blue", "banner_green", "banner_purple"),
            1,
            2,
        )
    b.box(middle - 2, LOW - 9, LEVEL - 1, middle + 2, LOW, LEVEL, wood)
    for y in range(LOW - 9, LOW - 3):
        b.put(middle - 3, y, LEVEL - 1, wood)
        b.put(middle + 2, y, LEVEL - 1, wood)
        b.put(middle - 3, y, LEVEL, f"fence_y:{wood}")
        b.put(middle + 2, y, LEVEL, f"fence_y:{wood}")
    b.box(middle - 2, 9, LEVEL - 1, middle + 2, LOW - 9, LEVEL, b.palette.biome.path)
    b.reserve(middle - 3, 9, LEVEL, middle + 3, LOW + 12, LEVEL + 4)


def _keep(b: Builder, stone: str, trim: str, wood: str) -> None:
    """The keep: a great hall of double height, side rooms on two floors, stairs and a terrace on the roof."""
    p = b.palette
    x0, x1, y0, y1 = LOW + 9, HIGH - 9, HIGH - 25, HIGH - 8
    b.box(x0, y0, LEVEL, x1, y1, LEVEL + 11, stone)
    b.walls(x0, y0, LEVEL + 10, x1, y1, LEVEL + 11, trim)
    left, right = x0 + 9, x1 - 9
    floor = b.pick("tile_black", "marble", "tile_red", "tile_diamond", "parquet")
    lined_room(
        b,
        left,
        y0 + 1,
        right,
        y1 - 1,
        LEVEL,
        9,
        b.pick("plaster_cream", "brick_white", "brick_sand", "oak"),
        floor,
        wood,
    )
    middle = (x0 + x1) // 2 - 1
    for y in range(y0 + 1, y1 - 3):
        for i in range(2):
            b.put(middle + i, y, LEVEL, f"carpet:{'red' if b.seed % 2 else 'purple'}")
    b.box(left + 1, y1 - 5, LEVEL, right - 1, y1 - 2, LEVEL + 1, f"slab:{trim}")
    for i in (0, 1):  # two thrones
        b.put(middle + i, y1 - 3, LEVEL, trim)
        b.put(middle + i, y1 - 3, LEVEL + 1, "sofa-y:gold" if i else "sofa-y:red")
    for y in range(y0 + 4, y1 - 5, 4):
        for x in (left + 2, right - 3):
            b.put(x, y, LEVEL, f"base:{trim}")
            b.box(x, y, LEVEL + 1, x + 1, y + 1, LEVEL + 8, f"pillar:{trim}")
            b.put(x, y, LEVEL + 8, f"cap:{trim}")
        for x in (middle - 1, middle + 2):
            b.put(x, y, LEVEL + 8, "hanging:lamp")
        b.put(left + 1, y + 2, LEVEL + 3, "torch-x:flame")
        b.put(right - 2, y + 2, LEVEL + 3, "torch+x:flame")
    b.box(middle, y0, LEVEL, middle + 2, y0 + 2, LEVEL + 4, "")
    b.reserve(middle - 1, y0 - 3, LEVEL, middle + 3, y0 + 4, LEVEL + 4)
    for x in (left + 3, left + 6, right - 8, right - 5):
        for k in range(3, 7):
            b.put(x, y1 - 2, LEVEL + k, "")
            b.put(x + 1, y1 - 2, LEVEL + k, "")
            b.put(x, y1 - 1, LEVEL + k, "pane_x:stained")
            b.put(x + 1, y1 - 1, LEVEL + k, "pane_x:stained")
    banner = [b.pick("banner_red", "banner_blue", "banner_green", "banner_purple") for _ in range(2)]
    for y in range(y0 + 4, y1 - 5, 4):
        b.hang(left + 1, y, LEVEL + 4, "-x", banner[0], 1, 3)
        b.hang(right - 2, y, LEVEL + 4, "+x", banner[1], 1, 3)
    kinds = ("dining", "kitchen", "bedroom", "study")
    number = 0
    for storey in range(2):
        z = LEVEL + 5 * storey
        for low, high, door in ((x0 + 1, left, left), (right, x1 - 1, right)):
            lined_room(b, low, y0 + 1, high, y1 - 1, z, 4, p.rooms[number], p.floors[number], p.woods[1])
            for wy in (y0 + 4, y0 + 10):
                edge, inner = (x0, x0 + 1) if door == left else (x1 - 1, x1 - 2)
                for i in range(2):
                    for k in (1, 2):
                        b.put(inner, wy + i, z + k, "")
                        b.put(edge, wy + i, z + k, "pane_y:glass")
                        b.reserve(inner - 1, wy + i, z, inner + 2, wy + i + 1, z + 3)
            if storey == 0:
                passage(b, door - 1, y0 + 4, door + 1, y0 + 6, z)
            b.put((low + high) // 2, (y0 + y1) // 2, z + 3, "ceiling:lamp")
            number += 1
    for low, direction in ((x0 + 2, "+y"), (x1 - 4, "+y")):  # stairs to the upper rooms and to the roof
        b.flight(low, y0 + 5, LEVEL, direction, 5, 2, wood)
        b.reserve(low, y0 + 2, LEVEL, low + 2, y0 + 5, LEVEL + 3)
        b.reserve(low, y0 + 10, LEVEL + 5, low + 2, y0 + 13, LEVEL + 8)
    b.flight(x0 + 5, y0 + 5, LEVEL + 5, "+y", 6, 2, wood)
    b.reserve(x0 + 5, y0 + 2, LEVEL + 5, x0 + 7, y0 + 5, LEVEL + 8)
    number = 0
    for storey in range(2):
        for low, high in ((x0 + 1, left), (right, x1 - 1)):
            furnish(b, kinds[number], low + 1, y0 + 2, high - 1, y1 - 2, LEVEL + 5 * storey)
            number += 1
    hole = b.blocks[x0 + 5 : x0 + 7, y0 + 5 : y0 + 11].copy()
    flat_roof(b, x0, y0, x1, y1, LEVEL + 10, "path", trim)
    b.blocks[x0 + 5 : x0 + 7, y0 + 5 : y0 + 11] = hole
    for s in range(x0, x1, 3):
        b.put(s, y0, LEVEL + 11, trim)
        b.put(s, y1 - 1, LEVEL + 11, trim)
    for x, y in ((x0 + 12, y0 + 4), (x1 - 8, y1 - 5)):
        lamp_post(b, x, y, LEVEL + 11)


def _yard(b: Builder, wood: str) -> None:
    """The courtyard: a fountain, a garden, a stable, a smithy and a training ground."""
    p = b.palette
    middle = (LOW + HIGH) // 2
    cy = LOW + 14
    b.box(middle - 3, cy - 3, LEVEL, middle + 3, cy + 3, LEVEL + 1, "slab:marble")
    b.box(middle - 2, cy - 2, LEVEL - 1, middle + 2, cy + 2, LEVEL, "marble")
    b.box(middle - 2, cy - 2, LEVEL, middle + 2, cy + 2, LEVEL + 1, "water")
    b.put(middle, cy, LEVEL, "marble")
    b.box(middle, cy, LEVEL + 1, middle + 1, cy + 1, LEVEL + 3, "pillar:marble")
    b.put(middle, cy, LEVEL + 3, f"orb:{b.pick('gold', 'cyan', 'red')}")
    gx = LOW + 10
    b.box(gx, cy - 4, LEVEL - 1, gx + 8, cy + 4, LEVEL, p.biome.ground)
    for x in range(gx, gx + 8):
        for y in range(cy - 4, cy + 4):
            edge = x in (gx, gx + 7) or y in (cy - 4, cy + 3)
            if edge and abs(y - cy) > 1:
                b.place(x, y, LEVEL, f"hedge:{p.biome.trees[0][1]}")
            elif b.chance(0.4):
                b.place(x, y, LEVEL, f"flower:flower_{p.petals[(x + y) % 2]}")
    b.box(gx + 3, cy, LEVEL, gx + 4, cy + 1, LEVEL + 1, "")
    any_tree(b, gx + 3, cy, LEVEL)
    sx = HIGH - 17  # the stable and the smithy
    for i in range(3):
        x = sx + 4 * i - 1
        for y in (LOW + 6, LOW + 9):
            b.box(x, y, LEVEL, x + 1, y + 1, LEVEL + 3, f"post:{wood}")
        b.place(x + 1, LOW + 5, LEVEL, b.pick("hedge:thatch", "crate", "barrel", "stove"))
        b.place(x + 2, LOW + 5, LEVEL, b.pick("hedge:thatch", "slab:thatch", "barrel"))
    b.box(sx - 1, LOW + 5, LEVEL + 3, sx + 9, LOW + 10, LEVEL + 4, f"slab:{p.roofs[1]}")
    b.put(sx + 3, LOW + 7, LEVEL + 2, "hanging:lamp")
    for i in range(3):  # straw men
        x, y = sx + 1 + 3 * i, cy + 4
        b.place(x, y, LEVEL, "post:oak")
        b.place(x, y, LEVEL + 1, f"hedge:{p.wools[i]}")
    for x, y in ((middle - 6, cy - 6), (middle + 6, cy - 6), (middle - 6, cy + 6), (middle + 6, cy + 6)):
        lamp_post(b, x, y, LEVEL)
    b.box(LOW + 10, HIGH - 8, LEVEL, LOW + 12, HIGH - 7, LEVEL + 1, "crate")
