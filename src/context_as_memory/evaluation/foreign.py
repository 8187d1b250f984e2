"""Videos that other systems made, scored by how well they remember: each return against its first visit."""

from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, read_cameras
from context_as_memory.errors import UserError
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.suite.result import Clip, picture_scores
from context_as_memory.video import read_video

VIDEOS = (".mp4", ".mkv", ".mov", ".webm")


def find_videos(videos: Path, cameras: Path) -> list[tuple[str, Path, Path]]:
    """Videos of a folder with their camera files: (name, video, cameras).

    The cameras of `walk.mp4` are `walk.npy`, `walk.json`, `walk.txt` or the folder `walk` with a `poses.npy`: arrays
    (also those of LingBot-World: poses.npy and intrinsics.npy), the paper's Unreal files and RealEstate10K files are
    told by content. Raises `UserError` for a folder without videos and for a video without cameras.
    """
    for folder in (videos, cameras):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give --videos and --cameras a folder each")
    found = []
    for video in sorted(path for path in videos.iterdir() if path.suffix.lower() in VIDEOS):
        options = [cameras / f"{video.stem}{suffix}" for suffix in (".npy", ".json", ".txt", "")]
        there = [path for path in options if path.is_file() or (path / "poses.npy").is_file()]
        if not there:
            raise UserError(
                f"{video} has no cameras: none of {', '.join(path.name for path in options)} is in {cameras}"
            )
        found.append((video.stem, video, there[0]))
    if not found:
        raise UserError(f"no videos ({', '.join(VIDEOS)}) in {videos}")
    return found


def read_pair(video: Path, cameras: Path) -> tuple[np.ndarray, Cameras]:
    """Frames uint8 [T, H, W, 3] and their T cameras, scaled to the picture size."""
    frames = read_video(video)
    height, width = frames.shape[1:3]
    found = read_cameras(cameras, width=width, height=height)
    if len(found) != len(frames):
        raise UserError(f"{video} has {len(frames)} frames, {cameras} {len(found)} cameras; they must belong together")
    return frames, found


def score_video(video: Path, cameras: Path, networks: bool) -> Clip:
    """Every return of a video against its first visit, in its own pictures. Returns: poses within 0.2 m and 5 degrees,
    the camera having looked away in between."""
    frames, found = read_pair(video, cameras)
    returns = visits(find_returns(found))
    clip: Clip = {"returns": float(len(returns)), "frames": float(len(frames))}
    if returns:
        last = np.concatenate([visit.frames for visit in returns])
        first = np.concatenate([visit.firsts for visit in returns])
        clip |= picture_scores("return", frames[last], frames[first], networks)
        clip["gap_frames"] = float(np.mean(last - first))
    return clip
