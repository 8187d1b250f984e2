"""What a world draws for itself: its climate, its sky and its materials."""

from dataclasses import dataclass

import numpy as np

from context_as_memory.data.voxel.world import Sky

Colour = tuple[float, float, float]

WALLS = (
    "brick_red", "brick_sand", "brick_blue", "brick_white", "brick_grey", "brick_green", "brick_dark", "brick_orange",
    "brick_rose", "oak", "birch", "mahogany", "grey_wood", "teal_wood", "blue_wood", "stone_bricks", "sandstone",
    "plaster", "plaster_cream", "plaster_mint", "plaster_rose", "plaster_sky", "plaster_peach",
)  # fmt: skip
ROOM_WALLS = (
    "paper_blue", "paper_green", "paper_red", "paper_yellow", "paper_violet", "paper_teal", "panel_cream", "panel_mint",
    "panel_rose", "panel_sky", "panel_peach", "plaster_cream", "plaster_mint", "plaster_rose", "plaster_sky",
    "plaster_peach", "brick_white", "brick_rose", "brick_sand", "birch", "red", "blue", "green", "yellow", "purple",
    "cyan", "orange", "teal_wood", "brick_blue", "brick_green",
)  # fmt: skip
FLOORS = (
    "oak", "birch", "mahogany", "parquet", "tile_black", "tile_warm", "tile_blue", "tile_green", "tile_red",
    "tile_grey", "tile_diamond", "marble", "dark", "grey_wood",
)  # fmt: skip
ROOFS = ("roof_red", "roof_blue", "roof_green", "roof_slate", "roof_brown", "roof_gold", "roof_purple", "thatch")
WOODS = ("oak", "dark", "birch", "mahogany", "grey_wood")
WOOLS = ("red", "orange", "yellow", "lime", "green", "cyan", "sky", "blue", "purple", "pink", "white")
PETALS = ("red", "yellow", "purple", "white", "orange", "sky")


@dataclass(frozen=True, kw_only=True)
class Biome:
    """A climate: the ground, the trees (trunk, leaves) and the colour of tufts."""

    name: str
    ground: str
    path: str
    trees: tuple[tuple[str, str], ...]
    tuft: str


BIOMES = (
    Biome(
        name="green",
        ground="grass",
        path="path",
        trees=(("log", "leaves"), ("birch_log", "leaves_light"), ("dark_log", "leaves_dark"), ("log", "leaves_pink")),
        tuft="grass_tuft",
    ),
    Biome(
        name="autumn",
        ground="grass_autumn",
        path="gravel",
        trees=(
            ("log", "leaves_orange"),
            ("birch_log", "leaves_yellow"),
            ("dark_log", "leaves_red"),
            ("log", "leaves_light"),
        ),
        tuft="wheat",
    ),
    Biome(
        name="snow",
        ground="snow",
        path="cobble",
        trees=(("dark_log", "leaves_dark"), ("log", "leaves_snow"), ("birch_log", "leaves_snow")),
        tuft="leaves_dark",
    ),
    Biome(
        name="sand",
        ground="sand",
        path="tile_warm",
        trees=(("palm_log", "leaves_light"), ("palm_log", "leaves")),
        tuft="leaves_light",
    ),
    Biome(
        name="tropic",
        ground="grass_tropic",
        path="path",
        trees=(("palm_log", "leaves_light"), ("log", "leaves"), ("dark_log", "leaves_pink")),
        tuft="grass_tuft",
    ),
)

_SKIES: tuple[tuple[Colour, Colour, Colour, Colour, float, float], ...] = (
    # zenith, horizon, sun, ambient, height of the sun (its tangent), haze in metres
    ((0.28, 0.54, 0.98), (0.70, 0.85, 1.00), (1.00, 0.96, 0.88), (0.55, 0.61, 0.70), 1.30, 110.0),  # day
    ((0.22, 0.46, 0.92), (0.66, 0.80, 0.98), (1.00, 0.98, 0.94), (0.56, 0.60, 0.68), 2.00, 140.0),  # noon
    ((0.46, 0.66, 0.96), (1.00, 0.86, 0.76), (1.00, 0.90, 0.74), (0.58, 0.60, 0.66), 0.95, 90.0),  # morning
    ((0.40, 0.46, 0.82), (1.00, 0.74, 0.48), (1.00, 0.80, 0.54), (0.58, 0.55, 0.62), 0.80, 90.0),  # evening
    ((0.72, 0.79, 0.88), (0.88, 0.91, 0.95), (0.52, 0.52, 0.52), (0.76, 0.78, 0.80), 1.60, 80.0),  # bright overcast
    ((0.32, 0.70, 0.92), (0.78, 0.94, 0.96), (1.00, 0.95, 0.82), (0.54, 0.62, 0.66), 1.10, 110.0),  # sea air
)


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The materials of one world, each list in the world's own order."""

    biome: Biome
    walls: tuple[str, ...]
    rooms: tuple[str, ...]
    floors: tuple[str, ...]
    roofs: tuple[str, ...]
    woods: tuple[str, ...]
    wools: tuple[str, ...]
    petals: tuple[str, ...]
    sky: Sky


def _shuffled(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(names[int(i)] for i in rng.permutation(len(names)))


def draw_sky(rng: np.random.Generator) -> Sky:
    """A sky with a sun somewhere that stands on no axis."""
    zenith, horizon, sun, ambient, height, haze = _SKIES[int(rng.integers(len(_SKIES)))]
    along = 0.35 + 0.3 * float(rng.random())  # the share of x; both stay well above 0
    x, y = along, 1 - along
    if rng.random() < 0.5:
        x = -x
    if rng.random() < 0.5:
        y = -y
    flat = float(np.sqrt(x * x + y * y))
    x, y, z = x / flat, y / flat, height * (0.85 + 0.3 * float(rng.random()))
    length = float(np.sqrt(x * x + y * y + z * z))
    # Level ground in the sun is just not white: more sun when it stands low or the sky is dim.
    ambient = (ambient[0] * 1.2, ambient[1] * 1.2, ambient[2] * 1.2)
    share = min((0.94 - 0.8 * max(ambient)) / (0.72 * z / length * max(sun)), 1.25)
    return Sky(
        zenith=zenith,
        horizon=horizon,
        sun_direction=(x / length, y / length, z / length),
        sun=(sun[0] * share, sun[1] * share, sun[2] * share),
        ambient=ambient,
        dark=0.15,
        haze_m=haze,
        clouds=(0.30, 0.40, 0.46, 0.52)[int(rng.integers(4))],
        seed=int(rng.integers(1 << 16)),
    )


def draw_palette(rng: np.random.Generator, biomes: tuple[str, ...] = ()) -> Palette:
    """Draw the materials of a world; `biomes` limits the climates (empty: all)."""
    choice = [b for b in BIOMES if not biomes or b.name in biomes]
    return Palette(
        biome=choice[int(rng.integers(len(choice)))],
        walls=_shuffled(rng, WALLS),
        rooms=_shuffled(rng, ROOM_WALLS),
        floors=_shuffled(rng, FLOORS),
        roofs=_shuffled(rng, ROOFS),
        woods=_shuffled(rng, WOODS),
        wools=_shuffled(rng, WOOLS),
        petals=_shuffled(rng, PETALS),
        sky=draw_sky(rng),
    )
