"""A small kit to build worlds with: names become kinds of blocks as they are used."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from context_as_memory.data.voxel import blocks as block_kinds
from context_as_memory.data.voxel.blocks import Block
from context_as_memory.data.voxel.light import bake_light
from context_as_memory.data.voxel.styles.palette import Palette, draw_palette
from context_as_memory.data.voxel.textures import PAINTINGS, draw_textures, mip_pyramid, painting_size
from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, SEE_THROUGH, VoxelWorld

MAX_KINDS = 255
STEP = {"+x": (1, 0), "-x": (-1, 0), "+y": (0, 1), "-y": (0, -1)}
BACK = {"+x": "-x", "-x": "+x", "+y": "-y", "-y": "+y"}


class Builder:
    """Blocks of a world under construction. Boxes of cells run from low (inside) to high (outside)."""

    def __init__(self, style: str, seed: int, shape: tuple[int, int, int], biomes: tuple[str, ...] = ()) -> None:
        self.name = f"{style}-{seed}"
        self.seed = seed
        self.rng = np.random.default_rng((0xB10C, *style.encode(), seed))
        self.palette: Palette = draw_palette(self.rng, biomes)
        self.blocks = np.zeros(shape, np.uint8)
        self.reserved = np.zeros(shape, bool)  # cells that furniture must leave free
        self.home = (shape[0] / 2, shape[1] / 2)
        self._names: dict[str, int] = {"": 0}
        self._next_painting = int(self.rng.integers(PAINTINGS))

    # --- kinds ---------------------------------------------------------------------------------------------------
    def id(self, name: str) -> int:
        """The number of a kind of block (`blocks.block`); "" is air."""
        if name not in self._names:
            if len(self._names) > MAX_KINDS:
                raise RuntimeError(f"{self.name} uses more than {MAX_KINDS} kinds of blocks")
            self._names[name] = len(self._names)
        return self._names[name]

    @property
    def room_for_kinds(self) -> int:
        return MAX_KINDS - len(self._names)

    # --- chance --------------------------------------------------------------------------------------------------
    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, *names: str) -> str:
        return names[int(self.rng.integers(len(names)))]

    def some(self, names: tuple[str, ...], count: int) -> str:
        """One of the first `count` names: a world uses few of the materials that there are."""
        return names[int(self.rng.integers(min(count, len(names))))]

    # --- blocks --------------------------------------------------------------------------------------------------
    def put(self, x: int, y: int, z: int, name: str) -> None:
        """Set one cell; cells outside the world are left out."""
        sx, sy, sz = self.blocks.shape
        if 0 <= x < sx and 0 <= y < sy and 0 <= z < sz:
            self.blocks[x, y, z] = self.id(name)

    def at(self, x: int, y: int, z: int) -> int:
        sx, sy, sz = self.blocks.shape
        return int(self.blocks[x, y, z]) if 0 <= x < sx and 0 <= y < sy and 0 <= z < sz else 0

    def box(self, x0: int, y0: int, z0: int, x1: int, y1: int, z1: int, name: str) -> None:
        """Fill cells x0 to x1 - 1 and so on."""
        self.blocks[max(x0, 0) : max(x1, 0), max(y0, 0) : max(y1, 0), max(z0, 0) : max(z1, 0)] = self.id(name)

    def walls(self, x0: int, y0: int, z0: int, x1: int, y1: int, z1: int, name: str) -> None:
        """Four walls, one block thick, along the inside of a box."""
        self.box(x0, y0, z0, x1, y0 + 1, z1, name)
        self.box(x0, y1 - 1, z0, x1, y1, z1, name)
        self.box(x0, y0, z0, x0 + 1, y1, z1, name)
        self.box(x1 - 1, y0, z0, x1, y1, z1, name)

    def reserve(self, x0: int, y0: int, z0: int, x1: int, y1: int, z1: int) -> None:
        """Keep cells free of furniture."""
        self.reserved[max(x0, 0) : max(x1, 0), max(y0, 0) : max(y1, 0), max(z0, 0) : max(z1, 0)] = True

    def free(self, x: int, y: int, z: int) -> bool:
        """Whether furniture may stand here."""
        sx, sy, sz = self.blocks.shape
        inside = 0 <= x < sx and 0 <= y < sy and 0 <= z < sz
        return inside and self.blocks[x, y, z] == 0 and not self.reserved[x, y, z]

    def place(self, x: int, y: int, z: int, name: str) -> bool:
        """Set a cell if furniture may stand there; says whether it did."""
        if not self.free(x, y, z):
            return False
        self.put(x, y, z, name)
        return True

    def place_all(self, cells: Iterable[tuple[int, int, int, str]]) -> bool:
        """Set all cells if all are free, else none."""
        cells = list(cells)
        if not all(self.free(x, y, z) for x, y, z, _ in cells):
            return False
        for x, y, z, name in cells:
            self.put(x, y, z, name)
        return True

    # --- parts that need directions --------------------------------------------------------------------------------
    def flight(
        self, x: int, y: int, z: int, direction: str, steps: int, width: int, material: str, solid: bool = True
    ) -> None:
        """Stairs that climb from cell (x, y, z) in a direction; `width` grows to the +x or +y side."""
        dx, dy = STEP[direction]
        wx, wy = (0, 1) if dx else (1, 0)
        for i in range(steps):
            for j in range(width):
                cx, cy = x + dx * i + wx * j, y + dy * i + wy * j
                self.box(cx, cy, z + i, cx + 1, cy + 1, z + i + 4, "")
                self.reserve(cx, cy, z, cx + 1, cy + 1, z + i + 4)
                self.put(cx, cy, z + i, f"stairs{direction}:{material}")
                if solid:
                    self.box(cx, cy, z, cx + 1, cy + 1, z + i, material)

    def hang(self, x: int, y: int, z: int, wall: str, name: str, along: int = 1, high: int = 1) -> bool:
        """Hang plates on the wall on the `wall` side of cells that run along it and up. Returns whether it fits."""
        dx, dy = STEP[wall]
        wx, wy = (0, 1) if dx else (1, 0)
        cells = [(x + wx * i, y + wy * i, z + k) for i in range(along) for k in range(high)]
        solid = self.solid_numbers()
        for cx, cy, cz in cells:
            if not self.free(cx, cy, cz) or not solid[self.at(cx + dx, cy + dy, cz)]:
                return False
        for (cx, cy, cz), (i, k) in zip(cells, [(i, k) for i in range(along) for k in range(high)], strict=True):
            piece = name
            if name.startswith("painting"):
                # Columns run to the right for someone who looks at the wall.
                column = i if wall in ("+y", "-x") else along - 1 - i
                piece = f"{name}_{column}_{high - 1 - k}"
            self.put(cx, cy, cz, f"plate{wall}:{piece}")
        return True

    def paint(self, x: int, y: int, z: int, wall: str, size: tuple[int, int] | None = None) -> int:
        """Hang the world's next painting (of a size, if given); returns its width, 0 if it does not fit."""
        for offset in range(PAINTINGS):
            index = (self._next_painting + offset) % PAINTINGS
            width, height = painting_size(index)
            if size is not None and (width, height) != size:
                continue
            known = f"plate{wall}:painting{index}_0_0" in self._names
            if not known and self.room_for_kinds < 40 + width * height:
                continue
            if self.hang(x, y, z, wall, f"painting{index}", width, height):
                self._next_painting = index + 1
                return width
            if size is not None:
                return 0
        return 0

    def solid_numbers(self) -> np.ndarray:
        """Which numbers are whole opaque cubes, int64 [n]."""
        solid = np.zeros(256, bool)
        for name, number in self._names.items():
            solid[number] = bool(name) and ":" not in name and name not in block_kinds.SEE_THROUGH
        return solid

    # --- the end -------------------------------------------------------------------------------------------------
    def finish(self) -> VoxelWorld:
        """The finished world, with light."""
        air = Block(name="", top="", side="", bottom="")
        kinds = [air if not name else block_kinds.block(name) for name in self._names]
        drawn = draw_textures(self.seed)
        used = sorted({t for k in kinds if k.name for t in (k.top, k.side, k.bottom, k.front or k.side)})
        index = {name: i for i, name in enumerate(used)}
        faces = np.zeros((len(kinds), 6), np.int16)
        boxes: list[tuple[float, ...]] = []
        box_range = np.zeros((len(kinds), 2), np.int32)
        way = np.zeros(len(kinds), np.uint8)
        for i, kind in enumerate(kinds):
            if not kind.name:
                continue
            way[i] = SEE_THROUGH if kind.see_through else CUBE if kind.opaque else BOXES
            front = index[kind.front or kind.side]
            faces[i] = (front, front, index[kind.side], index[kind.side], index[kind.bottom], index[kind.top])
            if way[i] != CUBE:
                box_range[i] = (len(boxes), len(boxes) + len(kind.boxes))
                boxes.extend(tuple(v / 16 for v in box) for box in kind.boxes)
        assert way[0] == EMPTY
        parts: dict[str, np.ndarray] = {
            "blocks": self.blocks,
            "kinds": way,
            "faces": faces,
            "boxes": np.array(boxes, np.float64).reshape(-1, 6),
            "box_range": box_range,
            "through": np.array([kind.see_through for kind in kinds]),
            "glow": np.array([kind.light for kind in kinds]),
            "walkable": np.array([not kind.name or kind.walk_through for kind in kinds]),
            "textures": mip_pyramid(np.stack([drawn[name] for name in used])),
        }
        dark = np.zeros((*self.blocks.shape, 3), np.uint8)
        world = VoxelWorld(name=self.name, **parts, light=dark, sky=self.palette.sky, home=self.home)
        return replace(world, light=bake_light(world))
