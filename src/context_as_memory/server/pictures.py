"""Pictures on the wire: frames out as JPEG, H.264 or plain RGB, and an uploaded picture in, within limits."""

import io
from fractions import Fraction
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats.pictures import decode_picture, fit_frame

CONTENT_TYPES = {"jpeg": "image/jpeg", "h264": "video/h264", "raw": "application/x-raw-rgb"}
MOST_SCANS = 64  # of an uploaded JPEG
UPLOADS = ("JPEG", "PNG", "WEBP")  # what an uploaded picture may be


def encode_pictures(frames_u8: np.ndarray, kind: str, quality: int = 85) -> list[bytes]:
    """Frames uint8 [T, H, W, 3] as T packets of one of CONTENT_TYPES."""
    if kind == "raw":
        return [np.ascontiguousarray(frame).tobytes() for frame in frames_u8]
    if kind == "h264" and len(frames_u8):
        return _h264(frames_u8)
    return [jpeg(frame, quality) for frame in frames_u8]


def jpeg(frame_u8: np.ndarray, quality: int = 85) -> bytes:
    """One frame uint8 [H, W, 3] as a JPEG file."""
    return _file(frame_u8, format="JPEG", quality=quality)


def _file(frame_u8: np.ndarray, **settings: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame_u8)).save(buffer, **settings)
    return buffer.getvalue()


def column(frames_u8: np.ndarray, kind: str) -> bytes:
    """Frames uint8 [n, H, W, 3], one below the other, as one picture file: `png`, exact, or `jpeg`."""
    below = frames_u8.reshape(-1, *frames_u8.shape[2:])
    return jpeg(below) if kind == "jpeg" else _file(below, format="PNG", compress_level=1)


def _h264(frames_u8: np.ndarray) -> list[bytes]:
    """One packet per frame, Annex B. Every batch is a stream of its own and begins with a key picture: whoever comes
    later, or has lost something, sees it; at these sizes that costs a few kilobytes."""
    import av

    context = av.CodecContext.create("libx264", "w")
    context.width, context.height = frames_u8.shape[2], frames_u8.shape[1]
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(30)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20", "profile": "baseline"}
    packets = []
    for number, frame in enumerate(frames_u8):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = number
        packets += context.encode(picture)
    packets += context.encode(None)
    return [bytes(packet) for packet in packets]


def decode_upload(data: bytes, width: int, height: int, max_pixels: int, exact: bool = False) -> np.ndarray:
    """An uploaded picture file as one frame, uint8 [height, width, 3]. Nothing is stored.

    Read as `read_picture` reads files: upright, in sRGB, opaque. Its size is read from its header and judged before it
    is unpacked. exact: it must have the frame's size; else it is scaled and cropped. `UserError` for anything but a
    whole JPEG, PNG or WebP picture of at most `max_pixels`.
    """
    if data.count(b"\xff\xda") > MOST_SCANS:  # each one goes over the whole picture again; ten are usual
        raise UserError(f"the picture is a JPEG of more than {MOST_SCANS} scans; save it again as a plain JPEG")
    shown = decode_picture(data, kinds=UPLOADS, max_pixels=max_pixels, min_side=8, around=(width, height)).frame
    fitted, changed = fit_frame(shown, width, height)
    if exact and changed:
        size = f"{shown.shape[1]}x{shown.shape[0]}"
        raise UserError(f"the edited picture is {size}, the frame {width}x{height}; keep the frame's size")
    return fitted
