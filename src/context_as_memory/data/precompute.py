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
from ..formats.files import read_json, write_array, write_text
from ..formats.video import to_video
from .episode import Episode, content_hash, list_episodes


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
    check_stamp(cache, fingerprint)
    device = next(codec.parameters()).device if isinstance(codec, torch.nn.Module) else torch.device("cpu")
    todo = [episode for episode in episodes if not latent_path(cache, episode).exists()]
    for episode in track(todo, "encoding episodes", disable=not todo):
        latents = encode_episode(codec, episode.frames(), device)
        write_array(latent_path(cache, episode), latents)
    return episodes


def check_stamp(cache: Path, fingerprint: str) -> None:
    """Note which codec the latents in a cache are of. `UserError` if they are of another one."""
    stamp = cache / "stamp.json"
    if stamp.exists():
        try:
            held = read_json(stamp)
        except UserError as error:
            raise UserError(f"encode: {stamp} is damaged; delete the folder {cache} and encode again") from error
        if not isinstance(held, dict) or held.get("codec") != fingerprint:
            raise UserError(
                f"encode: {cache} holds latents of another codec; delete it or choose another --cache folder"
            )
    else:
        write_text(stamp, json.dumps({"codec": fingerprint}) + "\n")


def latent_path(cache: Path, episode: Episode) -> Path:
    """Where the latents of an episode lie. The name follows from its pictures: an episode of the same name that shows
    something else has others."""
    return Path(cache) / f"{episode.name}-{content_hash([episode])[:16]}.npy"


def read_latents(cache: Path, episode: Episode) -> np.ndarray:
    """Memory-mapped latents of an episode, float16 [T, C, h, w]."""
    path = latent_path(cache, episode)
    try:
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"latents: {path} cannot be read ({error}); delete it and run `cam encode` again") from error
    if latents.ndim != 4 or len(latents) != episode.num_frames or latents.dtype.kind != "f":
        raise UserError(
            f"latents: {path} is {latents.dtype} {list(latents.shape)}, the episode has {episode.num_frames} frames; "
            "delete it and run `cam encode` again"
        )
    return np.asarray(latents) if latents.size == 0 else latents
