"""Train from nothing, as small as it gets: recorded walks, an autoencoder, a denoiser, a first walk.

    python examples/04_train_tiny.py          # a minute or two; the pictures are mush, every step is real

For a world worth walking in take `cam render` for the data and the recipe `light` or `base`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from context_as_memory import World
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.episode import write_episode
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.training import recipes
from context_as_memory.training.codec import train_codec
from context_as_memory.training.denoiser import train_denoiser

WIDTH, HEIGHT = 64, 32
ABOUT = {"map": "stripes", "fps": 15, "licence": "CC0-1.0", "generator": "examples/04_train_tiny.py"}


def paint(cameras: Cameras) -> np.ndarray:
    """What the cameras see inside a striped tower: colour follows the direction. uint8 [N, H, W, 3]."""
    column = (np.arange(WIDTH) + 0.5) / WIDTH * 2 - 1
    yaw = np.arctan2(cameras.forward[:, 1], cameras.forward[:, 0])[:, None] - np.arctan(
        cameras.half_width_tan[:, None] * column
    )
    stripes = np.stack([np.sin(4 * yaw), np.cos(6 * yaw), np.sin(9 * yaw)], axis=-1)
    return np.repeat((127 + 110 * stripes).astype(np.uint8)[:, None], HEIGHT, axis=1)


def main(steps: int = 60) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        start = look([0.0, 0.0, 0.0], 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
        for number, split in enumerate(("train", "train", "val")):
            path = cameras_from_actions(start, f"j-{20 + 5 * number},l-40")
            name = f"walk_{number}"
            write_episode(
                root / "episodes" / name, paint(path), path, ABOUT | {"name": name, "split": split, "seed": number}
            )

        codec = recipes.codec_tiny()
        codec = replace(codec, train=replace(codec.train, steps=steps))
        print("autoencoder:", train_codec(codec, root / "episodes", root / "codec"))

        denoiser = recipes.denoiser_tiny()
        denoiser = replace(denoiser, train=replace(denoiser.train, steps=steps))
        print(
            "denoiser:",
            train_denoiser(denoiser, root / "episodes", root / "codec", root / "latents", root / "denoiser"),
        )

        walk = World.from_pretrained(root / "denoiser" / "model").start(paint(start)[0]).walk("j-8,l-8")
        print(f"walked {len(walk.frames)} frames; the last one was made from frames {list(walk.contexts[-1])}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
