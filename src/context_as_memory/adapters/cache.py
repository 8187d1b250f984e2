"""What is kept between runs to save time, in the user's cache; whoever deletes it loses nothing but time."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from context_as_memory.formats.files import write_text

WORTH_REMEMBERING = 1 << 28  # bytes of files whose hash is quicker to remember than to make


def cache_folder(part: str) -> Path:
    """context-as-memory/PART in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "context-as-memory" / part


def remembered(state: Sequence[tuple[str, int, int]], make: Callable[[], str]) -> str:
    """A hash over files of (path, size, time of change): as it was made before in this state, else by `make`."""
    if sum(size for _, size, _ in state) < WORTH_REMEMBERING:
        return make()
    path = cache_folder("digests") / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    if path.exists():
        return path.read_text().strip()
    digest = make()
    with suppress(OSError):  # a cache that cannot be written is no error
        write_text(path, digest + "\n")
    return digest
