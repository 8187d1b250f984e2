"""Galleries: rooms of many colours with paintings, sculptures, benches, skylights and gardens in courtyards."""

from context_as_memory.data.voxel.styles.builder import Builder
from context_as_memory.data.voxel.styles.parts import any_tree, flora, lamp_post
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (72, 72, 24)
FLOOR = 3  # the first free cell above the floor
SMALLEST = 9  # side of a room with its walls

Room = tuple[int, int, int, int]


def build(seed: int) -> VoxelWorld:
    b = Builder("gallery", seed, SIZE)
    p = b.palette
    b.box(0, 0, 0, *SIZE[:2], FLOOR - 1, "dirt")
    b.box(0, 0, FLOOR - 1, *SIZE[:2], FLOOR, p.biome.ground)
    low, high = 7, SIZE[0] - 7
    b.box(low - 2, low - 2, FLOOR - 1, high + 2, high + 2, FLOOR, p.biome.path)
    rooms = _split(b, (low, low, high, high))
    court = _court(b, rooms)
    for i, room in enumerate(rooms):
        _shell(b, room, i, i == court)
    _links(b, rooms, court)
    for i, room in enumerate(rooms):
        if i == court:
            _garden(b, room)
        else:
            _show(b, room)
    _entrances(b, rooms, low, high)
    _outside(b, low, high)
    x0, y0, x1, y1 = rooms[court]
    b.home = (x0 + 2.5, (y0 + y1) / 2 + 0.5)
    return b.finish()


def _split(b: Builder, room: Room) -> list[Room]:
    """Halve rooms at random until they are small."""
    x0, y0, x1, y1 = room
    w, d = x1 - x0, y1 - y0
    if max(w, d) < 2 * SMALLEST or (max(w, d) <= 19 and b.chance(0.45)):
        return [room]
    if w > d or (w == d and b.chance(0.5)):
        cut = x0 + b.between(SMALLEST, w - SMALLEST)
        return _split(b, (x0, y0, cut, y1)) + _split(b, (cut, y0, x1, y1))
    cut = y0 + b.between(SMALLEST, d - SMALLEST)
    return _split(b, (x0, y0, x1, cut)) + _split(b, (x0, cut, x1, y1))


def _court(b: Builder, rooms: list[Room]) -> int:
    """The large room nearest to the middle becomes a garden open to the sky."""
    middle = SIZE[0] / 2

    def badness(room: Room) -> float:
        x0, y0, x1, y1 = room
        return abs((x0 + x1) / 2 - middle) + abs((y0 + y1) / 2 - middle) - 0.8 * min(x1 - x0, y1 - y0)

    return min(range(len(rooms)), key=lambda i: badness(rooms[i]))


def _shell(b: Builder, room: Room, index: int, court: bool) -> None:
    """Walls, floor, ceiling and lamps of a room, in colours of its own."""
    p = b.palette
    x0, y0, x1, y1 = room
    wall = p.rooms[index % len(p.rooms)]
    high = b.between(4, 7) if min(x1 - x0, y1 - y0) > 10 else b.between(4, 5)
    b.walls(x0, y0, FLOOR, x1, y1, FLOOR + 8, wall)
    if wall.startswith("panel"):  # a wainscot stands on the floor only
        plain = {"panel_cream": "plaster_cream"}.get(wall, wall.replace("panel", "plaster"))
        b.walls(x0, y0, FLOOR + 1, x1, y1, FLOOR + 8, plain)
    if court:
        b.walls(x0, y0, FLOOR + 5, x1, y1, FLOOR + 8, "")
        return
    floor = p.floors[index % len(p.floors)]
    b.box(x0, y0, FLOOR - 1, x1, y1, FLOOR, floor)
    if b.chance(0.4):  # a border in another floor
        b.walls(x0 + 1, y0 + 1, FLOOR - 1, x1 - 1, y1 - 1, FLOOR, p.floors[(index + 5) % len(p.floors)])
    ceiling = FLOOR + high
    b.box(x0, y0, ceiling, x1, y1, ceiling + 1, b.pick("plaster", "birch", "white", "marble", "oak"))
    b.box(x0, y0, ceiling + 1, x1, y1, FLOOR + 12, "")
    b.walls(x0, y0, ceiling, x1, y1, ceiling + 1, wall if not wall.startswith("panel") else "plaster")
    kind = b.between(0, 2)
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    if kind == 0:  # a skylight
        b.box(cx - 2, cy - 2, ceiling, cx + 2, cy + 2, ceiling + 1, "glass")
        for x, y in ((x0 + 2, y0 + 2), (x1 - 3, y1 - 3), (x0 + 2, y1 - 3), (x1 - 3, y0 + 2)):
            b.put(x, y, ceiling, "lamp")
    elif kind == 1:  # a grid of lamps
        for x in range(x0 + 2, x1 - 2, 4):
            for y in range(y0 + 2, y1 - 2, 4):
                b.put(x, y, ceiling, "lamp")
    else:  # hanging lamps
        for x in range(x0 + 3, x1 - 2, 5):
            for y in range(y0 + 3, y1 - 2, 5):
                b.put(x, y, ceiling - 1, "hanging:lamp")


def _links(b: Builder, rooms: list[Room], court: int) -> None:
    """Doorways between neighbours: all rooms are linked, and some more than once, so that walks can go in rings."""
    parent = list(range(len(rooms)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    pairs = [(i, j) for i in range(len(rooms)) for j in range(i + 1, len(rooms))]
    for k in b.rng.permutation(len(pairs)):
        i, j = pairs[int(k)]
        again = root(i) == root(j)
        if again and not b.chance(0.6) and court not in (i, j):
            continue
        if _cut(b, rooms[i], rooms[j]):
            parent[root(i)] = root(j)


def _cut(b: Builder, one: Room, two: Room) -> bool:
    """A doorway through the two walls between neighbours; False if they do not touch enough."""
    for a, c in ((one, two), (two, one)):
        if a[2] == c[0]:  # a lies before c along x
            low, high = max(a[1], c[1]) + 2, min(a[3], c[3]) - 2
            if high - low >= 3:
                width = 3 if high - low >= 5 and b.chance(0.5) else 2
                y = b.between(low, high - width)
                b.box(a[2] - 1, y, FLOOR, a[2] + 1, y + width, FLOOR + 3, "")
                b.reserve(a[2] - 3, y - 1, FLOOR, a[2] + 3, y + width + 1, FLOOR + 4)
                return True
        if a[3] == c[1]:
            low, high = max(a[0], c[0]) + 2, min(a[2], c[2]) - 2
            if high - low >= 3:
                width = 3 if high - low >= 5 and b.chance(0.5) else 2
                x = b.between(low, high - width)
                b.box(x, a[3] - 1, FLOOR, x + width, a[3] + 1, FLOOR + 3, "")
                b.reserve(x - 1, a[3] - 3, FLOOR, x + width + 1, a[3] + 3, FLOOR + 4)
                return True
    return False


def _show(b: Builder, room: Room) -> None:
    """Paintings on the walls, and sculptures, benches or plants in the middle."""
    x0, y0, x1, y1 = room
    for wall, fixed, start, end in (
        ("-x", x0 + 1, y0 + 2, y1 - 2),
        ("+x", x1 - 2, y0 + 2, y1 - 2),
        ("-y", y0 + 1, x0 + 2, x1 - 2),
        ("+y", y1 - 2, x0 + 2, x1 - 2),
    ):
        at = start
        while at < end - 1:
            x, y = (fixed, at) if wall[1] == "x" else (at, fixed)
            size = [(2, 2), (3, 2), (1, 1), (2, 1), (1, 2)][b.between(0, 4)]
            if at + size[0] <= end:
                at += b.paint(x, y, FLOOR + 1, wall, size)
            at += b.between(1, 2)  # a little wall between them
    long_x, long_y = x1 - x0 >= 15, y1 - y0 >= 15
    for cx in (x0 + (x1 - x0) // 4 + 1, x1 - (x1 - x0) // 4 - 1) if long_x else ((x0 + x1) // 2,):
        for cy in (y0 + (y1 - y0) // 4 + 1, y1 - (y1 - y0) // 4 - 1) if long_y else ((y0 + y1) // 2,):
            _exhibit(b, room, cx, cy)
    for x, y in ((x0 + 1, y0 + 1), (x1 - 2, y1 - 2), (x0 + 1, y1 - 2), (x1 - 2, y0 + 1)):
        if b.chance(0.4):
            b.place(x, y, FLOOR, "potted:pot")


def _exhibit(b: Builder, room: Room, cx: int, cy: int) -> None:
    """What stands around a point of a room."""
    x0, y0, x1, y1 = room
    kind = b.between(0, 6)
    if kind == 0:
        sculpture(b, cx, cy, FLOOR)
    elif kind == 6:
        _stage(b, cx, cy)
    elif kind == 1:
        for dx, dy in ((-2, -2), (2, -2), (-2, 2), (2, 2)):
            if min(x1 - x0, y1 - y0) > 9:
                sculpture(b, cx + dx, cy + dy, FLOOR)
    elif kind == 2:
        for i in range(-1, 2):
            b.place(cx, cy + i, FLOOR, "bench+x:oak")
            b.place(cx - 1, cy + i, FLOOR, "bench-x:oak")
    elif kind == 3:
        rug = b.pick("rug_red", "rug_blue", "rug_green", "rug_purple")
        for i in range(-2, 2):
            for j in range(-2, 2):
                b.place(cx + i, cy + j, FLOOR, f"carpet:{rug}")
    elif kind == 4:
        material = b.pick("marble", "marble_dark", "sandstone", "stone_bricks")
        for x in (x0 + 3, x1 - 4):
            for y in (y0 + 3, y1 - 4):
                z = FLOOR
                while b.free(x, y, z):
                    b.put(x, y, z, f"{'base' if z == FLOOR else 'pillar'}:{material}")
                    z += 1
    else:
        for i in (-1, 1):
            b.place(cx + i, cy, FLOOR, "potted:pot")
            sculpture(b, cx, cy + i * 2, FLOOR)


def _stage(b: Builder, cx: int, cy: int) -> None:
    """A stage of two half steps with a sculpture on top."""
    low, high = b.pick("marble", "birch", "tile_grey"), b.pick("marble_dark", "mahogany", "marble")
    if all(b.free(x, y, FLOOR) for x in range(cx - 2, cx + 3) for y in range(cy - 2, cy + 3)):
        b.box(cx - 2, cy - 2, FLOOR, cx + 3, cy + 3, FLOOR + 1, f"slab:{low}")
        b.box(cx - 1, cy - 1, FLOOR, cx + 2, cy + 2, FLOOR + 1, high)
        sculpture(b, cx, cy, FLOOR + 1)


def sculpture(b: Builder, x: int, y: int, z: int) -> None:
    """A thing on a plinth, or a stack of colours."""
    if not all(b.free(x, y, z + k) for k in range(3)):
        return
    wool = b.palette.wools
    kind = b.between(0, 4)
    b.put(x, y, z, f"plinth:{b.pick('marble', 'marble_dark', 'stone_bricks')}")
    if kind == 0:
        b.put(x, y, z + 1, f"orb:{b.some(wool, 8)}")
    elif kind == 1:
        b.put(x, y, z + 1, f"shard:{b.pick('crystal_blue', 'crystal_pink', 'crystal_green')}")
    elif kind == 2:
        b.put(x, y, z + 1, f"pillar:{b.some(wool, 8)}")
        b.put(x, y, z + 2, f"orb:{b.some(wool, 8)}")
    elif kind == 3:
        b.put(x, y, z + 1, "orb:gold")
    else:
        b.put(x, y, z, f"hedge:{b.some(wool, 8)}")
        b.put(x, y, z + 1, f"pillar:{b.some(wool, 8)}")
        b.put(x, y, z + 2, f"post:{b.some(wool, 8)}")


def _garden(b: Builder, room: Room) -> None:
    """A garden in a courtyard: a pool, hedges, trees and flowers."""
    p = b.palette
    x0, y0, x1, y1 = room
    b.box(x0, y0, FLOOR - 1, x1, y1, FLOOR, p.biome.path)
    b.box(x0 + 3, y0 + 3, FLOOR - 1, x1 - 3, y1 - 3, FLOOR, p.biome.ground)
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    b.box(cx - 2, cy - 2, FLOOR - 1, cx + 2, cy + 2, FLOOR, "marble")
    b.box(cx - 2, cy - 2, FLOOR, cx + 2, cy + 2, FLOOR + 1, "slab:marble")
    b.box(cx - 1, cy - 1, FLOOR, cx + 1, cy + 1, FLOOR + 1, "")
    b.box(cx - 1, cy - 1, FLOOR - 1, cx + 1, cy + 1, FLOOR, "water")
    for x, y in ((x0 + 4, y0 + 4), (x1 - 5, y1 - 5), (x0 + 4, y1 - 5), (x1 - 5, y0 + 4)):
        if b.chance(0.7) and abs(x - cx) > 2:
            any_tree(b, x, y, FLOOR)
    for x in range(x0 + 3, x1 - 3):
        for y in range(y0 + 3, y1 - 3):
            if b.chance(0.25):
                flora(b, x, y, FLOOR)


def _entrances(b: Builder, rooms: list[Room], low: int, high: int) -> None:
    """Doors to the lawn on all four sides, and windows along the outer walls."""
    for x0, y0, x1, y1 in rooms:
        for wall, edge, fixed, start, end in (
            ("x", y0 == low, y0, x0, x1), ("x", y1 == high, y1 - 1, x0, x1),
            ("y", x0 == low, x0, y0, y1), ("y", x1 == high, x1 - 1, y0, y1),
        ):  # fmt: skip
            if not edge:
                continue
            middle = (start + end) // 2
            for at in range(start + 2, end - 3):
                x, y = (at, fixed) if wall == "x" else (fixed, at)
                inner = [(x, y + s) if wall == "x" else (x + s, y) for s in (-1, 1)]
                taken = any(b.at(ix, iy, FLOOR + k) for ix, iy in inner for k in range(4))
                if abs(at - middle) < 2 and (start + fixed) % 2:
                    b.box(x, y, FLOOR, x + 1, y + 1, FLOOR + 3, "")
                    for ix, iy in inner:
                        b.box(ix, iy, FLOOR, ix + 1, iy + 1, FLOOR + 3, "")
                elif not taken and (at - start) % 5 != 4:
                    for k in (1, 2):
                        b.put(x, y, FLOOR + k, f"pane_{wall}:glass")


def _outside(b: Builder, low: int, high: int) -> None:
    """The lawn: flowers, trees, lamps and a tall hedge around the world."""
    for k in range(3):
        b.walls(
            0,
            0,
            FLOOR + k,
            SIZE[0],
            SIZE[1],
            FLOOR + k + 1,
            "leaves_dark" if b.palette.biome.name != "snow" else "leaves_snow",
        )
    for x in range(2, SIZE[0] - 2):
        for y in range(2, SIZE[1] - 2):
            if low - 3 < x < high + 2 and low - 3 < y < high + 2:
                continue
            if (
                b.chance(0.02)
                and 3 < x < SIZE[0] - 4
                and 3 < y < SIZE[1] - 4
                and not low - 3 < x < high + 2
                or b.chance(0.02)
                and 3 < x < SIZE[0] - 4
                and 3 < y < SIZE[1] - 4
                and not low - 3 < y < high + 2
            ):
                any_tree(b, x, y, FLOOR)
            elif b.chance(0.10):
                flora(b, x, y, FLOOR)
    for s in range(low, high, 9):
        for x, y in ((s, low - 3), (s, high + 2), (low - 3, s), (high + 2, s)):
            lamp_post(b, x, y, FLOOR)
