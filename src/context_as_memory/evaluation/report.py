"""What every run notes: JSON written whole, versions and machine, memory, intervals."""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory import __version__
from context_as_memory.evaluation.metrics import Interval
from context_as_memory.formats.files import write_text

SCHEMA = 2  # of report.json, as the suites write it and `cam compare` reads it


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Write indented JSON, whole or not at all. Not-a-number values are refused: no other program could read them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def environment() -> dict[str, Any]:
    """Versions and machine, for reports. Never imports torch; names the version that is installed."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "package": __version__,
        "torch": version("torch"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far, in MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def interval_json(interval: Interval) -> dict[str, float | int | None]:
    """An interval for JSON, rounded to what it is worth."""
    if interval.num < 2:  # one value says nothing about its spread
        return {"mean": round(interval.mean, 4), "low": None, "high": None, "n": interval.num}
    return {
        "mean": round(interval.mean, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.num,
    }
