"""What a chunk is made of, as bytes and back: pictures, latents, cameras, its note; and their checksums."""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from context_as_memory.camera import Cameras, checked_profiles
from context_as_memory.errors import UserError

LARGE = 6_000_000  # bytes of the pictures of a chunk: about five of 832x480
MOST_DEFLATE = 1040  # times smaller: the most that a PNG can pack its pixels
SHORTEST_PX, LONGEST_PX = 1e-2, 1e9  # of lenses that are believed


def encode_frames(frames_u8: np.ndarray) -> bytes:
    """Pictures uint8 [t, H, W, 3] as one lossless PNG, one below the other."""
    from PIL import Image

    buffer = io.BytesIO()
    strip = np.ascontiguousarray(frames_u8).reshape(-1, *frames_u8.shape[2:])
    # Large chunks must not hold up the next one: this takes 0.4 of the time, for files 1.2 times as large.
    level = 4 if strip.size < LARGE else 1
    Image.fromarray(strip).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def decode_frames(data: bytes, frames: int, width: int, height: int, what: str) -> np.ndarray:
    """The inverse of `encode_frames`, uint8 [frames, height, width, 3]. `what` names the pictures in errors.

    Nothing is decoded that is not of exactly the expected size. Hence no further limit: Pillow's own, which guards
    those who do not know what to expect, would refuse large chunks.
    """
    from PIL.PngImagePlugin import PngImageFile

    if width * height * frames * 3 > MOST_DEFLATE * len(data):  # a damaged or hostile number of frames or pixels
        raise UserError(f"{what} cannot be {frames} of {width}x{height} in {len(data)} bytes")
    try:
        with PngImageFile(io.BytesIO(data)) as image:  # reads the header only; `Image.open` has the limit
            if image.size != (width, frames * height) or image.mode != "RGB":
                raise UserError(f"{what} are {image.size} {image.mode}, expected {(width, frames * height)} RGB")
            return np.array(image, dtype=np.uint8).reshape(frames, height, width, 3)
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise UserError(f"{what} cannot be read ({error})") from error


def are_cameras(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether numbers from a database are finite rigid poses [n, 4, 4] and lenses [n, 4], none of them so extreme that
    a product of them overflows."""
    try:
        for c2w, K in [[np.concatenate(arrays) for arrays in zip(*parts, strict=True)]] if parts else []:
            Cameras(c2w, K, 1, 1)
            if np.abs(K).max(initial=0) > LONGEST_PX or K[:, :2].min(initial=np.inf) < SHORTEST_PX:
                return False
    except UserError:
        return False
    return True


def decode_latents(data: bytes, frames: int, what: str) -> Tensor:
    """Latents [C, frames, h, w] from a safetensors file. `UserError` for anything else, and for values that are not
    finite: they would become black pictures, and these memory."""
    try:
        latents = load(data)["latents"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{what} cannot be read ({error})") from error
    if latents.ndim != 4 or latents.shape[1] != frames or not latents.is_floating_point() or latents.numel() == 0:
        kind = str(latents.dtype).removeprefix("torch.")
        raise UserError(f"{what} are {kind} {list(latents.shape)}, expected [C, {frames}, h, w] of floats")
    if not bool(latents.isfinite().all()):
        raise UserError(f"{what} are not finite")
    return latents


def is_note(note: Any, first: int, frames: int) -> bool:
    """Whether a value is what the note of a chunk of frames `first` to `first + frames - 1` can be; what is read of it
    has its type."""
    if not isinstance(note, dict) or not isinstance(note.get("made_with", {}), dict):
        return False
    if type(note.get("step", 0)) is not int:
        return False
    context, scores = note.get("context", []), note.get("scores", [])
    if not isinstance(context, list) or not all(type(frame) is int and frame >= 0 for frame in context):
        return False
    if not isinstance(scores, list) or not all(isinstance(score, (int, float)) for score in scores):
        return False
    withdrawn = note.get("withdrawn", [])
    if not isinstance(withdrawn, list) or not all(
        type(frame) is int and 0 <= frame < first + frames for frame in withdrawn
    ):
        return False
    try:
        if note.get("profiles_m") is not None:
            checked_profiles(np.array(note["profiles_m"], np.float32), frames)
    except (UserError, ValueError, TypeError, OverflowError):
        return False
    return True


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def row_sha256(
    parent: int | None,
    first: int,
    frames: int,
    steps: int,
    token: str,
    frames_sha256: str,
    latents_sha256: str,
    note: str,
) -> str:
    """Checksum of what the row of a chunk says: its values as text, one a line, the note last."""
    head = "" if parent is None else parent
    return sha256(f"{head}\n{first}\n{frames}\n{steps}\n{token}\n{frames_sha256}\n{latents_sha256}\n{note}".encode())


def cameras_sha256(poses: Sequence[tuple[bytes, bytes]]) -> str:
    """Checksum of the cameras of a chunk: c2w and K of its first frame, of its second, ..."""
    return sha256(b"".join(c2w + K for c2w, K in poses))
