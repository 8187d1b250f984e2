"""What a walk is asked to be, as a value: where it starts, along which cameras. No model is needed to make one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_as_memory.camera import (
    Cameras,
    cameras_from_actions,
    look,
    parse_actions,
    pinhole,
    read_cameras,
    read_poses,
)
from context_as_memory.errors import UserError
from context_as_memory.evaluation.start import start_frame
from context_as_memory.video import read_image
from context_as_memory.walk.config import GenerateConfig
from context_as_memory.worldfile import BranchStore, WorldFile
from context_as_memory.worldfile.schema import DATABASE

# 496 frames. Look left and back; walk a square to the right, which ends where it began 216 frames later; walk up its
# first side again, turn, come back and look left once more, 456 frames after the first time.
DEMO_ACTIONS = "j-40,l-40,w-24,l-30,w-24,l-30,w-24,l-30,w-24,l-30,w-20,j-60,w-20,j-60,j-20,l-20"
NO_PATH = 'no path is given; give --actions, e.g. "w-40,l-24,w-40,j-24"'


@dataclass(frozen=True)
class Start:
    """Where a walk starts. frame: uint8 [H, W, 3], at its own size; camera: [1], in the same pixels; up: the vertical
    of its world [3]; past: frames of a world file up to this one, itself included; 0 for a new world."""

    name: str
    frame: np.ndarray
    camera: Cameras
    up: np.ndarray
    past: int = 0


@dataclass(frozen=True)
class Request:
    """A walk: from a start along cameras, in the pixels of the start picture."""

    start: Start
    path: Cameras


def read_request(config: GenerateConfig) -> Request:
    """The start and the path that the settings name. Raises `UserError` for what cannot be read or does not fit."""
    config.check()
    if config.world is not None and (config.world / DATABASE).exists():
        return Request(*_continued(config, config.world))
    chosen = [name for name in ("image", "start", "demo") if getattr(config, name)]
    if len(chosen) != 1:
        found = "none is given" if not chosen else f"--{' and --'.join(chosen)} are given together"
        raise UserError(f"what to start from: {found}; give one of --image PICTURE, --start NAME or --demo")
    if config.actions is not None and config.trajectory is not None:
        raise UserError("--actions and --trajectory are given together; the path can only come from one of them")
    if config.intrinsics is not None and config.trajectory is None:
        raise UserError("--intrinsics needs --trajectory; without one use --hfov-deg")
    actions = config.actions or (DEMO_ACTIONS if config.demo else "")
    if config.trajectory is None:
        if not actions:
            raise UserError(f"{NO_PATH}, or --trajectory poses.npy")
        parse_actions(actions)  # before a picture is read
    start = _picture(config.image, config.hfov_deg) if config.image is not None else _shipped(config.start)
    if config.trajectory is not None:
        return _along(start, config.trajectory, config.intrinsics)
    return Request(start, cameras_from_actions(start.camera, actions))


def _picture(path: Path, hfov_deg: float) -> Start:
    frame = read_image(path)
    height, width = frame.shape[:2]
    camera = look((0.0, 0.0, 0.0), 0.0, pinhole(hfov_deg, width, height), width, height)
    return Start(path.name, frame, camera, _up(camera))


def _shipped(name: str | None) -> Start:
    shipped = start_frame(name)
    return Start(f"start frame {shipped.name}", shipped.frame, shipped.camera, _up(shipped.camera))


def _continued(config: GenerateConfig, world: Path) -> tuple[Start, Cameras]:
    """The last frame and camera of a world file, and the path from there."""
    given = [f"--{name}" for name in ("image", "start", "demo", "trajectory") if getattr(config, name)]
    if given:
        raise UserError(f"the world in {world} goes on from its last frame; leave {given[0]} away")
    if config.actions is None:
        raise UserError(NO_PATH)
    parse_actions(config.actions)
    with WorldFile.open(world, write=False) as file:
        store = BranchStore(file, config.branch)
        cameras = store.cameras()
        if cameras is None:
            raise UserError(f"branch {config.branch!r} of the world in {world} is empty; rewind it to a chunk")
        last = len(cameras) - 1
        frame = store.frames_u8([last])[0]
    name = f"frame {last} of {world.name}, branch {config.branch}"
    start = Start(name, frame, cameras[[last]], _up(cameras), past=len(cameras))
    return start, cameras_from_actions(start.camera, config.actions, up=start.up)


def _up(cameras: Cameras) -> np.ndarray:
    """The vertical of a world: that of its first camera, which was level."""
    return np.asarray(-cameras.c2w[0, :3, 1])


def _along(start: Start, trajectory: Path, intrinsics: Path | None) -> Request:
    """The same picture at the first pose of a file, and the other poses as the path."""
    camera = start.camera
    size = {"width": camera.width, "height": camera.height}
    if intrinsics is not None:
        poses = trajectory / "poses.npy" if trajectory.is_dir() else trajectory
        path = read_poses(poses, intrinsics, **size)
    elif trajectory.suffix != ".npy" or (trajectory.parent / "intrinsics.npy").exists():
        path = read_cameras(trajectory, **size)
    else:
        path = _bare_poses(trajectory, camera)
    if len(path) < 2:
        raise UserError(f"trajectory {trajectory} holds {len(path)} pose(s); give the start pose and at least one more")
    return Request(Start(start.name, start.frame, path[0], _up(path)), path[1:])


def _bare_poses(path: Path, camera: Cameras) -> Cameras:
    """Poses [N, 4, 4] without a lens: that of the picture is theirs."""
    try:
        poses = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"trajectory {path} cannot be read ({error}); save float poses [N,4,4] with numpy.save"
        ) from error
    try:
        return Cameras(poses, camera.K[0], camera.width, camera.height)
    except UserError as error:
        raise UserError(f"trajectory {path}: {error}") from error
