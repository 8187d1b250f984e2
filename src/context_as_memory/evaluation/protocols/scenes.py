"""What is measured on: recorded chunks, recorded walks and start pictures, drawn evenly over the episodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from context_as_memory.camera import Cameras, MotionSpeed, look, pinhole
from context_as_memory.camera.actions import Z_UP
from context_as_memory.data.episode import Episode
from context_as_memory.data.voxel.styles import UNSEEN
from context_as_memory.errors import UserError
from context_as_memory.evaluation.returns import return_tasks
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.options import ASSUMED_HFOV_DEG
from context_as_memory.formats.pictures import fit_frame, read_image
from context_as_memory.formats.places import start_frame, start_names

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A chunk to generate: remember frames [0, now) of an episode, make those from `start` on."""

    episode: Episode
    now: int
    start: int

    @property
    def name(self) -> str:
        """Where the chunk is, for the name of a clip."""
        return f"{self.episode.name}/{self.start}"


@dataclass(frozen=True)
class StartView:
    """One picture to walk from. group: what it belongs to, such as its episode; frame: uint8 [H, W, 3]; camera: [1];
    up: the vertical of its world [3], None for a level camera."""

    name: str
    group: str
    frame: np.ndarray
    camera: Cameras
    up: tuple[float, float, float] | None = None

    def path(self, actions: str, speed: MotionSpeed | None = None) -> Cameras:
        """The cameras of an action string from here."""
        return cameras_from_actions(self.camera, actions, speed or MotionSpeed(), up=self.up)


def recorded(episode: Episode) -> tuple[np.ndarray, Cameras]:
    """Frames uint8 [T, H, W, 3] and cameras of an episode; the last few asked for stay in working memory."""
    return _recorded(episode.folder)


@lru_cache(maxsize=3)
def _recorded(folder: Path) -> tuple[np.ndarray, Cameras]:
    episode = Episode.open(folder)
    return episode.frames(), episode.cameras()


def style_of(episode: Episode) -> str:
    """The style of an episode's world, from its note: `style`, or that of the voxel world it names; else empty."""
    world = str(episode.meta.get("world", ""))
    return str(episode.meta.get("style", world.rpartition("-")[0]))


def is_unseen(episode: Episode) -> bool:
    """Whether the style of an episode was kept out of training: one of `voxel.styles.UNSEEN`, or so its note says
    (`unseen_style`)."""
    return style_of(episode) in UNSEEN or bool(episode.meta.get("unseen_style", False))


def spread(
    queues: Sequence[list[T]], count: int, fits: Callable[[T, list[T]], bool] = lambda item, chosen: True
) -> list[T]:
    """Draw from the ends of the queues in turn until `count` are chosen or all are empty; what does not fit to those
    chosen before is dropped."""
    chosen: list[T] = []
    while any(queues) and len(chosen) < count:
        for queue in queues:
            while queue and len(chosen) < count:
                item = queue.pop()
                if fits(item, chosen):
                    chosen.append(item)
                    break
    return chosen


def choose_returns(
    episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int, max_withheld: int = 64
) -> list[Task]:
    """Draw up to `clips` returns (`returns.return_tasks`), as evenly over the episodes as they allow, at least two
    chunks apart. Sorted by episode and time. `UserError` when the episodes hold no return at all."""
    rng = np.random.default_rng(seed)
    queues: list[list[Task]] = []
    for episode in episodes:
        found = return_tasks(episode.cameras(), chunk_frames, max_withheld=max_withheld)
        queues.append([Task(episode, int(now), int(start)) for now, start in rng.permutation(found)])

    def far_from_others(task: Task, chosen: list[Task]) -> bool:
        own = [other.start for other in chosen if other.episode is task.episode]
        return all(abs(task.start - start) >= 2 * chunk_frames for start in own)

    chosen = spread(queues, clips, far_from_others)
    if not chosen:
        raise UserError("no camera in these episodes returns to a view; render longer ones with --frames-per-video")
    order = {id(episode): number for number, episode in enumerate(episodes)}
    return sorted(chosen, key=lambda task: (order[id(task.episode)], task.start))


def anywhere(episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int, earliest: int = 100) -> list[Task]:
    """Chunks anywhere on the recorded paths, after the first `earliest` frames: `clips` of them, spread evenly over the
    episodes; fewer if an episode has fewer start frames."""
    rng = np.random.default_rng(seed)
    tasks = []
    for number, episode in enumerate(episodes):
        first = min(earliest, episode.num_frames // 2)
        share = clips // len(episodes) + (number < clips % len(episodes))
        starts = rng.permutation(np.arange(first, episode.num_frames - chunk_frames + 1))[:share]
        tasks += [Task(episode, int(start), int(start)) for start in np.sort(starts)]
    return tasks


def start_of(task: Task) -> StartView:
    """The recorded frame at the start of a task, as a picture to walk from."""
    frames, cameras = recorded(task.episode)
    return StartView(task.name, task.episode.name, frames[task.start], cameras[[task.start]], Z_UP)


def picture_starts(image: Path | None, hfov_deg: float | None, size: tuple[int, int]) -> list[StartView]:
    """A picture file with its horizontal field of view (90 degrees if None), or the shipped start pictures if None,
    fitted to a size (width, height)."""
    if image is None:
        shipped = [start_frame(name) for name in start_names()]
        found = [(start.name, start.frame, start.camera) for start in shipped]
    else:
        frame = read_image(image)
        height, width = frame.shape[:2]
        lens = pinhole(ASSUMED_HFOV_DEG if hfov_deg is None else hfov_deg, width, height)
        found = [(image.stem, frame, look((0.0, 0.0, 0.0), 0.0, lens, width, height))]
    return [StartView(name, name, fit_frame(frame, *size)[0], camera.resized(*size)) for name, frame, camera in found]
