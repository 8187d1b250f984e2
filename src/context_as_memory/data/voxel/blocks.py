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
