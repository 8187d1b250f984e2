"""Keys and values of context frames, cached from chunk to chunk. Never influences what a world shows, only how fast."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_as_memory.compute import free_bytes

SHARE = 0.5  # of the memory that nobody uses, to be filled


class ContextCache:
    """What was read of the entries of a memory that were used last, at most `frames` of them; fewer where memory is
    short: those of a frame take 335 MB in a network of 1.3 billion weights at 832x480."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._cached: OrderedDict[int, Any] = OrderedDict()  # least recently used first
        self._memory: object = None

    def __len__(self) -> int:
        return len(self._cached)

    def read(
        self, memory: object, entries: Sequence[int], read: Callable[[list[int]], list[Any] | None]
    ) -> list[Any] | None:
        """For each entry of a memory what `read` gives for it; it is called with those that are not cached. Entries
        never change, so what is cached holds as long as the memory is the same object."""
        if memory is not self._memory:
            self._cached.clear()
            self._memory = memory
        missing = [entry for entry in entries if entry not in self._cached]
        if missing:
            new = read(missing)
            if new is None:
                return None
            self._cached.update(zip(missing, new, strict=True))
        found = [self._cached[entry] for entry in entries]
        for entry in entries:
            self._cached.move_to_end(entry)
        most = self._most(found[0]) if missing else self._frames
        while len(self._cached) > most:
            self._cached.popitem(last=False)
        return found

    def _most(self, entry: Any) -> int:
        """How many entries of this size may be cached."""
        tensors = _tensors(entry)
        device = next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), torch.device("cpu"))
        free, size = free_bytes(device), sum(tensor.nbytes for tensor in tensors)
        if free is None or not size:
            return self._frames
        held = len(self._cached) * size
        return min(self._frames, int(SHARE * (free + held) / size))


def _tensors(entry: Any) -> list[Tensor | np.ndarray]:
    if isinstance(entry, (Tensor, np.ndarray)):
        return [entry]
    return [tensor for part in entry for tensor in _tensors(part)] if isinstance(entry, (list, tuple)) else []
