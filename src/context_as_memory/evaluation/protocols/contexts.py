"""What a generator may read: every rule for a context, right or wrong, by name.

A rule sees cameras, those of the memory and of the targets, and which frames of the memory were recorded. It returns
frame numbers, the most recent one last.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.evaluation.returns import pose_distance
from context_as_memory.retrieval import Candidates, Paper, Retrieval, RetrievalConfig, retrieve

SMALLEST = 8  # pixels: FramePack's halving ends here
SWAPS = ("wrong_same_trajectory", "other_scene")

Recorded = np.ndarray | None  # which frames of a memory were recorded and not generated, bool [N]; None: all
Choose = Callable[[Cameras, Cameras, int, int, Recorded], np.ndarray]
"""Memory, targets, size, seed, recorded frames -> frame numbers of the context, the most recent one last."""


def choices(rule: RetrievalConfig) -> dict[str, Choose]:
    """Every rule that chooses frames; `rule` gives the settings of those that retrieval knows."""

    def by(**changes: object) -> Choose:
        def choose(memory: Cameras, targets: Cameras, size: int, seed: int, recorded: Recorded) -> np.ndarray:
            config = replace(rule, max_context=size, **changes)  # type: ignore[arg-type]
            return retrieve(
                Candidates(memory, recorded=recorded), targets, config, recent=len(memory) - 1, seed=seed
            ).frame_ids

        return choose

    def fov_random(memory: Cameras, targets: Cameras, size: int, seed: int, recorded: Recorded) -> np.ndarray:
        """Random frames among those that pass the paper's overlap test."""
        last = len(memory) - 1
        config = replace(rule, strategy="paper", max_context=size)
        passed = retrieve(memory, targets, config, recent=last, seed=seed).candidates
        return np.append(np.random.default_rng(seed).permutation(passed[passed != last])[: size - 1], last)

    return {
        "first": _first,
        "first_random": _first_random,
        "random": by(strategy="random"),
        "recent": by(strategy="recent"),
        "paper": by(strategy="paper"),
        "coverage": by(strategy="coverage"),
        "fov_random": fov_random,
        "fov_nonadjacent": by(strategy="paper", paper=Paper(far_share=0.0)),
        "fov_nonadjacent_far": by(strategy="paper"),
    }


def _first(memory: Cameras, targets: Cameras, size: int, seed: int, recorded: Recorded) -> np.ndarray:
    """The first frame and the most recent one, whatever the size."""
    return np.unique([0, len(memory) - 1])


def _first_random(memory: Cameras, targets: Cameras, size: int, seed: int, recorded: Recorded) -> np.ndarray:
    """The first frame, random ones, and the most recent one."""
    last = len(memory) - 1
    others = np.random.default_rng(seed).permutation(np.arange(1, last))[: max(0, size - 2)]
    return np.array([*([0] if size > 1 and last > 0 else []), *others, last])


def swapped(found: Retrieval, now: int, seed: int) -> Retrieval:
    """As many frames as were found, from the same past, that show nothing of the target; the most recent one stays."""
    rng = np.random.default_rng(seed)
    wrong = np.setdiff1d(np.arange(now - 1), found.candidates)
    wrong = rng.permutation(wrong)[: len(found.frame_ids) - 1]
    frame_ids = np.append(wrong, now - 1)
    return Retrieval(frame_ids, np.zeros(len(frame_ids)), frame_ids)


def matched(memory: Cameras, targets: Cameras, rule: RetrievalConfig, seed: int) -> dict[str, np.ndarray]:
    """Frame numbers int64 [m] by name: the right context by `coverage`, and controls of the same size: the most recent
    frame alone (`none`), a window of recent frames, random frames, and frames of the same walk that show nothing of the
    target."""
    now = len(memory)
    found = retrieve(memory, targets, replace(rule, strategy="coverage"), recent=now - 1, seed=seed)
    size = len(found.frame_ids)
    rng = np.random.default_rng(seed)
    return {
        "right": found.frame_ids,
        "none": np.array([now - 1]),
        "recent": np.arange(max(0, now - size), now),
        "random": np.append(rng.permutation(now - 1)[: size - 1], now - 1),
        "wrong_same_trajectory": swapped(found, now, seed).frame_ids,
    }


def other_scene(right: np.ndarray, frames_u8: np.ndarray, foreign_u8: np.ndarray, seed: int) -> np.ndarray:
    """Pictures of another scene uint8 [m, H, W, 3] in place of the right frames; the most recent one stays."""
    strange = foreign_u8[np.random.default_rng(seed).integers(0, len(foreign_u8), len(right))].copy()
    strange[-1] = frames_u8[right[-1]]
    return strange


def nearest(cameras: Cameras, among: np.ndarray, targets: Cameras) -> np.ndarray:
    """For each target the frame number in `among` with the closest pose, int64 [T]; 0.2 m weigh as much as 5
    degrees."""
    metres, radians = pose_distance(targets.c2w, cameras.c2w[among])
    return among[np.argmin(metres / 0.2 + radians / np.radians(5.0), axis=1)]


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
