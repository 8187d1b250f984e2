"""Videos in and out, and the two ways frames are held in memory. One reader for all of the package.

`frames_u8` is uint8 [T, H, W, 3] in 0..255 (RGB); `video` is float [B, C, T, H, W] in [-1, 1].

Videos are decoded strictly: a frame that the decoder would have to guess is an error, never a picture. Frames are those
that decoding gives, in the order in which they are shown, turned upright as the file says.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats.files import partial_path, reason
from context_as_memory.formats.pictures import check_frames

if TYPE_CHECKING:
    import torch

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}  # FFmpeg's names, by suffix: what can be written
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".gif", ".ts", ".mpg", ".mpeg", ".ogv", ".flv", ".wmv")
MOST_BYTES = 2_000_000_000  # of a video that is unpacked as a whole
_STRICT = {"err_detect": "explode"}  # FFmpeg's decoders otherwise hide damage behind guessed pictures
_AS_STORED = (1, 0, 0, 1)
_UNTAGGED, _BT709 = 2, "ITU709"
_HDR_CURVES = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of transfer curves


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a whole video found.

    num_frames, width, height: of the frames as they are shown. notes: what was not used or is out of the ordinary, one
    sentence each. times: presentation times of the frames in the stream's own unit, or None where some are missing;
    keys: numbers of the frames where decoding can begin; matrix: how stored frames are turned to be shown.
    """

    num_frames: int
    width: int
    height: int
    notes: tuple[str, ...] = ()
    times: tuple[int, ...] | None = field(default=None, repr=False)
    keys: tuple[int, ...] = field(default=(0,), repr=False)
    matrix: tuple[int, int, int, int] = _AS_STORED


def measure_video(path: str | Path) -> VideoFacts:
    """Decode a whole video, keeping none of it: count its frames and find out whether it is sound.

    Raises:
        UserError: a video that is missing, damaged, empty, or changes its size.
    """
    path = Path(path)
    times: list[int | None] = []
    keys: list[int] = []
    size, matrix = (0, 0), _AS_STORED
    notes: list[str] = []
    with _opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number == 0:
                size, matrix = (frame.width, frame.height), _matrix(frame)
                notes = _oddities(path, container, stream, frame)
            _check_size(path, number, (frame.width, frame.height), size)
            times.append(frame.pts)
            if frame.key_frame:
                keys.append(number)
    if not times:
        raise UserError(f"video {path} has no frames; it may be cut short, render or export it again")
    known = [time for time in times if time is not None]
    ordered = len(known) == len(times) and all(a < b for a, b in zip(known, known[1:], strict=False))
    width, height = size if matrix[0] else size[::-1]
    return VideoFacts(
        num_frames=len(times),
        width=width,
        height=height,
        notes=tuple(notes),
        times=tuple(known) if ordered else None,
        keys=tuple(keys or (0,)),
        matrix=matrix,
    )


def read_video(path: str | Path, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Decode a whole video file to uint8 [T, H, W, 3]. Raises `UserError` as `measure_video` does, and for a video that
    is larger than `most_bytes` when it is unpacked: a small file can hold very many frames."""
    path = Path(path)
    frames: list[np.ndarray] = []
    matrix = _AS_STORED
    with _opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if frame.width * frame.height * 3 * (number + 1) > most_bytes:
                raise UserError(
                    f"video {path} unpacks to more than {most_bytes / 1e6:.0f} MB; cut it, or make it smaller"
                )
            matrix = matrix if number else _matrix(frame)
            frames.append(_picture(frame, matrix))
            _check_size(path, number, frames[-1].shape[1::-1], frames[0].shape[1::-1])
    if not frames:
        raise UserError(f"video {path} has no frames; it may be cut short, render or export it again")
    try:
        return np.stack(frames)
    except MemoryError:
        raise UserError(f"video {path} does not fit in memory; cut it, or make it smaller") from None


def read_frames(path: str | Path, numbers: Sequence[int] | np.ndarray, facts: VideoFacts) -> np.ndarray:
    """The frames of n numbers [n] of a video, uint8 [n, H, W, 3], in that order; only these are held in memory.

    facts: of `measure_video`; with them decoding begins at the nearest key frame instead of at the start.
    """
    path, rows = Path(path), np.asarray(numbers, np.int64)
    wanted = np.unique(rows)
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < facts.num_frames:
        raise UserError(f"video {path} has {facts.num_frames} frames; frame {wanted[-1]} is not among them")
    frames = np.empty((len(rows), facts.height, facts.width, 3), np.uint8)
    missing = set(wanted.tolist())

    def keep(number: int, frame: Any) -> None:
        frames[rows == number] = _picture(frame, facts.matrix)
        missing.discard(number)

    if missing and facts.times is not None:
        _read_by_seeking(path, wanted, facts, facts.times, keep)
    if missing:  # a container that cannot seek
        with _opened(path) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                if number in missing:
                    keep(number, frame)
                if not missing:
                    break
    if missing:
        raise UserError(f"video {path} gives other frames than before; is it being written?")
    return frames


def _read_by_seeking(
    path: Path, wanted: np.ndarray, facts: VideoFacts, times: tuple[int, ...], keep: Callable[[int, Any], None]
) -> None:
    """Give the wanted frames to `keep`, told by their times; leaves out what seeking does not lead to."""
    number_of = {time: number for number, time in enumerate(times)}
    keys = np.array(facts.keys)
    group_of = keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)]
    with _opened(path) as (container, stream):
        for key in np.unique(group_of):
            missing = {int(number) for number in wanted[group_of == key]}
            last = max(missing)
            try:
                container.seek(times[int(key)], stream=stream, backward=True)
            except Exception:  # FFmpeg's demuxers refuse in many ways
                return
            for frame in container.decode(stream):
                number = number_of.get(frame.pts, -1) if frame.pts is not None else -1
                if number in missing:
                    keep(number, frame)
                    missing.discard(number)
                if not missing or number > last:
                    break


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its best video stream, to be decoded strictly; every error becomes one sentence."""
    import av

    if not path.is_file():
        raise UserError(f"no video at {path}; check the path")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise UserError(f"{path} holds no video; give a file with a video stream")
            stream.codec_context.options = dict(_STRICT)
            stream.thread_type = "AUTO"
            yield container, stream
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"video {path} does not fit in memory; cut it, or make it smaller") from None
    except Exception as error:  # FFmpeg's errors, and ValueError, TypeError, ... from what stands in a damaged file
        why = getattr(error, "strerror", None) or reason(error)
        raise UserError(f"video {path} cannot be read ({why}); it may be damaged, render or export it again") from None


def _check_size(path: Path, number: int, size: tuple[int, ...], first: tuple[int, ...]) -> None:
    if size != first:
        raise UserError(
            f"video {path} changes its size at frame {number}, from {first[0]}x{first[1]} to {size[0]}x{size[1]}; "
            "export it in one size"
        )


def _oddities(path: Path, container: Any, stream: Any, frame: Any) -> list[str]:
    notes = []
    others = sum(1 for other in container.streams.video if other.index != stream.index)
    if others:
        notes.append(f"{path.name} holds {others + 1} video streams; stream {stream.index} is used")
    aspect = stream.sample_aspect_ratio
    if aspect not in (None, 0, 1):
        notes.append(f"the pixels of {path.name} are not square ({aspect}); its pictures are taken as they are stored")
    curve = _HDR_CURVES.get(int(frame.color_trc)) if hasattr(frame, "color_trc") else None
    if curve:
        notes.append(f"{path.name} is HDR ({curve}); its brightness is taken as it is stored")
    return notes


def _picture(frame: Any, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """A decoded frame as it is shown: uint8 [H, W, 3], opaque on black, upright."""
    # HD without a tag is BT.709 for every player; FFmpeg alone would take BT.601.
    large = frame.width >= 1280 or frame.height > 576
    options = {"src_colorspace": _BT709} if large and int(frame.colorspace) == _UNTAGGED else {}
    if any(part.is_alpha for part in frame.format.components):
        rgba = frame.reformat(format="rgba", **options).to_ndarray().astype(np.uint16)
        picture = ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    else:
        picture = frame.reformat(format="rgb24", **options).to_ndarray()
    return np.ascontiguousarray(_upright(picture, matrix))


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """The signs a b c d of the display matrix: a stored (x, y) is shown at (a x + c y, b x + d y), shifted to fit.

    To be asked of the first frame only: PyAV's side data refer to their frame, which then stays in memory for long.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return _AS_STORED
    values = np.frombuffer(bytes(data), np.int32, 9)[[0, 1, 3, 4]] / 65536
    a, b, c, d = (int(value) for value in np.rint(values))
    return (a, b, c, d) if (abs(a * d - b * c) == 1 and {abs(a), abs(b)} == {0, 1}) else _AS_STORED


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if a == 0:
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


class VideoWriter:
    """Write frames to a video file that appears under its name only when it is complete.

    Frames go to `partial_path` beside the target. Leaving the `with` block closes the file and renames it, also when
    the block ends by an exception or Ctrl-C: what was written so far is playable. Without any frame nothing is left
    behind.

    path: target, ends in .mp4, .mkv or .mov. width, height: pixels (even for 4:2:0). fps: frames
    per second. crf: x264 quality, lower is better. pix_fmt: `yuv444p` keeps colour exact enough for data; `yuv420p`
    plays everywhere. lossless: bit-exact RGB (libx264rgb), for goldens. Raises `UserError` on a wrong size or a path
    that cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: float,
        crf: int = 15,
        pix_fmt: str = "yuv444p",
        lossless: bool = False,
    ) -> None:
        import av

        if fps <= 0:
            raise UserError(f"video {Path(path).name}: fps must be positive, got {fps}")
        if "420" in pix_fmt and not lossless and (width % 2 or height % 2):
            raise UserError(
                f"video {Path(path).name}: {pix_fmt} needs even sizes, got {width}x{height}; use pix_fmt='yuv444p'"
            )
        self.path = Path(path)
        self.partial = partial_path(self.path)
        self.num_frames = 0
        self.width, self.height = width, height
        container_format = CONTAINERS.get(self.path.suffix.lower())
        if container_format is None:
            raise UserError(f"video {self.path.name}: end the name in {', '.join(CONTAINERS)}")
        rate = Fraction(fps).limit_denominator(1001)
        try:
            container = av.open(str(self.partial), "w", format=container_format)
            stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
            stream.width, stream.height = width, height
            stream.pix_fmt = "rgb24" if lossless else pix_fmt
            if not lossless:
                # Say which matrix made the YUV: players guess differently for untagged video, which shifts colours.
                stream.codec_context.colorspace = 6  # SMPTE 170M (BT.601), what swscale uses by default
                stream.codec_context.color_range = 1  # limited range
            quality = {"qp": "0"} if lossless else {"crf": str(crf)}
            # x264's macroblock tree rounds differently from run to run; without it equal frames give equal files.
            stream.options = {"preset": "fast", "mbtree": "0", **quality}
            container.start_encoding()  # opens the file: a folder that cannot be written to shows now, not at frame 1
        except (OSError, ValueError) as error:  # av.FFmpegError derives from these
            raise UserError(f"cannot write {self.path} ({error}); choose another folder or name") from error
        self._container: av.container.OutputContainer | None = container
        self._stream = stream

    def write(self, frames_u8: np.ndarray) -> None:
        """Append uint8 [T, H, W, 3] or one frame [H, W, 3]."""
        import av

        frames_u8 = frames_u8[None] if frames_u8.ndim == 3 else frames_u8
        container = self._container
        if container is None:
            raise UserError(f"video {self.path.name} is closed; write all frames before")
        check_frames(frames_u8, self.width, self.height)
        for frame in frames_u8:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(self._stream.encode(picture))
            self.num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. Called by the `with` block; calling twice does nothing."""
        if self._container is None:
            return
        container, self._container = self._container, None
        if self.num_frames == 0:
            with contextlib.suppress(OSError, ValueError):
                container.close()
            self.partial.unlink(missing_ok=True)
            return
        container.mux(self._stream.encode(None))
        container.close()
        os.replace(self.partial, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_video(frames_u8: np.ndarray, device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """uint8 [T, H, W, 3] in 0..255 -> float32 [1, 3, T, H, W] in [-1, 1] on a device."""
    import torch

    check_frames(frames_u8)
    frames = torch.from_numpy(np.ascontiguousarray(frames_u8)).to(device).permute(3, 0, 1, 2)[None]
    return frames.float() / 127.5 - 1.0


def to_frames(video: "torch.Tensor") -> np.ndarray:
    """float [1, 3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]; values outside are clipped, NaN is a `UserError`."""
    import torch

    if video.ndim != 5 or video.shape[0] != 1 or video.shape[1] != 3:
        raise UserError(f"video must be [1, 3, T, H, W], got {tuple(video.shape)}; turn one clip at a time into frames")
    if not bool(video.isfinite().all()):  # black would stand for a picture that nobody made
        raise UserError("video has values that are not finite; check the weights that made it")
    scaled = (video.detach().float() + 1.0) * 127.5
    return scaled.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()
