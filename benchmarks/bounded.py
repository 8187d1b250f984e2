"""Does a world stay small and fast however long it gets?

    python benchmarks/bounded.py --data episodes [--frames 100000] [--chunks 1000] [--world FOLDER] [--json FILE]

long      one walk of so many chunks on own frames with the default weights, in a world file: frames per second of
          its last 20 chunks, in turns with chunks 10 to 29 of another world that begins the same
stored    a world file filled with so many recorded frames in chunks of four (latents of random numbers, since nobody
          looks at them), opened by another process that generates 12 chunks: its peak resident memory, its frames per
          second, the seconds to open it; and the bytes on disk per frame, pictures apart

`--world`: where the stored world lies (made there if it is not; some GB), else in a temporary folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.episode import list_episodes
from context_as_memory.evaluation.report import environment, peak_memory_mib, write_json
from context_as_memory.storage import create_world, open_world
from context_as_memory.world import World

SIDE_M, CHUNK = 25.0, 4
EARLY, TURNS = 10, 20  # the first chunk that is compared, and how many are


def walk(frames: int, seed: int = 0) -> Cameras:
    """A walk of 0.15 m steps inside a square of 25 m: sooner or later everything has been seen."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, 0.06, frames))
    steps = 0.15 * np.stack([np.cos(yaw), np.sin(yaw), np.zeros(frames)], axis=1)
    position = np.abs(np.mod(np.cumsum(steps, axis=0) + SIDE_M / 2, 2 * SIDE_M) - SIDE_M)
    position[:, 2] = 1.3
    return look(position, yaw, pinhole(90, 160, 96), 160, 96)


def rate(seconds: list[float]) -> float:
    """Frames per second of chunks, by their median."""
    return CHUNK / float(np.median(seconds))


def long_walk(chunks: int, picture: np.ndarray) -> dict[str, float]:
    """The last chunks of a long walk in turns with chunks 10 and on of one that begins the same: the speed of a machine
    drifts over the minutes between them."""
    from rich.progress import track

    cameras = walk(CHUNK * chunks + 1)
    seconds: dict[str, list[float]] = {"young": [], "old": []}

    def step(world: World, number: int) -> float:
        return sum(world.step(cameras[CHUNK * number + 1 : CHUNK * (number + 1) + 1]).seconds.values())

    with tempfile.TemporaryDirectory() as folder:
        old = create_world(Path(folder) / "old", device="cpu")
        old.reset(picture[None], cameras[:1])
        for number in track(range(chunks - TURNS), "long walk"):
            step(old, number)
        young = create_world(Path(folder) / "young", networks=old)
        young.reset(picture[None], cameras[:1])
        for number in range(EARLY - 1):
            step(young, number)
        for turn in range(TURNS):
            seconds["young"].append(step(young, EARLY - 1 + turn))
            seconds["old"].append(step(old, chunks - TURNS + turn))
        old.close()
        young.close()
    first, last = rate(seconds["young"]), rate(seconds["old"])
    return {"fps_chunk_10": first, f"fps_chunk_{chunks}": last, "fps_ratio": last / first}


def fill(folder: Path, frames: int, pictures: np.ndarray) -> None:
    """Make a world of stored frames, with notes like those of generated chunks."""
    from rich.progress import track

    world = create_world(folder, device="cpu")
    cameras = walk(frames)
    channels = world.codec.latent_channels
    rows, columns = (side // world.codec.spatial_factor for side in (96, 160))
    note = {"step": 0, "context": list(range(8)), "scores": [0.1234] * 8, "retrieval": asdict(world.config.retrieval)}
    generator = torch.Generator().manual_seed(0)
    for start in track(range(0, frames, CHUNK), "filling the world"):
        rest = np.arange(start, min(start + CHUNK, frames))
        latents = torch.randn(channels, len(rest), rows, columns, generator=generator).to(torch.bfloat16)
        world.bank.append(pictures[rest % len(pictures)], cameras[rest], latents, note | {"step": start // CHUNK})
    world.close()


def visit(folder: Path, chunks: int = 12) -> dict[str, float]:
    """Open a world, go on for some chunks, report (run in a process of its own)."""
    began = time.perf_counter()
    world = open_world(folder, device="cpu")
    opened = time.perf_counter() - began
    stored = len(world.bank)
    cameras = walk(CHUNK * chunks, seed=1)
    seconds = [sum(chunk.seconds.values()) for chunk in world.rollout(cameras)]
    world.close()
    return {
        "stored_frames": stored,
        "open_s": opened,
        "stored_fps": rate(seconds[2:]),
        "resident_mib": peak_memory_mib() or 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="episodes, for pictures to store and to start from")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=1_000, help="0: no long walk")
    parser.add_argument("--world", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--visit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if 0 < options.chunks < TURNS:
        parser.error(f"--chunks {options.chunks}: give 0 (no long walk) or at least the {TURNS} that are compared")
    torch.set_num_threads(options.threads)
    if options.visit:
        print(json.dumps(visit(options.visit)))
        return
    pictures = list_episodes(options.data, "test")[0].frames()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.world or Path(scratch) / "world"
        if not folder.exists():
            fill(folder, options.frames, pictures)
        command = [sys.executable, __file__, "--visit", str(folder), "--threads", str(options.threads)]
        figures |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        size = {name: sum(f.stat().st_size for f in (folder / name).iterdir()) for name in ("frames", "latents")}
        database = sum(f.stat().st_size for f in folder.glob("world.sqlite*"))
        figures["picture_bytes_per_frame"] = size["frames"] / figures["stored_frames"]
        figures["state_bytes_per_frame"] = (size["latents"] + database) / figures["stored_frames"]
    if options.chunks:
        figures |= long_walk(options.chunks, pictures[0])
    for name, value in figures.items():
        print(f"{name:26s} {value:12.2f}")
    if options.json:
        write_json(options.json, figures | environment())


if __name__ == "__main__":
    main()
