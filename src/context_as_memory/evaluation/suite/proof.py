"""Is memory really used? Returns with right, wrong and no memory; walks that must leave and come back.

1. Gate: a walk counts only if the pictures left and came back. Around its farthest point the generated frames must
   look more like the recorded ones there than like that of the start, and at the return more like the recorded ones
   there than like that of the farthest point: by `GATE_DB` in PSNR each, the median over `GATE_FRAMES` frames. Pictures
   that are the same, or noise, everywhere cannot pass: start and return look alike, so what they gain on one test they
   lose on the other. With memory more walks must pass than with recent frames only.
2. Matched controls: no memory (the most recent frame alone), a window of recent frames, random frames; as many frames
   as the right memory has.
3. Swap at read time: frames of the same trajectory that show nothing of the target, and frames of another scene under
   the cameras of the right ones. A system that uses its memory loses by the swap what memory gave it.
4. Retrieval against true visibility, where the episode's map is known.
5. Drift over a long walk. 6. Time and memory against the length of history.

All systems and contexts start from the same noise. The verdict is `proven` when right memory gains over every control
(95 % interval above 0), at most half of the gain survives either swap, and the gate is passed more often with memory
than without; `conditions` says which of these hold.
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
from context_as_memory.evaluation.metrics import Interval, psnr, resampled_means
from context_as_memory.evaluation.returns import GRID, find_returns, visits
from context_as_memory.evaluation.suite.result import Clip, Report, picture_scores
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.retrieval import Retrieval, RetrievalConfig, explained, retrieve, target_samples

CONTROLS = ("none", "recent", "random")
SWAPS = ("wrong_same_trajectory", "other_scene")
GATE_FRAMES = 5  # around the farthest point, and up to the return
GATE_DB = 1.0  # by so much more alike: far above what noise differs by, far below what the right picture does
DRIFT_MAPS = 3  # at most so many walks are watched for drift, each on a map of its own
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
    system: System, task: Task, other: Episode | None, seed: int, networks: bool
) -> tuple[Clip, dict[str, np.ndarray]]:
    """One return with every context: its scores, and the last generated frame of each with the true and the retrieved
    ones. other: an episode of another scene; None: there is none, and that swap is left out."""
    frames, cameras = recorded(task.episode)
    chunk = slice(task.start, task.start + system.chunk_frames)
    targets, truth = cameras[chunk], frames[chunk]
    chosen = contexts(cameras, task.now, targets, system.max_context, seed)
    right = chosen["right"]
    made = {name: system.generate(frames[rows], cameras[rows], targets, seed) for name, rows in chosen.items()}
    if other is not None:
        foreign = recorded(other)[0]
        strange = foreign[np.random.default_rng(seed).integers(0, len(foreign), len(right))].copy()
        strange[-1] = frames[right[-1]]
        made["other_scene"] = system.generate(strange, cameras[right], targets, seed)
    clip: Clip = {"context_frames": float(len(right))}
    for name, pictures in made.items():
        clip |= picture_scores(name, pictures, truth, networks)
    for name in made:
        if name != "none":
            clip[f"gain_db.{name}"] = (clip[f"{name}.psnr_db"] or 0.0) - (clip["none.psnr_db"] or 0.0)
    clip |= {f"retrieval.{name}": value for name, value in retrieval_scores(task, right).items()}
    by_chance = retrieval_scores(task, chosen["random"])
    clip |= {f"retrieval_random.{name}": value for name, value in by_chance.items()}
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
    return {"precision": precision, "recall": together}


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
    share = explained(target_samples(goal, config.near_m, config.far_m, *GRID), views, config).mean(axis=1)
    least = np.flatnonzero(share == share.min())
    return first + int(least[len(least) // 2])


def gate_margins_db(made: np.ndarray, frames: np.ndarray, walk: Walk) -> tuple[float, float]:
    """By how many dB frames [first + 1, back] as generated are more like where they should be than like where they
    should not: around the farthest point than the start, and at the return than the farthest point. Medians over
    `GATE_FRAMES` frames, judged by the recorded frames."""

    def margin(rows: np.ndarray, wrong: int) -> float:
        rows = rows[(rows > walk.first) & (rows <= walk.back)]
        ours = made[rows - walk.first - 1]
        elsewhere = np.broadcast_to(frames[wrong], ours.shape)
        return float(np.median(psnr(ours, frames[rows]) - psnr(ours, elsewhere)))

    around = walk.away + np.arange(GATE_FRAMES) - GATE_FRAMES // 2
    ending = walk.back - np.arange(GATE_FRAMES)
    return margin(around, walk.first), margin(ending, walk.away)


def measure_walk(system: System, walk: Walk, seed: int, networks: bool) -> tuple[Clip, dict[str, np.ndarray]]:
    """One walk on own frames with memory and with recent frames only. Returns its scores and the videos."""
    frames, cameras = recorded(walk.episode)
    start = slice(max(0, walk.first + 1 - REMEMBERED), walk.first + 1)
    clip: Clip = {}
    videos = {"recorded": frames[walk.first : walk.back + 1]}
    for strategy in ("coverage", "recent"):
        made = system.walk(frames[start], cameras[start], cameras[walk.first + 1 : walk.back + 1], strategy, seed)
        left_db, returned_db = gate_margins_db(made, frames, walk)
        passed = min(left_db, returned_db) >= GATE_DB
        clip |= {f"gate.{strategy}": float(passed), f"gate_left_db.{strategy}": left_db}
        clip[f"gate_returned_db.{strategy}"] = returned_db
        scores = picture_scores(f"walk_{strategy}", made[-1:], frames[walk.back : walk.back + 1], networks)
        clip |= scores if passed else dict.fromkeys(scores)
        videos[strategy] = np.concatenate([frames[walk.first : walk.first + 1], made])
    return clip, videos


def walk_film(videos: dict[str, np.ndarray], away: int) -> np.ndarray:
    """The way back of a walk beside the first visit, uint8 [T, 2 H, 2 W, 3]: on the left the way out played backwards,
    at the pace of the way back; on the right the way back. Above with memory, below with recent frames only. away: the
    farthest frame of the videos."""
    rows = []
    for name in ("coverage", "recent"):
        back = videos[name][away:]
        out = videos[name][np.linspace(away, 0, len(back)).round().astype(int)]
        rows.append(np.concatenate([out, back], axis=2))
    return np.concatenate(rows, axis=1)


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


def drift_episodes(episodes: Sequence[Episode]) -> list[Episode]:
    """The first episode of each map, at most `DRIFT_MAPS`."""
    first: dict[str, Episode] = {}
    for episode in episodes:
        first.setdefault(str(episode.meta.get("map", episode.name)), episode)
    return list(first.values())[:DRIFT_MAPS]


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
    """Fill the summary from the clips, the verdict and its conditions included."""
    summary = report.summary
    swaps = [swap for swap in SWAPS if report.having(f"gain_db.{swap}")]
    for name in ("right", *CONTROLS[1:], *swaps):
        summary[f"gain_db.{name}"] = _mean(report.interval(f"gain_db.{name}"))
    conditions: dict[str, bool] = {"at least two returns were measured": len(report.having("gain_db.right")) > 1}
    for control in CONTROLS:
        base = f"gain_db.{control}"
        margin = report.interval("gain_db.right") if control == "none" else report.difference("gain_db.right", base)
        report.note_interval(f"margin_db.{control}", margin)
        summary[f"margin_db.{control}"] = _mean(margin)
        name = {"none": "no memory", "recent": "recent frames", "random": "random frames"}[control]
        conditions[f"right memory gains over {name}"] = margin is not None and margin.low > 0
    for swap in swaps:
        clips = report.having("gain_db.right", f"gain_db.{swap}")
        gains = np.stack([report.values(f"gain_db.{name}", clips) for name in ("right", swap)], axis=1)
        kept = kept_share(gains[:, 0], gains[:, 1])
        shares = [_kept(*row) for row in resampled_means(gains, report.groups_of(clips))]
        low, high = np.quantile(shares, [0.025, 0.975])
        report.note_interval(f"kept.{swap}", Interval(kept or 0.0, float(low), float(high), len(clips)))
        summary[f"kept.{swap}"] = kept
        name = {"wrong_same_trajectory": "frames that show something else", "other_scene": "another scene"}[swap]
        conditions[f"at most half of the gain survives a swap for {name}"] = kept is not None and kept <= 0.5
    if not swaps:
        conditions["memory was swapped"] = False
    for kind in ("retrieval", "retrieval_random"):
        for name in ("precision", "recall"):
            summary[f"{kind}.{name}"] = _mean(report.interval(f"{kind}.{name}"))
    with_memory, without = _mean(report.interval("gate.coverage")), _mean(report.interval("gate.recent"))
    summary["gate_pass_rate"], summary["gate_pass_rate_recent"] = with_memory, without
    conditions["walks that must leave and come back were measured"] = with_memory is not None
    conditions["more walks pass the gate with memory than without"] = (with_memory or 0.0) > (without or 0.0)
    both = report.having("walk_coverage.psnr_db", "walk_recent.psnr_db")
    summary["walks_passed"] = len(report.having("walk_coverage.psnr_db"))
    summary["walks_passed_recent"] = len(report.having("walk_recent.psnr_db"))
    summary["walks_passed_both"] = len(both)
    last = [rows[-1] for rows in report.parts.get("drift", {}).values() if rows]  # windows at the ends of the walks
    for key in sorted({key for row in last for key in row} - {"frame"}):
        values = [row[key] for row in last if key in row]
        report.numbers[f"drift_end.{key}"] = {"mean": float(np.mean(values)), "n": len(values)}
    report.parts["conditions"] = conditions
    summary["proven"] = all(conditions.values())


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


def kept_share(right: np.ndarray, swapped_gain: np.ndarray) -> float | None:
    """Which share of memory's gain survives a swap, in [0, 1]: 1 when the swap changes nothing, also where there is no
    gain. None without clips."""
    return _kept(float(right.mean()), float(swapped_gain.mean())) if len(right) else None


def _kept(gain: float, swapped_gain: float) -> float:
    lost = gain - swapped_gain
    if abs(lost) < 1e-9:
        return 1.0
    return float(np.clip(1 - lost / gain, 0, 1)) if gain > 0 else 1.0


def settings_of(system: System, **more: Any) -> dict[str, Any]:
    """The settings that make two runs comparable, flat."""
    return {"chunk_frames": system.chunk_frames, "max_context": system.max_context, **more}
