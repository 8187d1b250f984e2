"""Keys and values of context frames, cached from chunk to chunk. Never influences what a world shows, only how fast."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any


class ContextCache:
    """What was read of the entries of a memory that were used last, at most `frames` of them."""

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
        while len(self._cached) > self._frames:
            self._cached.popitem(last=False)
        return found
