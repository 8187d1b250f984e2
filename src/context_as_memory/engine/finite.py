"""Nothing that is not finite becomes a picture or a memory."""

from typing import Any

import numpy as np
from torch import Tensor

from context_as_memory.errors import UserError


class FinitePictures:
    """An autoencoder (`Pictures`) that refuses numbers that are not finite, on the way in and on the way out."""

    def __init__(self, pictures: Any) -> None:
        self.inner = pictures

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        """Latents [C, T, h, w] of frames uint8 [T, H, W, 3]. `UserError` if one is not finite."""
        latents: Tensor = self.inner.encode(frames_u8)
        refuse(latents, "the autoencoder gave latents")
        return latents

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        """Frames of new latents [1, C, P, h, w]. `UserError` if one of them is not finite."""
        refuse(latents, "the denoiser gave latents")
        frames_u8: np.ndarray = self.inner.decode(recent, latents)
        return frames_u8


def refuse(values: Tensor, what: str) -> None:
    """`UserError` if a value, of a tensor of any shape [...], is NaN or infinite."""
    if not bool(values.isfinite().all()):
        raise UserError(
            f"world: {what} that are not finite; nothing was kept, and what was remembered before is as it was. "
            "Check the weights, or the frames that it remembers (`cam world verify`)"
        )
