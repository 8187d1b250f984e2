"""Makes what the shipped start places remember: each seen all around, from where one stands and from a few steps away.

    python scripts/look_around.py [--out src/context_as_memory/assets/start]

Writes `<name>.mp4` beside each start picture, and the poses of its frames into `<name>.json`. Needs the render extra.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from context_as_memory.camera import look, pinhole
from context_as_memory.data.doom_map import DoomMap
from context_as_memory.data.render import load_map, render_at
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.places import start_folder, start_frame, start_names
from context_as_memory.formats.video import VideoWriter

UNITS_PER_METRE = 32.0
CLEARANCE_M, LONGEST_M, SHORTEST_M = 0.7, 3.5, 1.2
HERE, THERE = 24, 12  # views of a full turn


def free_way(doom_map: DoomMap, start: np.ndarray, angle: float) -> float:
    """How far one can walk from a place in a direction, metres, at most LONGEST_M."""
    steps = np.arange(0.0, LONGEST_M + 1e-9, 0.1)
    way = start[:2] + steps[:, None] * np.array([np.cos(angle), np.sin(angle)])
    free = doom_map.grid.clearance_at(way * UNITS_PER_METRE) >= CLEARANCE_M * UNITS_PER_METRE
    return float(steps[: int(np.argmin(free))][-1]) if not free.all() else LONGEST_M


def views(doom_map: DoomMap, position: np.ndarray, yaw: float) -> list[tuple[np.ndarray, float]]:
    """Places and headings: turns on the spots that can be reached, and last one at the start, which ends ahead."""
    found = []
    for direction in np.arange(6) * np.pi / 3:
        way = free_way(doom_map, position, yaw + direction)
        if way >= SHORTEST_M:
            spot = position + way * np.array([np.cos(yaw + direction), np.sin(yaw + direction), 0.0])
            spot[2] = float(doom_map.grid.eye_z(spot[:2] * UNITS_PER_METRE)) / UNITS_PER_METRE
            found += [(spot, yaw + turn) for turn in np.arange(THERE) * 2 * np.pi / THERE]
    return found + [(position, yaw + turn) for turn in (np.arange(HERE) + 1) * 2 * np.pi / HERE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=start_folder())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in start_names():
        start = start_frame(name)
        position, yaw = np.array(start.about["position"]), float(np.radians(start.about["yaw_deg"]))
        doom_map = load_map(start.about["map"])
        spots, yaws = zip(*views(doom_map, position, yaw), strict=True)
        height, width = start.frame.shape[:2]
        cameras = look(np.array(spots), np.array(yaws), pinhole(90, width, height), width, height)
        frames = render_at(start.about["map"], cameras)
        error = np.abs(frames[-1].astype(int) - start.frame).mean()
        write_image(options.out / f"{name}.png", start.frame)
        with VideoWriter(options.out / f"{name}.mp4", width, height, fps=8, crf=14) as video:
            video.write(frames)
        poses = zip(spots, yaws, strict=True)
        seen = [[*np.round(spot, 4).tolist(), round(float(np.degrees(turn)) % 360, 4)] for spot, turn in poses]
        path = options.out / f"{name}.json"
        path.write_text(json.dumps({**start.about, "seen": seen}) + "\n")
        size = (options.out / f"{name}.mp4").stat().st_size
        print(f"{name}: {len(frames)} views, {size // 1000} kB; the last is {error:.2f} of 255 off the picture")


if __name__ == "__main__":
    main()
