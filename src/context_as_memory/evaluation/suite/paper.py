"""The paper's tables (arXiv 2506.03141, tables 1 to 3) on any episodes, for one set of weights.

Ground-truth comparison: recorded frames are the memory, chunks anywhere on the recorded path. Every row chooses its
context by another rule; all have the same number of frames, the most recent one included, the same targets and the same
noise. History comparison: from a recorded start the camera turns by 90 to 180 degrees and back on own frames; every
frame of the way back against its mirror on the way out.

What differs from the paper: its rows were separate trainings, here one set of weights reads all contexts; its first row
sees the first frame only, here always the most recent one too, since the layout gives it a slot of its own. FramePack's
row is what its compression leaves of old frames, drawn as one picture, for weights that were never trained on such.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, cameras_from_actions
from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.ground_truth import Task
from context_as_memory.evaluation.metric_networks import fid, fvd
from context_as_memory.evaluation.suite.proof import recorded
from context_as_memory.evaluation.suite.result import Clip, picture_scores
from context_as_memory.evaluation.suite.system import System
from context_as_memory.retrieval import RetrievalConfig, retrieve

ROWS = ("first", "first_random", "recent", "framepack", "paper", "coverage")
SIZES = (1, 5, 10, 20, 30)
ABLATION = ("random", "fov_random", "fov_nonadjacent", "fov_nonadjacent_far")
HISTORY = ("first", "random", "recent", "paper", "coverage")  # strategies of walks
CLIP = 16  # frames of a video for FVD
SMALLEST = 8  # pixels: FramePack's halving ends here

Choose = Callable[[Cameras, Cameras, int, int], np.ndarray]  # memory, targets, size, seed -> frames, most recent last


def _by(rule: RetrievalConfig) -> Choose:
    def choose(memory: Cameras, targets: Cameras, size: int, seed: int) -> np.ndarray:
        config = replace(rule, max_context=size)
        return retrieve(memory, targets, config, recent=len(memory) - 1, seed=seed).indices

    return choose


def _first_random(memory: Cameras, targets: Cameras, size: int, seed: int) -> np.ndarray:
    """The first frame, random ones, and the most recent one."""
    last = len(memory) - 1
    others = np.random.default_rng(seed).permutation(np.arange(1, last))[: max(0, size - 2)]
    return np.array([*([0] if size > 1 and last > 0 else []), *others, last])


def _fov_random(memory: Cameras, targets: Cameras, size: int, seed: int) -> np.ndarray:
    """Random frames among those that pass the paper's overlap test."""
    last = len(memory) - 1
    rule = RetrievalConfig(strategy="paper", max_context=size)
    passed = retrieve(memory, targets, rule, recent=last, seed=seed).candidates
    passed = passed[passed != last]
    return np.append(np.random.default_rng(seed).permutation(passed)[: size - 1], last)


CHOICES: dict[str, Choose] = {
    "first": _by(RetrievalConfig(strategy="first")),
    "first_random": _first_random,
    "random": _by(RetrievalConfig(strategy="random")),
    "recent": _by(RetrievalConfig(strategy="recent")),
    "paper": _by(RetrievalConfig(strategy="paper")),
    "coverage": _by(RetrievalConfig(strategy="coverage")),
    "fov_random": _fov_random,
    "fov_nonadjacent": _by(RetrievalConfig(strategy="paper", paper_far_share=0.0)),
    "fov_nonadjacent_far": _by(RetrievalConfig(strategy="paper")),
}


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


def measure_chunk(
    system: System, task: Task, seeds: Sequence[int], networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One chunk under every rule and size, means over the seeds of the noise. Returns the scores, and the frames of the
    last seed by row, `truth` among them."""
    frames, cameras = recorded(task.episode)
    chunk = slice(task.start, task.start + system.chunk_frames)
    memory, targets, truth = cameras[: task.now], cameras[chunk], frames[chunk]
    cases: dict[str, tuple[np.ndarray, Cameras]] = {}
    for name in dict.fromkeys((*ROWS, *ABLATION)):
        if name != "framepack":
            rows = CHOICES[name](memory, targets, system.max_context, seeds[0])
            cases[name] = (frames[rows], cameras[rows])
    packed = np.stack([compressed_history(frames[max(0, task.now - 16) : task.now]), frames[task.now - 1]])
    cases["framepack"] = (packed, cameras[[max(0, task.now - 2), task.now - 1]])
    for size in SIZES:
        rows = CHOICES["coverage"](memory, targets, size, seeds[0])
        cases[f"coverage@{size}"] = (frames[rows], cameras[rows])
    sums: dict[str, list[float]] = {}
    made = {"truth": truth}
    for name, (pictures, views) in cases.items():
        for seed in seeds:
            made[name] = system.generate(pictures, views, targets, seed)
            for key, value in picture_scores(name, made[name], truth, networks).items():
                sums.setdefault(key, []).append(float(value or 0.0))
    return {key: float(np.mean(values)) for key, values in sums.items()}, made


def distribution_distances(folder: Path) -> dict[str, dict[str, float]]:
    """FID of every row's generated chunks against the recorded ones, and FVD of the last `CLIP` frames of every
    strategy's turns against recorded clips, from the frames that the clips left in `folder`."""
    chunks = [dict(np.load(path)) for path in sorted(folder.glob("chunk-*.npz"))]
    turns = [dict(np.load(path)) for path in sorted(folder.glob("turn-*.npz"))]
    found: dict[str, dict[str, float]] = {"fid": {}, "fvd": {}}
    if chunks:
        truth = np.concatenate([made["truth"] for made in chunks])
        for name in ROWS:
            found["fid"][name] = fid(np.concatenate([made[name] for made in chunks]), truth)
    if len(turns) > 1:
        recorded_clips = np.stack([made["recorded"] for made in turns])
        for name in HISTORY:
            found["fvd"][name] = fvd(np.stack([made[name][-CLIP:] for made in turns]), recorded_clips)
    return found


def turn_and_back(camera: Cameras, rng: np.random.Generator) -> Cameras:
    """A turn on the spot by 90 to 180 degrees and back, 3 degrees a frame."""
    turn = int(rng.integers(30, 61))
    away, back = ("j", "l") if rng.random() < 0.5 else ("l", "j")
    return cameras_from_actions(camera, f"{away}-{turn},{back}-{turn}")


def measure_history(
    system: System, episode: Episode, start: int, seeds: Sequence[int], networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One turn and return on own frames under every strategy; all mirrored pairs. Returns scores, the videos of the
    last seed, and `recorded`, a recorded clip from the same start."""
    frames, cameras = recorded(episode)
    path = turn_and_back(cameras[[start]], np.random.default_rng(start))
    half = len(path) // 2
    sums: dict[str, list[float]] = {}
    made: dict[str, np.ndarray] = {}
    for strategy in HISTORY:
        for seed in seeds:
            walked = system.walk(frames[start : start + 1], cameras[[start]], path, strategy, seed)
            made[strategy] = np.concatenate([frames[start : start + 1], walked])
            out, back = made[strategy][:half], made[strategy][:half:-1]
            for key, value in picture_scores(f"history_{strategy}", back, out, networks).items():
                sums.setdefault(key, []).append(float(value or 0.0))
    first = min(start, len(frames) - CLIP)
    made["recorded"] = frames[first : first + CLIP]
    return {key: float(np.mean(values)) for key, values in sums.items()}, made
