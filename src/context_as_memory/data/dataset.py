"""Training samples: packed segments of several chunks that share one pool of memory frames.

Follows paper section 3.5 (arXiv 2506.03141): targets are picked at random in a long video, their context is retrieved
from all other frames of that video, past and future, and one sample in ten sees the recent frame only. Retrieval and
inputs are the very functions that generation uses.

What is ours: chunks of one segment are picked near each other in space, so that a frame retrieved by several of them
is encoded once; the pool that retrieval may choose from is a random part of the video, so that memory is sometimes
dense and sometimes poor; frames close in time to the targets are hidden at random, so that memory and not the
neighbouring frame has to explain the view; some chunks begin far from the recent frame; steps between frames vary, so
that slow and fast walkers are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..camera import Cameras
from ..errors import UserError
from ..retrieval import Retrieval, RetrievalConfig, retrieve
from ..tokens import ModelInputs, TokenLayout, build_model_inputs


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How segments are drawn."""

    chunks: int = 8  # G: target chunks per segment
    max_stride: int = 3  # frames of the video between two frames of a chunk: 1 .. max_stride
    radius_m: float = 6.0  # chunks of a segment start within this distance of each other
    pool_frames: tuple[int, int] = (32, 256)  # how many frames of the video retrieval may choose from
    hidden_frames: tuple[int, int] = (4, 60)  # frames on both sides of the targets that memory may not show
    causal: float = 0.3  # share of chunks whose memory lies on one side in time, as in generation
    recent_only: float = 0.1  # share of chunks without memory (paper section 3.5)
    random_context: float = 0.1  # share of chunks with unsuitable memory, so that the model learns to ignore it
    jump: float = 0.5  # share of chunks that begin up to max_jump frames after the recent frame: a sudden return
    max_jump: int = 64


@dataclass(frozen=True)
class Segment:
    """G chunks of one video with their shared pool of memory frames."""

    pool_index: np.ndarray  # int64 [M]: frames of the video
    target_index: np.ndarray  # int64 [G, P]
    inputs: ModelInputs  # context_index points into the pool


def sample_segment(
    cameras: Cameras, layout: TokenLayout, retrieval: RetrievalConfig, config: SamplingConfig, rng: np.random.Generator
) -> Segment:
    """Draw one segment from the cameras of a video; `retrieval.max_context` is the number of context slots."""
    frames, steps = len(cameras), layout.num_targets
    stride = int(rng.integers(1, config.max_stride + 1)) * int(rng.choice((-1, 1)))  # a static world can run backwards
    reach = abs(stride) * steps
    margin = reach + (config.max_jump if config.jump else 0)
    if frames <= 2 * margin + 2:
        raise UserError(f"training: a video of {frames} frames is too short for chunks and jumps that span {margin}")
    valid = np.arange(margin, frames - margin)
    centre = cameras.position[rng.choice(valid)]
    near = valid[np.linalg.norm(cameras.position[valid] - centre, axis=1) < config.radius_m]
    shown = np.zeros(frames, bool)
    around = np.flatnonzero(np.linalg.norm(cameras.position - centre, axis=1) < 2.5 * config.radius_m)
    size = min(int(rng.integers(config.pool_frames[0], config.pool_frames[1] + 1)), len(around))
    shown[rng.choice(around, size, replace=False)] = True

    chunks: list[tuple[np.ndarray, Retrieval]] = []
    for start in rng.choice(near, config.chunks):
        targets = start + stride * np.arange(1, steps + 1)
        gap = int(rng.integers(config.max_jump)) if rng.random() < config.jump else 0
        recent = int(start - np.sign(stride) * gap)
        allowed = shown.copy()
        if rng.random() < config.causal:
            # The past in walking order, up to the recent frame; nothing of the future.
            allowed[recent + 1 if stride > 0 else 0 : None if stride > 0 else recent] = False
        else:
            hidden = int(rng.integers(config.hidden_frames[0], config.hidden_frames[1] + 1))
            allowed[max(0, targets.min() - hidden) : targets.max() + hidden + 1] = False
        if rng.random() < config.recent_only:
            allowed[:] = False
        kind = "random" if rng.random() < config.random_context else retrieval.strategy
        rule, seed = replace(retrieval, strategy=kind), int(rng.integers(2**31))
        found = retrieve(cameras, cameras[targets], rule, recent=recent, allowed=allowed, seed=seed)
        chunks.append((targets, found))

    pool = np.unique(np.concatenate([found.indices for _, found in chunks]))
    row = []
    for targets, found in chunks:
        inputs = build_model_inputs(layout, cameras, cameras[targets], found, slots=layout.max_context)
        in_pool = torch.from_numpy(np.searchsorted(pool, inputs.context_index.numpy()))
        row.append(replace(inputs, context_index=in_pool.masked_fill(~inputs.context_mask, 0)))
    return Segment(pool, np.stack([targets for targets, _ in chunks]), ModelInputs.cat(row, dim=1))


@dataclass(frozen=True)
class WorldBatch:
    """S segments by number: which frames are memory and which are targets, and everything that is not a picture.

    Frames are numbered through all videos, in the order of a `LatentStore`, where their latents lie.
    """

    pool_frames: Tensor  # int64 [S, M]
    target_frames: Tensor  # int64 [S G, P]
    inputs: ModelInputs

    def to(self, device: torch.device) -> "WorldBatch":
        return WorldBatch(self.pool_frames.to(device), self.target_frames.to(device), self.inputs.to(device))


def collate(segments: Sequence[Segment], first_frames: Sequence[int]) -> WorldBatch:
    """Join segments; short pools are filled up with their first frame.

    first_frames: the number of each segment's first video frame, where frames are numbered through all videos.
    """
    size = max(len(segment.pool_index) for segment in segments)
    pools, targets = [], []
    for segment, first in zip(segments, first_frames, strict=True):
        index = segment.pool_index
        pools.append(first + np.concatenate([index, np.repeat(index[:1], size - len(index))]))
        targets.append(first + segment.target_index)
    inputs = ModelInputs.cat([segment.inputs for segment in segments], dim=0)
    return WorldBatch(torch.from_numpy(np.stack(pools)), torch.from_numpy(np.concatenate(targets)), inputs)


class LatentStore:
    """Latents of many videos where the model is, frames numbered through all of them: one float16 tensor."""

    def __init__(self, videos: Sequence[np.ndarray], device: torch.device) -> None:
        """videos: latents [T, C, h, w] each, all of one shape but for T."""
        self.first_frames = np.cumsum([0] + [len(latents) for latents in videos])
        shape = (int(self.first_frames[-1]), *videos[0].shape[1:])
        self.latents = torch.empty(shape, dtype=torch.float16, device=device)
        for first, latents in zip(self.first_frames[:-1], videos, strict=True):
            self.latents[first : first + len(latents)] = torch.from_numpy(np.array(latents, np.float16))

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        return self.latents[frames].float().transpose(1, 2)
