"""The slow twin: the networks as they are defined, asked through the same few verbs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from context_as_memory.adapters.text import Said, Words
from context_as_memory.codec import VideoCodec
from context_as_memory.formats.video import to_frames, to_video
from context_as_memory.tokens import ModelInputs
from context_as_memory.transformer import KeysValues, WorldTransformer


class PlainDenoiser:
    """The `WorldTransformer` itself, of any kind."""

    def __init__(self, model: WorldTransformer) -> None:
        self.model = model
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def read(self, latents: Tensor) -> list[KeysValues] | None:
        """Keys and values of clean frames [C, K, h, w], [n, heads, hd] per layer and frame. One at a time: the last
        bits of a batched product depend on the batch, and a world that is opened again must go on exactly. None where
        context frames see each other and nothing can be cached."""
        if self.model.config.context_mode != "per_frame":
            return None
        latents, unsaid = latents.unsqueeze(0).to(self.device, self.dtype), self._unsaid()
        alone = (self.model.encode_context(latents[:, :, [frame]], text=unsaid) for frame in range(latents.shape[2]))
        return [[(k[0, 0], v[0, 0]) for k, v in frame] for frame in alone]

    def _unsaid(self) -> Tensor | None:
        """The words that memory is read with: none. Then its keys do not depend on the prompt, which may change."""
        words: Words | None = self.model.words
        return None if words is None else words("").to(self.device, self.dtype)

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: list[KeysValues] | None, said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for one chunk, a context [C, K, h, w]; see `Denoiser.place`."""
        slots = torch.arange(latents.shape[1]).view(1, 1, -1)
        inputs = replace(inputs, context_index=slots).to(self.device)
        encoded = None
        if cached is not None:
            layers = zip(*cached, strict=True)
            found = [tuple(torch.stack(parts).unsqueeze(0) for parts in zip(*layer, strict=True)) for layer in layers]
            encoded = [(k, v) for k, v in found]
        pool = latents.unsqueeze(0).to(self.device, self.dtype)
        context = self.model.prepare(pool, inputs, text=self._unsaid(), encoded=encoded)

        def output(noisy: Tensor, timestep: float) -> Tensor:
            time = torch.full((1,), timestep, device=self.device)

            def predict(text: Tensor | None) -> Tensor:
                text = None if text is None else text.to(self.device, self.dtype)
                return self.model.denoise(noisy.to(self.dtype), time, context, inputs, text).float()

            return predict(None) if said is None else said.led(predict)

        return output

    def place_together(
        self, chunks: Sequence[tuple[Tensor, ModelInputs, list[KeysValues] | None]]
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for B chunks [C, K, h, w], one after the other; see `Denoiser.place_together`."""
        return one_by_one([self.place(*chunk) for chunk in chunks])


def one_by_one(networks: Sequence[Callable[[Tensor, float], Tensor]]) -> Callable[[Tensor, float], Tensor]:
    """The networks of B chunks as one function of noisy targets [B, C, P, h, w], asked one after the other."""

    def output(noisy: Tensor, timestep: float) -> Tensor:
        each = zip(networks, noisy.split(1), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([network(part, timestep) for network, part in each])

    return output


class PlainPictures:
    """A codec of any kind."""

    def __init__(self, codec: VideoCodec, device: torch.device) -> None:
        self.codec, self.device = codec, device

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        """uint8 [T, H, W, 3] -> latents [C, T, h, w], each frame alone."""
        return self.codec.encode_frames(to_video(frames_u8, self.device))[0]

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        """New latents [1, C, P, h, w] -> uint8; a causal video codec continues from the recent frame's latent
        [C, 1, h, w]."""
        if self.codec.temporal_factor == 1:
            return to_frames(self.codec.decode(latents))
        _, state = self.codec.decode_next(recent.unsqueeze(0).to(self.device).float())
        return to_frames(self.codec.decode_next(latents, state)[0])
