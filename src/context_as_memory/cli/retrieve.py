"""`cam retrieve`: what would be remembered for one frame of a camera file, as text, as JSON, and as a picture.

This looks at poses only; no video and no model are needed.
"""

import sys
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from context_as_memory.errors import UserError
from context_as_memory.formats.options import PoseOptions
from context_as_memory.walk.config import Strategy

if TYPE_CHECKING:
    from context_as_memory.camera import Cameras
    from context_as_memory.retrieval import Retrieval, RetrievalConfig


@dataclass(frozen=True, kw_only=True)
class Retrieve:
    """Which remembered frames would be the context? From camera poses alone: no model, no pictures."""

    cameras: Path
    """Camera file or folder: poses.npy, .npz, transforms.json, COLMAP, TUM, KITTI, RealEstate10K, Unreal JSON and
    others (docs/formats.md)."""
    query: int
    """Frame number that the context is for, as the file counts its frames."""
    poses: PoseOptions = PoseOptions()
    """How the camera file is to be understood."""
    hfov_deg: float | None = None
    """Horizontal field of view in degrees, for files without a lens."""
    intrinsics: Path | None = None
    """Lens: fx fy cx cy in pixels, as an array or as text, instead of that in or beside the file."""
    strategy: Strategy = "coverage"
    """How the context is chosen."""
    max_context: int = 8
    """Frames in the context, the most recent one included."""
    as_published: bool = False
    """With `paper`: the published rule as it stands, without our special cases."""
    past_only: bool = False
    """Choose among earlier frames only; otherwise among later ones as well, as in the paper's labels."""
    seed: int = 0
    """For the strategies that draw at random."""
    json: bool = False
    """Print one JSON object instead of text."""
    plot: Path | None = None
    """Write a PNG with the map there."""


def retrieve_command(command: Retrieve, out: TextIO | None = None) -> int:
    """Say which frames of a camera file would be the context of one of them; returns the exit code.

    A file without a lens gets 52.67 degrees. The other frames of the file are the bank, later ones too (as in the
    paper's labels) unless `past_only`; the frame before the query counts as the most recent one. out: where to print
    (default: standard output). Raises UserError for an unreadable or empty file, a query that is not in it, or an
    unknown strategy.
    """
    import numpy as np

    from context_as_memory.formats.cameras import read_track
    from context_as_memory.formats.documents import PAPER_HFOV_DEG
    from context_as_memory.pictures.choice import apart, draw_retrieval_map
    from context_as_memory.retrieval import Paper, RetrievalConfig

    rule = Paper(as_published=command.as_published)
    config = RetrievalConfig(strategy=command.strategy, max_context=command.max_context, paper=rule)
    track = read_track(
        command.cameras,
        command.poses,
        hfov_deg=command.hfov_deg,
        assumed_hfov_deg=PAPER_HFOV_DEG,
        intrinsics=command.intrinsics,
    )
    path, asked = track.upright(), command.query
    if len(path) == 0:
        raise UserError(f"{command.cameras} holds no cameras: give a file with at least one pose")
    query = track.frame(asked)
    for line in track.lines():
        print(f"cam: {line}", file=sys.stderr)
    numbers = np.arange(len(path)) if track.numbers is None else np.array(track.numbers)
    answer = retrieve_for_frame(path, query, config, seed=command.seed, past_only=command.past_only)
    wide_deg = float(np.degrees(path.hfov_rad[query]))
    if command.plot is not None:
        draw_retrieval_map(command.plot, path, query, answer, config, numbers)
    stream = sys.stdout if out is None else out
    if command.json:
        report = {
            "query": asked,
            "strategy": command.strategy,
            "candidates": numbers[answer.candidates].tolist(),
            "selected": numbers[answer.frame_ids].tolist(),
            "scores": [round(score, 6) for score in answer.scores.tolist()],
            "num_frames": len(path),
            "hfov_deg": round(wide_deg, 4),
            "cameras": track.report(),
            "settings": {**asdict(config), "seed": command.seed, "past_only": command.past_only},
        }
        print(dumps(report, allow_nan=False), file=stream)
        return 0
    print(
        f"frame {asked} of {len(path)}, strategy {command.strategy}: {len(answer.candidates)} frames qualify, "
        f"{len(answer.frame_ids)} selected ({wide_deg:.2f} degrees wide)",
        file=stream,
    )
    for rank, (index, score) in enumerate(zip(answer.frame_ids.tolist(), answer.scores.tolist(), strict=True), start=1):
        note = apart(query, index)
        print(f"{rank:4d}  frame {numbers[index]:6d}  {score:6.3f}  {note}", file=stream)
    return 0


def retrieve_for_frame(
    cameras: "Cameras", query: int, config: "RetrievalConfig", *, seed: int = 0, past_only: bool = False
) -> "Retrieval":
    """Context of one frame of a path out of all other frames (`past_only`: earlier ones), by frame numbers."""
    import numpy as np

    from context_as_memory.retrieval import Candidates, retrieve

    frames = np.arange(len(cameras))
    allowed = frames < query if past_only else frames != query
    return retrieve(
        Candidates(cameras, allowed=allowed), cameras[query], config, recent=query - 1 if query > 0 else None, seed=seed
    )
