"""Latents of whole episodes, encoded once and kept on disk, stamped with the codec that made them.

A cache is a folder with `stamp.json` and, for each episode,

    <episode>-<hash>.npy    codecs of pictures: float16 [T, C, h, w], every frame alone
    ... .frames.npy         codecs of videos: float16 [M, C, h, w], every `step`-th frame alone
    ... .clips.npy          float16 [N, P, C, h, w], the target latents of clips
    ... .starts.npy         int64 [N], the row of `frames` that each clip begins with

and, where episodes have captions, `prompts.safetensors`: the rows of each caption by `prompt_key`. All are mapped into
memory when read. A stamp of another codec is an error: latents of two codecs must never meet in one training run.

A clip of a video codec has 1 + r P frames and begins with the recent frame, whose latent is that of the frame alone;
the P latents after it are the targets. `step` is r times the stride, so that row i + p of `frames` is the last frame
of latent p of a clip that begins with row i: the cameras of the rows are those of the targets too.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from context_as_memory.codec import VideoCodec
from context_as_memory.data.dataset import Video
from context_as_memory.data.episode import Caption, Episode, content_hash, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, read_array, read_json, write_array, write_text
from context_as_memory.formats.video import to_video
from context_as_memory.progress import tracked

Words = Callable[[str], Tensor]  # a prompt -> the rows of its own tokens, [L, D]
_AT_ONCE = 64  # frames of a video in memory


class _ClipCodec(Protocol):
    """A codec of videos."""

    temporal_factor: int

    def encode_frames(self, video: Tensor) -> Tensor: ...

    def encode_clip(self, video: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How clips are cut from a video, for codecs of videos."""

    latents: int = 4  # P: targets of a clip
    stride: int = 1  # frames of the video from one frame of a clip to the next
    hop: int | None = None  # rows from the start of a clip to that of the next; None: as many as it has targets

    def __post_init__(self) -> None:
        if min(self.latents, self.stride, self.hop or 1) < 1:
            raise UserError("clips: latents, stride and hop must be 1 or more")

    def starts(self, rows: int) -> np.ndarray:
        """Rows that clips begin with, int64 [N]."""
        return np.arange(0, rows - self.latents, self.hop or self.latents, dtype=np.int64)


@torch.inference_mode()
def encode_frames(codec: VideoCodec, parts: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
    """Latents of all frames, each encoded alone: parts uint8 [n, H, W, 3] -> float16 [T, C, h, w]."""
    found = []
    for part in parts:
        latents = codec.encode_frames(to_video(part, device))[0]
        found.append(latents.permute(1, 0, 2, 3).half().cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def encode_clips(
    codec: Any, parts: Iterable[np.ndarray], count: int, clips: ClipConfig, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`frames`, `clips` and `starts` of a video of `count` frames, which come in parts uint8 [n, H, W, 3]; never more
    of them than a clip and a part are held."""
    factor = codec.temporal_factor
    step = factor * clips.stride
    rows = -(-count // step)
    starts, length = clips.starts(rows), clips.latents * factor + 1
    held: list[np.ndarray] = []  # frames of the stride, from number `first` on
    first, waiting = 0, [int(start) * factor for start in starts]
    alone: list[np.ndarray] = []
    found: list[np.ndarray] = []
    for number, frame in enumerate(_every(parts, clips.stride)):
        held.append(frame)
        if number % factor == 0:
            alone.append(codec.encode_frames(to_video(frame[None], device))[0, :, 0].half().cpu().numpy())
        while waiting and number == waiting[0] + length - 1:
            clip = np.stack(held[waiting[0] - first : waiting[0] - first + length])
            latents = codec.encode_clip(to_video(clip, device))[0, :, 1:]
            found.append(latents.transpose(0, 1).half().cpu().numpy())
            waiting.pop(0)
        needed = waiting[0] if waiting else number + 1
        if needed > first:
            held, first = held[needed - first :], min(needed, number + 1)
    empty = np.empty((0, clips.latents, *alone[0].shape), np.float16)
    return np.stack(alone), np.stack(found) if found else empty, starts


def _every(parts: Iterable[np.ndarray], stride: int) -> Iterator[np.ndarray]:
    number = 0
    for part in parts:
        for frame in part:
            if number % stride == 0:
                yield frame
            number += 1


def encode_dataset(
    data: Path,
    cache: Path,
    codec: VideoCodec,
    fingerprint: str,
    splits: tuple[str, ...] = ("train", "val"),
    *,
    clips: ClipConfig | None = None,
    words: Words | None = None,
    shard: str = "0/1",
) -> list[Episode]:
    """Encode every episode of the splits that the cache lacks; returns the episodes. Interrupted work is continued.

    clips: for codecs of videos, how clips are cut; None: four latents without stride. words: what turns captions into
    rows; None: captions are left out. shard: "i/n" encodes every n-th episode from the i-th on, so that n processes
    share the work; the episodes of this shard are returned.
    """
    episodes = [episode for episode in list_episodes(data) if episode.split in splits]
    if not episodes:
        raise UserError(f"encode: no episodes of {' or '.join(splits)} under {data}; make some with `cam render`")
    part, parts = parse_shard(shard)
    episodes = episodes[part::parts]
    if not episodes:  # more shards than episodes
        return []
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    cut = (clips or ClipConfig()) if codec.temporal_factor > 1 else None
    _stamp(cache, fingerprint, codec, cut, episodes)
    device = next(codec.parameters()).device if isinstance(codec, torch.nn.Module) else torch.device("cpu")
    last = "" if cut is None else ".frames"  # the file that says that an episode is done
    todo = [episode for episode in episodes if not latent_path(cache, episode, last).exists()]
    for episode in tracked(todo, len(todo), "encoding", "episodes"):
        if cut is None:
            batch = 16 if device.type == "cpu" else 250
            write_array(latent_path(cache, episode), encode_frames(codec, episode.parts(batch), device))
            continue
        frames, targets, starts = encode_clips(codec, episode.parts(_AT_ONCE), episode.num_frames, cut, device)
        for kind, array in ((".starts", starts), (".clips", targets), (last, frames)):
            write_array(latent_path(cache, episode, kind), array)
    if words is not None:
        _encode_captions(cache, words, episodes, "prompts" if parts == 1 else f"prompts-{part}-of-{parts}")
    return episodes


def parse_shard(shard: str) -> tuple[int, int]:
    """ "i/n" as two numbers, 0 <= i < n. `UserError` for anything else."""
    first, slash, second = shard.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise UserError(f"--shard is {shard!r}; give a number and how many there are, from 0/8 to 7/8")
    return int(first), int(second)


def _stamp(
    cache: Path, fingerprint: str, codec: VideoCodec, cut: ClipConfig | None, episodes: Sequence[Episode]
) -> None:
    """Write what the cache holds, or check that it holds just that."""
    wanted: dict[str, Any] = {"codec": fingerprint}
    if cut is not None:
        sizes = {(int(episode.meta["width"]), int(episode.meta["height"])) for episode in episodes}
        if len(sizes) > 1:
            told = " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
            raise UserError(f"encode: episodes of {told} cannot be trained on together; import them in one size")
        wanted |= {**vars(cut), "size": list(*sizes), "step": codec.temporal_factor * cut.stride}
    path = cache / "stamp.json"
    if not path.exists():
        write_text(path, json.dumps(wanted) + "\n")
    found = read_stamp(cache)
    if found.get("codec") != fingerprint:
        raise UserError(f"encode: {cache} holds latents of another codec; delete it or choose another --cache folder")
    if different := [name for name, value in wanted.items() if found.get(name) != value]:
        name = different[0]
        raise UserError(
            f"encode: {cache} holds latents with {name} {found.get(name)}, not {wanted[name]}; choose another --cache"
        )


def read_stamp(cache: Path) -> dict[str, Any]:
    """What a cache says of itself. `UserError` for none."""
    path = Path(cache) / "stamp.json"
    try:
        stamp = read_json(path)
    except UserError as error:
        raise UserError(f"encode: {path} is damaged; delete the folder {cache} and encode again") from error
    return stamp if isinstance(stamp, dict) else {}


def clips_of(cache: Path) -> ClipConfig | None:
    """How the clips of a cache were cut; None where there are none."""
    stamp = read_stamp(cache) if (Path(cache) / "stamp.json").exists() else {}
    if "step" not in stamp:
        return None
    return ClipConfig(latents=stamp["latents"], stride=stamp["stride"], hop=stamp["hop"])


def latent_path(cache: Path, episode: Episode, kind: str = "") -> Path:
    """Where the latents of an episode lie: all (""), or ".frames", ".clips" and ".starts". The name follows from its
    pictures: an episode of the same name that shows something else has others."""
    return Path(cache) / f"{episode.name}-{content_hash([episode])[:16]}{kind}.npy"


def read_latents(cache: Path, episode: Episode) -> np.ndarray:
    """Memory-mapped latents of an episode, float16 [T, C, h, w]."""
    return _mapped(latent_path(cache, episode), episode.num_frames)


def read_video(cache: Path, episode: Episode) -> Video:
    """What training needs of an encoded episode, its latents memory-mapped."""
    stamp, cameras = read_stamp(cache), episode.cameras()
    if "step" not in stamp:
        return Video(cameras, read_latents(cache, episode))
    rows = cameras[:: stamp["step"]]
    frames = _mapped(latent_path(cache, episode, ".frames"), len(rows))
    starts = read_array(latent_path(cache, episode, ".starts"))
    clips = _mapped(latent_path(cache, episode, ".clips"), len(starts), 5)
    spoken = episode.captions()
    middles = (starts * stamp["step"] + stamp["latents"] * stamp["step"] // 2).tolist()
    return Video(rows, frames, clips, starts, tuple(_covering(spoken, middle) for middle in middles))


def _covering(captions: Sequence[Caption], frame: int) -> str:
    """The caption of a frame; none is the empty one."""
    return next((caption.text for caption in captions if caption.first <= frame < caption.until), "")


def _mapped(path: Path, count: int, axes: int = 4) -> np.ndarray:
    try:
        latents = read_array(path, mapped=True)
    except UserError as error:
        told = str(error).rsplit(";", 1)[0]
        raise UserError(f"latents: {told}; delete it and run `cam encode` again") from error
    if latents.ndim != axes or len(latents) != count or latents.dtype.kind != "f":
        what = "frames" if axes == 4 else "clips"
        raise UserError(
            f"latents: {path} is {latents.dtype} {list(latents.shape)}, the episode has {count} {what}; "
            "delete it and run `cam encode` again"
        )
    return np.asarray(latents) if latents.size == 0 else latents


# -- captions ----------------------------------------------------------------------------------------------------------


def prompt_key(prompt: str) -> str:
    """The name under which the rows of a prompt are kept."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _encode_captions(cache: Path, words: Words, episodes: Sequence[Episode], name: str) -> None:
    """Rows of every caption, and of no words, into one file; those that a file of the cache has already are kept."""
    from safetensors.torch import save_file

    texts = sorted({"", *(caption.text for episode in episodes for caption in episode.captions())})
    path = cache / f"{name}.safetensors"
    known = read_prompts(cache)
    missing = [text for text in texts if prompt_key(text) not in known]
    if not missing:
        return
    rows = {
        prompt_key(text): words(text).detach().cpu().contiguous()
        for text in tracked(missing, len(missing), "encoding", "captions")
    }
    rows |= _read_rows(path) if path.exists() else {}
    with atomic(path) as partial:
        save_file(rows, partial)


def read_prompts(cache: Path) -> dict[str, Tensor]:
    """Rows [L, D] of prompts by `prompt_key`, of all shards; empty where there are none. Mapped into memory."""
    found: dict[str, Tensor] = {}
    for path in sorted(Path(cache).glob("prompts*.safetensors")):
        found |= _read_rows(path)
    return found


def _read_rows(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"captions: {path} is damaged ({error}); delete it and run `cam encode` again") from error
