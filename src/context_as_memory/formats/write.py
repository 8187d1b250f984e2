"""Cameras out: pose arrays, the paper's JSON, RealEstate10K, transforms.json, TUM, KITTI, 7-Scenes, EuRoC, CSV.

COLMAP's models are written by `colmap.write_colmap`. Only formats that say their lens keep it.
"""

import json
from math import isfinite
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.files import write_array, write_text
from context_as_memory.formats.poses import quaternions
from context_as_memory.formats.tables import camera_rows

_GL = np.diag([1.0, -1.0, -1.0, 1.0])
_NED = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def write_poses(cameras: Cameras, folder: str | Path) -> None:
    """Write `poses.npy` float64 [N,4,4] and `intrinsics.npy` float64 [N,4] into a folder, made if need be."""
    write_array(Path(folder) / "poses.npy", cameras.c2w)
    write_array(Path(folder) / "intrinsics.npy", cameras.K)


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
    write_text(path, json.dumps({"CineCameraActor": frames}, indent=1) + "\n")


def write_realestate10k(cameras: Cameras, path: str | Path, *, url: str = "", fps: float = 30.0) -> None:
    """Write a RealEstate10K camera file (see `read_realestate10k`); timestamps are microseconds at `fps`."""
    if not (isfinite(fps) and fps > 0):
        raise UserError(f"a rate of {fps} frames per second; give a positive one")
    K = cameras.K / [cameras.width, cameras.height, cameras.width, cameras.height]
    lines = [" ".join(url.split())]
    for i, (intrinsics, pose) in enumerate(zip(K, camera_rows(cameras.w2c), strict=True)):
        lines.append(f"{round(i * 1e6 / fps)} {_words([*intrinsics, 0, 0, *pose])}")
    write_text(path, "\n".join(lines) + "\n")


def write_transforms(cameras: Cameras, path: str | Path, *, names: list[str] | None = None) -> None:
    """Write a transforms.json (nerfstudio): OpenGL axes, the lens of every frame."""
    frames = []
    for i, (pose, K) in enumerate(zip(cameras.c2w @ _GL, cameras.K.tolist(), strict=True)):
        lens = dict(zip(("fl_x", "fl_y", "cx", "cy"), K, strict=True))
        name = names[i] if names else f"images/frame_{i + 1:05d}.png"
        frames.append({"file_path": name, **lens, "transform_matrix": pose.tolist()})
    data = {"camera_model": "PINHOLE", "w": cameras.width, "h": cameras.height, "frames": frames}
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_tum(cameras: Cameras, path: str | Path, *, fps: float = 30.0) -> None:
    """Write a TUM trajectory: time x y z qx qy qz qw. It has no place for intrinsics."""
    q = quaternions(cameras.c2w[:, :3, :3])
    rows = [_words([i / fps, *p, *r]) for i, (p, r) in enumerate(zip(cameras.position, q, strict=True))]
    write_text(path, "# timestamp tx ty tz qx qy qz qw\n" + "\n".join(rows) + "\n")


def write_euroc(cameras: Cameras, path: str | Path, *, fps: float = 30.0) -> None:
    """Write camera poses as EuRoC's CSV: nanoseconds, position, quaternion with the real part first."""
    q = quaternions(cameras.c2w[:, :3, :3])[:, [3, 0, 1, 2]]
    head = "#timestamp [ns],p_RS_R_x [m],p_RS_R_y [m],p_RS_R_z [m],q_RS_w [],q_RS_x [],q_RS_y [],q_RS_z []"
    rows = [
        f"{10**18 + round(i * 1e9 / fps)}," + ",".join(repr(float(v)) for v in (*p, *r))
        for i, (p, r) in enumerate(zip(cameras.position, q, strict=True))
    ]
    write_text(path, "\n".join([head, *rows]) + "\n")


def write_kitti(cameras: Cameras, path: str | Path) -> None:
    """Write KITTI poses: a 3x4 camera-to-world matrix by rows a line. It has no place for intrinsics."""
    write_text(path, "\n".join(_words(row) for row in camera_rows(cameras.c2w)) + "\n")


def write_tartanair(cameras: Cameras, path: str | Path) -> None:
    """Write x y z qx qy qz qw in axes that look north, east and down, for a file named pose_left.txt."""
    poses = cameras.c2w @ np.linalg.inv(_NED)
    q = quaternions(poses[:, :3, :3])
    write_text(path, "\n".join(_words([*p, *r]) for p, r in zip(poses[:, :3, 3], q, strict=True)) + "\n")


def write_7scenes(cameras: Cameras, folder: str | Path) -> None:
    """Write a folder of frame-000000.pose.txt with a 4x4 camera-to-world matrix each."""
    for i, pose in enumerate(cameras.c2w):
        write_text(Path(folder) / f"frame-{i:06d}.pose.txt", "\n".join(_words(row) for row in pose) + "\n")


def write_csv(cameras: Cameras, path: str | Path, *, fps: float = 30.0) -> None:
    """Write a table with named columns: time, position, quaternion, intrinsics in pixels."""
    q = quaternions(cameras.c2w[:, :3, :3])
    rows = [
        ",".join(repr(float(v)) for v in (i / fps, *p, *r, *k))
        for i, (p, r, k) in enumerate(zip(cameras.position, q, cameras.K, strict=True))
    ]
    write_text(path, "\n".join(["time,x,y,z,qx,qy,qz,qw,fx,fy,cx,cy", *rows]) + "\n")


def _words(values: object) -> str:
    return " ".join(repr(float(v)) for v in np.asarray(values, np.float64).ravel())
