"""Room for new worlds: where it is wanted, stored worlds that were not walked in for longest go."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.storage import WorldFile
from context_as_memory.storage.lease import LOCK, Lease
from context_as_memory.storage.schema import DATABASE, FOLDERS

log = logging.getLogger(__name__)

REMOVED = "removed.jsonl"  # beside the worlds: those that went, a line each
_PARTS = {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK, *FOLDERS}  # of a world's folder


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A world that went to make room."""

    name: str
    bytes: int
    walked_s: float
    """When its last frame was stored, seconds since 1970."""
    removed_s: float


def make_room(folder: Path, names: Sequence[str], most_bytes: float, rest_s: float) -> list[Removed]:
    """Remove worlds until those that are left take no more than `most_bytes`, the least recently walked one first.

    names: of the worlds' folders in `folder`. Never removed, whatever they take: worlds that somebody has open for
    writing, in any process; those walked in within the last `rest_s` seconds, and always the last one; what cannot be
    read, or holds more than a world file does, or lies elsewhere behind a link. What cannot be read is not counted.
    """
    found = [world for name in names if (world := _measured(folder / name)) is not None]
    found.sort(reverse=True)  # the last one walked in first
    total, gone = sum(size for _, size, _ in found), []
    while total > most_bytes and len(found) > 1:
        walked_s, size, path = found.pop()
        if walked_s > time.time() - rest_s or not _remove(path, walked_s):
            continue
        total -= size
        gone.append(Removed(name=path.name, bytes=size, walked_s=walked_s, removed_s=time.time()))
        with suppress(OSError), (folder / REMOVED).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(gone[-1])) + "\n")
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(walked_s))
        details = {"details": asdict(gone[-1])}
        log.warning(
            "removed world %s to make room: %.1f MB, last walked in %s", path.name, size / 1e6, last, extra=details
        )
    return gone


def removed(folder: Path) -> list[Removed]:
    """The worlds that went from a folder, the last one first."""
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in (folder / REMOVED).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):  # a line that was cut off
                found.append(Removed(**json.loads(line)))
    return found[::-1]


def _measured(path: Path) -> tuple[float, int, Path] | None:
    """When a world was last walked in, and its bytes; None for what is no world that may go."""
    try:
        if path.is_symlink() or not {part.name for part in path.iterdir()} <= _PARTS:
            return None
        with WorldFile.open(path, write=False) as file:
            walked_s = file.walked_s()
        files = [part for folder in (path, *(path / name for name in FOLDERS)) for part in folder.iterdir()]
        size = sum(part.stat().st_size for part in files if part.is_file())
        return (path / DATABASE).stat().st_mtime if walked_s is None else walked_s, size, path
    except (OSError, UserError):
        return None


def _remove(path: Path, walked_s: float) -> bool:
    """Whether a world could be removed: nobody writes to it, and nobody walked in it since it was looked at."""
    try:
        lease = Lease(path)
    except (OSError, UserError):
        return False
    try:
        now = _measured(path)
        if now is None or now[0] != walked_s:
            return False
        scratch = Path(tempfile.mkdtemp(prefix="removed-", dir=path.parent))
        os.rename(path, scratch / path.name)  # gone at once; whoever waits for it finds nothing, not half a world
        shutil.rmtree(scratch, ignore_errors=True)
        return True
    except OSError:
        return False
    finally:
        lease.release()
