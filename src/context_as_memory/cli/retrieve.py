"""`cam retrieve`: what would be remembered for one frame of a camera file, as text, as JSON, and as a picture.

This looks at poses only; no video and no model are needed.
"""

import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TextIO

import numpy as np

from context_as_memory.camera import Cameras, pinhole, read_cameras
from context_as_memory.errors import UserError
from context_as_memory.pictures.choice import apart, draw_retrieval_map
from context_as_memory.retrieval import Retrieval, RetrievalConfig, retrieve

PAPER_HFOV_DEG = 52.67  # horizontal field of view of the paper's data set
SIZE = (640, 360)  # stands in where a file names no image size; only the field of view counts here


def retrieve_command(
    cameras: Path,
    query: int,
    memory: str,
    json: bool,
    plot: Path | None,
    literal: bool,
    max_context: int,
    seed: int,
    past_only: bool = False,
    out: TextIO | None = None,
) -> None:
    """The `cam retrieve` command: which frames of a camera file would be the context of frame `query`.

    cameras: any file or folder that `read_cameras` reads; pose arrays without intrinsics get 52.67 degrees. The other
    frames of the file are the bank, later ones too (as in the paper's labels) unless `past_only`; the frame before the
    query counts as the most recent one. json: print one JSON object instead of text. plot: write a picture there.
    out: where to print (default: standard output). Raises UserError for an unreadable or empty file, a query that is
    not in it, or an unknown strategy.
    """
    config = RetrievalConfig(strategy=memory, max_context=max_context, literal=literal)
    path = read_any_cameras(cameras)
    if len(path) == 0:
        raise UserError(f"{cameras} holds no cameras: give a file with at least one pose")
    if not 0 <= query < len(path):
        raise UserError(f"frame {query} is not in {cameras}: its {len(path)} frames are numbered 0 to {len(path) - 1}")
    answer = retrieve_for_frame(path, query, config, seed=seed, past_only=past_only)
    hfov_deg = float(np.degrees(path.hfov_rad[query]))
    if plot is not None:
        draw_retrieval_map(plot, path, query, answer, config)
    stream = sys.stdout if out is None else out
    if json:
        report = {
            "query": query,
            "strategy": memory,
            "candidates": answer.candidates.tolist(),
            "selected": answer.indices.tolist(),
            "scores": [round(score, 6) for score in answer.scores.tolist()],
            "num_frames": len(path),
            "hfov_deg": round(hfov_deg, 4),
            "settings": {**asdict(config), "seed": seed, "past_only": past_only},
        }
        print(dumps(report, allow_nan=False), file=stream)
        return
    print(
        f"frame {query} of {len(path)}, strategy {memory}: {len(answer.candidates)} frames qualify, "
        f"{len(answer.indices)} selected ({hfov_deg:.2f} degrees wide)",
        file=stream,
    )
    for rank, (index, score) in enumerate(zip(answer.indices.tolist(), answer.scores.tolist(), strict=True), start=1):
        note = apart(query, index)
        print(f"{rank:4d}  frame {index:6d}  {score:6.3f}  {note}", file=stream)


def read_any_cameras(path: Path) -> Cameras:
    """Like `read_cameras`, for files that need not say how large their images are or how wide they see."""
    path = Path(path)
    poses = path / "poses.npy" if path.is_dir() else path
    if poses.suffix == ".npy" and poses.exists() and not (poses.parent / "intrinsics.npy").exists():
        try:
            c2w = np.load(poses, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{poses} is no readable array file ({error}): write it with numpy.save") from error
        return Cameras(c2w, pinhole(PAPER_HFOV_DEG, *SIZE), *SIZE)
    if path.suffix == ".txt":
        return read_cameras(path, width=SIZE[0], height=SIZE[1])
    return read_cameras(path)


def retrieve_for_frame(
    cameras: Cameras, query: int, config: RetrievalConfig, *, seed: int = 0, past_only: bool = False
) -> Retrieval:
    """Context of one frame of a path out of all other frames (`past_only`: earlier ones); indices are frame numbers."""
    frames = np.arange(len(cameras))
    allowed = frames < query if past_only else frames != query
    return retrieve(
        cameras, cameras[query], config, recent=query - 1 if query > 0 else None, allowed=allowed, seed=seed
    )
