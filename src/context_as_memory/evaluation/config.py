"""Settings of `cam evaluate`. Apart from the code that uses them, and from NumPy, so
that `cam --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from context_as_memory.errors import UserError
from context_as_memory.formats.options import PoseOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure pictures and memory: one of the suites, or the returns in videos."""

    suite: Literal["quality", "returns", "proof", "paper", "revisit"] | None = None
    """quality: the yardstick for weights, every protocol. returns: what memory is worth on recorded returns, by rule.
    proof: is memory used? gate, matched controls, swaps, drift, cost. paper: the paper's tables, by rule and size of
    the context. revisit: turn and walk away and back, from any picture."""
    out: Path | None = None
    """Folder for the reports, outputs/ and the name of the suite if not given; a run found there is resumed."""
    weights: str = "default"
    """`default` or a folder made by `cam train denoiser`."""
    data: str = "test"
    """Folder of episodes; `test` renders the six test maps once (needs the `render` extra)."""
    split: str = "test"
    """train, val or test: only test maps are unknown to the shipped weights."""
    videos: Path | None = None
    """Instead of a suite: a folder of videos whose returns are scored, or an output folder of `cam generate`."""
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
    """Number of recorded chunks or returns, spread evenly over the episodes. revisit: at most so many walks."""
    walks: int | None = None
    """Number of walks that leave and come back. If not given: 12, or as many as clips if these are fewer."""
    long_walks: int | None = None
    """quality: number of long walks into new territory. If not given: 24, or half as many as clips if these are
    fewer."""
    drift_frames: int | None = None
    """Length of the long walks; 0: none. If not given: 600, in proof less with under 24 clips."""
    max_context: int | None = None
    """Frames in the context, the most recent one included; as stored with the weights if not given."""
    max_withheld: int = 64
    """Frames before a return that may be withheld so that the last remembered ones do not show it."""
    steps: int | None = None
    """Denoising steps; as stored with the weights if not given."""
    seed: int = 0
    """Chooses returns, walks and noise."""
    seeds: int = 3
    """paper: seeds of the noise, and of random draws, per clip."""
    shard: str = "0/1"
    """i/n: measure every n-th clip only; run all n into one folder, then once more without to write the reports."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: int | None = None
    """CPU threads."""

    def check(self) -> None:
        """Raise `UserError` for numbers out of range. Not when it is made: `tyro` would hide the sentence."""
        for name in ("clips", "seeds", "max_context", "steps", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give at least 1")
        if min(self.num_walks, self.num_long_walks, self.num_drift_frames, self.max_withheld) < 0:
            raise UserError("--walks, --long-walks, --drift-frames and --max-withheld must be at least 0")

    @property
    def folder(self) -> Path:
        """Where the reports go."""
        return self.out or Path("outputs") / (self.suite or "videos")

    @property
    def num_walks(self) -> int:
        """Walks asked for, or as many as a run of this size deserves."""
        return min(12, self.clips) if self.walks is None else self.walks

    @property
    def num_long_walks(self) -> int:
        """Long walks asked for, or as many as a run of this size deserves."""
        return min(24, -(-self.clips // 2)) if self.long_walks is None else self.long_walks

    @property
    def num_drift_frames(self) -> int:
        """Frames of a long walk asked for, or as many as a run of this size deserves."""
        if self.drift_frames is not None:
            return self.drift_frames
        return min(600, max(1, self.clips * 25 // 60) * 60) if self.suite == "proof" else 600

    @property
    def shards(self) -> tuple[int, int]:
        """`shard` as two numbers."""
        number, _, shards = self.shard.partition("/")
        if not (number.isdigit() and shards.isdigit()):
            raise UserError(f"--shard is {self.shard!r}; give i/n, for example 0/2")
        return int(number), int(shards)

    @property
    def measured(self) -> dict[str, object]:
        """The settings that say what a run measures, as far as the weights do not."""
        counts = {"clips": self.clips, "walks": self.num_walks, "seed": self.seed, "seeds": self.seeds}
        long = {"long_walks": self.num_long_walks, "drift_frames": self.num_drift_frames}
        return counts | long | {"max_withheld": self.max_withheld, "split": self.split}
