"""Temples in desert or jungle: a stepped pyramid with a shrine on top and a tomb inside, colonnades, pools, obelisks.

This style is for tests only.
"""

import numpy as np

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import any_tree, flora, hills, lay_ground, rim
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (84, 84, 40)
LEVEL = 5
TIERS, TIER = 4, 3  # terraces of the pyramid and their height


def build(seed: int) -> VoxelWorld:
    b = Builder("temple", seed, SIZE, ("sand", "tropic", "green"))
    p = b.palette
    heights = LEVEL + np.floor(rim(SIZE[:2], 9) * (4 + 7 * hills(b.rng, SIZE[:2], 8)))
    lay_ground(b, heights, p.biome.ground, "sand" if p.biome.name == "sand" else "dirt")
    jungle = p.biome.name != "sand"
    stone = (
        b.pick("mossy_bricks", "stone_bricks", "brick_green")
        if jungle
        else b.pick("sandstone", "brick_sand", "brick_orange")
    )
    trim = (
        b.pick("marble", "brick_white", "carved", "brick_dark")
        if jungle
        else b.pick("carved", "brick_red", "brick_blue", "marble")
    )
    column = b.pick("marble", "sandstone", "brick_rose", "red", "cyan")
    cx, cy = SIZE[0] // 2, SIZE[1] // 2 + 10
    b.box(11, 11, LEVEL - 1, SIZE[0] - 11, SIZE[1] - 11, LEVEL, p.biome.path)
    _pyramid(b, cx, cy, stone, trim, column)
    _tomb(b, cx, cy, trim, column)
    _avenue(b, cx, cy, stone, trim, column)
    for side in (-1, 1):
        _colonnade(b, cx + side * 27, column)
    for x in range(3, SIZE[0] - 3):
        for y in range(3, SIZE[1] - 3):
            z = int(heights[x, y])
            if b.at(x, y, z - 1) == b.id(p.biome.ground) and b.free(x, y, z):
                if b.chance(0.07 if z > LEVEL else 0.03):
                    any_tree(b, x, y, z)
                elif b.chance(0.12):
                    flora(b, x, y, z)
                elif not jungle and b.chance(0.02):
                    b.box(x, y, z, x + 1, y + 1, z + b.between(1, 3), "pillar:cactus")
    b.home = (cx + 0.5, 15.5)
    return b.finish()


def _pyramid(b: Builder, cx: int, cy: int, stone: str, trim: str, column: str) -> None:
    """Terraces one can walk around, stairs up the middle of three sides, and a shrine on top."""
    for tier in range(TIERS):
        half = 20 - 4 * tier
        z = LEVEL + TIER * tier
        b.box(cx - half, cy - half, z, cx + half, cy + half, z + TIER, stone)
        b.walls(cx - half, cy - half, z + TIER - 1, cx + half, cy + half, z + TIER, trim)
        for s in range(-half + 1, half - 1, 6):  # torches along the terrace
            for x, y in ((cx + s, cy - half), (cx - half, cy + s), (cx + half - 1, cy + s)):
                if tier < TIERS - 1 and abs(s) > 4:
                    b.put(x, y, z + TIER, "lantern:lamp" if (s + half) % 12 == 1 else f"slab:{trim}")
    top = LEVEL + TIER * TIERS
    for tier in range(TIERS):  # each flight ends on its terrace, which is 4 wide
        out = 20 - 4 * tier
        z = LEVEL + TIER * tier
        b.flight(cx - 3, cy - out - TIER, z, "+y", TIER, 6, trim)
        b.flight(cx - out - TIER, cy - 2, z, "+x", TIER, 4, trim)
        b.flight(cx + out + TIER - 1, cy - 2, z, "-x", TIER, 4, trim)
        for x in (cx - 4, cx + 3):  # balustrades
            for i in range(TIER):
                b.box(x, cy - out - TIER + i, z, x + 1, cy - out - TIER + i + 1, z + i + 1, stone)
            b.put(x, cy - out - TIER, z + 1, "lantern:lamp" if tier % 2 == 0 else f"orb:{column}")
    s = 6  # the shrine
    roof = b.palette.roofs[0]
    b.box(cx - s, cy - s, top - 1, cx + s, cy + s, top, "tile_diamond")
    for x in range(cx - s, cx + s, 3):
        for y in range(cy - s, cy + s, 3):
            if x in (cx - s, cx + s - 3) or y in (cy - s, cy + s - 3):
                b.put(x + 1, y + 1, top, f"base:{column}")
                b.box(x + 1, y + 1, top + 1, x + 2, y + 2, top + 4, f"pillar:{column}")
    b.box(cx - 2, cy - s, top, cx + 2, cy - s + 3, top + 4, "")
    for k in range(4):
        b.box(cx - s + k, cy - s + k, top + 4 + k, cx + s - k, cy + s - k, top + 5 + k, trim if k == 0 else roof)
    b.put(cx, cy + 1, top, f"plinth:{trim}")
    b.put(cx, cy + 1, top + 1, "orb:gold")
    b.put(cx - 1, cy + 1, top + 3, "ceiling:lamp")
    b.put(cx + 2, cy - 2, top + 3, "ceiling:lamp")


def _tomb(b: Builder, cx: int, cy: int, trim: str, column: str) -> None:
    """Rooms inside the pyramid, reached from the back, with painted walls and treasure."""
    z = LEVEL
    wall = b.pick("plaster_peach", "plaster_sky", "plaster_mint", "sandstone")
    b.box(cx - 2, cy + 6, z, cx + 2, cy + 20, z + 4, "")
    b.walls(cx - 3, cy + 6, z - 1, cx + 3, cy + 20, z, trim)
    b.box(cx - 2, cy + 6, z - 1, cx + 2, cy + 20, z, "tile_warm")
    b.box(cx - 11, cy - 9, z, cx + 11, cy + 7, z + 5, wall)
    b.box(cx - 10, cy - 8, z, cx + 10, cy + 6, z + 5, "")
    b.box(cx - 10, cy - 8, z - 1, cx + 10, cy + 6, z, "mosaic")
    b.box(cx - 2, cy + 5, z, cx + 2, cy + 8, z + 4, "")
    b.reserve(cx - 3, cy + 4, z, cx + 3, cy + 20, z + 4)
    for y in range(cy + 8, cy + 19, 4):
        b.put(cx - 2, y, z + 2, "torch-x:flame")
        b.put(cx + 1, y, z + 2, "torch+x:flame")
    for x in (cx - 7, cx - 3, cx + 2, cx + 6):
        for y in (cy - 5, cy + 2):
            b.put(x, y, z, f"base:{column}")
            b.box(x, y, z + 1, x + 1, y + 1, z + 4, f"pillar:{column}")
            b.put(x, y, z + 4, f"cap:{column}")
            b.put(x, y + 1, z + 2, "torch-y:flame")
    for x in range(cx - 9, cx + 7, 4):
        b.paint(x, cy - 8, z + 1, "-y", (2, 2))
    for y in range(cy - 7, cy + 3, 4):
        b.paint(cx - 10, y, z + 1, "-x", (2, 2))
        b.paint(cx + 9, y, z + 1, "+x", (2, 2))
    b.box(cx - 2, cy - 4, z, cx + 2, cy - 2, z + 1, "gold")
    b.box(cx - 2, cy - 4, z + 1, cx + 2, cy - 2, z + 2, f"slab:{b.palette.wools[0]}")
    for x, y in ((cx - 9, cy - 6), (cx + 8, cy - 6), (cx - 9, cy + 4), (cx + 8, cy + 4)):
        b.place(x, y, z, b.pick("gold", "crate", "barrel"))
        b.place(x, y, z + 1, b.pick("shard:crystal_blue", "orb:gold", "patch:gold"))


def _avenue(b: Builder, cx: int, cy: int, stone: str, trim: str, column: str) -> None:
    """The way to the stairs, between two long pools, obelisks and statues."""
    p = b.palette
    b.box(cx - 3, 11, LEVEL - 1, cx + 3, cy - 22, LEVEL, b.pick("tile_warm", "sandstone", "marble", "tile_red"))
    for side in (-1, 1):
        px = cx + 5 if side > 0 else cx - 11
        b.box(px - 1, 16, LEVEL - 1, px + 7, 29, LEVEL, trim)
        b.box(px, 17, LEVEL - 3, px + 6, 28, LEVEL - 2, "mosaic")
        b.box(px, 17, LEVEL - 2, px + 6, 28, LEVEL, "water")
        for y in (16, 29):  # obelisks
            x = cx + 4 * side - (side < 0)
            b.box(x, y - 2, LEVEL, x + 1, y - 1, LEVEL + 1, trim)
            b.box(x, y - 2, LEVEL + 1, x + 1, y - 1, LEVEL + 6, f"pillar:{column}")
            b.put(x, y - 2, LEVEL + 6, "orb:gold")
        gx = cx + 15 if side > 0 else cx - 22
        b.box(gx, 15, LEVEL - 1, gx + 7, 28, LEVEL, p.biome.ground if p.biome.name != "sand" else "grass_tropic")
        _statue(b, gx + 3, 21, side, stone)
        for y in (16, 26):
            any_tree(b, gx + 3, y, LEVEL)
        for x in range(gx, gx + 7):
            for y in range(15, 28):
                if b.chance(0.25):
                    flora(b, x, y, LEVEL)


def _statue(b: Builder, x: int, y: int, side: int, stone: str) -> None:
    """A seated giant that looks at the avenue."""
    cloth = b.palette.wools[1 if side > 0 else 2]
    b.box(x - 1, y - 2, LEVEL, x + 3, y + 2, LEVEL + 1, stone)
    b.box(x - 1, y - 1, LEVEL + 1, x + 2, y + 1, LEVEL + 2, stone)
    b.box(x if side > 0 else x - 1, y - 1, LEVEL + 2, x + 2 if side > 0 else x + 1, y + 1, LEVEL + 4, cloth)
    b.box(x, y - 1, LEVEL + 4, x + 1, y + 1, LEVEL + 6, "sandstone")
    b.put(x, y - 1, LEVEL + 5, "gold")
    b.put(x, y, LEVEL + 5, "gold")


def _colonnade(b: Builder, x: int, column: str) -> None:
    """A covered walk of columns along the side of the court."""
    roof = b.palette.roofs[1]
    for y in range(14, SIZE[1] - 14, 4):
        for px in (x - 2, x + 2):
            b.put(px, y, LEVEL, f"base:{column}")
            b.box(px, y, LEVEL + 1, px + 1, y + 1, LEVEL + 3, f"pillar:{column}")
            b.put(px, y, LEVEL + 3, f"cap:{column}")
        b.put(x, y, LEVEL + 3, "hanging:lamp")
    b.box(x - 2, 14, LEVEL - 1, x + 3, SIZE[1] - 13, LEVEL, b.pick("tile_warm", "tile_grey", "tile_blue"))
    b.box(x - 3, 13, LEVEL + 4, x + 4, SIZE[1] - 12, LEVEL + 5, f"slab:{roof}")
    b.box(x - 2, 14, LEVEL + 4, x + 3, SIZE[1] - 13, LEVEL + 5, roof)
