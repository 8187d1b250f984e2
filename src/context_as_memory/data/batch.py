"""Many videos at once: what is there already stays, what fails is named, and the rest goes on."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from context_as_memory.data.episode import Episode
from context_as_memory.errors import UserError
from context_as_memory.progress import ProgressBar

FPS = 15


@dataclass(frozen=True)
class RenderSummary:
    """What was done: names of `written` and `existing` episodes, and `seconds` of wall time."""

    written: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """In words."""
        return f"{len(self.written)} episodes written, {len(self.existing)} were there, {self.seconds:.0f} s"


def episode_seed(world: str, video: int, seed: int) -> int:
    """The seed of one video's path: 32 bits that depend on all three arguments and on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{world}/{video}".encode()).digest()[:4], "big")


def make_episodes(
    out: Path,
    recipes: Mapping[str, dict[str, Any]],
    make: Callable[[str], str | None],
    *,
    workers: int = 1,
    progress: bool = True,
    verb: str = "rendered",
) -> RenderSummary:
    """Make the episodes that are not in the folder `out` yet, `workers` at a time.

    Args:
        recipes: for every episode by name, what its note will say. An episode that is there with these values stays.
        make: makes one by name, in a thread; returns None or in words what went wrong.
        verb: what the progress bar calls it.

    Raises `UserError` for episodes of another recipe and, after all others are done, naming those that failed.
    """
    missing, existing = [], []
    for name, recipe in recipes.items():
        if (out / name).exists():
            _require_same_recipe(out / name, recipe)
            existing.append(name)
        else:
            missing.append(name)
    start = time.perf_counter()
    failed = _make_all(missing, make, workers, progress, verb)
    for name in failed:  # a killed process may leave its hidden half-written folder
        for leftover in out.glob(f".{name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
    written = [name for name in missing if name not in failed]
    if failed:
        listing = "; ".join(f"{name}: {problem}" for name, problem in sorted(failed.items()))
        raise UserError(f"{len(failed)} of {len(missing)} videos failed, the others are in {out} ({listing})")
    return RenderSummary(written, existing, time.perf_counter() - start)


def _require_same_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    found = Episode.open(folder).meta
    different = [key for key, value in recipe.items() if found.get(key) != value]
    if different:
        raise UserError(
            f"{folder} holds an episode of another recipe (other {', '.join(different)}); choose another folder"
        )


def _make_all(
    names: list[str], make: Callable[[str], str | None], workers: int, progress: bool, verb: str
) -> dict[str, str]:
    """Make all episodes, `workers` at a time. Returns name -> problem for those that failed."""
    failed = {}
    with ProgressBar(verb, len(names), unit="videos", shown=progress) as bar, ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(make, name): name for name in names}
        try:
            for done in as_completed(waiting):
                problem = done.result()
                if problem:
                    failed[waiting[done]] = problem
                bar.advance(note=waiting[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: finish the videos in work, start no others
            raise
    return failed
