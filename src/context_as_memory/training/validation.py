"""Figures and pictures during training, always of the same validation videos."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec import VideoCodec
from ..data.dataset import DenoiserBatch, LatentStore, collate, sample_segment
from ..diffusion import TIMESTEPS, sample_flow
from ..formats.video import VideoWriter, to_frames
from ..tokens import ModelInputs
from .recorded import Drawing, Video
from .rollout import Rollouts, Sampling, plan_rollout

SHEET_WALKS = 4
SHEET_STEP = 12  # frames of a walk between two pictures of its row


class Validation:
    """Chunks that begin far from the recent frame, with memory and without; and walks from one picture.

    sheet_frames: length of those walks; 0 for none.
    """

    def __init__(
        self,
        drawing: Drawing,
        sampling: Sampling,
        held_out: Sequence[Video],
        codec: VideoCodec,
        device: torch.device,
        sheet_frames: int,
    ) -> None:
        self.drawing, self.sampling, self.held_out, self.codec = drawing, sampling, held_out, codec
        self.device, self.sheet_frames = device, sheet_frames
        self.store = LatentStore([latents for _, latents in held_out], device)

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Generate the chunks and the walks, and write them; figures in dB of pictures."""
        batch = self._chunks().to(self.device)
        targets, pool = self.store.read(batch.target_frames), self.store.read(batch.pool_frames)
        without = replace(batch.inputs, context_mask=batch.inputs.context_mask.clone())
        without.context_mask[:, :, 1:] = False
        generated = {}
        for name, inputs in (("memory", batch.inputs), ("recent_only", without)):
            generated[name] = self._generate(model, targets.shape, pool, inputs)
        truth = self._pictures(targets)
        figures = {}
        for name, latents in generated.items():
            pictures = self._pictures(latents)
            mse = (pictures - truth).square().mean(dim=(1, 2, 3, 4))
            figures[f"{name}_psnr_db"] = (10 * torch.log10(4 / mse)).mean().item()
            generated[name] = pictures
        _write_samples(folder / f"{step:06d}", [truth, generated["memory"], generated["recent_only"]])
        if self.sheet_frames:
            _write_rows(folder / f"{step:06d}_walks.png", self._walks(model))
        return figures

    def _chunks(self) -> DenoiserBatch:
        """Two chunks of each held-out video that begin far from the recent frame; the same ones every time."""
        rng = np.random.default_rng(1234)
        rule = replace(self.drawing.sampling, chunks=2, causal=0.0, random_context=0.0, jump=1.0)
        slots = sorted({1, *self.drawing.slots})
        most = replace(self.drawing.layout, max_context=slots[-1])
        segments = []
        for cameras, _ in self.held_out:
            tries = (sample_segment(cameras, most, self.drawing.retrieval, rule, rng, slots=slots) for _ in range(8))
            segments.append(max(tries, key=lambda segment: segment.slots))
        fewest = min(segment.slots for segment in segments)
        return collate([segment.shortened(fewest) for segment in segments], self.store.first_frames[:-1].tolist())

    def _generate(self, model: Any, shape: torch.Size, pool: Tensor, inputs: ModelInputs) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(pool.device)
        flow = self.sampling.flow

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            output = model.predict(noisy, timestep, pool, inputs).float()
            return flow.velocity_of(output, noisy, timestep / TIMESTEPS)

        return sample_flow(predict, noise, flow.sampling_sigmas(self.sampling.num_steps), self.sampling.multistep)

    def _walks(self, model: Any) -> list[Tensor]:
        """Two rows for each walk: recorded frames, and what is made of the first; each [3, n, H, W]."""
        layout, retrieval = self.drawing.layout, self.drawing.retrieval
        walks = list(range(min(SHEET_WALKS, len(self.held_out))))
        shortest = min(len(self.held_out[row][0]) for row in walks) - 1
        chunks = max(1, min(self.sheet_frames, shortest) // layout.num_targets)
        length = chunks * layout.num_targets
        plans = [plan_rollout(self.held_out[row][0][: 1 + length], 1, layout, retrieval) for row in walks]
        recorded = [
            self.store.read(torch.tensor([[int(self.store.first_frames[row])]]).to(self.device))[0] for row in walks
        ]
        rollouts = Rollouts(plans, recorded, walks, self.sampling, self.codec)
        made = torch.cat([rollouts.advance(model).cpu() for _ in range(chunks)], dim=2)
        shown = slice(min(SHEET_STEP, length) - 1, None, SHEET_STEP)
        rows = []
        for row in walks:
            frames = int(self.store.first_frames[row]) + 1 + torch.arange(length)[shown]
            rows += [self._pictures(self.store.read(frames.unsqueeze(0).to(self.device)))[0], made[row][:, shown]]
        return rows

    def _pictures(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents).float().clamp(-1, 1).cpu()


def _write_samples(stem: Path, rows: list[Tensor]) -> None:
    """First eight chunks; truth, with memory, recent frame only from top to bottom: a picture of the last frames and,
    where a video library is installed, a video of all."""
    from PIL import Image

    film = torch.cat([torch.cat(list(row[:8]), dim=-1) for row in rows], dim=-2)  # [3, T, H, W]
    frames_u8 = to_frames(film.unsqueeze(0))
    Image.fromarray(frames_u8[-1]).save(stem.with_suffix(".png"))
    if find_spec("av") is not None:
        with VideoWriter(stem.with_suffix(".mp4"), film.shape[-1], film.shape[-2], fps=4) as video:
            video.write(np.tile(frames_u8, (4, 1, 1, 1)))  # a chunk is short: play it four times


def _write_rows(path: Path, rows: list[Tensor]) -> None:
    from PIL import Image

    sheet = torch.cat([torch.cat(list(row.unbind(1)), dim=-1) for row in rows], dim=-2)
    Image.fromarray(to_frames(sheet[None, :, None])[0]).save(path)
