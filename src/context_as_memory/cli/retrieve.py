"""`cam retrieve`: what would be remembered for one frame of a camera file, as text, as JSON, and as a picture.

This looks at poses only; no video and no model are needed.
"""

import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TextIO

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import read_track
from context_as_memory.formats.documents import PAPER_HFOV_DEG
from context_as_memory.formats.options import PoseOptions
from context_as_memory.pictures.choice import apart, draw_retrieval_map
from context_as_memory.retrieval import Candidates, Paper, Retrieval, RetrievalConfig, retrieve


def retrieve_command(
    cameras: Path,
    query: int,
    strategy: str,
    json: bool,
    plot: Path | None,
    as_published: bool,
    max_context: int,
    seed: int,
    past_only: bool = False,
    out: TextIO | None = None,
    poses: PoseOptions | None = None,
    hfov_deg: float | None = None,
    intrinsics: Path | None = None,
) -> None:
    """The `cam retrieve` command: which frames of a camera file would be the context of frame `query`.

    cameras: any file or folder that `read_track` reads, understood by `poses`, `hfov_deg` and `intrinsics`; without
    a lens it gets 52.67 degrees. query: a frame number as the file counts. The other frames of the file are the
    bank, later ones too (as in the paper's labels) unless `past_only`; the frame before the
    query counts as the most recent one. json: print one JSON object instead of text. plot: write a picture there.
    out: where to print (default: standard output). Raises UserError for an unreadable or empty file, a query that is
    not in it, or an unknown strategy.
    """
    config = RetrievalConfig(strategy=strategy, max_context=max_context, paper=Paper(as_published=as_published))
    track = read_track(cameras, poses, hfov_deg=hfov_deg, assumed_hfov_deg=PAPER_HFOV_DEG, intrinsics=intrinsics)
    path, asked = track.upright(), query
    if len(path) == 0:
        raise UserError(f"{cameras} holds no cameras: give a file with at least one pose")
    query = track.frame(asked)
    for line in track.lines():
        print(f"cam: {line}", file=sys.stderr)
    numbers = np.arange(len(path)) if track.numbers is None else np.array(track.numbers)
    answer = retrieve_for_frame(path, query, config, seed=seed, past_only=past_only)
    wide_deg = float(np.degrees(path.hfov_rad[query]))
    if plot is not None:
        draw_retrieval_map(plot, path, query, answer, config, numbers)
    stream = sys.stdout if out is None else out
    if json:
        report = {
            "query": asked,
            "strategy": strategy,
            "candidates": numbers[answer.candidates].tolist(),
            "selected": numbers[answer.frame_ids].tolist(),
            "scores": [round(score, 6) for score in answer.scores.tolist()],
            "num_frames": len(path),
            "hfov_deg": round(wide_deg, 4),
            "cameras": track.report(),
            "settings": {**asdict(config), "seed": seed, "past_only": past_only},
        }
        print(dumps(report, allow_nan=False), file=stream)
        return
    print(
        f"frame {asked} of {len(path)}, strategy {strategy}: {len(answer.candidates)} frames qualify, "
        f"{len(answer.frame_ids)} selected ({wide_deg:.2f} degrees wide)",
        file=stream,
    )
    for rank, (index, score) in enumerate(zip(answer.frame_ids.tolist(), answer.scores.tolist(), strict=True), start=1):
        note = apart(query, index)
        print(f"{rank:4d}  frame {numbers[index]:6d}  {score:6.3f}  {note}", file=stream)


def retrieve_for_frame(
    cameras: Cameras, query: int, config: RetrievalConfig, *, seed: int = 0, past_only: bool = False
) -> Retrieval:
    """Context of one frame of a path out of all other frames (`past_only`: earlier ones), by frame numbers."""
    frames = np.arange(len(cameras))
    allowed = frames < query if past_only else frames != query
    return retrieve(
        Candidates(cameras, allowed=allowed), cameras[query], config, recent=query - 1 if query > 0 else None, seed=seed
    )
