"""Frames that the denoiser made itself, to be its memory in later steps.

In generation memory holds own frames, in training recorded ones; every fault of a frame is then new to the model and
grows from chunk to chunk. So the averaged denoiser walks along training videos while it is trained, with its own
sampler, from own memory and through 8-bit pictures (`Rollouts`); what it makes is stored, and later segments get it in
place of the recorded frames, while the targets stay recorded: it learns to mend what it does wrong. (Recycled errors:
Stable Video Infinity, arXiv 2510.09212; own rollouts: Self-Forcing, arXiv 2506.08009; here with the faults of memory.)

A frame that shows another place than the recorded one would teach the denoiser not to believe its memory; frames
farther from the recorded ones than `own_error` are not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from context_as_memory.codec import VideoCodec
from context_as_memory.training.rollout import BatchDenoiser, RolloutPlan, Rollouts, Sampling


class SelfMemory:
    """One latent [C, h, w] per training frame, float16, and which of them are known, where the model is.

    They are not part of a checkpoint: a run that resumes begins with none and soon has as many again.
    """

    def __init__(self, frames: int, shape: Sequence[int], device: torch.device) -> None:
        self.latents = torch.zeros((frames, *shape), dtype=torch.float16, device=device)
        self.known = torch.zeros(frames, dtype=torch.bool, device=device)

    def keep(self, frames: Tensor, latents: Tensor, good: Tensor) -> None:
        """Remember latents [n, C, h, w] of frames [n]; those that are not `good`, bool [n], count as not known."""
        self.latents[frames] = latents.half()
        self.known[frames] = good

    def read(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Own frames [S, C, M, h, w] of frames [S, M], and which of them are known, bool [S, M]."""
        return self.latents[frames].float().transpose(1, 2), self.known[frames]


@dataclass(frozen=True)
class WalkJob:
    """A walk along a training video; frames are numbered through all videos, as in a `LatentStore`."""

    video: int
    plan: RolloutPlan
    recorded: Tensor  # int64 [N]
    made: Tensor  # int64 [L P]


class WalkSource(Protocol):
    """Where walks come from and where what they made goes."""

    def read(self, frames: Tensor) -> Tensor:
        """Recorded latents [N, C, F, h, w] of frames [N, F]."""
        ...

    def walks(self, number: int) -> list[WalkJob]:
        """The walks of a round; all of equally many chunks. May be empty while there are no videos."""
        ...

    def keep(self, jobs: Sequence[WalkJob], made: Tensor, good: Tensor) -> None:
        """Take what a round has made: latents [W, L P, C, h, w], and which are near the recorded ones, [W, L P]."""
        ...


@dataclass(frozen=True, kw_only=True)
class SelfWalkConfig:
    """How own frames are made."""

    walks: int = 4  # at once
    chunks: int = 12  # length of a walk
    every: int = 8  # steps of training between two chunks
    most_error: float = 0.7  # mean squared distance from the recorded latent up to which a frame is used

    def round_at(self, step: int) -> int:
        """The round of walks that is under way after so many steps, from 0; -1 before the first."""
        return (step // self.every - 1) // self.chunks


class SelfWalks:
    """Goes on with a round of walks every few steps, and hands it to its source when it is done.

    model: a denoiser of its own, to be filled with the averaged weights; denoiser: what it is called through.
    """

    def __init__(
        self,
        config: SelfWalkConfig,
        source: WalkSource,
        model: nn.Module,
        denoiser: BatchDenoiser,
        codec: VideoCodec,
        sampling: Sampling,
        *,
        fixed_slots: bool = False,
    ) -> None:
        self.config, self.source, self.model, self.denoiser = config, source, model.eval(), denoiser
        self.codec, self.sampling, self.fixed_slots = codec, sampling, fixed_slots
        self.jobs: list[WalkJob] = []
        self.rollouts: Rollouts | None = None
        self.figures: dict[str, Tensor] = {}
        self._number = -1  # of the round

    @torch.no_grad()
    def tend(self, step: int, average: Callable[[nn.Module], None]) -> None:
        """Called after every step of training; `average` fills a model with the averaged weights."""
        if step % self.config.every:
            return
        if (number := self.config.round_at(step)) != self._number:
            self._number = number
            self._finish()
            self._begin(number)
        if self.rollouts is not None and not self.rollouts.finished:
            average(self.model)
            self.rollouts.advance(self.denoiser)

    def _begin(self, number: int) -> None:
        self.jobs = self.source.walks(number)
        if not self.jobs:
            self.rollouts = None
            return
        latents = [self.source.read(job.recorded.unsqueeze(0))[0] for job in self.jobs]
        plans = [job.plan for job in self.jobs]
        seeds = [number * len(self.jobs) + row for row in range(len(self.jobs))]
        self.rollouts = Rollouts(plans, latents, seeds, self.sampling, self.codec, fixed_slots=self.fixed_slots)

    def _finish(self) -> None:
        """Hand the frames made so far to the source; after a resume a round may have been too short to end."""
        if self.rollouts is None or not self.rollouts.done:
            return
        made = self.rollouts.made[:, : self.rollouts.done * self.rollouts.size]
        jobs = [WalkJob(job.video, job.plan, job.recorded, job.made[: made.shape[1]]) for job in self.jobs]
        recorded = self.source.read(torch.stack([job.made for job in jobs])).transpose(1, 2)
        error = (made - recorded).square().mean(dim=(2, 3, 4))
        good = error <= self.config.most_error
        self.source.keep(jobs, made, good)
        last = slice(-self.rollouts.size, None)
        self.figures = {
            "self_used": good.float().mean(),
            "self_error_first": error[:, : self.rollouts.size].mean(),
            "self_error_last": error[:, last].mean(),
        }
