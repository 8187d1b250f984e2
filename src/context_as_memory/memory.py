"""The memory bank: every frame so far with its camera and its latent, append-only.

Frame, camera and latent enter together and cannot part: there is one `append`, it takes all three, and entry i of each
is always the same frame. Cameras stay in working memory, because retrieval reads all of them for every chunk; where
pictures and latents lie is the business of a `Store`: in working memory (`stores.RamStore`), or in a world file
(`storage.BranchStore`).
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from torch import Tensor

from context_as_memory.camera import PROFILE, Cameras, profiles_from_note, profiles_to_note
from context_as_memory.errors import UserError
from context_as_memory.shapes import Bool, Float, Float32, UInt8
from context_as_memory.stores import RamStore, Store


class MemoryBank:
    """Stored frames in the order of their making; entry i is frame i of the walk."""

    def __init__(self, store: Store | None = None) -> None:
        self.store: Store = RamStore() if store is None else store
        self._c2w, self._K = np.empty((0, 4, 4)), np.empty((0, 4))  # with spare room: appending is O(1)
        self._size: tuple[int, int] | None = None  # width, height
        self._length = 0
        # Depth along the horizon of each entry, metres, inf where unknown; part of the note, so every store keeps it.
        self._profiles_m = np.empty((0, PROFILE), np.float32)
        self._generated = np.empty(0, bool)  # or recorded; the note tells
        self._withdrawn: tuple[int, ...] = ()  # entries that an edit took out of retrieval; notes tell
        held = self.store.cameras()
        if held is not None:
            self._c2w, self._K, self._length = held.c2w.copy(), held.K.copy(), len(held)
            self._size = (held.width, held.height)
            notes = list(self.store.notes())
            profiles = [profiles_from_note(note.get("profiles_m"), count) for count, note in notes]
            self._profiles_m = np.concatenate(profiles)
            self._generated = np.concatenate([np.full(count, "step" in note) for count, note in notes])
            self._withdrawn = tuple(entry for _, note in notes for entry in note.get("withdrawn", ()))

    def __len__(self) -> int:
        return self._length

    def append(
        self,
        frames_u8: np.ndarray,
        cameras: Cameras,
        latents: Tensor,
        note: Mapping[str, Any] | None = None,
        profiles_m: np.ndarray | None = None,
    ) -> None:
        """Store t frames: uint8 [t, H, W, 3], t cameras of the same picture size, latents [C, t, h, w]; `note` says
        where they come from; `profiles_m` [t, PROFILE], if known, how deep they look (`camera.horizon_profile`).

        Raises `UserError` when the three do not belong together or cannot be stored; the bank is then unchanged.
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
        note = dict(note or {})
        if profiles_m is not None:
            note["profiles_m"] = profiles_to_note(profiles_m, count)
        self.store.append(frames_u8, cameras, latents, note)
        start, end = self._length, self._length + count
        if end > len(self._c2w):
            room = max(64, 2 * end)
            c2w, K, profiles = np.empty((room, 4, 4)), np.empty((room, 4)), np.empty((room, PROFILE), np.float32)
            c2w[:start], K[:start], profiles[:start] = self._c2w[:start], self._K[:start], self._profiles_m[:start]
            self._c2w, self._K, self._profiles_m = c2w, K, profiles
            self._generated = np.concatenate([self._generated[:start], np.zeros(room - start, bool)])
        self._c2w[start:end], self._K[start:end] = cameras.c2w, cameras.K
        self._profiles_m[start:end] = profiles_from_note(note.get("profiles_m"), count)
        self._generated[start:end] = "step" in note
        self._withdrawn += tuple(note.get("withdrawn", ()))
        self._size = (cameras.width, cameras.height)
        self._length = end

    def fork(self) -> "MemoryBank":
        """A second bank with the same entries; what either takes in from now on is its own. Nothing is copied: the
        numbers of the entries are when one of the two appends, pictures and latents never."""
        twin = copy(self)
        twin.store = self.store.fork()
        held = slice(0, len(self))  # without spare room, so that the twin's next entry gets arrays of its own
        twin._c2w, twin._K = self._c2w[held], self._K[held]
        twin._profiles_m, twin._generated = self._profiles_m[held], self._generated[held]
        return twin

    @property
    def cameras(self) -> Cameras:
        """Cameras of all stored frames."""
        if self._size is None:
            raise UserError("memory: the bank is empty; reset the world with at least one start frame")
        # Entries never change and were checked when they came: a view of them costs nothing, however many there are.
        c2w, K = self._c2w[: len(self)], self._K[: len(self)]
        c2w.flags.writeable = K.flags.writeable = False
        return Cameras.known_good(c2w, K, *self._size)

    @property
    def profiles_m(self) -> Float32[np.ndarray, "n profile"]:
        """Depth along the horizon of all stored frames, float32 [N, PROFILE], inf where unknown."""
        return self._profiles_m[: len(self)]

    @property
    def generated(self) -> Bool[np.ndarray, " n"]:
        """Which stored frames were generated, not recorded, bool [N]."""
        return self._generated[: len(self)]

    def frames_u8(self, frame_ids: int | slice | np.ndarray) -> UInt8[np.ndarray, "n H W 3"]:
        """Stored frames, uint8 [n, H, W, 3] (one number gives n = 1)."""
        return self.store.frames_u8(np.atleast_1d(np.arange(len(self))[frame_ids]).tolist())

    def latents(self, frame_ids: np.ndarray) -> Float[Tensor, "c n h w"]:
        """Latents of frames by number, [C, n, h, w]."""
        return self.store.latents(np.asarray(frame_ids).tolist())

    def offered(self) -> Bool[np.ndarray, " n"] | None:
        """Which entries retrieval may choose from, bool [N]; None if all: not those that a damaged store has lost, nor
        those that an edit withdrew (`edits`)."""
        readable = self.store.readable()
        if not self._withdrawn:
            return readable
        offered = np.ones(len(self), bool) if readable is None else readable.copy()
        offered[list(self._withdrawn)] = False
        return offered
