"""What a benchmark is to us: walks that it asks for, and what it wants to find afterwards."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.evaluation.suite.result import Clip
from context_as_memory.formats.files import is_litter, read_array, read_text, write_array, write_text
from context_as_memory.formats.options import ASSUMED_HFOV_DEG
from context_as_memory.formats.pictures import PICTURES, fit_frame, read_picture
from context_as_memory.formats.video import measure_video


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """How a benchmark is run. size: width and height of the system's frames; model: the name to stand in the results;
    fps: of videos whose benchmark leaves it open; hfov_deg: of pictures whose lens is not given."""

    inputs: Path
    out: Path
    size: tuple[int, int]
    model: str
    fps: float = 15.0
    hfov_deg: float = ASSUMED_HFOV_DEG


@dataclass(frozen=True)
class Given:
    """What a walk begins with: frames uint8 [n, H, W, 3] of the system's size with their cameras [n], and the cameras
    of the frames to make. truth: what those should show, where it is known."""

    frames: np.ndarray
    cameras: Cameras
    path: Cameras
    truth: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class BenchWalk:
    """One video that a benchmark asks for. name: its own; video: place of the file below the output folder; begin:
    reads what is given; from_start: whether the video begins with the last given picture; about: what the benchmark
    knows of it, for the files beside it."""

    name: str
    video: Path
    begin: Callable[[], Given]
    fps: float
    from_start: bool = True
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A finished walk: its frames uint8 [T, H, W, 3] with their cameras, as they are in the video."""

    walk: BenchWalk
    given: Given
    frames: np.ndarray
    cameras: Cameras


def leave_nothing(asked: BenchRequest, made: Made) -> Clip:
    """For benchmarks that want no files beside a video."""
    return {}


def finish_nothing(asked: BenchRequest, walks: Sequence[BenchWalk]) -> None:
    """For benchmarks that want no list of their videos."""


@dataclass(frozen=True, kw_only=True)
class Harness:
    """One benchmark.

    title: for the report. walks: the videos that it asks for; `UserError` for inputs of another layout. leave: writes
    what belongs beside one video, returns values of it. finish: writes what belongs beside all. gate: what is wrong
    with the results, as far as that is known without networks, one sentence each. then: the command that scores them.
    """

    title: str
    walks: Callable[[BenchRequest], list[BenchWalk]]
    then: Callable[[BenchRequest], str]
    leave: Callable[[BenchRequest, Made], Clip] = leave_nothing
    finish: Callable[[BenchRequest, Sequence[BenchWalk]], None] = finish_nothing
    gate: Callable[[BenchRequest, Sequence[BenchWalk]], list[str]] = lambda asked, walks: videos_missing(asked, walks)


# -- what several of them share ----------------------------------------------------------------------------------------


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name. `UserError` without one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give --inputs a folder of pictures")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES and not is_litter(path)]
    if not found:
        raise UserError(f"no pictures ({', '.join(PICTURES[:4])}, ...) in {folder}; put some there")
    return found


def picture_start(asked: BenchRequest, path: Path, K: np.ndarray | None = None) -> tuple[np.ndarray, Cameras]:
    """A picture as the system takes it, uint8 [1, H, W, 3], and its level camera at the origin, z up. K: fx fy cx cy
    [4] in pixels of the file; told by the field of view if None."""
    frame = read_picture(path).frame
    height, width = frame.shape[:2]
    lens = pinhole(asked.hfov_deg, width, height) if K is None else np.asarray(K, np.float64)
    camera = look((0.0, 0.0, 0.0), 0.0, lens, width, height)
    return fit_frame(frame, *asked.size)[0][None], camera.resized(*asked.size)


def from_first(start: Cameras, relative: np.ndarray) -> Cameras:
    """Cameras with the lens of a start camera [1] at poses [n, 4, 4] given against it (OpenCV axes)."""
    return Cameras(start.c2w[0] @ relative, start.K[0], start.width, start.height)


def turned(yaw_rad: np.ndarray) -> np.ndarray:
    """Poses [n, 4, 4] turned to the right by angles [n] about their own vertical."""
    poses = np.tile(np.eye(4), (len(yaw_rad), 1, 1))
    sin, cos = np.sin(yaw_rad), np.cos(yaw_rad)
    poses[:, 0, 0] = poses[:, 2, 2] = cos
    poses[:, 0, 2], poses[:, 2, 0] = sin, -sin
    return poses


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line. `UserError` naming the line that is none."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is no JSON object; write the file again")
            rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def poses_beside(video: Path) -> tuple[Path, Path]:
    """Where the poses and the lens of a video are, so that `cam evaluate --videos` finds them."""
    if video.stem == "video":
        return video.with_name("poses.npy"), video.with_name("intrinsics.npy")
    return video.with_suffix(".npy"), video.with_name(f"{video.stem}_intrinsics.npy")


def write_poses_beside(video: Path, cameras: Cameras) -> None:
    """Poses float64 [N, 4, 4] and lens float64 [N, 4] of a video."""
    for path, array in zip(poses_beside(video), (cameras.c2w, cameras.K), strict=True):
        write_array(path, array)


def videos_missing(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    """Videos that are not there, cannot be read, or have another number of frames than poses."""
    wrong = []
    for walk in walks:
        video = asked.out / walk.video
        if not video.exists():
            wrong.append(f"{walk.video} is missing")
            continue
        try:
            frames = measure_video(video).num_frames
        except UserError as error:
            wrong.append(str(error))
            continue
        poses = len(read_array(poses_beside(video)[0]))
        if frames != poses:
            wrong.append(f"{walk.video} has {frames} frames and {poses} poses")
    return wrong
