"""Pictures in and out: image files, video files, and the two ways frames are held in memory.

`frames_u8` is uint8 [T, H, W, 3] in 0..255 (RGB); `video` is float [B, C, T, H, W] in [-1, 1]. A single `frame` is
uint8 [H, W, 3].
"""

import contextlib
import os
import time
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from context_as_memory.errors import UserError

if TYPE_CHECKING:
    import torch

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}  # FFmpeg's names, by suffix
MAX_IMAGE_PIXELS = 200_000_000  # larger files are refused before they are unpacked


def read_image(path: str | Path) -> np.ndarray:
    """Read one picture as uint8 [H, W, 3], upright (EXIF orientation applied), transparency laid on black.

    Raises `UserError` for a file that is missing, not a picture, cut short or absurdly large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no image at {path}; give the path of a PNG, JPEG or WebP file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UserError(f"image {path} has {image.width}x{image.height} pixels; shrink it below 200 megapixels")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
                raise UserError(f"image {path} has more than 8 bits a channel ({upright.mode}); save it as 8-bit RGB")
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                backdrop = Image.new("RGBA", upright.size, (0, 0, 0, 255))
                upright = Image.alpha_composite(backdrop, upright)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture that can be read; give a PNG, JPEG or WebP file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read ({error}); it may be damaged, save it again") from error


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write uint8 [H, W, 3] to a picture file (kind taken from the suffix), whole or not at all."""
    from PIL import Image

    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise UserError(f"cannot tell the picture format of {path.name}; end the name in .png or .jpg")
    partial = partial_path(path)
    Image.fromarray(np.ascontiguousarray(frame)).save(partial, format=kind)
    os.replace(partial, path)


def fit_frame(frame: np.ndarray, width: int, height: int) -> tuple[np.ndarray, bool]:
    """Scale uint8 [H, W, 3] until it covers width x height, then crop the centre. Returns (frame, was_changed).

    The same convention as `Cameras.resized`, so picture and intrinsics stay in step.
    """
    from PIL import Image

    check_frames(frame[None])
    source_height, source_width = frame.shape[:2]
    if (source_width, source_height) == (width, height):
        return frame, False
    scale = max(width / source_width, height / source_height)
    crop_width, crop_height = (
        width / scale,
        height / scale,
    )  # in source pixels; resampling straight from this box is exact
    left, top = (source_width - crop_width) / 2, (source_height - crop_height) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + crop_width, source_width), min(top + crop_height, source_height))
    resized = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.array(resized, dtype=np.uint8), True


def read_video(path: str | Path) -> np.ndarray:
    """Decode a whole video file to uint8 [T, H, W, 3]. Raises `UserError` if it is missing, unreadable or empty."""
    import av

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no video at {path}; check the path")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video; give a file with a video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"video {path} cannot be read ({error}); it may be damaged, render or export it again"
        ) from error
    if not frames:
        raise UserError(f"video {path} has no frames; it may be cut short, render or export it again")
    return np.stack(frames)


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
    """float [1, 3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]; values outside are clipped, NaN becomes black."""
    import torch

    if video.ndim != 5 or video.shape[0] != 1 or video.shape[1] != 3:
        raise UserError(f"video must be [1, 3, T, H, W], got {tuple(video.shape)}; turn one clip at a time into frames")
    scaled = (torch.nan_to_num(video.detach().float(), nan=-1.0) + 1.0) * 127.5
    return scaled.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()


def check_frames(frames_u8: np.ndarray, width: int | None = None, height: int | None = None) -> None:
    """Raise `UserError` unless the array is uint8 [T, H, W, 3] (of the given size)."""
    if frames_u8.dtype != np.uint8 or frames_u8.ndim != 4 or frames_u8.shape[-1] != 3:
        raise UserError(
            f"frames must be uint8 [T, H, W, 3], got {frames_u8.dtype} {list(frames_u8.shape)}; convert them first"
        )
    if width is not None and height is not None and frames_u8.shape[1:3] != (height, width):
        got_height, got_width = frames_u8.shape[1:3]
        raise UserError(f"frames are {got_width}x{got_height}, expected {width}x{height}; use fit_frame first")


def partial_path(path: Path) -> Path:
    """Where this process writes a file before it gets its name: `<name>.<process>.partial` in the same folder (a rename
    there is atomic, and two processes that write one file do not meet)."""
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def clear_partials(folder: Path, name: str = "*", idle_s: float = 60.0) -> None:
    """Remove what processes that were killed left of files of this name (a pattern). A file that was written to in the
    last `idle_s` seconds may be another machine's, and stays."""
    for left in folder.glob(f"{name}.*.partial"):
        process = left.name.split(".")[-2]
        with contextlib.suppress(OSError):
            if process.isdigit() and not _is_running(int(process)) and time.time() - left.stat().st_mtime > idle_s:
                left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
