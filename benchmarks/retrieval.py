"""What one choice of context costs, from a thousand to a million stored cameras, beside two published rules.

    python benchmarks/retrieval.py [--json retrieval.json] [--most 1000000]

One process, one thread, runs in turns. `bounded`: walks in a box of 25 m, where views repeat; `spread`: walks in a
square whose side grows so that the density stays that of the bounded world with 1,000 cameras. Ours: the whole
selection of a chunk of 4 targets with an index that is kept (`retrieve(..., index=...)`), 7 frames and the recent one.
Beside it, written plainly from the papers (published_rules.py) and over all stored cameras, for the same chunk: the
sphere Monte Carlo greedy rule of WorldMem (10,000 points), which is asked once for each of the 4 frames, and the
256-point frustum scan of Memorizon, which is asked once. A turn of ours is eight chunks, since one alone is over before
the processor has its tables at hand again. The sizes are timed in turns as well, since the speed of a
machine may swing for seconds at a time.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from published_rules import memorizon, worldmem

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.retrieval import RetrievalConfig, ViewIndex, retrieve

K = pinhole(90, 160, 96)
PICKS = 7
CHUNKS = 8  # of ours in a turn, beside another rule or beside the other sizes


def walk(number: int, side_m: float, seed: int = 0) -> Cameras:
    """A walk of 0.15 m steps that is reflected at the walls of a square."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, 0.06, number))
    steps = 0.15 * np.stack([np.cos(yaw), np.sin(yaw), np.zeros(number)], axis=1)
    position = np.cumsum(steps, axis=0) + side_m * rng.random(3)
    position = np.abs(np.mod(position, 2 * side_m) - side_m)
    position[:, 2] = 0
    return look(position, yaw, K, 160, 96)


def spread(number: int, side_m: float, seed: int = 0) -> Cameras:
    """Cameras anywhere in a square, looking anywhere: a million steps of one walk would not fill it."""
    rng = np.random.default_rng(seed)
    position = np.concatenate([side_m * rng.random((number, 2)), np.zeros((number, 1))], axis=1)
    return look(position, rng.uniform(-np.pi, np.pi, number), K, 160, 96)


def times_ms(runs: dict[str, Callable[[int], object]], turns: int, calls: int = 1) -> dict[str, np.ndarray]:
    """Wall times of functions of the call's number, run in turns of so many calls; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            for number in range(turn * calls, (turn + 1) * calls):
                start = time.perf_counter()
                run(number)
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values[calls:]) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    config = RetrievalConfig()
    choices: dict[str, Callable[[int], object]] = {}
    for stored in (size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= options.most):
        short = f"{stored // 1000}k" if stored < 1_000_000 else "1m"
        for name in ("bounded", "spread"):
            side_m = 25.0 if name == "bounded" else 25.0 * (stored / 1_000) ** 0.5
            bank = walk(stored, side_m) if name == "bounded" else spread(stored, side_m)
            index = ViewIndex(config)
            start = time.perf_counter()
            index.update(bank)
            figures[f"{name}_append_us_{short}"] = 1e6 * (time.perf_counter() - start) / stored
            goals = walk(4 * CHUNKS * (options.turns + 1), side_m, seed=1)

            def chunk(number: int, goals: Cameras = goals) -> Cameras:
                start = 4 * (number % (len(goals) // 4))
                return goals[start : start + 4]

            def ours(number: int, bank: Cameras = bank, index: ViewIndex = index, chunk=chunk) -> object:
                return retrieve(bank, chunk(number), config, recent=len(bank) - 1, index=index)

            choices[f"ms_{short}" if name == "bounded" else f"spread_ms_{short}"] = ours
            if name == "bounded" and stored <= 10_000:
                rng = np.random.default_rng(0)

                def monte_carlo(
                    n: int,
                    bank: Cameras = bank,
                    chunk: Callable[[int], Cameras] = chunk,
                    rng: np.random.Generator = rng,
                ) -> object:
                    return [worldmem(bank, frame, PICKS, rng) for frame in chunk(n)]

                def frustum_samples(n: int, bank: Cameras = bank, chunk: Callable[[int], Cameras] = chunk) -> object:
                    return memorizon(bank, chunk(n), PICKS)

                def chunks(n: int, ours: Callable[[int], object] = ours) -> list[object]:
                    return [ours(CHUNKS * n + i) for i in range(CHUNKS)]

                compared = times_ms(
                    {"ours": chunks, "monte_carlo": monte_carlo, "frustum_samples": frustum_samples},
                    turns=21 if stored == 1_000 else 5,
                )
                for rule in ("monte_carlo", "frustum_samples"):
                    # Turn by turn, since the speed of a machine drifts.
                    ratio = CHUNKS * float(np.median(compared[rule] / compared["ours"]))
                    figures[f"times_{rule}_{short}"] = ratio
            label = f"{name}_append_us_{short}"
            print(f"{label:28s} {figures[label]:10.3f}", flush=True)
    for key, found in times_ms(choices, options.turns, CHUNKS).items():
        figures[key], figures[f"{key}_p95"] = float(np.median(found)), float(np.quantile(found, 0.95))
        for label in (key, f"{key}_p95"):
            print(f"{label:28s} {figures[label]:10.3f}")
    for name, value in figures.items():
        if name.startswith("times_"):
            print(f"{name:28s} {value:10.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
