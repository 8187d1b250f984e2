"""Where the pictures and latents of a memory lie: what a store must do, and the store in working memory."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.shapes import Bool, Float, UInt8

_Item = TypeVar("_Item")


@runtime_checkable
class Store(Protocol):
    """Keeps what a bank remembers. Entries are numbered from 0 in the order of their making and never change."""

    @property
    def steps(self) -> int:
        """How many chunks were generated so far: appends whose note has the key "step"."""
        ...

    def expect(self, frames_u8: UInt8[np.ndarray, "t H W 3"]) -> None:
        """These frames, uint8 [t, H, W, 3], are appended next, as soon as their latents are there: packing them may
        begin. Nothing is kept of them if they are not."""
        ...

    def append(
        self,
        frames_u8: UInt8[np.ndarray, "t H W 3"],
        cameras: Cameras,
        latents: Float[Tensor, "c t h w"],
        note: Mapping[str, Any],
    ) -> None:
        """Keep t frames uint8 [t, H, W, 3], their cameras and latents [C, t, h, w], all or nothing. `note` says where
        they come from, as JSON values. Raises `UserError` when that fails; the store is then unchanged."""
        ...

    def cameras(self) -> Cameras | None:
        """Cameras of all entries, None if there are none. Asked for once, when a bank is opened."""
        ...

    def frames_u8(self, frame_ids: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames by number, uint8 [n, H, W, 3]."""
        ...

    def latents(self, frame_ids: Sequence[int]) -> Float[Tensor, "c n h w"]:
        """Latents of frames by number, [C, n, h, w]."""
        ...

    def readable(self) -> Bool[np.ndarray, " n"] | None:
        """Which entries can be read, bool [N]; None if all can."""
        ...

    def notes(self) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """For each `append` so far, how many entries it brought and its note."""
        ...

    def fork(self) -> "Store":
        """A store in working memory with the same entries; what either takes in from now on is its own. Takes the same
        time however many entries there are. The fork reads old entries of a file for as long as the file is open."""
        ...

    def close(self) -> None:
        """Nothing more will be stored or read."""
        ...


class Log(Generic[_Item]):
    """An append-only list that copies of it share (`copy.copy`) for as long as only one of them goes on."""

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> _Item:
        """Item 0 <= number < len."""
        return self._items[number]

    def extend(self, items: Sequence[_Item]) -> None:
        if len(self._items) > self._length:  # another one has gone on: from here on a list of one's own
            self._items = self._items[: self._length]
        self._items.extend(items)
        self._length += len(items)

    def all(self) -> list[_Item]:
        return self._items[: self._length]


class RamStore:
    """The store in working memory; it ends with the process. Its first entries may lie in another store."""

    def __init__(self, past: Store | None = None, length: int = 0) -> None:
        """past, length: a store whose entries 0 to `length` - 1, all that it has now, are the first ones of this."""
        self._past, self._past_length = past, length
        self._steps = 0 if past is None else past.steps
        self._past_notes = 0 if past is None else len(past.notes())
        self._cameras, self._frames = Log[Cameras](), Log[np.ndarray]()
        self._latents, self._notes = Log[Tensor](), Log[tuple[int, Mapping[str, Any]]]()

    def expect(self, frames_u8: UInt8[np.ndarray, "t H W 3"]) -> None:
        pass

    def append(
        self,
        frames_u8: UInt8[np.ndarray, "t H W 3"],
        cameras: Cameras,
        latents: Float[Tensor, "c t h w"],
        note: Mapping[str, Any],
    ) -> None:
        # Latents of a long walk fill a GPU; few of them are read for a chunk.
        own = [frame.copy() for frame in frames_u8], [latent.clone() for latent in latents.detach().cpu().unbind(1)]
        self._frames.extend(own[0])  # all of it is there: from here on nothing fails
        self._latents.extend(own[1])
        self._cameras.extend([cameras])
        self._notes.extend([(len(frames_u8), note)])
        self._steps += "step" in note

    def cameras(self) -> Cameras | None:
        parts = self._cameras.all()
        if self._past is not None and (before := self._past.cameras()) is not None:
            parts = [before[: self._past_length], *parts]
        return Cameras.concat(parts) if parts else None

    def frames_u8(self, frame_ids: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
        return np.stack([self._frame(number) for number in frame_ids])

    def _frame(self, row: int) -> np.ndarray:
        if self._past is not None and row < self._past_length:
            return self._past.frames_u8([row])[0]
        return self._frames[row - self._past_length]

    def latents(self, frame_ids: Sequence[int]) -> Float[Tensor, "c n h w"]:
        return torch.stack([self._latent(number) for number in frame_ids], dim=1)

    def _latent(self, row: int) -> Tensor:
        if self._past is not None and row < self._past_length:
            return self._past.latents([row])[:, 0]
        return self._latents[row - self._past_length]

    def readable(self) -> Bool[np.ndarray, " n"] | None:
        before = None if self._past is None else self._past.readable()
        if before is None:
            return None
        return np.concatenate([before[: self._past_length], np.ones(len(self._frames), bool)])

    def notes(self) -> Sequence[tuple[int, Mapping[str, Any]]]:
        before = [] if self._past is None else list(self._past.notes()[: self._past_notes])
        return before + self._notes.all()

    @property
    def steps(self) -> int:
        return self._steps

    def fork(self) -> Self:
        twin = copy(self)
        twin._cameras, twin._frames = copy(self._cameras), copy(self._frames)
        twin._latents, twin._notes = copy(self._latents), copy(self._notes)
        return twin

    def close(self) -> None:
        pass
