"""Videos that other systems made, scored by how well they remember: each return against its first visit; and whether
the given picture comes back (closure), a path out and back is a mirror, and the camera moves as commanded (control)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.evaluation.protocols.control import has_opencv, measure_control
from context_as_memory.evaluation.protocols.measures import closure_rows, mirror_pairs
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.suite.result import Clip, Report, digest, fetched, missing_note, picture_scores
from context_as_memory.formats.importers import ImportedVideo

MEASURES = ("psnr_db", "ssim", "lpips")
CONTROL = ("control.rotation_deg", "control.turn_share", "control.direction_deg", "control.measured")
LPIPS_SIDE = 32  # pixels: its network cannot take smaller pictures
BATCH = 16  # pictures compared at once
HELD_BYTES = 128_000_000  # of pictures that are held at once, however long a video is
SCORED_BYTES = 8_000_000  # of pictures that are scored at once: scores take about 30 times as much
Read = Callable[[np.ndarray], np.ndarray | None]


def score_video(video: ImportedVideo, networks: bool) -> Clip:
    """Every return of a video against its first visit, in its own pictures, as means over the return frames.

    Returns are poses within 0.2 m and 5 degrees of an earlier one, the camera having looked away in between
    (`find_returns`); recorded frames are none. `return.*` compares with the first visit, `return_truth.*` with the true
    picture of the return, where one is known. networks: LPIPS too, left out for pictures under 32 pixels a side. And
    what `measures` finds.
    """
    networks = networks and min(video.cameras.width, video.cameras.height) >= LPIPS_SIDE
    clip = measures(video, networks)
    pairs = find_returns(video.cameras)
    returns = visits(pairs[pairs[:, 1] >= video.recorded])
    clip |= {"returns": float(len(returns)), "frames": float(len(video.cameras))}
    if returns:
        last = np.concatenate([visit.frames for visit in returns])
        first = np.concatenate([visit.firsts for visit in returns])
        clip |= _compare("return", video.frames, last, video.frames, first, networks)
        if video.truth_sources is not None:
            clip |= _compare("return_truth", video.frames, last, video.truth, last, networks)
        clip["gap_frames"] = float(np.mean(last - first))
    return clip


def measures(video: ImportedVideo, networks: bool) -> Clip:
    """`closure.*`, `mirror.*` and `control.*` of a video, as far as its path has them; the last with OpenCV only.

    The picture that closure compares with is the last recorded frame, or the first frame where none is said to be.
    """
    clip: Clip = {}
    given = max(video.recorded - 1, 0)
    back = closure_rows(video.cameras, given)
    if len(back):
        clip |= _compare("closure", video.frames, back, video.frames, np.full(len(back), given), networks)
    pairs = mirror_pairs(video.cameras)
    pairs = pairs[pairs[:, 1] >= video.recorded]
    if len(pairs):
        clip |= _compare("mirror", video.frames, pairs[:, 1], video.frames, pairs[:, 0], networks)
    if has_opencv():
        clip |= measure_control(video.frames, video.cameras, first=given)
    return clip


def score_videos(imported: Sequence[ImportedVideo], networks: bool | None = None) -> dict[str, Any]:
    """Score all videos; returns the content of a report.json, one clip per video.

    networks: LPIPS too; by default if its network was fetched.
    """
    networks = bool(fetched()) if networks is None else networks
    report = empty_report(imported, networks)
    report.clips |= {video.name: score_video(video, networks) for video in imported}
    conclude(report)
    return report.json()


def empty_report(imported: Sequence[ImportedVideo], networks: bool, name: str | None = None) -> Report:
    """A report on these videos with the settings that a score depends on, hashes of videos, cameras and truth among
    them. `UserError` for two videos of one name."""
    names = [video.name for video in imported]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two videos are called {doubled[0]}; rename one")
    content = {
        video.name: digest(
            *video.sources, video.cameras.c2w, video.cameras.K, str(video.recorded), *(video.truth_sources or ("none",))
        )
        for video in imported
    }
    settings = {"videos": names, "truth": any(video.truth_sources for video in imported), "content": content}
    report = Report("videos", settings, {"name": name, "sha256": None}, ["lpips"] if networks else [])
    report.parts["inputs"] = {video.name: video.report() for video in imported}
    report.notes += [f"{video.name}: {line}" for video in imported for line in video.report()["notes"]]
    return report


def conclude(report: Report) -> None:
    """The means over videos as the summary of a report."""
    names = [f"{name}.{measure}" for name in ("return", "closure", "mirror") for measure in MEASURES]
    names += CONTROL if has_opencv() else ()
    if report.settings["truth"]:
        names += [f"return_truth.{measure}" for measure in MEASURES]
    for name in names:
        interval = report.interval(name)
        report.summary[name] = None if interval is None else interval.mean
    report.summary["videos_with_returns"] = len(report.values("return.psnr_db"))
    for name in (name for name, clip in report.clips.items() if not clip.get("returns")):
        report.notes.append(
            f"{name}: nothing returns, that is, no frame comes within 0.2 m and 5 degrees of an earlier one after "
            "looking away; if it should, look at its axes, unit and lens above"
        )
    report.notes.append("a picture that never changes remembers perfectly: look at the videos, and at their gaps")
    report.notes += missing_note(["lpips"], report.networks)


def _compare(name: str, a: Read, a_numbers: np.ndarray, b: Read, b_numbers: np.ndarray, networks: bool) -> Clip:
    """Mean `picture_scores` of frames `a_numbers` of a against `b_numbers` of b; few of them are held at once."""
    sums: dict[str, float] = {}
    probe = a(a_numbers[:1])
    assert probe is not None
    block = max(1, HELD_BYTES // (2 * probe[0].nbytes))
    part = max(1, min(BATCH, SCORED_BYTES // probe[0].nbytes))
    for start in range(0, len(a_numbers), block):
        made, other = a(a_numbers[start : start + block]), b(b_numbers[start : start + block])
        assert made is not None and other is not None
        for first in range(0, len(made), part):
            rows = slice(first, first + part)
            for key, value in picture_scores(name, made[rows], other[rows], networks).items():
                sums[key] = sums.get(key, 0.0) + (value or 0.0) * len(made[rows])
    return {key: total / len(a_numbers) for key, total in sums.items()}
