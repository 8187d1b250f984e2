"""How well does the measure `control` know the camera? Asked where the truth is known: in our own voxel worlds.

    python benchmarks/control.py --worlds 6 --size 320x192

Every world of the test split is painted along walks of known cameras: a turn, a walk ahead, a step aside, a walk that
turns. `control` is given the pictures and the true cameras, so that what it reports is its own error. Then it is given
cameras that turn half as far, and none at all, to see whether it notices.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.camera.actions import Z_UP
from context_as_memory.data.voxel import styles
from context_as_memory.data.voxel.render import VoxelRenderer
from context_as_memory.data.voxel.walk import path_cameras, plan_voxel_path
from context_as_memory.evaluation.protocols.control import measure_control
from context_as_memory.formats.actions import cameras_from_actions

WALKS = {
    "turn": "j-40",
    "ahead": "w-40",
    "aside": "d-40",
    "walk and turn": "wl-40",
    "look up": "i-12,k-12",
    "still": "none-24",
}


@dataclass(frozen=True)
class Told:
    """What was measured on one walk, beside what was commanded."""

    world: str
    walk: str
    true: dict[str, float | None]
    half: dict[str, float | None]


def commanded_half(cameras: Cameras) -> Cameras:
    """Cameras that were told to turn twice as far: every second one of the path, as far as it goes."""
    rows = np.minimum(2 * np.arange(len(cameras)), len(cameras) - 1)
    return cameras[rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--size", default="320x192")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    told = []
    for name in styles.world_names("test", options.worlds):
        world = styles.build_world(name)
        renderer = VoxelRenderer(world, threads=1)
        start = path_cameras(plan_voxel_path(world, 8, 0), width, height)[[0]]
        for walk, actions in WALKS.items():
            cameras = Cameras.concat([start, cameras_from_actions(start, actions, up=Z_UP)])
            frames = renderer.render(cameras)
            true = measure_control(frames.__getitem__, cameras)
            asked = commanded_half(cameras)
            half = measure_control(frames.__getitem__, asked[: len(asked) // 2])
            told.append(Told(name, walk, true, half))
            print(f"{name:14s} {walk:14s} " + "  ".join(f"{key[8:]} {value:.3f}" for key, value in true.items()))
    print()
    for walk in WALKS:
        rows = [row for row in told if row.walk == walk]
        for label, values in (("true", [row.true for row in rows]), ("half", [row.half for row in rows])):
            keys = dict.fromkeys(key for value in values for key in value)
            means = {key: [float(value[key]) for value in values if value.get(key) is not None] for key in keys}  # type: ignore[arg-type]
            parts = [f"{key[8:]} {np.mean(v):.3f} ({np.min(v):.3f} to {np.max(v):.3f})" for key, v in means.items()]
            print(f"{walk:14s} {label}: {'  '.join(parts)}")
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in told], indent=1))


if __name__ == "__main__":
    main()
