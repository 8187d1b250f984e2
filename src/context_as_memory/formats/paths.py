"""Camera paths as other generators take them: HY-WorldPlay, Echo-Memory, WBench.

The layouts are from public pages: `generate.py` and the README of Tencent-Hunyuan/HY-WorldPlay, `eval/v2/actions` of
Echo-Memory, `src/models/navigation.py` and `src/models/camera/poses.py` of meituan-longcat/WBench. HY-WorldPlay and
WBench think in latents of four frames: their files hold every fourth camera, and `denser` puts the others between.
Memorizon's paths are plain pose arrays in units of four metres (`--unit 4m`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_json, reading
from context_as_memory.formats.poses import Found, matrices

LATENT_FRAMES = 4  # video frames from one camera of these files to the next
STEP_M, STEP_RAD = 0.08, float(np.radians(3.0))  # of one latent in HY-WorldPlay and WBench, their unit taken for metres
WBENCH_LATENTS = 24  # of a turn: 4 seconds at 24 frames a second
WBENCH_LENS = (969.6969696969696, 969.6969696969696, 960.0, 540.0)  # for 1920x1080
ORBIT_M, ORBIT_HEIGHT_M = STEP_M / STEP_RAD, 0.3  # of a camera behind somebody who walks
_EVERY_FOURTH = "it holds one camera for every four frames of its video; here each is a frame of its own"
_WBENCH_KEYS: dict[str, tuple[str, int]] = {
    **{"W": ("forward", 1), "S": ("forward", -1), "A": ("right", -1), "D": ("right", 1)},
    **{"right": ("yaw", 1), "left": ("yaw", -1), "up": ("pitch", 1), "down": ("pitch", -1)},
    **{"\u2192": ("yaw", 1), "\u2190": ("yaw", -1), "\u2191": ("pitch", 1), "\u2193": ("pitch", -1)},
    "stop": ("forward", 0),
}
# Columns: right, down and forward of a camera of Echo-Memory, whose world is x right, y forward, z up.
_ECHO_AXES = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def is_hy_worldplay(data: Mapping[str, Any]) -> bool:
    """Whether a document is a pose file of HY-WorldPlay: {"0": {"extrinsic": 4x4, "K": 3x3}, ...}."""
    return _numbered(data) and all(isinstance(frame, dict) and "extrinsic" in frame for frame in data.values())


def read_hy_worldplay(data: Mapping[str, Any]) -> Found:
    """Camera-to-world, OpenCV axes; the lens is for a picture whose centre is its principal point."""
    frames = [data[key] for key in sorted(data, key=int)]
    poses = matrices(np.array([frame["extrinsic"] for frame in frames], np.float64))
    size = None
    K = None
    if all("K" in frame for frame in frames):
        lens = np.array([frame["K"] for frame in frames], np.float64)
        if lens.shape[1:] != (3, 3):
            raise UserError(f'its "K" have shape {list(lens.shape[1:])}; give 3x3 matrices')
        K = lens[:, [0, 1, 0, 1], [0, 1, 2, 2]]
        size = round(2 * K[0, 2]), round(2 * K[0, 3])
    kind = "a HY-WorldPlay path"
    return Found(kind=kind, poses=poses, w2c=False, K=K, shares=False, size=size, up=_up(), notes=[_EVERY_FOURTH])


def is_echo(data: Mapping[str, Any]) -> bool:
    """Whether a document is an action file of Echo-Memory: {"0": [tx, ty, tz, nine numbers of a rotation], ...}."""
    return _numbered(data) and all(isinstance(frame, list) and len(frame) == 12 for frame in data.values())


def read_echo(data: Mapping[str, Any]) -> Found:
    """Motions against the first frame: x right, y forward, z up, positive yaw to the left, a scale of its own."""
    table = np.array([data[key] for key in sorted(data, key=int)], np.float64)
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3] = table[:, 3:].reshape(-1, 3, 3) @ _ECHO_AXES
    poses[:, :3, 3] = table[:, :3]
    return Found(kind="an Echo-Memory path", poses=poses, w2c=False, up=(0.0, 0.0, 1.0), scale_known=False)


def read_echo_chunks(files: Sequence[Path]) -> Found:
    """The chunks of a path one after the other, each of which begins where the one before it ended."""
    whole: Found | None = None
    for path in files:
        with reading(path):
            data = read_json(path)
            if not isinstance(data, dict) or not is_echo(data):
                raise UserError("no action file of Echo-Memory, as the others beside it are; remove it")
            chunk = read_echo(data)
        if whole is not None:
            joint = whole.poses[-1] @ np.linalg.inv(chunk.poses[0])
            chunk = replace(chunk, poses=np.concatenate([whole.poses, joint @ chunk.poses]))
        whole = chunk
    assert whole is not None
    return whole


def is_wbench_case(data: Mapping[str, Any]) -> bool:
    """Whether a document is a case of WBench: settings, and interactions with an action each."""
    turns = data.get("interactions")
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)


def wbench_turns(data: Mapping[str, Any]) -> list[dict[str, float] | None]:
    """What every turn of a case asks for: forward, right, yaw (to the right) and pitch (up), each -1, 0 or 1; None for
    a turn that is no navigation."""
    found: list[dict[str, float] | None] = []
    for turn in data["interactions"]:
        motion = dict.fromkeys(("forward", "right", "yaw", "pitch"), 0.0)
        parts = [part.strip() for part in str(turn.get("action", turn.get("action_key", "stop"))).split("+")]
        for name, sign in (_WBENCH_KEYS[part] for part in parts if part in _WBENCH_KEYS):
            motion[name] += sign
        known = all(part in _WBENCH_KEYS for part in parts)
        found.append({name: float(np.sign(value)) for name, value in motion.items()} if known else None)
    return found


def read_wbench_case(data: Mapping[str, Any]) -> Found:
    """The cameras of a case, one a latent: the viewer's own, or those of somebody who follows a subject (third person).

    Turns that are no navigation stand still. Steps are those of WBench's reference; its score takes away the scale.
    """
    notes = [_EVERY_FOURTH]
    turns = wbench_turns(data)
    if None in turns:
        notes.append("its turns that are no navigation stand still")
    motions = [turn for turn in turns for _ in range(WBENCH_LATENTS)][1:]  # the first camera is that of the picture
    settings = data.get("settings") or {}
    follow = settings.get("perspective", "third_person") != "first_person"
    poses = _orbit(motions) if follow else _walk(motions)
    if follow:
        notes.append("it looks at somebody who is followed; the camera goes around where they would be")
    K = np.tile(WBENCH_LENS, (len(poses), 1))
    kind = "a WBench case"
    return Found(kind=kind, poses=poses, w2c=False, K=K, shares=False, size=(1920, 1080), up=_up(), notes=notes)


def denser(cameras: Cameras, between: int = LATENT_FRAMES) -> Cameras:
    """`between` steps from each camera to the next, instead of one: cameras [n] -> [(n - 1) * between + 1].

    Places go straight, directions the shortest way; the given cameras stay as they are.
    """
    from scipy.spatial.transform import Rotation, Slerp

    count = len(cameras)
    if count < 2 or between < 2:
        return cameras
    given, wanted = np.arange(count), np.arange((count - 1) * between + 1) / between
    c2w = np.tile(np.eye(4), (len(wanted), 1, 1))
    c2w[:, :3, :3] = Slerp(given, Rotation.from_matrix(cameras.c2w[:, :3, :3]))(wanted).as_matrix()
    for axis in range(3):
        c2w[:, axis, 3] = np.interp(wanted, given, cameras.c2w[:, axis, 3])
    K = np.stack([np.interp(wanted, given, cameras.K[:, i]) for i in range(4)], axis=1)
    c2w[::between] = cameras.c2w
    return Cameras(c2w, K, cameras.width, cameras.height)


def _numbered(data: Mapping[str, Any]) -> bool:
    return bool(data) and all(re.fullmatch("[0-9]{1,9}", str(key)) for key in data)


def _up() -> tuple[float, float, float]:
    return (0.0, -1.0, 0.0)  # of a world in OpenCV's axes


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    """Turned to the right by `yaw` and then up by `pitch`, radians, in OpenCV's axes."""
    (sy, sp), (cy, cp) = np.sin([yaw, pitch]), np.cos([yaw, pitch])
    turned, tilted = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]), np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray(turned @ tilted)


def _walk(motions: Sequence[Mapping[str, float] | None]) -> np.ndarray:
    """Cameras that turn in their own axes, then step along their own heading, [1 + len(motions), 4, 4]."""
    pose, poses = np.eye(4), [np.eye(4)]
    for motion in motions:
        if motion is not None:
            pose[:3, :3] = pose[:3, :3] @ _rotation(motion["yaw"] * STEP_RAD, motion["pitch"] * STEP_RAD)
            pose[:3, 3] += pose[:3, :3] @ (STEP_M * np.array([motion["right"], 0.0, motion["forward"]]))
        poses.append(pose.copy())
    return np.stack(poses)


def _orbit(motions: Sequence[Mapping[str, float] | None]) -> np.ndarray:
    """Cameras behind and a little above somebody who walks along z: they go around them, and along with them."""
    subject, around, above = np.zeros(3), 0.0, 0.0
    poses = []
    for motion in [None, *motions]:
        if motion is not None:
            around += motion["yaw"] * STEP_RAD
            above = float(np.clip(above - motion["pitch"] * STEP_RAD, -np.pi / 3, np.pi / 3))
            subject = subject + STEP_M * np.array([motion["right"], 0.0, motion["forward"]])
        away = np.array([np.cos(above) * np.sin(around), -np.sin(above), -np.cos(above) * np.cos(around)])
        place = subject + ORBIT_M * away - [0.0, ORBIT_HEIGHT_M, 0.0]
        forward = subject - [0.0, ORBIT_HEIGHT_M / 2, 0.0] - place
        forward /= np.linalg.norm(forward)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, place], axis=1)
        poses.append(pose)
    return np.stack(poses)
