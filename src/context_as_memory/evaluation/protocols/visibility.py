"""Retrieved frames against true visibility, where the map of an episode is known."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from context_as_memory.data.episode import Episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.covisibility import grown, shown
from context_as_memory.evaluation.protocols.scenes import Task

SHOWS = 0.1  # a frame shows the target if it shows this share of what the target sees


def retrieval_scores(task: Task, frame_ids: np.ndarray) -> dict[str, float | None]:
    """Against the map's walls: which share of the retrieved frames, by number [m], shows the target (precision), and
    which share of what the target sees, and the past has seen, they and the most recent frame show (recall). Empty
    without a map."""
    bits = _true_bits(task.episode.folder)
    if bits is None:
        return {}
    wanted = np.unique(bits[task.start : task.start + 4])
    wanted = wanted[np.isin(wanted, grown(bits[: task.now]))]
    if len(wanted) < 20:
        return {}
    each = [float(np.isin(wanted, grown(bits[[row]])).mean()) for row in frame_ids]
    together = float(np.isin(wanted, grown(bits[frame_ids])).mean())
    precision = float(np.mean([share >= SHOWS for share in each[:-1]])) if len(each) > 1 else None
    return {"precision": precision, "recall": together}


@lru_cache(maxsize=8)
def _true_bits(folder: Path) -> np.ndarray | None:
    """The bits of wall that each frame of an episode shows; None if its map is not known."""
    from context_as_memory.data.render import load_map

    episode = Episode.open(folder)
    name = episode.meta.get("map")
    if name is None:
        return None
    try:
        return shown(load_map(str(name)), episode.cameras())
    except UserError:  # the maps come with the `render` extra
        return None
