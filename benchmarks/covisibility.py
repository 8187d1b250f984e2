"""Which rule finds the frames that truly show what will be seen? Judged by the true world, without any model.

    python benchmarks/covisibility.py --data episodes [--split test] [--clips 120] [--json FILE]

For returns on recorded walks (half of the view was seen before, less than a quarter of it lately) the true world tells
what every frame really shows: in Freedoom horizontal rays against the map's walls; in voxel worlds, where cameras look
up and down, the surfaces at a grid of pixels, and depth maps of the stored frames that say who sees them. Reported: the
share of what the chunk shows, and the past has shown, that the chosen frames or the last two show, for 2, 4, 8 and 14
chosen frames. `oracle` knows the answer and picks greedily. Published rules are written plainly from their papers
(published_rules.py).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from published_rules import memorizon, worldmem, worldplay

from context_as_memory.camera import PROFILE, Cameras, horizon_profile
from context_as_memory.data.doom_map import horizon_rays
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.data.render import load_map
from context_as_memory.evaluation.covisibility import grown, shown
from context_as_memory.evaluation.metrics import mean_interval
from context_as_memory.evaluation.protocols.scenes import Task, choose_returns
from context_as_memory.retrieval import Candidates, Coverage, RetrievalConfig, retrieve

CHUNK_FRAMES = 4
BUDGETS = (2, 4, 8, 14)
DEPTH_SIZE, EVERY = (80, 48), 4  # of depth maps, and the grid of their pixels that is asked for
MARGIN_M, MARGIN_SHARE = 0.1, 0.03  # what lies this little behind a depth map is the surface itself


@dataclass(frozen=True)
class Truth:
    """What the frames of an episode really show. shows: (rows of a chunk, now) -> bool [now, W]: which of the W bits
    that the chunk shows each stored frame shows. profiles_m: depths along each horizon, [N, PROFILE]."""

    shows: Callable[[np.ndarray, int], np.ndarray]
    profiles_m: np.ndarray


def truth_of(episode: Episode) -> Truth:
    """By the map or the voxel world that the episode names."""
    cameras = episode.cameras()
    if "map" in episode.meta:
        doom_map = load_map(str(episode.meta["map"]))
        bits = shown(doom_map, cameras)

        def shows(chunk: np.ndarray, now: int) -> np.ndarray:
            wanted = np.unique(bits[chunk])
            return np.stack([np.isin(wanted, grown(row)) for row in bits[:now]])

        return Truth(shows, horizon_rays(doom_map, cameras, PROFILE)[1])
    from context_as_memory.data.voxel.render import VoxelRenderer
    from context_as_memory.data.voxel.styles import build_world

    small = cameras.resized(*DEPTH_SIZE)
    depths = VoxelRenderer(build_world(str(episode.meta["world"]))).depth(small)
    return Truth(lambda chunk, now: seen_by_depth(small, depths, chunk, now), horizon_profile(depths))


def seen_by_depth(cameras: Cameras, depths_m: np.ndarray, chunk: np.ndarray, now: int) -> np.ndarray:
    """Which surface points of a chunk (a grid of its pixels, sky left out) each of the first `now` frames sees: inside
    its picture and not behind its depth map, bool [now, W]. depths_m: [N, H, W] along the cameras' axes."""
    y, x = np.mgrid[EVERY // 2 : cameras.height : EVERY, EVERY // 2 : cameras.width : EVERY].reshape(2, -1)
    points = []
    for row in chunk:
        fx, fy, cx, cy = cameras.K[row]
        depth = depths_m[row, y, x]
        local = np.stack([(x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, np.ones(len(x))], axis=1) * depth[:, None]
        known = np.isfinite(depth)
        points.append(local[known] @ cameras.c2w[row, :3, :3].T + cameras.position[row])
    wanted = np.concatenate(points)
    seen = np.zeros((now, len(wanted)), bool)
    for row in range(now):
        fx, fy, cx, cy = cameras.K[row]
        right, down, ahead = ((wanted - cameras.position[row]) @ cameras.c2w[row, :3, :3]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            column, line = np.floor(fx * right / ahead + cx), np.floor(fy * down / ahead + cy)
        inside = (ahead > 0) & (column >= 0) & (column < cameras.width) & (line >= 0) & (line < cameras.height)
        at = line[inside].astype(int), column[inside].astype(int)
        seen[row, inside] = ahead[inside] <= depths_m[row][at] * (1 + MARGIN_SHARE) + MARGIN_M
    return seen


def oracle(masks: np.ndarray, frames: int) -> list[int]:
    """Greedily the frame that truly shows most of what is still wanted, of masks [now, W]."""
    left, chosen = np.ones(masks.shape[1], bool), list[int]()
    for _ in range(frames):
        gain = (masks & left).sum(axis=1)
        if not gain.max():
            break
        chosen.append(int(gain.argmax()))
        left &= ~masks[chosen[-1]]
    return chosen


def choices(task: Task, cameras: Cameras, profiles_m: np.ndarray, seed: int) -> dict[str, Callable[[int], list[int]]]:
    """Every rule as a function of the number of frames."""
    bank, target = cameras[: task.now], cameras[task.start : task.start + CHUNK_FRAMES]

    def ours(strategy: str, **changes: Any) -> Callable[[int], list[int]]:
        def choose(frames: int) -> list[int]:
            rule = RetrievalConfig(strategy=strategy, max_context=frames + 1, coverage=Coverage(**changes))
            known = profiles_m[: task.now]
            stored = Candidates(bank, profiles_m=known)
            return retrieve(stored, target, rule, recent=task.now - 1, seed=seed).frame_ids[:-1].tolist()

        return choose

    rules = {f"coverage x{layers}": ours("coverage", layers=layers) for layers in (1, 2, 3)}
    rules |= {f"visible x{layers}": ours("visible", layers=layers) for layers in (1, 2, 3)}
    rules |= {name: ours(name) for name in ("frustum", "paper", "recent", "random")}
    rng = np.random.default_rng(seed)
    rules["WorldMem"] = lambda frames: worldmem(bank, target, frames, rng, 2_000)
    rules["Memorizon"] = lambda frames: memorizon(bank, target, frames)
    rules["HY-WorldPlay"] = lambda frames: worldplay(bank, target, frames, rng, 2_000)
    return rules


def measure(tasks: Sequence[Task], seed: int) -> dict[str, dict[int, list[float]]]:
    """Shares of true content by rule and number of frames, one a task."""
    from rich.progress import track

    shares: dict[str, dict[int, list[float]]] = {}
    episode, truth = None, None
    for task in track(tasks, "returns"):
        if task.episode is not episode:
            episode, truth = task.episode, truth_of(task.episode)
        assert truth is not None
        masks = truth.shows(task.start + np.arange(CHUNK_FRAMES), task.now)
        masks = masks[:, masks.any(axis=0)]  # what the past has shown at all
        if masks.shape[1] < 20:
            continue
        late = masks[task.now - 2 :].any(axis=0)
        rules = choices(task, task.episode.cameras(), truth.profiles_m, seed)
        rules["oracle"] = partial(oracle, masks)
        for name, rule in rules.items():
            for frames in BUDGETS:
                found = late | masks[rule(frames)].any(axis=0)
                shares.setdefault(name, {}).setdefault(frames, []).append(float(found.mean()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tasks = choose_returns(list_episodes(options.data, options.split), CHUNK_FRAMES, options.clips, options.seed)
    shares = measure(tasks, options.seed)
    figures: dict[str, float] = {"clips": len(next(iter(shares.values()))[2])}
    print(f"{'rule':14s}" + "".join(f"{frames:>22d}" for frames in BUDGETS))
    for name, row in shares.items():
        cells = []
        for frames in BUDGETS:
            interval = mean_interval(np.array(row[frames]))
            figures[f"{name}_{frames}"] = interval.mean
            cells.append(f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]")
        print(f"{name:14s}" + "".join(f"{cell:>22s}" for cell in cells))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
