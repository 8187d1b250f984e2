"""Memory under somebody else's generator: plain arrays in, frame numbers out. Needs no weights and no model of ours.

    python examples/02_own_generator.py

Your generator makes frames for camera poses and takes a few clean context frames. This is all that memory needs to
know: `retrieve` chooses the context from camera-to-world matrices alone, an index keeps that fast for long walks, and a
world file keeps frames, cameras and whatever your model calls a latent, with fork and rewind.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, pinhole
from context_as_memory.memory import MemoryBank
from context_as_memory.retrieval import RetrievalConfig, ViewIndex, retrieve
from context_as_memory.storage import MAIN, BranchStore, WorldFile

WIDTH, HEIGHT, CHUNK = 64, 48, 4


def your_generator(context_u8: np.ndarray, cameras: Cameras, seed: int) -> tuple[np.ndarray, torch.Tensor]:
    """Stands for a model: frames uint8 [CHUNK, H, W, 3], latents [C, CHUNK, h, w]. This one mixes what it is shown."""
    rng = np.random.default_rng(seed)
    mean = context_u8.mean(axis=0) + rng.normal(0, 5, (len(cameras), HEIGHT, WIDTH, 3))
    frames_u8 = mean.clip(0, 255).astype(np.uint8)
    return frames_u8, torch.from_numpy(frames_u8).permute(3, 0, 1, 2).float()[:, :, ::8, ::8] / 255


def circle(frames: int) -> Cameras:
    """Turning on the spot, twice around: plain numpy matrices [N, 4, 4] (x right, y down, z forward, metres)."""
    yaw = np.linspace(0, 4 * np.pi, frames, endpoint=False)
    zero, one = np.zeros(frames), np.ones(frames)
    right, down = np.stack([np.sin(yaw), -np.cos(yaw), zero], 1), np.stack([zero, zero, -one], 1)
    forward = np.stack([np.cos(yaw), np.sin(yaw), zero], 1)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = np.stack([right, down, forward], axis=2)
    return Cameras(c2w, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)


def main() -> None:
    rule = RetrievalConfig(max_context=6)
    cameras = circle(96)
    with tempfile.TemporaryDirectory() as scratch:
        world = WorldFile.create(Path(scratch) / "world", {"width": WIDTH, "height": HEIGHT})
        bank, index = MemoryBank(BranchStore(world)), ViewIndex(rule)
        first = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
        bank.append(first, cameras[:1], torch.zeros(3, 1, 6, 8))
        for start in range(1, len(cameras) - CHUNK + 1, CHUNK):
            target = cameras[start : start + CHUNK]
            found = retrieve(bank.cameras, target, rule, recent=len(bank) - 1, index=index, seed=start)
            frames_u8, latents = your_generator(bank.frames_u8(found.frame_ids), target, seed=start)
            bank.append(frames_u8, target, latents, {"step": start, "context": found.frame_ids.tolist()})
            if start > 48:
                context = found.frame_ids.tolist()
                print(f"frames {start} to {start + CHUNK - 1}: second time around, memory gives {context}")
        print(f"{len(bank)} frames kept; a fork of all of them costs one row: {world.fork('other', MAIN)}")
        world.close()


if __name__ == "__main__":
    main()
