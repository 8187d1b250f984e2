"""Settings of `cam generate`, apart from NumPy and the code that uses them, so that `cam --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from context_as_memory.errors import UserError
from context_as_memory.formats.options import PoseOptions

Strategy = Literal["coverage", "visible", "frustum", "paper", "recent", "random", "first"]  # of `retrieval.STRATEGIES`


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Walk into a picture: generate a video along a camera path, remembering every frame."""

    out: Path
    """Folder for video.mp4 with its poses.npy and intrinsics.npy, comparison.mp4, inspector.png and report.json; made
    if need be, these files are overwritten."""
    image: Path | None = None
    """Picture to start from; scaled and cropped to the model's size."""
    start: str | None = None
    """Name of a start frame shipped with the package, instead of --image."""
    demo: bool = False
    """The shipped start frame and the shipped path."""
    actions: str | None = None
    """Path as keys and frames, e.g. "w-40,l-24,w-40,j-24": wasd move, jl turn, ik look up and down, none waits."""
    trajectory: Path | None = None
    """Path as a file or folder, instead of --actions: poses.npy [N,4,4] (camera-to-world, x right, y down, z forward,
    metres), transforms.json, COLMAP, TUM, KITTI, RealEstate10K, Unreal JSON and others (docs/formats.md). The first
    pose is the camera of the picture, the others are generated."""
    intrinsics: Path | None = None
    """Lens of --trajectory: fx fy cx cy in pixels, as an array or as text, instead of that in or beside the file."""
    world: Path | None = None
    """Folder of a world file: a new one keeps every frame of this walk; one that exists goes on from its last frame."""
    branch: str = "main"
    """Branch of an existing world to go on with."""
    strategy: Strategy = "coverage"
    """How the context is chosen."""
    depth: str | None = None
    """For --strategy visible, which is coverage where no depth is known: folder or hub name of a model that estimates
    it in metres (needs the `depth` extra)."""
    max_context: int | None = None
    """Frames in the context, the most recent one included; as stored with the weights if not given."""
    steps: int | None = None
    """Denoising steps; as stored with the weights if not given."""
    seed: int = 0
    """Same seed, same video."""
    weights: str = "default"
    """`default`, a folder made by `cam train denoiser` or `cam adapt`, or a name on the hub."""
    prompt: str | None = None
    """What the world is to look like, for weights that read text; as stored with them, or with the world, if not
    given."""
    guidance: float | None = None
    """How far pictures are led to the prompt, 1: not at all; as stored with the weights if not given."""
    hfov_deg: float | None = None
    """Horizontal field of view of the picture as given, in degrees; 90 where nothing says it. Not together with a
    trajectory that has a lens."""
    poses: PoseOptions = PoseOptions()
    """How --trajectory is to be understood."""
    fps: float = 15.0
    """Frames per second of the videos."""
    threads: int | None = None
    """CPU threads."""
    compare: bool = True
    """Also generate the same path with the most recent frames as the only context, for comparison."""

    def check(self) -> None:
        """Raise `UserError` for numbers out of range. Not when it is made: `tyro` would hide the sentence."""
        for name in ("steps", "max_context", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give at least 1")
        if not 0 < self.fps <= 1000:
            raise UserError(f"--fps is {self.fps}; give frames per second between 0 and 1000")
