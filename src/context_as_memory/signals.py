"""How a run is asked to end: Ctrl-C, SIGTERM (a scheduler, `docker stop`, `timeout`), SIGHUP (a closed terminal)."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class StopOnSignal:
    """Turns the first of these signals into a request to stop (`requested`); the second one raises KeyboardInterrupt at
    once. Used as a `with` block; handlers of before come back in the end.

    say: called with the signal's name on the first one.
    """

    def __init__(self, say: Callable[[str], None] = lambda name: None) -> None:
        self.requested = False
        self._say = say
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {number: signal.signal(number, self._handle) for number in ASKED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._say(signal.Signals(number).name)


def leave_signals_to_the_parent(_: int = 0) -> None:
    """For helper processes: a terminal and some schedulers signal the whole group, and the parent still needs them."""
    for number in ASKED:
        signal.signal(number, signal.SIG_IGN)
