"""How many pictures of voxel worlds are painted in a second, on a CPU and on a GPU if there is one.

    python benchmarks/voxel.py [--json voxel.json] [--frames 40] [--turns 3]

A jumble of 96 x 96 x 32 cells: ground, towers, roofs, water and glass; cameras of a walker who looks up and down. Every
size is painted with 1 and 2 threads in turns; the best turn counts. `cpu_ms` is processor time for a picture with one
thread, which depends less on what else the machine does. Keys: fps_SIZE_THREADS, cpu_ms_SIZE, gpu_fps_SIZE; fps_SIZE is
that of 2 threads. Compiling (bake_first_s holds it where the cache is empty) is not timed.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.voxel.light import bake_light
from context_as_memory.data.voxel.render import VoxelGpuRenderer, VoxelRenderer
from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, SEE_THROUGH, VoxelWorld

SIZES = ((160, 96), (320, 192))
GROUND, WALL, ROOF, WATER, GLASS, STAIR, LAMP = range(1, 8)


def make_world() -> VoxelWorld:
    """A field with forty houses, two ponds and some towers; always the same."""
    rng = np.random.default_rng(0)
    blocks = np.zeros((96, 96, 32), np.uint8)
    blocks[:, :, :6] = GROUND
    for _ in range(2):
        x, y = rng.integers(8, 78, 2)
        blocks[x : x + 10, y : y + 10, 4:6] = WATER
    for _ in range(40):
        x, y = rng.integers(4, 82, 2)
        side, height = rng.integers(6, 11), rng.integers(4, 9)
        blocks[x : x + side, y : y + side, 6 : 6 + height] = WALL
        blocks[x + 1 : x + side - 1, y + 1 : y + side - 1, 6 : 6 + height] = 0
        blocks[x - 1 : x + side + 1, y - 1 : y + side + 1, 6 + height] = ROOF
        blocks[x + 2, y, 6:9] = 0
        blocks[x, y + 2 : y + 4, 7:9] = GLASS
        blocks[x + side - 2, y + 1 : y + 3, 6] = STAIR
        blocks[x + 3, y + 3, 5 + height] = LAMP
    level = rng.integers(60, 256, (8, 16, 16, 3)).astype(np.float64)
    textures = np.zeros((8, 5, 16, 16, 3), np.uint8)
    for number in range(5):
        half = 16 >> number
        textures[:, number, :half, :half] = level
        if half > 1:
            level = level.reshape(8, half // 2, 2, half // 2, 2, 3).mean((2, 4))
    world = VoxelWorld(
        name="benchmark-0",
        blocks=blocks,
        kinds=np.array([EMPTY, CUBE, CUBE, CUBE, SEE_THROUGH, SEE_THROUGH, BOXES, CUBE], np.uint8),
        faces=np.repeat(np.arange(8, dtype=np.int16)[:, None], 6, axis=1),
        boxes=np.array([(0, 0, 0, 1, 1, 0.875), (0, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 0.5), (0.5, 0, 0.5, 1, 1, 1)]),
        box_range=np.array([(0, 0)] * 4 + [(0, 1), (1, 2), (2, 4), (0, 0)], np.int32),
        through=np.array([0, 0, 0, 0, 0.5, 0.75, 0, 0]),
        glow=np.array([0, 0, 0, 0, 0, 0, 0, 1.0]),
        walkable=np.zeros(8, bool),
        textures=textures,
        light=np.zeros((96, 96, 32, 3), np.uint8),
    )
    return replace(world, light=bake_light(world))


def walker(world: VoxelWorld, count: int, width: int, height: int) -> Cameras:
    """Cameras at eye height on free ground, headings anywhere, looking up or down by 20 degrees at most."""
    rng = np.random.default_rng(1)
    free = np.argwhere(~world.blocks[4:-4, 4:-4, 6:8].any(2) & (world.blocks[4:-4, 4:-4, 5] == GROUND)) + 4
    place = np.concatenate([free[rng.integers(len(free), size=count)] + 0.5, np.full((count, 1), 7.6)], axis=1)
    level = look(place, rng.uniform(-math.pi, math.pi, count), pinhole(90, width, height), width, height)
    c2w = level.c2w.copy()
    for n, pitch in enumerate(rng.uniform(-0.35, 0.35, count)):
        cos, sin = math.cos(pitch), math.sin(pitch)
        c2w[n, :3, :3] = c2w[n, :3, :3] @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return Cameras(c2w, level.K, width, height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    start = time.perf_counter()
    world = make_world()
    figures["bake_first_s"] = time.perf_counter() - start
    start = time.process_time()
    bake_light(world)
    figures["bake_cpu_s"] = time.process_time() - start
    start = time.process_time()
    renderers = {threads: VoxelRenderer(world, threads) for threads in (1, 2)}
    figures["prepare_cpu_s"] = (time.process_time() - start) / 2

    for width, height in SIZES:
        size, cameras = f"{width}x{height}", walker(world, options.frames, width, height)
        renderers[1].render(cameras[:1])
        best = dict.fromkeys(renderers, math.inf)
        cpu = math.inf
        for _ in range(options.turns):
            for threads, renderer in renderers.items():
                start, before = time.perf_counter(), time.process_time()
                renderer.render(cameras)
                best[threads] = min(best[threads], time.perf_counter() - start)
                if threads == 1:
                    cpu = min(cpu, time.process_time() - before)
        for threads, seconds in best.items():
            figures[f"fps_{size}_{threads}"] = options.frames / seconds
        figures[f"fps_{size}"] = figures[f"fps_{size}_2"]
        figures[f"cpu_ms_{size}"] = 1000 * cpu / options.frames

    import torch

    if torch.cuda.is_available():
        gpu = VoxelGpuRenderer(world)
        for width, height in SIZES:
            cameras = walker(world, 1000, width, height)
            gpu.render(cameras)
            best_s = math.inf
            for _ in range(max(options.turns, 3)):
                torch.cuda.synchronize()
                start = time.perf_counter()
                gpu.render(cameras)
                torch.cuda.synchronize()
                best_s = min(best_s, time.perf_counter() - start)
            figures[f"gpu_fps_{width}x{height}"] = len(cameras) / best_s

    for key, value in figures.items():
        print(f"{key:24} {value:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
