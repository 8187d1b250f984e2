"""A Doom map as geometry: sectors, walls, walkable ground, exact wall distances, and its cleaning into a still world.

Units here are map units (32 = 1 m), x east, y north, z up, angles in radians counter-clockwise from +x. The map format
is the one of 1993: vertices, line segments with one or two sides, sectors (floor and ceiling heights), and a BSP tree.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.wad import Lump
from context_as_memory.errors import UserError

UNITS_PER_M = 32.0
EYE_HEIGHT = 41.0  # above the floor
BODY_HEIGHT = 56.0  # least headroom of a walker
BODY_RADIUS = 20.0  # least distance from a walker's path to any wall
MAX_STEP = 24.0
CELL = 8.0  # side of a ground-grid cell

_LINEDEF = np.dtype([(name, "<u2") for name in ("start", "end", "flags", "special", "tag", "right", "left")])
_SIDEDEF = np.dtype([("offset", "<i2", 2), ("textures", "S8", 3), ("sector", "<u2")])
_SECTOR = np.dtype(
    [("floor", "<i2"), ("ceiling", "<i2"), ("textures", "S8", 2), ("light", "<i2"), ("special", "<i2"), ("tag", "<i2")]
)
_THING = np.dtype([(name, "<i2") for name in ("x", "y", "angle", "type", "flags")])
_SEG = np.dtype([(name, "<u2") for name in ("start", "end", "angle", "linedef", "side", "offset")])
_SUBSECTOR = np.dtype([("count", "<u2"), ("first_seg", "<u2")])
_NODE = np.dtype([("x", "<i2"), ("y", "<i2"), ("dx", "<i2"), ("dy", "<i2"), ("boxes", "<i2", 8), ("child", "<u2", 2)])
_NO_SIDE, _LEAF, _IMPASSABLE = 0xFFFF, 0x8000, 1

# Fixed decorations by the thing number of the map format -> radius in units (0: one can walk through it).
_PLAYER_START = 1
DECORATION_RADIUS = {
    **dict.fromkeys((25, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 37, 41, 42, 43, 44, 45, 46, 47, 48), 16),
    **dict.fromkeys((49, 50, 51, 52, 53, 55, 56, 57, 73, 74, 75, 76, 77, 78, 85, 86, 2028), 16),
    **dict.fromkeys((10, 12, 15, 18, 19, 20, 21, 22, 24, 34, 59, 60, 61, 62, 63, 79, 80, 81), 0),
    54: 32,
    70: 10,
    2035: 10,
}


@dataclass(frozen=True, eq=False)
class GroundGrid:
    """Where one can walk, on square cells. Arrays are [rows, columns]; row 0 is the southernmost."""

    origin: np.ndarray  # float64 [2], south-west corner, units
    floor: np.ndarray  # float64, units
    ceiling: np.ndarray  # float64, units
    clearance: np.ndarray  # float64, distance of the cell centre to the nearest blocked cell centre, units
    free: np.ndarray  # bool, the largest connected walkable part of the map

    def cells_at(self, xy: np.ndarray) -> np.ndarray:
        """int64 [..., 2] (row, column) of the cells under positions [..., 2]; positions outside get the border cell."""
        cells = np.floor((np.asarray(xy, float) - self.origin) / CELL).astype(np.int64)[..., ::-1]
        return np.clip(cells, 0, np.array(self.free.shape) - 1)

    def centres(self, cells: np.ndarray) -> np.ndarray:
        """float64 [..., 2] positions of the centres of cells [..., 2] (row, column)."""
        return self.origin + (np.asarray(cells, float)[..., ::-1] + 0.5) * CELL

    def clearance_at(self, xy: np.ndarray) -> np.ndarray:
        """Distance [...] to the nearest obstacle at positions [..., 2], interpolated; exact to about one cell."""
        from scipy.ndimage import map_coordinates

        place = (np.asarray(xy, float) - self.origin) / CELL - 0.5
        return map_coordinates(self.clearance, np.moveaxis(place[..., ::-1], -1, 0), order=1, mode="nearest")

    def eye_z(self, xy: np.ndarray) -> np.ndarray:
        """Eye height [...] of a walker standing at positions [..., 2], kept below low ceilings."""
        rows, columns = np.moveaxis(self.cells_at(xy), -1, 0)
        return np.minimum(self.floor[rows, columns] + EYE_HEIGHT, self.ceiling[rows, columns] - 10.0)


@dataclass(frozen=True, eq=False)
class DoomMap:
    """One map. Build it with `from_lumps`; `static` gives the still world that is rendered and walked."""

    name: str
    linedefs: np.ndarray
    sidedefs: np.ndarray
    sectors: np.ndarray
    things: np.ndarray
    raw: dict[str, bytes]  # all ten lumps as read; the ones this class never changes are written back from here

    @classmethod
    def from_lumps(cls, name: str, lumps: dict[str, bytes]) -> "DoomMap":
        """Parse the lumps found by `wad.find_maps`. Raises `UserError` on a damaged map."""
        try:
            linedefs, sidedefs, sectors, things = (
                np.frombuffer(lumps[lump], dtype).copy()
                for lump, dtype in (
                    ("LINEDEFS", _LINEDEF), ("SIDEDEFS", _SIDEDEF), ("SECTORS", _SECTOR), ("THINGS", _THING),
                )
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise UserError(f"map {name} is damaged or not in the classic Doom format ({error})") from error
        return cls(name, linedefs, sidedefs, sectors, things, dict(lumps))

    def lumps(self) -> list[Lump]:
        """The map as lumps for `wad.write_wad`: its marker, then its ten geometry lumps."""
        changed = {
            "LINEDEFS": self.linedefs.tobytes(),
            "SIDEDEFS": self.sidedefs.tobytes(),
            "SECTORS": self.sectors.tobytes(),
            "THINGS": self.things.tobytes(),
        }
        return [(self.name, b""), *((lump, changed.get(lump, data)) for lump, data in self.raw.items())]

    # --- geometry ---------------------------------------------------------------------------------

    @cached_property
    def vertices(self) -> np.ndarray:
        """float64 [V, 2], units."""
        return np.frombuffer(self.raw["VERTEXES"], "<i2").reshape(-1, 2).astype(float)

    @cached_property
    def line_ends(self) -> np.ndarray:
        """float64 [L, 2 ends, 2], units."""
        return np.stack([self.vertices[self.linedefs["start"]], self.vertices[self.linedefs["end"]]], axis=1)

    @cached_property
    def line_sectors(self) -> np.ndarray:
        """int64 [L, 2]: sector on the right and on the left of every line, -1 where there is none (solid rock)."""
        sides = np.stack([self.linedefs["right"], self.linedefs["left"]], axis=1).astype(np.int64)
        exists = sides != _NO_SIDE
        return np.where(exists, self.sidedefs["sector"][np.where(exists, sides, 0)].astype(np.int64), -1)

    @cached_property
    def _line_openings(self) -> np.ndarray:
        """float64 [L, 2]: floor and ceiling of the gap at every line; empty (inf, -inf) for one-sided lines."""
        right, left = self.line_sectors.T
        floor, ceiling = self.sectors["floor"].astype(float), self.sectors["ceiling"].astype(float)
        gap = np.stack([np.maximum(floor[right], floor[left]), np.minimum(ceiling[right], ceiling[left])], axis=1)
        gap[(right < 0) | (left < 0)] = (np.inf, -np.inf)
        return gap

    def wall_segments(self, eye_z: float | None = None) -> np.ndarray:
        """float64 [S, 2 ends, 2] segments that stop a walker or, with `eye_z`, a horizontal ray at that height."""
        gap_floor, gap_ceiling = self._line_openings.T
        if eye_z is not None:
            return self.line_ends[(eye_z <= gap_floor) | (eye_z >= gap_ceiling)]
        right, left = self.line_sectors.T
        floor = self.sectors["floor"].astype(float)
        impassable = (self.linedefs["flags"] & _IMPASSABLE) != 0
        step = np.abs(floor[right] - floor[left]) > MAX_STEP  # garbage for one-sided lines, whose gap is empty anyway
        return self.line_ends[impassable | step | (gap_ceiling - gap_floor < BODY_HEIGHT)]

    def sector_at(self, xy: np.ndarray) -> np.ndarray:
        """int64 [...] sector under positions [..., 2], by walking down the BSP tree. Outside the map: one nearby."""
        xy = np.asarray(xy, float)
        points = xy.reshape(-1, 2)
        nodes, segs = np.frombuffer(self.raw["NODES"], _NODE), np.frombuffer(self.raw["SEGS"], _SEG)
        subsectors = np.frombuffer(self.raw["SSECTORS"], _SUBSECTOR)
        place = np.full(
            len(points), len(nodes) - 1 if len(nodes) else _LEAF, np.int64
        )  # node number, or leaf with the top bit
        while len(inner := np.flatnonzero((place & _LEAF) == 0)):
            node = nodes[place[inner]]
            offset = points[inner] - np.stack([node["x"], node["y"]], axis=1)
            on_left = offset[:, 1] * node["dx"] > offset[:, 0] * node["dy"]
            place[inner] = node["child"][np.arange(len(inner)), on_left.astype(int)]
        seg = segs[subsectors["first_seg"][place & ~_LEAF]]
        line = self.linedefs[seg["linedef"]]
        side = np.where(seg["side"] == 0, line["right"], line["left"])
        return self.sidedefs["sector"][side].astype(np.int64).reshape(xy.shape[:-1])

    def ray_depth(self, origin: np.ndarray, angles: np.ndarray, eye_z: float | None = None) -> np.ndarray:
        """Exact distance along horizontal rays to the first wall, units; inf where there is none.

        Args:
            origin: [2] position, units.
            angles: [...] ray directions, radians counter-clockwise from +x.
            eye_z: height of the rays; by default the eye of a walker standing at `origin`.

        A wall is a one-sided line, or a two-sided one whose opening does not contain the eye height; no decoration is.
        """
        origin, angles = np.asarray(origin, float), np.asarray(angles, float)
        if eye_z is None:
            eye_z = float(self.sectors["floor"][self.sector_at(origin)]) + EYE_HEIGHT
        ends = self.wall_segments(eye_z)
        start, edge = ends[:, 0] - origin, ends[:, 1] - ends[:, 0]
        direction = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[..., None, :]  # [..., 1, 2] against [S, 2]

        def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

        with np.errstate(divide="ignore", invalid="ignore"):
            slope = cross(direction, edge)
            distance, along_edge = cross(start, edge) / slope, cross(start, direction) / slope
            hit = (distance > 0) & (along_edge >= 0) & (along_edge <= 1)  # false for parallel lines (nan, inf)
        return np.where(hit, distance, np.inf).min(axis=-1, initial=np.inf)

    # --- walking ----------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> GroundGrid:
        """Walkable ground. Raises `UserError` when the map has none."""
        from scipy import ndimage

        origin = self.vertices.min(axis=0) - 64.0
        columns, rows = np.ceil((self.vertices.max(axis=0) + 64.0 - origin) / CELL).astype(int)
        centres = origin + (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) + 0.5) * CELL
        sector = self.sector_at(centres)
        floor, ceiling = self.sectors["floor"][sector].astype(float), self.sectors["ceiling"][sector].astype(float)

        blocked = np.zeros((rows, columns), bool)
        # Lines are drawn with two points per cell: no gap for the 4-connected flood fill below.
        ends = self.wall_segments()
        counts = (np.abs(ends[:, 1] - ends[:, 0]).max(axis=1) / CELL * 2).astype(int) + 2
        line = np.repeat(np.arange(len(ends)), counts)
        step = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
        fraction = (step / (counts[line] - 1))[:, None]
        column, row = ((ends[line, 0] * (1 - fraction) + ends[line, 1] * fraction - origin) // CELL).astype(int).T
        blocked[row, column] = True
        for thing in self.things:
            if radius := DECORATION_RADIUS.get(int(thing["type"]), 0):
                low = ((np.array([thing["x"], thing["y"]]) - radius - origin) // CELL).astype(int).clip(0)
                high = low + int(2 * radius // CELL) + 2
                window = np.s_[low[1] : high[1], low[0] : high[0]]
                blocked[window] |= np.hypot(*np.moveaxis(centres[window] - [thing["x"], thing["y"]], -1, 0)) < radius

        clearance = ndimage.distance_transform_edt(~blocked) * CELL
        regions, _ = ndimage.label(~blocked)
        border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
        outside = np.isin(regions, border[border > 0])
        parts, count = ndimage.label((clearance > BODY_RADIUS) & (ceiling - floor >= BODY_HEIGHT) & ~outside)
        if count == 0:
            raise UserError(f"map {self.name} has no walkable ground; choose another map")
        free = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        return GroundGrid(origin, floor, ceiling, clearance, free)

    # --- cleaning ---------------------------------------------------------------------------------

    def static(self) -> "DoomMap":
        """The same map as a still world: no monsters or items, nothing that changes, doors open, dark rooms lit.

        Only numbers inside the lumps change; lines and BSP tree stay as they are.
        """
        sectors, linedefs = self.sectors.copy(), self.linedefs.copy()
        linedefs["special"] = 0
        linedefs["tag"] = 0
        sectors["special"] = 0
        light = sectors["light"].astype(float)
        sectors["light"] = np.clip(np.maximum(light, 100 + 0.6 * light), 0, 255).astype(np.int16)
        self._open_doors(sectors)
        solid = [int(kind) == _PLAYER_START or int(kind) in DECORATION_RADIUS for kind in self.things["type"]]
        return replace(self, linedefs=linedefs, sectors=sectors, things=self.things[np.array(solid, bool)])

    def _open_doors(self, sectors: np.ndarray) -> None:
        """Raise the ceiling of closed sectors to just below their lowest open neighbour, if that makes a passage."""
        floor, ceiling = self.sectors["floor"].astype(int), self.sectors["ceiling"].astype(int)
        right, left = self.line_sectors.T
        between = (right >= 0) & (left >= 0) & (right != left)
        pairs = np.concatenate([self.line_sectors[between], self.line_sectors[between][:, ::-1]])
        for door in np.flatnonzero(ceiling - floor <= 8):
            neighbours = np.unique(pairs[pairs[:, 0] == door, 1])
            open_ones = neighbours[ceiling[neighbours] - floor[neighbours] >= BODY_HEIGHT]
            if len(open_ones):
                raised = ceiling[open_ones].min() - 4
                if raised - floor[door] >= BODY_HEIGHT:
                    sectors["ceiling"][door] = raised


def horizon_rays(doom_map: DoomMap, cameras: Cameras, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Level rays through equal image columns, left to right: ground directions [N, columns, 2] of unit depth, and the
    depth in metres, along the viewing direction, at which each meets a wall, [N, columns]; inf where none."""
    column = (np.arange(columns) + 0.5) / columns * 2 - 1
    k = cameras.half_width_tan[:, None, None]
    rays = cameras.forward[:, None, :2] + column[:, None] * k * cameras.right[:, None, :2]
    angle, length = np.arctan2(rays[..., 1], rays[..., 0]), np.linalg.norm(rays, axis=-1)
    places = cameras.position * UNITS_PER_M
    reach = [doom_map.ray_depth(place[:2], row, float(place[2])) for place, row in zip(places, angle, strict=True)]
    return rays, np.stack(reach) / UNITS_PER_M / length
