"""The paper's experiments (arXiv 2506.03141, tables 1 to 3) on any episodes: protocols `chunk` and `mirror`.

Ground-truth comparison (GT): chunks anywhere on the recorded path, recorded frames as memory. Every row chooses its
context by another rule, the most recent frame included; all have the same targets, the same noise, and the same limit
of frames, except `first`, which has the first and the most recent frame only. Rules may stop early; the frames really
used are counted. History comparison (HC): from a recorded start the camera turns by 90 to 180 degrees and back on own
frames, by the same rules.

What differs from the paper: its rows were separate trainings, here one set of weights reads all contexts; its first row
sees the first frame only, here always the most recent one too, since the layout gives it a slot of its own. FramePack's
row is what its compression leaves of old frames, drawn as one picture, for weights that were never trained on such; a
walk on own frames has no such pictures. Rules see cameras, and which frames were recorded and which are own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.foreign import MEASURES
from context_as_memory.evaluation.metric_networks import fid, fvd
from context_as_memory.evaluation.protocols.contexts import Choose, choices, compressed_history
from context_as_memory.evaluation.protocols.own import mirrored, turn_and_back, walk
from context_as_memory.evaluation.protocols.recorded import Given, Moment, generated
from context_as_memory.evaluation.protocols.scenes import StartView, Task, anywhere, recorded, start_of
from context_as_memory.evaluation.suite import page
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured, Report, Scores, cell, gathered
from context_as_memory.evaluation.suite.setup import Setup, Suite
from context_as_memory.evaluation.suite.system import Rule, System
from context_as_memory.evaluation.suite.write import Table, films, pictures, scores, titles, write_reports
from context_as_memory.retrieval import RetrievalConfig

ROWS = ("first", "first_random", "recent", "framepack", "paper", "coverage")
SIZES = (1, 5, 10, 20, 30)
ABLATION = ("random", "fov_random", "fov_nonadjacent", "fov_nonadjacent_far")
BASE = "coverage"  # every row is also compared with this one, clip by clip
CLIP = 16  # frames of a video for FVD
EVERY = 8  # of the frames of a turn, so many is one for FID: neighbours show nearly the same
TURN_RAD, TURN_M = float(np.radians(30.0)), 1.0  # a recorded clip turns as the walks do: at least so far, on the spot


def rows_of(rule: RetrievalConfig) -> dict[str, tuple[str, int]]:
    """The rule (of `contexts.choices`) and the size of every row of the three tables; FramePack's, which is no choice
    of frames, apart."""
    rows = {name: (name, rule.max_context) for name in dict.fromkeys((*ROWS, *ABLATION)) if name != "framepack"}
    return rows | {f"{BASE}@{size}": (BASE, size) for size in SIZES}


def cases(setup: Setup) -> list[Case]:
    """Chunks anywhere, and turns that come back."""
    system, episodes, config = setup.system, setup.episodes, setup.config
    seeds = [config.seed + number for number in range(config.seeds)]
    found = []
    for task in anywhere(episodes, system.chunk_frames, config.clips, config.seed):
        measure = partial(measure_chunk, system, task, seeds, setup.lpips)
        found.append(Case(f"chunk/{task.name}", task.episode.name, measure))
    for task in anywhere(episodes, 1, config.num_walks, config.seed + 1, earliest=0):
        measure = partial(measure_turn, system, task, seeds, setup.lpips)
        found.append(Case(f"mirror/{task.name}", task.episode.name, measure))
    return found


def measure_chunk(system: System, task: Task, seeds: Sequence[int], networks: bool) -> Measured:
    """One chunk under every rule and size, means over the seeds of noise and of random draws. Leaves `truth` and the
    frames of every row of table 1, all seeds, uint8 [..., H, W, 3]."""
    moment, rows, choose = Moment(task, system.chunk_frames), rows_of(system.rule), choices(system.rule)
    table = Scores(networks)
    made: dict[str, list[np.ndarray]] = {name: [] for name in ROWS}
    for seed in seeds:
        given: dict[str, Given] = {
            name: choose[rule](moment.memory, moment.targets, size, seed, None) for name, (rule, size) in rows.items()
        }
        packed = np.stack(
            [compressed_history(moment.frames[max(0, task.now - 16) : task.now]), moment.frames[task.now - 1]]
        )
        given["framepack"] = packed, moment.cameras[[max(0, task.now - 2), task.now - 1]]
        for name, video in generated(system, moment, given, seed).items():
            table.note({f"{name}.context_frames": float(len(given[name]))})
            table.add(name, video, moment.truth)
            if name in made:
                made[name].append(video)
    retrieved = moment.frames[choose[BASE](moment.memory, moment.targets, system.rule.max_context, seeds[0], None)[:4]]
    shown = [(moment.truth[-1], "truth"), *((videos[0][-1], name.replace("_", " ")) for name, videos in made.items())]
    return Measured(
        _beside_base(table, rows),
        [shown, [(frame, f"retrieved {number + 1}") for number, frame in enumerate(retrieved)]],
        {name: np.concatenate(videos) for name, videos in made.items()} | {"truth": moment.truth},
    )


def measure_turn(system: System, task: Task, seeds: Sequence[int], networks: bool) -> Measured:
    """One turn and return on own frames under every rule and size; all mirrored pairs. Leaves for every row of table 1
    but FramePack's its pictures for FID `frames_<row>` uint8 [n, H, W, 3] and clips for FVD `clips_<row>` [seeds, CLIP,
    H, W, 3]; and the first walks by `BASE` and `recent` side by side as `film`."""
    start = start_of(task)
    path = turn_and_back(start, np.random.default_rng(task.start))
    back, out = mirrored(1 + len(path))
    rows, table = rows_of(system.rule), Scores(networks)
    videos_of: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        walks: dict[tuple[str, int], tuple[np.ndarray, list[int]]] = {}
        for name, (rule, size) in rows.items():
            video, used = _walked(system, start, path, rule, size, seed, walks)
            table.add(f"history_{name}", video[back], video[out])
            if used:  # a made up system may ask for no context
                table.note({f"history_{name}.context_frames": float(np.mean(used))})
            if name in ROWS:
                videos_of.setdefault(name, []).append(video)
    arrays = {"film": np.concatenate([videos_of[name][0] for name in (BASE, "recent")], axis=2)}
    for name, videos in videos_of.items():
        arrays[f"frames_{name}"] = np.concatenate([video[1::EVERY] for video in videos])
        arrays[f"clips_{name}"] = np.stack([video[-CLIP:] for video in videos])
    return Measured(_beside_base(table, rows, "history_"), arrays=arrays)


def _walked(
    system: System,
    start: StartView,
    path: Cameras,
    rule: str,
    size: int,
    seed: int,
    walks: dict[tuple[str, int], tuple[np.ndarray, list[int]]],
) -> tuple[np.ndarray, list[int]]:
    """A walk by a rule at a size, and how many frames it read each time; one of `walks` where that would be the same: a
    greedy rule that never filled a smaller context makes the same walk with a larger one."""
    for (other, smaller), (video, read) in walks.items():
        never_full = other == BASE and smaller < size and bool(read) and max(read) < smaller
        if other == rule and (smaller == size or never_full):
            return video, read
    used: list[int] = []
    walks[rule, size] = walk(system, start, path, _counting(choices(system.rule)[rule], size, used), seed), used
    return walks[rule, size]


def _counting(choose: Choose, size: int, used: list[int]) -> Rule:
    """The rule at this size, noting how many frames it gave."""

    def rule(memory: Cameras, targets: Cameras, seed: int, known: np.ndarray) -> np.ndarray:
        rows = choose(memory, targets, size, seed, known)
        used.append(len(rows))
        return rows

    return rule


def _beside_base(table: Scores, rows: dict[str, tuple[str, int]], kind: str = "") -> dict[str, float | None]:
    """Means, and the difference of every row to `BASE` in PSNR and LPIPS; kind: what names begin with."""
    for name in (*rows, "framepack"):
        for measure in ("psnr_db", "lpips"):
            if name != BASE:
                table.gain(f"{kind}{name}.{measure}_minus_{BASE}", f"{kind}{name}", f"{kind}{BASE}", measure)
    return table.clip()


def distribution_distances(
    chunks: Sequence[Path], turns: Sequence[Path], episodes: Sequence[Episode], networks: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """FID of every row's generated frames against recorded ones, on recorded and on own frames (all seeds), and FVD of
    the last `CLIP` frames of the turns against recorded clips that turn alike. From the files that the clips left; by
    name: `mean`, how many items it is of (`n`) and how many recorded ones they are compared with (`reference`)."""
    found: dict[str, dict[str, float | int]] = {}

    def note(name: str, metric: Callable[[np.ndarray, np.ndarray], float], made: np.ndarray, truth: np.ndarray) -> None:
        if min(len(made), len(truth)) > 1:
            found[name] = {"mean": metric(made, truth), "n": len(made), "reference": len(truth)}

    if "fid" in networks and chunks:
        truth = gathered(chunks, "truth")
        for name in ROWS:
            note(f"fid.{name}", fid, gathered(chunks, name), truth)
    walked = [name for name in ROWS if name != "framepack"] if turns else []
    if "fid" in networks and walked:
        wanted = -(-len(gathered(turns, f"frames_{BASE}")) // len(episodes))
        each = [np.linspace(0, episode.num_frames - 1, wanted).round().astype(int) for episode in episodes]
        truth = np.concatenate([recorded(e)[0][rows] for e, rows in zip(episodes, each, strict=True)])
        for name in walked:
            note(f"history_fid.{name}", fid, gathered(turns, f"frames_{name}"), truth)
    if "fvd" in networks and walked:
        truth = turning_clips(episodes, len(gathered(turns, f"clips_{BASE}")))
        for name in walked:
            note(f"history_fvd.{name}", fvd, gathered(turns, f"clips_{name}"), truth)
    return found


def turning_clips(episodes: Sequence[Episode], count: int) -> np.ndarray:
    """Up to `count` recorded clips uint8 [n, CLIP, H, W, 3], evenly over the episodes, none overlapping another, in
    which the camera turns much and goes hardly anywhere, as in the walks."""
    each = -(-count // len(episodes))
    found = []
    for episode in episodes:
        cameras = episode.cameras()
        starts = turning_starts(cameras)
        picked = starts[np.unique(np.linspace(0, len(starts) - 1, min(each, len(starts))).round().astype(int))]
        if len(picked):
            frames = recorded(episode)[0]
            found += [frames[start : start + CLIP] for start in picked]
    return np.stack(found[:count]) if found else np.empty((0, CLIP, 0, 0, 3), np.uint8)


def turning_starts(cameras: Cameras) -> np.ndarray:
    """First frames of stretches of `CLIP` frames that turn by `TURN_RAD` and move by less than `TURN_M` metres:
    int64 [n], ascending, at least `CLIP` apart."""
    starts: list[int] = []
    ahead, position = cameras.forward, cameras.position
    for start in range(len(cameras) - CLIP + 1):
        if starts and start - starts[-1] < CLIP:
            continue
        end = start + CLIP
        turned = np.arccos(np.clip(ahead[start] @ ahead[end - 1], -1, 1))
        moved = np.linalg.norm(np.diff(position[start:end], axis=0), axis=1).sum()
        if turned >= TURN_RAD and moved < TURN_M:
            starts.append(start)
    return np.array(starts, np.int64)


def conclude(report: Report, setup: Setup, store: ClipStore) -> None:
    """Distances of sets, the means of the three main rules, and what a reader must know."""
    chunks, turns = store.arrays("chunk"), store.arrays("mirror")
    report.numbers |= store.keep(
        "distances", lambda: distribution_distances(chunks, turns, setup.episodes, setup.networks)
    )
    for name in ("coverage", "paper", "recent"):
        for kind in ("", "history_"):
            interval = report.interval(f"{kind}{name}.psnr_db")
            report.summary[f"{kind}{name}.psnr_db"] = None if interval is None else interval.mean
    rows = rows_of(setup.system.rule)
    means = {name: report.interval(f"{name}.context_frames") for name in rows}
    early = [
        f"{name} {interval.mean:.1f} of {rows[name][1]}"
        for name, interval in means.items()
        if interval is not None and interval.mean < rows[name][1] - 0.05 and name != "first"
    ]
    report.notes += [
        "the row `first` has the first frame and the most recent one, so its budget is smaller by its nature",
        "`framepack` reads two pictures, and has no history comparison: a walk on own frames has no packed pictures",
        f"no FVD on recorded frames: chunks of {report.settings['chunk_frames']} frames are too short for it",
        "no row for the strategies `visible` and `frustum`: depth profiles are not known here, and `frustum` is "
        "`coverage` in space",
        "FID and FVD of so few pictures are large and biased; compare values of equally many only (n : recorded ones)",
    ]
    if early:
        report.notes.append(f"mean frames used on recorded memory where rules stop early: {', '.join(early)}")
    if "fvd" in setup.networks and turns and "history_fvd.coverage" not in report.numbers:
        report.notes.append(
            "no FVD on own frames: it needs two walks, and two recorded clips that turn on the spot as they do"
        )


def write(report: Report, store: ClipStore, out: Path) -> None:
    """The reports of the paper's three tables."""
    measured = ("context_frames", *MEASURES)
    gap = f"PSNR minus {BASE}"

    def row(name: str, title: str, distances: bool) -> list[str]:
        cells = [title]
        for kind, protocol in (("", "fid"), ("history_", "history_fid")):
            cells += scores(report, f"{kind}{name}", measured)
            if distances:
                cells += [_distance(report, f"{protocol}.{name}"), _distance(report, f"{kind}fvd.{name}")]
            cells.append(cell(report.interval(f"{kind}{name}.psnr_db_minus_{BASE}")))
        return cells

    def columns(what: str, distances: bool) -> list[str]:
        own = [*titles(measured), *(["FID", "FVD"] if distances else []), gap]
        return [what, *(f"{protocol} {title}" for protocol in ("GT", "HC") for title in own)]

    below = (
        f"GT (recorded frames as memory): clips {report.counted('coverage.psnr_db')}; HC (own frames, turn and "
        f"return): walks {report.counted('history_coverage.psnr_db')}; {report.settings['seeds']} seeds each. "
        f"Intervals of 95 % over episodes and clips; differences are paired."
    )
    tables: list[Table] = [
        (
            "Methods (the paper's table 1)",
            columns("context", True),
            [row(name, name.replace("_", " "), True) for name in ROWS],
            f"{below} FID and FVD (n : recorded).",
        ),
        (
            "Context size (table 2), coverage",
            columns("size", False),
            [row(f"{BASE}@{size}", str(size), False) for size in SIZES],
            below,
        ),
        (
            "Retrieval (table 3)",
            columns("retrieval", False),
            [row(name, name.replace("_", " "), False) for name in ABLATION],
            below,
        ),
    ]
    found = {name: report.interval(f"history_{name}.psnr_db") for name in ROWS}
    bars = {name: interval for name, interval in found.items() if interval is not None}
    first = [("Own frames after a turn and return: PSNR to the first visit", page.bars(bars, "dB", [BASE]))]
    caption = "left: context by coverage; right: recent frames only. A turn away and back"
    last = [
        ("Chunks on recorded memory: truth, every row, frames that coverage retrieved", pictures(out, "chunk")),
        ("Turn and return on own frames", films(store.arrays("mirror"), caption)),
    ]
    title = f"The paper's tables: {report.weights.get('name')}"
    write_reports(report, out, title, tables, first if bars else (), last)


def _distance(report: Report, name: str) -> str:
    found = report.numbers.get(name)
    return f"{found['mean']:.1f} ({found['n']} : {found['reference']})" if found else "-"


SUITE = Suite(cases, conclude, write, ("lpips", "fid", "fvd"))
