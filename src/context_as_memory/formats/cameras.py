"""The one reader of camera files: for `retrieve`, `generate`, `evaluate` and everything else.

What a file is, is told by its content. What it does not say is measured or said aloud, and options go before both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats import colmap, documents, paths, tables
from context_as_memory.formats.documents import LENS_NAMES, PAPER_SIZE, POSE_NAMES, names_w2c
from context_as_memory.formats.files import is_litter, read_array, read_arrays, read_json, reading
from context_as_memory.formats.lens import Lens, fit_lens, focal_and_centre, lens_of_angle
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.poses import Found, camera_to_world, matrices
from context_as_memory.formats.vertical import doubts, measured_up, quarter_turns, turned
from context_as_memory.formats.video import VIDEOS

SUFFIXES = (".npy", ".npz", ".json", ".jsonl", ".txt", ".csv", ".tsv", ".traj", ".tum", ".bin")
# Where the cameras of a folder stand, most certain first; the others are told to be unused.
_IN_FOLDERS = (
    *("poses.npy", "poses.npz", "cameras.npz", "transforms.json", "metadata", "metadata.json", "unreal.json"),
    *("groundtruth.txt", "pose_left.txt", "poses.txt", "poses.csv", "cameras.csv", "cameras.json", "poses.json"),
    *("lowres_wide.traj", "mav0/state_groundtruth_estimate0/data.csv", "state_groundtruth_estimate0/data.csv"),
)
_MODELS = (".", "sparse/0", "sparse", "colmap/sparse/0", "dense/sparse")
_MATRIX_FOLDERS = (".", "pose", "poses", "seq-01")
_PHONE_FOLDERS = ("keyframes/corrected_cameras", "keyframes/cameras", "corrected_cameras", "cameras", ".")
_LENSES = ("intrinsics.npy", "intrinsics.txt", "intrinsics.csv", "intrinsics.json", "k.txt", "intrinsic_color.txt")
GAP = 5.0  # usual steps of time: a longer one is told
_OTHERS = {
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a pickle",
    b"PK\x03\x04": "an archive",
    b"Kaydara": "an FBX file",
    b"PXR-USDC": "a USD file",
    b"#usda": "a USD file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"RIFF": "a picture or a video",
}


@dataclass(frozen=True, kw_only=True)
class CameraTrack:
    """What a camera file says, in the conventions of this package.

    cameras: of the pictures as they are stored. kind: the format. lens: how the lens was found. up: upwards in their
    world, [3]. turns: quarter turns counter-clockwise that make the pictures upright (phones). numbers, times_s, names:
    of the frames in the file, where it has them. notes: what was not used, assumed, or looks wrong.
    """

    path: Path
    cameras: Cameras
    kind: str
    lens: Lens
    up: np.ndarray
    turns: int = 0
    numbers: tuple[int, ...] | None = None
    times_s: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cameras)

    def upright(self) -> Cameras:
        """The cameras of the pictures after they were made upright."""
        return turned(self.cameras, self.turns)

    def frame(self, number: int) -> int:
        """Which camera a frame number of the file means. `UserError` for one that the file does not have."""
        numbers = self.numbers or tuple(range(len(self)))
        if number not in numbers:
            step = f", every {numbers[1] - numbers[0]}th" if len(numbers) > 1 and numbers[1] - numbers[0] > 1 else ""
            raise UserError(
                f"frame {number} is not in {self.path}: its {len(numbers)} frames are numbered "
                f"{numbers[0]} to {numbers[-1]}{step}"
            )
        return numbers.index(number)

    def report(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "file": self.path.name,
            "kind": self.kind,
            "frames": len(self),
            "lens": self.lens.report() if len(self) else None,
            "up": (np.round(self.up, 6) + 0.0).tolist(),
            "turned_by_deg": 90 * self.turns,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """What a user should know, one line each: the lens first."""
        return [f"lens: {self.lens}", *(f"{self.path.name}: {note}" for note in self.notes)]


def read_cameras(path: str | Path, *, width: int | None = None, height: int | None = None) -> Cameras:
    """Cameras from whatever is there: see `read_track`. width, height: the image size of the intrinsics, or neither."""
    if (width is None) != (height is None):
        raise UserError("only one of width and height is given; give both or neither")
    return read_track(path, PoseOptions(width=width, height=height)).cameras


def read_track(
    path: str | Path,
    options: PoseOptions | None = None,
    *,
    picture: tuple[int, int] | None = None,
    hfov_deg: float | None = None,
    assumed_hfov_deg: float | None = None,
    intrinsics: str | Path | None = None,
) -> CameraTrack:
    """Read a camera file, or a folder with one.

    Formats: pose arrays (.npy, .npz), the paper's Unreal files, RealEstate10K, transforms.json (nerfstudio, Blender,
    DL3DV, NeRFCapture), COLMAP, TUM, KITTI, EuRoC, 7-Scenes, TartanAir, ARKitScenes, Record3D, Polycam, CSV, and the
    paths of HY-WorldPlay, Echo-Memory and WBench.

    Args:
        options: what the file does not say.
        picture: width and height of the pictures that the cameras are wanted for; of the intrinsics if not given.
        hfov_deg: the horizontal field of view, for files without a lens; an error with one that has a lens.
        assumed_hfov_deg: the same, where nothing else says it; the result says so.
        intrinsics: a file with fx fy cx cy, instead of the one beside the poses.

    Raises:
        UserError: naming the file, for anything that cannot be read or understood.
    """
    options = options or PoseOptions()
    path, _ = Path(path), options.size  # says at once if that cannot be
    found, source = _find(path)
    notes = found.notes
    with reading(source):
        found = _with_lens(found, source, None if intrinsics is None else Path(intrinsics))
        c2w, known_up = camera_to_world(found, options)
        if known_up is None:
            up, how = measured_up(c2w)
            if how == "turning":
                notes.append("its pictures lie on their side (a phone held upright); if they do not, say --up")
        else:
            up = known_up
        turns = 0 if found.fixed else quarter_turns(c2w, up)  # what an engine drew on its side is meant to be so
        sideways = bool(turns % 2 and picture and _is_for_stored(found, options, picture))
        lens = _lens(
            found, options, picture[::-1] if sideways and picture else picture, hfov_deg, assumed_hfov_deg, source
        )
        cameras = Cameras(c2w, lens.K, lens.width, lens.height)
        if sideways:
            cameras, turns = turned(cameras, turns), 0
            lens = replace(lens, K=cameras.K, width=cameras.width, height=cameras.height)
            notes.append("its cameras are turned upright, as the picture is")
        upright = turned(cameras, turns)
        notes += lens.notes
        notes += _time_doubts(found.times_s)
        notes += doubts(upright.c2w, up, scale_known=found.scale_known)
        if not found.scale_known:
            notes.append(
                f"{found.kind} has a scale of its own, taken for metres: a return is a pose within 0.2 m of another"
            )
    return CameraTrack(
        path=source,
        cameras=cameras,
        kind=found.kind,
        lens=lens,
        up=up,
        turns=turns,
        numbers=found.numbers,
        times_s=found.times_s,
        names=found.names,
        notes=tuple(dict.fromkeys(notes)),
    )


def _time_doubts(times_s: np.ndarray | None) -> list[str]:
    """What is odd about the times of the rows: each row is taken for one picture, whatever its time."""
    if times_s is None or len(times_s) < 2 or not np.isfinite(times_s).all():
        return []
    steps = np.diff(times_s)
    back, same = int((steps < 0).sum()), int((steps == 0).sum())
    if steps.any() and (back or same):
        at = int(np.argmax(steps <= 0)) + 1
        return [f"its times do not grow from row to row ({back} go back, {same} stay; first at row {at}, from 0)"]
    usual = float(np.median(steps))
    if usual > 0 and steps.max() > GAP * usual:
        at = int(np.argmax(steps)) + 1
        return [
            f"its times leap {steps.max() / usual:.3g} usual steps at row {at}, from 0: pictures may be missing there"
        ]
    return []


def _is_for_stored(found: Found, options: PoseOptions, picture: tuple[int, int]) -> bool:
    """Whether the intrinsics are for pictures on their side, and the picture at hand was made upright."""
    size = options.size or found.size
    if size is None and found.K is not None and len(found.K):
        K = found.K.reshape(-1, found.K.shape[-1])[0]
        size = (int(2 * K[2]), int(2 * K[3])) if len(K) == 4 and K[2] > 2 else None
    return size is not None and (size[0] - size[1]) * (picture[0] - picture[1]) < 0


# -- the file ----------------------------------------------------------------------------------------------------------


def _find(path: Path) -> tuple[Found, Path]:
    """What stands at a path, and the file that it was read from."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: there is no such file; check the path")
        with reading(path):
            return _read_file(path), path
    present = [place for name in _IN_FOLDERS if (place := _any_case(path / name)) is not None]
    models = [path / name for name in _MODELS if colmap.is_model(path / name)]
    if not present and models:
        return colmap.read_colmap(models[0]), models[0]
    if present:
        with reading(present[0]):
            found = _read_file(present[0])
        others = [*(place.name for place in present[1:]), *(f"{place.name}/ (COLMAP)" for place in models)]
        if others:
            found.notes.append(f"beside it {', '.join(others)} {'are' if len(others) > 1 else 'is'} not used")
        return found, present[0]
    for name in _MATRIX_FOLDERS:
        files = [*(path / name).glob("*.pose.txt")] or ([*(path / name).glob("*.txt")] if name != "." else [])
        files = sorted((f for f in files if not is_litter(f)), key=lambda file: documents.natural(file.name))
        if files:
            return tables.read_matrix_files(files), files[0].parent
    for name in _PHONE_FOLDERS:
        files = [f for f in (path / name).glob("*.json") if not is_litter(f)]
        files = sorted(files, key=lambda file: documents.natural(file.name))
        if len(files) > 1 and (phone := _phone(files)) is not None:
            return phone, files[0].parent
    if chunks := sorted(path.glob("chunk*.json"), key=lambda file: documents.natural(file.name)):
        return paths.read_echo_chunks(chunks), chunks[0].parent
    single = [f for f in sorted(path.iterdir()) if f.suffix.lower() in SUFFIXES and not is_litter(f)]
    single = [f for f in single if f.name.lower() not in (*_LENSES, "episode.json", "calib.txt")]
    if len(single) == 1:
        with reading(single[0]):
            return _read_file(single[0]), single[0]
    contents = f"several camera files ({', '.join(f.name for f in single[:4])})" if single else "no poses.npy"
    raise UserError(f"{path}: this folder holds {contents}; name a folder that does, or a camera file")


def _any_case(path: Path) -> Path | None:
    """The file at a path, its name in any case (POSES.NPY)."""
    if path.is_file():
        return path
    if not path.parent.is_dir():
        return None
    return next((f for f in path.parent.iterdir() if f.name.lower() == path.name.lower() and f.is_file()), None)


def _phone(files: Sequence[Path]) -> Found | None:
    first = read_json(files[0])
    if not isinstance(first, dict) or not ({"t_00", "t_23"} <= first.keys() or "cameraPoseARFrame" in first):
        return None
    frames = [(file.name, read_json(file)) for file in files]
    return documents.phone_frames([(name, data) for name, data in frames if isinstance(data, dict)])


def _read_file(path: Path) -> Found:
    with path.open("rb") as file:
        head = file.read(4096)
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_array = head.startswith((b"\x93NUMPY", b"PK\x03\x04"))
    if path.suffix.lower() in (".npy", ".npz") and not is_array:
        raise UserError(f"{path}: damaged or no array, whatever its name says; save it again with numpy.save")
    if not bare:
        raise UserError(f"{path}: the file is empty; write it again")
    if head.startswith(b"\x93NUMPY"):
        poses = read_array(path)
        return Found(kind="a pose array", poses=matrices(poses))
    if head.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npz":
        return _archive(path)
    if path.name in ("cameras.bin", "images.bin", "cameras.txt", "images.txt") and colmap.is_model(path.parent):
        return colmap.read_colmap(path.parent)
    if path.suffix.lower() in VIDEOS:
        raise UserError(f"{path} is a video and holds no cameras; name its poses.npy or the folder with it")
    if head.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npy":
        raise UserError(f"{path} is an archive of arrays; name it .npz, or give a single array saved with numpy.save")
    for mark, what in _OTHERS.items():
        if head.startswith(mark):
            raise UserError(f"{path} is {what}; name a camera file, such as poses [N,4,4] saved with numpy.save")
    if bare.startswith((b"{", b"[")) or head.startswith((b"\xff\xfe{", b"\xff\xfe[")):
        return documents.read_document(path)
    return tables.read_table(path)


def _archive(path: Path) -> Found:
    """An .npz with poses and, under one of the usual names, intrinsics, width and height."""
    arrays = read_arrays(path)
    name = next((name for name in POSE_NAMES if name in arrays), None)
    if name is None:
        raise UserError(
            f"{path} has no array 'c2w' or 'poses', only {', '.join(arrays) or 'none'}; save the poses under that "
            "name, or as 'w2c' if they are world-to-camera"
        )
    lens = next((arrays[key] for key in LENS_NAMES if key in arrays), None)
    size = None
    if {"width", "height"} & arrays.keys():
        for side in ("width", "height"):
            if side not in arrays:
                raise UserError(f"{path} has no array {side!r}, only {', '.join(arrays)}; add it")
        sides = [arrays[side] for side in ("width", "height")]
        if any(side.size != 1 or side.dtype.kind not in "iuf" or not 1 <= side.item() < 1e6 for side in sides):
            raise UserError(f"{path}: width and height are not positive whole numbers; give the image size in pixels")
        size = (int(sides[0].item()), int(sides[1].item()))
    known = {name, "width", "height", *LENS_NAMES}
    left = sorted(set(arrays) - known)
    notes = [f"its arrays {', '.join(left)} are not used"] if left else []
    w2c = True if names_w2c(name) else None
    return Found(kind="an .npz archive", poses=matrices(arrays[name]), w2c=w2c, K=lens, size=size, notes=notes)


# -- the lens ----------------------------------------------------------------------------------------------------------


def _with_lens(found: Found, source: Path, intrinsics: Path | None) -> Found:
    """The same with the lens from a file beside it, or from the one that was named."""
    folder = source if source.is_dir() else source.parent
    beside = [place for name in _LENSES if (place := _any_case(folder / name)) and place != source]
    own = _any_case(folder / f"{source.stem}_intrinsics.npy")
    beside = [own, *beside] if own is not None else beside
    if found.kind == "a KITTI file" and (calibration := _any_case(folder / "calib.txt")) is not None:
        beside.append(calibration)
    if intrinsics is not None:
        if found.K is not None and not found.notes:
            found.notes.append(f"its own lens is not used, but that of {intrinsics.name}")
        return _stated(replace(found, K=_read_lens(intrinsics, len(found.poses)), lens_file=intrinsics.name), folder)
    if found.K is not None:
        if beside and not found.fixed:
            found.notes.append(f"{beside[0].name} beside it is not used: it names its own lens")
        count = len(found.poses)
        return replace(found, K=focal_and_centre(found.K, count), lens_file=found.lens_file or source.name)
    if not beside or found.hfov_deg is not None:
        return found
    found = replace(found, K=_read_lens(beside[0], len(found.poses)), lens_file=beside[0].name)
    return _stated(found, folder)


def _stated(found: Found, folder: Path) -> Found:
    """The same with the image size that an episode's note beside it states."""
    note = folder / "episode.json"
    if found.size is not None or not note.exists():
        return found
    meta = read_json(note)
    with reading(note):
        if not isinstance(meta, dict) or not {"width", "height"} <= set(meta):
            raise UserError("width and height are missing; write them in, or give them")
        size = (meta["width"], meta["height"])
        if any(type(side) is not int or side < 1 for side in size):
            raise UserError(f"an image of {size[0]}x{size[1]} pixels is impossible; give positive whole numbers")
        return replace(found, size=size)


def _read_lens(path: Path, count: int) -> np.ndarray:
    """fx fy cx cy [count,4] from a file of intrinsics: an array, numbers as text, JSON, or KITTI's calibration."""
    with reading(path):
        if path.name == "calib.txt":
            values = tables.read_kitti_calibration(path)
        elif path.suffix.lower() == ".npy":
            values = read_array(path)
        elif path.suffix.lower() == ".json":
            data = read_json(path)
            if isinstance(data, dict):
                data = [data.get(key, data.get(f"fl_{key[1]}")) for key in ("fx", "fy", "cx", "cy")]
            values = np.array(data, np.float64)
        else:
            values = tables.split_rows(path.read_text(encoding="utf-8-sig")).numbers()
        return focal_and_centre(values, count)


def _lens(
    found: Found,
    options: PoseOptions,
    picture: tuple[int, int] | None,
    hfov_deg: float | None,
    assumed_hfov_deg: float | None,
    source: Path,
) -> Lens:
    count, said = len(found.poses), options.size
    if found.K is not None:
        if hfov_deg is not None:
            raise UserError(
                f"--hfov-deg and the lens in {found.lens_file} are given together; leave --hfov-deg away, or remove "
                "the lens"
            )
        return fit_lens(
            found.K, shares=found.shares, stated=found.size, said=said, picture=picture, where=found.lens_file
        )
    if hfov_deg is not None:
        return lens_of_angle(hfov_deg, picture or said or PAPER_SIZE, count, "from --hfov-deg")
    if found.hfov_deg is not None:
        from_file = found.kind == "a transforms.json"
        how = "from camera_angle_x" if from_file else f"as {found.kind} is usually made (--hfov-deg says another)"
        data_set = PAPER_SIZE if found.kind == "an Unreal file" else None
        size = found.size or said or data_set or picture or PAPER_SIZE
        lens = lens_of_angle(found.hfov_deg, size, count, how)
        if picture is None or picture == size:
            return lens
        resized = Cameras(np.tile(np.eye(4), (count, 1, 1)), lens.K, *size).resized(*picture)
        return replace(
            lens, K=resized.K, width=picture[0], height=picture[1], how=f"{how}, cut from {size[0]}x{size[1]}"
        )
    if assumed_hfov_deg is not None:
        how = "assumed, as nothing says it (--hfov-deg does)"
        return lens_of_angle(assumed_hfov_deg, picture or said or PAPER_SIZE, count, how)
    folder = source if source.is_dir() else source.parent
    raise UserError(
        f"{folder / 'intrinsics.npy'}: the intrinsics of {source.name} are missing; write fx fy cx cy [4] there, or as "
        "text into intrinsics.txt"
    )


# -- the old names -----------------------------------------------------------------------------------------------------


def read_poses(poses_npy: str | Path, intrinsics_npy: str | Path | None = None, *, width: int, height: int) -> Cameras:
    """Read `poses.npy` [N,4,4] (c2w, OpenCV axes) and `intrinsics.npy` [N,4] or [4] (fx fy cx cy in pixels).

    Args:
        intrinsics_npy: by default the file `intrinsics.npy` beside the poses.
        width, height: the image size that the intrinsics are for; the arrays do not say.
    """
    return read_track(poses_npy, PoseOptions(width=width, height=height), intrinsics=intrinsics_npy).cameras


def read_unreal_json(path: str | Path, *, width: int = 640, height: int = 360, hfov_deg: float = 52.67) -> Cameras:
    """Read the camera file of the paper's data set (arXiv 2506.03141), see `documents.unreal_poses` for its axes.

    Args:
        width, height, hfov_deg: the camera of the data set, which the file does not name.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: cannot be read (it is a folder); name the file in it")
    return read_track(path, PoseOptions(width=width, height=height), picture=(width, height), hfov_deg=hfov_deg).cameras


def read_realestate10k(path: str | Path, *, width: int, height: int) -> Cameras:
    """Read a RealEstate10K camera file, also used by CameraCtrl and others, for images of `width` x `height` pixels.

    The first line is an address; every other row is `timestamp fx fy cx cy 0 0` and a 3x4 world-to-camera matrix by
    rows. Intrinsics are shares of the image size.
    """
    return read_track(path, PoseOptions(width=width, height=height)).cameras


def describe(track: CameraTrack) -> str:
    """A track as JSON, for programs."""
    return json.dumps(track.report(), allow_nan=False)
