"""Walks that step in one batch against the same walks in turn.

    python benchmarks/together.py [--worlds 8] [--rounds 6] [--threads 2] [--json FILE]

Both kinds of a round run one after the other in one process; medians of seconds for a chunk of every world. Keys of the
JSON file: together_ratio (frames a second in one batch, over in turn), fps_together, fps_in_turn.
"""

import argparse
import json
import time
from pathlib import Path

import context_as_memory.machine  # noqa: F401  # says how threads wait, before torch is loaded

# isort: split
import numpy as np
import torch

from context_as_memory.camera import Z_UP
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.places import known_place
from context_as_memory.together import step_together
from context_as_memory.world import World

ACTIONS = "l-24,w-16,j-20,w-16,k-12,l-40,w-12,j-24,s-8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = World.from_pretrained(engine=options.engine)
    frames, cameras = known_place("courtyard")
    path = cameras_from_actions(cameras[len(cameras) - 1 :], ACTIONS, up=Z_UP)
    base.reset(frames, cameras)
    kinds = {kind: [base.fork() for _ in range(options.worlds)] for kind in ("together", "in_turn")}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    size = base.chunk_frames
    for number in range(options.rounds + 2):  # two to warm up
        start = number * size % (len(path) - options.worlds * size)
        paths = [path[start + shift : start + shift + size] for shift in range(options.worlds)]
        for kind, worlds in kinds.items():
            began = time.perf_counter()
            if kind == "together":
                step_together(worlds, paths)
            else:
                for world, one in zip(worlds, paths, strict=True):
                    world.step(one)
            seconds[kind].append(time.perf_counter() - began)
    figures = {f"fps_{kind}": options.worlds * size / float(np.median(values[2:])) for kind, values in seconds.items()}
    figures["together_ratio"] = figures["fps_together"] / figures["fps_in_turn"]
    for name, value in figures.items():
        print(f"{name:20s} {value:10.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
