"""What a suite leaves behind: values per clip, a report that other programs read, and pages for people."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory import __version__
from context_as_memory.data.episode import Episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.metric_networks import (
    FID_VARIANT,
    FVD_VARIANT,
    LPIPS_VARIANT,
    SOURCES,
    load_i3d,
    load_inception,
    load_lpips,
    lpips,
)
from context_as_memory.evaluation.metrics import Interval, mean_interval, psnr, ssim
from context_as_memory.evaluation.protocols import PROTOCOLS, protocol_of
from context_as_memory.evaluation.report import SCHEMA, environment, write_json
from context_as_memory.formats.files import clear_partials, read_arrays, read_json, write_arrays
from context_as_memory.formats.pictures import write_image
from context_as_memory.pictures.sheets import contact_sheet
from context_as_memory.progress import tracked

Clip = dict[str, float | None]  # metric name -> value; None where it could not be measured

_LOADERS: dict[str, Callable[[], object]] = {"lpips": load_lpips, "fid": load_inception, "fvd": load_i3d}
_VARIANTS = {"lpips": LPIPS_VARIANT, "fid": FID_VARIANT, "fvd": FVD_VARIANT}


def picture_scores(name: str, made: np.ndarray, truth: np.ndarray, networks: bool) -> Clip:
    """PSNR, SSIM and, with the networks, LPIPS of frames uint8 [T, H, W, 3] against the true ones, by name."""
    scores: Clip = {f"{name}.psnr_db": float(psnr(made, truth).mean()), f"{name}.ssim": float(ssim(made, truth).mean())}
    if networks:
        scores[f"{name}.lpips"] = float(lpips(made, truth).mean())
    return scores


@dataclass
class Measured:
    """What a protocol found on one clip. values: by metric; rows: pictures (uint8 [H, W, 3], caption) to look at;
    arrays: frames for films and for distances of sets, kept beside the clip."""

    values: Clip
    rows: list[list[tuple[np.ndarray, str]]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One clip to measure. name: unique, `<protocol>/<where>`; group: what it is measured on, such as its episode."""

    name: str
    group: str
    measure: Callable[[], Measured]

    @property
    def kind(self) -> str:
        """Its protocol."""
        return self.name.partition("/")[0]


class Scores:
    """Scores of one clip by name; several of one name, such as those of several seeds, become their mean."""

    def __init__(self, networks: bool) -> None:
        self.networks = networks
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, made: np.ndarray, truth: np.ndarray) -> None:
        """The picture scores of frames uint8 [T, H, W, 3] against the true ones."""
        self.note(picture_scores(name, made, truth, self.networks))

    def note(self, values: Mapping[str, float | None]) -> None:
        """Values of any kind; those that could not be measured are left out."""
        for key, value in values.items():
            if value is not None:
                self._values.setdefault(key, []).append(float(value))

    def clip(self) -> dict[str, float | None]:
        """The means by name."""
        return {key: float(np.mean(values)) for key, values in self._values.items()}

    def gain(self, name: str, first: str, second: str, measure: str = "psnr_db") -> None:
        """A measure of one name minus that of another, as a value of its own; none where one is missing."""
        means = self.clip()
        a, b = means.get(f"{first}.{measure}"), means.get(f"{second}.{measure}")
        if a is not None and b is not None:
            self.note({name: a - b})


def fetched(wanted: Sequence[str] = ("lpips",)) -> list[str]:
    """Which of the metrics lpips, fid and fvd can be computed: those whose network was fetched and is whole. Says what
    is missing. Asked before a run, so that none ends in an error after hours."""
    found = []
    for name in wanted:
        try:
            _LOADERS[name]()
            found.append(name)
        except UserError as error:
            print(f"without {name.upper()}: {error}")
    return found


def missing_note(wanted: Sequence[str], networks: Sequence[str]) -> list[str]:
    """A note on the metrics that were left out; none if nothing was."""
    missing = [name.upper() for name in wanted if name not in networks]
    return [f"{', '.join(missing)} left out: the networks were not fetched (`cam fetch metrics`)"] if missing else []


def digest(*parts: bytes | str | Path | np.ndarray) -> str:
    """SHA-256 of what is measured: bytes, words, arrays of any shape [...], and the content of files and folders."""
    whole_of = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(path for path in part.rglob("*") if path.is_file()) if part.is_dir() else [part]
            for path in files:
                with path.open("rb") as file:
                    whole_of.update(hashlib.file_digest(file, "sha256").digest())
        else:
            data = part.encode() if isinstance(part, str) else bytes(part)
            whole_of.update(hashlib.sha256(data).digest())
    return whole_of.hexdigest()


def episode_digest(episode: Episode) -> str:
    """SHA-256 of an episode's files, from the hashes in its note; of the files where it has none."""
    hashes = episode.meta.get("file_hashes")
    return digest(json.dumps(hashes, sort_keys=True)) if hashes else digest(episode.folder)


@dataclass
class Report:
    """Everything that a suite found.

    clips: the values of each clip by name; groups: what each clip was measured on, such as its episode (intervals
    resample these first); numbers: values that belong to no clip, such as distances of sets; parts: curves and tables;
    networks: the metrics whose networks are at hand.
    """

    suite: str
    settings: dict[str, Any]
    weights: Mapping[str, Any]
    networks: Sequence[str] = ()
    clips: dict[str, Clip] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    summary: dict[str, float | int | bool | None] = field(default_factory=dict)
    numbers: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def protocol(self, metric: str) -> str:
        """The protocol of a metric, by the clips that have it."""
        clips = self.having(metric) or [name for name, clip in self.clips.items() if metric in clip]
        return protocol_of(metric, clips[0].partition("/")[0] if clips else self.suite)

    def having(self, *metrics: str) -> list[str]:
        """Names of the clips that have a value of all these metrics."""
        return [name for name, clip in self.clips.items() if all(clip.get(metric) is not None for metric in metrics)]

    def values(self, metric: str, clips: Sequence[str] | None = None) -> np.ndarray:
        """Values of a metric over the clips that have one (or over the given ones), float64 [n]."""
        return np.array([self.clips[name][metric] for name in (clips or self.having(metric))], np.float64)

    def groups_of(self, clips: Sequence[str]) -> list[str]:
        """What each of these clips was measured on; a clip that nothing is known of stands alone."""
        return [self.groups.get(name, name) for name in clips]

    def interval(self, metric: str) -> Interval | None:
        """Mean with a 95 % interval over clips, episodes resampled first; None if no clip has a value."""
        clips = self.having(metric)
        return mean_interval(self.values(metric, clips), self.groups_of(clips)) if clips else None

    def difference(self, first: str, second: str) -> Interval | None:
        """Mean of `first` minus `second` over the clips that have both; None if none has."""
        clips = self.having(first, second)
        if not clips:
            return None
        return mean_interval(self.values(first, clips) - self.values(second, clips), self.groups_of(clips))

    def counted(self, metric: str) -> str:
        """How many clips of how many episodes have a value, in words."""
        clips = self.having(metric)
        return f"{len(clips)} of {len(set(self.groups_of(clips)))} episodes"

    def note_interval(self, name: str, interval: Interval | None) -> None:
        """Keep a number that is no mean over clips, with its interval."""
        if interval is not None:
            self.numbers[name] = _numbers(interval)

    def protocols(self) -> dict[str, str]:
        """What was measured, in words, by the names of the protocols."""
        used = {self.protocol(metric) for metric in self.metrics()}
        return {name: words for name, words in PROTOCOLS.items() if name in used}

    def flat(self) -> dict[str, float]:
        """Every mean with the ends of its interval (`_low`, `_high`), dots as underscores; then `numbers` and
        `summary`, as far as they are numbers."""
        found: dict[str, float] = {}
        for metric in self.metrics():
            if (interval := self.interval(metric)) is not None:
                name = metric.replace(".", "_")
                found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        others = {name: number["mean"] for name, number in self.numbers.items()} | self.summary
        return found | {name.replace(".", "_"): float(value) for name, value in others.items() if value is not None}

    def metrics(self) -> list[str]:
        """Names of all metrics, in the order of their first appearance."""
        return list(dict.fromkeys(name for clip in self.clips.values() for name in clip))

    def variants(self) -> dict[str, dict[str, str]]:
        """What exactly the metrics with a network are that were computed, and where their weights are from."""
        archives = {source.title.lower(): source for source in SOURCES}
        values = {part for name in (*self.metrics(), *self.numbers) for part in re.split(r"[._]", name)}
        if any("style" in row for rows in self.parts.get("drift", {}).values() for row in rows):
            values.add("lpips")  # its network, seen otherwise
        return {
            name: {
                "variant": _VARIANTS[name],
                "archive": archives[name].archive,
                "archive_sha256": archives[name].sha256,
            }
            for name in self.networks
            if name in values
        }

    def footer(self) -> list[str]:
        """Lines of Markdown below the tables: notes, what was measured with, what was measured."""
        lines = [f"Protocol `{name}`: {words}." for name, words in self.protocols().items()]
        lines += [f"Note: {note}." for note in self.notes]
        lines += [
            f"{name.upper()}: {v['variant']}; weights from {v['archive']}, SHA-256 {v['archive_sha256']}."
            for name, v in self.variants().items()
        ]
        flat = {key: value for key, value in self.settings.items() if key != "content"}
        lines.append(f"Weights {self.weights.get('sha256') or 'unknown'}; settings: {json.dumps(flat)}.")
        return [f"{line}\n" for line in lines]

    def json(self) -> dict[str, Any]:
        """The content of report.json (schema 2)."""
        metrics = {}
        for name in self.metrics():
            interval = self.interval(name)
            found = _numbers(interval) if interval else {"mean": None, "low": None, "high": None, "n": 0}
            metrics[name] = (
                {"protocol": self.protocol(name)} | found | {"values": [clip.get(name) for clip in self.clips.values()]}
            )
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "settings": self.settings | {"package": __version__, "networks": list(self.networks)} | self.variants(),
            "protocols": self.protocols(),
            "summary": self.summary,
            "clips": list(self.clips),
            "groups": self.groups_of(list(self.clips)),
            "metrics": metrics,
            "numbers": self.numbers,
            "parts": self.parts,
            "notes": self.notes,
            "weights": dict(self.weights),
            "environment": environment(),
        }


def _numbers(interval: Interval) -> dict[str, float | int | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.num}


class ClipStore:
    """Values of finished clips in a folder, so that a run resumes and several processes share the work.

    A clip is one file; process i of n takes every n-th clip. What was made with other settings, of other recordings, by
    other weights or by another version is an error. `content` in the settings holds hashes of what is measured.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: tuple[int, int] = (0, 1)) -> None:
        self.folder, (self.number, self.shards) = folder / "clips", shard
        if not 0 <= self.number < self.shards:
            raise UserError(f"--shard {self.number}/{self.shards}: give i/n with 0 <= i < n")
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_partials(self.folder)
        stamp = self.folder / "settings.json"
        wanted = json.loads(json.dumps(dict(settings) | {"package": __version__}))
        if not stamp.exists():
            write_json(stamp, wanted)
        held = _stored(stamp)
        if held != wanted:
            other = sorted(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key))
            raise UserError(
                f"{folder} holds clips of a run with other settings ({', '.join(other)}); delete it or choose another "
                f"--out"
            )

    @property
    def is_shard(self) -> bool:
        """Whether this process measures only some of the clips, and leaves the reports to another."""
        return self.shards > 1

    def run(self, cases: Sequence[Case]) -> dict[str, Clip]:
        """Measure the clips that are this process's and not there yet, protocol by protocol, with a progress bar;
        returns those that are there in the end. Pictures and arrays are written before the values."""
        found: dict[str, Clip] = {}
        for kind in dict.fromkeys(case.kind for case in cases):
            alike = [case for case in cases if case.kind == kind]
            todo = [case for case in alike[self.number :: self.shards] if not self._path(case.name).exists()]
            for case in tracked(todo, len(todo), kind, "clips"):
                measured = case.measure()
                if measured.rows:
                    write_image(self._beside("pictures", case.name, "png"), contact_sheet(measured.rows, [], scale=1))
                if measured.arrays:
                    write_arrays(self._beside("arrays", case.name, "npz"), measured.arrays)
                write_json(self._path(case.name), measured.values)
            there = [case.name for case in alike if self._path(case.name).exists()]
            found |= {name: _stored(self._path(name)) for name in there}
        return found

    def arrays(self, kind: str) -> list[Path]:
        """The files of arrays that the clips of a protocol left, in the order of their names."""
        return sorted((self.folder.parent / "arrays").glob(f"{kind}_*.npz"))

    def _beside(self, folder: str, name: str, suffix: str) -> Path:
        path = self.folder.parent / folder / f"{name.replace('/', '_')}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def keep(self, name: str, measure: Callable[[], Any]) -> Any:
        """What belongs to no clip, measured once and kept beside the clips."""
        path = self.folder / f"part_{name}.json"
        if not path.exists():
            write_json(path, {"value": measure()})
        return _stored(path).get("value")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_')}.json"


def _stored(path: Path) -> dict[str, Any]:
    """What a run has stored of itself; `UserError` that says what to do if it is damaged."""
    try:
        value = read_json(path)
    except UserError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged; delete it, and the same command measures it again")
    return value


def gathered(files: Sequence[Path], name: str) -> np.ndarray:
    """The array of this name from all files that have it, [n, ...], one after the other; empty if none has."""
    parts = []
    for path in files:
        made = read_arrays(path)
        if name in made:
            parts.append(made[name])
    return np.concatenate(parts) if parts else np.empty(0)


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
