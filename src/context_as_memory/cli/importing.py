"""The commands `cam import ...`: recorded videos of others as episodes, to train on and to measure with."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from context_as_memory.errors import UserError
from context_as_memory.formats.options import PoseOptions


@dataclass(frozen=True, kw_only=True)
class ImportPaper:
    """The data set of the paper (arXiv 2506.03141): its folder, or the zip as it is."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder with frames/, jsons/ and captions.txt, or a zip of it (parts of it are joined with `cat` first)."""
    out: Path
    """Folder for the episodes; finished ones in it are kept."""
    size: str | None = None
    """WIDTHxHEIGHT of the episodes. Default: as recorded, cut to multiples of 32, so 640x352."""
    captions: bool = True
    """Keep what captions.txt says of the videos."""
    workers: int = 2
    """Videos at once, each in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class ImportVideos:
    """Videos or folders of pictures with cameras: RealEstate10K, poses.npy, transforms.json, TUM and the others of
    docs/formats.md."""

    videos: Annotated[Path, tyro.conf.Positional]
    """Folder of videos, or of folders of pictures."""
    out: Path
    """Folder for the episodes; finished ones in it are kept."""
    cameras: Path | None = None
    """Folder of the cameras, by the names of the videos. Default: the folder of the videos."""
    fps: float
    """Frames per second of the videos."""
    scale: float = 1.0
    """Metres that one unit of the cameras' positions is: RealEstate10K has a unit of its own in every video."""
    size: str | None = None
    """WIDTHxHEIGHT of the episodes. Default: as recorded, cut to multiples of 32."""
    poses: PoseOptions = PoseOptions()
    """How the camera files are to be understood."""
    hfov_deg: float | None = None
    """Horizontal field of view in degrees, for files without a lens."""
    licence: str = "not stated"
    """Noted in every episode."""
    workers: int = 2
    """Videos at once."""


Import = Annotated[
    Annotated[ImportPaper, tyro.conf.subcommand("paper")] | Annotated[ImportVideos, tyro.conf.subcommand("videos")],
    tyro.conf.subcommand("import", description="Turn recorded videos with cameras into episodes."),
]


def _import_paper(command: ImportPaper) -> int:
    from context_as_memory.data.paper import LICENCE, import_paper

    size = parse_size(command.size)
    summary = import_paper(command.source, command.out, size=size, captions=command.captions, workers=command.workers)
    print(f"{summary.line()} in {command.out}")
    print(
        "The videos for tests are the last of their environments: the list of the paper is not published, so figures "
        "of other works on this data set are not comparable."
    )
    print(LICENCE)
    return 0


def _import_videos(command: ImportVideos) -> int:
    from context_as_memory.data.imported import import_episodes

    summary = import_episodes(
        command.videos,
        command.out,
        cameras=command.cameras,
        fps=command.fps,
        scale=command.scale,
        size=parse_size(command.size),
        options=command.poses,
        hfov_deg=command.hfov_deg,
        licence=command.licence,
        workers=command.workers,
    )
    print(f"{summary.line()} in {command.out}")
    return 0


def parse_size(text: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT as two numbers. `UserError` for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise UserError(f"--size is {text!r}; give WIDTHxHEIGHT in pixels, such as 832x480")
    return int(found[1]), int(found[2])


RUN: dict[type, Callable[[Any], int]] = {ImportPaper: _import_paper, ImportVideos: _import_videos}
