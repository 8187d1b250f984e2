"""Episodes on disk: a video, its exact cameras, and a note that says where they come from.

    video.mp4          H.264, 4:4:4 colour; or frames.npy, uint8 [N, H, W, 3], for machines without a video library
    poses.npy          float64 [N, 4, 4] camera-to-world, metres, OpenCV axes
    intrinsics.npy     float64 [N, 4] fx fy cx cy, pixels
    episode.json       format version, split, seed, size, origin and licence of the pictures, captions, hashes

An episode appears under its name only when it is complete: it is written to a hidden folder beside it and then renamed.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_array, read_json
from context_as_memory.formats.pictures import check_frames
from context_as_memory.formats.video import VideoWriter, measure_video, read_frames, read_video

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
_HASHED_FRAMES = 8
_CONTENT = ("split", "num_frames", "width", "height", "frame_hash", "file_hashes")
_VIDEO, _RAW, _POSES, _INTRINSICS, _NOTE = "video.mp4", "frames.npy", "poses.npy", "intrinsics.npy", "episode.json"


@dataclass(frozen=True)
class Caption:
    """What frames `first` to `until` (not included) of an episode show, in words."""

    first: int
    until: int
    text: str


@dataclass(frozen=True)
class Episode:
    """One recorded path through one world. `meta` is the content of episode.json."""

    folder: Path
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "Episode":
        """Read the note of an episode; frames and cameras are read when asked for. `UserError` for no valid note."""
        folder = Path(folder)
        if not (folder / _NOTE).is_file():
            raise UserError(f"no episode in {folder}: {_NOTE} is missing; render it with `cam render`")
        meta = read_json(folder / _NOTE)
        if not isinstance(meta, dict) or meta.get("format_version") != FORMAT_VERSION:
            version = meta.get("format_version") if isinstance(meta, dict) else None
            raise UserError(
                f"{folder} has unknown format version {version!r} (known: {FORMAT_VERSION}); render it again"
            )
        wrong = [key for key in ("width", "height", "num_frames") if not _is_count(meta.get(key))]
        if wrong:
            raise UserError(f"{folder / _NOTE} lacks a positive whole number for {', '.join(wrong)}; render it again")
        return cls(folder, meta)

    @property
    def name(self) -> str:
        return str(self.meta.get("name", self.folder.name))

    @property
    def split(self) -> str:
        return str(self.meta.get("split", ""))

    @property
    def num_frames(self) -> int:
        return int(self.meta["num_frames"])

    def cameras(self) -> Cameras:
        """The exact camera of every frame. Raises `UserError` for missing, damaged or impossible poses."""
        poses, intrinsics = read_array(self.folder / _POSES), read_array(self.folder / _INTRINSICS)
        if poses.shape != (self.num_frames, 4, 4):
            raise UserError(f"{self.folder / _POSES} has shape {list(poses.shape)}, expected [{self.num_frames}, 4, 4]")
        try:
            return Cameras(poses, intrinsics, int(self.meta["width"]), int(self.meta["height"]))
        except UserError as error:
            raise UserError(f"cameras of {self.folder}: {error}") from error

    def frames(self) -> np.ndarray:
        """All frames, uint8 [N, H, W, 3]. Raises `UserError` for a missing or damaged video."""
        raw = self.folder / _RAW
        expected = (self.num_frames, self.meta["height"], self.meta["width"], 3)
        frames = read_array(raw) if raw.exists() else read_video(self.folder / _VIDEO, math.prod(expected))
        if frames.shape != expected or frames.dtype != np.uint8:
            raise UserError(
                f"frames of {self.folder} are {frames.dtype} {list(frames.shape)}, expected {list(expected)}"
            )
        return frames

    def parts(self, size: int) -> Iterator[np.ndarray]:
        """All frames in order, at most `size` at a time: uint8 [n, H, W, 3]. Never holds a whole video.

        Raises `UserError` as `frames` does.
        """
        raw = self.folder / _RAW
        if raw.exists():
            yield from _split(read_array(raw, mapped=True), size)
            return
        facts = measure_video(self.folder / _VIDEO)
        if (facts.num_frames, facts.width, facts.height) != (self.num_frames, self.meta["width"], self.meta["height"]):
            raise UserError(
                f"the video of {self.folder} has {facts.num_frames} frames of {facts.width}x{facts.height}, its note "
                f"says {self.num_frames} of {self.meta['width']}x{self.meta['height']}; make the episode again"
            )
        for first in range(0, self.num_frames, size):
            yield read_frames(self.folder / _VIDEO, np.arange(first, min(first + size, self.num_frames)), facts)

    def captions(self) -> list[Caption]:
        """What is said about parts of the video, in order; empty where nothing is. `UserError` for a damaged one."""
        found = []
        for entry in self.meta.get("captions", []):
            try:
                caption = Caption(int(entry["first"]), int(entry["until"]), str(entry["text"]))
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{self.folder / _NOTE}: a caption lacks first, until or text; import it again"
                ) from None
            if not 0 <= caption.first < caption.until:
                raise UserError(
                    f"{self.folder / _NOTE}: a caption of frames {caption.first} to {caption.until} holds none; "
                    "import it again"
                )
            found.append(caption)
        return found


def _split(frames: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(frames), size):
        yield np.array(frames[first : first + size])


def write_episode(
    folder: Path | str,
    frames_u8: np.ndarray | Iterable[np.ndarray],
    cameras: Cameras,
    meta: dict[str, Any],
    *,
    raw: bool = False,
    crf: int = 15,
) -> Episode:
    """Write an episode, whole or not at all.

    Args:
        folder: where the episode appears; must not exist. Its parent is made if needed.
        frames_u8: uint8 [N, H, W, 3], or such parts in order, for videos that do not fit in memory.
        cameras: N cameras of the same size.
        meta: what to note beside sizes and hashes, which are filled in here: at least `split` and `fps`.
        raw: store frames.npy instead of a video.
        crf: quality of the video as x264 counts it, lower is better.
    """
    folder, parts = Path(folder), [frames_u8] if isinstance(frames_u8, np.ndarray) else frames_u8
    if folder.exists():
        raise UserError(f"{folder} already exists; remove it or choose another folder")
    if isinstance(frames_u8, np.ndarray):
        check_frames(frames_u8, cameras.width, cameras.height)
        _same_number(len(frames_u8), len(cameras))
    _same_number(len(cameras), max(1, len(cameras)))
    if meta.get("split") not in SPLITS or not meta.get("fps", 0) > 0:
        raise UserError(f"episode {folder.name} needs a split out of {', '.join(SPLITS)} and a positive fps")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)  # mkdtemp makes private folders
        digest = _write_frames(partial, parts, cameras, meta["fps"], raw, crf)
        np.save(partial / _POSES, cameras.c2w)
        np.save(partial / _INTRINSICS, cameras.K)
        note = {
            "format_version": FORMAT_VERSION,
            "name": folder.name,
            **meta,
            "width": cameras.width,
            "height": cameras.height,
            "num_frames": len(cameras),
            "frame_hash": digest,
            "file_hashes": {path.name: _file_hash(path) for path in sorted(partial.iterdir())},
        }
        (partial / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Episode.open(folder)


def _same_number(frames: int, cameras: int) -> None:
    if frames != cameras:
        raise UserError(f"an episode needs one camera per frame, got {frames} frames, {cameras} cameras")


def _write_frames(folder: Path, parts: Iterable[np.ndarray], cameras: Cameras, fps: float, raw: bool, crf: int) -> str:
    """Write the frames of an episode part by part; returns their `frame_hash`."""
    count, done, digest = len(cameras), 0, hashlib.sha256()
    hashed = set(_hashed(count).tolist())
    shape = (count, cameras.height, cameras.width, 3)
    array = np.lib.format.open_memmap(folder / _RAW, "w+", np.uint8, shape) if raw else None
    writer = None if raw else VideoWriter(folder / _VIDEO, cameras.width, cameras.height, fps, crf)
    with writer or nullcontext():
        for part in parts:
            check_frames(part, cameras.width, cameras.height)
            if done + len(part) > count:
                _same_number(done + len(part), count)
            if array is not None:
                array[done : done + len(part)] = part
            if writer is not None:
                writer.write(part)
            for number in range(done, done + len(part)):
                if number in hashed:
                    digest.update(np.ascontiguousarray(part[number - done]).tobytes())
            done += len(part)
    _same_number(done, count)
    return digest.hexdigest()


def _hashed(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(_HASHED_FRAMES, count)).round().astype(int)


def frame_hash(frames_u8: np.ndarray) -> str:
    """SHA-256 over a few evenly spread uncompressed frames of uint8 [T, H, W, 3]: equal for two renderings of the same
    recipe."""
    return hashlib.sha256(np.ascontiguousarray(frames_u8[_hashed(len(frames_u8))]).tobytes()).hexdigest()


def content_hash(episodes: Sequence[Episode]) -> str:
    """SHA-256 that tells the pictures and cameras of episodes, from what they note of themselves: equal for the same
    recordings in any folder."""
    notes = [[episode.name, *(episode.meta.get(key) for key in _CONTENT)] for episode in episodes]
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def episode_folders(root: Path | str) -> list[Path]:
    """Folders under `root` that are, or should be, episodes, sorted by name. `UserError` if `root` is no folder."""
    root = Path(root)
    if not root.is_dir():
        if root.exists():
            raise UserError(f"{root} is a file, not the folder of a data set; give the folder")
        raise UserError(f"no data set at {root}; render one with `cam render --out {root}`")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_episodes(root: Path | str, split: str | None = None) -> list[Episode]:
    """The episodes under `root`, of one split or of all, sorted by name. `UserError` for none or an unknown split."""
    if split is not None and split not in SPLITS:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    episodes = [Episode.open(folder) for folder in episode_folders(root)]
    chosen = [episode for episode in episodes if split in (None, episode.split)]
    if not chosen:
        kind = f" of split {split}" if split else ""
        raise UserError(f"no episodes{kind} in {root}; render some with `cam render --out {root}`")
    return chosen


def check_episode(folder: Path | str) -> list[str]:
    """Everything wrong with an episode, in words; empty if it is sound. Decodes the whole video; raises nothing."""
    folder = Path(folder)
    try:
        episode = Episode.open(folder)
    except UserError as error:
        return [str(error)]
    problems = []
    if episode.name != folder.name:
        problems.append(f"the folder is called {folder.name}, the episode {episode.name}")
    if episode.split not in SPLITS:
        problems.append(f"unknown split {episode.split!r}")
    has_raw, has_video = (folder / _RAW).exists(), (folder / _VIDEO).exists()
    if has_raw == has_video:
        problems.append(f"both {_VIDEO} and {_RAW}" if has_raw else f"neither {_VIDEO} nor {_RAW}")
    else:
        try:
            frames = episode.frames()
            if has_raw and frame_hash(frames) != episode.meta.get("frame_hash"):
                problems.append("hash mismatch: the frames are not the ones that were written (frame_hash)")
        except UserError as error:
            problems.append(str(error))
    try:
        episode.cameras()
    except UserError as error:
        problems.append(str(error))
    hashes = episode.meta.get("file_hashes")
    if not isinstance(hashes, dict) or not {_POSES, _INTRINSICS, _RAW if has_raw else _VIDEO} <= hashes.keys():
        return [*problems, f"{_NOTE} lacks file hashes"]
    for name, expected in hashes.items():
        path = folder / str(name)
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif _file_hash(path) != expected:
            problems.append(f"hash mismatch: {name} is not the file that was written (changed or cut short)")
    return problems


def check_dataset(root: Path | str) -> dict[str, list[str]]:
    """Broken episodes under `root` -> their problems in words; an empty dict for a sound data set.

    Raises `UserError` when `root` holds no episode at all.
    """
    folders = episode_folders(root)
    if not folders:
        raise UserError(f"no episodes in {root}; render some with `cam render --out {root}`")
    found = {folder.name: check_episode(folder) for folder in folders}
    return {name: problems for name, problems in found.items() if problems}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
