"""Is memory really used? Returns with right, wrong and no memory; walks that must leave and come back.

1. Gate: a walk counts only if the pictures left and came back. At its farthest point the generated frame must look more
   like the recorded frame of that point than like that of the start, and at the return the other way round.
2. Matched controls: no memory (the most recent frame alone), a window of recent frames, random frames; as many frames
   as the right memory has.
3. Swap at read time: frames of the same trajectory that show nothing of the target, and frames of another scene under
   the cameras of the right ones. A system that uses its memory loses by the swap what memory gave it.
4. Retrieval against true visibility, where the episode's map is known.
5. Drift over a long walk. 6. Time and memory against the length of history.

All systems and contexts start from the same noise. The verdict is `proven` when right memory gains over every control
(95 % interval above 0) and at most half of the gain survives either swap.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, ground_basis, planar
from context_as_memory.data.episode import Episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.covisibility import grown, shown
from context_as_memory.evaluation.ground_truth import Task
from context_as_memory.evaluation.metric_networks import style_distance
from context_as_memory.evaluation.metrics import mean_interval, psnr
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.suite.result import Clip, Report, picture_scores
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.retrieval import Retrieval, RetrievalConfig, explained, retrieve, target_samples

CONTROLS = ("none", "recent", "random")
SWAPS = ("wrong_same_trajectory", "other_scene")
REMEMBERED = 100  # recorded frames before a walk
SHOWS = 0.1  # a frame shows the target if it shows this share of what the target sees


@dataclass(frozen=True)
class Walk:
    """A recorded stretch that leaves a view and comes back to it: frame numbers of first visit, farthest point and
    return."""

    episode: Episode
    first: int
    away: int
    back: int


def recorded(episode: Episode) -> tuple[np.ndarray, Cameras]:
    """Frames uint8 [T, H, W, 3] and cameras of an episode; the last few asked for are kept."""
    return _recorded(episode.folder)


@lru_cache(maxsize=3)
def _recorded(folder: Path) -> tuple[np.ndarray, Cameras]:
    episode = Episode.open(folder)
    return episode.frames(), episode.cameras()


def swapped(found: Retrieval, now: int, seed: int) -> Retrieval:
    """As many frames as were found, from the same past, that show nothing of the target; the most recent one stays."""
    rng = np.random.default_rng(seed)
    wrong = np.setdiff1d(np.arange(now - 1), found.candidates)
    wrong = rng.permutation(wrong)[: len(found.indices) - 1]
    indices = np.append(wrong, now - 1)
    return Retrieval(indices, np.zeros(len(indices)), indices)


def contexts(cameras: Cameras, now: int, targets: Cameras, max_context: int, seed: int) -> dict[str, np.ndarray]:
    """Frame numbers of every context of a return, the most recent frame last; `right` as retrieval chooses it, the
    controls of the same size."""
    rule = RetrievalConfig(max_context=max_context)
    found = retrieve(cameras[:now], targets, rule, recent=now - 1, seed=seed)
    size = len(found.indices)
    rng = np.random.default_rng(seed)
    return {
        "right": found.indices,
        "none": np.array([now - 1]),
        "recent": np.arange(max(0, now - size), now),
        "random": np.append(rng.permutation(now - 1)[: size - 1], now - 1),
        "wrong_same_trajectory": swapped(found, now, seed).indices,
    }


def measure_return(
    system: System, task: Task, other: Episode, seed: int, networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One return with every context: its scores, and the last generated frame of each with the true and the retrieved
    ones."""
    frames, cameras = recorded(task.episode)
    chunk = slice(task.start, task.start + system.chunk_frames)
    targets, truth = cameras[chunk], frames[chunk]
    chosen = contexts(cameras, task.now, targets, system.max_context, seed)
    right = chosen["right"]
    foreign = recorded(other)[0]
    strange = foreign[np.random.default_rng(seed).integers(0, len(foreign), len(right))].copy()
    strange[-1] = frames[right[-1]]
    made = {name: system.generate(frames[rows], cameras[rows], targets, seed) for name, rows in chosen.items()}
    made["other_scene"] = system.generate(strange, cameras[right], targets, seed)
    clip: Clip = {"context_frames": float(len(right))}
    for name, pictures in made.items():
        clip |= picture_scores(name, pictures, truth, networks)
    for name in made:
        if name != "none":
            clip[f"gain_db.{name}"] = (clip[f"{name}.psnr_db"] or 0.0) - (clip["none.psnr_db"] or 0.0)
    clip |= retrieval_scores(task, right)
    shown_frames = {"truth": truth[-1]} | {name: pictures[-1] for name, pictures in made.items()}
    shown_frames |= {f"retrieved {row}": frames[row] for row in right[:3]}
    return clip, shown_frames


def retrieval_scores(task: Task, indices: np.ndarray) -> Clip:
    """Against the map's walls: which share of the retrieved frames shows the target (precision), and which share of
    what the target sees, and the past has seen, they and the most recent frame show (recall)."""
    bits = _true_bits(task.episode.folder)
    if bits is None:
        return {}
    wanted = np.unique(bits[task.start : task.start + 4])
    wanted = wanted[np.isin(wanted, grown(bits[: task.now]))]
    if len(wanted) < 20:
        return {}
    each = [float(np.isin(wanted, grown(bits[[row]])).mean()) for row in indices]
    together = float(np.isin(wanted, grown(bits[indices])).mean())
    precision = float(np.mean([share >= SHOWS for share in each[:-1]])) if len(each) > 1 else None
    return {"retrieval.precision": precision, "retrieval.recall": together}


@lru_cache(maxsize=8)
def _true_bits(folder: Path) -> np.ndarray | None:
    """The bits of wall that each frame of an episode shows; None if its map is not known."""
    from context_as_memory.data.render import load_map

    episode = Episode.open(folder)
    name = episode.meta.get("map")
    if name is None:
        return None
    try:
        return shown(load_map(str(name)), episode.cameras())
    except UserError:  # the maps come with the `render` extra
        return None


def choose_walks(
    episodes: Sequence[Episode], count: int, seed: int, *, shortest: int = 40, longest: int = 200
) -> list[Walk]:
    """Draw recorded stretches that come back after `shortest` to `longest` frames, evenly over the episodes."""
    rng = np.random.default_rng(seed)
    queues: list[list[Walk]] = []
    for episode in episodes:
        cameras = episode.cameras()
        found = []
        for visit in visits(find_returns(cameras)):
            first, back = int(visit.firsts[0]), int(visit.frames[0])
            if shortest <= back - first <= longest:
                found.append(Walk(episode, first, farthest(cameras, first, back), back))
        queues.append([found[i] for i in rng.permutation(len(found))])
    chosen: list[Walk] = []
    while any(queues) and len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


def farthest(cameras: Cameras, first: int, back: int) -> int:
    """The frame between `first` and `back` that shows least of the view of `first`; the middle one of several."""
    views = planar(cameras[first:back], ground_basis(cameras))
    config = RetrievalConfig()
    goal = planar(cameras[[first]], ground_basis(cameras))
    share = explained(target_samples(goal, config.near_m, config.far_m), views, config).mean(axis=1)
    least = np.flatnonzero(share == share.min())
    return first + int(least[len(least) // 2])


def passes_gate(made: np.ndarray, frames: np.ndarray, walk: Walk) -> bool:
    """Whether frames [first + 1, back] as generated really left and came back, judged by the recorded frames."""
    away, back = made[walk.away - walk.first - 1], made[-1]
    left = psnr(away, frames[walk.away]) > psnr(away, frames[walk.first])
    came_back = psnr(back, frames[walk.back]) > psnr(back, frames[walk.away])
    return bool(left and came_back)


def measure_walk(system: System, walk: Walk, seed: int, networks: bool) -> tuple[Clip, dict[str, np.ndarray]]:
    """One walk on own frames with memory and with recent frames only. Returns its scores and the videos."""
    frames, cameras = recorded(walk.episode)
    start = slice(max(0, walk.first + 1 - REMEMBERED), walk.first + 1)
    clip: Clip = {}
    videos = {"recorded": frames[walk.first : walk.back + 1]}
    for strategy in ("coverage", "recent"):
        made = system.walk(frames[start], cameras[start], cameras[walk.first + 1 : walk.back + 1], strategy, seed)
        passed = passes_gate(made, frames, walk)
        clip[f"gate.{strategy}"] = float(passed)
        scores = picture_scores(f"walk_{strategy}", made[-1:], frames[walk.back : walk.back + 1], networks)
        clip |= scores if passed else dict.fromkeys(scores)
        videos[strategy] = np.concatenate([frames[walk.first : walk.first + 1], made])
    return clip, videos


def drift(system: System, episode: Episode, frames_wanted: int, seed: int, networks: bool) -> list[dict[str, float]]:
    """A long walk from one frame: per window of 60 frames its sharpness as a share of the recorded one, and with the
    networks its style distance to all recorded frames of the walk, beside that of the recorded window."""
    frames, cameras = recorded(episode)
    length = min(frames_wanted, len(frames) - 1) // 60 * 60
    made = system.walk(frames[:1], cameras[:1], cameras[1 : length + 1], "coverage", seed)
    rows = []
    for start in range(0, length, 60):
        window, truth = made[start : start + 60], frames[start + 1 : start + 61]
        row = {"frame": float(start), "sharpness_ratio": sharpness(window) / sharpness(truth)}
        if networks:
            row["style"] = style_distance(window[::4], frames[::20])
            row["style_recorded"] = style_distance(truth[::4], frames[::20])
        rows.append(row)
    return rows


def sharpness(frames_u8: np.ndarray) -> float:
    """Mean variance of the Laplacian of grey values."""
    from scipy.ndimage import laplace

    grey = frames_u8.astype(np.float64).mean(axis=-1)
    return float(np.mean([laplace(frame).var() for frame in grey]))


def cost(system: System, episode: Episode) -> list[dict[str, float]]:
    """Seconds per chunk and bytes of memory against the frames remembered. Only for worlds of ours."""
    if not isinstance(system, WorldSystem):
        return []
    frames, cameras = recorded(episode)
    rows = []
    world = system.fresh(0)
    for history in (64, 256, 900):
        if history + 6 * world.chunk_frames > len(frames):
            break
        world.reset(frames[:history], cameras[:history])
        seconds = []
        for number in range(6):
            start = history + number * world.chunk_frames
            began = time.perf_counter()
            chunk = world.step(cameras[start : start + world.chunk_frames], commit=False)
            seconds.append(time.perf_counter() - began)
        latents = world.bank.latents(np.arange(1))
        size = latents.numel() * latents.element_size() + frames[0].nbytes
        rows.append(
            {
                "history_frames": float(history),
                "seconds_per_chunk": float(np.median(seconds[1:])),
                "retrieve_seconds": chunk.seconds["retrieve"],
                "memory_bytes": float(size * history),
            }
        )
    return rows


def conclude(report: Report) -> None:
    """Fill the summary from the clips, the verdict included."""
    summary = report.summary
    for name in ("right", *CONTROLS[1:], *SWAPS):
        interval = report.interval(f"gain_db.{name}")
        summary[f"gain_db.{name}"] = None if interval is None else interval.mean
    right = report.values("gain_db.right")
    proven = len(right) > 1
    for control in CONTROLS:
        other = report.values(f"gain_db.{control}") if control != "none" else np.zeros(len(right))
        margin = mean_interval(right - other) if len(right) else None
        summary[f"margin_db.{control}"] = None if margin is None else margin.mean
        proven = proven and margin is not None and margin.low > 0
    for swap in SWAPS:
        kept = kept_share(right, report.values(f"gain_db.{swap}"))
        summary[f"kept.{swap}"] = kept
        proven = proven and kept is not None and kept <= 0.5
    for name in ("retrieval.precision", "retrieval.recall"):
        interval = report.interval(name)
        summary[name] = None if interval is None else interval.mean
    gate = report.interval("gate.coverage")
    summary["gate_pass_rate"] = None if gate is None else gate.mean
    gate = report.interval("gate.recent")
    summary["gate_pass_rate_recent"] = None if gate is None else gate.mean
    summary["proven"] = bool(proven)


def kept_share(right: np.ndarray, swapped_gain: np.ndarray) -> float | None:
    """Which share of memory's gain survives a swap, in [0, 1]: 1 when the swap changes nothing, also where there is no
    gain. None without clips."""
    if len(right) == 0:
        return None
    lost = float(right.mean() - swapped_gain.mean())
    if abs(lost) < 1e-9:
        return 1.0
    gain = float(right.mean())
    return float(np.clip(1 - lost / gain, 0, 1)) if gain > 0 else 1.0


def settings_of(system: System, **more: Any) -> dict[str, Any]:
    """The settings that make two runs comparable, flat."""
    return {"chunk_frames": system.chunk_frames, "max_context": system.max_context, **more}
