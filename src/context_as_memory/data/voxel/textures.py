"""Textures of the voxel worlds, drawn by code: 16x16 texels, clear structure, strong colours, little grain.

Only whole numbers, `default_rng` and plain float64 arithmetic are used, and every texture is rounded to uint8, so that
all machines draw the same bytes. Row 0 of a texture is the top of a side face.
"""

import numpy as np

from context_as_memory.data.voxel.world import MIP_LEVELS, TEXELS

Colour = tuple[int, int, int]  # RGB, 0 to 255

BRICKS: dict[str, tuple[Colour, Colour]] = {  # bricks and their mortar
    "brick_red": ((172, 82, 66), (212, 202, 190)),
    "brick_sand": ((222, 196, 136), (176, 148, 98)),
    "brick_blue": ((92, 122, 182), (58, 74, 122)),
    "brick_white": ((232, 229, 222), (182, 180, 174)),
    "brick_grey": ((138, 142, 148), (92, 95, 100)),
    "brick_green": ((98, 152, 112), (62, 98, 74)),
    "brick_dark": ((84, 62, 68), (52, 40, 46)),
    "brick_orange": ((222, 138, 74), (238, 214, 180)),
    "brick_rose": ((222, 158, 158), (246, 226, 222)),
}
PLANKS: dict[str, Colour] = {
    "oak": (186, 142, 86),
    "dark": (96, 66, 42),
    "birch": (222, 206, 156),
    "mahogany": (156, 70, 52),
    "grey_wood": (150, 146, 138),
    "teal_wood": (72, 148, 148),
    "blue_wood": (82, 116, 176),
}
WOOLS: dict[str, Colour] = {
    "red": (204, 48, 48),
    "orange": (240, 138, 44),
    "yellow": (248, 208, 62),
    "lime": (138, 204, 62),
    "green": (52, 138, 72),
    "cyan": (52, 178, 188),
    "sky": (122, 186, 238),
    "blue": (56, 82, 196),
    "purple": (132, 66, 182),
    "pink": (240, 150, 182),
    "white": (240, 238, 232),
    "grey": (142, 144, 150),
    "black": (46, 46, 54),
    "brown": (124, 82, 52),
}
ROOFS: dict[str, Colour] = {
    "roof_red": (190, 74, 54),
    "roof_blue": (70, 96, 158),
    "roof_green": (70, 128, 92),
    "roof_slate": (92, 98, 112),
    "roof_brown": (136, 92, 60),
    "roof_gold": (226, 174, 70),
    "roof_purple": (126, 82, 146),
}
LEAVES: dict[str, Colour] = {
    "leaves": (76, 142, 52),
    "leaves_dark": (44, 100, 66),
    "leaves_light": (138, 184, 62),
    "leaves_orange": (226, 132, 44),
    "leaves_red": (196, 66, 48),
    "leaves_yellow": (236, 196, 62),
    "leaves_pink": (244, 170, 196),
    "leaves_snow": (222, 234, 240),
}
PETALS = ("red", "yellow", "purple", "white", "orange", "sky")
PAINTING_SIZES = (
    (2, 2),
    (1, 1),
    (3, 2),
    (2, 1),
    (2, 2),
    (1, 2),
    (2, 2),
    (3, 2),
    (1, 1),
    (2, 2),
)  # blocks, dealt in turns
PAINTINGS = 40


def painting_size(index: int) -> tuple[int, int]:
    """Width and height of a painting in blocks."""
    return PAINTING_SIZES[index % len(PAINTING_SIZES)]


def _colour(base: Colour | np.ndarray) -> np.ndarray:
    return np.asarray(base, np.float64)


def _soft(rng: np.random.Generator, cells: int = 4) -> np.ndarray:
    """Smooth noise [16,16] in [-1, 1] that tiles."""
    lattice = rng.random((cells, cells)) * 2 - 1
    lattice = np.pad(lattice, ((0, 1), (0, 1)), mode="wrap")
    at = np.arange(TEXELS) * cells / TEXELS
    i = at.astype(int)
    f = at - i
    f = f * f * (3 - 2 * f)
    rows = lattice[i] * (1 - f)[:, None] + lattice[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


def plain(rng: np.random.Generator, base: Colour | np.ndarray, soft: float = 0.05, grain: float = 0.015) -> np.ndarray:
    """A flat colour with soft clouds and very little grain: float64 [16,16,3], 0 to 255."""
    tone = 1 + soft * _soft(rng) + grain * (rng.random((TEXELS, TEXELS)) * 2 - 1)
    return _colour(base) * tone[..., None]


def bricks(
    rng: np.random.Generator, base: Colour, mortar: Colour, height: int = 4, width: int = 8, spread: float = 0.09
) -> np.ndarray:
    """Courses of bricks, each with its own tone, a light upper and a dark lower edge; as `plain`: [16,16,3]."""
    y, x = np.mgrid[:TEXELS, :TEXELS]
    row = y // height
    along = (x + row % 2 * (width // 2)) % TEXELS
    tones = 1 + spread * (rng.random((TEXELS, TEXELS)) * 2 - 1)
    tone = tones[row, along // width]
    tone = tone + 0.07 * (y % height == 0) - 0.08 * (y % height == height - 2)
    texture = plain(rng, base, 0.03, 0.01) * tone[..., None]
    joint = (y % height == height - 1) | (along % width == width - 1)
    return np.where(joint[..., None], plain(rng, mortar, 0.03, 0.01), texture)


def planks(rng: np.random.Generator, base: Colour, boards: int = 4, upright: bool = False) -> np.ndarray:
    """Boards with a dark joint, one butt joint each and a faint grain along the board: [16,16,3]."""
    size = TEXELS // boards
    y, x = np.mgrid[:TEXELS, :TEXELS]
    board = y // size
    tone = (1 + 0.07 * (rng.random(boards) * 2 - 1))[board]
    tone = tone + 0.03 * (rng.random((TEXELS, 4)) * 2 - 1)[y, x // 4]
    tone = tone + 0.05 * (y % size == 0)
    butts = rng.integers(0, TEXELS, boards)[board]
    tone = np.where((y % size == size - 1) | (x == butts), tone * 0.74, tone)
    texture = _colour(base) * tone[..., None]
    return texture.swapaxes(0, 1) if upright else texture


def checker(rng: np.random.Generator, a: Colour, b: Colour, size: int = 8, joint: float = 0.9) -> np.ndarray:
    """Square tiles of two colours with a thin joint: [16,16,3]."""
    y, x = np.mgrid[:TEXELS, :TEXELS]
    texture = np.where(((x // size + y // size) % 2 == 0)[..., None], plain(rng, a, 0.03), plain(rng, b, 0.03))
    edge = (x % size == size - 1) | (y % size == size - 1)
    return texture * np.where(edge, joint, 1.0)[..., None]


def stripes(rng: np.random.Generator, a: Colour, b: Colour, width: int = 4) -> np.ndarray:
    """Upright stripes: [16,16,3]."""
    _, x = np.mgrid[:TEXELS, :TEXELS]
    return np.where((x // width % 2 == 0)[..., None], plain(rng, a, 0.02, 0.01), plain(rng, b, 0.02, 0.01))


def _clusters(
    rng: np.random.Generator, base: Colour, low: float = 0.82, high: float = 1.14, cells: int = 8
) -> np.ndarray:
    """Soft clusters of three tones, as leaves and gravel need them."""
    noise = _soft(rng, cells)
    tone = np.where(noise > 0.28, high, np.where(noise < -0.28, low, 1.0))
    return _colour(base) * (tone + 0.04 * noise)[..., None]


def _panels(rng: np.random.Generator, upper: Colour, wood: Colour) -> np.ndarray:
    """A painted wall above a wooden wainscot."""
    texture = plain(rng, upper, 0.02, 0.01)
    boards = planks(rng, wood, 4, True)
    texture[9:] = boards[9:]
    texture[8] = _colour(wood) * 1.2
    texture[15] = _colour(wood) * 0.7
    return texture


def _roof(rng: np.random.Generator, base: Colour) -> np.ndarray:
    """Overlapping tiles with a shadow under each row."""
    y, x = np.mgrid[:TEXELS, :TEXELS]
    row = y // 4
    along = (x + row % 2 * 2) % TEXELS
    tone = (1 + 0.10 * (rng.random((4, 4)) * 2 - 1))[row, along // 4]
    tone = tone * np.array([0.72, 0.94, 1.06, 1.14])[y % 4] * np.where(along % 4 == 3, 0.88, 1.0)
    return _colour(base) * tone[..., None]


def _log(rng: np.random.Generator, base: Colour, birch: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Bark and the rings of the cut."""
    bark = _colour(base) * (1 + 0.13 * (rng.random(TEXELS) * 2 - 1))[None, :, None] * np.ones((TEXELS, 1, 1))
    bark = bark * (1 + 0.05 * _soft(rng))[..., None]
    if birch:
        for row in rng.integers(0, TEXELS, 5):
            at = int(rng.integers(0, TEXELS - 4))
            bark[row, at : at + 4] = (70, 66, 62)
    y, x = np.mgrid[:TEXELS, :TEXELS]
    ring = np.maximum(np.abs(2 * x - 15), np.abs(2 * y - 15)) // 2
    cut = _colour((206, 170, 112)) * np.where(ring % 2 == 0, 1.0, 0.86)[..., None]
    cut[ring == 7] = _colour(base)
    return bark, cut


def _books(rng: np.random.Generator, wood: Colour) -> np.ndarray:
    """Two shelves of coloured books."""
    texture = planks(rng, wood)
    colours = [_colour(WOOLS[c]) * 0.92 for c in ("red", "blue", "green", "yellow", "brown", "cyan", "purple", "white")]
    for top in (1, 9):
        x = 1
        while x < 15:
            width, short = int(rng.integers(1, 4)), int(rng.integers(0, 2))
            book = colours[int(rng.integers(len(colours)))]
            texture[top : top + 6, x : min(x + width, 15)] = _colour((52, 36, 26))
            texture[top + short : top + 6, x : min(x + width, 15)] = book
            texture[top + short + 1, x : min(x + width, 15)] = book * 0.8 + 40
            x += width
    return texture


# A painting is a function of a canvas's rows, columns and five colours: it returns the index of a colour everywhere.
def _compose(rng: np.random.Generator, motif: int, h: int, w: int) -> np.ndarray:
    """Index of a colour (0 ground, 1 main, 2 second, 3 third, 4 dark) at each texel of a canvas [h, w]."""
    y, x = np.mgrid[:h, :w]
    u, v = (2 * x + 1 - w) / h, (2 * y + 1 - h) / h  # v in [-1, 1], square units
    out = np.zeros((h, w), int)
    cx, cy = float(rng.random() * 0.8 - 0.4), float(rng.random() * 0.5 - 0.5)
    round_ = (u - cx) ** 2 + (v - cy) ** 2
    tri = np.abs(np.mod(u * (1 + rng.random()) + rng.random(), 2.0) - 1)  # a zigzag in [0, 1]
    if motif == 0:  # hills under a sun
        out[round_ < 0.10] = 1
        out[v > 0.7 * tri - 0.2] = 2
        out[v > 0.9 - 0.6 * tri] = 3
    elif motif == 1:  # a boat at sea
        out[v > 0.35] = 2
        out[(v > 0.15) & (v < 0.5) & (np.abs(u - cx) < 0.75 - v)] = 4
        out[(v < 0.12) & (v > -0.8) & (u > cx) & (u - cx < (v + 0.8) * 0.7)] = 1
    elif motif == 2:  # a portrait
        out[(v > 0.45) & (np.abs(u) < 0.2 + v)] = 2
        out[u**2 + (v + 0.1) ** 2 < 0.34] = 1
        out[(u**2 + (v + 0.2) ** 2 < 0.42) & (v < -0.35)] = 4
        out[(np.abs(np.abs(u) - 0.22) < 0.09) & (np.abs(v + 0.1) < 0.08)] = 4
        out[(np.abs(u) < 0.2) & (np.abs(v - 0.2) < 0.06)] = 3
    elif motif == 3:  # fields of colour and black bars
        a, b = cx, cy + 0.4
        out[(u < a) & (v < b)] = 1
        out[(u > a) & (v > b)] = 2
        out[(u > a + 0.5) & (v < b)] = 3
        out[(np.abs(u - a) < 0.08) | (np.abs(v - b) < 0.08) | (np.abs(u - a - 0.5) < 0.08)] = 4
    elif motif == 4:  # rings
        out = (np.sqrt(u**2 + v**2) * 4).astype(int) % 4
    elif motif == 5:  # slanted bands
        out = np.mod((u + v * (1 if cx > 0 else -1) + 4) * 2.0, 4.0).astype(int)
    elif motif == 6:  # a house
        out[v > 0.55] = 2
        out[(np.abs(u) < 0.5) & (v > -0.1) & (v < 0.65)] = 1
        out[(v > -0.7) & (v < -0.05) & (np.abs(u) < v + 0.75)] = 3
        out[(np.abs(u) < 0.13) & (v > 0.25) & (v < 0.65)] = 4
    elif motif == 7:  # a tree
        out[v > 0.6] = 2
        out[(np.abs(u) < 0.12) & (v > 0.1)] = 4
        out[u**2 + (v + 0.2) ** 2 < 0.3] = 1
        out[((u - 0.25) ** 2 + (v + 0.3) ** 2 < 0.03) | ((u + 0.25) ** 2 + (v + 0.05) ** 2 < 0.03)] = 3
    elif motif == 8:  # mountains at night
        out[:] = 4
        out[round_ < 0.08] = 1
        out[v > np.abs(u - cx) - 0.1] = 2
        out[(v > np.abs(u - cx) - 0.1) & (v < 0.2)] = 0
        out[v > 0.7] = 3
    elif motif == 9:  # a flower
        out[(np.abs(u) < 0.08) & (v > 0)] = 3
        for dx, dy in ((0.36, 0.0), (-0.36, 0.0), (0.0, 0.36), (0.0, -0.36)):
            out[(u - dx) ** 2 + (v + 0.2 - dy) ** 2 < 0.09] = 1
        out[u**2 + (v + 0.2) ** 2 < 0.07] = 2
    elif motif == 10:  # a chequer with a disc
        out = ((x // 4 + y // 4) % 2) * 2
        out[u**2 + v**2 < 0.34] = 1
    elif motif == 11:  # a fish
        out[(u**2) * 0.6 + v**2 * 1.8 < 0.28] = 1
        out[(u > 0.5) & (u < 0.9) & (np.abs(v) < (u - 0.45))] = 2
        out[((u + 0.4) ** 2 + (v + 0.08) ** 2) < 0.015] = 4
        out[v > 0.78] = 3
    elif motif == 12:  # squares in squares
        out = (np.maximum(np.abs(u), np.abs(v)) * 4).astype(int) % 4
    elif motif == 13:  # a rainbow
        r = np.sqrt(u**2 + (v - 0.9) ** 2)
        for ring, colour in ((1.5, 1), (1.25, 2), (1.0, 3), (0.75, 0)):
            out[r < ring] = colour
        out[v > 0.75] = 4
    elif motif == 14:  # three triangles
        out[(v > -0.6) & (np.abs(u + 0.3) < (v + 0.6) * 0.5)] = 1
        out[(v > 0.0) & (np.abs(u - 0.4) < v * 0.7)] = 2
        out[(v < 0.2) & (v > -0.8) & (np.abs(u - 0.5) < 0.25 - v * 0.4)] = 3
    else:  # fruit on a table
        out[v > 0.25] = 4
        for dx, colour in ((-0.4, 1), (0.05, 2), (0.45, 3)):
            out[(u - dx) ** 2 + (v - 0.15) ** 2 < 0.07] = colour
        out[(np.abs(u + 0.4) < 0.05) & (np.abs(v + 0.18) < 0.1)] = 4
    return out


def _painting(rng: np.random.Generator, index: int) -> np.ndarray:
    """A framed painting: float64 [16 h, 16 w, 3]."""
    width, height = painting_size(index)
    h, w = height * TEXELS - 4, width * TEXELS - 4
    names = ["red", "orange", "yellow", "lime", "green", "cyan", "sky", "blue", "purple", "pink", "white"]
    picked = [_colour(WOOLS[names[i]]) for i in rng.permutation(len(names))[:4]]
    colours = np.stack([*picked, _colour(((46, 40, 52), (92, 52, 40), (36, 52, 84))[int(rng.integers(3))])])
    inner = colours[_compose(rng, (index * 7 + int(rng.integers(0, 3))) % 16, h, w)]
    frame = _colour(((150, 104, 52), (70, 48, 36), (214, 176, 82), (226, 222, 214))[int(rng.integers(4))])
    canvas = np.ones((h + 4, w + 4, 1)) * frame
    canvas[0], canvas[:, 0] = frame * 1.15, frame * 1.15
    canvas[-1], canvas[:, -1] = frame * 0.75, frame * 0.75
    canvas[2:-2, 2:-2] = inner
    return canvas


def _ground(rng: np.random.Generator) -> dict[str, np.ndarray]:
    t: dict[str, np.ndarray] = {}
    dirt = _clusters(rng, (142, 104, 72), 0.92, 1.06)
    t["dirt"] = dirt
    for name, base in (("grass", (112, 172, 66)), ("grass_autumn", (178, 160, 72)), ("grass_tropic", (86, 182, 92))):
        t[name] = _clusters(rng, base, 0.94, 1.05)
        side = dirt.copy()
        lip = 3 + rng.integers(0, 3, TEXELS)
        side = np.where((np.arange(TEXELS)[:, None] < lip)[..., None], t[name], side)
        t[name + "_side"] = side
    t["snow"] = plain(rng, (238, 244, 250), 0.02, 0.006)
    t["sand"] = plain(rng, (230, 214, 166), 0.04, 0.012)
    t["stone"] = _clusters(rng, (142, 144, 148), 0.94, 1.05, 4)
    side = t["stone"].copy()
    side[:7] = t["snow"][:7]
    t["snow_side"] = side
    t["rock"] = _clusters(rng, (120, 112, 106), 0.9, 1.06, 4)
    t["gravel"] = _clusters(rng, (172, 160, 144), 0.88, 1.08)
    t["path"] = bricks(rng, (196, 178, 146), (158, 142, 114), 8, 8, 0.07)
    t["cobble"] = bricks(rng, (146, 146, 142), (102, 102, 102), 5, 6, 0.12)
    t["mossy"] = np.where((_soft(rng, 4) > 0.15)[..., None], _clusters(rng, (112, 148, 92), 0.95, 1.04), t["cobble"])
    t["stone_bricks"] = bricks(rng, (158, 158, 156), (112, 112, 112), 8, 16, 0.06)
    t["mossy_bricks"] = np.where((_soft(rng, 4) > 0.2)[..., None], plain(rng, (98, 142, 82)), t["stone_bricks"])
    t["sandstone"] = bricks(rng, (234, 214, 158), (196, 170, 114), 8, 16, 0.05)
    carved = t["sandstone"].copy()
    carved[4:12, 3:13] = _colour((206, 178, 118))
    carved[5:11, 4:12] = _colour((244, 226, 174))
    carved[7:9, 6:10] = _colour((64, 130, 160))
    t["carved"] = carved
    t["basalt"] = planks(rng, (82, 82, 94), 4, True)
    t["ice"] = plain(rng, (176, 214, 244), 0.04, 0.01)
    t["water"] = plain(rng, (46, 122, 204), 0.06, 0.0)
    t["lava"] = _clusters(rng, (244, 118, 34), 0.82, 1.15, 4)
    t["soil"] = planks(rng, (112, 76, 50), 4)
    return t


def _built(rng: np.random.Generator) -> dict[str, np.ndarray]:
    t: dict[str, np.ndarray] = {}
    y, x = np.mgrid[:TEXELS, :TEXELS]
    for name, (base, mortar) in BRICKS.items():
        t[name] = bricks(rng, base, mortar)
    for name, base in PLANKS.items():
        t[name] = planks(rng, base)
    t["boards"] = planks(rng, PLANKS["oak"], 4, True)
    for name, base in ROOFS.items():
        t[name] = _roof(rng, base)
    t["thatch"] = planks(rng, (218, 184, 98), 8)
    for name, base, birch in (
        ("log", (116, 86, 54), False),
        ("birch_log", (226, 222, 212), True),
        ("dark_log", (78, 58, 46), False),
        ("palm_log", (176, 144, 100), False),
    ):
        t[name], t[name + "_cut"] = _log(rng, base, birch)
    for name, base in LEAVES.items():
        t[name] = _clusters(rng, base, 0.84, 1.13)
    weave = 1 + 0.025 * ((x // 2 + y // 2) % 2 * 2 - 1)
    for name, base in WOOLS.items():
        t[name] = plain(rng, base, 0.02, 0.0) * weave[..., None]
    for name, a, b in (
        ("blue", (88, 122, 188), (120, 154, 212)),
        ("green", (104, 160, 116), (138, 188, 142)),
        ("red", (186, 80, 80), (212, 116, 106)),
        ("yellow", (238, 206, 116), (248, 228, 160)),
        ("violet", (146, 108, 178), (178, 142, 204)),
        ("teal", (64, 150, 156), (100, 184, 184)),
    ):
        t["paper_" + name] = stripes(rng, a, b)
    for name, base in (
        ("cream", (244, 230, 196)),
        ("mint", (176, 222, 196)),
        ("rose", (240, 186, 184)),
        ("sky", (164, 204, 238)),
        ("peach", (248, 198, 150)),
    ):
        t["panel_" + name] = _panels(rng, base, PLANKS["oak" if name in ("cream", "mint", "sky") else "dark"])
        t["plaster_" + name] = plain(rng, base, 0.02, 0.008)
    t["plaster"] = plain(rng, (240, 236, 226), 0.02, 0.006)
    beam = _colour((94, 66, 44))
    t["timber"] = t["plaster"].copy()
    t["timber"][(x < 2) | (x > 13) | (y < 2) | (y > 13)] = beam
    t["timber_cross"] = t["timber"].copy()
    t["timber_cross"][np.abs(x - y) < 2] = beam
    t["timber_cross"][np.abs(x + y - 15) < 2] = beam
    for name, a, b in (
        ("tile_black", (238, 236, 230), (58, 60, 70)),
        ("tile_warm", (206, 166, 122), (158, 112, 78)),
        ("tile_blue", (236, 240, 244), (82, 132, 196)),
        ("tile_green", (232, 238, 222), (92, 156, 118)),
        ("tile_red", (240, 226, 206), (188, 84, 72)),
        ("tile_grey", (190, 192, 196), (150, 154, 160)),
    ):
        t[name] = checker(rng, a, b)
    t["tile_diamond"] = np.where(
        (np.abs(x - 7.5) + np.abs(y - 7.5) < 6)[..., None], plain(rng, (70, 120, 172)), plain(rng, (240, 232, 214))
    )
    t["mosaic"] = np.stack(
        [_colour(WOOLS[c]) for c in ("cyan", "white", "sky", "yellow", "white", "cyan", "orange", "white")]
    )[(x // 4 + y // 4 * 3) % 8]
    veins = np.abs(_soft(rng, 4)) < 0.09
    t["marble"] = np.where(veins[..., None], _colour((206, 206, 212)), plain(rng, (240, 240, 238), 0.02, 0.0))
    t["marble_dark"] = np.where(veins[::-1, :, None], _colour((92, 100, 112)), plain(rng, (52, 58, 70), 0.03, 0.0))
    t["parquet"] = np.where(
        ((x // 8 + y // 8) % 2 == 0)[..., None], planks(rng, (200, 152, 96)), planks(rng, (190, 142, 88), 4, True)
    )
    t["metal"] = plain(rng, (188, 194, 202), 0.03, 0.0)
    t["iron"] = stripes(rng, (88, 94, 104), (108, 114, 124), 2)
    t["gold"] = plain(rng, (246, 202, 72), 0.05, 0.0)
    t["glass"] = plain(rng, (206, 232, 240), 0.01, 0.0)
    t["stained"] = np.stack([_colour(WOOLS[c]) for c in ("red", "yellow", "blue", "green", "orange", "sky")])[
        (x // 4 + y // 5 * 2) % 6
    ]
    t["stained"][(x % 4 == 3) | (y % 5 == 4)] = (50, 50, 58)
    t["lamp"] = plain(rng, (255, 226, 156), 0.02, 0.0)
    t["lamp"][(x == 0) | (x == 15) | (y == 0) | (y == 15)] = (196, 146, 74)
    t["flame"] = plain(rng, (255, 206, 92), 0.06, 0.0)
    for name, base in (
        ("crystal_blue", (92, 206, 250)),
        ("crystal_pink", (248, 122, 222)),
        ("crystal_green", (112, 246, 162)),
    ):
        t[name] = _clusters(rng, base, 0.86, 1.12, 4)
    for wood in ("oak", "dark"):
        t["books_" + wood] = _books(rng, PLANKS[wood])
    return t


def _things(rng: np.random.Generator) -> dict[str, np.ndarray]:
    t: dict[str, np.ndarray] = {}
    y, x = np.mgrid[:TEXELS, :TEXELS]
    for name in ("oak", "mahogany", "teal_wood", "dark"):
        door = planks(rng, PLANKS[name], 2, True)
        door[(x < 1) | (x > 14) | (y < 1) | (y > 14)] = _colour(PLANKS[name]) * 0.66
        door[7:9, 12:14] = (232, 196, 92)
        t["door_" + name] = door
    crate = planks(rng, (196, 152, 92))
    crate[(x < 2) | (x > 13) | (y < 2) | (y > 13) | (np.abs(x - y) < 2)] = (138, 98, 56)
    t["crate"] = crate
    barrel = planks(rng, (150, 104, 62), 4, True)
    barrel[(y == 3) | (y == 12)] = (88, 92, 98)
    t["barrel"] = barrel
    stove = plain(rng, (72, 76, 84), 0.02, 0.0)
    stove[2:5, 2:14] = (170, 176, 184)
    stove[8:14, 3:13] = (40, 40, 46)
    stove[10:13, 5:11] = (246, 140, 52)
    t["stove"] = stove
    sink = plain(rng, (228, 230, 232), 0.02, 0.0)
    sink[3:13, 3:13] = (150, 178, 196)
    t["sink"] = sink
    cupboard = plain(rng, (238, 232, 214), 0.02, 0.0)
    cupboard[(x == 0) | (x == 15) | (y == 0) | (y == 15) | (x == 7)] = (170, 154, 126)
    cupboard[7:9, 5] = cupboard[7:9, 9] = (110, 84, 52)
    t["cupboard"] = cupboard
    drawers = planks(rng, PLANKS["mahogany"], 4)
    drawers[y % 4 == 3] = (78, 34, 28)
    drawers[1::4, 7:9] = (236, 196, 92)
    t["drawers"] = drawers
    leafy = _clusters(rng, (70, 146, 62), 0.82, 1.16)
    t["pot"] = np.where((y < 9)[..., None], leafy, plain(rng, (196, 104, 66)))
    t["stem"] = plain(rng, (84, 150, 60), 0.06, 0.0)
    t["grass_tuft"] = plain(rng, (136, 196, 84), 0.04, 0.0)
    for name in PETALS:
        flower = t["stem"].copy()
        flower[:9] = _colour(WOOLS[name])
        t["flower_" + name] = flower
    wheat = np.where((y < 7)[..., None], plain(rng, (236, 196, 84)), plain(rng, (170, 170, 72)))
    t["wheat"] = wheat
    t["cabbage"] = _clusters(rng, (128, 200, 98), 0.86, 1.1)
    t["pumpkin"] = stripes(rng, (238, 136, 40), (220, 112, 30), 4)
    t["cactus"] = stripes(rng, (72, 148, 78), (96, 172, 92), 2)
    t["frame"] = planks(rng, (112, 76, 42), 2)
    for name, a, b in (
        ("rug_red", "red", "yellow"),
        ("rug_blue", "blue", "white"),
        ("rug_green", "green", "orange"),
        ("rug_purple", "purple", "pink"),
    ):
        rug = plain(rng, WOOLS[a], 0.02, 0.0)
        rug[np.abs(x - 7.5) + np.abs(y - 7.5) < 5] = _colour(WOOLS[b])
        rug[np.abs(x - 7.5) + np.abs(y - 7.5) < 2.5] = _colour(WOOLS[a])
        t[name] = rug
    for name, a, b in (
        ("awning_red", "red", "white"),
        ("awning_blue", "blue", "white"),
        ("awning_green", "green", "yellow"),
    ):
        t[name] = stripes(rng, WOOLS[a], WOOLS[b])
    for name, a, b in (
        ("banner_red", "red", "yellow"),
        ("banner_blue", "blue", "white"),
        ("banner_green", "green", "white"),
        ("banner_purple", "purple", "yellow"),
    ):
        banner = plain(rng, WOOLS[a], 0.02, 0.0)
        banner[np.abs(x - 7.5) + np.abs(y - 7.5) < 5] = _colour(WOOLS[b])
        banner[(x < 1) | (x > 14)] = _colour(WOOLS[b])
        t[name] = banner
    return t


def draw_textures(seed: int) -> dict[str, np.ndarray]:
    """All textures of one world.

    Args:
        seed: draws tones, grain and the motifs of the paintings.

    Returns:
        uint8 [16,16,3] by name. A painting is cut into blocks: `painting<index>_<column>_<row>`, row 0 at the top.
    """
    rng = np.random.default_rng((0x7E97, seed))
    textures = _ground(rng) | _built(rng) | _things(rng)
    for name in textures:  # every world has its own tint of each material
        textures[name] = textures[name] * (1 + 0.03 * (rng.random(3) * 2 - 1))
    for index in range(PAINTINGS):
        canvas = _painting(rng, index)
        width, height = painting_size(index)
        for column in range(width):
            for row in range(height):
                piece = canvas[row * TEXELS : (row + 1) * TEXELS, column * TEXELS : (column + 1) * TEXELS]
                textures[f"painting{index}_{column}_{row}"] = piece
    return {name: np.clip(np.floor(t + 0.5), 0, 255).astype(np.uint8) for name, t in textures.items()}


def mip_pyramid(textures: np.ndarray) -> np.ndarray:
    """Smaller copies of textures, by exact whole-number averages.

    Args:
        textures: uint8 [T,16,16,3].

    Returns:
        uint8 [T, MIP_LEVELS, 16, 16, 3]: level l is 16 / 2^l texels wide and lies in the top left corner, else 0.
    """
    count = len(textures)
    pyramid = np.zeros((count, MIP_LEVELS, TEXELS, TEXELS, 3), np.uint8)
    for level in range(MIP_LEVELS):
        step = 1 << level
        size = TEXELS // step
        sums = textures.astype(np.int64).reshape(count, size, step, size, step, 3).sum(axis=(2, 4))
        pyramid[:, level, :size, :size] = (sums + step * step // 2) // (step * step)
    return pyramid
