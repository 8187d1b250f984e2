"""What a walk leaves behind: videos with their poses and lens, the inspector picture, the report.

A recorder takes chunks. It holds no pictures: those of a walk are in the memory of its world, which is asked for the
few that are seen again.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.formats.files import check_folder, clear_partials
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses
from context_as_memory.pictures.inspector import InspectedChunk, draw_inspector
from context_as_memory.pictures.sheets import SideBySide
from context_as_memory.retrieval import Retrieval
from context_as_memory.walk.report import closure_report, returns_report, timing

if TYPE_CHECKING:
    from context_as_memory.memory import MemoryBank
    from context_as_memory.world import Chunk, World

OUTPUTS = ("video.mp4", "poses.npy", "intrinsics.npy", "comparison.mp4", "inspector.png", "report.json")
MAX_ROWS = 5  # chunks in the inspector picture
LABELS = ("memory on", "memory off")


@dataclass(frozen=True)
class Frames(Sequence[np.ndarray]):
    """The first frames of a memory by number, uint8 [H, W, 3] each, read when asked for."""

    bank: "MemoryBank"
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        return self.bank.frames_u8(int(number))[0]


@dataclass
class Run:
    """One rollout as it grows; the lists hold one entry per chunk."""

    world: "World"
    retrievals: list[Retrieval] = field(default_factory=list)  # without candidates, which grow with the walk
    seconds: list[dict[str, float]] = field(default_factory=list)

    def add(self, chunk: "Chunk") -> None:
        self.retrievals.append(replace(chunk.retrieval, candidates=np.empty(0, np.int64)))
        self.seconds.append(chunk.seconds)


class Recorder:
    """Records runs that advance in step, so that an interrupted comparison is complete up to its end.

    out: the folder of the files (`prepare_folder`). worlds: by name, the one with memory first, all at the start frame.
    path: the cameras of the walk that begins now. A `with` block closes the videos and writes poses.
    """

    def __init__(self, out: Path, worlds: Mapping[str, "World"], path: Cameras, fps: float) -> None:
        self.out, self.fps = out, fps
        self.runs = {name: Run(world) for name, world in worlds.items()}
        self.banks = [world.bank for world in worlds.values()]
        self.cameras = Cameras.concat([self.banks[0].cameras, path])  # of the world's past, too
        self.before = self.length = len(self.banks[0])  # frames before the first chunk; and so far
        self.starts: list[int] = []  # first frame of every chunk
        self._files = ExitStack()

    @cached_property
    def pairs(self) -> np.ndarray:
        """`find_returns` of the whole walk, [n, 2]; sought when first needed, so that the first frame need not wait for
        it."""
        return find_returns(self.cameras)

    @cached_property
    def _firsts(self) -> dict[int, int]:
        """Frame of the first visit for each return frame."""
        return {int(last): int(first) for first, last in self.pairs}

    @cached_property
    def _revisited(self) -> set[int]:
        return set(self._firsts.values())

    def __enter__(self) -> Self:
        size = self.cameras.width, self.cameras.height
        plays_everywhere = size[0] % 2 == size[1] % 2 == 0
        style = "yuv420p" if plays_everywhere else "yuv444p"
        writer = VideoWriter(self.out / "video.mp4", *size, self.fps, crf=10, pix_fmt=style)
        self._video = self._files.enter_context(writer)
        self._pair_video = None
        if len(self.runs) > 1:
            path, self.comparison = self.out / "comparison.mp4", SideBySide(*size, LABELS)
            writer = VideoWriter(path, *self.comparison.size, self.fps, crf=16, pix_fmt="yuv420p")
            self._pair_video = self._files.enter_context(writer)
        # A walk that goes on shows its new part, from the last frame on.
        self._write(self.before - 1, [bank.frames_u8(self.before - 1) for bank in self.banks])
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        write_poses(self.cameras[self.before - 1 : self.length], self.out)

    def add(self, chunks: Sequence["Chunk"]) -> None:
        """One chunk of every run, of the same cameras."""
        for run, chunk in zip(self.runs.values(), chunks, strict=True):
            run.add(chunk)
        self._write(self.length, [chunk.frames_u8 for chunk in chunks])
        self.starts.append(self.length)
        self.length += len(chunks[0].frames_u8)

    def _write(self, begin: int, frames_u8: Sequence[np.ndarray]) -> None:
        """Frames uint8 [t, H, W, 3] of every run, from frame `begin` on, into the videos."""
        self._video.write(frames_u8[0])
        if self._pair_video is None:
            return
        for number, now in enumerate(zip(*frames_u8, strict=True), start=begin):
            first = self._firsts.get(number)
            then = None if first is None else (self.banks[0].frames_u8(first)[0], self.banks[1].frames_u8(first)[0])
            back = number in self._revisited
            self._pair_video.write(self.comparison.compose(now, number, first=first, then=then, revisited=back))

    @property
    def _pairs_done(self) -> np.ndarray:
        return self.pairs[self.pairs[:, 1] < self.length]

    def report(self, seed: int) -> dict[str, Any]:
        """What the frames and the clock say."""
        frames = {name: Frames(run.world.bank, self.length) for name, run in self.runs.items()}
        pairs = self._pairs_done
        return {
            "interrupted": self.length < len(self.cameras),
            "frames_generated": self.length - self.before,
            "frames_requested": len(self.cameras) - self.before,
            "returns": returns_report(frames, visits(pairs), seed=seed),
            "closure": closure_report(frames, self.cameras[: self.length]) if self.before == 1 else None,
            "timing": {name: timing(run.seconds, self.length - self.before) for name, run in self.runs.items()},
        }

    def draw(self, start_name: str) -> None:
        """Draw the inspector picture."""
        memory = next(iter(self.runs.values()))
        rule = memory.world.config.retrieval
        draw_inspector(
            self.out / "inspector.png",
            self.cameras[: self.length],
            Frames(memory.world.bank, self.length),
            choose_chunks(self.starts, memory.retrievals, self._pairs_done),
            title="What was remembered",
            subtitle=f"{self.length} frames from {start_name}; memory: {rule.strategy}, at most {rule.max_context} "
            "frames of context",
        )

    def files(self) -> list[str]:
        """Names of the files that are there."""
        return [name for name in OUTPUTS if (self.out / name).exists()]


def prepare_folder(folder: Path) -> None:
    """Make the output folder and make sure that files can be written there, before time is spent on generating them."""
    check_folder(folder, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        if (folder / name).is_dir():
            raise UserError(
                f"{folder / name} is a folder, but a file of that name must be written; choose another --out folder"
            )
        clear_partials(folder, name)


def choose_chunks(
    starts: Sequence[int], retrievals: Sequence[Retrieval], pairs: np.ndarray, max_rows: int = MAX_ROWS
) -> list[InspectedChunk]:
    """Pick chunks worth showing: the middle of each return (longest gaps first), filled up with evenly spaced other
    chunks.

    starts: first frame number of each chunk. pairs: int64 [R, 2] of `find_returns`, in the same frame numbers. Result
    in order of time.
    """
    if not starts:
        return []
    chosen: dict[int, InspectedChunk] = {}

    def chunk_of(frame: int) -> int:
        return int(np.searchsorted(starts, frame, side="right")) - 1

    for visit in sorted(visits(pairs), key=lambda v: -v.gap_frames):
        middle = len(visit.frames) // 2
        frame, first = int(visit.frames[middle]), int(visit.firsts[middle])
        chunk = chunk_of(frame)
        if len(chosen) < max_rows and chunk >= 0:
            chosen.setdefault(chunk, InspectedChunk(frame, retrievals[chunk], first))
    returns = dict(pairs[:, ::-1].tolist())
    for chunk in np.linspace(0, len(starts) - 1, max_rows + 2).round().astype(int)[1:-1].tolist():
        if len(chosen) < min(3, max_rows) and all(abs(chunk - other) > 1 for other in chosen):
            chosen[chunk] = InspectedChunk(starts[chunk], retrievals[chunk], returns.get(starts[chunk]))
    return [chosen[chunk] for chunk in sorted(chosen)]
