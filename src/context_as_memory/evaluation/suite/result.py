"""What a suite leaves behind: values per clip, a report that other programs read, and pages for people."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.evaluation.metric_networks import FID_VARIANT, FVD_VARIANT, LPIPS_VARIANT, lpips
from context_as_memory.evaluation.metrics import Interval, mean_interval, psnr, ssim
from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.video import partial_path

SCHEMA = 1
Clip = dict[str, float | None]  # metric name -> value; None where it could not be measured


def picture_scores(name: str, made: np.ndarray, truth: np.ndarray, networks: bool) -> Clip:
    """PSNR, SSIM and, with the networks, LPIPS of frames uint8 [T, H, W, 3] against the true ones, by name."""
    scores: Clip = {f"{name}.psnr_db": float(psnr(made, truth).mean()), f"{name}.ssim": float(ssim(made, truth).mean())}
    if networks:
        scores[f"{name}.lpips"] = float(lpips(made, truth).mean())
    return scores


def have_networks() -> bool:
    """Whether the metric networks were fetched; says what is missing, once, if not."""
    try:
        blank = np.zeros((1, 32, 32, 3), np.uint8)
        lpips(blank, blank)
    except UserError as error:
        print(f"without LPIPS: {error}")
        return False
    return True


@dataclass
class Report:
    """Everything that a suite found. `clips[name]` holds the values of one clip; `parts` what belongs to no clip."""

    suite: str
    settings: dict[str, Any]
    weights: Mapping[str, Any]
    clips: dict[str, Clip] = field(default_factory=dict)
    summary: dict[str, float | int | bool | None] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def values(self, metric: str) -> np.ndarray:
        """Values of a metric over the clips that have one, float64 [n]."""
        found = [clip[metric] for clip in self.clips.values() if clip.get(metric) is not None]
        return np.array(found, np.float64)

    def interval(self, metric: str) -> Interval | None:
        """Mean with a 95 % interval over clips; None if no clip has a value."""
        values = self.values(metric)
        return mean_interval(values) if len(values) else None

    def metrics(self) -> list[str]:
        """Names of all metrics, in the order of their first appearance."""
        return list(dict.fromkeys(name for clip in self.clips.values() for name in clip))

    def json(self) -> dict[str, Any]:
        """The content of report.json (schema 1)."""
        metrics = {}
        for name in self.metrics():
            interval = self.interval(name)
            metrics[name] = {
                "mean": interval and interval.mean,
                "low": interval and interval.low,
                "high": interval and interval.high,
                "n": interval.num if interval else 0,
                "values": [clip.get(name) for clip in self.clips.values()],
            }
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "settings": self.settings | {"lpips": LPIPS_VARIANT, "fid": FID_VARIANT, "fvd": FVD_VARIANT},
            "summary": self.summary,
            "clips": list(self.clips),
            "metrics": metrics,
            "parts": self.parts,
            "notes": self.notes,
            "weights": dict(self.weights),
            "environment": environment(),
        }


class ClipStore:
    """Values of finished clips in a folder, so that a run resumes and several processes share the work.

    A clip is one file; process i of n takes every n-th clip. What was made with other settings is an error.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: tuple[int, int] = (0, 1)) -> None:
        self.folder, (self.number, self.shards) = folder / "clips", shard
        if not 0 <= self.number < self.shards:
            raise UserError(f"--shard {self.number}/{self.shards}: give i/n with 0 <= i < n")
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "settings.json"
        wanted = json.loads(json.dumps(dict(settings)))
        if stamp.exists() and json.loads(stamp.read_text()) != wanted:
            raise UserError(f"{folder} holds clips of a run with other settings; delete it or choose another --out")
        write_json(stamp, wanted)

    def run(self, names: Sequence[str], measure: Callable[[int], Clip], what: str) -> dict[str, Clip]:
        """Measure the clips that are this process's and not there yet; returns those that are there in the end."""
        from rich.console import Console
        from rich.progress import track

        mine = [row for row in range(len(names)) if row % self.shards == self.number]
        todo = [row for row in mine if not self._path(names[row]).exists()]
        for row in track(todo, what, console=Console(stderr=True), disable=not todo):
            write_json(self._path(names[row]), measure(row))
        return {name: json.loads(self._path(name).read_text()) for name in names if self._path(name).exists()}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_')}.json"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    partial_path(path).write_text(text)
    os.replace(partial_path(path), path)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
    return "\n".join(lines) + "\n"


def cell(interval: Interval | None, digits: int = 2) -> str:
    """A mean with its interval, or a dash."""
    if interval is None:
        return "-"
    if interval.num < 2:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
