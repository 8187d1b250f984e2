"""Camera paths over ground: an explorer that walks, looks around, strafes, backs up and keeps coming back.

A path is planned in two layers. The *route* is a smooth curve on the ground from goal to goal; most goals are earlier
goals, so the route loops. The *walker* moves along it with the speeds of a keyboard player and decides where to look.
Every camera position lies on the route, so one clearance check of the route covers all frames. The same ground, length
and seed give the same path, bit for bit. Lengths are metres, angles radians.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
    min_clearance_m: float = 0.4375  # of every position
    pitch_limit_deg: float = 0.0  # the gaze goes up and down as far as this; 0: it stays level
    nod_deg: float = 6.0  # standard deviation of the slow wander of the gaze up and down


@dataclass(frozen=True, eq=False)
class Path:
    """A camera path: `position_m` [N, 3], `yaw_rad` [N] counter-clockwise from +x, `pitch_rad` [N] upwards, `mode` [N]
    index into `MODES`."""

    position_m: np.ndarray
    yaw_rad: np.ndarray
    pitch_rad: np.ndarray
    mode: np.ndarray

    def cameras(self, width: int = 160, height: int = 96, hfov_deg: float = HFOV_DEG) -> camera.Cameras:
        """The path as cameras of one size and horizontal field of view."""
        K = camera.pinhole(hfov_deg, width, height)
        return camera.look(self.position_m, self.yaw_rad, K, width, height, pitch_rad=self.pitch_rad)


class WalkingGround(Protocol):
    """Ground to walk on: P places and the cheapest ways between them."""

    @property
    def step_m(self) -> float:
        """Between neighbouring places."""
        ...

    @property
    def appeal(self) -> np.ndarray:
        """How readily a place becomes a goal, [P], at least 0."""
        ...

    def search(self, start: int) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
        """What it costs to walk from a place to every other, [P], 1 to 4 a step; and a function from a place to the
        points [M, D] of the way there. The first two of the D coordinates are x and y."""
        ...

    def only(self, places: np.ndarray) -> "WalkingGround":
        """The same ground without all other places; bool [P]."""
        ...

    def clearance_at(self, points: np.ndarray) -> np.ndarray:
        """Distance [M] to what is in the way."""
        ...

    def eye_z(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights [M] of the eye of a walker who stands there: usual, least and greatest."""
        ...


def plan_path(doom_map: DoomMap, num_frames: int, seed: int, config: PathConfig | None = None) -> Path:
    """Plan a path of `num_frames` level poses. Raises `UserError` when the map has no ground to walk on."""
    return plan_walk(DoomGround(doom_map.grid), num_frames, seed, config or PathConfig())


def plan_walk(ground: WalkingGround, num_frames: int, seed: int, config: PathConfig) -> Path:
    """Plan a path of `num_frames` poses over any ground. Raises `UserError` when there is too little of it."""
    if num_frames < 1:
        raise UserError(f"a path needs at least 1 frame, not {num_frames}")
    rng = np.random.default_rng(seed)
    length_m = (num_frames + 2) * max(config.speed_m, config.speed_range_m[1])
    return _Walker(_plan_route(ground, length_m, rng, config), num_frames, rng, config).run()


# --- The ground of a Doom map ---------------------------------------------------------------------


class DoomGround:
    """The walkable cells of a Doom map as ground, in metres. Points are x and y: no place lies above another.

    free: bool [rows, columns] like the grid, where to walk; None: wherever the grid is free.
    """

    step_m = CELL / UNITS_PER_M

    def __init__(self, grid: GroundGrid, free: np.ndarray | None = None):
        self.grid = grid
        self.free = grid.free if free is None else free  # bool, like the grid
        self.cells = np.argwhere(self.free)
        clearance = grid.clearance[tuple(self.cells.T)]
        self.appeal = np.minimum(clearance, 80.0)  # prefer open ground

    def search(self, start: int) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
        """Costs [P] and ways of points [M, 2], see `WalkingGround.search`."""
        from skimage.graph import MCP_Geometric

        rows, columns = np.flatnonzero(self.grid.free.any(axis=1)), np.flatnonzero(self.grid.free.any(axis=0))
        corner = np.array([rows[0], columns[0]])
        crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        clearance = self.grid.clearance[crop]
        # Keeps away from walls where it can.
        cost = np.where(self.free[crop], 1 + 3 * np.exp(-(clearance - 20) / 24), -1.0)
        cells = self.cells - corner
        found = MCP_Geometric(cost)
        away = found.find_costs([tuple(cells[start])])[0][tuple(cells.T)]

        def way(goal: int) -> np.ndarray:
            return self.grid.centres(np.array(found.traceback(tuple(cells[goal]))) + corner) / UNITS_PER_M

        return away, way

    def only(self, places: np.ndarray) -> "DoomGround":
        """The ground without all other places; bool [P]."""
        free = np.zeros_like(self.free)
        free[tuple(self.cells[places].T)] = True
        return DoomGround(self.grid, free)

    def clearance_at(self, points: np.ndarray) -> np.ndarray:
        """Metres [M] from points [M, 2] to the nearest wall."""
        return self.grid.clearance_at(points * UNITS_PER_M) / UNITS_PER_M

    def eye_z(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights [M] of the eye over points [M, 2], metres: usual, least and greatest."""
        usual = self.grid.eye_z(points * UNITS_PER_M) / UNITS_PER_M
        anything = np.full(len(points), 1e6)
        return usual, -anything, anything


# --- The route ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Route:
    """A curve by arc length on the ground: `along` [M] (rising) and `points` [M, 3] in metres, `heading` and `slope`
    [M] radians, the heading unwrapped."""

    along: np.ndarray
    points: np.ndarray
    heading: np.ndarray
    slope: np.ndarray

    def position(self, along: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(along, self.along, axis) for axis in self.points.T], axis=-1)

    def heading_at(self, along: float) -> float:
        return float(np.interp(along, self.along, self.heading))

    def slope_at(self, along: float) -> float:
        return float(np.interp(along, self.along, self.slope))


def _plan_route(ground: WalkingGround, length_m: float, rng: np.random.Generator, config: PathConfig) -> _Route:
    """A collision-free smooth route of at least `length_m` with many returns."""
    points = _smooth_route(ground, _goal_to_goal(ground, length_m, rng, config), config.min_clearance_m)
    along = np.concatenate([[0.0], np.cumsum(_steps(points))])
    # Even steps of 1/8 m from here on, so that smoothing widths below are lengths.
    even = np.arange(0.0, along[-1], 0.125)
    points = np.stack([np.interp(even, along, axis) for axis in points.T], axis=-1)
    xy, z = points[:, :2], _eye_heights(ground, points)
    ahead = np.minimum(np.arange(len(even)) + 16, len(even) - 1)  # look 2 m ahead
    ahead_xy = xy[ahead] - xy
    heading = np.unwrap(np.arctan2(ahead_xy[:, 1], ahead_xy[:, 0]))
    heading[len(even) - 2 :] = heading[len(even) - 3]  # the last points have nothing ahead
    slope = np.arctan2(z[ahead] - z, 2.0)
    return _Route(even, np.concatenate([xy, z[:, None]], axis=1), _gaussian(heading, 8), _gaussian(slope, 8))


def _eye_heights(ground: WalkingGround, points: np.ndarray) -> np.ndarray:
    """Heights [M] of the eye along even steps: stairs become ramps; a function of the place on the route, not of
    time."""
    from scipy.ndimage import minimum_filter1d

    usual, least, greatest = ground.eye_z(points)
    ceiling = _gaussian(minimum_filter1d(greatest, 9), 1)  # ducks before the edge of a ceiling, not at it
    return np.maximum(np.minimum(_gaussian(usual, 6), ceiling), least)


def _goal_to_goal(ground: WalkingGround, length_m: float, rng: np.random.Generator, config: PathConfig) -> np.ndarray:
    """Points [M, D] of cheapest (wall-avoiding) ways from goal to goal inside a home region."""
    if len(ground.appeal) < 50:
        raise UserError("the map has too little walkable ground for a path; choose another map")
    start = int(rng.choice(len(ground.appeal), p=ground.appeal / ground.appeal.sum()))
    home_radius = rng.uniform(*config.home_radius_m) / ground.step_m
    near = ground.search(start)[0] <= 1.6 * home_radius  # 1 to 4 a step: about the wanted walking distance
    ground, start = ground.only(near), int(np.count_nonzero(near[:start]))
    if len(ground.appeal) < 2:
        raise UserError("the map has too little walkable ground for a path; choose another map")

    found = {start: ground.search(start)}
    goals, route, travelled_m = [start], [found[start][1](start)], 0.0
    stride = 0.6 * home_radius
    while travelled_m < 1.1 * length_m + 2.0:  # smoothing will cut corners
        here = goals[-1]
        if here not in found:
            found[here] = ground.search(here)
        away, way_to = found[here]
        if rng.random() < config.revisit and len(goals) > 2:
            goal = goals[rng.integers(len(goals) - 1)]
        else:
            wanted = ground.appeal * np.exp(-(((away - stride) / (0.8 * stride)) ** 2)) * (away > 0) + 1e-12
            goal = int(rng.choice(len(wanted), p=wanted / wanted.sum()))
        if goal == here:
            continue
        way = way_to(goal)
        route.append(way[1:])
        travelled_m += _steps(way).sum()
        goals.append(goal)
    return np.concatenate(route)


def _steps(points: np.ndarray) -> np.ndarray:
    """Lengths [M - 1] on the ground of the steps between points [M, D]."""
    return np.hypot(*np.diff(points[:, :2], axis=0).T)


def _smooth_route(ground: WalkingGround, points: np.ndarray, min_clearance_m: float) -> np.ndarray:
    """Round the corners of a place-by-place route [M, D], less where that would come too close to a wall."""
    smooth = _gaussian(points, 6)
    for width in (4.0, 2.5, 1.5, 1.0):
        tight = ground.clearance_at(smooth) < min_clearance_m + 0.0625
        if not tight.any():
            return smooth
        blend = np.clip(4 * _gaussian(tight.astype(float), 8), 0, 1)[:, None]
        smooth = smooth * (1 - blend) + _gaussian(points, width) * blend
    return smooth if ground.clearance_at(smooth).min() >= min_clearance_m else _gaussian(points, 1.0)


def _gaussian(values: np.ndarray, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, width, axis=0, mode="nearest")


# --- The walker -----------------------------------------------------------------------------------


class _Walker:
    """Moves along a route and turns the head, one stretch of frames after another."""

    def __init__(self, route: _Route, num_frames: int, rng: np.random.Generator, config: PathConfig):
        self.route, self.num_frames, self.rng, self.config = route, num_frames, rng, config
        self.glance = self._wander(config.glance_deg)
        self.along = 0.0
        self.yaw = route.heading_at(0.0) + rng.normal(0, 0.5)
        self.limit = np.deg2rad(config.pitch_limit_deg)
        self.pitch = self.lift = 0.0  # lift: how far this stretch is walked looking up
        self.nod = self._wander(config.nod_deg) if self.limit else np.zeros(num_frames)
        self.frames: list[tuple[float, float, float, int]] = []

    def _wander(self, deg: float) -> np.ndarray:
        """Slow coloured noise [N] with the wanted standard deviation: where the gaze wanders while walking."""
        noise = _gaussian(self.rng.standard_normal(self.num_frames + 400), 45)[200 : self.num_frames + 200]
        return np.deg2rad(deg) * noise * np.sqrt(2 * 45 * np.sqrt(np.pi))

    def run(self) -> Path:
        while len(self.frames) < self.num_frames:
            if self.limit:
                self.lift = float(self.rng.uniform(-0.7, 0.7) * self.limit) if self.rng.random() < 0.3 else 0.0
            self._walk()
            choice = self.rng.random()
            if choice < 0.3:
                if self.limit and self.rng.random() < 0.4:
                    self._look_up_or_down()
                else:
                    self._turn()
            elif choice < 0.75:
                self._drift()
            else:
                self._return()
        along, yaw, pitch, mode = (np.array(column) for column in zip(*self.frames[: self.num_frames], strict=True))
        return Path(self.route.position(along), yaw, pitch, mode.astype(np.int64))

    def _record(self, mode: str) -> None:
        self.frames.append((self.along, self.yaw, self.pitch, MODES.index(mode)))

    def _tilt(self) -> None:
        """Raise or lower the gaze towards where it belongs: along the slope that one looks down, and a little off."""
        if self.limit:
            ahead = np.cos(self.yaw - self.route.heading_at(self.along))
            gaze = self.nod[min(len(self.frames), self.num_frames - 1)] + self.lift
            self._tilt_towards(gaze + 0.7 * ahead * self.route.slope_at(self.along))

    def _tilt_towards(self, pitch: float) -> None:
        """Move the gaze up or down to `pitch`, at most as fast as the I and K keys do and as far as the limit."""
        rate = np.deg2rad(self.config.turn_deg)
        self.pitch += float(np.clip(np.clip(pitch, -self.limit, self.limit) - self.pitch, -rate, rate))

    def _stretch(self, span: tuple[int, int]) -> int:
        return int(self.rng.integers(span[0], span[1] + 1))

    def _speed(self) -> float:
        """Metres per frame: the keyboard's speed, or another."""
        keyboard = self.rng.random() < 0.5
        return self.config.speed_m if keyboard else self.rng.uniform(*self.config.speed_range_m)

    def _turn_rate(self) -> float:
        keyboard = self.rng.random() < 0.4
        return np.deg2rad(self.config.turn_deg if keyboard else self.rng.uniform(*self.config.turn_range_deg))

    def _advance(self, metres: float) -> None:
        self.along = float(np.clip(self.along + metres, 0.0, self.route.along[-1]))

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
            self._tilt()
            self._record("walk")

    def _turn(self) -> None:
        """Stand and look around by 60 to 360 degrees; sometimes turn back."""
        angle = np.deg2rad(self.rng.choice([90, 180, 360]) if self.rng.random() < 0.4 else self.rng.uniform(60, 360))
        rate = self._turn_rate() * self.rng.choice([-1, 1])
        count = round(angle / abs(rate))
        back = count if self.rng.random() < 0.3 else 0
        for direction in [1] * count + [-1] * back:
            self.yaw += float(direction * rate)
            self._tilt()
            self._record("turn")

    def _look_up_or_down(self) -> None:
        """Stand, look up or down as the keys do, stay a little, and look ahead again."""
        before = self.pitch
        goal = float(self.rng.choice([-1, 1]) * self.rng.uniform(0.5, 1.0) * self.limit)
        stay = self._stretch((5, 30))
        for target, least in ((goal, stay), (before, 1)):
            while abs(self.pitch - target) > 1e-9 or least > 0:
                least -= abs(self.pitch - target) <= 1e-9
                self._tilt_towards(target)
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
                self._look_towards(self.route.heading_at(max(0.0, self.along - 3.0)), rate)
            elif style == "pan":
                self.yaw += float(pan)
            self._tilt()
            self._record("drift")

    def _return(self) -> None:
        """Go back through exactly the poses one came by."""
        count = min(self._stretch(self.config.return_frames), len(self.frames) - 1)
        for along, yaw, pitch, _ in self.frames[-2 : -2 - count : -1]:
            self.along, self.yaw, self.pitch = along, yaw, pitch
            self._record("return")


def _turn_between(start: float, end: float) -> float:
    """The signed angle from one direction to another, the short way round."""
    return (end - start + np.pi) % (2 * np.pi) - np.pi
