"""What a walk says while it goes on: lines on stderr."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from context_as_memory.walk.look import SENTENCE


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
