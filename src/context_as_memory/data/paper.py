"""The data set of the paper (arXiv 2506.03141) as episodes: pictures, cameras, captions, and a split by video.

    frames/<video>/0000.png ...            640x360, RGBA
    jsons/<video>.json                     Unreal cameras, centimetres and degrees
    captions.txt                           <video>/0000_0076.mp4 TAB text; the last frame is included
    overlap_labels/<video>/<frame>.json    frames that show the same, past and future; compared only (`compare_labels`)

A folder of this layout or a zip of it, which is read where it lies. A video is read a few frames at a time.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.batch import RenderSummary, make_episodes
from context_as_memory.data.episode import Caption, list_episodes, write_episode
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import read_unreal_json
from context_as_memory.formats.files import reading
from context_as_memory.formats.pictures import decode_picture, fit_frame
from context_as_memory.retrieval import Candidates, RetrievalConfig, retrieve

FPS = 30.0
HFOV_DEG = 52.67
CRF = 12  # of the videos that are written: nearly without loss
MULTIPLE = 32  # sizes are cut to multiples of this, which every Wan autoencoder takes: 640x360 becomes 640x352
AT_ONCE = 32  # frames in memory
LICENCE = "The licence of this data set was not found where it is published; ask its authors before you pass on frames."
_CAPTION = re.compile(r"(?P<video>[^/\t]+)/(?P<first>\d+)_(?P<last>\d+)(?:\.\w+)?\t(?P<text>.*)")


class Layout:
    """Reads the files of the data set from a folder or a zip; all names are relative to where `frames/` stands."""

    def __init__(self, path: Path | str) -> None:
        """`UserError` for a path that holds no such data set."""
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{self.path} is no whole zip ({error}); if it came in parts, join them: cat PARTS > whole.zip"
                ) from None
            self._names = [name for name in self._zip.namelist() if not name.endswith("/")]
            cameras = [name for name in self._names if re.search(r"(^|/)jsons/[^/]+\.json$", name)]
            self._root = cameras[0].rpartition("jsons/")[0] if cameras else ""
        elif not self.path.is_dir():
            raise UserError(f"no data set at {self.path}; give its folder or its zip")
        if not self.videos:
            raise UserError(
                f"{self.path} holds no jsons/<video>.json; give the folder with frames/, jsons/, captions.txt"
            )

    def names(self, folder: str) -> list[str]:
        """Names of what stands in a folder, without what is hidden."""
        if self._zip is None:
            place = self.path / folder
            found = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        else:
            found = self._inside.get(folder, [])
        return sorted(name for name in found if not name.startswith("."))

    @cached_property
    def _inside(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for name in self._names:
            if name.startswith(self._root):
                folder, _, last = name.removeprefix(self._root).rpartition("/")
                folders.setdefault(folder, []).append(last)
        return folders

    def exists(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        return last in self._inside.get(folder, []) if self._zip is not None else (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        if self._zip is None:
            with reading(self.path / name):
                return (self.path / name).read_bytes()
        with reading(f"{self.path}: {name}"):
            return self._zip.read(self._root + name)

    @cached_property
    def videos(self) -> list[str]:
        return [name.removesuffix(".json") for name in self.names("jsons") if name.endswith(".json")]

    def cameras(self, video: str, width: int, height: int) -> Cameras:
        """The cameras of a video, for pictures of this size. `UserError` for a damaged file."""
        with tempfile.TemporaryDirectory(prefix="cameras-") as scratch:  # a file of a zip has no path of its own
            path = Path(scratch) / f"{video}.json"
            path.write_bytes(self.read(f"jsons/{video}.json"))
            return read_unreal_json(path, width=width, height=height, hfov_deg=HFOV_DEG)

    def captions(self) -> dict[str, list[Caption]]:
        """Captions by video, in order. Of frames that two captions share, the later one has them."""
        where = f"{self.path}: captions.txt"
        if not self.exists("captions.txt"):
            raise UserError(f"{where} is missing; unpack the data set again, or import it with --no-captions")
        found: dict[str, list[Caption]] = {}
        for number, line in enumerate(self.read("captions.txt").decode("utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            match = _CAPTION.fullmatch(line.strip("\r\n"))
            if match is None or int(match["first"]) > int(match["last"]):
                raise UserError(f"{where}: line {number} is not VIDEO/FIRST_LAST.mp4, a tab and a text")
            caption = Caption(int(match["first"]), int(match["last"]) + 1, match["text"].strip())
            found.setdefault(match["video"], []).append(caption)
        return {video: _without_overlap(captions) for video, captions in found.items()}

    def pictures(self, video: str, width: int, height: int) -> Iterator[np.ndarray]:
        """The frames of a video cut to a size, uint8 [n, height, width, 3], a few at a time."""
        size, part = None, []
        for name in self.frame_names(video):
            where = f"{self.path}: frames/{video}/{name}"
            frame = decode_picture(self.read(f"frames/{video}/{name}"), where).frame
            size = size or frame.shape
            if frame.shape != size:
                raise UserError(
                    f"{where} is {frame.shape[1]}x{frame.shape[0]}, the first frame {size[1]}x{size[0]}; "
                    "unpack the video again"
                )
            part.append(fit_frame(frame, width, height)[0])
            if len(part) == AT_ONCE:
                yield np.stack(part)
                part = []
        if part:
            yield np.stack(part)

    def frame_names(self, video: str) -> list[str]:
        """Names of the pictures of a video, in order. `UserError` for none, or one missing in the middle."""
        names = [name for name in self.names(f"frames/{video}") if re.fullmatch(r"\d+\.png", name)]
        names.sort(key=lambda name: int(name[:-4]))
        if not names:
            raise UserError(f"{self.path}: frames/{video} holds no pictures; unpack the data set again")
        for number, name in enumerate(names):
            if int(name[:-4]) != number:
                raise UserError(f"{self.path}: frames/{video}/{number:04d}.png is missing; unpack the video again")
        return names

    def picture_size(self, video: str) -> tuple[int, int]:
        """Width and height of the first picture of a video."""
        name = self.frame_names(video)[0]
        frame = decode_picture(self.read(f"frames/{video}/{name}"), f"{self.path}: frames/{video}/{name}").frame
        return frame.shape[1], frame.shape[0]

    def labels(self, video: str) -> dict[int, list[int]]:
        """For each frame that has a label, the frames it is said to share its view with."""
        found = {}
        for name in self.names(f"overlap_labels/{video}"):
            if not re.fullmatch(r"\d+\.json", name):
                continue
            with reading(f"{self.path}: overlap_labels/{video}/{name}"):
                data = json.loads(self.read(f"overlap_labels/{video}/{name}"))
                listed = data["overlapping_frames"] if isinstance(data, dict) else data
                found[int(name[:-5])] = [int(str(frame).removesuffix(".png")) for frame in listed]
        return found


def _without_overlap(captions: list[Caption]) -> list[Caption]:
    ordered = sorted(captions, key=lambda caption: caption.first)
    ends = [caption.first for caption in ordered[1:]] + [ordered[-1].until]
    return [
        Caption(caption.first, min(caption.until, max(end, caption.first + 1)), caption.text)
        for caption, end in zip(ordered, ends, strict=True)
    ]


def splits(videos: list[str]) -> dict[str, str]:
    """train, val or test for each video. The list of the paper is not published: ours are, of 100 videos, the 5 whose
    number within their environment is highest for tests and the next 2 for validation; at least one each of three."""

    def order(video: str) -> tuple[int, str]:
        number = re.search(r"(\d+)$", video)
        return (-int(number[1]) if number else 0, video)

    ranked = sorted(videos, key=order)
    few = len(videos) < 3
    tests, held_out = (0, 0) if few else (max(1, len(videos) * 5 // 100), max(1, len(videos) * 2 // 100))
    names = ["test"] * tests + ["val"] * held_out
    return {video: names[place] if place < len(names) else "train" for place, video in enumerate(ranked)}


@dataclass(frozen=True)
class _Job:
    source: Path
    video: str
    folder: Path
    size: tuple[int, int] | None
    meta: dict[str, Any]


def import_paper(
    source: Path | str,
    out: Path | str,
    *,
    size: tuple[int, int] | None = None,
    captions: bool = True,
    workers: int = 1,
    progress: bool = True,
) -> RenderSummary:
    """Write the data set's videos as episodes into `out`; those that are there are kept.

    Args:
        source: its folder, or the zip.
        size: width and height of the pictures, cut around the centre; None: as they are, cut to multiples of 32.
        captions: False for a copy without captions.txt.
        workers: videos at once, each in a process of its own.

    Raises:
        UserError: no such data set, no captions, and, after all other videos are done, those that failed and why.
    """
    source, out = Path(source), Path(out)
    layout = Layout(source)
    said = layout.captions() if captions else {}
    if captions and (silent := [video for video in layout.videos if video not in said]):
        raise UserError(
            f"{source}: captions.txt says nothing about {silent[0]}; unpack it again, or import with --no-captions"
        )
    recipes: dict[str, dict[str, Any]] = {}
    for video, split in splits(layout.videos).items():
        recipes[video] = {
            "split": split,
            "fps": FPS,
            "seed": 0,
            "generator": "Context-as-Memory data set (arXiv 2506.03141)",
            "licence": LICENCE,
            "captions": [vars(caption) for caption in said.get(video, [])],
        }
    jobs = {name: _Job(source, name, out / name, size, recipe) for name, recipe in recipes.items()}
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else None
    with pool or nullcontext():

        def make(name: str) -> str | None:
            return _import(jobs[name]) if pool is None else pool.submit(_import, jobs[name]).result()

        return make_episodes(out, recipes, make, workers=workers, progress=progress, verb="imported")


def _import(job: _Job) -> str | None:
    """Write one episode; returns None, or in words what went wrong."""
    try:
        layout = Layout(job.source)
        width, height = layout.picture_size(job.video)
        cameras = layout.cameras(job.video, width, height)
        frames = len(layout.frame_names(job.video))
        if frames != len(cameras):
            raise UserError(f"{frames} pictures and {len(cameras)} cameras; unpack the data set again")
        late = [caption for caption in job.meta["captions"] if caption["until"] > frames]
        if late:
            raise UserError(f"a caption ends at frame {late[0]['until']}, the video has {frames}; unpack it again")
        size = job.size or (width - width % MULTIPLE, height - height % MULTIPLE)
        if min(size) < MULTIPLE:
            raise UserError(f"pictures of {width}x{height} are too small; {MULTIPLE}x{MULTIPLE} is the least")
        pictures = layout.pictures(job.video, *size)
        write_episode(job.folder, pictures, cameras.resized(*size), job.meta, crf=CRF)
    except (UserError, OSError, MemoryError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Agreement:
    """How far the published overlap labels and our rule agree, over `frames` labelled frames of `videos` videos."""

    videos: int
    frames: int
    labelled_and_ours: int
    labelled: int
    ours: int

    def told(self) -> str:
        """In words."""
        recall = self.labelled_and_ours / max(1, self.labelled)
        precision = self.labelled_and_ours / max(1, self.ours)
        return (
            f"{self.frames} labelled frames of {self.videos} videos: of the frames that labels name, "
            f"{recall:.0%} pass our rule; of those that pass, {precision:.0%} are named"
        )


def compare_labels(data: Path | str, source: Path | str, every: int = 1) -> Agreement:
    """Compare the overlap labels of the data set with the paper's rule as it is used here.

    data: folder of imported episodes. source: the data set. every: look at each so many-th labelled frame.
    `UserError` where no episode has labels.
    """
    layout, rule = Layout(source), RetrievalConfig(strategy="paper")
    videos = frames = both = labelled = ours = 0
    for episode in list_episodes(data):
        labels = layout.labels(episode.name)
        if not labels:
            continue
        cameras, videos = episode.cameras(), videos + 1
        for frame in sorted(labels)[::every]:
            named = {other for other in labels[frame] if other != frame and 0 <= other < len(cameras)}
            if not 0 <= frame < len(cameras):
                raise UserError(f"{source}: overlap_labels/{episode.name}/{frame}.json is of no frame of that video")
            found = retrieve(Candidates(cameras), cameras[frame : frame + 1], rule, recent=None).candidates
            passing = set(found.tolist()) - {frame}
            frames, both = frames + 1, both + len(named & passing)
            labelled, ours = labelled + len(named), ours + len(passing)
    if not frames:
        raise UserError(f"{source} has no overlap_labels for the episodes of {data}")
    return Agreement(videos, frames, both, labelled, ours)
