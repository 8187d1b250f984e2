"""What one choice of context costs, from a thousand to a million stored cameras, beside two published rules.

    python benchmarks/retrieval.py [--json retrieval.json] [--most 1000000]

One process, one thread, runs in turns. `bounded`: walks in a box of 25 m, where views repeat; `spread`: walks in a
square whose side grows so that the density stays that of the bounded world with 1,000 cameras. Ours: the whole
selection of a chunk of 4 targets with an index that is kept (`retrieve(..., index=...)`), 7 frames and the recent one.
Beside it, written plainly from the papers: the sphere Monte Carlo greedy rule of WorldMem (10,000 points) and the
256-point frustum scan of Memorizon, both over all stored cameras.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.retrieval import RetrievalConfig, ViewIndex, retrieve

K = pinhole(90, 160, 96)
PICKS, POINTS, FRUSTUM_POINTS = 7, 10_000, 256


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


def monte_carlo(bank: Cameras, target: Cameras, rng: np.random.Generator, radius_m: float = 15.0) -> list[int]:
    """WorldMem's rule, plainly: random points in a sphere around the target; greedily the camera that sees most of the
    target's points not seen by those chosen before."""
    direction = rng.normal(size=(POINTS, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = target.position[0] + direction * radius_m * rng.random((POINTS, 1)) ** (1 / 3)
    masks = np.stack([seen(camera, points) for camera in bank])
    left, chosen = seen(target[0], points), list[int]()
    for _ in range(PICKS):
        gain = (masks & left).sum(axis=1)
        chosen.append(int(gain.argmax()))
        left &= ~masks[chosen[-1]]
    return chosen


def frustum_scan(bank: Cameras, target: Cameras) -> np.ndarray:
    """Memorizon's rule, plainly: fixed points in the target's frustum, log-spaced in depth; the share of them that each
    camera sees, less a little for its distance; the best few."""
    u, v, depth = np.meshgrid(np.linspace(-0.9, 0.9, 8), np.linspace(-0.9, 0.9, 4), np.geomspace(0.5, 15, 8))
    rays = np.stack([u * target.half_width_tan[0], v * target.half_height_tan[0], np.ones_like(u)], axis=-1)
    local = (rays * depth[..., None]).reshape(-1, 3)
    points = local @ target.c2w[0, :3, :3].T + target.position[0]
    score = np.empty(len(bank))
    for start in range(0, len(bank), 4096):
        part = slice(start, start + 4096)
        offset = points[None] - bank.position[part, None]
        inside = np.einsum("nij,npi->npj", bank.c2w[part, :3, :3], offset)
        ahead = inside[..., 2]
        ok = (ahead > 0.1) & (ahead < 15)
        ok &= np.abs(inside[..., 0]) <= bank.half_width_tan[part, None] * ahead
        ok &= np.abs(inside[..., 1]) <= bank.half_height_tan[part, None] * ahead
        score[part] = ok.mean(axis=1)
    score -= 0.01 * np.linalg.norm(bank.position - target.position[0], axis=1)
    return np.argsort(-score)[:PICKS]


def seen(camera: Cameras, points: np.ndarray) -> np.ndarray:
    """Which points [P, 3] one camera has in its picture: bool [P]."""
    local = (points - camera.position[0]) @ camera.c2w[0, :3, :3]
    ahead = local[:, 2]
    wide = np.abs(local[:, 0]) <= camera.half_width_tan[0] * ahead
    return (ahead > 0) & wide & (np.abs(local[:, 1]) <= camera.half_height_tan[0] * ahead)


def times_ms(runs: dict[str, Callable[[int], object]], repeats: int) -> dict[str, np.ndarray]:
    """Wall times of functions of the repeat's number, run in turns; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number)
            found[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values[1:]) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    config = RetrievalConfig()
    for stored in (size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= options.most):
        short = f"{stored // 1000}k" if stored < 1_000_000 else "1m"
        for name in ("bounded", "spread"):
            side_m = 25.0 if name == "bounded" else 25.0 * (stored / 1_000) ** 0.5
            bank = walk(stored, side_m) if name == "bounded" else spread(stored, side_m)
            index = ViewIndex(config)
            start = time.perf_counter()
            index.update(bank)
            figures[f"{name}_append_us_{short}"] = 1e6 * (time.perf_counter() - start) / stored
            goals = walk(4 * (options.repeats + 1), side_m, seed=1)

            def chunk(number: int, goals: Cameras = goals) -> Cameras:
                return goals[4 * number : 4 * number + 4]

            def ours(number: int, bank: Cameras = bank, index: ViewIndex = index, chunk=chunk) -> object:
                return retrieve(bank, chunk(number), config, recent=len(bank) - 1, index=index)

            runs: dict[str, Callable[[int], object]] = {"ours": ours}
            if name == "bounded" and stored <= 10_000:
                rng = np.random.default_rng(0)
                few = {
                    "monte_carlo": lambda n, bank=bank, chunk=chunk, rng=rng: monte_carlo(bank, chunk(n), rng),
                    "frustum_samples": lambda n, bank=bank, chunk=chunk: frustum_scan(bank, chunk(n)),
                }
                compared = times_ms({"ours": ours, **few}, 3)
                for rule in few:
                    ratio = float(np.median(compared[rule]) / np.median(compared["ours"]))
                    figures[f"times_{rule}_{short}"] = ratio
            found = times_ms(runs, options.repeats)["ours"]
            key = f"ms_{short}" if name == "bounded" else f"spread_ms_{short}"
            figures[key] = float(np.median(found))
            figures[f"{key}_p95"] = float(np.quantile(found, 0.95))
            for label in (f"{name}_append_us_{short}", key, f"{key}_p95"):
                print(f"{label:28s} {figures[label]:10.3f}", flush=True)
    for name, value in figures.items():
        if name.startswith("times_"):
            print(f"{name:28s} {value:10.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
