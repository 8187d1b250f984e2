"""Training samples from recorded videos whose latents lie on disk, drawn by worker processes while training goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..camera import Cameras
from ..data.dataset import (
    DenoiserBatch,
    LatentStore,
    SamplingConfig,
    Segment,
    SelfWalk,
    collate,
    draw_walk,
    sample_segment,
)
from ..retrieval import RetrievalConfig
from ..tokens import TokenLayout
from .rollout import plan_rollout
from .self_memory import SelfMemory, SelfWalkConfig, WalkJob

Video = tuple[Cameras, np.ndarray]  # cameras and latents [T, C, h, w] of an episode
TRIES = 4  # draws of a segment until it has as many context frames as wanted


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a source of samples must know of a recipe."""

    sampling: SamplingConfig
    retrieval: RetrievalConfig
    layout: TokenLayout
    segments: int  # of a batch
    slots: tuple[int, ...]  # numbers of context frames, rising; a batch without memory has one
    self_share: float  # share of segments whose memory is own frames
    walks: SelfWalkConfig
    seed: int

    def wanted(self, rng: np.random.Generator) -> tuple[int, ...]:
        """The numbers of context frames that a batch may have; it aims at the last."""
        most = 1 if rng.random() < self.sampling.recent_only else int(rng.choice(self.slots))
        return tuple(sorted({1, *(number for number in self.slots if number <= most)})) if most > 1 else (1,)

    def segment(
        self, cameras: Cameras, slots: Sequence[int], walk: SelfWalk | None, rng: np.random.Generator
    ) -> Segment:
        """A segment from a video; around a walk of the denoiser, if there is one."""
        shown, made = walk.masks(len(cameras)) if walk else (None, None)
        layout = replace(self.layout, max_context=slots[-1])
        return sample_segment(cameras, layout, self.retrieval, self.sampling, rng, slots=slots, shown=shown, made=made)

    def walk(self, cameras: Cameras, rng: np.random.Generator) -> SelfWalk:
        return draw_walk(cameras, self.sampling, self.walks.chunks * self.layout.num_targets, rng)


class RecordedVideos:
    """All latents lie where the model is; a batch is a pure function of step and rank."""

    def __init__(self, videos: Sequence[Video], drawing: Drawing, device: torch.device) -> None:
        self.cameras = [cameras for cameras, _ in videos]
        self.store = LatentStore([latents for _, latents in videos], device)
        self.drawing, self.device = drawing, device
        frames, *shape = self.store.latents.shape
        self.own = SelfMemory(frames, shape, device) if drawing.self_share else None

    def read(self, frames: Tensor) -> Tensor:
        return self.store.read(frames)

    def batch(self, step: int, rank: int) -> DenoiserBatch:
        """All segments have the same number of context frames, so that short contexts cost less."""
        drawing = self.drawing
        rng = np.random.default_rng((drawing.seed, step, rank))
        slots = drawing.wanted(rng)
        round_done = drawing.walks.round_at(step) - 1
        segments, first_frames, own = [], [], []
        for _ in range(drawing.segments):
            walk, video = None, int(rng.integers(len(self.cameras)))
            if self.own is not None and round_done >= 0 and rng.random() < drawing.self_share:
                video, walk = self._walk(round_done, int(rng.integers(drawing.walks.walks)))
            for _ in range(TRIES):
                segment = drawing.segment(self.cameras[video], slots, walk, rng)
                if segment.slots == slots[-1]:
                    break
            segments.append(segment)
            first_frames.append(int(self.store.first_frames[video]))
            own.append(walk is not None)
        fewest = min(segment.slots for segment in segments)
        return collate([segment.shortened(fewest) for segment in segments], first_frames, own)

    def blanks(self) -> list[DenoiserBatch]:
        return []  # shapes vary

    def _walk(self, number: int, row: int) -> tuple[int, SelfWalk]:
        """Walk `row` of a round: everybody who needs it draws it again."""
        rng = np.random.default_rng((self.drawing.seed, 77, number, row))
        video = int(rng.integers(len(self.cameras)))
        return video, self.drawing.walk(self.cameras[video], rng)

    def walks(self, number: int) -> list[WalkJob]:
        jobs = []
        for row in range(self.drawing.walks.walks):
            video, walk = self._walk(number, row)
            entries = np.concatenate([walk.recorded, walk.made])
            cameras, first = self.cameras[video][entries], int(self.store.first_frames[video])
            plan = plan_rollout(cameras, len(walk.recorded), self.drawing.layout, self.drawing.retrieval, seed=row)
            recorded, made = (torch.from_numpy(first + part).to(self.device) for part in (walk.recorded, walk.made))
            jobs.append(WalkJob(video, plan, recorded, made))
        return jobs

    def keep(self, jobs: Sequence[WalkJob], made: Tensor, good: Tensor) -> None:
        assert self.own is not None
        for job, latents, fine in zip(jobs, made, good, strict=True):
            self.own.keep(job.made, latents, fine)
