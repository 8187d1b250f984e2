"""One writer at a time: a lock that the kernel takes back when its holder ends, however it ends."""

import errno
import json
import os
import socket
import stat
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


class NotWritable(UserError):
    """The folder of the world cannot be written to; it can still be read."""


class Lease:
    """The right to write to a world file, held until `release` or the end of the process.

    Raises `LeaseTaken` that names the holder if another process, or another object of this one, has it, `NotWritable`
    if the folder takes no lock at all. A dead holder has nothing: its lock ended with it.
    """

    def __init__(self, folder: Path) -> None:
        if fcntl is None:
            raise UserError("world files need file locks of Linux or macOS, which this system does not have")
        self.path = folder / LOCK
        file = self._opened()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._holder(file)
            file.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise NotWritable(
                    f"{self.path} cannot be locked ({error.strerror or error}); open the world for reading only, or "
                    "move it to a disk that knows file locks"
                ) from error
            raise LeaseTaken(
                f"the world in {folder} is being written by {holder}; end that first, or open it for reading only"
            ) from None
        file.seek(0)
        file.truncate()
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(who) + "\n")
        file.flush()
        self._file: IO[str] | None = file

    def _opened(self) -> IO[str]:
        """The lock file itself, made if need be. Not what a link of that name leads to: it will be emptied."""
        try:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UserError(f"{self.path} is a link, not the lock of a world; it is not opened") from error
            raise NotWritable(
                f"{self.path} cannot be written ({error.strerror or error}); open the world for reading only"
            ) from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise UserError(f"{self.path} is no plain file; it is not opened")
        return open(number, "r+", encoding="utf-8")  # held open as long as the lease

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
