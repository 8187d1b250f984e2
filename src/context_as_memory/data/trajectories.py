"""Camera paths through a map: an explorer that walks, looks around, strafes, backs up and keeps coming back.

A path is planned in two layers. The *route* is a smooth curve on the ground from goal to goal; most goals are earlier
goals, so the route loops. The *walker* moves along it with the speeds of a keyboard player and decides where to look.
Every camera position lies on the route, so one clearance check of the route covers all frames. The same map, length and
seed give the same path, bit for bit.
"""

from dataclasses import dataclass

import numpy as np

from context_as_memory import camera
from context_as_memory.data.doom_map import CELL, UNITS_PER_M, DoomMap, GroundGrid
from context_as_memory.errors import UserError

HFOV_DEG = 90.0
MODES = ("walk", "turn", "drift", "return")


@dataclass(frozen=True, kw_only=True)
class PathConfig:
    """How the explorer moves. Ranges are drawn uniformly."""

    speed_m: float = 0.15  # per frame: the speed of the W key
    speed_range_m: tuple[float, float] = (0.09, 0.20)  # used by half of the stretches, for variety
    turn_deg: float = 3.0  # per frame: the speed of the J and L keys
    turn_range_deg: tuple[float, float] = (1.5, 5.0)  # used by 60 % of the turns
    walk_frames: tuple[int, int] = (50, 150)
    drift_frames: tuple[int, int] = (30, 80)
    return_frames: tuple[int, int] = (30, 120)
    home_radius_m: tuple[float, float] = (15.0, 40.0)  # walking distance; goals lie within, so that paths cross again
    revisit: float = 0.6  # share of goals that are earlier goals
    glance_deg: float = 28.0  # standard deviation of the slow difference between heading and gaze
    min_clearance: float = 14.0  # units, of every position


@dataclass(frozen=True, eq=False)
class Path:
    """A camera path: `position_m` [N, 3], `yaw_rad` [N] counter-clockwise from +x, `mode` [N] index into `MODES`."""

    position_m: np.ndarray
    yaw_rad: np.ndarray
    mode: np.ndarray

    def cameras(self, width: int = 160, height: int = 96) -> camera.Cameras:
        """The path as cameras with a horizontal field of view of 90 degrees."""
        return camera.look(self.position_m, self.yaw_rad, camera.pinhole(HFOV_DEG, width, height), width, height)


def plan_path(doom_map: DoomMap, num_frames: int, seed: int, config: PathConfig | None = None) -> Path:
    """Plan a path of `num_frames` poses. Raises `UserError` when the map has no ground to walk on."""
    if num_frames < 1:
        raise UserError(f"a path needs at least 1 frame, not {num_frames}")
    config = config or PathConfig()
    rng = np.random.default_rng(seed)
    length = (num_frames + 2) * max(config.speed_m, config.speed_range_m[1]) * UNITS_PER_M
    walker = _Walker(_plan_route(doom_map.grid, length, rng, config), num_frames, rng, config)
    return walker.run()


# --- The route ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Route:
    """A curve by arc length: `along` [M] (rising) and `points` [M, 3] in units, `heading` [M] radians, unwrapped."""

    along: np.ndarray
    points: np.ndarray
    heading: np.ndarray

    def position(self, along: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(along, self.along, axis) for axis in self.points.T], axis=-1)

    def heading_at(self, along: float) -> float:
        return float(np.interp(along, self.along, self.heading))


def _plan_route(grid: GroundGrid, length: float, rng: np.random.Generator, config: PathConfig) -> _Route:
    """A collision-free smooth route of at least `length` units with many returns."""
    xy = _smooth_route(grid, grid.centres(_goal_to_goal(grid, length, rng, config)), config.min_clearance)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    # Even steps of 4 units from here on, so that smoothing widths below are lengths.
    even = np.arange(0.0, along[-1], 4.0)
    xy = np.stack([np.interp(even, along, axis) for axis in xy.T], axis=-1)
    z = _gaussian(grid.eye_z(xy), 6)  # stairs become ramps; a function of the place on the route, not of time
    ahead = np.minimum(np.arange(len(even)) + 16, len(even) - 1)  # look 2 m ahead
    ahead_xy = xy[ahead] - xy
    heading = np.unwrap(np.arctan2(ahead_xy[:, 1], ahead_xy[:, 0]))
    heading[len(even) - 2 :] = heading[len(even) - 3]  # the last points have nothing ahead
    return _Route(even, np.concatenate([xy, z[:, None]], axis=1), _gaussian(heading, 8))


def _goal_to_goal(grid: GroundGrid, length: float, rng: np.random.Generator, config: PathConfig) -> np.ndarray:
    """int64 [M, 2] grid cells of shortest (wall-avoiding) ways from goal to goal inside a home region."""
    from skimage.graph import MCP_Geometric

    rows, columns = np.flatnonzero(grid.free.any(axis=1)), np.flatnonzero(grid.free.any(axis=0))
    corner = np.array([rows[0], columns[0]])
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    clearance = grid.clearance[crop]
    cost = np.where(grid.free[crop], 1 + 3 * np.exp(-(clearance - 20) / 24), -1.0)  # keeps away from walls where it can
    cells = np.argwhere(grid.free[crop])
    if len(cells) < 50:
        raise UserError("the map has too little walkable ground for a path; choose another map")

    def walking_cost(start: np.ndarray) -> tuple[MCP_Geometric, np.ndarray]:
        search = MCP_Geometric(cost)
        return search, search.find_costs([tuple(start)])[0][tuple(cells.T)]

    room = np.minimum(clearance[tuple(cells.T)], 80.0)  # prefer open ground
    start = cells[rng.choice(len(cells), p=room / room.sum())]
    home_radius = rng.uniform(*config.home_radius_m) * UNITS_PER_M / CELL
    search, away = walking_cost(start)
    cost[tuple(cells[away > 1.6 * home_radius].T)] = -1.0  # cost is 1 to 4 per cell: about the wanted walking distance
    cells, room = cells[away <= 1.6 * home_radius], room[away <= 1.6 * home_radius]
    if len(cells) < 2:
        raise UserError("the map has too little walkable ground for a path; choose another map")

    goals, route, travelled = [start], [start[None]], 0.0
    stride = 0.6 * home_radius
    while travelled * CELL < 1.1 * length + 64:  # smoothing will cut corners
        here = goals[-1]
        search, away = walking_cost(here)
        if rng.random() < config.revisit and len(goals) > 2:
            goal = goals[rng.integers(len(goals) - 1)]
        else:
            wanted = room * np.exp(-(((away - stride) / (0.8 * stride)) ** 2)) * (away > 0) + 1e-12
            goal = cells[rng.choice(len(cells), p=wanted / wanted.sum())]
        if np.array_equal(goal, here):
            continue
        way = np.array(search.traceback(tuple(goal)))
        route.append(way[1:])
        travelled += np.hypot(*np.diff(way, axis=0).T).sum()
        goals.append(goal)
    return np.concatenate(route) + corner


def _smooth_route(grid: GroundGrid, xy: np.ndarray, min_clearance: float) -> np.ndarray:
    """Round the corners of a cell-by-cell route [M, 2], less where that would come too close to a wall."""
    smooth = _gaussian(xy, 6)
    for width in (4.0, 2.5, 1.5, 1.0):
        tight = grid.clearance_at(smooth) < min_clearance + 2
        if not tight.any():
            return smooth
        blend = np.clip(4 * _gaussian(tight.astype(float), 8), 0, 1)[:, None]
        smooth = smooth * (1 - blend) + _gaussian(xy, width) * blend
    return smooth if grid.clearance_at(smooth).min() >= min_clearance else _gaussian(xy, 1.0)


def _gaussian(values: np.ndarray, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, width, axis=0, mode="nearest")


# --- The walker -----------------------------------------------------------------------------------


class _Walker:
    """Moves along a route and turns the head, one stretch of frames after another."""

    def __init__(self, route: _Route, num_frames: int, rng: np.random.Generator, config: PathConfig):
        self.route, self.num_frames, self.rng, self.config = route, num_frames, rng, config
        # Slow coloured noise with the wanted standard deviation: where the gaze wanders while walking.
        noise = _gaussian(rng.standard_normal(num_frames + 400), 45)[200 : num_frames + 200]
        self.glance = np.deg2rad(config.glance_deg) * noise * np.sqrt(2 * 45 * np.sqrt(np.pi))
        self.along = 0.0
        self.yaw = route.heading_at(0.0) + rng.normal(0, 0.5)
        self.frames: list[tuple[float, float, int]] = []

    def run(self) -> Path:
        while len(self.frames) < self.num_frames:
            self._walk()
            choice = self.rng.random()
            if choice < 0.3:
                self._turn()
            elif choice < 0.75:
                self._drift()
            else:
                self._return()
        along, yaw, mode = (np.array(column) for column in zip(*self.frames[: self.num_frames], strict=True))
        return Path(self.route.position(along) / UNITS_PER_M, yaw, mode.astype(np.int64))

    def _record(self, mode: str) -> None:
        self.frames.append((self.along, self.yaw, MODES.index(mode)))

    def _stretch(self, span: tuple[int, int]) -> int:
        return int(self.rng.integers(span[0], span[1] + 1))

    def _speed(self) -> float:
        """Units per frame: the keyboard's speed, or another."""
        keyboard = self.rng.random() < 0.5
        return UNITS_PER_M * (self.config.speed_m if keyboard else self.rng.uniform(*self.config.speed_range_m))

    def _turn_rate(self) -> float:
        keyboard = self.rng.random() < 0.4
        return np.deg2rad(self.config.turn_deg if keyboard else self.rng.uniform(*self.config.turn_range_deg))

    def _advance(self, units: float) -> None:
        self.along = float(np.clip(self.along + units, 0.0, self.route.along[-1]))

    def _look_towards(self, yaw: float, rate: float) -> None:
        """Turn the head a part of the way to `yaw`, at most `rate` per frame, the short way round."""
        self.yaw += float(np.clip(0.2 * _turn_between(self.yaw, yaw), -rate, rate))

    def _walk(self) -> None:
        """Walk on and look where one is going, more or less; at a sharp corner stand and turn first."""
        speed, rate = self._speed(), max(self._turn_rate(), np.deg2rad(2.5))
        for _ in range(self._stretch(self.config.walk_frames)):
            gaze = self.route.heading_at(self.along) + self.glance[min(len(self.frames), self.num_frames - 1)]
            if abs(_turn_between(self.yaw, gaze)) < np.pi / 3:
                self._advance(speed)
            self._look_towards(gaze, rate)
            self._record("walk")

    def _turn(self) -> None:
        """Stand and look around by 60 to 360 degrees; sometimes turn back."""
        angle = np.deg2rad(self.rng.choice([90, 180, 360]) if self.rng.random() < 0.4 else self.rng.uniform(60, 360))
        rate = self._turn_rate() * self.rng.choice([-1, 1])
        count = round(angle / abs(rate))
        back = count if self.rng.random() < 0.3 else 0
        for direction in [1] * count + [-1] * back:
            self.yaw += float(direction * rate)
            self._record("turn")

    def _drift(self) -> None:
        """Move in another direction than one looks: backwards, sideways, with a lagging or a panning gaze."""
        style = self.rng.choice(["hold", "side", "lag", "pan"], p=[0.4, 0.25, 0.15, 0.2])
        speed, rate = self._speed(), self._turn_rate()
        if style == "hold" and self.rng.random() < 0.5:
            speed = -speed  # back along the route, eyes still forward
        side = self.rng.choice([-1, 1])
        pan = np.deg2rad(self.rng.uniform(1.0, self.config.turn_deg)) * side
        for _ in range(self._stretch(self.config.drift_frames)):
            self._advance(speed)
            if style == "side":
                self._look_towards(self.route.heading_at(self.along) + side * np.pi / 2, rate)
            elif style == "lag":
                self._look_towards(self.route.heading_at(max(0.0, self.along - 3 * UNITS_PER_M)), rate)
            elif style == "pan":
                self.yaw += float(pan)
            self._record("drift")

    def _return(self) -> None:
        """Go back through exactly the poses one came by."""
        count = min(self._stretch(self.config.return_frames), len(self.frames) - 1)
        for along, yaw, _ in self.frames[-2 : -2 - count : -1]:
            self.along, self.yaw = along, yaw
            self._record("return")


def _turn_between(start: float, end: float) -> float:
    """The signed angle from one direction to another, the short way round."""
    return (end - start + np.pi) % (2 * np.pi) - np.pi
