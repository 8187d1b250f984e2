"""The paper's data set in miniature: the same folders, names, units, captions and labels, with painted rooms."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from context_as_memory.adapters.wan import WanCodec
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.formats.write import write_unreal_json
from tiny import walls_of_a_box

WIDTH, HEIGHT, HFOV_DEG = 64, 48, 52.67
VIDEOS = ("BrickRoom_0", "BrickRoom_1", "BrickRoom_2", "TileRoom_0", "TileRoom_1")


def path(frames: int, seed: int = 0, width: int = WIDTH, height: int = HEIGHT, hfov_deg: float = HFOV_DEG) -> Cameras:
    """A walk through the middle of a room that turns to and fro, so that every wall is seen again and again."""
    rng = np.random.default_rng(seed)
    time, start = np.arange(frames), rng.uniform(0, 2 * np.pi, 3)
    turn = np.where(np.sin(time / 37 + start[0]) > 0, 0.12, -0.08) + rng.normal(0, 0.01, frames)
    place = np.zeros((frames, 3))
    place[:, 0] = 2.2 * np.sin(2 * np.pi * time / 170 + start[1])
    place[:, 1] = 2.2 * np.sin(3.4 * np.pi * time / 170 + start[2])
    return look(place, np.cumsum(turn), pinhole(hfov_deg, width, height), width, height)


def paint(cameras: Cameras, seed: int = 0, tile_m: float = 1.5) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a room of 10 x 10 x 3 metres whose tiles have random colours, by ray casting."""
    colours = np.random.default_rng(seed).integers(20, 236, (6, 40, 40, 40, 3), dtype=np.uint8)
    low, high = np.array([-5.0, -5.0, -1.4]), np.array([5.0, 5.0, 1.6])
    rows, columns = np.indices((cameras.height, cameras.width))
    frames = []
    for rays, wall, point in walls_of_a_box(cameras, low, high):
        tile = np.floor((point + 10) / tile_m + 1e-6).astype(int)
        tile[rows, columns, wall] = 0
        side = wall + 3 * (rays[rows, columns, wall] > 0)
        frames.append(colours[side, tile[..., 0], tile[..., 1], tile[..., 2]])
    return np.stack(frames)


def write(root: Path, frames: int = 160, videos: tuple[str, ...] = VIDEOS, **size: int) -> Path:
    """Write the data set into a folder: `frames` pictures a video, captions of 77 frames with a stride of 76."""
    lines = []
    for number, video in enumerate(videos):
        cameras = path(frames, number, **size)
        (root / "frames" / video).mkdir(parents=True)
        for row, picture in enumerate(paint(cameras, number)):
            alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
            Image.fromarray(np.concatenate([picture, alpha], -1)).save(
                root / "frames" / video / f"{row:04d}.png", compress_level=1
            )
        write_unreal_json(cameras, root / "jsons" / f"{video}.json")
        for first in range(0, frames - 76, 76):
            lines.append(f"{video}/{first:04d}_{first + 76:04d}.mp4\tA room, the camera turns. Part {first // 76}.")
        labels = root / "overlap_labels" / video
        labels.mkdir(parents=True)
        near = {
            row: [f"{other:04d}" for other in range(max(0, row - 5), min(frames, row + 6)) if other != row]
            for row in range(0, frames, 20)
        }
        for row, others in near.items():
            (labels / f"{row:04d}.json").write_text(json.dumps({"overlapping_frames": others}))
    (root / "captions.txt").write_text("\n".join(lines) + "\n")
    return root


def zipped(root: Path, target: Path, inside: str = "Context-as-Memory-Dataset/") -> Path:
    """The same as one zip, everything in a folder of it."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(root).as_posix())
    return target


def colour_codec() -> WanCodec:
    """A tiny Wan autoencoder whose latents are colours: the mean of 8 x 8 pixels of the last frame that they stand for.

    With random weights a latent tells next to nothing of its picture, and one of a clip nothing of its frames alone.
    """
    codec = WanCodec.tiny("2.1")
    with torch.no_grad():
        for name, part in [*codec.vae.encoder.named_modules(), ("quant_conv", codec.vae.quant_conv)]:
            if not isinstance(part, (torch.nn.Conv2d, torch.nn.Conv3d)):
                continue
            part.weight.zero_()
            part.bias = torch.nn.Parameter(torch.zeros(len(part.weight)))
            same = torch.eye(*part.weight.shape[:2])
            if isinstance(part, torch.nn.Conv2d):
                if part.kernel_size == (3, 3):  # halves the size
                    part.weight[:, :, :2, :2] = same[:, :, None, None] / 4
            elif not name.endswith(("conv1", "conv2")):  # no residual branches; the last tap is the present
                part.weight[:, :, -1, part.kernel_size[1] // 2, part.kernel_size[2] // 2] = same
        codec.vae.encoder.conv_in.bias[3] = (
            1.0  # what brightness is measured by, since channels are normalised together
        )
    return codec
