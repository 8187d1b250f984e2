"""Camera files in JSON: the paper's Unreal files, transforms.json of nerfstudio, instant-ngp, Blender, DL3DV and
NeRFCapture, exports of Record3D, Polycam and ARKit, SceneMemBench, and plain lists of matrices. Paths that other
generators take are in `paths`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats import paths
from context_as_memory.formats.files import read_json, read_text, reading
from context_as_memory.formats.poses import Found, matrices, quaternion_poses

PAPER_HFOV_DEG = 52.67  # the lens of the paper's data set, which its files do not name
PAPER_SIZE = (640, 360)
SCENE_MEM_HFOV_DEG = 90.0  # Unreal's default: the files of SceneMemBench do not name theirs
POSE_NAMES = (
    *("c2w", "cam_c2w", "poses", "camera_poses", "cam2world", "camera_to_world", "transforms"),
    *("w2c", "cam_w2c", "world2cam", "world_to_camera"),
)
LENS_NAMES = ("intrinsics", "intrinsic", "K", "Ks", "cam_K", "camera_intrinsics")
_ARKIT_UP = (0.0, 1.0, 0.0)
_FISHEYE = ("FISHEYE", "EQUIRECTANGULAR", "ORTHOPHOTO", "OMNIDIRECTIONAL", "FTHETA")


def read_document(path: Path) -> Found:
    """Any camera file in JSON, told by what stands in it. `UserError` without its name for anything else."""
    try:
        data = read_json(path)
    except UserError:
        data = _json_lines(path)
        if data is None:
            raise
    if isinstance(data, dict):
        if isinstance(data.get("frames"), list) and _has(data["frames"], "transform_matrix"):
            return _transforms(data, data["frames"])
        if isinstance(data.get("poses"), list) and ("perFrameIntrinsicCoeffs" in data or _is_record3d(data)):
            return _record3d(data)
        if {"t_00", "t_23"} <= data.keys() or "cameraPoseARFrame" in data:
            return phone_frames([(path.name, data)])
        frames = next((data[key] for key in ("frames", "poses") if isinstance(data.get(key), list)), None)
        if frames and _has(frames, "primary_pose"):
            return scene_mem(data)
        if any(name in data for name in POSE_NAMES):
            return _plain(data)
        for is_one, read in _PATHS:
            if is_one(data):
                with reading(path):
                    return read(data)
        return _unreal(data)
    if isinstance(data, list) and data:
        if _has(data, "transform_matrix"):
            return _transforms({}, data)
        if _has(data, "primary_pose"):
            return scene_mem(data)
        if _has(data, "position") and _has(data, "rotation"):
            return _unreal({"frames": {str(number): frame for number, frame in enumerate(data)}})
        if isinstance(data[0], list):
            return Found(kind="a list of matrices", poses=matrices(_numbers(data, "the list")))
        key = next((name for name in (*POSE_NAMES, "pose", "extrinsic") if _has(data, name)), None)
        if key is not None and key != "extrinsic":
            return _plain({key: [frame.get(key) for frame in data]})
    raise UserError(_UNKNOWN)


_PATHS = (
    (paths.is_hy_worldplay, paths.read_hy_worldplay),
    (paths.is_echo, paths.read_echo),
    (paths.is_wbench_case, paths.read_wbench_case),
)
_UNKNOWN = (
    'no frames under "CineCameraActor" and no "frames" with "transform_matrix"; give a camera file of the paper\'s '
    "data set, a transforms.json, or another that docs/formats.md names"
)


def _json_lines(path: Path) -> list[Any] | None:
    """One JSON object a line, or None if it is not that."""
    import json

    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        return None
    with reading(path):
        return [json.loads(line) for line in lines]


def _has(frames: Sequence[Any], key: str) -> bool:
    return bool(frames) and any(isinstance(frame, dict) and key in frame for frame in frames)


def _numbers(value: Any, what: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what} does not hold numbers only, in rows of one length; mend it") from None
    return array


def _number(data: Mapping[str, Any], key: str, where: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where}: {key} is {str(value)[:40]!r}; give a number")
    return float(value)


def _size(data: Mapping[str, Any], wide: str, high: str) -> tuple[int, int] | None:
    w, h = _number(data, wide, "the file"), _number(data, high, "the file")
    if w is None and h is None:
        return None
    if w is None or h is None or w < 1 or h < 1 or w != int(w) or h != int(h):
        raise UserError(f"{wide} and {high} are not positive whole numbers; give the image size in pixels")
    return int(w), int(h)


# -- transforms.json ---------------------------------------------------------------------------------------------------


def _transforms(data: Mapping[str, Any], frames: Sequence[Any]) -> Found:
    """nerfstudio, instant-ngp, Blender, DL3DV, NeRFCapture: camera-to-world, OpenGL axes, lens per file or frame."""
    notes = []
    model = str(data.get("camera_model", "")).upper()
    if any(word in model for word in _FISHEYE):
        raise UserError(f"its camera model {model} is no pinhole; undistort the pictures first")
    poses, names, lenses, sizes = [], [], [], []
    for number, frame in enumerate(frames):
        matrix = frame.get("transform_matrix") if isinstance(frame, dict) else None
        if matrix is None:
            raise UserError(f'frame {number} has no "transform_matrix"; add it, or remove the frame')
        matrix = _numbers(matrix, f"transform_matrix of frame {number}")
        if matrix.shape not in ((4, 4), (3, 4)):
            raise UserError(f"transform_matrix of frame {number} has shape {list(matrix.shape)}; give 4x4")
        poses.append(matrices(matrix)[0])
        names.append(str(frame.get("file_path", "")))
        both = {**data, **frame}
        lenses.append(_transforms_lens(both))
        sizes.append(_size(both, "w", "h"))
    if any(_number({**data, **frame}, key, "the file") for frame in frames for key in ("k1", "k2", "k3", "p1", "p2")):
        notes.append("its distortion (k1, k2, ...) is not undone; undistort the pictures for exact cameras")
    angle = _number(data, "camera_angle_x", "the file")
    if angle is not None and not 0 < angle < np.pi:
        raise UserError(f"camera_angle_x is {angle:.6g}; it is in radians, give more than 0 and less than pi")
    K = None if None in lenses else np.array(lenses)
    if K is not None and any(size != sizes[0] for size in sizes):
        raise UserError("its frames are of several sizes; bring them to one")
    found = Found(
        kind="a transforms.json",
        poses=np.array(poses),
        w2c=False,
        axes="opengl",
        K=K,
        shares=False if K is not None else None,
        size=sizes[0],
        hfov_deg=None if K is not None or angle is None else float(np.degrees(angle)),
        names=tuple(names) if all(names) else None,
        scale_known=not {"applied_scale", "aabb_scale", "applied_transform"} & data.keys(),
        notes=notes,
    )
    return _in_order_of_names(found)


def _transforms_lens(data: Mapping[str, Any]) -> list[float] | None:
    fx, fy = (_number(data, key, "the file") for key in ("fl_x", "fl_y"))
    cx, cy = (_number(data, key, "the file") for key in ("cx", "cy"))
    size = _size(data, "w", "h")
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None:
        return None
    if size is not None:
        cx, cy = size[0] / 2 if cx is None else cx, size[1] / 2 if cy is None else cy
    if cx is None or cy is None:
        raise UserError("it has fl_x but neither cx and cy nor w and h; write w and h in")
    return [fx, fy, cx, cy]


def _in_order_of_names(found: Found) -> Found:
    """Frames in the order of their pictures' numbers, where a file lists them in another."""
    if found.names is None or len(set(found.names)) < len(found.names):
        return found
    order = sorted(range(len(found.names)), key=lambda i: natural(found.names[i] if found.names else ""))
    if order == list(range(len(order))):
        return found
    found.notes.append("its frames are not in the order of their pictures' names; they are taken in that order")
    return found.picked(order)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names by the numbers in them: frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part[:18]), part) if part.isdigit() else (0, 0, part) for part in parts]


# -- phones ------------------------------------------------------------------------------------------------------------


def _is_record3d(data: Mapping[str, Any]) -> bool:
    poses = data["poses"]
    return "K" in data and bool(poses) and isinstance(poses[0], list) and len(poses[0]) == 7


def _record3d(data: Mapping[str, Any]) -> Found:
    """Record3D's metadata: qx qy qz qw x y z, ARKit's axes (OpenGL's, y up); K by columns."""
    table = _numbers(data["poses"], '"poses"')
    if table.ndim != 2 or table.shape[1] != 7:
        raise UserError(f'"poses" has shape {list(table.shape)}; Record3D writes qx qy qz qw x y z')
    coefficients = data.get("perFrameIntrinsicCoeffs")
    if coefficients:
        K = _numbers(coefficients, '"perFrameIntrinsicCoeffs"')[:, :4]
    else:
        flat = _numbers(data.get("K"), '"K"')
        if flat.shape != (9,):
            raise UserError('"K" is no list of 9 numbers; export again')
        matrix = flat.reshape(3, 3).T
        K = matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    return Found(
        kind="a Record3D export",
        poses=quaternion_poses(table[:, 4:], table[:, :4]),
        w2c=False,
        axes="opengl",
        K=K,
        shares=False,
        size=_size(data, "w", "h"),
        up=_ARKIT_UP,
    )


def phone_frames(frames: Sequence[tuple[str, Any]]) -> Found:
    """One JSON file a frame, with its name: Polycam (t_00 ... t_23) or 3D Scanner App (cameraPoseARFrame)."""
    poses: list[np.ndarray] = []
    lenses: list[np.ndarray] = []
    sizes: list[tuple[int, int] | None] = []
    times: list[float] = []
    kind = "an ARKit export"
    for name, data in frames:
        try:
            if "cameraPoseARFrame" in data:
                matrix = np.array(data["cameraPoseARFrame"], np.float64).reshape(4, 4)
                lens = np.array(data["intrinsics"], np.float64).reshape(3, 3)
                K = lens[[0, 1, 0, 1], [0, 1, 2, 2]]
                if K[2] == 0 and K[3] == 0:  # written by columns
                    K = lens.T[[0, 1, 0, 1], [0, 1, 2, 2]]
            else:
                kind = "a Polycam export"
                matrix = np.eye(4)
                matrix[:3] = [[float(data[f"t_{row}{column}"]) for column in range(4)] for row in range(3)]
                K = np.array([float(data[key]) for key in ("fx", "fy", "cx", "cy")])
            poses.append(matrix)
            lenses.append(K)
            sizes.append(_size(data, "width", "height"))
            times.append(float(data.get("timestamp", data.get("time", len(times)))))
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name} lacks or spoils {error}; export again") from None
    if any(size != sizes[0] for size in sizes):
        raise UserError("its frames are of several sizes; bring them to one")
    return Found(
        kind=kind,
        poses=np.array(poses),
        w2c=False,
        axes="opengl",
        K=np.array(lenses),
        shares=False,
        size=sizes[0],
        times_s=np.array(times),
        names=tuple(Path(name).stem for name, _ in frames) if len(frames) > 1 else None,
        up=_ARKIT_UP,
    )


# -- Unreal ------------------------------------------------------------------------------------------------------------


def _unreal(data: Mapping[str, Any]) -> Found:
    """{actor: {"0": {"position": [x, y, z], "rotation": [roll, pitch, yaw]}, ...}}, in centimetres and degrees.

    Any name of the actor; position and rotation as lists or as objects; numbers from anywhere, with one step.
    """
    actors = {name: frames for name, frames in data.items() if isinstance(frames, dict) and _looks_like_frames(frames)}
    if not actors:
        named = data.get("CineCameraActor")
        if not isinstance(named, dict) or not named:
            raise UserError(_UNKNOWN)
        actors = {"CineCameraActor": named}
    actor, frames = next(iter(actors.items()))
    notes = [f"of {len(actors)} actors only {actor!r} is used"] if len(actors) > 1 else []
    if bad := [key for key in frames if not re.fullmatch("[0-9]{1,12}", key)]:
        raise UserError(f"frame name {bad[0]!r} is not a number; name the frames 0, 1, 2, ...")
    order = sorted(frames, key=int)
    numbers = [int(key) for key in order]
    step = numbers[1] - numbers[0] if len(numbers) > 2 else 1
    for i, number in enumerate(numbers):
        if step < 1 or number != numbers[0] + i * step:
            missing = numbers[0] + i * max(1, step)
            raise UserError(f"frame {missing} is missing or doubled; number the frames without gaps")
    if step > 1:
        notes.append(f"it holds every {step}th frame only, {numbers[0]} to {numbers[-1]}")
    place = np.array([_three(frames[key], "position", key, ("x", "y", "z")) for key in order])
    angles = np.array([_three(frames[key], "rotation", key, ("roll", "pitch", "yaw")) for key in order])
    return Found(
        kind="an Unreal file",
        poses=unreal_poses(place, angles),
        axes="opencv",
        fixed=True,
        unit="cm",
        hfov_deg=PAPER_HFOV_DEG,
        size=None,
        numbers=tuple(numbers),
        up=(0.0, 0.0, 1.0),
        notes=notes,
    )


def _looks_like_frames(frames: Mapping[str, Any]) -> bool:
    return any(isinstance(frame, dict) and ("position" in frame or "rotation" in frame) for frame in frames.values())


def _three(frame: object, name: str, key: str, parts: tuple[str, ...]) -> list[float]:
    value = frame.get(name) if isinstance(frame, dict) else None
    if isinstance(value, dict):
        lower = {str(part).lower(): number for part, number in value.items()}
        value = [lower.get(part) for part in parts]
    if not isinstance(value, list) or len(value) != 3 or any(type(v) not in (int, float) for v in value):
        raise UserError(f'frame {key} has no "{name}" of three numbers; add one')
    return [float(v) for v in value]


def unreal_poses(place: np.ndarray, angles_deg: np.ndarray) -> np.ndarray:
    """Camera-to-world [N,4,4] with OpenCV axes from Unreal's positions [N,3] and rotations [N,3] (roll, pitch, yaw) in
    degrees. Unreal's world is left-handed: X forward, Y right, Z up, yaw from X towards Y. Turning Y around makes it
    right-handed. The unit of the positions stays."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(np.radians(angles_deg)).T, np.cos(np.radians(angles_deg)).T
    forward = np.stack([cp * cy, cp * sy, sp], axis=1)
    right = np.stack([sr * sp * cy - cr * sy, sr * sp * sy + cr * cy, -sr * cp], axis=1)
    up = np.stack([-cr * sp * cy - sr * sy, cy * sr - cr * sp * sy, cr * cp], axis=1)
    c2w = np.tile(np.eye(4), (len(place), 1, 1))
    c2w[:, :3] = np.stack([right, -up, forward, place], axis=2)
    c2w[:, 1] *= -1
    return c2w


def scene_mem(data: Any) -> Found:
    """SceneMemBench's pose/poses.json.

    The card of the data set (huggingface.co/datasets/scenemembench/SceneMemBench) says: `primary_pose` of a frame is
    [x, y, z, pitch, yaw, roll], in Unreal's centimetres and degrees. Assumed here: the frames are a list, at the top or
    under "frames" or "poses", context first and eval after it; the axes are those of `unreal_poses`; the lens is
    Unreal's default of 90 degrees across.
    """
    if isinstance(data, dict):
        data = next((data[key] for key in ("frames", "poses") if key in data), None)
    if not isinstance(data, list) or not data:
        raise UserError('no list of frames at the top, under "frames" or "poses"; put one there')
    rows = []
    for number, frame in enumerate(data):
        pose = frame.get("primary_pose") if isinstance(frame, dict) else None
        if not isinstance(pose, list) or len(pose) != 6 or any(type(value) not in (int, float) for value in pose):
            raise UserError(f'frame {number} has no "primary_pose" of six numbers x y z pitch yaw roll; add it')
        rows.append(pose)
    table = np.array(rows, np.float64)
    poses = unreal_poses(table[:, :3], table[:, [5, 3, 4]])
    up = (0.0, 0.0, 1.0)
    kind = "a SceneMemBench file"
    return Found(kind=kind, poses=poses, axes="opencv", fixed=True, unit="cm", hfov_deg=SCENE_MEM_HFOV_DEG, up=up)


# -- plain -------------------------------------------------------------------------------------------------------------


def _plain(data: Mapping[str, Any]) -> Found:
    name = next(name for name in POSE_NAMES if name in data)
    lens = next((data[key] for key in LENS_NAMES if key in data), None)
    poses = matrices(_numbers(data[name], f'"{name}"'))
    return Found(
        kind="a list of matrices",
        poses=poses,
        w2c=True if names_w2c(name) else None,
        K=None if lens is None else _numbers(lens, "the intrinsics"),
        size=_size(data, "width", "height"),
    )


def names_w2c(name: str) -> bool:
    """Whether poses of this name are world-to-camera."""
    return name in ("w2c", "cam_w2c", "world2cam", "world_to_camera")
