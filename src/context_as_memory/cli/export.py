"""`cam export`: a walk out, for splat trainers, robot learners and whatever reads pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from context_as_memory.errors import UserError
from context_as_memory.formats.options import ExportKind

if TYPE_CHECKING:
    from context_as_memory.formats.export import WalkFrames


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a walk for other programs: pictures, COLMAP, nerfstudio or a LeRobot data set."""

    walk: tyro.conf.Positional[Path]
    """An output folder of `cam generate` or `cam bench`, an episode, a world, or a video with poses beside it."""
    to: ExportKind
    """frames: PNG files and pose arrays. colmap: images and sparse/0. nerfstudio: images and transforms.json. lerobot:
    a data set of version 3 (needs the `export` extra)."""
    out: Path
    """Folder to make; it must be empty or not there."""
    branch: str = "main"
    """Branch of a world."""
    every: int = 1
    """Only each n-th frame."""
    fps: float = 15.0
    """Frames per second, where the walk does not say."""


def export(command: Export) -> int:
    """Run the command."""
    from context_as_memory.formats.export import export_walk

    if not 0 < command.fps <= 1000:
        raise UserError(f"--fps is {command.fps}; give frames per second between 0 and 1000")
    walk, close = read_walk(command.walk, command.branch, command.fps)
    try:
        export_walk(walk, command.to, command.out, command.every)
    finally:
        close()
    count = -(-len(walk.cameras) // command.every)
    print(f"{count} frames of {command.walk} are in {command.out}")
    return 0


def read_walk(path: Path, branch: str, fps: float) -> "tuple[WalkFrames, Callable[[], None]]":
    """Frames and cameras of whatever is there, and how to close it. `UserError` for anything else."""
    import numpy as np

    from context_as_memory.data.episode import Episode
    from context_as_memory.evaluation.suite.videos import own_output
    from context_as_memory.formats.export import WalkFrames
    from context_as_memory.formats.files import check_plain
    from context_as_memory.formats.importers import import_videos
    from context_as_memory.storage import BranchStore, WorldFile
    from context_as_memory.storage.schema import DATABASE

    if not path.exists():
        raise UserError(f"{path} does not exist; name the folder of a walk")
    check_plain(path)
    if (path / DATABASE).exists():
        file = WorldFile.open(path, write=False)
        store = BranchStore(file, branch)
        cameras = store.cameras()
        if cameras is None:
            file.close()
            raise UserError(f"branch {branch!r} of the world in {path} is empty; walk first")
        # An edit adds frames to the memory that nobody walked.
        seen = np.concatenate([np.full(count, "edit" not in note) for count, note in store.notes()])
        walked = np.flatnonzero(seen)
        return WalkFrames(lambda rows: store.frames_u8(walked[rows].tolist()), cameras[walked], fps), file.close
    if (path / "episode.json").exists():
        episode = Episode.open(path)
        frames = episode.frames()
        return WalkFrames(lambda rows: frames[rows], episode.cameras(), float(episode.meta["fps"])), _nothing
    found = own_output(path) if path.is_dir() else []
    if not found:
        found = import_videos(path if path.is_dir() else path.parent)
        if not path.is_dir():
            found = [video for video in found if path in video.sources]
    if len(found) != 1:
        names = ", ".join(video.name for video in found[:6])
        raise UserError(f"{path} holds {len(found)} walks ({names}); name one")
    return WalkFrames(found[0].frames, found[0].cameras, fps), _nothing


def _nothing() -> None:
    """There is nothing to close."""
