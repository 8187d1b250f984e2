"""Videos and cameras that other systems made, in the layouts they come in, for our metrics.

Frames are uint8 [T, H, W, 3]; cameras follow `camera`: OpenCV axes, and intrinsics in pixels of the picture as it is.
Positions are taken for metres. RealEstate10K's and most generators' scale is arbitrary: bring their paths to metres
before scoring, because a return is a pose within 0.2 m of an earlier one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import SUFFIXES, CameraTrack, read_track
from context_as_memory.formats.documents import SCENE_MEM_HFOV_DEG as SCENE_MEM_HFOV_DEG
from context_as_memory.formats.files import is_litter
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.pictures import PICTURES, fit_frame, read_picture
from context_as_memory.formats.vertical import turned
from context_as_memory.formats.video import VIDEOS, VideoFacts, measure_video, read_frames

# Where the pictures of a clip's folder lie, if not in it.
_INSIDE = ("images", "rgb", "color", "frames", "image_left", "image_2", "image_0", "mav0/cam0/data", "cam0/data")
Said = tuple[PoseOptions, float | None]  # about cameras: how to read them, and their field of view
SAME_TIME = 0.5  # of the time between two pictures: a pose nearer than that is its own


@dataclass(frozen=True)
class PictureSource:
    """Pictures of a video file, or of a folder in their order.

    files: the pictures of a folder, empty for a video. times_s: of timestamped pictures. notes: what was not used.
    """

    path: Path
    num_frames: int
    width: int
    height: int
    files: tuple[Path, ...] = ()
    times_s: np.ndarray | None = None
    facts: VideoFacts | None = None
    notes: tuple[str, ...] = ()

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The frames of n numbers [n], uint8 [n, H, W, 3]."""
        if self.facts is not None:
            return read_frames(self.path, numbers, self.facts)
        found = {int(number): self._picture(int(number)) for number in np.unique(numbers)}
        return np.stack([found[int(number)] for number in numbers]) if len(numbers) else self._none()

    def _none(self) -> np.ndarray:
        return np.empty((0, self.height, self.width, 3), np.uint8)

    def _picture(self, number: int) -> np.ndarray:
        picture = read_picture(self.files[number]).frame
        if picture.shape[:2] != (self.height, self.width):
            raise UserError(
                f"{self.files[number]} has another size than {self.files[0].name}; write all pictures of a video "
                "in one size"
            )
        return picture


@dataclass(frozen=True)
class ImportedVideo:
    """A video of another system. Its pictures are read when asked for.

    Args:
        name: unique within one import.
        sources: video files or folders of pictures, played one after the other.
        cameras: one per frame, of the picture's size (made upright).
        truth_sources: as `sources`, what a perfect memory would have shown; None if that is not known.
        recorded: so many first frames were given to the system, not made by it: they are no returns to be scored.
        picked: which frames of the sources these are; all of them if None.
        turns: quarter turns counter-clockwise that make the stored pictures upright.
        track: what the camera file says, for reports.
        notes: what was not used, assumed, or looks wrong, one sentence each.
    """

    name: str
    sources: tuple[Path, ...]
    cameras: Cameras
    truth_sources: tuple[Path, ...] | None = None
    recorded: int = 0
    picked: tuple[int, ...] | None = None
    turns: int = 0
    track: CameraTrack | None = None
    notes: tuple[str, ...] = ()
    _known: dict[Path, PictureSource] = field(default_factory=dict, repr=False, compare=False)

    def frames(self, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Pictures uint8 [T, H, W, 3]: those of some frame numbers, or all; only they are held in memory.

        `UserError` for what cannot be read or has not one picture per camera.
        """
        return self._pictures(self.sources, numbers)

    def truth(self, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray | None:
        """The true pictures uint8 [n, H, W, 3], scaled and cropped to the size of `frames`; None if not known."""
        return None if self.truth_sources is None else self._pictures(self.truth_sources, numbers)

    def report(self) -> dict[str, Any]:
        """What was read how, for report.json."""
        about = {} if self.track is None else self.track.report()
        return {**about, "notes": [*about.get("notes", []), *self.notes]}

    def _pictures(self, paths: tuple[Path, ...], numbers: Sequence[int] | np.ndarray | None) -> np.ndarray:
        sources = []
        for path in paths:
            if path not in self._known:
                self._known[path] = open_source(path)
            sources.append(self._known[path])
        counts = [source.num_frames for source in sources]
        if self.picked is None:
            _same_length(paths[-1], sum(counts), self.name, len(self.cameras))
        wanted = np.arange(len(self.cameras)) if numbers is None else np.asarray(numbers, np.int64)
        if self.picked is not None:
            wanted = np.array(self.picked, np.int64)[wanted]
        size = (self.cameras.width, self.cameras.height)
        frames = np.empty((len(wanted), size[1], size[0], 3), np.uint8)
        first = 0
        for source, count in zip(sources, counts, strict=True):
            here = np.flatnonzero((wanted >= first) & (wanted < first + count))
            for start in range(0, len(here), _part(source)):
                rows = here[start : start + _part(source)]
                read = np.rot90(source.read(wanted[rows] - first), self.turns, axes=(1, 2))
                for row, frame in zip(rows, read, strict=True):
                    frames[row] = fit_frame(np.ascontiguousarray(frame), *size)[0]
            first += count
        return frames


def _part(source: PictureSource) -> int:
    """So many frames at once that fitting them does not double what is held: about 64 MB."""
    return max(1, 64_000_000 // (3 * source.width * source.height))


def import_videos(
    videos: Path,
    cameras: Path | None = None,
    truth: Path | None = None,
    options: PoseOptions | None = None,
    hfov_deg: float | None = None,
) -> list[ImportedVideo]:
    """The videos of a folder with their cameras, sorted by name, in whichever layout the folders have.

    - The paper's data set: `frames/<video>/0000.png`, `jsons/<video>.json`.
    - SceneMemBench: `<case>/context.mp4`, `<case>/eval.mp4`, `<case>/pose/poses.json`, at any depth.
    - Plain: `walk.mp4` or a folder `walk` of pictures, with `walk.npy`, `.npz`, `.json`, `.txt` or whatever
      `read_track` finds in a folder `walk`; or a folder per clip, `walk/video.mp4` with `walk/poses.npy`, as episodes
      and LingBot-World's clips are; or `walk/images` with `walk/transforms.json`, `walk/sparse/0` and so on.

    Args:
        videos: what the system made.
        cameras: where the cameras (and recorded context) are, in the same layout; the same folder if not given.
        truth: true videos of the same layout and names, for all videos; of SceneMemBench, its own `eval.mp4` files.
        options: what the camera files do not say.
        hfov_deg: the horizontal field of view of the pictures, for camera files without a lens.

    Raises:
        UserError: naming the file and what is wrong in it: nothing to read, no cameras, damaged or impossible numbers,
            unequal numbers of pictures, cameras and true pictures.
    """
    poses = cameras or videos
    said = (options or PoseOptions(), hfov_deg)
    for folder in (videos, poses, truth or videos):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give --videos, --cameras and --truth a folder each")
    if (poses / "jsons").is_dir():
        found = _paper(videos, poses, truth, said)
    elif cases := sorted(path.parents[1] for path in poses.rglob("pose/poses.json")):
        found = _scene_mem(cases, videos, poses, truth, said)
    else:
        found = _plain(videos, poses, truth, said)
    if not found:
        raise UserError(f"no videos ({', '.join(VIDEOS)}, or folders of pictures) in {videos}")
    return found


# -- layouts -----------------------------------------------------------------------------------------------------------


def _paper(videos: Path, poses: Path, truth: Path | None, said: Said) -> list[ImportedVideo]:
    """The paper's data set (arXiv 2506.03141): frames/<video> holds PNG files 0000.png ...; the poses are
    jsons/<video>.json, see `read_unreal_json`. Transparency in the PNG files is laid on black. What a system made may
    also be video files, in `frames` or without such a folder."""

    def pictures(folder: Path) -> Path:
        return folder / "frames" if (folder / "frames").is_dir() else folder

    return _plain(pictures(videos), poses / "jsons", None if truth is None else pictures(truth), said)


def _scene_mem(cases: list[Path], videos: Path, poses: Path, truth: Path | None, said: Said) -> list[ImportedVideo]:
    """SceneMemBench: context.mp4 is recorded and given, eval.mp4 was made and is scored, the poses cover both in that
    order. A case is named by its path below `poses`; one without an eval.mp4 in `videos` was not generated and is left
    out. The true eval.mp4 of the benchmark counts as truth only if its folder is given as `truth`."""
    found = []
    for case in cases:
        name = case.relative_to(poses).as_posix()
        context, made = case / "context.mp4", videos / name / "eval.mp4"
        if not made.is_file():
            continue
        if not context.is_file():
            raise UserError(f"{context} is missing; SceneMemBench has one beside each pose folder")
        true = None if truth is None else (context, _existing(truth / name / "eval.mp4"))
        sources = (open_source(context), open_source(made))
        poses_json = case / "pose" / "poses.json"
        found.append(_pair(name, sources, poses_json, true, said, recorded=sources[0].num_frames))
    return found


def _plain(videos: Path, poses: Path, truth: Path | None, said: Said) -> list[ImportedVideo]:
    """A video file or a folder of pictures each, cameras (and true videos) of the same stem."""
    found: dict[str, Path] = {}
    left: list[str] = []
    for path in sorted(videos.iterdir()):
        if is_litter(path):
            continue
        name = path.name if path.is_dir() else path.stem
        source = _pictures_of(path)
        if source is None:
            if _is_stray(path):
                left.append(path.name)
            continue
        if name in found:
            raise UserError(f"{path} and {found[name]} are both called {name}; remove or rename one")
        found[name] = source
    if not found and (source := _pictures_of(videos)) is not None:  # the folder is one clip itself
        found[videos.resolve().name] = source
        left = []
    imported = []
    for name, source in found.items():
        cameras = _cameras_of(poses, name, source, videos)
        true = None
        if truth is not None:
            places = [truth / name, *(truth / f"{name}{suffix}" for suffix in VIDEOS)]
            there = next((found for found in map(_pictures_of, places) if found is not None), None)
            if there is None:
                raise UserError(f"{source} has no true video: {truth} holds no {name}; add it, or leave --truth out")
            true = (there,)
        imported.append(_pair(name, (open_source(source),), cameras, true, said))
    if left and imported:
        first = imported[0]
        note = f"in {videos} nothing was made of {', '.join(left[:8])}{' and others' if len(left) > 8 else ''}"
        imported[0] = ImportedVideo(**{**_fields(first), "notes": (note, *first.notes)})
    return imported


def _fields(video: ImportedVideo) -> dict[str, Any]:
    return {name: getattr(video, name) for name in video.__dataclass_fields__}


def _is_stray(path: Path) -> bool:
    """Whether a file or folder is no part of any video here: neither cameras nor lens nor a note."""
    if path.is_dir():
        return not any(path.glob("poses.*")) and path.name not in ("sparse", "jsons", "pose")
    return path.suffix.lower() not in (*SUFFIXES, ".md", ".log", ".partial", ".yaml")


def _cameras_of(poses: Path, name: str, source: Path, videos: Path) -> Path:
    """The camera file or folder of a video."""
    options = [poses / f"{name}{suffix}" for suffix in SUFFIXES if suffix != ".bin"]
    folder = poses / name
    place = next((path for path in options if path.is_file()), None)
    if place is not None:
        return place
    if folder.is_dir() and (folder != source or _has_cameras(folder)) and _has_cameras(folder):
        return folder
    if poses == videos and source.parent in (videos, videos / name) and _has_cameras(videos) and not folder.is_dir():
        return videos
    names = ", ".join(path.relative_to(poses).as_posix() for path in (*options[:4], folder / "poses.npy"))
    raise UserError(f"{source} has no cameras: none of {names} is in {poses}, nor anything else that is known")


def _has_cameras(folder: Path) -> bool:
    try:
        read_track(folder, assumed_hfov_deg=90.0)
    except UserError as error:
        return "this folder holds no poses.npy" not in str(error) and "several camera files" not in str(error)
    return True


def _pair(
    name: str,
    sources: tuple[PictureSource, ...],
    poses: Path,
    truth: tuple[Path, ...] | None,
    said: Said,
    recorded: int = 0,
) -> ImportedVideo:
    """Pictures and cameras that belong together, once their numbers agree."""
    for source in sources:
        if (source.width, source.height) != (sources[0].width, sources[0].height):
            raise UserError(
                f"{source.path} is {source.width}x{source.height}, {sources[0].path} "
                f"{sources[0].width}x{sources[0].height}; bring them to one size"
            )
    size = (sources[0].width, sources[0].height)
    track = read_track(poses, said[0], picture=size, hfov_deg=said[1])
    notes = [note for source in sources for note in source.notes]
    cameras, picked = _matched(sources, track, notes)
    cameras = turned(cameras, track.turns)
    if track.turns:
        notes.append(f"its pictures are turned by {90 * track.turns} degrees to be upright")
    if picked is None:
        _same_length(sources[-1].path, sum(source.num_frames for source in sources), str(track.path), len(cameras))
    known = {source.path: source for source in sources}
    if truth is not None:
        true = [open_source(path) for path in truth]
        known |= {source.path: source for source in true}
        count = len(cameras) if picked is None else sum(source.num_frames for source in sources)
        _same_length(truth[-1], sum(source.num_frames for source in true), str(track.path), count)
        if any(source.width * size[1] != source.height * size[0] for source in true):
            notes.append(
                f"the margins of the true pictures ({true[-1].width}x{true[-1].height}) are cut off to compare them "
                f"with {size[0]}x{size[1]}"
            )
    return ImportedVideo(
        name=name,
        sources=tuple(source.path for source in sources),
        cameras=cameras,
        truth_sources=truth,
        recorded=recorded,
        picked=picked,
        turns=track.turns,
        track=track,
        notes=tuple(notes),
        _known=known,
    )


def _matched(
    sources: tuple[PictureSource, ...], track: CameraTrack, notes: list[str]
) -> tuple[Cameras, tuple[int, ...] | None]:
    """Cameras and the pictures that they belong to: by place if the numbers agree, else by name or by time."""
    source, count = sources[0], sum(source.num_frames for source in sources)
    if len(sources) > 1 or not source.files:
        return track.cameras, None
    if track.names is not None:
        by_name = {path.stem.split(".")[0]: number for number, path in enumerate(source.files)}
        wanted = [Path(name).stem.split(".")[0] for name in track.names]
        rows = [row for row, name in enumerate(wanted) if name in by_name]
        if rows and len(set(wanted)) == len(wanted):
            picked = tuple(by_name[wanted[row]] for row in rows)
            if len(rows) < max(count, len(track)):
                notes.append(
                    f"{len(rows)} pictures have cameras by name; {count - len(rows)} pictures and "
                    f"{len(track) - len(rows)} cameras are left out"
                )
            order = np.argsort(picked, kind="stable")
            return track.cameras[np.array(rows)[order]], tuple(int(picked[i]) for i in order)
    if count != len(track) and source.times_s is not None and track.times_s is not None:
        times, poses = source.times_s, track.times_s
        if len(poses) > 1 and (np.diff(poses) > 0).all():
            place = np.clip(np.searchsorted(poses, times), 1, len(poses) - 1)
            nearest = np.where(times - poses[place - 1] <= poses[place] - times, place - 1, place)
            apart = np.abs(poses[nearest] - times)
            close = apart <= SAME_TIME * float(np.median(np.diff(times))) if len(times) > 1 else apart < 0.1
            if close.any():
                notes.append(
                    f"pictures and poses are matched by time, {1000 * apart[close].max():.0f} ms apart at most; "
                    f"{int((~close).sum())} pictures without a pose are left out"
                )
                return track.cameras[nearest[close]], tuple(int(i) for i in np.flatnonzero(close))
    return track.cameras, None


def _same_length(source: Path, frames: int, poses: str, cameras: int) -> None:
    if frames != cameras:
        raise UserError(f"{source} has {frames} frames, {poses} {cameras} cameras; cut the longer one to match")


# -- pictures ----------------------------------------------------------------------------------------------------------


def open_source(path: Path) -> PictureSource:
    """Count and measure what stands at a path; a video is decoded once."""
    if not path.is_dir():
        facts = measure_video(path)
        return PictureSource(path, facts.num_frames, facts.width, facts.height, facts=facts, notes=facts.notes)
    files, times, notes = ordered_pictures(path)
    picture = read_picture(files[0])
    height, width = picture.frame.shape[:2]
    return PictureSource(path, len(files), width, height, tuple(files), times, notes=(*notes, *picture.notes))


def _pictures_of(path: Path) -> Path | None:
    """The pictures that stand at a path: a video, a folder of pictures, or the video or pictures in a clip's folder."""
    if path.is_file():
        return path if path.suffix.lower() in VIDEOS else None
    if not path.is_dir():
        return None
    for name in ("video", "rgb", "color"):
        for suffix in VIDEOS:
            if (path / f"{name}{suffix}").is_file():
                return path / f"{name}{suffix}"
    if _pictures_in(path):
        return path
    return next((path / name for name in _INSIDE if _pictures_in(path / name)), None)


def _pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, without what file managers leave there."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not is_litter(f) and f.is_file())


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; add it, or leave --truth out")
    return path


def ordered_pictures(folder: Path) -> tuple[list[Path], np.ndarray | None, list[str]]:
    """The N pictures of a folder in their order, their times [N] in seconds if they are named by time, and notes.

    The order is that of the one number that differs from name to name: `frame_0001_640x360.png`, `0000.jpg`,
    `1305031102.175304.png`, `1403636579763555584.png`. Numbers have one step; times need not.
    """
    files = _pictures_in(folder)
    kinds = {f.suffix.lower() for f in files}
    depth = [f for f in files if re.search(r"depth|mask|normal", f.stem, re.IGNORECASE)]
    notes = []
    if depth and len(depth) < len(files):
        notes.append(f"{len(depth)} pictures named depth, mask or normal are not used")
        files = [f for f in files if f not in depth]
    words = [re.findall(r"\d+", f.stem) for f in files]
    if all(re.fullmatch(r"\d{5,}\.\d+", f.stem) for f in files):
        times = np.array([float(f.stem) for f in files])
        by_time = np.argsort(times, kind="stable")
        return [files[i] for i in by_time], times[by_time], notes
    numbers = _differing(files, words)
    order = sorted(range(len(files)), key=lambda i: numbers[i])
    ordered, values = [files[i] for i in order], [numbers[i] for i in order]
    if values[0] > 10**15:  # nanoseconds, as EuRoC names its pictures
        return ordered, np.array(values) / 1e9, notes
    step = values[1] - values[0] if len(values) > 2 else 1
    for i, value in enumerate(values):
        if value != values[0] + i * step:
            gaps = np.diff(values)
            missing = values[int(np.argmax(gaps != gaps.min()))] + int(gaps.min()) if (gaps != gaps.min()).any() else 0
            raise UserError(f"{folder}: picture {missing} is missing; number the pictures without gaps")
    if step > 1:
        notes.append(f"{folder.name} holds one picture in {step} only, {values[0]} to {values[-1]}")
    if len(kinds) > 1:
        notes.append(f"{folder.name} holds pictures of several kinds ({', '.join(sorted(kinds))})")
    return ordered, None, notes


def _differing(files: list[Path], words: list[list[str]]) -> list[int]:
    """The number of each name: the one number that differs between names, else the last one."""
    count = min(len(found) for found in words)
    if len({len(found) for found in words}) == 1 and len(files) > 1:
        columns = [[int(found[c]) for found in words] for c in range(count)]
        differing = [column for column in columns if len(set(column)) == len(files)]
        if differing:
            return differing[-1]
    numbers: dict[int, Path] = {}
    result = []
    for path, found in zip(files, words, strict=True):
        if not found or int(found[-1]) in numbers:
            raise UserError(f"{path} has no number of its own in its name; name the pictures 0000.png, 0001.png, ...")
        numbers[int(found[-1])] = path
        result.append(int(found[-1]))
    return result
