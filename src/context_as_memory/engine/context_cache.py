"""Keys and values of context frames, kept from chunk to chunk. Never influences what a world shows, only how fast."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any


class ContextCache:
    """What was read of the entries of a memory that were used last, at most `frames` of them."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._kept: OrderedDict[int, Any] = OrderedDict()  # least recently used first
        self._memory: object = None

    def __len__(self) -> int:
        return len(self._kept)

    def read(
        self, memory: object, entries: Sequence[int], read: Callable[[list[int]], list[Any] | None]
    ) -> list[Any] | None:
        """For each entry of a memory what `read` gives for it; it is called with those that are not kept. Entries never
        change, so what is kept holds as long as the memory is the same object."""
        if memory is not self._memory:
            self._kept.clear()
            self._memory = memory
        missing = [entry for entry in entries if entry not in self._kept]
        if missing:
            new = read(missing)
            if new is None:
                return None
            self._kept.update(zip(missing, new, strict=True))
        found = [self._kept[entry] for entry in entries]
        for entry in entries:
            self._kept.move_to_end(entry)
        while len(self._kept) > self._frames:
            self._kept.popitem(last=False)
        return found
