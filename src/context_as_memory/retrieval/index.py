"""Views of a bank that grows, kept so that a query looks at the few that can matter, however many there are.

Two ideas. A wedge lies in a circle, so two wedges can only overlap where their circles touch: a grid over the centres
gives exactly the candidates, and appending to it costs the same for the first and the millionth frame. And in a bounded
world the number of frames grows but the number of *different* views does not: from `Crowd.frames` on, only the newest
frame of each pose bin (`bin_m` x `bin_rad`) is a candidate, and of these the `NEAREST`, since views overlap most
that look at the same place. The others stay stored: where the newest frame of a bin is not allowed, the newest allowed
one stands for it. Frames that were recorded have bins of their own, so that none is hidden by what was made of it.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews, coordinates, ground_basis, planar
from context_as_memory.retrieval.overlap import circles
from context_as_memory.retrieval.rule import Bools, Floats, Indices, RetrievalConfig
from context_as_memory.shapes import Bool, Float, Int

# Candidates of a crowded index: those whose point this share of the far limit ahead lies nearest to a target's.
# Measured in a 25 m world of 6,000 views, 3,300 of them in reach: among 1,536 are all of the 256 with most overlap.
NEAREST, AHEAD = 1536, 0.6
PLACE = 5  # numbers by which a view is found: see ViewIndex._places
LEVEL_RAD = float(np.radians(0.5))  # the ground is laid anew when the cameras' mean up has turned by more than this


@runtime_checkable
class Index(Protocol):
    """What `retrieve` needs to know of a bank that grows. Views are numbered as the entries of the bank."""

    basis: Floats  # [2, 3]: the ground that views are seen on

    def fits(self, config: RetrievalConfig) -> bool:
        """Whether it may be asked for this rule."""
        ...

    def update(self, cameras: Cameras, recorded: Bool[np.ndarray, " n"] | None = None) -> None:
        """Take in what a bank has gained: `cameras` are all of its entries, of which the first are known already.
        recorded: bool [N], which of them were not generated (None: no difference is made), the same in every call.
        """
        ...

    def all_views(self) -> PlanarViews:
        """Views of all entries."""
        ...

    def within_reach(
        self, targets: Cameras, allowed: Bool[np.ndarray, " n"] | None = None
    ) -> Int[np.ndarray, " reach"]:
        """Allowed entries (bool [N]; None: all are), ascending, that retrieval shall look at for these targets."""
        ...


class AllViews:
    """The plain index: everything is looked at, every time. What the others are judged by."""

    def __init__(self) -> None:
        self.basis: Floats = np.eye(2, 3)
        self._views = PlanarViews(np.empty((0, 2)), np.empty((0, 2)), np.empty(0))

    def fits(self, config: RetrievalConfig) -> bool:
        return True

    def update(self, cameras: Cameras, recorded: Bool[np.ndarray, " n"] | None = None) -> None:
        self.basis = ground_basis(cameras)
        self._views = planar(cameras, self.basis)

    def all_views(self) -> PlanarViews:
        return self._views

    def within_reach(
        self, targets: Cameras, allowed: Bool[np.ndarray, " n"] | None = None
    ) -> Int[np.ndarray, " reach"]:
        return np.arange(len(self._views.origin)) if allowed is None else np.flatnonzero(allowed)


class ViewIndex:
    """Planar views of all entries of a bank, in the same order, with a grid over the current candidates."""

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config
        self._length = 0
        self._up_sum = np.zeros(3)
        self.basis: Floats = np.eye(2, 3)
        self._start(64)

    def fits(self, config: RetrievalConfig) -> bool:
        """Whether views are sorted as this rule wants it: by the same kind of view, depths and bins."""
        return _sorting(config) == _sorting(self.config)

    def __len__(self) -> int:
        return self._length

    def _start(self, room: int) -> None:
        """Empty tables with room for so many views."""
        self._origin, self._heading = np.empty((room, 2)), np.empty((room, 2))
        self._k = np.empty(room)
        self._places = np.empty((PLACE, room))  # circle around what is seen (x, y, radius), and the place looked at
        self._bin = np.empty(room, np.int32)  # the number of the bin that each view falls into
        self._length, self._widest = 0, 0.0
        # By what bins hold: their number, their newest view and the cell that it lies in.
        self._bins: dict[tuple[int, ...], tuple[int, int, _Cell]] = {}
        self._cells: dict[tuple[int, int], _Cell] = {}

    def update(self, cameras: Cameras, recorded: Bool[np.ndarray, " n"] | None = None) -> None:
        """Take in what a bank has gained.

        Taking entries in at once or one by one makes the same index, bit for bit.
        """
        recorded = np.zeros(len(cameras), bool) if recorded is None else recorded
        while self._length < len(cameras):
            ups = np.concatenate([self._up_sum[None], -cameras.down[self._length :]])
            sums = np.add.accumulate(ups)[1:]  # in order, as one by one
            if self._length == 0:
                self.basis = ground_basis(cameras, sums[0])
            tilted = sums @ np.cross(self.basis[0], self.basis[1]) < np.cos(LEVEL_RAD) * np.linalg.norm(sums, axis=1)
            level = int(np.argmax(tilted)) if tilted.any() else len(sums)
            if level:
                end = self._length + level
                self._append(_part(cameras, self._length, end), recorded[self._length : end])
                self._up_sum = sums[level - 1]
            else:  # lay the ground anew, under all that is known and one more
                end = self._length + 1
                self.basis, self._up_sum = ground_basis(cameras, sums[0]), sums[0]
                self._start(max(64, 2 * end))
                self._append(_part(cameras, 0, end), recorded[:end])

    def _bounds(self, cameras: Cameras, views: PlanarViews) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Circles on the ground around what each camera can see: centres [N, 2], radii [N]."""
        near, far = self.config.near_m, self.config.far_m
        if self.config.strategy != "frustum":
            return circles(views, near, far)
        centre, radius = spheres(cameras, near, far)  # seen from above a sphere is a circle
        return coordinates(centre, self.basis), radius

    def _append(self, cameras: Cameras, recorded: Bools) -> None:
        views = planar(cameras, self.basis)
        start, end = self._length, self._length + len(views.origin)
        if end > len(self._k):
            for name in ("_origin", "_heading", "_k", "_bin"):
                old = getattr(self, name)
                grown = np.empty((2 * end, *old.shape[1:]), old.dtype)
                grown[:start] = old[:start]
                setattr(self, name, grown)
            self._places = np.concatenate([self._places[:, :start], np.empty((PLACE, 2 * end - start))], axis=1)
        centre, radius = self._bounds(cameras, views)
        rows = slice(start, end)
        self._origin[rows], self._heading[rows], self._k[rows] = views.origin, views.heading, views.half_width_tan
        self._length, self._widest = end, max(self._widest, float(radius.max()))
        bins = np.column_stack([pose_bins(cameras, self.basis, self.config), recorded])
        spots = np.floor(centre / self.config.far_m).astype(np.int64)
        places = np.column_stack([centre, radius, views.origin + AHEAD * self.config.far_m * views.heading])
        self._places[:, rows] = places.T
        for row, key, spot in zip(
            range(start, end), map(tuple, bins.tolist()), map(tuple, spots.tolist()), strict=True
        ):
            cell = self._cells.setdefault(spot, _Cell())
            number, older, home = self._bins.get(key, (len(self._bins), None, cell))
            if older is not None:
                home.remove(older)
            cell.add(row, places[row - start])
            self._bins[key] = number, row, cell
            self._bin[row] = number

    def all_views(self) -> PlanarViews:
        """Views of all entries."""
        rows = slice(0, self._length)
        return PlanarViews(self._origin[rows], self._heading[rows], self._k[rows])

    @property
    def crowded(self) -> bool:
        """Whether only the newest allowed frame of each pose bin is a candidate."""
        return self._length > self.config.crowd.frames

    def within_reach(
        self, targets: Cameras, allowed: Bool[np.ndarray, " n"] | None = None
    ) -> Int[np.ndarray, " reach"]:
        """Candidates, ascending, whose view can overlap one of the targets' views: all of them, or in a crowd the
        `NEAREST`. A mask that forbids something costs a pass over it, the one thing here that grows with the bank."""
        goals = planar(targets, self.basis)
        centre, radius = self._bounds(targets, goals)
        if allowed is not None and not allowed.all():
            rows = self._newest(allowed) if self.crowded else np.flatnonzero(allowed)
            places = self._places[:, rows]
        elif not self.crowded:
            rows, places = np.arange(self._length), self._places[:, : self._length]
        else:
            reach = (self._widest + float(radius.max())) / self.config.far_m
            low = np.floor(centre.min(axis=0) / self.config.far_m - reach).astype(int)
            high = np.floor(centre.max(axis=0) / self.config.far_m + reach).astype(int)
            spots = [(x, y) for x in range(low[0], high[0] + 1) for y in range(low[1], high[1] + 1)]
            cells = [self._cells[spot] for spot in spots if spot in self._cells]
            if not cells:
                return np.empty(0, np.int64)
            rows = np.concatenate([cell.rows() for cell in cells])
            places = np.concatenate([cell.places() for cell in cells], axis=1)
        touches: Bools = np.zeros(len(rows), bool)
        for (x, y), r in zip(centre, radius, strict=True):
            dx, dy, both = places[0] - x, places[1] - y, places[2] + r
            touches |= dx * dx + dy * dy <= both * both
        touching = np.flatnonzero(touches)
        if not self.crowded:
            return rows[touching]  # ascending already
        if len(touching) > NEAREST:
            touching = touching[self._nearest(places[3:, touching], goals)]
        return np.sort(rows[touching])

    def _newest(self, allowed: Bools) -> Indices:
        """The newest allowed view of each bin that has one."""
        rows, newest = np.flatnonzero(allowed), np.full(len(self._bins), -1)
        newest[self._bin[rows]] = rows  # ascending: the last one of a bin stays
        return newest[newest >= 0]

    def _nearest(self, seen: Floats, targets: PlanarViews) -> Indices:
        """Which `NEAREST` of the places that views look at [2, N] are nearest to those of the targets."""
        distance = np.full(seen.shape[1], np.inf)
        for x, y in targets.origin + AHEAD * self.config.far_m * targets.heading:
            dx, dy = seen[0] - x, seen[1] - y
            np.minimum(distance, dx * dx + dy * dy, out=distance)
        return np.argpartition(distance, NEAREST)[:NEAREST]


class CachedIndex:
    """The index over one bank, made anew for another bank and for a rule that it does not fit."""

    def __init__(self) -> None:
        self._index: ViewIndex | None = None
        self._bank: object = None

    def over(self, bank: object, config: RetrievalConfig) -> ViewIndex:
        if self._index is None or self._bank is not bank or not self._index.fits(config):
            self._index, self._bank = ViewIndex(config), bank
        return self._index


def _sorting(config: RetrievalConfig) -> tuple[object, ...]:
    space = config.strategy == "frustum"
    return space, config.near_m, config.far_m, config.crowd


def _part(cameras: Cameras, start: int, end: int) -> Cameras:
    rows = slice(start, end)
    return Cameras.known_good(cameras.c2w[rows], cameras.K[rows], cameras.width, cameras.height)


class _Cell:
    """Row numbers in no order, each with its place; adding and removing cost the same however many there are. Places
    lie side by side here: gathered from among a million they would cost more than all the arithmetic."""

    def __init__(self) -> None:
        self._rows, self._places, self._at = np.empty(8, np.int64), np.empty((PLACE, 8)), dict[int, int]()

    def add(self, row: int, place: Floats) -> None:
        count = len(self._at)
        if count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty(count, np.int64)])
            self._places = np.concatenate([self._places, np.empty((PLACE, count))], axis=1)
        self._rows[count], self._places[:, count] = row, place
        self._at[row] = count

    def remove(self, row: int) -> None:
        hole, last = self._at.pop(row), len(self._at)
        if hole != last:
            moved = int(self._rows[last])
            self._rows[hole], self._places[:, hole] = moved, self._places[:, last]
            self._at[moved] = hole

    def rows(self) -> Indices:
        return self._rows[: len(self._at)]

    def places(self) -> Floats:
        return self._places[:, : len(self._at)]


def spheres(cameras: Cameras, near_m: float, far_m: float) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """A sphere around each frustum, with its centre on the view axis: centres [N, 3], radii [N], metres."""
    fx, fy, cx, cy = cameras.normalized_K().T
    k = np.hypot((1 + np.abs(cx)) / fx, (1 + np.abs(cy)) / fy)
    ahead = np.minimum(far_m, (1 + k * k) * (near_m + far_m) / 2)
    return cameras.position + ahead[:, None] * cameras.forward, np.hypot(k * far_m, far_m - ahead)


def pose_bins(
    cameras: Cameras, basis: Float[np.ndarray, "2 3"], config: RetrievalConfig
) -> Int[np.ndarray, "n numbers"]:
    """Which bin each view falls into: position, heading and lens, int64 [N, 4]; for frusta height, pitch and roll too,
    [N, 7]."""
    views = planar(cameras, basis)
    x, y = np.floor(views.origin / config.crowd.bin_m).T
    yaw = np.floor(np.arctan2(views.heading[:, 1], views.heading[:, 0]) / config.crowd.bin_rad)
    bins = [x, y, yaw, np.round(np.log(views.half_width_tan) / 0.2)]
    if config.strategy == "frustum":
        up = np.cross(basis[0], basis[1])[None]
        height, pitch, roll = (coordinates(a, up)[:, 0] for a in (cameras.position, cameras.forward, cameras.right))
        bins.append(np.floor(height / config.crowd.bin_m))
        bins += [np.floor(np.arcsin(np.clip(tilt, -1, 1)) / config.crowd.bin_rad) for tilt in (pitch, roll)]
    return np.stack(bins, axis=1).astype(np.int64)
