"""`cam bench`: walk what a benchmark asks for, leave it in its layout, pass its gate, say which command scores it."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError, install
from context_as_memory.evaluation.bench import HARNESSES
from context_as_memory.evaluation.bench.harness import (
    BenchRequest,
    BenchWalk,
    Harness,
    Made,
    poses_beside,
    write_poses_beside,
)
from context_as_memory.evaluation.foreign import CONTROL, LPIPS_SIDE, MEASURES, measures
from context_as_memory.evaluation.protocols.control import has_opencv
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured, Report, digest, fetched, missing_note
from context_as_memory.evaluation.suite.system import System
from context_as_memory.evaluation.suite.write import Table, number, scores, titles, write_reports
from context_as_memory.formats.importers import ImportedVideo
from context_as_memory.formats.video import VideoWriter, read_video

FILMED = 4  # frames of a walk in the report's pictures


@dataclass
class Outcome:
    """What a run left. report: of the videos that are there; wrong: what the gate found; then: the command that scores
    them; missing: videos that were asked for and are not there, as with a limit."""

    report: Report
    then: str
    wrong: list[str] = field(default_factory=list)
    missing: int = 0


def run_bench(
    system: System,
    name: str,
    asked: BenchRequest,
    *,
    seed: int = 0,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Outcome:
    """Generate the videos of a benchmark that are not there yet, measure them, and check the whole.

    limit: only the first videos. A run goes on where it ended. `UserError` for inputs of another layout, and for an
    output folder that holds another run.
    """
    harness = HARNESSES[name]
    if not asked.inputs.exists():
        raise UserError(f"{asked.inputs} does not exist; give --inputs the folder of the benchmark's inputs")
    walks = harness.walks(asked)
    chosen = walks[: limit or len(walks)]
    networks = fetched()
    identity = dict(system.identity())
    settings = {"benchmark": name, "model": asked.model, "fps": asked.fps, "hfov_deg": asked.hfov_deg, "seed": seed}
    settings["content"] = {"walks": digest(*(walk.name for walk in walks))}
    stamp = settings | {"weights": identity, "networks": networks, "opencv": has_opencv()}
    asked.out.mkdir(parents=True, exist_ok=True)
    store = ClipStore(asked.out, stamp, shard)
    lpips = "lpips" in networks and min(asked.size) >= LPIPS_SIDE
    cases = [
        Case(f"{name}/{walk.name}", walk.name, partial(_measure, system, harness, asked, walk, seed, lpips))
        for walk in chosen
    ]
    report = Report(f"bench-{name}", settings, identity, networks, groups={case.name: case.group for case in cases})
    report.clips |= store.run(cases)
    outcome = Outcome(report, harness.then(asked), missing=len(walks) - len(chosen))
    if store.is_shard:
        return outcome
    harness.finish(asked, chosen)
    outcome.wrong = harness.gate(asked, walks)
    _conclude(report, outcome, len(walks))
    _write(report, harness, asked.out)
    return outcome


def _measure(
    system: System, harness: Harness, asked: BenchRequest, walk: BenchWalk, seed: int, networks: bool
) -> Measured:
    """One video: walked, or the twin of one that is there; written with its poses; measured by what is in it."""
    video = asked.out / walk.video
    video.parent.mkdir(parents=True, exist_ok=True)
    given = walk.begin()
    cameras = Cameras.concat([given.cameras[[-1]], given.path]) if walk.from_start else given.path
    twin = walk.about.get("twin")
    if twin is not None and (asked.out / twin).exists():
        _copy(asked.out / twin, video)
        harness.leave(asked, Made(walk, given, read_video(video), cameras))
        return Measured({})
    made = system.walk(given.frames, given.cameras, given.path, "coverage", seed)
    frames = np.concatenate([given.frames[-1:], made]) if walk.from_start else made
    style = "yuv420p" if frames.shape[1] % 2 == frames.shape[2] % 2 == 0 else "yuv444p"
    with VideoWriter(video, frames.shape[2], frames.shape[1], walk.fps, crf=10, pix_fmt=style) as writer:
        writer.write(frames)
    write_poses_beside(video, cameras)
    values = measures(ImportedVideo(walk.name, (video,), cameras, recorded=int(walk.from_start)), networks)
    if not walk.from_start:  # the given picture is not in the video
        values = {key: value for key, value in values.items() if not key.startswith("closure.")}
    values |= harness.leave(asked, Made(walk, given, frames, cameras))
    shown = np.linspace(0, len(frames) - 1, FILMED).round().astype(int)
    return Measured(values, [[(given.frames[-1], "given"), *((frames[row], str(row)) for row in shown)]])


def _copy(source: Path, target: Path) -> None:
    """The same video, and its poses, under another name: a second link where the disk can have one."""
    for old, new in zip((source, *poses_beside(source)), (target, *poses_beside(target)), strict=True):
        new.unlink(missing_ok=True)
        try:
            os.link(old, new)
        except OSError:
            shutil.copyfile(old, new)


def _conclude(report: Report, outcome: Outcome, asked_for: int) -> None:
    for metric in report.metrics():
        interval = report.interval(metric)
        report.summary[metric] = None if interval is None else interval.mean
    report.summary["videos"] = asked_for - outcome.missing
    report.summary["gate_passed"] = not outcome.wrong
    report.parts["gate"] = outcome.wrong
    report.notes += missing_note(["lpips"], report.networks)
    if not has_opencv():
        report.notes.append(f"control left out: OpenCV is not there ({install('bench')})")
    if outcome.missing:
        report.notes.append(f"{outcome.missing} of {asked_for} videos were not asked for (--limit)")
    report.notes += [f"gate: {sentence}" for sentence in outcome.wrong[:8]]
    report.notes.append(f"scores of the benchmark itself: {outcome.then}")


def _write(report: Report, harness: Harness, out: Path) -> None:
    """report.json, report.md and report.html: means first, then every video."""
    means = [[name, *scores(report, name, MEASURES)] for name in _names(report)]
    tables: list[Table] = [("Pictures", ["protocol", *titles(MEASURES)], means, "")] if means else []
    known = [key for key in (*CONTROL, *_others(report)) if report.having(key)]
    if known:
        rows = [[key, number(report.summary[key])] for key in known]
        tables.append(("Other means", ["value", "mean"], rows, "`control`: pictures against commanded cameras."))
    columns = [f"{name}.psnr_db" for name in _names(report)] + known
    rows = [[name, *(number(clip.get(key)) for key in columns)] for name, clip in report.clips.items()]
    tables.append(("Every video", ["video", *columns], rows, ""))
    write_reports(report, out, f"{harness.title}: {report.settings['model']}", tables)


def _names(report: Report) -> Sequence[str]:
    return [name.removesuffix(".psnr_db") for name in report.metrics() if name.endswith(".psnr_db")]


def _others(report: Report) -> Sequence[str]:
    endings = (*(f".{measure}" for measure in MEASURES),)
    return [name for name in report.metrics() if not name.endswith(endings) and name not in CONTROL]
