"""What a walk says while it goes on: a progress bar and lines on stderr."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from context_as_memory.walk.look import SENTENCE


class Progress:
    """A progress bar on stderr: `with Progress(total) as advance: advance(frames)`."""

    def __init__(self, total: int) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("generating"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("frames"),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, rate="")
        self._done = 0

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        self._began = time.perf_counter()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, frames: int) -> None:
        self._done += frames
        rate = self._done / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f} fps")


def summary_lines(report: dict[str, Any], out: Path) -> Sequence[str]:
    """What to tell the user at the end, a few short lines."""
    lines = []
    if report["interrupted"]:
        lines.append(f"interrupted after {report['frames_generated']} of {report['frames_requested']} frames")
    returns = report["returns"]
    for name, label in (("with_memory", "memory on: "), ("without_memory", "memory off:")):
        values = returns.get(name)
        if values and values["psnr"]:
            visits_text = f"{returns['num_visits']} return{'s' if returns['num_visits'] != 1 else ''}"
            lines.append(
                f"{label} {values['psnr']['mean']:.1f} dB PSNR, {values['ssim']['mean']:.3f} SSIM over {visits_text}"
            )
        if label == "memory on: " and report["closure"]:
            lines.append(f"given picture: {report['closure'][name]['psnr']:.1f} dB PSNR when the walk is back at it")
    if report["look"] and report["look"]["far_from_training"]:
        lines.append(f"note: {SENTENCE}")
    fps = report["timing"]["with_memory"]["frames_per_second"]
    if fps:
        lines.append(f"speed:      {fps:.1f} frames per second, {report['peak_memory_mib']} MiB peak memory")
    lines.append("written:    " + ", ".join(str(out / name) for name in report["files"]))
    return lines


def say_stop(name: str) -> None:
    """What a walk answers when it is asked to end (`StopOnSignal`)."""
    note(f"{name}: stopping after this chunk; once more stops at once")


def note(text: str) -> None:
    """One line for the user, on stderr."""
    print(f"cam: {text}", file=sys.stderr, flush=True)
