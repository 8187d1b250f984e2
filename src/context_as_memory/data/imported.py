"""Videos with cameras of any known format (`formats.importers`) as episodes."""

from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.batch import RenderSummary, make_episodes
from context_as_memory.data.episode import write_episode
from context_as_memory.data.paper import AT_ONCE, CRF, MULTIPLE, splits
from context_as_memory.errors import UserError
from context_as_memory.formats.importers import ImportedVideo, import_videos
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.pictures import fit_frame


def import_episodes(
    videos: Path | str,
    out: Path | str,
    *,
    fps: float,
    cameras: Path | None = None,
    scale: float = 1.0,
    size: tuple[int, int] | None = None,
    options: PoseOptions | None = None,
    hfov_deg: float | None = None,
    licence: str = "not stated",
    workers: int = 1,
    progress: bool = True,
) -> RenderSummary:
    """Write the videos of a folder as episodes into `out`; those that are there are kept.

    Args:
        videos, cameras, options, hfov_deg: see `formats.importers.import_videos`.
        fps: frames per second of the videos.
        scale: metres that one unit of the cameras' positions is.
        size: width and height of the episodes, cut around the centre; None: as recorded, cut to multiples of 32.

    Raises:
        UserError: nothing to read, cameras that do not fit, and, after all others are done, the videos that failed.
    """
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(fps) and fps > 0):
        raise UserError(f"--fps is {fps:g} and --scale {scale:g}; give positive numbers")
    out = Path(out)
    found = {
        video.name.replace("/", "_"): video for video in import_videos(Path(videos), cameras, None, options, hfov_deg)
    }
    recipes: dict[str, dict[str, Any]] = {
        name: {"split": split, "fps": fps, "seed": 0, "generator": f"imported, scale {scale:g}", "licence": licence}
        for name, split in splits(list(found)).items()
    }

    def make(name: str) -> str | None:
        try:
            _write(out / name, found[name], scale, size, recipes[name])
        except (UserError, OSError, MemoryError) as error:
            return str(error)
        return None

    return make_episodes(out, recipes, make, workers=workers, progress=progress, verb="imported")


def _write(
    folder: Path, video: ImportedVideo, scale: float, size: tuple[int, int] | None, meta: dict[str, Any]
) -> None:
    shown = video.cameras
    width, height = size or (shown.width - shown.width % MULTIPLE, shown.height - shown.height % MULTIPLE)
    if min(width, height) < MULTIPLE:
        raise UserError(f"pictures of {shown.width}x{shown.height} are too small; {MULTIPLE}x{MULTIPLE} is the least")
    c2w = shown.c2w.copy()
    c2w[:, :3, 3] *= scale
    cameras = Cameras(c2w, shown.K, shown.width, shown.height).resized(width, height)
    parts = (
        np.stack([fit_frame(frame, width, height)[0] for frame in video.frames(np.arange(first, last))])
        for first, last in ((first, min(first + AT_ONCE, len(cameras))) for first in range(0, len(cameras), AT_ONCE))
    )
    write_episode(folder, parts, cameras, {**meta, "notes": list(video.notes)}, crf=CRF)
