"""Sessions of programs that outlive the process they were begun in."""

import json
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_json, write_text
from context_as_memory.server.protocol import Init

_NAME = re.compile(r"[a-z0-9]{1,32}-[0-9a-f]{32}")  # the names made here: home, then what nobody can guess
_KEPT = ("world", "branch", "strategy", "max_context", "realtime_output_format")


class Register:
    """One small file for each session, beside the worlds: what another process must know to open its world again.

    folder: shared by all processes. home: the name of this process, small letters and digits; the names of sessions
    that begin here begin with it. idle_s: a session that was not heard of for so long is forgotten.
    """

    def __init__(self, folder: Path, home: str, idle_s: float) -> None:
        self.folder, self.home, self.idle_s = folder, home, idle_s
        folder.mkdir(parents=True, exist_ok=True)

    def new_name(self) -> str:
        """A name for a session that begins here."""
        return f"{self.home}-{secrets.token_hex(16)}"

    def note(self, session: str, init: Init) -> None:
        """Write down how to go on with a session."""
        kept = {name: value for name, value in asdict(init).items() if name in _KEPT}
        write_text(self._path(session), json.dumps(kept) + "\n")

    def hear(self, session: str) -> None:
        """Somebody asked the session something just now."""
        with suppress(OSError):
            os.utime(self._path(session))

    def find(self, session: str) -> Init | None:
        """How to go on with a session of any process; None where none of that name is known, or for too long."""
        if not _NAME.fullmatch(session):
            return None
        path = self._path(session)
        try:
            late = time.time() - path.stat().st_mtime > self.idle_s
            return None if late else Init(**{name: value for name, value in read_json(path).items() if name in _KEPT})
        except (OSError, UserError):
            return None

    def forget(self, session: str) -> None:
        """The session is over."""
        self._path(session).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the sessions that no process heard of for long."""
        for path in self.folder.glob("*.json"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > self.idle_s:
                    path.unlink()

    def _path(self, session: str) -> Path:
        return self.folder / f"{session}.json"
