"""The memory bank: every frame so far with its camera and its latent, append-only.

Frame, camera and latent enter together and cannot part: there is one `append`, it takes all three, and entry i of each
is always the same frame.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .camera import Cameras
from .errors import UserError


@dataclass
class MemoryBank:
    """Stored frames in the order of their making; entry i is frame i of the walk."""

    _frames: list[np.ndarray] = field(default_factory=list)  # uint8 [t, H, W, 3] pieces
    _latents: list[Tensor] = field(default_factory=list)  # [C, h, w] per frame
    _c2w: np.ndarray = field(default_factory=lambda: np.empty((0, 4, 4)))  # with spare room: appending is O(1)
    _K: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    _size: tuple[int, int] | None = None  # width, height

    def __len__(self) -> int:
        return len(self._latents)

    def append(self, frames_u8: np.ndarray, cameras: Cameras, latents: Tensor) -> None:
        """Store t frames: uint8 [t, H, W, 3], t cameras of the same picture size, latents [C, t, h, w].

        Raises `UserError` when the three do not belong together; the bank is then unchanged.
        """
        count = len(frames_u8)
        if not (count == len(cameras) == latents.shape[1]):
            raise UserError(
                f"memory: {count} frames, {len(cameras)} cameras and {latents.shape[1]} latents; "
                "give one of each per frame"
            )
        if frames_u8.dtype != np.uint8 or frames_u8.shape[1:] != (cameras.height, cameras.width, 3):
            raise UserError(
                f"memory: frames are {frames_u8.dtype} {frames_u8.shape[1:]}, the cameras are for uint8 "
                f"({cameras.height}, {cameras.width}, 3) pictures"
            )
        if self._size not in (None, (cameras.width, cameras.height)):
            raise UserError(f"memory: holds frames of {self._size}, got {(cameras.width, cameras.height)}")
        start, end = len(self), len(self) + count
        if end > len(self._c2w):
            room = max(64, 2 * end)
            c2w, K = np.empty((room, 4, 4)), np.empty((room, 4))
            c2w[:start], K[:start] = self._c2w[:start], self._K[:start]
            self._c2w, self._K = c2w, K
        self._c2w[start:end], self._K[start:end] = cameras.c2w, cameras.K
        self._size = (cameras.width, cameras.height)
        self._frames += [frame.copy() for frame in frames_u8]
        self._latents += [latent.detach().clone() for latent in latents.unbind(1)]

    @property
    def cameras(self) -> Cameras:
        """Cameras of all stored frames."""
        if self._size is None:
            raise UserError("memory: the bank is empty; reset the world with at least one start frame")
        return Cameras(self._c2w[: len(self)].copy(), self._K[: len(self)].copy(), *self._size)

    def frames_u8(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Stored frames, uint8 [n, H, W, 3] (an integer index gives n = 1)."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        return np.stack([self._frames[row] for row in rows])

    def latents(self, index: np.ndarray) -> Tensor:
        """Latents of the given entries, [C, n, h, w]."""
        return torch.stack([self._latents[int(row)] for row in index], dim=1)
