"""Walks through a voxel world: where one can stand, what is linked by a step, and camera paths over it.

Ground is a graph. A place is the middle of a square of 1/4 m and the height of a surface there; two places are linked
when a body can step from one to the other. So there may be many floors above each other, and stairs lead between them.
Heights of blocks are whole sixteenths of a metre, and so are all heights here until they become metres.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from context_as_memory import camera
from context_as_memory.data.trajectories import HFOV_DEG, Path, PathConfig, plan_walk
from context_as_memory.data.voxel.world import EMPTY, SEE_THROUGH, TEXELS, VoxelWorld
from context_as_memory.errors import UserError

CELLS = 4  # places along one side of a block
STEP_M = 1 / CELLS
EYE_M = 1.6
BODY = 29  # sixteenths: the head room of a walker, 1.8 m
CLIMB = 8  # sixteenths: the highest step, half a block
BODY_RADIUS_M = 0.3
HOME_M = 2.0  # a walk begins in the part of the ground that lies so near to `VoxelWorld.home`

_CLEARANCE_M = 0.3125  # of places at a wall; positions off their middle still keep 1/4 m
_RINGS = 9  # clearance is counted up to so many places
_COST = np.array([2.5, 2.0, 1.6, 1.4, 1.25, 1.15, 1.1, 1.05, 1.03, 1.0])  # of a step, by rings: keeps away from walls
_NEIGHBOURS = (
    (1, 0),
    (0, 1),
    (-1, 0),
    (0, -1),
    (1, 1),
    (-1, 1),
    (-1, -1),
    (1, -1),
)  # corners lie between sides

WALK = PathConfig(pitch_limit_deg=30.0, min_clearance_m=0.25, home_radius_m=(16.0, 40.0))


def plan_voxel_path(
    world: VoxelWorld, num_frames: int, seed: int, config: PathConfig = WALK, ground: "VoxelGround | None" = None
) -> Path:
    """Plan a path of `num_frames` poses through a world.

    Positions lie on a grid of a micrometre and angles on one of a microradian, so that the same world, length and seed
    give the same path on every x86 machine, bit for bit. `ground`: that of the world, where it is known already.
    Raises `UserError` when the world has too little ground to walk on.
    """
    path = plan_walk(ground or VoxelGround.of(world), num_frames, seed, config)
    position, yaw, pitch = (np.round(part, 6) for part in (path.position_m, path.yaw_rad, path.pitch_rad))
    return Path(position, yaw, pitch, path.mode)


def path_cameras(path: Path, width: int, height: int, hfov_deg: float = HFOV_DEG) -> camera.Cameras:
    """The cameras of a path; their directions too are rounded, to 1e-9, to be the same everywhere."""
    exact = path.cameras(width, height, hfov_deg)
    return camera.Cameras(np.round(exact.c2w, 9) + 0.0, exact.K, width, height)


@dataclass(frozen=True, eq=False)
class VoxelGround:
    """Places to stand in a voxel world, all of them within reach of each other.

    A `trajectories.WalkingGround`; its points are x, y and the height of the surface, in metres.
    """

    shape: tuple[int, int]  # squares along x and y
    square: np.ndarray  # int64 [P, 2], rising
    height: np.ndarray  # int64 [P] sixteenths, rising within a square
    head: np.ndarray  # int64 [P] sixteenths: free height above the surface, at most 48
    links: np.ndarray  # int32 [P, 8]: the place one step away in each of `_NEIGHBOURS`, or -1
    covered: np.ndarray  # bool [P]: a roof is above
    home: np.ndarray  # [2] metres

    step_m = STEP_M

    @classmethod
    def of(cls, world: VoxelWorld) -> "VoxelGround":
        """The largest part around the home of a world, or the largest of all. `UserError` when there is none."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        every = _standing_places(world)
        if not len(every.height):
            raise UserError(f"world {world.name} has no ground to walk on; choose another world")
        start, end = every._pairs
        count = len(every.height)
        graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(count, count))
        part = connected_components(graph, directed=False)[1]
        size = np.bincount(part)
        near = np.hypot(*(every.points[:, :2] - every.home).T) <= HOME_M
        around = np.where(np.bincount(part[near], minlength=len(size)) > 0, size, 0)
        # Where home is no place, or a hole, it was not meant.
        chosen = np.argmax(around if around.max() >= 0.1 * size.max() else size)
        return every.only(part == chosen)

    # --- the graph --------------------------------------------------------------------------------

    @cached_property
    def points(self) -> np.ndarray:
        """float64 [P, 3] metres."""
        return np.concatenate([(self.square + 0.5) * STEP_M, self.height[:, None] / TEXELS], axis=1)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The two ends of every link."""
        start, side = np.nonzero(self.links >= 0)
        return start, self.links[start, side]

    @cached_property
    def rings(self) -> np.ndarray:
        """int64 [P]: steps to the nearest place beside a wall or an edge, at most `_RINGS`."""
        rings = np.where((self.links < 0).any(axis=1), 0, _RINGS)
        for ring in range(_RINGS - 1):
            beside = (rings[self.links] <= ring).any(axis=1)
            rings[beside] = np.minimum(rings[beside], ring + 1)
        return rings

    @cached_property
    def appeal(self) -> np.ndarray:
        """[P]: open ground is preferred, but much of a walk is under roofs and on other floors, where there are any."""
        appeal = np.where(self.rings > 0, 1.0 + self.rings, 0.05)
        _raise_share(appeal, self.covered, 0.5)
        _raise_share(appeal, np.abs(self.height - np.median(self.height)) > 1.5 * TEXELS, 0.3)
        return appeal

    @cached_property
    def _graph(self) -> "object":
        from scipy.sparse import coo_array

        start, end = self._pairs
        length = np.where((self.square[start] != self.square[end]).all(axis=1), 1.4142, 1.0)
        climb = 1 + np.abs(self.height[start] - self.height[end]) / TEXELS
        cost = _COST[self.rings]
        weight = length * climb * (cost[start] + cost[end]) / 2
        return coo_array((weight, (start, end)), shape=(len(self.height),) * 2).tocsr()

    # --- as `trajectories.WalkingGround` -----------------------------------------------------------------

    def search(self, start: int) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
        """Costs [P] and ways of points [M, 3], see `WalkingGround.search`."""
        from scipy.sparse.csgraph import dijkstra

        away, before = dijkstra(self._graph, indices=start, return_predecessors=True)

        def way(goal: int) -> np.ndarray:
            places = [goal]
            while places[-1] != start:
                places.append(int(before[places[-1]]))
            return self.points[places[::-1]]

        return away, way

    def only(self, places: np.ndarray) -> "VoxelGround":
        """The ground without all other places; bool [P]."""
        number = np.where(places, np.cumsum(places) - 1, -1).astype(np.int32)
        links = np.where(self.links < 0, -1, number[self.links])[places]
        square, height, head, covered = (part[places] for part in (self.square, self.height, self.head, self.covered))
        return VoxelGround(self.shape, square, height, head, links, covered, self.home)

    def clearance_at(self, points: np.ndarray) -> np.ndarray:
        """Metres [M] from points [M, 3] to what is in the way; 0 off the ground."""
        place = self._place_at(points)
        return np.where(place < 0, 0.0, _CLEARANCE_M + STEP_M * self.rings[place])

    def eye_z(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights [M] of the eye over points [M, 3], metres: usual, least and greatest."""
        place = self._place_at(points)
        floor = np.where(place < 0, points[:, 2], self.height[place] / TEXELS)
        head = np.where(place < 0, BODY, self.head[place]) / TEXELS
        return floor + EYE_M, floor + 0.9, floor + head - 0.15

    def floor_z(self, points: np.ndarray) -> np.ndarray:
        """Height [M] of the ground under or near points [M, 3] of feet, in metres; nan where there is none."""
        place = self._place_at(points)
        return np.where(place < 0, np.nan, self.height[place] / TEXELS)

    @cached_property
    def _keys(self) -> np.ndarray:
        return _keys_of(self.shape, self.square, self.height)

    def _place_at(self, points: np.ndarray) -> np.ndarray:
        """int64 [M]: the place in the square under each point [M, 3] that is nearest in height, or -1: at most 1 m."""
        square = np.floor(points[:, :2] / STEP_M).astype(np.int64)
        height = np.round(points[:, 2] * TEXELS).astype(np.int64)
        inside = ((square >= 0) & (square < self.shape)).all(axis=1)
        key = _keys_of(self.shape, square, height)
        above = np.clip(np.searchsorted(self._keys, key), 0, len(self._keys) - 1)
        below = np.maximum(above - 1, 0)
        nearer = np.where(np.abs(self._keys[below] - key) <= np.abs(self._keys[above] - key), below, above)
        same = (self.square[nearer] == square).all(axis=1) & (np.abs(self.height[nearer] - height) <= TEXELS)
        return np.where(inside & same, nearer, -1)


def _raise_share(appeal: np.ndarray, chosen: np.ndarray, share: float) -> None:
    """Multiply the appeal of chosen places so that they have at least this share of the whole, if there are any."""
    inside, outside = appeal[chosen].sum(), appeal[~chosen].sum()
    if inside > 0 and outside > 0 and inside < share * (inside + outside):
        appeal[chosen] *= min(share / (1 - share) * outside / inside, 12.0)


# --- From blocks to places ------------------------------------------------------------------------


def _standing_places(world: VoxelWorld) -> VoxelGround:
    """All places of a world where a body fits, with their links."""
    solid = _occupied(world, ~world.walkable & (world.kinds != EMPTY))
    firm = _occupied(world, ~world.walkable & (world.kinds != EMPTY) & (world.kinds != SEE_THROUGH))  # not water
    wide = _grown(solid)  # what a body touches that stands in the middle of a square

    # A surface is a bit that is set below one that is not.
    above = np.concatenate([solid[..., 1:], np.zeros_like(solid[..., :1])], axis=-1)
    tops = firm & ~((solid >> 1) | (above << 15))
    x, y, k = np.nonzero(tops)
    bit = np.arange(TEXELS)
    row, texel = np.nonzero((tops[x, y, k][:, None] >> bit.astype(np.uint16)) & 1)
    x, y, height = x[row], y[row], k[row] * TEXELS + texel + 1

    body = (_window(solid, x, y, height) & _ones(BODY)) == 0
    x, y, height = x[body], y[body], height[body]
    around = _window(wide, x, y, height) & ~_ones(CLIMB + 1)  # steps and kerbs are no obstacle
    fits = (around & _ones(BODY)) == 0
    x, y, height, around = x[fits], y[fits], height[fits], around[fits]
    lowest = around & (~around + np.uint64(1))  # its lowest set bit
    head = np.where(lowest == 0, 3 * TEXELS, np.log2(np.maximum(lowest, 1).astype(float)).astype(np.int64))
    highest = np.where((solid != 0).any(axis=-1), solid.shape[-1] - 1 - np.argmax(solid[..., ::-1] != 0, axis=-1), -1)
    covered = highest[x, y] * TEXELS > height

    order = np.lexsort((height, y, x))
    square, height = np.stack([x, y], axis=1)[order].astype(np.int64), height[order].astype(np.int64)
    shape = (solid.shape[0], solid.shape[1])
    links = _links(shape, square, height)
    head = np.minimum(head, 3 * TEXELS)
    return VoxelGround(shape, square, height, head[order], links, covered[order], np.asarray(world.home, float))


def _occupied(world: VoxelWorld, chosen: np.ndarray) -> np.ndarray:
    """uint16 [4 X, 4 Y, Z]: for each square of each block, a bit for every sixteenth of its height that a chosen kind
    of block [N] touches there."""
    masks = np.zeros((len(world.kinds), CELLS, CELLS), np.uint16)
    for kind in np.flatnonzero(chosen):
        first, end = world.box_range[kind]
        boxes = world.boxes[first:end] if end > first else np.array([[0.0, 0, 0, 1, 1, 1]])
        for x0, y0, z0, x1, y1, z1 in np.round(boxes * TEXELS).astype(int):
            bits = np.uint16((1 << z1) - (1 << z0))
            sides = ((x0, x1), (y0, y1))
            columns, rows = (slice(low * CELLS // TEXELS, -(-high * CELLS // TEXELS)) for low, high in sides)
            masks[kind, columns, rows] |= bits
    X, Y, Z = world.shape
    return np.ascontiguousarray(masks[world.blocks].transpose(0, 3, 1, 4, 2)).reshape(X * CELLS, Y * CELLS, Z)


def _grown(solid: np.ndarray) -> np.ndarray:
    """Each square together with its eight neighbours; beyond the border everything is solid."""
    padded = np.pad(solid, ((1, 1), (1, 1), (0, 0)), constant_values=0xFFFF)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _window(bits: np.ndarray, x: np.ndarray, y: np.ndarray, height: np.ndarray) -> np.ndarray:
    """uint64 [P]: the bits above a height, the lowest first; at least 48 of them."""
    block, shift = height // TEXELS, (height % TEXELS).astype(np.uint64)
    window = np.zeros(len(height), np.uint64)
    for part in range(4):
        inside = block + part < bits.shape[-1]
        found = bits[x, y, np.minimum(block + part, bits.shape[-1] - 1)]
        window |= np.where(inside, found, 0).astype(np.uint64) << np.uint64(16 * part)
    return window >> shift


def _ones(count: int) -> np.uint64:
    return np.uint64((1 << count) - 1)


def _keys_of(shape: tuple[int, int], square: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Numbers that put places in order by square and height; far apart for different squares."""
    return (square[:, 0] * shape[1] + square[:, 1]) * (1 << 16) + height


def _links(shape: tuple[int, int], square: np.ndarray, height: np.ndarray) -> np.ndarray:
    """int32 [P, 8]: the place in each neighbouring square that a step leads to, or -1."""
    keys = _keys_of(shape, square, height)
    links = np.full((len(keys), len(_NEIGHBOURS)), -1, np.int32)
    for side in (0, 1, 4, 5):  # the others are their opposites
        to = square + _NEIGHBOURS[side]
        wanted = _keys_of(shape, to, height)
        # Two places in one square are a body apart, so at most one is within a step.
        found = np.minimum(np.searchsorted(keys, wanted - CLIMB), max(len(keys) - 1, 0))
        inside = ((to >= 0) & (to < shape)).all(axis=1)
        linked = np.flatnonzero(inside & (np.abs(keys[found] - wanted) <= CLIMB))
        links[linked, side] = found[linked]
        links[found[linked], side + 2] = linked
    for corner, (first, second) in zip(range(4, 8), ((0, 1), (1, 2), (2, 3), (3, 0)), strict=True):
        links[(links[:, first] < 0) | (links[:, second] < 0), corner] = -1  # never across a corner
    return links
