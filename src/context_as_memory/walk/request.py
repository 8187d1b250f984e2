"""What a walk is asked to be, as a value: where it starts, along which cameras. No model is needed to make one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.cameras import CameraTrack, read_track
from context_as_memory.formats.options import ASSUMED_HFOV_DEG, PoseOptions
from context_as_memory.formats.pictures import fit_frame, read_picture
from context_as_memory.formats.places import start_frame
from context_as_memory.formats.vertical import measured_up
from context_as_memory.storage import BranchStore, WorldFile
from context_as_memory.storage.schema import DATABASE
from context_as_memory.walk.config import GenerateConfig
from context_as_memory.walk.terminal import note

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
    """A walk: from a start along cameras, in the pixels of the start picture. track: the camera file that they came
    from, if they did."""

    start: Start
    path: Cameras
    track: CameraTrack | None = None

    def fitted(self, width: int, height: int) -> "Request":
        """The same walk in pictures of another size: the start picture scaled and cropped around its centre. What that
        changes is told."""
        start = self.start
        frame, changed = fit_frame(start.frame, width, height)
        if changed:
            before = f"{start.frame.shape[1]}x{start.frame.shape[0]}"
            larger = max(width / start.frame.shape[1], height / start.frame.shape[0])
            soft = f", enlarged {larger:.0f} times, so that it is soft" if larger >= 2 else ""
            note(
                f"{start.name} ({before}) is scaled and cropped around its centre to the model's {width}x{height}{soft}"
            )
        fitted = replace(start, frame=frame, camera=start.camera.resized(width, height))
        return replace(self, start=fitted, path=self.path.resized(width, height))


def read_request(config: GenerateConfig) -> Request:
    """The start and the path that the settings name. Raises `UserError` for what cannot be read or does not fit."""
    config.check()
    if config.world is not None and (config.world / DATABASE).exists():
        return Request(*_continued(config, config.world))
    chosen = [name for name in ("image", "start", "demo") if getattr(config, name)]
    if len(chosen) != 1:
        found = "none is given" if not chosen else f"--{' and --'.join(chosen)} are given together"
        raise UserError(f"what to start from: {found}; give one of --image PICTURE, --start NAME or --demo")
    if config.hfov_deg is not None and config.image is None and config.trajectory is None:
        raise UserError("--hfov-deg is for --image; the lens of a start frame is known, leave it away")
    if config.poses != PoseOptions() and config.trajectory is None:
        raise UserError("--axes, --w2c, --unit, --up, --width and --height are for --trajectory; leave them away")
    if config.actions is not None and config.trajectory is not None:
        raise UserError("--actions and --trajectory are given together; the path can only come from one of them")
    if config.intrinsics is not None and config.trajectory is None:
        raise UserError("--intrinsics needs --trajectory; without one use --hfov-deg")
    actions = config.actions or (DEMO_ACTIONS if config.demo else "")
    if config.trajectory is None and not actions:
        raise UserError(f"{NO_PATH}, or --trajectory poses.npy")
    start = _picture(config.image, config.hfov_deg) if config.image is not None else _shipped(config.start)
    if config.trajectory is not None:
        return _along(start, config.trajectory, config)
    return Request(start, cameras_from_actions(start.camera, actions))


def _picture(path: Path, hfov_deg: float | None) -> Start:
    picture = read_picture(path)
    for line in picture.notes:
        note(line)
    height, width = picture.frame.shape[:2]
    lens = pinhole(ASSUMED_HFOV_DEG if hfov_deg is None else hfov_deg, width, height)
    camera = look((0.0, 0.0, 0.0), 0.0, lens, width, height)
    return Start(path.name, picture.frame, camera, -camera.down[0])


def _shipped(name: str | None) -> Start:
    shipped = start_frame(name)
    return Start(f"start frame {shipped.name}", shipped.frame, shipped.camera, -shipped.camera.down[0])


def _continued(config: GenerateConfig, world: Path) -> tuple[Start, Cameras]:
    """The last frame and camera of a world file, and the path from there."""
    given = [f"--{name}" for name in ("image", "start", "demo", "trajectory") if getattr(config, name)]
    given += ["--hfov-deg"] if config.hfov_deg is not None else []
    given += ["--intrinsics"] if config.intrinsics is not None else []
    given += ["--axes, --w2c and the like"] if config.poses != PoseOptions() else []
    if given:
        raise UserError(f"the world in {world} goes on from its last frame; leave {given[0]} away")
    if config.actions is None:
        raise UserError(NO_PATH)
    with WorldFile.open(world, write=False) as file:
        store = BranchStore(file, config.branch)
        cameras, known_up = store.cameras(), file.up
        if cameras is None:
            raise UserError(f"branch {config.branch!r} of the world in {world} is empty; rewind it to a chunk")
        last = len(cameras) - 1
        frame = store.frames_u8([last])[0]
    name = f"frame {last} of {world.name}, branch {config.branch}"
    up = measured_up(cameras.c2w[:1])[0] if known_up is None else known_up
    start = Start(name, frame, cameras[[last]], up, past=len(cameras))
    return start, cameras_from_actions(start.camera, config.actions, up=start.up)


def _along(start: Start, trajectory: Path, config: GenerateConfig) -> Request:
    """The same picture at the first pose of a file, and the other poses as the path."""
    camera = start.camera
    track = read_track(
        trajectory,
        config.poses,
        picture=(camera.width, camera.height),
        hfov_deg=config.hfov_deg,
        assumed_hfov_deg=ASSUMED_HFOV_DEG if config.image is not None else float(np.degrees(camera.hfov_rad[0])),
        intrinsics=config.intrinsics,
    )
    if len(track) < 2:
        raise UserError(
            f"trajectory {trajectory} holds {len(track)} pose(s); give the start pose and at least one more"
        )
    for line in track.lines():
        note(line)
    if track.turns:
        note(f"{start.name} and its cameras are turned by {90 * track.turns} degrees to be upright")
    path = track.upright()
    return Request(Start(start.name, np.rot90(start.frame, track.turns), path[0], track.up), path[1:], track)


def lens_report(request: Request) -> dict[str, Any]:
    """The lens of the start picture as given, for report.json."""
    if request.track is not None:
        return request.track.lens.report()
    camera = request.start.camera
    fx, fy, cx, cy = camera.K[0].tolist()
    lens = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": camera.width, "height": camera.height}
    return lens | {"hfov_deg": round(float(np.degrees(camera.hfov_rad[0])), 4)}
