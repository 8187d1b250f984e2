"""Start places shipped with the package: a picture and where it was taken, and the place as seen all around."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, look
from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_json
from context_as_memory.formats.pictures import read_image
from context_as_memory.formats.video import read_video


@dataclass(frozen=True)
class StartFrame:
    """frame: uint8 [H, W, 3]; camera: the one it was taken with, in pixels of that picture; about: map, licence and the
    rest."""

    name: str
    frame: np.ndarray
    camera: Cameras
    about: dict[str, Any]


def start_folder() -> Path:
    """Where the shipped start places lie: `<name>.png`, `<name>.json` and `<name>.mp4` each."""
    return Path(str(resources.files("context_as_memory"))) / "assets" / "start"


def start_names(folder: Path | None = None) -> list[str]:
    """Names of the start frames, sorted."""
    return sorted(path.stem for path in (folder or start_folder()).glob("*.json"))


def start_frame(name: str | None = None, folder: Path | None = None) -> StartFrame:
    """Load a start frame by name; None takes the first one.

    The JSON file holds position [3] (metres, z up), yaw_deg, fx, fy, cx, cy (pixels of the picture), map and licence.
    Raises `UserError` for a name that does not exist or a damaged file.
    """
    folder = folder or start_folder()
    names = start_names(folder)
    if not names:
        raise UserError("this installation ships no start frames; give a picture with --image")
    name = names[0] if name is None else name
    if name not in names:
        raise UserError(f"no start frame {name!r}; choose one of {', '.join(names)}")
    frame = read_image(folder / f"{name}.png")
    try:
        about = read_json(folder / f"{name}.json")
        intrinsics = np.array([about[key] for key in ("fx", "fy", "cx", "cy")], dtype=np.float64)
        camera = look(
            about["position"], float(np.radians(about["yaw_deg"])), intrinsics, frame.shape[1], frame.shape[0]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"start frame {name}: {name}.json is damaged ({error}); install the package again") from error
    return StartFrame(name, frame, camera, about)


def known_place(name: str | None = None, folder: Path | None = None) -> tuple[np.ndarray, Cameras]:
    """A start place as somebody remembers it who has looked around there: frames uint8 [N, H, W, 3] of turns on several
    spots and their cameras [N]. The last view is the start frame's.

    They were rendered (scripts/look_around.py); the JSON file holds x, y, z in metres and the heading in degrees of
    each under `seen`. Raises `UserError` as `start_frame` does.
    """
    start = start_frame(name, folder)
    frames = read_video((folder or start_folder()) / f"{start.name}.mp4")
    try:
        seen = np.array(start.about.get("seen", []), np.float64).reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"start place {start.name}: its poses are damaged ({error}); install the package again"
        ) from error
    if len(seen) != len(frames):
        raise UserError(
            f"start place {start.name}: {len(frames)} views but {len(seen)} poses; install the package again"
        )
    camera = start.camera
    cameras = look(seen[:, :3], np.radians(seen[:, 3]), camera.K[0], camera.width, camera.height)
    return frames, cameras
