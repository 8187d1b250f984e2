"""New territory: long walks on own frames from one picture, judged by how they look.

There is no true picture to compare with, so the style of what was made is compared with recorded walks. One definition
of style distance serves all: that of `metric_networks.Style`, between the frames in question and either half of the
recorded walks of the same style of worlds, the mean of both; means over several ways to cut the walks into halves. Its
floor is the distance of the two halves from each other, so that a ratio of 1 is what another recording would have.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.metric_networks import Style
from context_as_memory.evaluation.protocols.scenes import Task, recorded, start_of, style_of
from context_as_memory.evaluation.suite.result import Case, Measured, gathered
from context_as_memory.evaluation.suite.system import System
from context_as_memory.formats.files import read_arrays

LENGTH, WINDOW = 600, 60  # frames of a walk, and of the stretches that it is judged by
EVERY, EVERY_RECORDED = 4, 10  # of these frames, so many is one for style: neighbours look the same
CUTS = 8  # ways to cut the recorded walks into halves


@dataclass(frozen=True)
class Recordings:
    """The recorded walks of one style of worlds, cut into halves in several ways."""

    cuts: tuple[tuple[Style, Style], ...]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Recordings":
        """Of all episodes of one style; a single one is cut in the middle. `UserError` without the network."""
        halves = [_style_halves(episode.folder) for episode in episodes]
        parts = [a + b for a, b in halves] if len(halves) > 1 else list(halves[0])
        cuts = []
        for seed in range(CUTS if len(parts) > 2 else 1):
            order = np.random.default_rng(seed).permutation(len(parts))
            both = [_total([parts[row] for row in rows]) for rows in np.array_split(order, 2)]
            cuts.append((both[0], both[1]))
        return cls(tuple(cuts))

    def distance(self, style: Style) -> float:
        """Style distance of some frames to these walks."""
        return float(np.mean([style.distance(half) for cut in self.cuts for half in cut]))

    @property
    def floor(self) -> float:
        """Style distance of these walks to each other."""
        return float(np.mean([a.distance(b) for a, b in self.cuts]))


def _total(styles: Sequence[Style]) -> Style:
    total = styles[0]
    for style in styles[1:]:
        total = total + style
    return total


@lru_cache(maxsize=256)
def _style_halves(folder: Path) -> tuple[Style, Style]:
    """The styles of the first and of the second half of an episode's frames."""
    frames = recorded(Episode.open(folder))[0][::EVERY_RECORDED]
    middle = max(1, len(frames) // 2)
    return Style.of(frames[:middle]), Style.of(frames[middle:] if len(frames) > 1 else frames)


def alike(episodes: Sequence[Episode], episode: Episode) -> list[Episode]:
    """The episodes of the same style."""
    return [other for other in episodes if style_of(other) == style_of(episode)]


def long_walks(episodes: Sequence[Episode], count: int, seed: int, length: int = LENGTH) -> list[Task]:
    """Starts of walks, spread evenly over the episodes: where the recorded path goes on for `length` frames; in the
    first half of episodes that are too short for that."""
    rng = np.random.default_rng(seed)
    tasks = []
    for number, episode in enumerate(episodes):
        share = count // len(episodes) + (number < count % len(episodes))
        last = episode.num_frames - length
        last = last if last >= share else max(1, episode.num_frames // 2)
        tasks += [Task(episode, int(start), int(start)) for start in np.sort(rng.permutation(last)[:share])]
    return tasks


def path_rows(num_frames: int, start: int, length: int) -> np.ndarray:
    """Frame numbers of a walk along a recorded path, start frame first, int64 [1 + length]; it turns round at an
    end."""
    both_ways = np.concatenate([np.arange(num_frames), np.arange(num_frames - 2, 0, -1)])
    return both_ways[(start + np.arange(length + 1)) % len(both_ways)]


def measure_territory(
    system: System, task: Task, episodes: Sequence[Episode], length: int, seed: int, networks: bool
) -> Measured:
    """One walk of `length` frames (a multiple of `WINDOW`) from a recorded frame along the recorded path, judged window
    by window beside the recorded frames of the same cameras. episodes: all recorded walks, for styles."""
    frames, cameras = recorded(task.episode)
    rows = path_rows(len(frames), task.start, length)
    start = start_of(task)
    began = time.perf_counter()
    made = system.walk(start.frame[None], start.camera, cameras[rows[1:]], "coverage", seed)
    seconds = time.perf_counter() - began
    truth = frames[rows[1:]]
    windows = [slice(first, first + WINDOW) for first in range(0, length, WINDOW)]
    sharp = np.array([(sharpness(made[window]), sharpness(truth[window])) for window in windows])
    series = {"frame": np.arange(0, length, WINDOW), "sharpness_ratio": sharp[:, 0] / sharp[:, 1]}
    last = windows[-1]
    values: dict[str, float | None] = {
        "sharpness_ratio": float(sharp[-1, 0] / sharp[0, 0]),
        "sharpness_ratio_recorded": float(sharp[-1, 1] / sharp[0, 1]),
        "sharpness_last": float(sharp[-1, 0]),
        "sharpness_recorded_last": float(sharp[-1, 1]),
        "colour_shift_255": float(np.abs(made[last].mean(axis=(0, 1, 2)) - truth[last].mean(axis=(0, 1, 2))).mean()),
    }
    arrays = {"fps": np.array([length / max(seconds, 1e-9)])}  # no value of the clip: it differs from run to run
    if networks:
        style = [(Style.of(made[window][::EVERY]), Style.of(truth[window][::EVERY])) for window in windows]
        walks = Recordings.of(alike(episodes, task.episode))
        series |= {
            key: np.array([walks.distance(pair[side]) for pair in style])
            for side, key in enumerate(("style", "style_recorded"))
        }
        values |= {"style_first": float(series["style"][0]), "style_last": float(series["style"][-1])}
        values["style_recorded_last"] = float(series["style_recorded"][-1])
        arrays |= {"style_last": style[-1][0].packed()[None], "style_recorded_last": style[-1][1].packed()[None]}
    shown = np.linspace(0, length - 1, 8).round().astype(int)
    row = [(start.frame, task.name), *((made[number], f"frame {number + 1}") for number in shown)]
    arrays |= {f"series_{key}": values for key, values in series.items()}
    return Measured(values, [row], arrays)


def style_numbers(
    files: Mapping[str, Sequence[Path]], episodes: Sequence[Episode]
) -> dict[str, dict[str, float | int | None]]:
    """The style of the last windows of all walks together, as a share of the floor; means over the styles of worlds.

    files: for the name of each episode, the arrays of its walks. `style_ratio_last`: generated; with `_recorded`: the
    recorded frames of the same stretches, which should be near 1; `style_floor`: the floor itself.
    """
    found: dict[str, list[float]] = {"style_ratio_last": [], "style_ratio_last_recorded": [], "style_floor": []}
    walks = 0
    for style in dict.fromkeys(map(style_of, episodes)):
        own = [episode for episode in episodes if style_of(episode) == style]
        paths = [path for episode in own for path in files.get(episode.name, ())]
        rows = gathered(paths, "style_last")
        if not len(rows):
            continue
        recordings = Recordings.of(own)
        floor = recordings.floor
        found["style_floor"].append(floor)
        for key in ("style_last", "style_recorded_last"):
            total = _total([Style.unpacked(row) for row in gathered(paths, key)])
            name = "style_ratio_last" + "_recorded" * (key == "style_recorded_last")
            found[name].append(recordings.distance(total) / max(floor, 1e-9))
        walks += len(rows)
    return {name: {"mean": float(np.mean(values)), "n": walks} for name, values in found.items() if values}


def series(path: Path) -> list[dict[str, float]]:
    """The windows of a walk, from the arrays that it left."""
    made = read_arrays(path)
    columns = {name.removeprefix("series_"): made[name] for name in made if name.startswith("series_")}
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]


def sharpness(frames_u8: np.ndarray) -> float:
    """Mean variance of the Laplacian of grey values of frames uint8 [T, H, W, 3]."""
    from scipy.ndimage import laplace

    grey = frames_u8.astype(np.float64).mean(axis=-1)
    return float(np.mean([laplace(frame).var() for frame in grey]))


def cases(
    system: System, episodes: Sequence[Episode], count: int, length: int, seed: int, networks: bool
) -> list[Case]:
    """`count` long walks of up to `length` frames, in whole windows; none if that is shorter than one."""
    length = length // WINDOW * WINDOW
    tasks = long_walks(episodes, count, seed, length) if length else []
    measures = [partial(measure_territory, system, task, episodes, length, seed, networks) for task in tasks]
    return [
        Case(f"territory/{task.name}", task.episode.name, measure)
        for task, measure in zip(tasks, measures, strict=True)
    ]
