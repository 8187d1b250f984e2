"""Latents of whole episodes, encoded once and kept on disk, stamped with the codec that made them.

A cache is a folder with `stamp.json` and one `<episode>.npy` per episode: float16 [T, C, h, w], mapped into memory when
read. A stamp of another codec is an error: latents of two codecs must never meet in one training run.
"""

import json
from pathlib import Path

import numpy as np
import torch

from ..codec import VideoCodec
from ..errors import UserError
from ..formats.files import write_array
from ..formats.video import to_video
from .episode import Episode, list_episodes


@torch.inference_mode()
def encode_episode(codec: VideoCodec, frames_u8: np.ndarray, device: torch.device) -> np.ndarray:
    """Latents of all frames, each encoded alone: uint8 [T, H, W, 3] -> float16 [T, C, h, w]."""
    parts, batch = [], 16 if device.type == "cpu" else 250
    for start in range(0, len(frames_u8), batch):
        latents = codec.encode_frames(to_video(frames_u8[start : start + batch], device))[0]
        parts.append(latents.permute(1, 0, 2, 3).half().cpu().numpy())
    return np.concatenate(parts)


def encode_dataset(
    data: Path, cache: Path, codec: VideoCodec, fingerprint: str, splits: tuple[str, ...] = ("train", "val")
) -> list[Episode]:
    """Encode every episode of the splits that the cache lacks; returns the episodes. Interrupted work is continued."""
    from rich.progress import track

    episodes = [episode for episode in list_episodes(data) if episode.split in splits]
    if not episodes:
        raise UserError(f"encode: no episodes of {' or '.join(splits)} under {data}; make some with `cam render`")
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stamp = cache / "stamp.json"
    if stamp.exists() and json.loads(stamp.read_text()).get("codec") != fingerprint:
        raise UserError(f"encode: {cache} holds latents of another codec; delete it or choose another --cache folder")
    stamp.write_text(json.dumps({"codec": fingerprint}) + "\n")
    device = next(codec.parameters()).device if isinstance(codec, torch.nn.Module) else torch.device("cpu")
    todo = [episode for episode in episodes if not latent_path(cache, episode).exists()]
    for episode in track(todo, "encoding episodes", disable=not todo):
        latents = encode_episode(codec, episode.frames(), device)
        write_array(latent_path(cache, episode), latents)
    return episodes


def latent_path(cache: Path, episode: Episode) -> Path:
    return Path(cache) / f"{episode.name}.npy"


def read_latents(cache: Path, episode: Episode) -> np.ndarray:
    """Memory-mapped latents of an episode, float16 [T, C, h, w]."""
    path = latent_path(cache, episode)
    try:
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"latents: {path} cannot be read ({error}); delete it and run `cam encode` again") from error
    if len(latents) != episode.num_frames:
        raise UserError(
            f"latents: {path} has {len(latents)} frames, the episode {episode.num_frames}; delete and encode again"
        )
    return np.asarray(latents) if latents.size == 0 else latents
