"""Caves and ruins: caverns of different rock linked by tunnels, each with a scene of its own."""

import numpy as np

from context_as_memory.data.voxel.styles.builder import STEP, Builder
from context_as_memory.data.voxel.styles.parts import flora, hills, tree
from context_as_memory.data.voxel.world import VoxelWorld

SIZE = (78, 78, 30)
GRID = 3  # caverns along each side
ROCKS = (
    "stone",
    "sandstone",
    "basalt",
    "mossy",
    "rock",
    "brick_dark",
    "cobble",
    "stone_bricks",
    "ice_rock",
    "brick_blue",
    "brick_orange",
)
FLOORS = {
    "stone": "gravel",
    "sandstone": "sand",
    "basalt": "marble_dark",
    "mossy": "grass",
    "rock": "dirt",
    "brick_dark": "tile_warm",
    "cobble": "path",
    "stone_bricks": "tile_grey",
    "ice_rock": "snow",
    "brick_blue": "tile_blue",
    "brick_orange": "brick_sand",
}


class Hall:
    """A cavern: its middle, radius, floor in metres, rock and floor."""

    def __init__(self, b: Builder, i: int, j: int, rock: str) -> None:
        cell = SIZE[0] / GRID
        self.x = int(i * cell + cell / 2 + b.between(-3, 3))
        self.y = int(j * cell + cell / 2 + b.between(-3, 3))
        self.radius = b.between(8, 10)
        self.floor = 6.0 + b.between(0, 6) / 2
        self.high = b.between(6, 10)
        self.rock = "ice" if rock == "ice_rock" else rock
        self.ground = FLOORS[rock]


def build(seed: int) -> VoxelWorld:
    b = Builder("cave", seed, SIZE)
    order = [ROCKS[int(k)] for k in b.rng.permutation(len(ROCKS))]
    halls = [Hall(b, k // GRID, k % GRID, order[k]) for k in range(GRID * GRID)]
    for hall in halls:
        if hall.rock == "ice":
            hall.rock = "brick_white"
    x, y = np.mgrid[: SIZE[0], : SIZE[1]]
    near = np.stack([((x - h.x) ** 2 + (y - h.y) ** 2).astype(float) for h in halls])
    near += 60 * hills(b.rng, SIZE[:2], 12)
    zone = near.argmin(0)
    floor, roof = _carve(b, halls)
    _fill(b, halls, zone, floor, roof)
    scenes = [_SCENES[int(k)] for k in b.rng.permutation(len(_SCENES))]
    for k, hall in enumerate(halls):
        scenes[k % len(scenes)](b, hall)
    _lights(b, halls, floor, roof)
    home = next(h for h, s in zip(halls, scenes, strict=False) if s is _skylight)
    b.home = (home.x + 2.5, home.y + 0.5)
    return b.finish()


def _carve(b: Builder, halls: list[Hall]) -> tuple[np.ndarray, np.ndarray]:
    """Heights of floor and roof, float64 [X, Y]; where they are equal there is rock."""
    x, y = np.mgrid[: SIZE[0], : SIZE[1]]
    floor, roof = np.zeros(SIZE[:2]), np.zeros(SIZE[:2])
    wobble = hills(b.rng, SIZE[:2], 13)
    links = []
    for i in range(GRID):
        for j in range(GRID):
            if i + 1 < GRID:
                links.append((i * GRID + j, (i + 1) * GRID + j))
            if j + 1 < GRID:
                links.append((i * GRID + j, i * GRID + j + 1))
    keep = b.rng.random(len(links))
    parent = list(range(len(halls)))

    def root(n: int) -> int:
        while parent[n] != n:
            n = parent[n]
        return n

    for k in b.rng.permutation(len(links)):
        one, two = links[int(k)]
        if root(one) == root(two) and keep[k] > 0.55:
            continue
        parent[root(one)] = root(two)
        a, c = halls[one], halls[two]
        steps = 2 * (abs(a.x - c.x) + abs(a.y - c.y))
        side = b.between(-4, 4)
        for s in range(steps + 1):
            t = s / steps
            bend = side * 4 * t * (1 - t)
            cx = a.x + (c.x - a.x) * t + (bend if a.x // 20 == c.x // 20 else 0)
            cy = a.y + (c.y - a.y) * t + (0 if a.x // 20 == c.x // 20 else bend)
            share = min(max((t - 0.3) / 0.4, 0.0), 1.0)
            level = round((a.floor + (c.floor - a.floor) * share) * 2) / 2
            disc = (x - cx) ** 2 + (y - cy) ** 2 < 3.4
            new = disc & (roof == 0)
            floor[new] = level
            roof[new] = level + 4
    for h in halls:
        away = np.sqrt((x - h.x) ** 2 + (y - h.y) ** 2) / (h.radius * (0.78 + 0.44 * wobble))
        inside = away < 1
        floor[inside] = h.floor
        roof[inside] = np.floor(h.floor + 3.5 + (h.high - 3) * np.sqrt(np.clip(1 - away[inside] ** 2, 0, 1)))
    edge = (x < 3) | (y < 3) | (x > SIZE[0] - 4) | (y > SIZE[1] - 4)
    floor[edge] = roof[edge] = 0
    return floor, roof


def _fill(b: Builder, halls: list[Hall], zone: np.ndarray, floor: np.ndarray, roof: np.ndarray) -> None:
    z = np.arange(SIZE[2])
    halves = np.floor(floor * 2).astype(int)[..., None]
    for k, hall in enumerate(halls):
        here = (zone == k)[..., None]
        b.blocks[here & (z < 26)] = b.id(hall.rock)
        open_ = here & (roof > floor)[..., None]
        b.blocks[open_ & (z == halves // 2 - 1)] = b.id(hall.ground)
        b.blocks[open_ & (z >= halves // 2) & (z < roof.astype(int)[..., None])] = 0
        b.blocks[open_ & (z == halves // 2) & (halves % 2 == 1)] = b.id(f"slab:{hall.ground}")
    b.blocks[..., 26] = b.id("grass")
    x, y = np.mgrid[: SIZE[0], : SIZE[1]]
    b.blocks[(x + y) % 2 == 0, 27] = b.id("leaves")  # scrub: nobody walks up there


def _base(h: Hall) -> int:
    """The first cell wholly above the floor of a hall."""
    return int(np.ceil(h.floor))


def _level(b: Builder, h: Hall, x: int, y: int) -> bool:
    """Whether a cell of a hall is free to stand things on, on its level floor."""
    z = _base(h)
    below = b.at(x, y, int(np.ceil(h.floor)) - 1)
    return b.free(x, y, z) and below in (b.id(h.ground), b.id(f"slab:{h.ground}"))


def _even(b: Builder, h: Hall) -> int:
    """Make a hall's floor whole metres (half steps up at its edge stay), and return the first free cell."""
    z = int(np.floor(h.floor))
    if h.floor != z:
        slab = b.id(f"slab:{h.ground}")
        part = b.blocks[max(h.x - 5, 0) : h.x + 6, max(h.y - 5, 0) : h.y + 6, z]
        part[part == slab] = 0
    return z


def _skylight(b: Builder, h: Hall) -> None:
    """The roof has fallen in: sky above, a tree and flowers below."""
    z = _even(b, h)
    for dx in range(-6, 7):
        for dy in range(-6, 7):
            r = dx * dx + dy * dy
            if r < 26:
                x, y = h.x + dx, h.y + dy
                b.box(x, y, z + 3, x + 1, y + 1, SIZE[2], "")
                if r < 17:
                    b.put(x, y, z - 1, "grass")
                    if b.chance(0.4) and r > 1:
                        flora(b, x, y, z)
    tree(b, h.x, h.y, z, "log", b.pick("leaves", "leaves_pink", "leaves_orange"))


def _crystals(b: Builder, h: Hall) -> None:
    """Glowing crystals on floor and walls."""
    z = _base(h)
    colours = [f"crystal_{c}" for c in ("blue", "pink", "green")]
    main = b.pick(*colours)
    for _ in range(46):
        dx, dy = b.between(-8, 8), b.between(-8, 8)
        x, y = h.x + dx, h.y + dy
        if dx * dx + dy * dy > 9 and _level(b, h, x, y):
            b.put(x, y, z, f"shard:{main if b.chance(0.75) else b.pick(*colours)}")
            if b.chance(0.25):
                b.put(x, y, z, main)
                b.put(x, y, z + 1, f"shard:{main}")


def _lake(b: Builder, h: Hall) -> None:
    """Dark water with a wooden bridge and lanterns."""
    z = _even(b, h)
    for dx in range(-5, 6):
        for dy in range(-5, 6):
            if dx * dx + dy * dy < 28:
                x, y = h.x + dx, h.y + dy
                if abs(dy) < 1 or dy == 1:
                    b.put(x, y, z - 1, "oak")
                    b.reserve(x, y, z, x + 1, y + 1, z + 3)
                else:
                    b.box(x, y, z - 3, x + 1, y + 1, z, "water")
                    b.put(x, y, z - 4, "crystal_blue" if (dx + dy) % 3 == 0 else "sand")
                    b.put(x, y, z - 1, "water")
    for dx in range(-4, 5, 4):
        b.put(h.x + dx, h.y - 1, z, "post:oak")
        b.put(h.x + dx, h.y - 1, z + 1, "lantern:lamp")
        b.put(h.x + dx, h.y - 1, z - 1, "oak")


def _lava(b: Builder, h: Hall) -> None:
    """A pool of lava behind a low wall."""
    z = _even(b, h)
    for dx in range(-4, 5):
        for dy in range(-4, 5):
            r = dx * dx + dy * dy
            x, y = h.x + dx, h.y + dy
            if r < 10:
                b.put(x, y, z - 1, "lava")
                b.put(x, y, z - 2, "basalt")
            elif r < 18:
                b.put(x, y, z, "slab:basalt" if (dx + dy) % 2 else "basalt")
    b.box(h.x, h.y, z - 1, h.x + 1, h.y + 1, z + 1, "basalt")
    b.put(h.x, h.y, z + 1, "patch:lava")


def _columns(b: Builder, h: Hall) -> None:
    """A buried temple: rows of columns, a mosaic floor and an altar."""
    z = _even(b, h)
    stone = b.pick("marble", "sandstone", "brick_white")
    for dx in range(-5, 6):
        for dy in range(-5, 6):
            if b.at(h.x + dx, h.y + dy, z) == 0:
                b.put(h.x + dx, h.y + dy, z - 1, "mosaic" if abs(dx) < 2 else "tile_diamond")
    for dx in (-4, -2, 2, 4):
        for dy in (-5, -2, 1, 4):
            if dx in (-2, 2) and dy in (-2, 1):
                continue
            x, y = h.x + dx, h.y + dy
            k = 0
            broken = b.between(2, 4) if b.chance(0.35) else 99
            while b.free(x, y, z + k) and k < broken and k < 12:
                b.put(x, y, z + k, f"{'base' if k == 0 else 'pillar'}:{stone}")
                k += 1
    b.put(h.x, h.y, z, f"plinth:{stone}")
    b.put(h.x, h.y, z + 1, "orb:gold")


def _mine(b: Builder, h: Hall) -> None:
    """Props of wood, crates, barrels and seams of ore."""
    z = _even(b, h)
    for dy in (-4, 0, 4):
        for k in range(4):
            for dx in (-3, 3):
                b.place(h.x + dx, h.y + dy, z + k, "post:oak" if k < 3 else "log")
        for dx in range(-2, 3):
            b.place(h.x + dx, h.y + dy, z + 3, "beam_x:oak")
        b.place(h.x, h.y + dy, z + 2, "hanging:lamp")
    for dy in range(-5, 6):
        if b.at(h.x, h.y + dy, z) == 0:
            b.put(h.x, h.y + dy, z, "carpet:iron")
    for _ in range(14):
        x, y = h.x + b.between(-7, 7), h.y + b.between(-7, 7)
        if abs(x - h.x) > 1 and b.free(x, y, z) and b.at(x, y, z - 1):
            b.put(x, y, z, b.pick("crate", "barrel", "gold", "crate"))


def _mushrooms(b: Builder, h: Hall) -> None:
    """Giant mushrooms that glow."""
    z = _base(h)
    for _ in range(14):
        dx, dy = b.between(-7, 7), b.between(-7, 7)
        x, y = h.x + dx, h.y + dy
        if dx * dx + dy * dy < 6 or not _level(b, h, x, y):
            continue
        cap, high = b.pick("red", "purple", "orange", "cyan"), b.between(2, 4)
        b.box(x, y, z, x + 1, y + 1, z + high, "post:white")
        for i in range(-1, 2):
            for j in range(-1, 2):
                b.place(x + i, y + j, z + high, f"slab:{cap}" if i or j else cap)
        b.place(x + 1, y, z + high - 1, "hanging:lamp")


def _library(b: Builder, h: Hall) -> None:
    """A forgotten library: shelves, carpets and candles."""
    z = _even(b, h)
    rug = b.pick("rug_red", "rug_blue", "rug_green", "rug_purple")
    for dx in range(-2, 3):
        for dy in range(-3, 4):
            if b.free(h.x + dx, h.y + dy, z):
                b.put(h.x + dx, h.y + dy, z, f"carpet:{rug}")
    for dx in (-5, -4, 4, 5):
        for dy in range(-5, 6):
            if dy % 3 and b.free(h.x + dx, h.y + dy, z) and abs(dy) > 1:
                for k in range(b.between(2, 3)):
                    b.place(h.x + dx, h.y + dy, z + k, "books_dark" if dx < 0 else "books_oak")
    b.put(h.x, h.y, z, "table:dark")
    b.put(h.x, h.y, z + 1, "candle:flame")
    b.put(h.x, h.y + 1, z, "chair-y:dark")


def _treasure(b: Builder, h: Hall) -> None:
    """Gold on a stepped platform with banners of stone."""
    z = _even(b, h)
    cloth = b.pick("red", "purple", "blue", "green")
    b.box(h.x - 3, h.y - 3, z, h.x + 4, h.y + 4, z + 1, "slab:marble")
    b.box(h.x - 2, h.y - 2, z, h.x + 3, h.y + 3, z + 1, "marble")
    b.box(h.x - 1, h.y - 1, z + 1, h.x + 2, h.y + 2, z + 2, "slab:gold")
    b.put(h.x, h.y, z + 1, "gold")
    b.put(h.x, h.y, z + 2, f"orb:{cloth}")
    for dx, dy in ((-3, -3), (3, -3), (-3, 3), (3, 3)):
        b.put(h.x + dx, h.y + dy, z, "base:gold")
        b.box(h.x + dx, h.y + dy, z + 1, h.x + dx + 1, h.y + dy + 1, z + 3, "pillar:marble")
        b.put(h.x + dx, h.y + dy, z + 3, "lantern:lamp")
    for _ in range(12):
        x, y = h.x + b.between(-7, 7), h.y + b.between(-7, 7)
        if abs(x - h.x) > 3 and b.free(x, y, z) and b.at(x, y, z - 1):
            b.put(x, y, z, b.pick("crate", "barrel", "slab:gold"))


_SCENES = (_skylight, _crystals, _lake, _lava, _columns, _mine, _mushrooms, _library, _treasure)


def _lights(b: Builder, halls: list[Hall], floor: np.ndarray, roof: np.ndarray) -> None:
    """Torches along the walls of halls and tunnels, and hanging lamps under the roofs."""
    open_ = roof > floor
    solid = b.solid_numbers()
    placed: list[tuple[int, int]] = []
    cells = np.argwhere(open_)
    for k in b.rng.permutation(len(cells)):
        x, y = int(cells[k, 0]), int(cells[k, 1])
        z = int(np.ceil(floor[x, y])) + 2
        if any((x - a) ** 2 + (y - c) ** 2 < 40 for a, c in placed) or not b.free(x, y, z):
            continue
        for side, (dx, dy) in STEP.items():
            if solid[b.at(x + dx, y + dy, z)]:
                b.put(x, y, z, f"torch{side}:flame")
                placed.append((x, y))
                break
    for h in halls:
        for dx, dy in ((-3, -3), (3, 3)):
            z = int(roof[h.x + dx, h.y + dy]) - 1
            if b.free(h.x + dx, h.y + dy, z) and solid[b.at(h.x + dx, h.y + dy, z + 1)]:
                b.put(h.x + dx, h.y + dy, z, "hanging:lamp")
