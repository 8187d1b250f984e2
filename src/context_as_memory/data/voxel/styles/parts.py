"""Parts that several styles share: ground, trees, roofs, furniture and small houses."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import BACK, STEP, Builder


def hills(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise [X, Y] in [0, 1)."""
    lattice = rng.random((cells + 2, cells + 2))

    def along(length: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.arange(length) * (cells / length)
        i = at.astype(int)
        f = at - i
        return i, f * f * (3 - 2 * f)

    i, f = along(size[0])
    j, g = along(size[1])
    rows = lattice[i] * (1 - f)[:, None] + lattice[i + 1] * f[:, None]
    return rows[:, j] * (1 - g) + rows[:, j + 1] * g


def rim(size: tuple[int, int], width: int) -> np.ndarray:
    """Share [X, Y] that rises from 0, `width` cells inside the border, to 1 at the border."""
    x, y = np.mgrid[: size[0], : size[1]]
    edge = np.minimum(np.minimum(x, size[0] - 1 - x), np.minimum(y, size[1] - 1 - y))
    share = np.clip(1 - edge / width, 0, 1)
    return share * share * (3 - 2 * share)


def lay_ground(b: Builder, heights: np.ndarray, top: str, below: str = "dirt", deep: str = "stone") -> None:
    """Fill the ground up to heights [X, Y] in metres, rounded down to half metres."""
    halves = np.floor(heights * 2).astype(int)
    below = {"snow": "stone", "sand": "sandstone"}.get(top, below)
    z = np.arange(b.blocks.shape[2])
    h = (halves // 2 - 1)[..., None]  # the highest whole cell
    b.blocks[z < h - 2] = b.id(deep)
    b.blocks[(z >= h - 2) & (z < h)] = b.id(below)
    b.blocks[z == h] = b.id(top)
    b.blocks[(z == h + 1) & (halves % 2 == 1)[..., None]] = b.id(f"slab:{top}")


def flatten(heights: np.ndarray, x0: int, y0: int, x1: int, y1: int, level: float, blend: int = 6) -> None:
    """Level a pad and let the ground around it run out smoothly; heights [X, Y] change in place."""
    x, y = np.mgrid[: heights.shape[0], : heights.shape[1]]
    away = np.maximum(np.maximum(x0 - x, x - x1 + 1), np.maximum(y0 - y, y - y1 + 1))
    share = np.clip(1 - np.maximum(away - 1, 0) / blend, 0, 1)
    share = share * share * (3 - 2 * share)
    heights[:] = heights * (1 - share) + level * share


def lined_room(
    b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, high: int, wall: str, floor: str, ceiling: str
) -> None:
    """A room with walls of its own along the inside of its box; z is the first free cell, `high` its height."""
    b.box(x0, y0, z, x1, y1, z + high, "")
    b.walls(x0, y0, z, x1, y1, z + high, wall)
    if wall.startswith("panel"):  # a wainscot stands on the floor only
        b.walls(x0, y0, z + 1, x1, y1, z + high, wall.replace("panel", "plaster"))
    b.box(x0, y0, z - 1, x1, y1, z, floor)
    b.box(x0, y0, z + high, x1, y1, z + high + 1, ceiling)


def passage(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, high: int = 3) -> None:
    """Cut a box free and keep furniture 2 cells away from it."""
    b.box(x0, y0, z, x1, y1, z + high, "")
    b.reserve(x0 - 2, y0 - 2, z, x1 + 2, y1 + 2, z + high)


def tree(b: Builder, x: int, y: int, z: int, trunk: str, leaves: str) -> None:
    """A tree that stands on cell z - 1: a palm, a conifer or a broad crown."""
    if trunk == "palm_log":
        height = b.between(5, 7)
        for k in range(height):
            b.put(x, y, z + k, f"pillar:{trunk}")
        top = z + height
        b.put(x, y, top, leaves)
        for dx, dy in STEP.values():
            for i in (1, 2):
                _leaf(b, x + dx * i, y + dy * i, top, leaves)
            _leaf(b, x + dx * 3, y + dy * 3, top - 1, leaves)
            _leaf(b, x + dx + dy, y + dy - dx, top, leaves)
        return
    if trunk == "dark_log":
        height = b.between(6, 9)
        for k in range(height):
            radius = min((height - k + 1) // 2, 3) if k % 2 == 0 else max((height - k) // 2 - 1, 1)
            if k >= 2:
                _disc(b, x, y, z + k, radius, leaves)
        b.put(x, y, z + height, leaves)
        b.box(x, y, z, x + 1, y + 1, z + height - 1, trunk)
        return
    height = b.between(3, 5) + (2 if trunk == "birch_log" else 0)
    wide = 2 if trunk == "birch_log" else b.between(2, 3)
    _disc(b, x, y, z + height - 1, wide - 1 if wide > 2 else wide, leaves)
    _disc(b, x, y, z + height, wide, leaves)
    _disc(b, x, y, z + height + 1, wide, leaves)
    _disc(b, x, y, z + height + 2, wide - 1, leaves)
    b.box(x, y, z, x + 1, y + 1, z + height, trunk)


def _leaf(b: Builder, x: int, y: int, z: int, leaves: str) -> None:
    if b.at(x, y, z) == 0:
        b.put(x, y, z, leaves)


def _disc(b: Builder, x: int, y: int, z: int, radius: int, leaves: str) -> None:
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if i * i + j * j <= radius * radius + 1:
                _leaf(b, x + i, y + j, z, leaves)


def any_tree(b: Builder, x: int, y: int, z: int) -> None:
    """One of the trees of the climate."""
    trunk, leaves = b.palette.biome.trees[int(b.rng.integers(len(b.palette.biome.trees)))]
    tree(b, x, y, z, trunk, leaves)


def flora(b: Builder, x: int, y: int, z: int) -> None:
    """A flower or a tuft."""
    if b.chance(0.6):
        b.place(x, y, z, f"flower:flower_{b.some(b.palette.petals, 4)}")
    else:
        b.place(x, y, z, f"tuft:{b.palette.biome.tuft}")


def lamp_post(b: Builder, x: int, y: int, z: int, pole: str = "iron") -> None:
    """A street lamp three blocks high."""
    if all(b.free(x, y, z + k) for k in range(4)):
        for k in range(3):
            b.put(x, y, z + k, f"post:{pole}")
        b.put(x, y, z + 3, "lantern:lamp")


def gable_roof(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, roof: str, wall: str) -> None:
    """A roof with its ridge along the longer side, one block of eaves all around; z is the first layer of tiles."""
    along_x = x1 - x0 >= y1 - y0
    low, high = (y0 - 1, y1) if along_x else (x0 - 1, x1)
    first, last = (x0 - 1, x1 + 1) if along_x else (y0 - 1, y1 + 1)
    rise = "y" if along_x else "x"
    layer = 0
    while low <= high:
        names = [(low, f"stairs+{rise}:{roof}"), (high, f"stairs-{rise}:{roof}")]
        if low == high:
            names = [(low, f"slab:{roof}")]
        for at, name in names:
            for s in range(first, last):
                x, y = (s, at) if along_x else (at, s)
                b.put(x, y, z + layer, name)
        for at in range(low + 1, high):  # the gables
            for s in (first + 1, last - 2):
                x, y = (s, at) if along_x else (at, s)
                b.put(x, y, z + layer, wall)
        low, high, layer = low + 1, high - 1, layer + 1


def flat_roof(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, roof: str, edge: str) -> None:
    """A flat roof with a low parapet."""
    b.box(x0, y0, z, x1, y1, z + 1, roof)
    b.walls(x0, y0, z + 1, x1, y1, z + 2, f"slab:{edge}")


def window(
    b: Builder, x: int, y: int, z: int, wall: str, width: int, height: int, kind: str = "lattice", frame: str = "birch"
) -> None:
    """An opening in a wall that runs along `x` or `y`."""
    for i in range(width):
        for k in range(height):
            cx, cy = (x + i, y) if wall == "x" else (x, y + i)
            b.put(cx, cy, z + k, "" if kind == "open" else f"{kind}_{wall}:{frame}")


def doorway(
    b: Builder, x: int, y: int, z: int, side: str, width: int = 2, height: int = 3, deep: int = 1, leaf: str = ""
) -> None:
    """Cut a doorway whose outer cells start at (x, y) in a wall on the `side` of a house, and keep the way free.

    `deep` is the thickness of the wall, counted inwards; `leaf` is the material of two open leaves outside.
    """
    dx, dy = STEP[side]
    wx, wy = (0, 1) if dx else (1, 0)
    for j in range(width):
        for i in range(-deep - 1, 3):
            cx, cy = x + wx * j + dx * i, y + wy * j + dy * i
            if -deep < i <= 0:
                b.box(cx, cy, z, cx + 1, cy + 1, z + height, "")
            b.reserve(cx, cy, z, cx + 1, cy + 1, z + height)
    if leaf:  # folded back against the wall outside
        for k in range(min(height, 2)):
            b.put(x + dx - wx, y + dy - wy, z + k, f"leaf{BACK[side]}:{leaf}")
            b.put(x + dx + wx * width, y + dy + wy * width, z + k, f"leaf{BACK[side]}:{leaf}")


def _against(b: Builder, x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int, str]]:
    """Cells along the inside of a room's walls, with the side of the wall, in random order; corners left out."""
    cells = [(x, y0, "-y") for x in range(x0 + 1, x1 - 1)] + [(x, y1 - 1, "+y") for x in range(x0 + 1, x1 - 1)]
    cells += [(x0, y, "-x") for y in range(y0 + 1, y1 - 1)] + [(x1 - 1, y, "+x") for y in range(y0 + 1, y1 - 1)]
    return [cells[int(i)] for i in b.rng.permutation(len(cells))]


def furnish(b: Builder, kind: str, x0: int, y0: int, x1: int, y1: int, z: int) -> None:
    """Fill a room (free cells x0 to x1 - 1, y0 to y1 - 1, floor below z) with furniture of a kind."""
    wood = b.some(b.palette.woods, 3)
    wool = b.some(b.palette.wools, 6)
    spots = _against(b, x0, y0, x1, y1)
    corners = [(x0, y0), (x0, y1 - 1), (x1 - 1, y0), (x1 - 1, y1 - 1)]
    mid = ((x0 + x1) // 2, (y0 + y1) // 2)

    def along_walls(names: list[str], limit: int, high: int = 1) -> None:
        done = 0
        for x, y, side in spots:
            if done == limit:
                return
            name = names[done % len(names)].replace("?", BACK[side]).replace("!", side)
            done += b.place_all([(x, y, z + k, name) for k in range(high)])

    if kind == "bedroom":
        beds = 0
        for x, y, side in spots:
            dx, dy = STEP[BACK[side]]
            cells = [(x, y, z, "bed:white"), (x + dx, y + dy, z, f"bed:{wool}")]
            wx, wy = abs(dy), abs(dx)
            cells += [(x + wx, y + wy, z, "bed:white"), (x + wx + dx, y + wy + dy, z, f"bed:{wool}")]
            if beds < 1 and b.place_all(cells):
                beds += 1
                if b.place(x - wx, y - wy, z, f"stool:{wood}"):
                    b.put(x - wx, y - wy, z + 1, "candle:flame")
        along_walls(["drawers", "books_dark"], 2)
        along_walls([f"counter:{wood}"], 1)
    elif kind == "kitchen":
        side = spots[0][2]
        row = sorted(s for s in spots if s[2] == side)
        names = ["cupboard", "stove", "sink", "cupboard", "drawers", "cupboard", "barrel", "crate"]
        for i, (x, y, _) in enumerate(row[:8]):
            if b.place(x, y, z, names[i]):
                b.place(x, y, z + 2, f"shelf{side}:{wood}")
        if b.place(*mid, z, f"table:{wood}"):
            b.put(*mid, z + 1, "potted:pot")
            for facing, (dx, dy) in STEP.items():
                b.place(mid[0] + dx, mid[1] + dy, z, f"chair{BACK[facing]}:{wood}")
    elif kind == "study":
        along_walls(["books_oak" if wood != "dark" else "books_dark"], 6, 2)
        for x, y, side in spots:
            dx, dy = STEP[BACK[side]]
            if b.place_all([(x, y, z, f"table:{wood}"), (x + dx, y + dy, z, f"chair{side}:{wood}")]):
                b.put(x, y, z + 1, "candle:flame")
                break
        _rug(b, x0 + 1, y0 + 1, x1 - 1, y1 - 1, z)
    elif kind == "dining":
        long_x = x1 - x0 >= y1 - y0
        length = min(max(x1 - x0, y1 - y0) - 4, 5)
        for i in range(length):
            s = i - length // 2
            x, y = (mid[0] + s, mid[1]) if long_x else (mid[0], mid[1] + s)
            if b.place(x, y, z, f"board:{wood}"):
                if i % 2 == 0:
                    b.put(x, y, z + 1, "candle:flame" if i % 4 == 0 else "potted:pot")
                for facing in ("+y", "-y") if long_x else ("+x", "-x"):
                    dx, dy = STEP[facing]
                    b.place(x + dx, y + dy, z, f"chair{BACK[facing]}:{wood}")
        along_walls(["cupboard", "drawers"], 3)
    elif kind == "living":
        for x, y, side in spots:
            wx, wy = (0, 1) if side[1] == "x" else (1, 0)
            if b.place_all([(x + wx * i, y + wy * i, z, f"sofa{BACK[side]}:{wool}") for i in range(3)]):
                break
        _rug(b, mid[0] - 2, mid[1] - 1, mid[0] + 2, mid[1] + 2, z)
        along_walls(["books_oak", "drawers", "potted:pot"], 3)
    else:  # a store room
        along_walls(["crate", "barrel", "crate"], 7)
        for x, y, _ in spots[:6]:
            if b.at(x, y, z) == b.id("crate"):
                b.place(x, y, z + 1, b.pick("crate", "lantern:lamp"))
    for x, y in corners:
        if b.chance(0.5):
            b.place(x, y, z, b.pick("potted:pot", "barrel" if kind == "store" else f"plinth:{wood}", "potted:pot"))
    tries = 0
    for x, y, side in spots:
        if tries < 2 and b.free(x, y, z + 1):
            tries += b.paint(x, y, z + 1, side, (1, 1) if b.chance(0.5) else (2, 1)) > 0


def _rug(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int) -> None:
    name = b.pick("rug_red", "rug_blue", "rug_green", "rug_purple")
    for x in range(x0, x1):
        for y in range(y0, y1):
            if b.at(x, y, z) == 0:
                b.put(x, y, z, f"carpet:{name}")


def cottage(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, side: str, room: str, storeys: int = 1) -> None:
    """A furnished house one can enter; z is the first free cell, `side` the side of its door.

    With two storeys a straight flight of stairs leads up along a wall.
    """
    p = b.palette
    wall, floor = b.some(p.walls, 9), b.some(p.floors, 6)
    roof, wood = b.some(p.roofs, 4), b.some(p.woods, 3)
    corner = b.pick("log", "dark_log", "stone_bricks", "birch_log")
    b.box(x0 - 1, y0 - 1, z, x1 + 1, y1 + 1, b.blocks.shape[2], "")
    b.box(x0, y0, z - 1, x1, y1, z, floor)
    top = z
    for storey in range(storeys):
        b.walls(x0, y0, top, x1, y1, top + 4, wall if storey == 0 or b.chance(0.5) else b.some(p.walls, 9))
        b.box(x0, y0, top + 3, x1, y1, top + 4, wood)
        for x in (x0, x1 - 1):
            for y in (y0, y1 - 1):
                b.box(x, y, top, x + 1, y + 1, top + 4, corner)
        b.put((x0 + x1) // 2, (y0 + y1) // 2, top + 2, "ceiling:lamp")
        kind = b.pick("lattice", "lattice", "bars")
        frame = b.pick("birch", "dark", "white")
        for y, out in ((y0, -1), (y1 - 1, 1)):
            for x in range(x0 + 2, x1 - 3, 4):
                window(b, x, y, top + 1, "x", 2, 1, kind, frame)
                if storey == 0 and b.chance(0.6):
                    for i in range(2):
                        b.place(x + i, y + out, top, "potted:pot")
        for x in (x0, x1 - 1):
            for y in range(y0 + 2, y1 - 3, 4):
                window(b, x, y, top + 1, "y", 2, 1, kind, frame)
        top += 4
    mid_x, mid_y = (x0 + x1) // 2 - 1, (y0 + y1) // 2 - 1
    at = {"-x": (x0, mid_y), "+x": (x1 - 1, mid_y), "-y": (mid_x, y0), "+y": (mid_x, y1 - 1)}[side]
    doorway(b, *at, z, side, 2, 2, 1, f"door_{b.pick('oak', 'mahogany', 'teal_wood', 'dark')}")
    if storeys > 1:  # stairs along the wall across from the door
        _inner_stairs(b, x0, y0, x1, y1, z, side, wood)
    for storey in range(storeys):
        kind = room if storey == 0 else "bedroom"
        furnish(b, kind, x0 + 1, y0 + 1, x1 - 1, y1 - 1, z + 4 * storey)
    gable_roof(b, x0, y0, x1, y1, top, roof, wall)


def _inner_stairs(b: Builder, x0: int, y0: int, x1: int, y1: int, z: int, side: str, wood: str) -> None:
    """Four steps up along the wall across from the door, with an opening in the ceiling."""
    if side[1] == "y":
        y = y1 - 3 if side == "-y" else y0 + 1
        b.flight(x0 + 2, y, z, "+x", 4, 2, wood)
        b.reserve(x0 + 1, y, z, x0 + 2, y + 2, z + 3)
        b.reserve(x0 + 6, y, z + 4, x1 - 1, y + 2, z + 7)
    else:
        x = x1 - 3 if side == "-x" else x0 + 1
        b.flight(x, y0 + 2, z, "+y", 4, 2, wood)
        b.reserve(x, y0 + 1, z, x + 2, y0 + 2, z + 3)
        b.reserve(x, y0 + 6, z + 4, x + 2, y1 - 1, z + 7)
