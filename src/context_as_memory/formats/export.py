"""A walk out, frames and cameras together: a folder of pictures, COLMAP, nerfstudio, LeRobot v3.

LeRobot's layout is that of its public documentation (huggingface/lerobot, dataset version 3.0): a Parquet table with
one row a frame, a video, and notes on both. Needs pyarrow, the extra `export`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError, install
from context_as_memory.formats.colmap import write_colmap
from context_as_memory.formats.files import write_array, write_text
from context_as_memory.formats.options import ExportKind
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.poses import quaternions
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses, write_transforms

BLOCK = 64  # frames held at once
TASK = "walk through the world"
CAMERA = "observation.images.camera"
STATE = ("x", "y", "z", "qx", "qy", "qz", "qw")
ACTION = ("right_m", "down_m", "forward_m", "turn_x_rad", "turn_y_rad", "turn_z_rad")


@dataclass(frozen=True)
class WalkFrames:
    """Something to export. read: frame numbers int64 [n] -> frames uint8 [n, H, W, 3], seen from `cameras`."""

    read: Callable[[np.ndarray], np.ndarray]
    cameras: Cameras
    fps: float = 15.0

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All frames, few at a time: number of the first, frames uint8 [n, H, W, 3]."""
        for first in range(0, len(self.cameras), BLOCK):
            yield first, self.read(np.arange(first, min(first + BLOCK, len(self.cameras))))


def export_walk(walk: WalkFrames, kind: ExportKind, out: Path, every: int = 1) -> Path:
    """Write a walk into a folder that is empty or not there; returns it.

    frames: `images/000000.png` and so on, `poses.npy`, `intrinsics.npy`. colmap: `images` and a sparse model without
    points in `sparse/0`. nerfstudio: `images` and `transforms.json`. lerobot: one episode; state: place and direction
    of the camera; action: the motion to the next frame. every: only each n-th frame.
    """
    if every < 1:
        raise UserError(f"every {every}th frame cannot be exported; give 1 or more")
    if not len(walk.cameras):
        raise UserError("there are no frames to export; walk first")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds files already; choose another folder")
    rows = np.arange(0, len(walk.cameras), every)
    some = WalkFrames(lambda numbers: walk.read(rows[numbers]), walk.cameras[rows], walk.fps / every)
    _WRITERS[kind](some, out)
    return out


def _pictures(walk: WalkFrames, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.png" for number in range(len(walk.cameras))]
    for first, frames in walk.blocks():
        for name, frame in zip(names[first:], frames, strict=False):
            write_image(folder / name, frame)
    return names


def _frames(walk: WalkFrames, out: Path) -> None:
    _pictures(walk, out / "images")
    write_poses(walk.cameras, out)


def _colmap(walk: WalkFrames, out: Path) -> None:
    write_colmap(walk.cameras, out / "sparse" / "0", names=_pictures(walk, out / "images"))


def _nerfstudio(walk: WalkFrames, out: Path) -> None:
    names = [f"images/{name}" for name in _pictures(walk, out / "images")]
    write_transforms(walk.cameras, out / "transforms.json", names=names)


# -- LeRobot -----------------------------------------------------------------------------------------------------------


def motions(cameras: Cameras) -> np.ndarray:
    """How the camera goes on from every frame, in its own axes: metres and an axis times an angle in radians, float64
    [N, 6]; zeros for the last."""
    from scipy.spatial.transform import Rotation

    relative = cameras.w2c[:-1] @ cameras.c2w[1:]
    turns = Rotation.from_matrix(relative[:, :3, :3]).as_rotvec()
    return np.concatenate([np.column_stack([relative[:, :3, 3], turns]), np.zeros((1, 6))])


def _lerobot(walk: WalkFrames, out: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"LeRobot data sets need pyarrow; {install('export')}") from None
    cameras, count = walk.cameras, len(walk.cameras)
    place = "chunk-000/file-000"
    video = out / "videos" / CAMERA / f"{place}.mp4"
    video.parent.mkdir(parents=True)
    even = cameras.width % 2 == cameras.height % 2 == 0
    style = "yuv420p" if even else "yuv444p"
    colours = _Moments()
    with VideoWriter(video, cameras.width, cameras.height, walk.fps, crf=10, pix_fmt=style) as writer:
        for _, frames in walk.blocks():
            writer.write(frames)
            colours.add(frames)
    state = np.column_stack([cameras.position, quaternions(cameras.c2w[:, :3, :3])]).astype(np.float32)
    columns: dict[str, np.ndarray] = {
        "observation.state": state,
        "action": motions(cameras).astype(np.float32),
        "timestamp": (np.arange(count) / walk.fps).astype(np.float32),
        "frame_index": np.arange(count),
        "episode_index": np.zeros(count, np.int64),
        "index": np.arange(count),
        "task_index": np.zeros(count, np.int64),
    }
    stats = {name: _stats(values) for name, values in columns.items()} | {CAMERA: colours.stats()}

    def column(values: np.ndarray) -> Any:
        if values.ndim == 1:
            return pa.array(values)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    def table(path: str, held: Any) -> None:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(held, out / path)

    table(f"data/{place}.parquet", pa.table({name: column(values) for name, values in columns.items()}))
    table("meta/tasks.parquet", _indexed(pa, {"task_index": [0], "task": [TASK]}, "task"))
    episode: dict[str, list[Any]] = {
        **{"episode_index": [0], "tasks": [[TASK]], "length": [count]},
        **{"data/chunk_index": [0], "data/file_index": [0], "dataset_from_index": [0], "dataset_to_index": [count]},
        **{f"videos/{CAMERA}/chunk_index": [0], f"videos/{CAMERA}/file_index": [0]},
        **{f"videos/{CAMERA}/from_timestamp": [0.0], f"videos/{CAMERA}/to_timestamp": [count / walk.fps]},
        **{"meta/episodes/chunk_index": [0], "meta/episodes/file_index": [0]},
        **{f"stats/{name}/{key}": [value] for name, values in stats.items() for key, value in values.items()},
    }
    table(f"meta/episodes/{place}.parquet", pa.table(episode))
    write_text(out / "meta" / "stats.json", json.dumps(stats, indent=1) + "\n")
    write_text(out / "meta" / "info.json", json.dumps(_info(walk, style), indent=1) + "\n")
    write_array(out / "meta" / "intrinsics.npy", cameras.K)  # LeRobot has no place for a lens


def _info(walk: WalkFrames, style: str) -> dict[str, Any]:
    """What LeRobot wants to know of a data set."""
    size = [walk.cameras.height, walk.cameras.width, 3]
    fps: float = int(walk.fps) if float(walk.fps).is_integer() else walk.fps
    film = {
        **{"video.height": size[0], "video.width": size[1], "video.channels": 3, "video.fps": fps},
        **{"video.codec": "h264", "video.pix_fmt": style, "video.is_depth_map": False, "has_audio": False},
    }
    whole = {"dtype": "int64", "shape": [1], "names": None}
    features: dict[str, Any] = {
        CAMERA: {"dtype": "video", "shape": size, "names": ["height", "width", "channels"], "info": film},
        "observation.state": {"dtype": "float32", "shape": [len(STATE)], "names": list(STATE)},
        "action": {"dtype": "float32", "shape": [len(ACTION)], "names": list(ACTION)},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{name: whole for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    return {
        **{"codebase_version": "v3.0", "robot_type": "camera", "fps": fps, "features": features},
        **{"total_episodes": 1, "total_frames": len(walk.cameras), "total_tasks": 1, "splits": {"train": "0:1"}},
        **{"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }


def _stats(values: np.ndarray) -> dict[str, list[float] | list[int]]:
    """Minimum, maximum, mean, deviation and number of rows [N] or [N, D], by column."""
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    found: dict[str, list[float] | list[int]] = {
        name: getattr(table, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")
    }
    return found | {"count": [len(values)]}


class _Moments:
    """Minimum, maximum, mean and deviation of colours in 0..1, gathered block by block."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, np.zeros(3), np.zeros(3)
        self.low, self.high = np.full(3, 255), np.zeros(3, int)

    def add(self, frames: np.ndarray) -> None:
        pixels = frames.reshape(-1, 3)
        self.count += len(pixels)
        self.sums += pixels.sum(axis=0)
        self.squares += (pixels.astype(np.float64) ** 2).sum(axis=0)
        self.low = np.minimum(self.low, pixels.min(axis=0))
        self.high = np.maximum(self.high, pixels.max(axis=0))

    def stats(self) -> dict[str, Any]:
        """By channel, [3, 1, 1] as LeRobot has them."""
        mean = self.sums / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        values = {"min": self.low, "max": self.high, "mean": mean, "std": deviation}
        return {name: (value / 255).reshape(3, 1, 1).tolist() for name, value in values.items()} | {
            "count": [self.count]
        }


def _indexed(pa: Any, columns: dict[str, list[Any]], index: str) -> Any:
    """A table that pandas reads with one of its columns as the index."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    notes = [
        {
            "name": name,
            "field_name": name,
            "pandas_type": kinds[name][0],
            "numpy_type": kinds[name][1],
            "metadata": None,
        }
        for name in columns
    ]
    about = {"index_columns": [index], "column_indexes": [], "columns": notes, "pandas_version": "2.2.0"}
    return pa.table(columns).replace_schema_metadata({b"pandas": json.dumps(about).encode()})


_WRITERS: dict[str, Callable[[WalkFrames, Path], None]] = {
    "frames": _frames,
    "colmap": _colmap,
    "nerfstudio": _nerfstudio,
    "lerobot": _lerobot,
}
