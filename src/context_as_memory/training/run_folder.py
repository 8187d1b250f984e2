"""The folder of a training run: one owner, a record of what the run was made with, and a log without repeats.

run.lock        held by the process that trains
made_with.json  data, settings and versions of the first call
resumes.jsonl   one row for every later call: its step, and what it changed
metrics.jsonl   figures, in the order of steps
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_json, write_text

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

METRICS, MADE_WITH, RESUMES, LOCK = "metrics.jsonl", "made_with.json", "resumes.jsonl", "run.lock"
FIXED = ("data", "seed")  # a run is not resumed with others: its first half would be another run's
BUDGET = ("steps", "budget_minutes", "stop_after_minutes")  # may change from call to call without a word


class RunFolder:
    """The folder of a run, held by this process from `claim` to `release`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._lock: IO[str] | None = None
        self._logged: set[tuple[int, tuple[str, ...]]] = set()

    def claim(self) -> None:
        """Make the folder and become its owner. `UserError` if another process trains there."""
        self.path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return
        file = open(self.path / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the run
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"training: another process trains in {self.path}; wait for it, or choose another --out folder"
            ) from None
        except OSError:  # a disk without locks: the run goes on unguarded, as it always did there
            file.close()
            return
        self._lock = file

    def release(self) -> None:
        """Let others train here. The lock file stays."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def record(self, made_with: Mapping[str, Any], step: int) -> None:
        """Note what this call works with. `UserError` if a run that has steps was made with other data or another seed;
        other changes are told and noted in `resumes.jsonl`."""
        now = json.loads(json.dumps(dict(made_with), default=str))
        path = self.path / MADE_WITH
        before = read_json(path) if path.exists() else None
        if step == 0 or not isinstance(before, dict):
            write_text(path, json.dumps(now, indent=2) + "\n")
            return
        changed = {key: [before[key], now[key]] for key in before if key in now and before[key] != now[key]}
        for key in FIXED:
            if key in changed:
                then, here = changed[key]
                raise UserError(
                    f"training: the run in {self.path} was made with {key} {then}, this call has {here}; give the "
                    "same, or choose another --out folder (--init goes on from its weights)"
                )
        told = [f"{key} {then} is now {here}" for key, (then, here) in changed.items() if key not in BUDGET]
        if told:
            print(f"cam: the run goes on with other settings: {'; '.join(told)[:500]}", file=sys.stderr, flush=True)
        row = {"step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "changed": changed}
        with open(self.path / RESUMES, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def trim(self, step: int) -> None:
        """Leave out of the log what a killed run has written after its last checkpoint: these steps come again."""
        path = self.path / METRICS
        self._logged = set()
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                key = (int(row["step"]), _names(row))
            except (ValueError, TypeError, KeyError):  # cut short by the kill
                continue
            if key[0] <= step and key not in self._logged:
                self._logged.add(key)
                kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))

    def log(self, row: dict[str, Any]) -> None:
        """Append a row of figures; one that is there already is not written again."""
        key = (int(row["step"]), _names(row))
        if key in self._logged:
            return
        self._logged.add(key)
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name in row if name not in ("step", "elapsed_s")))
