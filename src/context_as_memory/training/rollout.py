"""The denoiser walks while it is trained: many walks at once, each as `World.step` would make it.

The cameras of a walk are known beforehand, and retrieval looks at nothing but cameras; so the context of every chunk is
chosen on a CPU before there is a picture (`plan_rollout`), and then all walks go one chunk further in one batch
(`Rollouts.advance`). Sampler, retrieval, token layout, noise on memory and the way through 8-bit pictures are those of
`World`; a test compares the frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.codec import VideoCodec
from context_as_memory.diffusion import TIMESTEPS, FlowMatching, sample_flow
from context_as_memory.retrieval import Candidates, RetrievalConfig, retrieve
from context_as_memory.seeds import draw_seed
from context_as_memory.tokens import ModelInputs, TokenLayout, build_model_inputs


class BatchDenoiser(Protocol):
    """What a walk needs of a `WorldTransformer`, compiled or not."""

    @property
    def prepare(self) -> Callable[..., Any]:
        """(pool, inputs) -> context; denoisers that read words take the rows of the empty prompt too."""

    @property
    def denoise(self) -> Callable[..., Tensor]:
        """(noisy [B, C, P, h, w], timestep [B], context, inputs) -> output [B, C, P, h, w]; denoisers that read words
        take the rows of the prompts too."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a walk is sampled; the fields of `WorldConfig` that matter for its pictures."""

    flow: FlowMatching
    num_steps: int
    multistep: bool
    memory_noise: float


@dataclass(frozen=True)
class RolloutPlan:
    """The contexts of a walk of L chunks that begins with N recorded frames.

    Its memory has N + L P entries: the recorded frames, the last of them where it begins, then those that it makes.
    """

    recorded: int  # N
    inputs: ModelInputs  # [1, L, K]; context_index counts entries


def plan_rollout(
    cameras: Cameras,
    recorded: int,
    layout: TokenLayout,
    retrieval: RetrievalConfig,
    seed: int = 0,
) -> RolloutPlan:
    """Choose the context of every chunk of a walk. cameras: of all entries, N recorded ones, then L P along the way."""
    size = layout.num_targets
    is_recorded = np.arange(len(cameras)) < recorded
    chunks = []
    for number, first in enumerate(range(recorded, len(cameras) - size + 1, size)):
        targets = cameras[first : first + size]
        found = retrieve(
            Candidates(cameras[:first], recorded=is_recorded[:first]),
            targets,
            retrieval,
            recent=first - 1,
            seed=draw_seed(seed, number),
        )
        chunks.append(build_model_inputs(layout, cameras[:first], targets, found, slots=layout.max_context))
    return RolloutPlan(recorded, ModelInputs.cat(chunks, dim=1))


class Rollouts:
    """W walks of equally many chunks, made chunk by chunk.

    latents: of each walk's recorded frames, [C, N, h, w]. seeds: one a walk, as `WorldConfig.seed`.
    fixed_slots: give every chunk all context slots, masked where empty, so that shapes never change (for compiled
    denoisers); else as many as the longest context of the batch needs.
    """

    def __init__(
        self,
        plans: Sequence[RolloutPlan],
        latents: Sequence[Tensor],
        seeds: Sequence[int],
        sampling: Sampling,
        codec: VideoCodec,
        *,
        fixed_slots: bool = False,
    ) -> None:
        self.sampling, self.codec, self.seeds, self.fixed_slots = sampling, codec, list(seeds), fixed_slots
        self.device = latents[0].device
        inputs = ModelInputs.cat([plan.inputs for plan in plans], dim=0)
        self.most = inputs.context_mask.sum(dim=2).amax(dim=0).tolist()  # filled slots of chunk l in any walk
        self.inputs = inputs.to(self.device)
        self.chunks, self.size = inputs.target_cameras.c2w.shape[1:3]
        self.recorded = [plan.recorded for plan in plans]
        entries = max(self.recorded) + self.chunks * self.size
        channels, _, rows, columns = latents[0].shape
        # What the denoiser is shown, [W, entries, C, h, w]; made frames with their bit of noise, always the same.
        self.memory = torch.zeros(len(plans), entries, channels, rows, columns, device=self.device)
        for row, recorded in enumerate(latents):
            self.memory[row, : recorded.shape[1]] = recorded.transpose(0, 1)
        self.made = torch.zeros(len(plans), self.chunks * self.size, channels, rows, columns, device=self.device)
        self.done = 0

    def __len__(self) -> int:
        return len(self.recorded)

    @property
    def finished(self) -> bool:
        return self.done == self.chunks

    @torch.no_grad()
    def advance(self, model: BatchDenoiser) -> Tensor:
        """Make the next chunk of every walk; returns its pictures, [W, 3, P, H, W] in [-1, 1] and 8 bits deep."""
        number, walks = self.done, torch.arange(len(self), device=self.device).unsqueeze(1)
        inputs = self._chunk(number)
        pool = self.memory[walks, inputs.context_index[:, 0]].transpose(1, 2)
        slots = torch.arange(pool.shape[2], device=self.device).expand(len(self), 1, -1)
        inputs = replace(inputs, context_index=slots)
        context = model.prepare(pool, inputs)
        flow = self.sampling.flow

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            output = model.denoise(noisy, timestep, context, inputs).float()
            return flow.velocity_of(output, noisy, timestep / TIMESTEPS)

        shape = (pool.shape[1], self.size, *pool.shape[3:])
        noise = _normal([draw_seed(seed, number) for seed in self.seeds], shape).to(self.device)
        sigmas = flow.sampling_sigmas(self.sampling.num_steps)
        video = as_pictures(self.codec.decode(sample_flow(predict, noise, sigmas, self.sampling.multistep)))
        stored = self.codec.encode_frames(video).float().transpose(1, 2)  # [W, P, C, h, w]
        self.made[:, number * self.size : (number + 1) * self.size] = stored
        self._remember(stored, number)
        self.done += 1
        return video

    def _chunk(self, number: int) -> ModelInputs:
        """The inputs of one chunk of every walk, [W, 1, K]."""
        slots = self.inputs.context_mask.shape[2] if self.fixed_slots else self.most[number]
        one, few = slice(number, number + 1), slice(slots)
        cameras = self.inputs.context_cameras
        return ModelInputs(
            self.inputs.context_index[:, one, few],
            self.inputs.context_mask[:, one, few],
            type(cameras)(cameras.c2w[:, one, few], cameras.K[:, one, few]),
            type(cameras)(*(part[:, one] for part in self.inputs.target_cameras)),
            self.inputs.context_positions[few],
            self.inputs.target_positions,
        )

    def _remember(self, stored: Tensor, number: int) -> None:
        first = [recorded + number * self.size for recorded in self.recorded]
        if self.sampling.memory_noise:
            noise = [
                _normal([draw_seed(seed, -1 - entry - step) for step in range(self.size)], stored.shape[2:])
                for seed, entry in zip(self.seeds, first, strict=True)
            ]
            stored = stored + self.sampling.memory_noise * torch.stack(noise).to(self.device)
        entries = torch.tensor(first).unsqueeze(1) + torch.arange(self.size)
        walks = torch.arange(len(self)).unsqueeze(1)
        self.memory[walks.to(self.device), entries.to(self.device)] = stored


def _normal(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise [len(seeds), *shape], each entry from its own seed, on the CPU."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def as_pictures(video: Tensor) -> Tensor:
    """A decoded video [B, 3, T, H, W] as what a viewer sees: rounded to 8 bits, as `to_video(to_frames(video))`."""
    levels = ((torch.nan_to_num(video.float(), nan=-1.0) + 1.0) * 127.5).round().clamp(0, 255)
    return levels / 127.5 - 1.0
