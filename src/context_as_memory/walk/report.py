"""Numbers of a walk: returns against first visits, the given picture against its returns, time by stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.evaluation.metrics import mean_interval, psnr, ssim
from context_as_memory.evaluation.protocols.measures import closure_rows
from context_as_memory.evaluation.report import interval_json
from context_as_memory.evaluation.returns import Visit, pose_distance

STAGES = ("retrieve", "encode", "denoise", "decode")


def timing(seconds: Sequence[dict[str, float]], num_frames: int) -> dict[str, Any]:
    """Seconds per chunk by stage (mean, median, p95) and frames per second over all chunks, from `Chunk.seconds` of a
    run."""
    if not seconds:
        return {"chunks": 0, "frames_per_second": None, "seconds_per_chunk": {}}
    table = {stage: np.array([chunk.get(stage, 0.0) for chunk in seconds]) for stage in STAGES}
    table["all"] = np.sum(list(table.values()), axis=0)
    total = float(table["all"].sum())

    def summary(values: np.ndarray) -> dict[str, float]:
        return {
            "mean": round(float(values.mean()), 5),
            "median": round(float(np.median(values)), 5),
            "p95": round(float(np.quantile(values, 0.95)), 5),
        }

    return {
        "chunks": len(seconds),
        "frames_per_second": round(num_frames / total, 3) if total > 0 else None,
        "seconds_per_chunk": {stage: summary(values) for stage, values in table.items()},
    }


def compare_visits(frames_u8: Sequence[np.ndarray] | np.ndarray, visits: Sequence[Visit]) -> dict[str, np.ndarray]:
    """PSNR and SSIM of returns against their first visits, averaged within each visit: {"psnr", "ssim"}: float64
    [V]."""
    scores = [
        _scores(
            (frames_u8[int(now)], frames_u8[int(first)]) for now, first in zip(visit.frames, visit.firsts, strict=True)
        )
        for visit in visits
    ]
    return {name: np.array([score[name] for score in scores]) for name in ("psnr", "ssim")}


def _scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean PSNR and SSIM of pairs of pictures uint8 [H, W, 3]; one pair at a time, since scores are computed in numbers
    eight times as large as pictures."""
    each = np.array([(psnr(a, b), ssim(a, b)) for a, b in pairs]).T.copy()
    return {"psnr": float(each[0].mean()), "ssim": float(each[1].mean())}


def returns_report(
    runs: Mapping[str, Sequence[np.ndarray]], visits: Sequence[Visit], *, seed: int = 0
) -> dict[str, Any]:
    """The `returns` part of a report: each run (by name, its frames uint8 [H, W, 3]) compared with its own first
    visits.

    The mean weighs every visit alike; its 95 % interval resamples visits, because frames of one visit are not
    independent.
    """
    scores = {name: compare_visits(frames, visits) for name, frames in runs.items()}
    rows = []
    for number, visit in enumerate(visits):
        row: dict[str, Any] = {
            "frames": [int(visit.frames[0]), int(visit.frames[-1])],
            "first_visit": [int(visit.firsts[0]), int(visit.firsts[-1])],
            "gap_frames": visit.gap_frames,
        }
        for name, values in scores.items():
            row[name] = {metric: round(float(values[metric][number]), 4) for metric in ("psnr", "ssim")}
        rows.append(row)
    report: dict[str, Any] = {
        "definition": "frames within 0.2 m and 5 degrees of an earlier pose, the camera having looked away in between; "
        "each run is compared with its own first visit",
        "num_visits": len(visits),
        "num_frames": int(sum(len(visit.frames) for visit in visits)),
    }
    for name, values in scores.items():
        report[name] = {
            metric: interval_json(mean_interval(values[metric], seed=seed)) if len(visits) else None
            for metric in ("psnr", "ssim")
        }
    return report | {"visits": rows}


def closure_report(frames: Mapping[str, Sequence[np.ndarray]], cameras: Cameras) -> dict[str, Any] | None:
    """The given picture (frame 0 of frames uint8 [H, W, 3]) against the frames that come back to its camera
    (`measures.closure_rows`), by run; None if none does. Agreement of a video with itself says nothing of what was
    given: this does."""
    rows = closure_rows(cameras).tolist()
    if not rows:
        return None
    metres, radians = pose_distance(cameras.c2w[:1], cameras.c2w)[:, 0]
    report: dict[str, Any] = {
        "definition": "the given picture against the frame of every return to its camera",
        "frames": rows,
        "largest_distance_m": round(float(metres[rows].max()), 4),
        "largest_angle_deg": round(float(np.degrees(radians[rows].max())), 3),
    }
    for name, run in frames.items():
        report[name] = {
            metric: round(value, 4) for metric, value in _scores((run[row], run[0]) for row in rows).items()
        }
    return report
