"""Figures and pictures during training, always of the same validation videos."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.codec import VideoCodec
from context_as_memory.data.dataset import DenoiserBatch, Segment, Video, collate
from context_as_memory.diffusion import TIMESTEPS, sample_flow
from context_as_memory.formats.video import VideoWriter, to_frames
from context_as_memory.training.recorded import Drawing, RecordedVideos
from context_as_memory.training.rollout import Rollouts, Sampling, plan_rollout

SHEET_WALKS = 4
SHEET_STEP = 12  # frames of a walk between two pictures of its row


class Validation:
    """Chunks that begin far from the recent frame, with memory and without; and walks from one picture.

    held_out: videos, or cameras of T frames and their latents [T, C, h, w]. sheet_frames: length of those walks; 0 for
    none. prompts: rows [T, text_dim] by prompt, for networks that read words.
    """

    def __init__(
        self,
        drawing: Drawing,
        sampling: Sampling,
        held_out: Sequence[Video | tuple[Cameras, np.ndarray]],
        codec: VideoCodec,
        device: torch.device,
        sheet_frames: int,
        prompts: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.drawing, self.sampling, self.codec = replace(drawing, self_share=0.0), sampling, codec
        self.device, self.sheet_frames = device, sheet_frames
        self.source = RecordedVideos(held_out, self.drawing, device, prompts)
        self.held_out, self.store = self.source.videos, self.source.store

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Generate the chunks and the walks, and write them; figures in dB of pictures."""
        batch = self._chunks().to(self.device)
        targets, pool = latents_of(self.source, batch)
        index = batch.inputs.context_index[:, :, 0]  # the recent frame
        recent = pool.transpose(1, 2)[torch.arange(len(pool), device=pool.device).unsqueeze(1), index].flatten(0, 1)
        without = replace(batch.inputs, context_mask=batch.inputs.context_mask.clone())
        without.context_mask[:, :, 1:] = False
        generated = {}
        for name, inputs in (("memory", batch.inputs), ("recent_only", without)):
            generated[name] = self._generate(model, targets.shape, pool, replace(batch, inputs=inputs))
        truth = self._pictures(targets, recent)
        figures = {}
        for name, latents in generated.items():
            pictures = self._pictures(latents, recent)
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
        drawing = replace(self.drawing, sampling=rule)
        segments: list[Segment] = []
        for video in self.held_out:
            tries = (drawing.segment(video.cameras, slots, None, rng, video.starts) for _ in range(8))
            segments.append(max(tries, key=lambda segment: segment.slots))
        fewest = min(segment.slots for segment in segments)
        segments, videos = [segment.shortened(fewest) for segment in segments], range(len(self.held_out))
        alone = self.source.clips is None
        first_frames = self.store.first_frames[:-1].tolist()
        batch = collate(segments, first_frames) if alone else self.source.of_clips(segments, videos)
        return self.source.told(batch, segments, videos, None)

    def _generate(self, model: Any, shape: torch.Size, pool: Tensor, batch: DenoiserBatch) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(pool.device)
        flow = self.sampling.flow

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            output = model.predict(noisy, timestep, pool, batch.inputs, *words_of(batch, model)).float()
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

    def _pictures(self, latents: Tensor, recent: Tensor | None = None) -> Tensor:
        """Decoded latents; those of clips stand behind their recent frame, [B, C, h, w], which is cut off again."""
        if recent is None or self.codec.temporal_factor == 1:
            return self.codec.decode(latents).float().clamp(-1, 1).cpu()
        whole = self.codec.decode(torch.cat((recent.unsqueeze(2), latents), dim=2))
        return whole[:, :, 1:].float().clamp(-1, 1).cpu()


def latents_of(source: Any, batch: DenoiserBatch) -> tuple[Tensor, Tensor]:
    """Targets [S G, C, P, h, w] and pools [S, C, M, h, w]: those that came with the batch, or those of its source."""
    if batch.targets is not None and batch.pool is not None:
        return batch.targets.float(), batch.pool.float()
    return source.read(batch.target_frames), source.read(batch.pool_frames)


def words_of(batch: DenoiserBatch, model: Any) -> tuple[Tensor, ...]:
    """The prompts of a batch, [B, T, text_dim], in the number format of the network, and no words for its memory;
    nothing for networks that read none."""
    if batch.words is None or batch.no_words is None:
        return ()
    dtype = model.condition_embedder.text_embedder.linear_1.weight.dtype
    return batch.words.to(dtype), batch.no_words.to(dtype)


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
