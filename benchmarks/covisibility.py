"""Which rule finds the frames that truly show what will be seen? Judged by the map, without any model.

    python benchmarks/covisibility.py --data episodes [--split test] [--clips 120] [--json FILE]

For returns on recorded walks (half of the view was seen before, less than a quarter of it lately) horizontal rays
against the map's walls tell which bits of wall every frame truly shows. Reported: the share of the wall that the chunk
shows, and the past has shown, that the chosen frames or the last two show, for 2, 4, 8 and 14 chosen frames. `oracle`
knows the answer and picks greedily. Published rules are written plainly from their papers (published_rules.py).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from published_rules import memorizon, worldmem, worldplay

from context_as_memory.camera import PROFILE, Cameras
from context_as_memory.data.doom_map import horizon_rays
from context_as_memory.data.episode import list_episodes
from context_as_memory.data.render import load_map
from context_as_memory.evaluation.covisibility import grown, shown
from context_as_memory.evaluation.ground_truth import Task, choose_tasks
from context_as_memory.evaluation.metrics import mean_interval
from context_as_memory.retrieval import RetrievalConfig, retrieve

CHUNK_FRAMES = 4
BUDGETS = (2, 4, 8, 14)


def oracle(bits: np.ndarray, wanted: np.ndarray, frames: int) -> list[int]:
    """Greedily the frame that truly shows most of what is still wanted."""
    masks = np.stack([np.isin(wanted, grown(row)) for row in bits])
    left, chosen = np.ones(len(wanted), bool), list[int]()
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

    def ours(strategy: str, **changes: int) -> Callable[[int], list[int]]:
        def choose(frames: int) -> list[int]:
            rule = replace(RetrievalConfig(), strategy=strategy, max_context=frames + 1, **changes)
            known = profiles_m[: task.now]
            return retrieve(bank, target, rule, recent=task.now - 1, profiles_m=known, seed=seed).indices[:-1].tolist()

        return choose

    rules = {f"coverage x{layers}": ours("coverage", layers=layers) for layers in (1, 2, 3)}
    rules |= {f"visible x{layers}": ours("visible", layers=layers) for layers in (1, 2, 3)}
    rules |= {name: ours(name) for name in ("paper", "recent", "random")}
    rng = np.random.default_rng(seed)
    rules["WorldMem"] = lambda frames: worldmem(bank, target, frames, rng, 2_000)
    rules["Memorizon"] = lambda frames: memorizon(bank, target, frames)
    rules["HY-WorldPlay"] = lambda frames: worldplay(bank, target, frames, rng, 2_000)
    return rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from rich.progress import track

    tasks = choose_tasks(list_episodes(options.data, options.split), CHUNK_FRAMES, options.clips, options.seed)
    shares: dict[str, dict[int, list[float]]] = {}
    episode, cameras, bits, profiles_m = None, None, np.empty(0), np.empty(0)
    for task in track(tasks, "returns"):
        if task.episode is not episode:
            episode, cameras = task.episode, task.episode.cameras()
            doom_map = load_map(str(episode.meta["map"]))
            bits, profiles_m = shown(doom_map, cameras), horizon_rays(doom_map, cameras, PROFILE)[1]
        assert cameras is not None
        wanted = np.unique(bits[task.start : task.start + CHUNK_FRAMES])
        wanted = wanted[np.isin(wanted, grown(bits[: task.now]))]  # what the past has shown at all
        if len(wanted) < 20:
            continue
        late = np.isin(wanted, grown(bits[task.now - 2 : task.now]))
        rules = choices(task, cameras, profiles_m, options.seed)
        rules["oracle"] = lambda frames, bits=bits, wanted=wanted, task=task: oracle(bits[: task.now], wanted, frames)
        for name, rule in rules.items():
            for frames in BUDGETS:
                chosen = rule(frames)
                found = late | np.isin(wanted, grown(bits[chosen])) if chosen else late
                shares.setdefault(name, {}).setdefault(frames, []).append(float(found.mean()))
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
