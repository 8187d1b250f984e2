"""A small voxel world built by hand: a garden with a pond, and a house of two floors with doors, a table and stairs."""

import numpy as np

from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, MIP_LEVELS, SEE_THROUGH, TEXELS, VoxelWorld

AIR, STONE, WATER, STEPS, TABLE, GLASS, TUFT = range(7)
# Stairs that rise towards +x, and a table: boxes in metres.
SHAPES: dict[int, list[tuple[float, ...]]] = {
    STEPS: [(0, 0, 0, 1, 1, 0.5), (0.5, 0, 0.5, 1, 1, 1)],
    TABLE: [(0.125, 0.125, 0.75, 0.875, 0.875, 1), (0.4375, 0.4375, 0, 0.5625, 0.5625, 0.75)],
    WATER: [(0, 0, 0, 1, 1, 1)],
    GLASS: [(0, 0, 0, 1, 1, 1)],
    TUFT: [(0.25, 0.25, 0, 0.75, 0.75, 0.5)],
}
GROUND = 2  # metres: feet in the garden and on the ground floor
UPSTAIRS = 5  # feet on the upper floor
DOOR = (8, 6)  # the block of the door in the wall at x = 8
POND = np.s_[2:5, 2:5]


def house(name: str = "house-0") -> VoxelWorld:
    """16 x 14 x 10 m. The garden is x < 8, the house 8 <= x < 16; one enters by a door and goes up by stairs."""
    blocks = np.zeros((16, 14, 10), np.uint8)
    blocks[:, :, :GROUND] = STONE
    blocks[POND + (1,)] = WATER
    blocks[5:7, 10:12, 2:4] = STONE  # a block to walk around
    blocks[6, 3, 2] = TUFT
    walls = np.zeros((16, 14), bool)
    walls[8:, 0:14] = True
    walls[9:15, 1:13] = False
    blocks[walls, 2:9] = STONE
    blocks[8:, :, 4] = STONE  # the upper floor
    blocks[9:15, 1:13, 8] = STONE  # the roof
    blocks[(*DOOR, slice(2, 4))] = AIR
    blocks[8, 9, 2:4] = GLASS
    blocks[12, 9, 2] = TABLE
    blocks[9:13, 2:4, 4] = AIR  # the hole above the stairs
    for step in range(3):  # from x = 10 up to x = 13
        blocks[10 + step, 2:4, 2 : 2 + step] = STONE
        blocks[10 + step, 2:4, 2 + step] = STEPS
    kinds = np.array([EMPTY, CUBE, SEE_THROUGH, BOXES, BOXES, SEE_THROUGH, BOXES], np.uint8)
    boxes: list[tuple[float, ...]] = []
    box_range = np.zeros((len(kinds), 2), np.int32)
    for kind in range(len(kinds)):
        start = len(boxes)
        boxes += SHAPES.get(kind, [])
        box_range[kind] = start, len(boxes)
    textures = np.zeros((len(kinds), MIP_LEVELS, TEXELS, TEXELS, 3), np.uint8)
    textures[:] = 40 + 30 * np.arange(len(kinds), dtype=np.uint8)[:, None, None, None, None]
    return VoxelWorld(
        name=name,
        blocks=blocks,
        kinds=kinds,
        faces=np.repeat(np.arange(len(kinds), dtype=np.int16)[:, None], 6, axis=1),
        boxes=np.array(boxes, float),
        box_range=box_range,
        through=np.where(kinds == SEE_THROUGH, 0.6, 0.0),
        glow=np.zeros(len(kinds)),
        walkable=np.isin(np.arange(len(kinds)), (AIR, TUFT)),
        textures=textures,
        light=np.full((*blocks.shape, 3), 255, np.uint8),
        home=(4.0, 8.0),
    )


def solid_boxes(world: VoxelWorld) -> np.ndarray:
    """All that one cannot stand in, as boxes [B, 6] in metres, one by one."""
    found = []
    for i, j, k in np.argwhere(~world.walkable[world.blocks]):
        first, end = world.box_range[world.blocks[i, j, k]]
        for box in world.boxes[first:end] if end > first else [(0, 0, 0, 1, 1, 1)]:
            found.append(np.add(box, (i, j, k) * 2))
    return np.array(found)
