"""What the denoiser is given: one layout of target and context frames, used by training and inference alike.

    frame position   0          1 .. P               P + 1
                     recent     target 1 .. P        every retrieved frame

The recent frame stands directly before the targets, as the clean first latent of a clip does in the base model (paper
section 3.3 leaves the new positions open). Retrieved frames are a set: they share one position after the targets, so
their order means nothing and a frame looks the same wherever retrieval ranks it.

Cameras are expressed relative to the first target of the chunk, in metres, so that inputs do not depend on where the
world has its origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.retrieval import Retrieval
from context_as_memory.shapes import Bool, Float, Int


class CameraTensors(NamedTuple):
    """Cameras as the model sees them: `c2w` [..., F, 4, 4] in metres, `K` [..., F, 4] in image units [-1, 1]."""

    c2w: Float[Tensor, "*batch 4 4"]
    K: Float[Tensor, "*batch 4"]

    def flatten(self, first: int, last: int) -> "CameraTensors":
        return CameraTensors(self.c2w.flatten(first, last), self.K.flatten(first, last))

    def to(self, device: torch.device) -> "CameraTensors":
        return CameraTensors(self.c2w.to(device), self.K.to(device))

    @staticmethod
    def cat(parts: Sequence["CameraTensors"], dim: int) -> "CameraTensors":
        return CameraTensors(torch.cat([part.c2w for part in parts], dim), torch.cat([part.K for part in parts], dim))


@dataclass(frozen=True, kw_only=True)
class TokenLayout:
    """Slots of one chunk. Context slot 0 is the recent frame, the others hold retrieved frames or stay empty."""

    num_targets: int = 4  # target latents per chunk
    max_context: int = 8  # context frames, the recent one included

    @property
    def target_positions(self) -> tuple[int, ...]:
        return tuple(range(1, self.num_targets + 1))

    def context_positions(self, slots: int) -> tuple[int, ...]:
        """Frame positions of the first `slots` context slots."""
        return (0,) + (self.num_targets + 1,) * (slots - 1)


@dataclass(frozen=True)
class ModelInputs:
    """Everything but latents that the denoiser needs for S segments of G chunks each."""

    context_index: Int[Tensor, "s g k"]  # int64: entries of the memory (or of the segment's pool); 0 in empty slots
    context_mask: Bool[Tensor, "s g k"]  # False in empty slots
    context_cameras: CameraTensors  # [S, G, K]
    target_cameras: CameraTensors  # [S, G, P]
    context_positions: tuple[int, ...]  # K frame positions
    target_positions: tuple[int, ...]  # P frame positions

    def to(self, device: torch.device) -> "ModelInputs":
        return ModelInputs(
            self.context_index.to(device),
            self.context_mask.to(device),
            self.context_cameras.to(device),
            self.target_cameras.to(device),
            self.context_positions,
            self.target_positions,
        )

    @staticmethod
    def cat(parts: Sequence["ModelInputs"], dim: int) -> "ModelInputs":
        """Join segments (dim 0), or chunks into one segment (dim 1); all must have the same number of slots."""
        if len({part.context_positions for part in parts}) != 1:
            raise ValueError("chunks with different numbers of context slots cannot be joined")
        return ModelInputs(
            torch.cat([part.context_index for part in parts], dim),
            torch.cat([part.context_mask for part in parts], dim),
            CameraTensors.cat([part.context_cameras for part in parts], dim),
            CameraTensors.cat([part.target_cameras for part in parts], dim),
            parts[0].context_positions,
            parts[0].target_positions,
        )


def _relative(
    cameras: Cameras, anchor_w2c: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "n 4 4"], Float[np.ndarray, "n 4"]]:
    return (anchor_w2c @ cameras.c2w).astype(np.float32), cameras.normalized_K().astype(np.float32)


def build_model_inputs(
    layout: TokenLayout, memory: Cameras, target: Cameras, retrieval: Retrieval, slots: int | None = None
) -> ModelInputs:
    """Inputs of one chunk (S = G = 1).

    Args:
        memory: cameras of all stored frames; `retrieval.frame_ids` points into them, most recent frame last.
        target: the P cameras of the target latents.
        slots: context slots K, empty ones masked; as many as there are context frames if None.
    """
    order = np.concatenate([retrieval.frame_ids[-1:], retrieval.frame_ids[:-1]])  # the recent frame has slot 0
    slots = len(order) if slots is None else slots
    if not 0 < len(order) <= slots <= layout.max_context:
        raise ValueError(f"{len(order)} context frames do not fit into {slots} slots of at most {layout.max_context}")
    if len(target) != layout.num_targets:
        raise ValueError(f"a chunk has {layout.num_targets} targets, got {len(target)}")
    index = np.zeros(slots, np.int64)
    index[: len(order)] = order
    # An empty slot borrows the camera of the recent frame: finite numbers, hidden by the mask.
    filled = np.concatenate([order, np.repeat(order[:1], slots - len(order))])
    anchor_w2c = target.w2c[0]
    context_c2w, context_K = _relative(memory[filled], anchor_w2c)
    target_c2w, target_K = _relative(target, anchor_w2c)
    return ModelInputs(
        context_index=_one(index),
        context_mask=_one(np.arange(slots) < len(order)),
        context_cameras=CameraTensors(_one(context_c2w), _one(context_K)),
        target_cameras=CameraTensors(_one(target_c2w), _one(target_K)),
        context_positions=layout.context_positions(slots),
        target_positions=layout.target_positions,
    )


def _one(array: np.ndarray) -> Tensor:
    """Of one segment and one chunk: [...] -> [1, 1, ...]."""
    return torch.from_numpy(array)[None, None]
