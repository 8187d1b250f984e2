"""Videos and cameras that other systems made, in the layouts they come in, for our metrics.

Frames are uint8 [T, H, W, 3]; cameras follow `camera`: OpenCV axes, and intrinsics in pixels of the picture as it is.
Positions are taken for metres. RealEstate10K's and most generators' scale is arbitrary: bring their paths to metres
before scoring, because a return is a pose within 0.2 m of an earlier one.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, read_cameras
from context_as_memory.camera.files import unreal_cameras
from context_as_memory.errors import UserError
from context_as_memory.video import fit_frame, read_image, read_video

VIDEOS = (".mp4", ".mkv", ".mov", ".webm")
POSES = (".npy", ".npz", ".json", ".txt")
LINGBOT_SIZE = (832, 480)  # the image that LingBot-World's intrinsics are for, whatever size it generates
SCENE_MEM_HFOV_DEG = 90.0  # Unreal's default: the files of SceneMemBench do not name theirs
OFF_CENTRE = 0.05  # a principal point this near to the centre, as a share of the size, fits an image of that size


@dataclass(frozen=True)
class ImportedVideo:
    """A video of another system. Its pictures are read when asked for.

    Args:
        name: unique within one import.
        sources: video files or folders of numbered PNG files, played one after the other.
        cameras: one per frame, of the picture's size.
        truth_sources: as `sources`, what a perfect memory would have shown; None if that is not known.
        recorded: so many first frames were given to the system, not made by it: they are no returns to be scored.
    """

    name: str
    sources: tuple[Path, ...]
    cameras: Cameras
    truth_sources: tuple[Path, ...] | None = None
    recorded: int = 0

    def frames(self) -> np.ndarray:
        """All pictures, uint8 [T, H, W, 3]. `UserError` for what cannot be read or has not one picture per camera."""
        return self._pictures(self.sources)

    def truth(self) -> np.ndarray | None:
        """The true pictures, uint8 [T, H, W, 3], scaled and cropped to the size of `frames`; None if not known."""
        return None if self.truth_sources is None else self._pictures(self.truth_sources)

    def _pictures(self, sources: tuple[Path, ...]) -> np.ndarray:
        width, height = self.cameras.width, self.cameras.height
        parts = [_fitted(_read(source), width, height) for source in sources]
        frames = parts[0] if len(parts) == 1 else np.concatenate(parts)
        _same_length(sources[-1], len(frames), self.name, len(self.cameras))
        return frames


def import_videos(videos: Path, cameras: Path | None = None, truth: Path | None = None) -> list[ImportedVideo]:
    """The videos of a folder with their cameras, sorted by name, in whichever layout the folders have.

    - The paper's data set: `frames/<video>/0000.png`, `jsons/<video>.json`.
    - SceneMemBench: `<case>/context.mp4`, `<case>/eval.mp4`, `<case>/pose/poses.json`, at any depth.
    - Plain: `walk.mp4` or a folder `walk` of PNG files, with `walk.npy`, `.npz`, `.json`, `.txt` or `walk/poses.npy`;
      or a folder per clip, `walk/video.mp4` with `walk/poses.npy`, as episodes and LingBot-World's clips are. Arrays of
      LingBot-World, the paper's Unreal files and RealEstate10K files are told by content.

    Args:
        videos: what the system made.
        cameras: where the cameras (and recorded context) are, in the same layout; the same folder if not given.
        truth: true videos of the same layout and names, for all videos; of SceneMemBench, its own `eval.mp4` files.

    Raises:
        UserError: naming the file and what is wrong in it: nothing to read, no cameras, damaged or impossible numbers,
            unequal numbers of pictures, cameras and true pictures.
    """
    poses = cameras or videos
    for folder in (videos, poses, truth or videos):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give --videos, --cameras and --truth a folder each")
    if (poses / "jsons").is_dir():
        found = _paper(videos, poses, truth)
    elif cases := sorted(path.parents[1] for path in poses.rglob("pose/poses.json")):
        found = _scene_mem(cases, videos, poses, truth)
    else:
        found = _plain(videos, poses, truth)
    if not found:
        raise UserError(f"no videos ({', '.join(VIDEOS)}, or folders of PNG files) in {videos}")
    return found


# -- layouts -----------------------------------------------------------------------------------------------------------


def _paper(videos: Path, poses: Path, truth: Path | None) -> list[ImportedVideo]:
    """The paper's data set (arXiv 2506.03141): frames/<video> holds PNG files 0000.png ...; the poses are
    jsons/<video>.json, see `read_unreal_json`. Transparency in the PNG files is laid on black. What a system made may
    also be video files, in `frames` or without such a folder."""

    def pictures(folder: Path) -> Path:
        return folder / "frames" if (folder / "frames").is_dir() else folder

    return _plain(pictures(videos), poses / "jsons", None if truth is None else pictures(truth))


def _scene_mem(cases: list[Path], videos: Path, poses: Path, truth: Path | None) -> list[ImportedVideo]:
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
        cameras = case / "pose" / "poses.json"
        found.append(_pair(name, (context, made), cameras, _scene_mem_cameras, true, recorded=_measure(context)[0]))
    return found


def _plain(videos: Path, poses: Path, truth: Path | None) -> list[ImportedVideo]:
    """A video file or a folder of pictures each, cameras (and true videos) of the same stem."""
    found: dict[str, Path] = {}
    for path in sorted(videos.iterdir()):
        name = path.name if path.is_dir() else path.stem
        source = _pictures_of(path)
        if source is None or path.name.startswith("."):
            continue
        if name in found:
            raise UserError(f"{path} and {found[name]} are both called {name}; remove or rename one")
        found[name] = source
    imported = []
    for name, source in found.items():
        options = [poses / f"{name}{suffix}" for suffix in POSES]
        options += [poses / name / "poses.npy", poses / name / "poses.npz"]
        cameras = next((path for path in options if path.is_file()), None)
        if cameras is None:
            names = ", ".join(path.relative_to(poses).as_posix() for path in options)
            raise UserError(f"{source} has no cameras: none of {names} is in {poses}")
        true = None
        if truth is not None:
            places = [truth / name, *(truth / f"{name}{suffix}" for suffix in VIDEOS)]
            there = next((found for found in map(_pictures_of, places) if found is not None), None)
            if there is None:
                raise UserError(f"{source} has no true video: {truth} holds no {name}; add it, or leave --truth out")
            true = (there,)
        imported.append(_pair(name, (source,), cameras, _plain_cameras, true))
    return imported


def _pair(
    name: str,
    sources: tuple[Path, ...],
    poses: Path,
    read: Callable[[Path, int, int], Cameras],
    truth: tuple[Path, ...] | None,
    recorded: int = 0,
) -> ImportedVideo:
    """Pictures and cameras that belong together, once their numbers agree."""
    sizes = [_measure(source) for source in sources]
    for source, size in zip(sources, sizes, strict=True):
        if size[1:] != sizes[0][1:]:
            raise UserError(
                f"{source} is {size[1]}x{size[2]}, {sources[0]} {sizes[0][1]}x{sizes[0][2]}; bring them to one size"
            )
    cameras = read(poses, *sizes[0][1:])
    count = sum(size[0] for size in sizes)
    _same_length(sources[-1], count, str(poses), len(cameras))
    if truth is not None:
        _same_length(truth[-1], sum(_measure(source)[0] for source in truth), str(poses), len(cameras))
    return ImportedVideo(name, sources, cameras, truth, recorded)


def _same_length(source: Path, frames: int, poses: str, cameras: int) -> None:
    if frames != cameras:
        raise UserError(f"{source} has {frames} frames, {poses} {cameras} cameras; cut the longer one to match")


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures_of(path: Path) -> Path | None:
    """The pictures that stand at a path: a video, a folder of PNG files, or the video of a clip's folder."""
    if path.is_file():
        return path if path.suffix.lower() in VIDEOS else None
    if (path / "video.mp4").is_file():
        return path / "video.mp4"
    return path if path.is_dir() and any(path.glob("*.png")) else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; add it, or leave --truth out")
    return path


def _numbered(folder: Path) -> list[Path]:
    """The PNG files of a folder in the order of the last number in their names, which must leave none out."""
    numbers: dict[int, Path] = {}
    for path in sorted(folder.glob("*.png")):
        digits = re.findall(r"\d+", path.stem)
        if not digits or int(digits[-1]) in numbers:
            raise UserError(f"{path} has no number of its own in its name; name the pictures 0000.png, 0001.png, ...")
        numbers[int(digits[-1])] = path
    order = sorted(numbers)
    for number, following in zip(order, order[1:], strict=False):
        if following != number + 1:
            raise UserError(f"{folder}: picture {number + 1} is missing; number the pictures without gaps")
    return [numbers[number] for number in order]


def _fitted(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([fit_frame(frame, width, height)[0] for frame in frames])


def _measure(source: Path) -> tuple[int, int, int]:
    """Number of frames, width and height, without decoding a video."""
    if source.is_dir():
        pictures = _numbered(source)
        height, width = read_image(pictures[0]).shape[:2]
        return len(pictures), width, height
    import av

    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise UserError(f"{source} holds no video; give a file with a video stream")
            stream = container.streams.video[0]
            count = sum(1 for packet in container.demux(stream) if packet.size)  # the last packet is an empty flush
            return count, stream.codec_context.width, stream.codec_context.height
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"video {source} cannot be read ({error}); it may be damaged, export it again") from error


def _read(source: Path) -> np.ndarray:
    if not source.is_dir():
        return read_video(source)
    pictures = [(path, read_image(path)) for path in _numbered(source)]
    first, like = pictures[0]
    for path, picture in pictures:
        if picture.shape != like.shape:
            raise UserError(f"{path} has another size than {first.name}; write all pictures of a video in one size")
    return np.stack([picture for _, picture in pictures])


# -- cameras -----------------------------------------------------------------------------------------------------------


def _plain_cameras(path: Path, width: int, height: int) -> Cameras:
    """Cameras for pictures of a size from any file that `camera` reads, and from LingBot-World's arrays."""
    if path.suffix.lower() in (".npy", ".npz"):
        return _lingbot(path, width, height)
    if path.suffix.lower() == ".json":
        # Its lens is that of the data set's 640x360 pictures; others are taken to be scaled and cropped from those.
        return read_cameras(path).resized(width, height)
    return read_cameras(path, width=width, height=height)  # RealEstate10K: shares of whatever size the picture has


def _lingbot(path: Path, width: int, height: int) -> Cameras:
    """Arrays as LingBot-World and other generators write them.

    Poses: [N,4,4] camera-to-world, OpenCV axes; in an .npz under `c2w` or `poses`. Intrinsics: fx fy cx cy [4], [1,4]
    or [N,4] in pixels, or matrices [3,3] or [N,3,3]; in `intrinsics.npy` beside the poses, in an .npz under
    `intrinsics` or `K`. An .npz may name `width` and `height` of the image that the intrinsics are for. Otherwise the
    principal point tells: exactly centred, it is half the size; else it must lie about the centre of the picture, or
    of the 832x480 image that LingBot-World's intrinsics are for and that it stretches to the size it generates.
    """
    where, arrays = path, _load(path)
    if path.suffix.lower() == ".npy":
        where = path.parent / "intrinsics.npy"
        if not where.is_file():
            raise UserError(f"{where}: the intrinsics of {path.name} are missing; write fx fy cx cy [4] there")
        poses, lens = arrays[""], _load(where)[""]
    else:
        poses, lens = _entry(path, arrays, ("c2w", "poses")), _entry(path, arrays, ("intrinsics", "K"))
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or poses.dtype.kind not in "fiu":
        raise UserError(f"{path}: poses are {poses.dtype} {list(poses.shape)}; give camera-to-world matrices [N,4,4]")
    K = _focal_and_centre(where, lens, len(poses))
    size = _stated_size(path, arrays) or _centred_size(K)
    try:
        if size is not None:
            return Cameras(poses, K, *size).resized(width, height)
        for wide, high in ((width, height), LINGBOT_SIZE):
            share = np.abs(K[:, 2:] / [wide, high] - 0.5)
            if (share <= OFF_CENTRE).all():
                return Cameras(poses, K * np.tile([width / wide, height / high], 2), width, height)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    raise UserError(
        f"{where}: cx cy = {K[0, 2]:.6g} {K[0, 3]:.6g} is not the centre of the {width}x{height} pictures, nor of "
        f"832x480; write the intrinsics for the size of the pictures"
    )


def _focal_and_centre(path: Path, lens: np.ndarray, count: int) -> np.ndarray:
    """fx fy cx cy for every pose, float64 [N,4], from any of the shapes that `_lingbot` names."""
    if lens.dtype.kind not in "fiu":
        raise UserError(f"{path}: intrinsics are {lens.dtype}; give numbers fx fy cx cy in pixels")
    if lens.shape[-2:] == (3, 3):
        lens = lens[..., [0, 1, 0, 1], [0, 1, 2, 2]]
    if lens.shape not in ((4,), (1, 4), (count, 4)):
        raise UserError(
            f"{path}: intrinsics have shape {list(lens.shape)} for {count} poses; "
            f"give fx fy cx cy as [4] or [{count},4]"
        )
    if not np.isfinite(lens).all():
        raise UserError(f"{path}: intrinsics are not finite; give numbers for fx fy cx cy")
    return np.broadcast_to(lens.astype(np.float64), (count, 4))


def _stated_size(path: Path, arrays: dict[str, np.ndarray]) -> tuple[int, int] | None:
    if not {"width", "height"} & arrays.keys():
        return None
    size = [_entry(path, arrays, (name,)) for name in ("width", "height")]
    if any(side.size != 1 or side.dtype.kind not in "iu" or side.item() < 1 for side in size):
        raise UserError(f"{path}: width and height are not positive whole numbers; give the image size in pixels")
    return size[0].item(), size[1].item()


def _centred_size(K: np.ndarray) -> tuple[int, int] | None:
    """Twice a principal point that is the same everywhere and at whole or half pixels; None for any other."""
    size = 2 * K[:, 2:]
    if len(size) and (size == size[0]).all() and (size[0] >= 2).all() and (size[0] == np.round(size[0])).all():
        return int(size[0, 0]), int(size[0, 1])
    return None


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, or that of an .npy under the empty name."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy and zipfile raise whatever they meet in a damaged file
        raise UserError(f"{path}: damaged or no array ({' '.join(str(error).split())[:120]}); save it again") from error


def _entry(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise UserError(f"{path} has no array {' or '.join(map(repr, names))}, only {', '.join(arrays)}; add it")


def _scene_mem_cameras(path: Path, width: int, height: int) -> Cameras:
    """Cameras from SceneMemBench's pose/poses.json.

    The card of the data set (huggingface.co/datasets/scenemembench/SceneMemBench) says: `primary_pose` of a frame is
    [x, y, z, pitch, yaw, roll], in Unreal's centimetres and degrees. Assumed here: the frames are a list, at the top or
    under "frames" or "poses", context first and eval after it; the axes are those of `read_unreal_json`; the lens is
    Unreal's default of 90 degrees across.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({' '.join(str(error).split())[:120]}); fetch the file again") from error
    if isinstance(data, dict):
        data = next((data[key] for key in ("frames", "poses") if key in data), None)
    if not isinstance(data, list) or not data:
        raise UserError(f'{path}: no list of frames at the top, under "frames" or "poses"; put one there')
    rows = []
    for number, frame in enumerate(data):
        pose = frame.get("primary_pose") if isinstance(frame, dict) else None
        if not isinstance(pose, list) or len(pose) != 6 or any(type(value) not in (int, float) for value in pose):
            raise UserError(f'{path}: frame {number} has no "primary_pose" of six numbers x y z pitch yaw roll; add it')
        rows.append(pose)
    table = np.array(rows, np.float64)
    try:
        angles = table[:, [5, 3, 4]]
        return unreal_cameras(table[:, :3], angles, width=width, height=height, hfov_deg=SCENE_MEM_HFOV_DEG)
    except UserError as error:
        raise UserError(f"{path}: primary_pose: {error}") from None
