"""Pictures in and out. One reader for files, folders and uploads: upright, in sRGB, opaque, 8 bits a channel.

A `frame` is uint8 [H, W, 3], `frames_u8` uint8 [T, H, W, 3], both 0..255 in RGB order.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError, install
from context_as_memory.formats.files import atomic, reason

MAX_IMAGE_PIXELS = 150_000_000  # larger files are refused before they are unpacked; below Pillow's own limit
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".heic", ".heif", ".avif")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# What EXIF's orientation asks for, as methods of Pillow's `transpose`.
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
_TURNS |= {7: "TRANSVERSE", 8: "ROTATE_90"}


@dataclass(frozen=True)
class Picture:
    """A picture as it is shown. frame: uint8 [H, W, 3]; notes: what of the file was not used, one sentence each."""

    frame: np.ndarray
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> np.ndarray:
    """Read one picture file as it is shown: uint8 [H, W, 3]. See `read_picture`."""
    return read_picture(path).frame


def read_picture(path: str | Path) -> Picture:
    """Read one picture file as it is shown.

    Upright (EXIF orientation), converted to sRGB by its colour profile, transparency laid on black.

    Raises:
        UserError: a file that is missing, no picture, cut short, absurdly large or of more than 8 bits a channel.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no image at {path}; give the path of a PNG, JPEG or WebP file")
    try:
        with path.open("rb") as file:
            return _decode(file, f"image {path}")
    except OSError as error:
        raise UserError(f"image {path} cannot be read ({error.strerror or error}); check its rights") from None


def decode_picture(
    data: bytes,
    name: str = "the picture",
    *,
    kinds: Sequence[str] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
    min_side: int = 1,
    around: tuple[int, int] | None = None,
) -> Picture:
    """The same for the bytes of a picture file.

    Args:
        name: what errors call it.
        kinds: Pillow's names of the formats that are allowed; all that can be read if None.
        max_pixels, min_side: larger and smaller pictures are refused before anything is unpacked.
        around: width and height that it will be scaled to cover; a JPEG is unpacked no larger than that needs.
    """
    return _decode(io.BytesIO(data), name, kinds, max_pixels, min_side, around)


def _decode(
    file: Any,
    name: str,
    kinds: Sequence[str] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
    min_side: int = 1,
    around: tuple[int, int] | None = None,
) -> Picture:
    from PIL import Image, UnidentifiedImageError

    head = file.read(16)
    file.seek(0)
    heic = head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS
    if heic and not _can_read_heic():
        raise UserError(f"{name} is HEIC; install pillow-heif ({install('heic')}), or save it as JPEG")
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures before the limit here speaks
            with Image.open(file, formats=None if kinds is None else list(kinds)) as image:
                if image.width * image.height > max_pixels:
                    raise UserError(
                        f"{name} has {image.width}x{image.height} pixels; shrink it below "
                        f"{max_pixels / 1e6:g} megapixels"
                    )
                if min(image.size) < min_side:
                    size = f"{image.width}x{image.height}"
                    raise UserError(f"{name} has {size} pixels; that is too few to see anything, give a larger one")
                if around is not None:
                    image.draft("RGB", around)
                if (number := getattr(image, "n_frames", 1)) > 1:
                    notes.append(f"{name} holds {number} pictures; the first one is used")
                turn = _TURNS.get(_orientation(image))
                if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                    raise UserError(f"{name} has more than 8 bits a channel ({image.mode}); save it as 8-bit RGB")
                image.load()
                shown = _opaque_srgb(image, notes, name)
                if turn is not None:
                    shown = shown.transpose(getattr(Image.Transpose, turn))
                return Picture(np.array(shown, dtype=np.uint8), tuple(notes))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        if kinds:
            raise UserError(f"that is no picture; give a file of {', '.join(kinds)}") from error
        raise UserError(f"{name} is not a picture that can be read; give a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has far too many pixels; shrink it below {max_pixels / 1e6:g} megapixels") from error
    except MemoryError as error:
        raise UserError(f"{name} does not fit in memory; shrink it") from error
    except Exception as error:  # decoders raise what they meet: struct.error, SyntaxError, TypeError, ...
        raise UserError(f"{name} cannot be read ({reason(error)}); it may be damaged, save it again") from error


def _can_read_heic() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _orientation(image: Any) -> int:
    """EXIF's orientation, 1 to 8; 1 where it cannot be read. Only this tag is looked at: others may be damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # any damage of EXIF; the picture itself may be sound
        return 1


def _opaque_srgb(image: Any, notes: list[str], name: str) -> Any:
    """The picture in mode RGB: in sRGB by its own colour profile, transparency laid on black."""
    from PIL import Image

    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA" if image.mode != "LA" else "LA")
        alpha = image.getchannel("A")
    profile = image.info.get("icc_profile")
    if image.mode == "P":
        image = image.convert("RGB")
    colours = image.convert("RGB") if image.mode == "RGBA" else image.convert("L") if image.mode == "LA" else image
    shown = _in_srgb(colours, profile, notes, name).convert("RGB") if profile else colours.convert("RGB")
    if alpha is not None:
        shown = Image.composite(shown, Image.new("RGB", shown.size), alpha)
    return shown


def _in_srgb(image: Any, profile: bytes, notes: list[str], name: str) -> Any:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode not in ("RGB", "L", "CMYK", "LAB"):
            image = image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return image if converted is None else converted
    except Exception:  # littleCMS refuses damaged profiles, and those that are for another kind of picture
        notes.append(f"the colour profile of {name} cannot be used; its colours are taken for sRGB")
        return image


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write uint8 [H, W, 3] to a picture file (kind taken from the suffix), whole or not at all."""
    from PIL import Image

    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise UserError(f"cannot tell the picture format of {path.name}; end the name in .png or .jpg")
    with atomic(path) as partial:
        Image.fromarray(np.ascontiguousarray(frame)).save(partial, format=kind)


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
    # In source pixels; resampling straight from this box is exact.
    crop_width, crop_height = width / scale, height / scale
    left, top = (source_width - crop_width) / 2, (source_height - crop_height) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + crop_width, source_width), min(top + crop_height, source_height))
    resized = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.array(resized, dtype=np.uint8), True


def check_frames(frames_u8: np.ndarray, width: int | None = None, height: int | None = None) -> None:
    """Raise `UserError` unless the array is uint8 [T, H, W, 3] (of the given size)."""
    if frames_u8.dtype != np.uint8 or frames_u8.ndim != 4 or frames_u8.shape[-1] != 3:
        raise UserError(
            f"frames must be uint8 [T, H, W, 3], got {frames_u8.dtype} {list(frames_u8.shape)}; convert them first"
        )
    if width is not None and height is not None and frames_u8.shape[1:3] != (height, width):
        got_height, got_width = frames_u8.shape[1:3]
        raise UserError(f"frames are {got_width}x{got_height}, expected {width}x{height}; use fit_frame first")
