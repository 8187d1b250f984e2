"""The one progress bar, on stderr, for all that takes long. `rich` is loaded only when a bar is shown."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

Item = TypeVar("Item")


class ProgressBar:
    """`with ProgressBar("generating", 96, unit="frames") as bar: bar.advance(4)`.

    total: what is done at the end, in any unit. unit: named behind the count; without one there is no count, but the
    time that has passed. rate: named behind what is done in a second, such as "fps". shown: False makes it say
    nothing, and load nothing.
    """

    def __init__(self, label: str, total: float, *, unit: str = "", rate: str = "", shown: bool = True) -> None:
        self._bar: Any = None
        self._rate, self._done, self._began = rate, 0.0, time.perf_counter()
        if not shown:
            return
        from rich import progress
        from rich.console import Console

        text = progress.TextColumn
        count = (progress.MofNCompleteColumn(), text(unit)) if unit else (progress.TimeElapsedColumn(),)
        columns = (text("{task.description}"), progress.BarColumn(), *count, text("{task.fields[note]}"))
        self._bar = progress.Progress(
            *columns, progress.TimeRemainingColumn(), text("left"), console=Console(stderr=True)
        )
        self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, by: float = 1, **shown: str) -> None:
        """`by` more are done. shown: a new `note` or `description`."""
        self.reach(self._done + by, **shown)

    def reach(self, done: float, **shown: str) -> None:
        """So much is done in all. shown: as for `advance`."""
        self._done = done
        if self._rate:
            shown["note"] = f"{done / max(time.perf_counter() - self._began, 1e-9):.1f} {self._rate}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, **shown)


def tracked(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """The items, with a progress bar that counts those that were worked off; none where there are none."""
    with ProgressBar(label, total, unit=unit, shown=total > 0) as bar:
        for item in items:
            yield item
            bar.advance()
