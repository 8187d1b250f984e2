"""A branch of a world file as the store of a memory bank."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.storage.content import encode_frames
from context_as_memory.storage.file import MAIN, ChunkInfo, WorldFile
from context_as_memory.stores import RamStore

CACHED_CHUNKS = 32  # whose pictures and latents stay in working memory

_Value = TypeVar("_Value")


class BranchStore:
    """One branch of a world file as the `Store` of a memory bank. Chunks whose note or cameras turn out to be damaged
    count as lost: the others open."""

    def __init__(self, file: WorldFile, branch: str = MAIN) -> None:
        self.file, self.branch = file, branch
        self.chunks = file.history(file.branch_head(branch))
        self._size = file.size
        whole = file.whole_cameras(self.chunks)
        self.chunks = [info if info.id in whole else replace(info, lost=True) for info in self.chunks]
        self._first = [info.first for info in self.chunks]
        self._frames: _Cache[np.ndarray] = _Cache(lambda info: file.frames_u8(info, self._size))
        self._latents: _Cache[Tensor] = _Cache(self._read_latents)
        self.latent_shape: tuple[int, int, int] | None = None  # [C, h, w] that the networks need; None: any
        self._packer = ThreadPoolExecutor(1, "pack")
        self._expected: tuple[np.ndarray, Future[bytes]] | None = None

    def _read_latents(self, info: ChunkInfo) -> Tensor:
        latents = self.file.latents(info)
        shape = (latents.shape[0], *latents.shape[2:])
        if self.latent_shape not in (None, shape):
            raise UserError(
                f"latents of chunk {info.id} in {self.file.folder} are {list(shape)}, these weights need "
                f"{list(self.latent_shape or ())}; run `cam world verify {self.file.folder}`"
            )
        return latents

    @property
    def steps(self) -> int:
        """Generated chunks so far: the random state of what comes next, together with the world's seed."""
        return self.chunks[-1].steps if self.chunks else 0

    @property
    def _head(self) -> int | None:
        return self.chunks[-1].id if self.chunks else None

    def expect(self, frames_u8: np.ndarray) -> None:
        """Begin to pack the frames that are appended next, uint8 [t, H, W, 3].

        A chunk of 832x480 takes a second, in which the networks make its latents.
        """
        self._expected = frames_u8, self._packer.submit(encode_frames, frames_u8)

    def append(self, frames_u8: np.ndarray, cameras: Cameras, latents: Tensor, note: Mapping[str, Any]) -> None:
        """Keep t frames uint8 [t, H, W, 3], their cameras and latents [C, t, h, w], see `Store.append`."""
        if (cameras.width, cameras.height) != self._size:
            raise UserError(f"the world in {self.file.folder} is of {self._size} pictures")
        expected, self._expected = self._expected, None
        packed = expected[1].result() if expected is not None and expected[0] is frames_u8 else None
        info = self.file.append(self.branch, frames_u8, cameras, latents, note, after=self._head, packed=packed)
        self.chunks.append(info)
        self._first.append(info.first)

    def cameras(self) -> Cameras | None:
        """Those of chunks that lost theirs are placeholders: the nearest ones before, or else after, that are known.
        `readable` tells that nothing is to be read there."""
        if not self.chunks:
            return None
        whole = self.file.whole_cameras(self.chunks)
        known = [info for info in self.chunks if info.id in whole]
        if not known:
            raise UserError(f"all chunks of branch {self.branch!r} of the world in {self.file.folder} are damaged")
        rows = np.concatenate([info.first + np.arange(info.frames) for info in known])
        c2w, K = (np.concatenate(parts) for parts in zip(*(whole[info.id] for info in known), strict=True))
        entries = np.arange(self.chunks[-1].first + self.chunks[-1].frames)
        return Cameras(c2w, K, *self._size)[np.maximum(np.searchsorted(rows, entries, side="right") - 1, 0)]

    def frames_u8(self, frame_ids: Sequence[int]) -> np.ndarray:
        """Frames by number, uint8 [n, H, W, 3]."""
        return np.stack([self._frames(info)[row] for info, row in self._locate(frame_ids)])

    def latents(self, frame_ids: Sequence[int]) -> Tensor:
        """Latents of frames by number, [C, n, h, w]."""
        return torch.stack([self._latents(info)[:, row] for info, row in self._locate(frame_ids)], dim=1)

    def readable(self) -> np.ndarray | None:
        """Which entries can be read, bool [N]; None if all can."""
        if not any(info.lost for info in self.chunks):
            return None
        return np.repeat([not info.lost for info in self.chunks], [info.frames for info in self.chunks])

    def notes(self) -> list[tuple[int, Mapping[str, Any]]]:
        return [(info.frames, info.note) for info in self.chunks]

    def fork(self) -> RamStore:
        return RamStore(self, self.chunks[-1].first + self.chunks[-1].frames if self.chunks else 0)

    def close(self) -> None:
        self._packer.shutdown()
        self.file.close()

    def _locate(self, frame_ids: Sequence[int]) -> list[tuple[ChunkInfo, int]]:
        """For each frame its chunk and its row there."""
        at = np.searchsorted(self._first, frame_ids, side="right") - 1
        return [(self.chunks[i], number - self._first[i]) for i, number in zip(at.tolist(), frame_ids, strict=True)]


class _Cache(Generic[_Value]):
    """What was read of the chunks used last."""

    def __init__(self, read: Callable[[ChunkInfo], _Value]) -> None:
        self._read, self._held = read, OrderedDict[int, _Value]()

    def __call__(self, info: ChunkInfo) -> _Value:
        if info.id not in self._held:
            self._held[info.id] = self._read(info)
        self._held.move_to_end(info.id)
        if len(self._held) > CACHED_CHUNKS:
            self._held.popitem(last=False)
        return self._held[info.id]
