"""Settings of `cam generate`, `evaluate-returns` and `evaluate`. Apart from the code that uses them, and from NumPy, so
that `cam --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from context_as_memory.formats.options import PoseOptions

Strategy = Literal["coverage", "visible", "frustum", "paper", "recent", "random", "first"]  # of `retrieval.STRATEGIES`


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Walk into a picture: generate a video along a camera path, remembering every frame."""

    out: Path
    """Folder for video.mp4, comparison.mp4, inspector.png and report.json; made if need be, these four are
    overwritten."""
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
    memory: Strategy = "coverage"
    """How the context is chosen."""
    depth: str | None = None
    """For --memory visible, which is coverage where no depth is known: folder or hub name of a model that estimates it
    in metres (needs the `depth` extra)."""
    max_context: int | None = None
    """Frames in the context, the most recent one included; as stored with the weights if not given."""
    steps: int | None = None
    """Denoising steps; as stored with the weights if not given."""
    seed: int = 0
    """Same seed, same video."""
    weights: str = "default"
    """`default` or a folder made by `cam train world`."""
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


@dataclass(frozen=True, kw_only=True)
class GroundTruthConfig:
    """Judge memory on returns in recorded videos, with and without it."""

    data: Path
    """Folder of episodes made by `cam render`."""
    split: str = "test"
    """train, val or test: only test maps are unknown to the shipped weights."""
    weights: str = "default"
    """`default` or a folder made by `cam train world`."""
    clips: int = 48
    """Number of returns, spread evenly over the episodes."""
    seed: int = 0
    """Chooses the returns and the noise."""
    max_context: int = 8
    """Frames in the context, the same for every strategy."""
    max_withheld: int = 64
    """Frames before a return that may be withheld so that the last remembered ones do not show it."""
    steps: int | None = None
    """Denoising steps; as stored with the weights if not given."""
    threads: int | None = None
    """CPU threads."""
    json: Path | None = None
    """File for the numbers."""
    sheet: Path | None = None
    """PNG with one row of pictures per return."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure memory: the paper's tables, a proof that it is used, or returns from any picture."""

    suite: Literal["paper", "proof", "revisit"] | None = None
    """paper: the paper's tables, by rule and size of the context, on recorded and on own frames. proof: gate, matched
    controls, memory swap, retrieval, drift, cost, on recorded episodes. revisit: turn away and back, walk away and
    back, from any picture."""
    out: Path | None = None
    """Folder for the reports, outputs/ and the name of the suite if not given; a run found there is resumed."""
    weights: str = "default"
    """`default` or a folder made by `cam train world`."""
    data: str = "test"
    """Folder of episodes; `test` renders the six test maps once (needs the `render` extra)."""
    split: str = "test"
    """train, val or test: only test maps are unknown to the shipped weights."""
    videos: Path | None = None
    """Instead of a suite: a folder of videos that another system made; their returns are scored."""
    cameras: Path | None = None
    """The cameras of those videos: a folder with a camera file or folder `walk` for each walk.mp4, in any format of
    docs/formats.md, the paper's data set, or SceneMemBench; the folder of the videos if not given."""
    poses: PoseOptions = PoseOptions()
    """How the camera files are to be understood."""
    truth: Path | None = None
    """The true videos, if they are known: a folder of the same layout and names."""
    image: Path | None = None
    """revisit: the picture to start from; the shipped ones if not given."""
    hfov_deg: float | None = None
    """Horizontal field of view in degrees: of --image (90 if not given), or of --videos whose cameras have no lens."""
    clips: int = 48
    """proof: number of returns; paper: number of chunks; both spread evenly over the episodes. revisit: at most so many
    walks."""
    walks: int | None = None
    """proof: number of walks that must leave and come back; paper: number of turns. If not given: 12, or as many as
    clips if these are fewer."""
    drift_frames: int | None = None
    """proof: length of the walks that are watched for drift; 0: none. If not given: 600, less with under 24 clips."""
    seed: int = 0
    """Chooses returns, walks and noise."""
    seeds: int = 3
    """paper: seeds of the noise, and of random draws, per clip."""
    shard: str = "0/1"
    """i/n: measure every n-th clip only; run all n into one folder, then once more without to write the reports."""
    threads: int | None = None
    """CPU threads."""

    @property
    def folder(self) -> Path:
        """Where the reports go."""
        return self.out or Path("outputs") / (self.suite or "videos")

    @property
    def num_walks(self) -> int:
        """Walks asked for, or as many as a run of this size deserves."""
        return min(12, self.clips) if self.walks is None else self.walks

    @property
    def num_drift_frames(self) -> int:
        """Frames of drift asked for, or as many as a run of this size deserves."""
        return min(600, max(1, self.clips * 25 // 60) * 60) if self.drift_frames is None else self.drift_frames
