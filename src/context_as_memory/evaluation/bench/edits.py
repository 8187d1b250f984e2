"""`cam bench edits`: change a wall or an object in a remembered world, walk away, come back. Is the change still there,
and is everything around it as it was?

The world remembers a recorded walk up to a frame; this frame is edited by code (`KINDS`), and the walker leaves by a
`ROUTES` path that ends where it began. A twin, forked before the edit, walks the same path with the same noise.

`left`: the share of the changed pixels whose colour in the last picture is nearer to the edited frame than to the frame
before the edit. `strength`: the difference of the two worlds' last pictures, projected on the difference that was
painted, over the changed pixels: 1 if all of it is there, 0 if none; `codec` is that of the edited frame encoded and
decoded, more than which no world can show. `surroundings_db`: PSNR of the last picture against the recorded frame
outside the changed pixels, minus that of the twin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from context_as_memory.camera import Cameras, MotionSpeed
from context_as_memory.data.episode import Episode, content_hash, list_episodes
from context_as_memory.edits import CHANGED, edit
from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench.harness import BenchRequest
from context_as_memory.evaluation.protocols.scenes import recorded
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured, Report
from context_as_memory.evaluation.suite.system import WorldSystem
from context_as_memory.evaluation.suite.write import Table, number, write_reports
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.world import World

PLACES = 20
EARLIEST, AHEAD = 120, 30  # recorded frames that a place has before it at least, and after it
LEAST_LEFT, MOST_LOST_DB = 0.9, 1.0  # the floors
TURN = MotionSpeed(turn_rad=float(np.radians(15)))  # per frame: a quarter turn in six
BORDER = 4  # pixels around the change that count neither as it nor as its surroundings


@dataclass(frozen=True)
class EditPlace:
    """A frame of an episode that is edited; what was recorded up to it is remembered."""

    episode: Episode
    frame: int

    @property
    def name(self) -> str:
        return f"{self.episode.name}_{self.frame}"


def places(episodes: Sequence[Episode], count: int = PLACES) -> list[EditPlace]:
    """`count` places, evenly spread over each episode, the first of every episode first."""
    each = -(-count // len(episodes))
    found = []
    for turn in range(each):
        for episode in episodes:
            span = episode.num_frames - AHEAD - EARLIEST
            if span < 1:
                raise UserError(
                    f"episode {episode.name} has {episode.num_frames} frames; edits need {EARLIEST + AHEAD + 1}"
                )
            found.append(EditPlace(episode, EARLIEST + int((turn + 0.5) / each * span)))
    return found[:count]


# -- edits made by code ------------------------------------------------------------------------------------------------


def _window(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The middle of a picture: three tenths of its width, four of its height."""
    height, width = shape[:2]
    return slice(round(0.3 * height), round(0.7 * height)), slice(round(0.35 * width), round(0.65 * width))


def recoloured(frame: np.ndarray) -> np.ndarray:
    """The middle of a frame uint8 [H, W, 3] in another colour; its texture stays."""
    made = frame.astype(np.float32)
    part = made[_window(frame.shape)]
    paint = np.array([40, 90, 220]) if part[..., 2].mean() < part[..., 0].mean() + 30 else np.array([220, 120, 30])
    light = part.mean(axis=-1, keepdims=True)
    made[_window(frame.shape)] = 0.35 * part + 0.65 * paint * (0.5 + light / max(light.mean(), 1.0) / 2)
    return np.asarray(made.clip(0, 255).round().astype(np.uint8))


def painted(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] with a striped ball in its middle."""
    height, width = frame.shape[:2]
    y, x = (np.mgrid[:height, :width] - np.array([0.55 * height, 0.5 * width])[:, None, None]) / (0.2 * height)
    inside = x * x + y * y < 1
    shade = 0.55 + 0.45 * np.sqrt(np.clip(1 - (x + 0.35) ** 2 - (y + 0.35) ** 2, 0, 1))
    colour = np.where((np.abs(y) < 0.25)[..., None], [240, 240, 230], [210, 40, 50]) * shade[..., None]
    return np.where(inside[..., None], colour.round(), frame).astype(np.uint8)


def removed(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] without what stands out most in it: that patch is filled from its surroundings."""
    height, width = frame.shape[:2]
    side = height // 3
    picture = frame.astype(np.float64)
    best, made = -1.0, picture
    for top in range(side // 4, height - side - side // 4, max(1, side // 4)):
        for left in range(side // 4, width - side - side // 4, max(1, side // 4)):
            filled = _filled(picture[top - 1 : top + side + 1, left - 1 : left + side + 1])
            changed = np.abs(filled - picture[top : top + side, left : left + side]).mean()
            if changed > best:
                best, made = changed, picture.copy()
                made[top : top + side, left : left + side] = filled
    return np.asarray(made.round().clip(0, 255).astype(np.uint8))


def _filled(patch: np.ndarray) -> np.ndarray:
    """The inside of a patch [n + 2, m + 2, 3] as its border says: a Coons patch, [n, m, 3]."""
    v = np.linspace(0, 1, patch.shape[0])[:, None, None]
    u = np.linspace(0, 1, patch.shape[1])[None, :, None]
    across = (1 - v) * patch[:1] + v * patch[-1:]
    down = (1 - u) * patch[:, :1] + u * patch[:, -1:]
    corners = (1 - v) * ((1 - u) * patch[0, 0] + u * patch[0, -1]) + v * ((1 - u) * patch[-1, 0] + u * patch[-1, -1])
    return np.asarray((across + down - corners)[1:-1, 1:-1])


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recoloured": recoloured,
    "painted": painted,
    "removed": removed,
}


# -- ways to leave and return ------------------------------------------------------------------------------------------


def _turned(frames: int) -> Callable[[Cameras, int], Cameras]:
    def path(cameras: Cameras, frame: int) -> Cameras:
        return cameras_from_actions(cameras[[frame]], f"l-{frames},j-{frames}", speed=TURN)

    return path


def _walked(cameras: Cameras, frame: int) -> Cameras:
    """Along the recorded path and back: `2 * AHEAD` frames."""
    there = np.arange(frame + 1, frame + AHEAD + 1)
    return cameras[np.append(there, there[::-1] - 1)]


ROUTES: dict[str, Callable[[Cameras, int], Cameras]] = {"turn90": _turned(6), "turn180": _turned(12), "walk": _walked}


def _last(world: World, path: Cameras) -> np.ndarray:
    """The last picture of a walk, uint8 [H, W, 3]."""
    return [chunk.frames_u8 for chunk in world.rollout(path)][-1][-1]


def measure(system: WorldSystem, place: EditPlace, route: str, seed: int) -> Measured:
    """All kinds of edit at one place, along one route; and one that withdraws nothing, for comparison."""
    frames, cameras = recorded(place.episode)
    world = system.fresh(seed)
    world.reset(frames[: place.frame + 1], cameras[: place.frame + 1])
    path, before = ROUTES[route](cameras, place.frame), frames[place.frame]
    twin = _last(world.fork(), path)
    values: dict[str, float | None] = {}
    rows = [[(before, "recorded"), (twin, "twin, returned")]]
    arrays = {"before": before, "twin": twin}
    for kind, paint in KINDS.items():
        after, branch = paint(before), world.fork()
        done = edit(branch, place.frame, after)
        found = _last(branch, path)
        scores = compared(before, after, found, twin)
        shown = system.reconstruct(np.stack([before, after]))
        scores["codec"] = compared(before, after, shown[1], shown[0])["strength"]
        scores["twin_left"] = compared(before, after, twin, twin)["left"]
        scores["withdrawn"] = len(done.withdrawn) / done.of
        values |= {f"{route}.{kind}.{name}": value for name, value in scores.items()}
        rows.append([(after, kind), (found, _caption(scores))])
        arrays |= {kind: after, f"{kind}_found": found}
        if kind == "recoloured":
            plain = world.fork()
            plain.remember(after[None], cameras[[place.frame]])
            found = _last(plain, path)
            scores = compared(before, after, found, twin)
            values |= {f"{route}.nothing_withdrawn.{name}": value for name, value in scores.items()}
            rows[-1].append((found, f"none withdrawn: {_caption(scores)}"))
            arrays["nothing_withdrawn_found"] = found
    return Measured(values, rows, arrays)


def _caption(scores: dict[str, float]) -> str:
    return f"{scores['left']:.0%} left, {scores['surroundings_db']:+.1f} dB"


def compared(before: np.ndarray, after: np.ndarray, found: np.ndarray, twin: np.ndarray) -> dict[str, float]:
    """`left`, `strength` and `surroundings_db` (see above) of pictures uint8 [H, W, 3]: recorded, edited, last of the
    edited world and of its twin."""
    was, edited, ours, theirs = (one.astype(np.float64) for one in (before, after, found, twin))
    changed = np.abs(edited - was).max(axis=-1) > CHANGED  # by code, so without noise: pixel by pixel
    paint = (edited - was)[changed]
    nearer = ((ours - edited)[changed] ** 2).sum(axis=-1) < ((ours - was)[changed] ** 2).sum(axis=-1)
    wide = np.pad(changed, BORDER)
    near = np.lib.stride_tricks.sliding_window_view(wide, (2 * BORDER + 1, 2 * BORDER + 1)).any(axis=(-2, -1))
    errors = [max(float(((one - was)[~near] ** 2).mean()), 1e-6) for one in (ours, theirs)]
    return {
        "left": float(nearer.mean()),
        "strength": float(((ours - theirs)[changed] * paint).sum() / (paint**2).sum()),
        "surroundings_db": float(10 * np.log10(errors[1] / errors[0])),
    }


def run_edits(
    system: WorldSystem,
    asked: BenchRequest,
    *,
    seed: int = 0,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Report:
    """Measure the places of a data set (`asked.inputs`) and write the reports; goes on where a run ended.

    limit: only the first places. `UserError` for episodes of another size than the system makes, or too short ones.
    """
    episodes = list_episodes(asked.inputs)
    for episode in episodes:
        if (episode.meta["width"], episode.meta["height"]) != system.size:
            raise UserError(f"episode {episode.name} is not {system.size[0]}x{system.size[1]}; render it in that size")
    chosen = places(episodes)[: limit or PLACES]
    settings = {"benchmark": "edits", "seed": seed, "content": {"episodes": content_hash(episodes)}}
    identity = dict(system.identity())
    asked.out.mkdir(parents=True, exist_ok=True)
    store = ClipStore(asked.out, settings | {"weights": identity}, shard)
    cases = [
        Case(f"edits/{place.name}_{route}", place.episode.name, partial(measure, system, place, route, seed))
        for route in ROUTES
        for place in chosen
    ]
    report = Report("bench-edits", settings, identity, groups={case.name: case.group for case in cases})
    report.clips |= store.run(cases)
    if store.is_shard:
        return report
    conclude(report, len(chosen))
    write(report, asked)
    return report


def conclude(report: Report, count: int) -> None:
    """Means, and whether the floors hold."""
    for metric in report.metrics():
        interval = report.interval(metric)
        report.summary[metric] = None if interval is None else interval.mean
    for name, floor in (("left", LEAST_LEFT), ("surroundings_db", -MOST_LOST_DB)):
        keys = [f"{route}.{kind}.{name}" for route in ROUTES for kind in KINDS]
        found = [value for key in keys if (value := report.summary.get(key)) is not None]
        report.summary |= {name: float(np.mean(found)), f"{name}_holds": min(found) >= floor}
    report.summary["places"] = count
    if count < PLACES:
        report.notes.append(f"{PLACES - count} of {PLACES} places were not asked for (--limit)")


def write(report: Report, asked: BenchRequest) -> None:
    """report.json, report.md and report.html."""
    names = ["left", "strength", "codec", "surroundings_db", "twin_left", "withdrawn"]
    rows = []
    for route in ROUTES:
        for kind in (*KINDS, "nothing_withdrawn"):
            cells = [report.summary.get(f"{route}.{kind}.{name}") for name in names]
            if cells[0] is not None:
                rows.append([route, kind.replace("_", " "), *map(number, cells)])
    columns = ["route", "edit", *(name.replace("_", " ") for name in names)]
    below = f"Floors: {LEAST_LEFT} left, surroundings at most {MOST_LOST_DB} dB worse than the twin's."
    tables: list[Table] = [("Means", columns, rows, below)]
    write_reports(report, asked.out, f"Edits that stay: {asked.model}", tables)
