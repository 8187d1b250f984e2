"""What a user can say about a camera file. Without NumPy, so that `cam --help` answers at once."""

from dataclasses import dataclass
from typing import Literal

from context_as_memory.errors import UserError

Axes = Literal["opencv", "opengl", "unreal", "ned"]
Up = Literal["x", "y", "z", "-x", "-y", "-z"]
Unit = Literal["m", "cm", "mm", "4m"]
ExportKind = Literal["frames", "colmap", "nerfstudio", "lerobot"]
ASSUMED_HFOV_DEG = 90.0  # of a picture, where nothing says it
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001, "4m": 4.0}


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """How camera files are to be understood, where they do not say it themselves."""

    axes: Axes | None = None
    """Camera axes of the file, if not those of its format: opencv (x right, y down, z forward), opengl (x right, y up,
    z backward), unreal (x forward, y right, z up, left-handed), ned (x forward, y right, z down)."""
    w2c: bool = False
    """The poses of the file are world-to-camera."""
    unit: Unit | None = None
    """Unit of the positions, if not that of the format (metres for most); Memorizon's paths are in units of 4 m."""
    up: Up | None = None
    """Which axis of the file's world points up; measured from the poses if not given."""
    width: int | None = None
    """Width of the image that the file's intrinsics are for, in pixels (with --height)."""
    height: int | None = None
    """Height of that image."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, if they are given. `UserError` for only one of them, or impossible ones."""
        if self.width is None and self.height is None:
            return None
        if self.width is None or self.height is None:
            raise UserError("only one of --width and --height is given; give both or neither")
        if min(self.width, self.height) < 1:
            raise UserError(f"--width and --height are {self.width}x{self.height}; give at least 1 pixel")
        return self.width, self.height
