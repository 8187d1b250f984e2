"""What a world is made of: kinds of blocks, their textures and their shapes.

A block fills one cell of 1 m. Most are whole cubes; others are made of up to `MAX_BOXES` boxes inside their cell, in
sixteenths of a metre, so that stairs, fences, tables, doors and paintings are exact geometry too.
"""

from dataclasses import dataclass

Box = tuple[int, int, int, int, int, int]  # x0, y0, z0, x1, y1, z1 in sixteenths, 0 <= low < high <= 16
CUBE: tuple[Box, ...] = ((0, 0, 0, 16, 16, 16),)
MAX_BOXES = 6


@dataclass(frozen=True, kw_only=True)
class Block:
    """One kind of block.

    top, side, bottom: names of textures (`textures.draw_textures`); `front` is the texture of the faces along x where
        it differs from `side` (None: it does not).
    boxes: the shape; a cube if it fills the cell.
    see_through: 0 for solid blocks; else the share of light that passes (water, glass). Rays go on behind the first
        such face and mix its colour in; neighbouring blocks of the same kind have no face between them.
    light: light given off, 0 to 1.
    walk_through: whether a walker may stand inside (grass tufts, carpets, paintings, open doors).
    """

    name: str
    top: str
    side: str
    bottom: str
    front: str | None = None
    boxes: tuple[Box, ...] = CUBE
    see_through: float = 0.0
    light: float = 0.0
    walk_through: bool = False

    @property
    def opaque(self) -> bool:
        """Whether it fills its cell and lets no light through."""
        return self.boxes == CUBE and self.see_through == 0


# Materials whose faces differ: top, side, bottom. Every other texture is a material with one texture all around.
MATERIALS: dict[str, tuple[str, str, str]] = {
    "grass": ("grass", "grass_side", "dirt"),
    "grass_autumn": ("grass_autumn", "grass_autumn_side", "dirt"),
    "grass_tropic": ("grass_tropic", "grass_tropic_side", "dirt"),
    "snow": ("snow", "snow_side", "dirt"),
    "log": ("log_cut", "log", "log_cut"),
    "birch_log": ("birch_log_cut", "birch_log", "birch_log_cut"),
    "dark_log": ("dark_log_cut", "dark_log", "dark_log_cut"),
    "palm_log": ("palm_log_cut", "palm_log", "palm_log_cut"),
    "books_oak": ("oak", "books_oak", "oak"),
    "books_dark": ("dark", "books_dark", "dark"),
    "stove": ("iron", "stove", "iron"),
    "sink": ("sink", "cupboard", "cupboard"),
    "cupboard": ("marble", "cupboard", "oak"),
    "drawers": ("mahogany", "drawers", "mahogany"),
    "barrel": ("oak", "barrel", "oak"),
    "carved": ("sandstone", "carved", "sandstone"),
    "pot": ("leaves", "pot", "pot"),
    "panel_cream": ("oak", "panel_cream", "oak"),
    "timber": ("dark", "timber", "dark"),
    "timber_cross": ("dark", "timber_cross", "dark"),
    **{f"flower_{c}": (c, f"flower_{c}", "stem") for c in ("red", "yellow", "purple", "white", "orange", "sky")},
}
SEE_THROUGH = {"water": 0.45, "glass": 0.85, "stained": 0.45, "ice": 0.3}
GLOW = {"lamp": 0.85, "flame": 0.85, "lava": 0.9, "crystal_blue": 0.55, "crystal_pink": 0.55, "crystal_green": 0.55}


def _turned(box: Box, direction: str) -> Box:
    """A box meant for direction +x, turned about the middle of the cell."""
    x0, y0, z0, x1, y1, z1 = box
    if direction == "-x":
        return 16 - x1, 16 - y1, z0, 16 - x0, 16 - y0, z1
    if direction == "+y":
        return 16 - y1, x0, z0, 16 - y0, x1, z1
    if direction == "-y":
        return y0, 16 - x1, z0, y1, 16 - x0, z1
    return box


# Shapes that look the same from all sides, or lie along x (`_x`) and along y (`_y`).
_LEGS: tuple[Box, ...] = ((1, 1, 0, 3, 3, 13), (13, 1, 0, 15, 3, 13), (1, 13, 0, 3, 15, 13), (13, 13, 0, 15, 15, 13))
PLAIN: dict[str, tuple[Box, ...]] = {
    "slab": ((0, 0, 0, 16, 16, 8),),
    "top": ((0, 0, 8, 16, 16, 16),),  # the upper half of a cell
    "post": ((6, 6, 0, 10, 10, 16),),
    "pillar": ((3, 3, 0, 13, 13, 16),),
    "base": ((1, 1, 0, 15, 15, 5), (3, 3, 5, 13, 13, 16)),
    "cap": ((3, 3, 0, 13, 13, 11), (1, 1, 11, 15, 15, 16)),
    "plinth": ((2, 2, 0, 14, 14, 10), (1, 1, 10, 15, 15, 12)),
    "table": ((0, 0, 13, 16, 16, 15), *_LEGS),
    "board": ((0, 0, 13, 16, 16, 15), (7, 7, 0, 9, 9, 13)),  # a table of many cells
    "stool": (
        (3, 3, 8, 13, 13, 10),
        (4, 4, 0, 6, 6, 8),
        (10, 4, 0, 12, 6, 8),
        (4, 10, 0, 6, 12, 8),
        (10, 10, 0, 12, 12, 8),
    ),
    "bed": ((0, 0, 3, 16, 16, 9),),
    "counter": ((0, 0, 0, 16, 16, 15),),
    "hedge": ((1, 1, 0, 15, 15, 15),),
    "hanging": ((4, 4, 4, 12, 12, 12), (7, 7, 12, 9, 9, 16)),
    "ceiling": ((3, 3, 13, 13, 13, 16),),
    "candle": ((7, 7, 0, 9, 9, 8),),
    "lantern": ((4, 4, 0, 12, 12, 10),),
    "orb": ((4, 2, 4, 12, 14, 12), (2, 4, 4, 14, 12, 12), (4, 4, 2, 12, 12, 14)),
    "shard": ((5, 5, 0, 11, 11, 14), (2, 8, 0, 6, 12, 8), (10, 3, 0, 14, 7, 10), (8, 11, 0, 11, 14, 6)),
    "potted": ((4, 4, 0, 12, 12, 7), (3, 3, 7, 13, 13, 15)),
    "flower": ((7, 7, 0, 9, 9, 8), (5, 5, 7, 11, 11, 12)),
    "tuft": (
        (4, 5, 0, 5, 6, 8),
        (10, 4, 0, 11, 5, 6),
        (6, 9, 0, 7, 10, 10),
        (11, 11, 0, 12, 12, 6),
        (8, 7, 0, 9, 8, 7),
    ),
    "crop": ((1, 1, 0, 5, 5, 12), (9, 2, 0, 13, 6, 13), (2, 9, 0, 6, 13, 11), (10, 10, 0, 14, 14, 12)),
    "patch": ((3, 3, 0, 13, 13, 8),),
    "carpet": ((0, 0, 0, 16, 16, 1),),
    "fence_x": ((6, 6, 0, 10, 10, 16), (0, 7, 5, 16, 9, 8), (0, 7, 11, 16, 9, 14)),
    "fence_y": ((6, 6, 0, 10, 10, 16), (7, 0, 5, 9, 16, 8), (7, 0, 11, 9, 16, 14)),
    "fence_xy": (
        (6, 6, 0, 10, 10, 16),
        (0, 7, 5, 16, 9, 8),
        (0, 7, 11, 16, 9, 14),
        (7, 0, 5, 9, 16, 8),
        (7, 0, 11, 9, 16, 14),
    ),
    "wall_x": ((0, 5, 0, 16, 11, 14), (5, 4, 0, 11, 12, 16)),
    "wall_y": ((5, 0, 0, 11, 16, 14), (4, 5, 0, 12, 11, 16)),
    "pane_x": ((0, 7, 0, 16, 9, 16),),
    "pane_y": ((7, 0, 0, 9, 16, 16),),
    "lattice_x": ((0, 7, 0, 16, 9, 1), (0, 7, 15, 16, 9, 16), (7, 7, 0, 9, 9, 16), (0, 7, 7, 16, 9, 9)),
    "lattice_y": ((7, 0, 0, 9, 16, 1), (7, 0, 15, 9, 16, 16), (7, 7, 0, 9, 9, 16), (7, 0, 7, 9, 16, 9)),
    "bars_x": ((1, 7, 0, 3, 9, 16), (7, 7, 0, 9, 9, 16), (13, 7, 0, 15, 9, 16), (0, 7, 7, 16, 9, 9)),
    "bars_y": ((7, 1, 0, 9, 3, 16), (7, 7, 0, 9, 9, 16), (7, 13, 0, 9, 15, 16), (7, 0, 7, 9, 16, 9)),
    "beam_x": ((0, 5, 5, 16, 11, 11),),
    "beam_y": ((5, 0, 5, 11, 16, 11),),
}
# Shapes that face or climb in a direction: `stairs+x` climbs towards +x, `plate+x` hangs on the +x side of its cell.
FACING: dict[str, tuple[Box, ...]] = {
    "stairs": ((0, 0, 0, 16, 16, 8), (8, 0, 8, 16, 16, 16)),
    "eaves": ((0, 0, 8, 16, 16, 16), (8, 0, 0, 16, 16, 8)),  # stairs upside down
    "chair": (
        (3, 3, 7, 13, 13, 9),
        (3, 3, 9, 5, 13, 16),
        (3, 3, 0, 5, 5, 7),
        (11, 3, 0, 13, 5, 7),
        (3, 11, 0, 5, 13, 7),
        (11, 11, 0, 13, 13, 7),
    ),
    "sofa": ((1, 0, 0, 16, 16, 9), (1, 0, 9, 5, 16, 16)),
    "bench": ((4, 0, 7, 14, 16, 9), (5, 2, 0, 13, 4, 7), (5, 12, 0, 13, 14, 7)),
    "plate": ((15, 0, 0, 16, 16, 16),),
    "leaf": ((13, 0, 0, 15, 16, 16),),  # an open leaf of a door
    "shelf": ((10, 0, 3, 16, 16, 5), (10, 0, 11, 16, 16, 13)),
    "torch": ((11, 7, 3, 16, 9, 9), (9, 6, 9, 13, 10, 14)),
    "side": ((8, 0, 0, 16, 16, 16),),  # the half of a cell
}
SHAPES = (*PLAIN, *FACING)
_WALK_THROUGH = ("flower", "tuft", "crop", "carpet", "plate", "torch", "candle", "ceiling", "hanging", "patch")


def block(name: str) -> Block:
    """The kind of block of a name: a material (`oak`), or a shape and a material (`slab:oak`, `stairs+x:oak`)."""
    shape, _, material = name.rpartition(":")
    top, side, bottom = MATERIALS.get(material, (material,) * 3)
    front = None
    if shape == "":
        boxes = CUBE
    elif shape in PLAIN:
        boxes = PLAIN[shape]
    else:
        direction = shape[-2:]
        boxes = tuple(_turned(box, direction) for box in FACING[shape[:-2]])
        if material.startswith("painting"):
            top = bottom = "frame"
            side, front = ("frame", material) if direction[1] == "x" else (material, "frame")
    if shape == "slab" and side.endswith("_side"):
        side = top  # half steps of a lawn are green all over
    light = GLOW.get(material, 0.0)
    return Block(
        name=name,
        top=top,
        side=side,
        bottom=bottom,
        front=front,
        boxes=boxes,
        see_through=SEE_THROUGH.get(material, 0.0),
        light=light,
        walk_through=shape.rstrip("+-xy") in _WALK_THROUGH,
    )
