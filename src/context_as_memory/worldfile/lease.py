"""One writer at a time: a lock that the kernel takes back when its holder ends, however it ends."""

import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from context_as_memory.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: the package works there, world files do not
    fcntl = None  # type: ignore[assignment]

LOCK = "writer.lock"


class LeaseTaken(UserError):
    """Somebody else is writing to the world."""


class Lease:
    """The right to write to a world folder, held until `release` or the end of the process.

    Raises `LeaseTaken` that names the holder if another process, or another object of this one, has it. A dead holder
    has nothing: its lock ended with it.
    """

    def __init__(self, folder: Path) -> None:
        if fcntl is None:
            raise UserError("world files need file locks of Linux or macOS, which this system does not have")
        self.path = folder / LOCK
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - held open as long as the lease
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._holder(file)
            file.close()
            raise LeaseTaken(
                f"the world in {folder} is being written by {holder}; end that first, or open it for reading only"
            ) from None
        file.seek(0)
        file.truncate()
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(who) + "\n")
        file.flush()
        self._file: IO[str] | None = file

    @staticmethod
    def _holder(file: IO[str]) -> str:
        try:
            file.seek(0)
            who = json.loads(file.read())
            return f"process {who['pid']} on {who['host']} since {who['since']}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Give it back. The lock file stays: removing it could take a lock away from somebody who just got it."""
        if self._file is not None:
            self._file.close()
            self._file = None
