"""How the context is chosen, what comes out, and words shared by the strategies."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float64, Int64

STRATEGIES = ("coverage", "visible", "frustum", "paper", "recent", "random", "first")

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Samples = tuple[Floats, Floats, Floats]  # points [S, 2 or 3], unit directions to them, distances [S] in metres


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How `coverage`, `visible` and `frustum` choose."""

    parallax_rad: float = float(np.radians(35.0))
    """A frame explains a sample of the target view only if it sees it from a direction at most this far away, radians
    in (0, pi / 2] ..."""
    scale_band: tuple[float, float] = (0.4, 2.5)
    """... and from a distance within these multiples of the target's (low <= 1 <= high)."""
    min_gain: float = 0.01
    """A pick must newly explain at least this share of all samples, in [0, 1]."""
    layers: int = 3
    """How often every sample is to be explained (>= 1): what seems to be shown may be hidden by a wall."""
    alike_m: float = 0.2
    """A frame this close to a chosen one, metres (> 0), is a near-duplicate and is not picked. Less if it is turned
    too: see `Ground.places`. A recorded frame is a duplicate of recorded frames only."""
    alike_rad: float = float(np.radians(5.0))
    """A frame turned by this angle against a chosen one at the same place is a near-duplicate, radians in (0, pi]."""
    fill_share: float | None = 0.15
    """Slots that are still free go to frames that show at least this share of the samples, in [0, 1], recorded ones
    first, then those that differ most from the chosen ones. None: such slots stay free."""
    recorded_bonus: float = 0.15
    """A frame that was recorded, not generated, is preferred while its gain is within this share of all samples of the
    best, in [0, 1]: it is sharper than what was made of it. Where all frames are recorded this changes nothing."""
    visible_parallax_rad: float = float(np.radians(60.0))
    """`visible`, where depth profiles are known, instead of `parallax_rad`: the samples are the surfaces that the
    target will meet as far as stored frames have seen them. Without profiles `visible` is `coverage`."""

    def __post_init__(self) -> None:
        low, high = self.scale_band
        if not 0 < low <= 1 <= high:
            raise UserError(f"scale_band is {self.scale_band}: it must be (low, high) with 0 < low <= 1 <= high")
        for name in ("parallax_rad", "visible_parallax_rad"):
            if not 0 < getattr(self, name) <= np.pi / 2:
                raise UserError(f"{name} is {getattr(self, name)}: give an angle above 0 and up to pi / 2")
        for name in ("min_gain", "recorded_bonus", "fill_share"):
            _check_share(name, getattr(self, name))
        if self.alike_m <= 0 or not 0 < self.alike_rad <= np.pi:
            raise UserError(f"alike_m {self.alike_m}, alike_rad {self.alike_rad}: need > 0, (0, pi]")
        if self.layers < 1:
            raise UserError(f"layers is {self.layers}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """How `paper` chooses."""

    near_m: float = 1.0
    """Rays must meet at least this far from the target camera, metres (>= 0)."""
    far_m: float | None = None
    """... and at most this far, metres. None: no far limit, as in the published labels."""
    parallel_rad: float = 0.01
    """Headings within this angle count as parallel, radians."""
    far_share: float = 0.25
    """Share of the slots for frames far apart in space and time, when runs alone leave too many."""
    as_published: bool = False
    """The rule as published: `near_m` and no special cases for turning on the spot and parallel views."""

    def __post_init__(self) -> None:
        _check_share("far_share", self.far_share)
        if self.near_m < 0 or (self.far_m is not None and self.far_m <= self.near_m):
            raise UserError(f"paper: near_m {self.near_m}, far_m {self.far_m}: need 0 <= near < far")


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """How many frames are looked at where many are stored, with an index (`ViewIndex`)."""

    frames: int = 1024
    """With more stored frames, `coverage`, `visible` and `frustum` look only at the newest allowed frame of each pose
    bin, recorded and generated frames apart (>= 0)."""
    bin_m: float = 1.0
    """Width of a pose bin, metres (> 0)."""
    bin_rad: float = float(np.radians(20.0))
    """Turn of a pose bin, radians in (0, pi]."""

    def __post_init__(self) -> None:
        if self.frames < 0 or self.bin_m <= 0 or not 0 < self.bin_rad <= np.pi:
            raise UserError(
                f"crowd: frames {self.frames}, bin_m {self.bin_m}, bin_rad {self.bin_rad}: need >= 0, > 0, (0, pi]"
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """How the context is chosen: one rule for training, evaluation and use."""

    strategy: str = "coverage"
    """One of STRATEGIES."""
    max_context: int = 8
    """Frames in the context, the most recent one included (>= 1)."""
    near_m: float = 0.1
    """Where a view begins, metres (> 0). With `far_m` for every strategy but `paper`."""
    far_m: float = 15.0
    """Where a view ends, metres (> near_m)."""
    coverage: Coverage = field(default_factory=Coverage)
    paper: Paper = field(default_factory=Paper)
    crowd: Crowd = field(default_factory=Crowd)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"unknown retrieval strategy {self.strategy!r}: choose one of {', '.join(STRATEGIES)}")
        if self.max_context < 1:
            raise UserError(f"max_context is {self.max_context}: the context needs room for at least 1 frame")
        check_depths(self.near_m, self.far_m)


@dataclass(frozen=True)
class Candidates:
    """What is known of the N stored frames: entry i of everything is frame i.

    allowed: bool [N], entries that may be retrieved (None: all; the most recent frame needs no permission). recorded:
    bool [N], those that were not generated (None: all count alike). profiles_m: [N, PROFILE] depths along each frame's
    horizon, metres, inf where unknown; `visible` without any is `coverage`.
    """

    cameras: Cameras
    allowed: Bools | None = None
    recorded: Bools | None = None
    profiles_m: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, mask in (("allowed", self.allowed), ("recorded", self.recorded)):
            if mask is not None and (mask.shape != (len(self.cameras),) or mask.dtype != np.bool_):
                raise UserError(
                    f"{name} is {mask.dtype} {list(mask.shape)}: give {len(self.cameras)} booleans, one a frame"
                )


@dataclass(frozen=True)
class Retrieval:
    """The chosen context.

    frame_ids: int64 [m], m <= max_context, frame numbers without duplicates; retrieved frames in pick order, the most
    recent frame last. scores: float64 [m] in [0, 1]: `coverage`: share of the target's samples that this pick newly
    explained, or, if it fills a free slot, shows; `paper`: share of the target poses whose ray test it passes; other
    strategies, and the most recent frame in every strategy: exact overlap (mean over `ranking_poses`).
    candidates: int64 [c], ascending: all retrievable entries that pass the strategy's overlap rule (strategies without
    one: all retrievable entries); the most recent frame is among them if it passes.
    """

    frame_ids: Int64[np.ndarray, " m"]
    scores: Float64[np.ndarray, " m"]
    candidates: Int64[np.ndarray, " c"]


def _check_share(name: str, share: float | None) -> None:
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"{name} is {share}: give a share from 0 to 1")


def check_depths(near_m: float, far_m: float) -> None:
    if not (0 < near_m < far_m and np.isfinite(far_m)):
        raise UserError(f"near_m {near_m}, far_m {far_m}: the view needs finite depths 0 < near < far in metres")
