"""The one place that decides which lens fits a picture.

Four numbers fx fy cx cy mean nothing without the size of the image that they are for. In this order it is: what the
user says, what the file says, what the numbers themselves tell. A lens that then looks impossible is refused, one that
looks odd is said aloud.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from context_as_memory.camera import pinhole
from context_as_memory.errors import UserError

LINGBOT_SIZE = (832, 480)  # the image that LingBot-World's intrinsics are for, whatever size it generates
OFF_CENTRE = 0.05  # a principal point this near to the centre, as a share of the size, fits an image of that size
FAR_OFF_CENTRE = 0.2  # one farther away is said aloud
SHARES = 4.0  # focal lengths below are shares of the image size: no camera has one of four pixels
WIDEST_DEG, NARROWEST_DEG = 130.0, 3.2
STRETCH = (0.02, 0.5)  # how far fx / fy may be from 1 in silence, and at all
STAND_IN = 640  # width of the image where only proportions are known
# Width to height of the images that cameras and models make; a size that was guessed must be one of these.
_USUAL = [(1, 1), (5, 4), (4, 3), (3, 2), (16, 10), (5, 3), (16, 9), (2, 1), (21, 9), (26, 15), (7, 4)]
Size = tuple[int, int] | tuple[float, float]
SAY_SIZE = "say the size of the image that they are for with --width and --height"


@dataclass(frozen=True)
class Lens:
    """fx fy cx cy in pixels of `width` x `height`, float64 [N,4]; how that was found; what is odd about it."""

    K: np.ndarray
    width: int
    height: int
    how: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        fx, fy, cx, cy = self.K[0]
        across, down = (np.degrees(2 * np.arctan(s / (2 * f))) for s, f in ((self.width, fx), (self.height, fy)))
        more = " (of the first frame)" if np.ptp(self.K, axis=0).max() > 0 else ""
        return (
            f"{across:.1f} x {down:.1f} degrees, fx fy cx cy = {fx:.6g} {fy:.6g} {cx:.6g} {cy:.6g} of "
            f"{self.width}x{self.height}{more}, {self.how}"
        )

    def report(self) -> dict[str, Any]:
        """For report.json."""
        fx, fy, cx, cy = self.K[0].tolist()
        across = float(np.degrees(2 * np.arctan(self.width / (2 * fx))))
        sizes = {"width": self.width, "height": self.height, "hfov_deg": round(across, 4)}
        return {"fx": fx, "fy": fy, "cx": cx, "cy": cy, **sizes, "how": self.how}


def lens_of_angle(hfov_deg: float, size: tuple[int, int], count: int, how: str) -> Lens:
    """A centred lens of square pixels from a field of view."""
    K = pinhole(hfov_deg, *size)
    narrow = hfov_deg < NARROWEST_DEG
    notes = (
        (f"a field of view of {hfov_deg:.3g} degrees is that of a telescope; were radians meant?",) if narrow else ()
    )
    return Lens(np.tile(K, (count, 1)), *size, how, notes)


def focal_and_centre(lens: np.ndarray, count: int) -> np.ndarray:
    """fx fy cx cy for every pose, float64 [N,4], from [4], [1,4], [N,4], [3,3], [N,3,3] or [4,4] (by rows)."""
    lens = np.asarray(lens)
    if lens.dtype.kind not in "fiu":
        raise UserError(f"intrinsics are {lens.dtype}; give numbers fx fy cx cy in pixels")
    shape = lens.shape
    rows = shape in ((4,), (1, 4), (count, 4)) and not (shape == (4, 4) and np.array_equal(lens[3], [0, 0, 0, 1]))
    if not rows and lens.ndim >= 2 and lens.shape[-2:] in ((3, 3), (4, 4), (3, 4)):
        skew = np.abs(lens[..., 0, 1])
        if (skew > 1e-3 * np.abs(lens[..., 0, 0])).any():
            raise UserError("the matrix of the intrinsics has a skew; give fx 0 cx, 0 fy cy, 0 0 1 by rows")
        if (lens[..., 2, :2] != 0).any() or (lens[..., 1, 0] != 0).any():
            raise UserError("the matrix of the intrinsics is turned over; give fx 0 cx, 0 fy cy, 0 0 1 by rows")
        lens = lens[..., [0, 1, 0, 1], [0, 1, 2, 2]]
    if lens.shape not in ((4,), (1, 4), (count, 4)):
        raise UserError(
            f"intrinsics have shape {list(shape)} for {count} poses; give fx fy cx cy as [4] or [{count},4]"
        )
    if not np.isfinite(lens).all():
        raise UserError("intrinsics are not finite; give numbers for fx fy cx cy")
    if (lens[..., :2] <= 0).any():
        raise UserError("intrinsics have a focal length that is not positive; give fx and fy in pixels")
    return np.array(np.broadcast_to(lens.astype(np.float64), (count, 4)))


def fit_lens(
    K: np.ndarray,
    *,
    shares: bool | None = None,
    stated: tuple[int, int] | None = None,
    said: tuple[int, int] | None = None,
    picture: tuple[int, int] | None = None,
    where: str = "the file",
) -> Lens:
    """The lens for the image that `K` [N,4] is for, or for `picture` where that is a part or a scaling of it.

    Args:
        shares: whether K is in shares of the image size; None: if its focal lengths are below 4.
        stated: the size that stands beside the poses. said: the size that the user gives. They must agree.
        picture: width and height of the pictures at hand, if there are any.
        where: where K was read, for messages.

    Raises:
        UserError: a size that nothing tells, or a lens that fits no picture.
    """
    if said and stated and said != stated:
        raise UserError(
            f"{where} is for images of {stated[0]}x{stated[1]}, but --width --height say {said[0]}x{said[1]}; "
            "leave them away"
        )
    if not len(K):
        return Lens(K, *(said or stated or picture or (STAND_IN, 360)), f"from {where}")
    size: Size | None = said or stated
    how = f"from {where}"
    if shares is None:
        shares = bool((K[:, :2] < SHARES).all())
    notes: list[str] = []
    if shares:
        if ((K[:, 2:] < 0) | (K[:, 2:] > 1)).any():
            bad = int(np.argmax(((K[:, 2:] < 0) | (K[:, 2:] > 1)).any(1)))
            image = "image" if size is None else f"{size[0]:.0f}x{size[1]:.0f} image"
            raise UserError(
                f"camera {bad} has its centre outside the {image}: cx cy = {K[bad, 2]:.6g} {K[bad, 3]:.6g} are no "
                "shares of its size; give the image size that the intrinsics are for, and pixels"
            )
        size = size or _size_of_shares(K, picture)
        K = K * np.tile(size, 2)
        how += ", in shares of the size"
    elif size is None:
        size, remark = _size_of_pixels(K, picture, where)
        how += remark
    K, size, remark = _lingbot(K, size, picture)
    how += remark
    explicit = said is not None or (stated is not None and picture is None)
    notes += _oddities(K, size, explicit, where)
    if picture is not None and picture != size:
        scale = max(picture[0] / size[0], picture[1] / size[1])
        crop = np.array([0, 0, (scale * size[0] - picture[0]) / 2, (scale * size[1] - picture[1]) / 2])
        if crop.max() > 0.02 * min(picture):
            side = "left and right" if crop[2] > crop[3] else "top and bottom"
            notes.append(
                f"the lens is for {size[0]:.0f}x{size[1]:.0f}, the picture is {picture[0]}x{picture[1]}: it is "
                f"taken for the middle of that image, cut at the {side}"
            )
        how += f", scaled from {size[0]:.0f}x{size[1]:.0f}"
        K, size = scale * K - crop, picture
    return Lens(K, int(size[0]), int(size[1]), how, tuple(notes))


def _size_of_shares(K: np.ndarray, picture: tuple[int, int] | None) -> Size:
    """The image that shares are of, by its square pixels: as large as the picture where their proportions agree, else
    the smallest one that covers it, not rounded to whole pixels."""
    aspect = float(np.median(K[:, 1] / K[:, 0]))  # width to height of an image with fx = fy
    if not 0.3 < aspect < 3.5:
        raise UserError(
            f"fx fy = {K[0, 0]:.4g} {K[0, 1]:.4g} in shares of the size fit no image with square pixels; {SAY_SIZE}"
        )
    if picture is not None:
        if abs(aspect * picture[1] / picture[0] - 1) <= 0.02:
            return picture
        tall = max(picture[1], picture[0] / aspect)
        return tall * aspect, tall
    return STAND_IN, max(round(STAND_IN / aspect), 1)


def _size_of_pixels(K: np.ndarray, picture: tuple[int, int] | None, where: str) -> tuple[tuple[int, int], str]:
    """The image that pixels are of, by their centre and the picture."""
    twice = 2 * K[:, 2:]
    exact = bool((twice == twice[0]).all() and (twice[0] >= 2).all() and (twice[0] == np.round(twice[0])).all())
    guess = (int(twice[0, 0]), int(twice[0, 1])) if exact else None
    if picture is not None:
        if (np.abs(K[:, 2:] / picture - 0.5) <= OFF_CENTRE).all():
            return picture, ""
        if guess and abs(guess[0] * picture[1] / (guess[1] * picture[0]) - 1) <= 0.02:
            return guess, ", for an image twice as large as its centre"
        if (np.abs(K[:, 2:] / LINGBOT_SIZE - 0.5) <= OFF_CENTRE).all():
            return LINGBOT_SIZE, ""
        if guess and _is_usual(guess):
            return guess, ", for an image twice as large as its centre"
        raise UserError(
            f"{where}: cx cy = {K[0, 2]:.6g} {K[0, 3]:.6g} is not the centre of the {picture[0]}x{picture[1]} "
            f"pictures, nor of 832x480; write the intrinsics for the size of the pictures, or {SAY_SIZE}"
        )
    if guess and _is_usual(guess):
        return guess, ", for an image twice as large as its centre"
    raise UserError(f"{where}: nothing here says the image size of the intrinsics; {SAY_SIZE}")


def _is_usual(size: tuple[int, int]) -> bool:
    aspect = max(size) / min(size)
    return any(abs(aspect * high / wide - 1) < 0.012 for wide, high in _USUAL)


def _lingbot(K: np.ndarray, size: Size, picture: tuple[int, int] | None) -> tuple[np.ndarray, Size, str]:
    """LingBot-World stretches its 832x480 images to the size that it generates, so their lens is stretched too."""
    if picture is None or size != LINGBOT_SIZE or picture == size:
        return K, size, ""
    if abs(size[0] * picture[1] / (size[1] * picture[0]) - 1) > 0.1:
        return K, size, ""
    stretch = np.tile(np.array(picture) / size, 2)
    return K * stretch, picture, ", stretched from 832x480 as LingBot-World does"


def _oddities(K: np.ndarray, size: Size, explicit: bool, where: str) -> list[str]:
    """What is odd about a lens; `UserError` for what cannot be, or can hardly be and was not said explicitly."""
    outside = ((K[:, 2:] < 0) | (K[:, 2:] > size)).any(1)
    if outside.any():
        raise UserError(
            f"camera {int(np.argmax(outside))} has its centre outside the {size[0]:.0f}x{size[1]:.0f} image; "
            "give the image size that the intrinsics are for (--width, --height)"
        )
    wide = np.degrees(2 * np.arctan(size[0] / (2 * K[:, 0])))
    stretch = np.maximum(K[:, 0] / K[:, 1], K[:, 1] / K[:, 0]) - 1
    off = np.abs(K[:, 2:] / size - 0.5).max(1)
    doubts = []
    if wide.max() > WIDEST_DEG:
        doubts.append(f"sees {wide.max():.0f} degrees wide in {size[0]:.0f}x{size[1]:.0f}")
    if stretch.max() > STRETCH[1]:
        doubts.append(f"has fx / fy = {float((K[:, 0] / K[:, 1])[np.argmax(stretch)]):.3g}")
    if doubts and not explicit:
        raise UserError(f"the lens of {where} {' and '.join(doubts)}, as if it were for another image; {SAY_SIZE}")
    if STRETCH[0] < stretch.max() <= STRETCH[1]:
        doubts.append(
            f"has fx / fy = {float((K[:, 0] / K[:, 1])[np.argmax(stretch)]):.3g}, so its pixels are not square"
        )
    if off.max() > FAR_OFF_CENTRE:
        i = int(np.argmax(off))
        doubts.append(
            f"has its centre at {K[i, 2]:.5g} {K[i, 3]:.5g} of {size[0]:.0f}x{size[1]:.0f}, far from the middle"
        )
    return [f"the lens of {where} {doubt}" for doubt in doubts]
