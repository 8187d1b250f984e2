"""A voxel world as plain arrays: all that a renderer, a light baker or a walker needs to know, and nothing else."""

from dataclasses import dataclass, field

import numpy as np

TEXELS = 16  # texels along one side of a block
MIP_LEVELS = 5  # 16, 8, 4, 2, 1

# How a ray treats a kind of block.
EMPTY, CUBE, BOXES, SEE_THROUGH = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Light from outside. Colours are RGB in [0, 1]."""

    zenith: tuple[float, float, float] = (0.30, 0.55, 0.98)
    horizon: tuple[float, float, float] = (0.72, 0.85, 0.98)
    sun_direction: tuple[float, float, float] = (0.48, 0.36, 0.80)  # unit vector from the ground to the sun
    sun: tuple[float, float, float] = (1.00, 0.96, 0.88)  # colour of direct light
    ambient: tuple[float, float, float] = (0.55, 0.60, 0.68)  # colour of light from the whole sky
    lamp: tuple[float, float, float] = (1.00, 0.86, 0.62)  # colour of lamps and glowing blocks
    dark: float = 0.13  # light where neither sky nor lamp reaches
    haze_m: float = 90.0  # distance at which 63 % of the picture is haze
    clouds: float = 0.42  # 0: none; from about 0.3 on some, 0.6: most of the sky
    seed: int = 0  # of the clouds


@dataclass(frozen=True, eq=False, kw_only=True)
class VoxelWorld:
    """One world. Cell (i, j, k) spans [i, i+1] x [j, j+1] x [k, k+1] metres; z is up.

    Outside the array there is nothing: rays that leave it see the sky.
    """

    name: str  # such as gallery-17: style and seed
    blocks: np.ndarray  # uint8 [X, Y, Z]: kinds of blocks, 0 is air
    kinds: np.ndarray  # uint8 [N]: EMPTY, CUBE, BOXES or SEE_THROUGH
    faces: np.ndarray  # int16 [N, 6]: texture of the faces -x, +x, -y, +y, -z, +z
    boxes: np.ndarray  # float64 [B, 6]: x0, y0, z0, x1, y1, z1 in metres inside the cell
    box_range: np.ndarray  # int32 [N, 2]: first box and one past the last, of kinds BOXES and SEE_THROUGH
    through: np.ndarray  # float64 [N]: share of light that passes, see `Block.see_through`
    glow: np.ndarray  # float64 [N]: light given off, 0 to 1
    walkable: np.ndarray  # bool [N]: whether a walker may stand inside
    textures: np.ndarray  # uint8 [T, MIP_LEVELS, TEXELS, TEXELS, 3]: sRGB; smaller levels lie in their top left corner
    light: np.ndarray  # uint8 [X, Y, Z, 3]: sun, sky and lamp light in each cell, 255 is full; 0 inside opaque cubes
    sky: Sky = field(default_factory=Sky)
    home: tuple[float, float] = (0.0, 0.0)  # a good place to begin a walk, metres

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.blocks.shape
        return x, y, z
