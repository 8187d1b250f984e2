"""Camera files: pose arrays, the JSON of the paper's data set, RealEstate10K."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import numpy as np

from context_as_memory.camera.core import Cameras, check_size, floats, pinhole, refuse
from context_as_memory.errors import UserError


def read_poses(poses_npy: str | Path, intrinsics_npy: str | Path | None = None, *, width: int, height: int) -> Cameras:
    """Read `poses.npy` [N,4,4] (c2w, OpenCV axes) and `intrinsics.npy` [N,4] or [4] (fx fy cx cy in pixels).

    Args:
        intrinsics_npy: by default the file `intrinsics.npy` beside the poses.
        width, height: the image size that the intrinsics are for; the arrays do not say.
    """
    poses = _load_array(Path(poses_npy))
    beside = Path(poses_npy).parent / "intrinsics.npy" if intrinsics_npy is None else Path(intrinsics_npy)
    if not beside.exists():
        raise UserError(f"{beside}: the intrinsics of {Path(poses_npy).name} are missing; write fx fy cx cy [4] there")
    K = _load_array(beside)
    with _reading(poses_npy):
        return _centred(Cameras(poses, K, width, height))


def write_poses(cameras: Cameras, folder: str | Path) -> None:
    """Write `poses.npy` float64 [N,4,4] and `intrinsics.npy` float64 [N,4] into a folder, made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "poses.npy", cameras.c2w)
    np.save(folder / "intrinsics.npy", cameras.K)


def read_unreal_json(path: str | Path, *, width: int = 640, height: int = 360, hfov_deg: float = 52.67) -> Cameras:
    """Read the camera file of the paper's data set (arXiv 2506.03141).

    The file holds {"CineCameraActor": {"0": {"position": [x, y, z], "rotation": [roll, pitch, yaw], ...}, ...}} in
    centimetres and degrees, in Unreal's left-handed world: X forward, Y right, Z up, yaw from X towards Y. Flipping
    the sign of Y makes the world right-handed with z up and turns yaw counter-clockwise, the convention of `look`:
    position (x, -y, z) / 100, heading -yaw. The published file is level; roll and pitch follow Unreal's rotator.

    Args:
        width, height, hfov_deg: the camera of the data set, which the file does not name.
    """
    with _reading(path):
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        frames = data.get("CineCameraActor") if isinstance(data, dict) else None
        if not isinstance(frames, dict) or not frames:
            raise UserError('no frames under "CineCameraActor"; give a camera file of the paper\'s data set')
        if bad := [key for key in frames if not re.fullmatch("[0-9]{1,12}", key)]:
            raise UserError(f"frame name {bad[0]!r} is not a number; name the frames 0, 1, 2, ...")
        order = sorted(frames, key=int)
        first = int(order[0])
        for i, key in enumerate(order):
            if int(key) != first + i:
                raise UserError(f"frame {first + i} is missing or doubled; number the frames without gaps")
        place = np.array([_three(frames[key], "position", key) for key in order])
        angles = np.array([_three(frames[key], "rotation", key) for key in order])
        return unreal_cameras(place, angles, width=width, height=height, hfov_deg=hfov_deg)


def unreal_cameras(
    place_cm: np.ndarray, angles_deg: np.ndarray, *, width: int, height: int, hfov_deg: float
) -> Cameras:
    """Cameras from Unreal's numbers: positions [N,3] in centimetres and rotations [N,3] (roll, pitch, yaw) in degrees,
    in the left-handed world that `read_unreal_json` describes."""
    place, angles = place_cm / 100, np.radians(angles_deg)
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles).T, np.cos(angles).T
    forward = np.stack([cp * cy, cp * sy, sp], axis=1)
    right = np.stack([sr * sp * cy - cr * sy, sr * sp * sy + cr * cy, -sr * cp], axis=1)
    up = np.stack([-cr * sp * cy - sr * sy, cy * sr - cr * sp * sy, cr * cp], axis=1)
    c2w = np.tile(np.eye(4), (len(place), 1, 1))
    c2w[:, :3] = np.stack([right, -up, forward, place], axis=2)
    c2w[:, 1] *= -1
    return Cameras(c2w, pinhole(hfov_deg, width, height), width, height)


def write_unreal_json(cameras: Cameras, path: str | Path) -> None:
    """Write the poses as the paper's camera file (see `read_unreal_json`). It has no place for intrinsics."""
    axes = cameras.c2w[:, :3] * np.array([1.0, -1.0, 1.0])[:, None]
    right, up, forward, place = axes[..., 0], -axes[..., 1], axes[..., 2], axes[..., 3] * 100
    # Straight up or down, yaw and roll turn alike: call it all yaw.
    upright = np.hypot(forward[:, 0], forward[:, 1]) < 1e-9
    yaw = np.where(upright, np.arctan2(-right[:, 0], right[:, 1]), np.arctan2(forward[:, 1], forward[:, 0]))
    roll = np.where(upright, 0.0, np.arctan2(-right[:, 2], up[:, 2]))
    pitch = np.arctan2(forward[:, 2], np.hypot(forward[:, 0], forward[:, 1]))
    angles = np.degrees(np.stack([roll, pitch, np.unwrap(yaw)], axis=1)) + 0.0  # no minus zeros in the file
    frames = {
        str(i): {"position": p.tolist(), "rotation": a.tolist(), "scale": [1.0, 1.0, 1.0]}
        for i, (p, a) in enumerate(zip(place, angles, strict=True))
    }
    _write_text(path, json.dumps({"CineCameraActor": frames}, indent=1) + "\n")


def read_realestate10k(path: str | Path, *, width: int, height: int) -> Cameras:
    """Read a RealEstate10K camera file, also used by CameraCtrl and others.

    The first line is an address; every other row is `timestamp fx fy cx cy 0 0` and a 3x4 world-to-camera matrix by
    rows. Intrinsics are shares of the image size, which the file does not say: give `width` and `height` in pixels.
    """
    check_size(width, height)
    with _reading(path):
        rows = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
            words = line.split()
            if not words or (number == 1 and (len(words) == 1 or not _is_number(words[0]))):
                continue
            row = [float(word) for word in words if _is_number(word)]
            if not len(row) == len(words) == 19:
                raise UserError(f"line {number} is not 19 numbers; each row is timestamp fx fy cx cy 0 0 and a 3x4 w2c")
            rows.append(row)
        if not rows:
            raise UserError("no camera rows; each row is timestamp fx fy cx cy 0 0 and a 3x4 w2c")
        table = np.array(rows)
        K = table[:, 1:5] * [width, height, width, height]
        w2c = np.tile(np.eye(4), (len(table), 1, 1))
        w2c[:, :3] = table[:, 7:].reshape(-1, 3, 4)
        # The inverse of a rigid motion is one too: checking this side finds bad rows before they are inverted.
        return _centred(Cameras(Cameras(w2c, K, width, height).w2c, K, width, height))


def write_realestate10k(cameras: Cameras, path: str | Path, *, url: str = "", fps: float = 30.0) -> None:
    """Write a RealEstate10K camera file (see `read_realestate10k`); timestamps are microseconds at `fps`."""
    if not (isfinite(fps) and fps > 0):
        raise UserError(f"a rate of {fps} frames per second; give a positive one")
    K = cameras.K / [cameras.width, cameras.height, cameras.width, cameras.height]
    lines = [" ".join(url.split())]
    for i, (intrinsics, pose) in enumerate(zip(K, cameras.w2c[:, :3], strict=True)):
        numbers = " ".join(repr(float(v)) for v in (*intrinsics, 0, 0, *pose.ravel()))
        lines.append(f"{round(i * 1e6 / fps)} {numbers}")
    _write_text(path, "\n".join(lines) + "\n")


def read_cameras(path: str | Path, *, width: int | None = None, height: int | None = None) -> Cameras:
    """Read cameras from whatever is there, told by content rather than by name.

    A folder with `poses.npy` or such an array itself (`read_poses`), an Unreal file (`read_unreal_json`) or a
    RealEstate10K file (`read_realestate10k`).

    Args:
        width, height: the image size in pixels; both or neither. Arrays default to the size in an `episode.json` beside
            them, else to twice their common principal point; an Unreal file to the data set's 640x360; a RealEstate10K
            file needs them.
    """
    path = Path(path)
    if (width is None) != (height is None):
        raise UserError("only one of width and height is given; give both or neither")
    size = None if width is None or height is None else (width, height)
    if path.is_dir():
        if not (path / "poses.npy").exists():
            raise UserError(f"{path}: this folder holds no poses.npy; name a folder that does, or a camera file")
        path = path / "poses.npy"
    with _reading(path), path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise UserError(f"{path}: the file is empty; write it again")
    if head.startswith(b"\x93NUMPY"):
        wide, high = size or _stored_size(path)
        return read_poses(path, width=wide, height=high)
    if head.startswith((b"{", b"[")):
        return read_unreal_json(path) if size is None else read_unreal_json(path, width=size[0], height=size[1])
    if path.suffix.lower() in (".mp4", ".mkv", ".mov", ".webm", ".avi"):
        raise UserError(f"{path} is a video and holds no cameras; name its poses.npy or the folder with it")
    if size is None:
        raise UserError(
            f"{path}: neither a pose array nor JSON; if it is a RealEstate10K file, give width and height too"
        )
    return read_realestate10k(path, width=size[0], height=size[1])


def _stored_size(poses_npy: Path) -> tuple[int, int]:
    """The image size that goes with a pose array: from an episode's description, else from the principal point."""
    episode = poses_npy.parent / "episode.json"
    if episode.exists():
        with _reading(episode):
            meta = json.loads(episode.read_text(encoding="utf-8-sig"))
            if not isinstance(meta, dict) or not {"width", "height"} <= set(meta):
                raise UserError("width and height are missing; write them in, or give them")
            check_size(meta["width"], meta["height"])
            return meta["width"], meta["height"]
    intrinsics = poses_npy.parent / "intrinsics.npy"
    if intrinsics.exists():
        K = _load_array(intrinsics).reshape(-1)
        size = 2 * K.reshape(-1, 4)[:, 2:] if K.size and K.size % 4 == 0 else np.zeros((1, 2))
        if (size == size[0]).all() and (size[0] >= 1).all() and (size[0] == np.round(size[0])).all():
            return int(size[0, 0]), int(size[0, 1])
    raise UserError(f"{poses_npy}: nothing here says the image size; give width and height")


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading a file into one sentence that starts with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path and its rights") from None
    except (ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:
        why = " ".join(str(error).split())[:120] or "it ends early"
        raise UserError(f"{path}: damaged or of another kind ({why}); write the file again") from None


def _load_array(path: Path) -> np.ndarray:
    with _reading(path), path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise UserError("an archive of arrays; give a single array saved with numpy.save")
        return floats(array, "the content")


def _three(frame: object, name: str, key: str) -> list[float]:
    value = frame.get(name) if isinstance(frame, dict) else None
    if not isinstance(value, list) or len(value) != 3 or any(type(v) not in (int, float) for v in value):
        raise UserError(f'frame {key} has no "{name}" of three numbers; add one')
    return [float(v) for v in value]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _centred(cameras: Cameras) -> Cameras:
    """Refuse intrinsics of another image size: the usual mistake with files that do not say theirs."""
    size = f"{cameras.width}x{cameras.height}"
    outside = np.any((cameras.K[:, 2:] < 0) | (cameras.K[:, 2:] > [cameras.width, cameras.height]), axis=1)
    refuse(outside, f"has its centre outside the {size} image; give the image size that the intrinsics are for")
    return cameras


def _write_text(path: str | Path, text: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
