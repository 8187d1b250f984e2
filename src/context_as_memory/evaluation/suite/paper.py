"""The paper's tables (arXiv 2506.03141, tables 1 to 3) on any episodes, for one set of weights.

Ground-truth comparison: recorded frames are the memory, chunks anywhere on the recorded path. Every row chooses its
context by another rule, the most recent frame included; all have the same targets, the same noise, and the same limit
of frames, except `first`, which has the first and the most recent frame only. Rules may stop early; the frames really
used are counted. History comparison: from a recorded start the camera turns by 90 to 180 degrees and back on own
frames, by the same rules; every frame of the way back against its mirror on the way out.

What differs from the paper: its rows were separate trainings, here one set of weights reads all contexts; its first row
sees the first frame only, here always the most recent one too, since the layout gives it a slot of its own. FramePack's
row is what its compression leaves of old frames, drawn as one picture, for weights that were never trained on such; a
walk on own frames has no such pictures. Rules see cameras, and which frames were recorded and which are own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, cameras_from_actions
from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.ground_truth import Task
from context_as_memory.evaluation.metric_networks import fid, fvd
from context_as_memory.evaluation.suite.proof import recorded
from context_as_memory.evaluation.suite.result import Clip, picture_scores
from context_as_memory.evaluation.suite.system import Rule, System
from context_as_memory.retrieval import RetrievalConfig, retrieve

ROWS = ("first", "first_random", "recent", "framepack", "paper", "coverage")
SIZES = (1, 5, 10, 20, 30)
ABLATION = ("random", "fov_random", "fov_nonadjacent", "fov_nonadjacent_far")
BASE = "coverage"  # every row is also compared with this one, clip by clip
CLIP = 16  # frames of a video for FVD
EVERY = 8  # of the frames of a turn, so many is one for FID: neighbours show nearly the same
SMALLEST = 8  # pixels: FramePack's halving ends here
TURN_RAD, TURN_M = float(np.radians(30.0)), 1.0  # a recorded clip turns as the walks do: at least so far, on the spot

Given = np.ndarray | None  # which frames of a memory were recorded, bool [N]; None: all
Choose = Callable[[Cameras, Cameras, int, int, Given], np.ndarray]
"""Memory, targets, size, seed, recorded frames -> frame numbers of the context, the most recent one last."""


def _by(rule: RetrievalConfig) -> Choose:
    def choose(memory: Cameras, targets: Cameras, size: int, seed: int, given: Given) -> np.ndarray:
        config = replace(rule, max_context=size)
        return retrieve(memory, targets, config, recent=len(memory) - 1, given=given, seed=seed).indices

    return choose


def _first(memory: Cameras, targets: Cameras, size: int, seed: int, given: Given) -> np.ndarray:
    """The first frame and the most recent one, whatever the size."""
    return np.unique([0, len(memory) - 1])


def _first_random(memory: Cameras, targets: Cameras, size: int, seed: int, given: Given) -> np.ndarray:
    """The first frame, random ones, and the most recent one."""
    last = len(memory) - 1
    others = np.random.default_rng(seed).permutation(np.arange(1, last))[: max(0, size - 2)]
    return np.array([*([0] if size > 1 and last > 0 else []), *others, last])


def _fov_random(memory: Cameras, targets: Cameras, size: int, seed: int, given: Given) -> np.ndarray:
    """Random frames among those that pass the paper's overlap test."""
    last = len(memory) - 1
    rule = RetrievalConfig(strategy="paper", max_context=size)
    passed = retrieve(memory, targets, rule, recent=last, seed=seed).candidates
    passed = passed[passed != last]
    return np.append(np.random.default_rng(seed).permutation(passed)[: size - 1], last)


_PAPER, _COVERAGE = _by(RetrievalConfig(strategy="paper")), _by(RetrievalConfig(strategy="coverage"))

CHOICES: dict[str, Choose] = {
    "first": _first,
    "first_random": _first_random,
    "random": _by(RetrievalConfig(strategy="random")),
    "recent": _by(RetrievalConfig(strategy="recent")),
    "paper": _PAPER,
    "coverage": _COVERAGE,
    "fov_random": _fov_random,
    "fov_nonadjacent": _by(RetrievalConfig(strategy="paper", paper_far_share=0.0)),
    "fov_nonadjacent_far": _PAPER,
}


def rows_of(max_context: int) -> dict[str, tuple[Choose, int]]:
    """The rule and the size of every row of the three tables; FramePack's, which is no choice of frames, apart."""
    named = dict.fromkeys((*ROWS, *ABLATION))
    rows = {name: (CHOICES[name], max_context) for name in named if name in CHOICES}
    return rows | {f"coverage@{size}": (_COVERAGE, size) for size in SIZES}


def compressed_history(frames_u8: np.ndarray) -> np.ndarray:
    """All frames [m, H, W, 3] but the newest as FramePack would keep them, in one picture uint8 [H, W, 3]: each older
    one gets half of the room that is left, halved in width and in height in turn."""
    from PIL import Image

    height, width = frames_u8.shape[1:3]
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left, room = 0, 0, [height, width]
    for number, frame in enumerate(frames_u8[-2::-1]):
        side = 1 - number % 2  # halve the width first
        if room[side] // 2 < SMALLEST:
            break
        size = list(room)
        size[side] //= 2
        small = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BOX)
        canvas[top : top + size[0], left : left + size[1]] = np.array(small)
        top, left = (top + size[0], left) if side == 0 else (top, left + size[1])
        room[side] -= size[side]
    return canvas


class _Scores:
    """Scores by name over seeds, and their means."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, scores: Mapping[str, float | None]) -> None:
        for key, value in scores.items():
            self.values.setdefault(key, []).append(float(value or 0.0))

    def clip(self, kind: str = "") -> Clip:
        """Means, and the difference of every row to `BASE` in PSNR and LPIPS; kind: what row names begin with."""
        clip: Clip = {key: float(np.mean(values)) for key, values in self.values.items()}
        for key in list(clip):
            name, measure = key.rsplit(".", 1)
            base = clip.get(f"{kind}{BASE}.{measure}")
            if measure in ("psnr_db", "lpips") and name != f"{kind}{BASE}" and base is not None:
                clip[f"{name}.{measure}_minus_{BASE}"] = (clip[key] or 0.0) - base
        return clip


def measure_chunk(
    system: System, task: Task, seeds: Sequence[int], networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One chunk under every rule and size, means over the seeds of noise and of random draws. Returns the scores, and
    frames uint8 [..., H, W, 3]: of every row of table 1 those of all seeds, `truth`, and the first `retrieved` ones."""
    frames, cameras = recorded(task.episode)
    chunk = slice(task.start, task.start + system.chunk_frames)
    memory, targets, truth = cameras[: task.now], cameras[chunk], frames[chunk]
    scores = _Scores()
    kept: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        made: dict[tuple[int, ...], np.ndarray] = {}  # two rules often choose the same frames
        for name, (choose, size) in rows_of(system.max_context).items():
            rows = choose(memory, targets, size, seed, None)
            key = tuple(rows.tolist())
            if key not in made:
                made[key] = system.generate(frames[rows], cameras[rows], targets, seed)
            scores.add({f"{name}.context_frames": len(rows)} | picture_scores(name, made[key], truth, networks))
            if name in ROWS:
                kept.setdefault(name, []).append(made[key])
        packed = np.stack([compressed_history(frames[max(0, task.now - 16) : task.now]), frames[task.now - 1]])
        views = cameras[[max(0, task.now - 2), task.now - 1]]
        kept.setdefault("framepack", []).append(system.generate(packed, views, targets, seed))
        packed_scores = picture_scores("framepack", kept["framepack"][-1], truth, networks)
        scores.add({"framepack.context_frames": 2} | packed_scores)
    found = {name: np.concatenate(videos) for name, videos in kept.items()}
    retrieved = frames[_COVERAGE(memory, targets, system.max_context, seeds[0], None)[:4]]
    return scores.clip(), found | {"truth": truth, "retrieved": retrieved}


def turn_and_back(camera: Cameras, rng: np.random.Generator) -> Cameras:
    """A turn on the spot by 90 to 180 degrees and back, 3 degrees a frame."""
    turn = int(rng.integers(30, 61))
    away, back = ("j", "l") if rng.random() < 0.5 else ("l", "j")
    return cameras_from_actions(camera, f"{away}-{turn},{back}-{turn}")


def measure_history(
    system: System, episode: Episode, start: int, seeds: Sequence[int], networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One turn and return on own frames under every rule and size; all mirrored pairs. Returns the scores, and for
    every row of table 1 but FramePack's its pictures for FID `frames_<row>` uint8 [n, H, W, 3] and clips for FVD
    `clips_<row>` [seeds, CLIP, H, W, 3]; the whole first walk of `coverage` and `recent` as `film_<row>`."""
    frames, cameras = recorded(episode)
    path = turn_and_back(cameras[[start]], np.random.default_rng(start))
    half = len(path) // 2
    scores = _Scores()
    kept: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        walks: dict[tuple[Choose, int], tuple[np.ndarray, list[int]]] = {}
        for name, (choose, size) in rows_of(system.max_context).items():
            # A greedy rule that never filled a smaller context makes the same walk with a larger one.
            same = [key for key in walks if key[0] is choose and (key[1] == size or _never_full(walks[key], key, size))]
            if not same:
                used: list[int] = []
                walked = system.walk(frames[[start]], cameras[[start]], path, _counting(choose, size, used), seed)
                walks[choose, size] = np.concatenate([frames[[start]], walked]), used
            video, used = walks[same[0] if same else (choose, size)]
            out, back = video[:half], video[:half:-1]
            scores.add(picture_scores(f"history_{name}", back, out, networks))
            if used:  # a made up system may ask for no context
                scores.add({f"history_{name}.context_frames": float(np.mean(used))})
            if name in ROWS:
                kept.setdefault(name, []).append(video)
    found = {f"film_{name}": kept[name][0] for name in (BASE, "recent")}
    for name, videos in kept.items():
        found[f"frames_{name}"] = np.concatenate([video[1::EVERY] for video in videos])
        found[f"clips_{name}"] = np.stack([video[-CLIP:] for video in videos])
    return scores.clip("history_"), found


def _counting(choose: Choose, size: int, used: list[int]) -> Rule:
    """The rule at this size, noting how many frames it gave."""

    def rule(memory: Cameras, targets: Cameras, seed: int, given: np.ndarray) -> np.ndarray:
        rows = choose(memory, targets, size, seed, given)
        used.append(len(rows))
        return rows

    return rule


def _never_full(walk: tuple[np.ndarray, list[int]], key: tuple[Choose, int], size: int) -> bool:
    """Whether a walk by greedy `coverage` had room left in every context, so that more room would change nothing."""
    used = walk[1]
    return key[0] is _COVERAGE and key[1] < size and bool(used) and max(used) < key[1]


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
        truth = _gathered(chunks, "truth")
        for name in ROWS:
            note(f"fid.{name}", fid, _gathered(chunks, name), truth)
    walked = [name for name in ROWS if name in CHOICES] if turns else []
    if "fid" in networks and walked:
        wanted = -(-len(_gathered(turns, f"frames_{BASE}")) // len(episodes))
        each = [np.linspace(0, episode.num_frames - 1, wanted).round().astype(int) for episode in episodes]
        truth = np.concatenate([recorded(e)[0][rows] for e, rows in zip(episodes, each, strict=True)])
        for name in walked:
            note(f"history_fid.{name}", fid, _gathered(turns, f"frames_{name}"), truth)
    if "fvd" in networks and walked:
        truth = turning_clips(episodes, len(_gathered(turns, f"clips_{BASE}")))
        for name in walked:
            note(f"history_fvd.{name}", fvd, _gathered(turns, f"clips_{name}"), truth)
    return found


def _gathered(files: Sequence[Path], name: str) -> np.ndarray:
    parts = []
    for path in files:
        with np.load(path) as made:
            parts.append(made[name])
    return np.concatenate(parts)


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
    """First frames of stretches of `CLIP` frames that turn by `TURN_RAD` and move by less than `TURN_M` metres; int64,
    ascending, at least `CLIP` apart."""
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
