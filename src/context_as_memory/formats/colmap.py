"""COLMAP's sparse models, as text and as binary: a small reader and writer of `cameras` and `images`.

Poses are world-to-camera quaternions with the real part first; the centre of the first pixel is (0.5, 0.5), as here.
The scale of a reconstruction is its own.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, read_text, reading, write_text
from context_as_memory.formats.poses import Found, quaternion_poses, quaternions

# Number of the model, number of its parameters, which of them are fx fy cx cy.
_MODELS = {
    "SIMPLE_PINHOLE": (0, 3, (0, 0, 1, 2)),
    "PINHOLE": (1, 4, (0, 1, 2, 3)),
    "SIMPLE_RADIAL": (2, 4, (0, 0, 1, 2)),
    "RADIAL": (3, 5, (0, 0, 1, 2)),
    "OPENCV": (4, 8, (0, 1, 2, 3)),
    "OPENCV_FISHEYE": (5, 8, None),
    "FULL_OPENCV": (6, 12, (0, 1, 2, 3)),
    "FOV": (7, 5, None),
    "SIMPLE_RADIAL_FISHEYE": (8, 4, None),
    "RADIAL_FISHEYE": (9, 5, None),
    "THIN_PRISM_FISHEYE": (10, 12, None),
}
_BY_NUMBER = {number: name for name, (number, _, _) in _MODELS.items()}


@dataclass(frozen=True)
class _Lens:
    model: str
    size: tuple[int, int]
    numbers: tuple[float, ...]


def is_model(folder: Path) -> bool:
    """Whether a folder holds a sparse model."""
    return any(all((folder / f"{part}{end}").is_file() for part in ("cameras", "images")) for end in (".bin", ".txt"))


def read_colmap(folder: Path) -> Found:
    """Cameras of a sparse model, in the order of the pictures' names. Binary files go before texts."""
    binary = all((folder / f"{part}.bin").is_file() for part in ("cameras", "images"))
    end = ".bin" if binary else ".txt"
    lenses = _binary_cameras(folder / "cameras.bin") if binary else _text_cameras(folder / "cameras.txt")
    images = _binary_images(folder / "images.bin") if binary else _text_images(folder / "images.txt")
    if not images:
        raise UserError(f"{folder / ('images' + end)} holds no pictures; was the reconstruction finished?")
    from context_as_memory.formats.documents import natural

    images.sort(key=lambda image: natural(image[2]))
    K: list[list[float]] = []
    notes: list[str] = []
    size = (0, 0)
    for _, camera, name in images:
        if camera not in lenses:
            raise UserError(
                f"{folder}: picture {name} has camera {camera}, which cameras{end} does not hold; export again"
            )
        lens = lenses[camera]
        where = _MODELS[lens.model][2]
        if where is None:
            raise UserError(
                f"{folder}: camera model {lens.model} is no pinhole; run `colmap image_undistorter` and give its output"
            )
        if size not in ((0, 0), lens.size):
            raise UserError(f"{folder}: its pictures are of several sizes; bring them to one with image_undistorter")
        size = lens.size
        K.append([lens.numbers[i] for i in where])
        if any(lens.numbers[max(where) + 1 :]) and not notes:
            notes.append(
                f"the distortion of {lens.model} is not undone; `colmap image_undistorter` makes exact cameras"
            )
    table = np.array([pose for pose, _, _ in images])
    return Found(
        kind="a COLMAP model",
        poses=quaternion_poses(table[:, 4:], table[:, [1, 2, 3, 0]]),
        w2c=True,
        axes="opencv",
        K=np.array(K),
        shares=False,
        size=size,
        names=tuple(name for _, _, name in images),
        scale_known=False,
        lens_file="cameras" + end,
        notes=notes,
    )


def _text_cameras(path: Path) -> dict[int, _Lens]:
    found = {}
    for line in _lines(path):
        words = line.split()
        with reading(path):
            model, size = words[1], (int(words[2]), int(words[3]))
            if model not in _MODELS or len(words) != 4 + _MODELS[model][1]:
                raise UserError(f"camera {words[0]} has an unknown model {model[:30]!r}, or other parameters than it")
            found[int(words[0])] = _Lens(model, size, tuple(float(word) for word in words[4:]))
    return found


def _text_images(path: Path) -> list[tuple[list[float], int, str]]:
    """(qw qx qy qz tx ty tz, camera, name) of every picture; each has two lines, the second may be empty."""
    found = []
    lines = [line for line in read_text(path).splitlines() if not line.startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    for line in lines[::2]:
        words = line.split(maxsplit=9)
        if not words:
            continue
        with reading(path):
            if len(words) != 10:
                raise UserError(
                    f"a picture has {len(words)} entries; each has IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
                )
            found.append(([float(word) for word in words[1:8]], int(words[8]), words[9].strip()))
    return found


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class _Bytes:
    """Numbers of a binary file, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, kind: str) -> tuple[float, ...]:
        values = struct.unpack_from("<" + kind, self.data, self.place)
        self.place += struct.calcsize("<" + kind)
        return values

    def word(self) -> str:
        end = self.data.index(b"\0", self.place)
        text = self.data[self.place : end].decode("utf-8", "replace")
        self.place = end + 1
        return text


def _binary_cameras(path: Path) -> dict[int, _Lens]:
    with reading(path):
        stream = _Bytes(path.read_bytes())
        (count,) = stream.take("Q")
        found = {}
        for _ in range(int(count)):
            number, model, width, height = (int(value) for value in stream.take("iiQQ"))
            if model not in _BY_NUMBER:
                raise UserError(f"camera {number} has model {model}, which is not known here; export it as PINHOLE")
            name = _BY_NUMBER[model]
            found[number] = _Lens(name, (width, height), stream.take(f"{_MODELS[name][1]}d"))
        return found


def _binary_images(path: Path) -> list[tuple[list[float], int, str]]:
    with reading(path):
        stream = _Bytes(path.read_bytes())
        (count,) = stream.take("Q")
        found = []
        for _ in range(int(count)):
            values = stream.take("i7di")
            name = stream.word()
            (points,) = stream.take("Q")
            stream.place += 24 * int(points)
            if stream.place > len(stream.data):
                raise UserError("it ends early; write it again")
            found.append(([float(value) for value in values[1:8]], int(values[8]), name))
        return found


def write_colmap(cameras: Cameras, folder: str | Path, *, binary: bool = False, names: list[str] | None = None) -> None:
    """Write `cameras` and `images` of a sparse model without points, one PINHOLE camera per lens."""
    folder = Path(folder)
    names = names or [f"{i:06d}.png" for i in range(len(cameras))]
    lenses, which = np.unique(cameras.K, axis=0, return_inverse=True)
    w2c = cameras.w2c
    q = quaternions(w2c[:, :3, :3])[:, [3, 0, 1, 2]]
    rows = np.concatenate([q, w2c[:, :3, 3]], axis=1)
    if not binary:
        text = "\n".join(
            f"{i + 1} PINHOLE {cameras.width} {cameras.height} " + " ".join(repr(float(v)) for v in lens)
            for i, lens in enumerate(lenses)
        )
        write_text(folder / "cameras.txt", "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n" + text + "\n")
        text = "\n".join(
            f"{i + 1} " + " ".join(repr(float(v)) for v in row) + f" {int(which.ravel()[i]) + 1} {name}\n"
            for i, (row, name) in enumerate(zip(rows, names, strict=True))
        )
        write_text(folder / "images.txt", "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then points\n" + text + "\n")
        write_text(folder / "points3D.txt", "# no points\n")
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = [struct.pack("<Q", len(lenses))]
    for i, lens in enumerate(lenses):
        data.append(struct.pack("<iiQQ4d", i + 1, _MODELS["PINHOLE"][0], cameras.width, cameras.height, *lens))
    images = [struct.pack("<Q", len(rows))]
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        images.append(struct.pack("<i7di", i + 1, *row, int(which.ravel()[i]) + 1) + name.encode() + b"\0")
        images.append(struct.pack("<Q", 0))
    for file, parts in (("cameras.bin", data), ("images.bin", images), ("points3D.bin", [struct.pack("<Q", 0)])):
        with atomic(folder / file) as partial:
            partial.write_bytes(b"".join(parts))
