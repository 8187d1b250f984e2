"""What one chunk costs on this machine, and the ratios behind the design. One process, alternating runs, medians.

    python benchmarks/speed.py [--threads 2] [--json speed.json]

Measured: frames per second of the default weights with a filled memory, retrieval alone among 1,000 and 10,000 stored
cameras, and how much slower the paper's way of reading context (`joint`) and the other attention kernel are on the same
weights.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.compute import attention_kernel, blocked_attention, fused_attention
from context_as_memory.retrieval import RetrievalConfig, retrieve
from context_as_memory.transformer import WorldTransformer
from context_as_memory.world import World


def walk(frames: int, seed: int = 0, box_m: float = 25.0) -> Cameras:
    """A random walk that stays in a box."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, 0.06, frames))
    steps = 0.15 * np.stack([np.cos(yaw), np.sin(yaw), np.zeros(frames)], axis=1)
    position = np.cumsum(steps, axis=0)
    position = box_m / 2 - np.abs(np.mod(position, 2 * box_m) - box_m)  # reflected at the walls
    position[:, 2] = 0
    return look(position, yaw, pinhole(90, 160, 96), 160, 96)


def median_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median wall time of each function, run in turns so that a drifting machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values[1:])) for name, values in times.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict[str, float] = {}

    for stored in (1_000, 10_000):
        cameras = walk(stored + 4)
        bank, target = cameras[:stored], cameras[stored:]
        rules = {name: RetrievalConfig(strategy=name) for name in ("coverage", "paper")}
        runs = {
            f"retrieve_{name}_{stored}_ms": lambda rule=rule, bank=bank, target=target: retrieve(
                bank, target, rule, recent=len(bank) - 1
            )
            for name, rule in rules.items()
        }
        figures |= median_ms(runs, arguments.repeats)

    world = World.from_pretrained()
    frames = np.random.default_rng(0).integers(0, 256, (200, 96, 160, 3), dtype=np.uint8)
    cameras = walk(204)
    world.reset(frames, cameras[:200])
    full = RetrievalConfig(strategy="random")  # always fills all context slots: the dearest chunk
    joint = WorldTransformer(replace(world.model.config, context_mode="joint")).to(next(world.model.parameters()).dtype)
    joint.load_state_dict(world.model.state_dict())
    slow = World(joint.eval(), world.codec, world.config)
    slow.bank = world.bank
    runs = {
        "chunk_full_context_ms": lambda: world.step(cameras[200:], retrieval=full, commit=False),
        "chunk_joint_ms": lambda: slow.step(cameras[200:], retrieval=full, commit=False),
    }
    figures |= median_ms(runs, arguments.repeats)
    figures["fps_full_context"] = 4000 / figures["chunk_full_context_ms"]
    figures["times_joint"] = figures["chunk_joint_ms"] / figures["chunk_full_context_ms"]

    dtype = next(world.model.parameters()).dtype
    q, k, v = (torch.randn(1, 4, n, world.model.config.attention_head_dim, dtype=dtype) for n in (240, 720, 720))
    kernels = {"fused": fused_attention, "blocked": blocked_attention}
    with torch.inference_mode():
        times = median_ms({name: lambda f=f: f(q, k, v) for name, f in kernels.items()}, 50)
    chosen = attention_kernel("cpu", dtype, q.shape[-1])
    figures |= {f"attention_{name}_ms": value for name, value in times.items()}
    figures["attention_chosen_is_blocked"] = float(chosen is blocked_attention)

    for name, value in figures.items():
        print(f"{name:32s} {value:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
