"""Is memory really used? Protocols `return` and `swap`, `gate`, `visibility`, `territory`, and what it costs.

Returns are generated with the right memory and with matched controls: no memory (the most recent frame alone), a window
of recent frames, random frames; as many as the right memory has. A system that uses its memory loses by a swap what
memory gave it. All contexts start from the same noise. The verdict is `proven` when right memory gains over every
control (95 % interval above 0), at most half of the gain survives either swap, and the gate is passed more often with
memory than without; `conditions` says which of these hold.
"""

import html
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.foreign import MEASURES
from context_as_memory.evaluation.metrics import Interval, resampled_means
from context_as_memory.evaluation.protocols import territory
from context_as_memory.evaluation.protocols.contexts import SWAPS
from context_as_memory.evaluation.protocols.gate import choose_walks, measure_walk
from context_as_memory.evaluation.protocols.recorded import measure_controls
from context_as_memory.evaluation.protocols.scenes import choose_returns, recorded
from context_as_memory.evaluation.suite import page
from context_as_memory.evaluation.suite.result import Case, ClipStore, Report, cell
from context_as_memory.evaluation.suite.setup import Setup, Suite
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.evaluation.suite.write import Table, films, number, pictures, scores, titles, write_reports

CONTROLS = ("none", "recent", "random")
DRIFT_WALKS = 3  # at most so many long walks
DRIFT = ("frame", "sharpness_ratio", "style", "style_recorded")


def cases(setup: Setup) -> list[Case]:
    """Returns with every context, walks through the gate, long walks."""
    system, episodes, config, lpips = setup.system, setup.episodes, setup.config, setup.lpips
    found = []
    for row, task in enumerate(choose_returns(episodes, system.chunk_frames, config.clips, config.seed)):
        others = [episode for episode in episodes if episode.folder != task.episode.folder]
        other = others[row % len(others)] if others else None
        measure = partial(measure_controls, system, task, other, config.seed + row, lpips)
        found.append(Case(f"return/{task.name}", task.episode.name, measure))
    for row, walk in enumerate(choose_walks(episodes, config.num_walks, config.seed)):
        measure = partial(measure_walk, system, walk, config.seed + row, lpips)
        found.append(Case(f"gate/{walk.name}", walk.episode.name, measure))
    count = min(DRIFT_WALKS, len(episodes))
    return found + territory.cases(system, episodes, count, config.num_drift_frames, config.seed, lpips)


def conclude(report: Report, setup: Setup, store: ClipStore) -> None:
    """The curves of the long walks, the cost, and the verdict."""
    if len(setup.episodes) < 2:
        report.notes.append("there is one episode only: the swap for another scene was left out")
    if not report.having("gate.coverage"):
        report.notes.append("no recorded path comes back to a pose after 40 to 200 frames: the gate was not tested")
    report.parts["drift"] = {
        path.stem.removeprefix("territory_"): territory.series(path) for path in store.arrays("territory")
    }
    report.parts["cost"] = store.keep("cost", lambda: cost(setup.system, setup.episodes[0]))
    judge(report)


def judge(report: Report) -> None:
    """Fill the summary from the clips, the verdict and its conditions included."""
    summary = report.summary
    swaps = [swap for swap in SWAPS if report.having(f"gain_db.{swap}")]
    for name in ("right", *CONTROLS[1:], *swaps):
        summary[f"gain_db.{name}"] = _mean(report.interval(f"gain_db.{name}"))
    conditions: dict[str, bool] = {"at least two returns were measured": len(report.having("gain_db.right")) > 1}
    for control in CONTROLS:
        base = f"gain_db.{control}"
        margin = report.interval("gain_db.right") if control == "none" else report.difference("gain_db.right", base)
        report.note_interval(f"margin_db.{control}", margin)
        summary[f"margin_db.{control}"] = _mean(margin)
        name = {"none": "no memory", "recent": "recent frames", "random": "random frames"}[control]
        conditions[f"right memory gains over {name}"] = margin is not None and margin.low > 0
    for swap in swaps:
        clips = report.having("gain_db.right", f"gain_db.{swap}")
        gains = np.stack([report.values(f"gain_db.{name}", clips) for name in ("right", swap)], axis=1)
        remaining = remaining_share(gains[:, 0], gains[:, 1])
        shares = [_kept(*row) for row in resampled_means(gains, report.groups_of(clips))]
        low, high = np.quantile(shares, [0.025, 0.975])
        report.note_interval(f"remaining.{swap}", Interval(remaining or 0.0, float(low), float(high), len(clips)))
        summary[f"remaining.{swap}"] = remaining
        name = {"wrong_same_trajectory": "frames that show something else", "other_scene": "another scene"}[swap]
        conditions[f"at most half of the gain survives a swap for {name}"] = remaining is not None and remaining <= 0.5
    if not swaps:
        conditions["memory was swapped"] = False
    for kind in ("retrieval", "retrieval_random"):
        for name in ("precision", "recall"):
            summary[f"{kind}.{name}"] = _mean(report.interval(f"{kind}.{name}"))
    with_memory, without = _mean(report.interval("gate.coverage")), _mean(report.interval("gate.recent"))
    summary["gate_pass_rate"], summary["gate_pass_rate_recent"] = with_memory, without
    conditions["walks that must leave and come back were measured"] = with_memory is not None
    conditions["more walks pass the gate with memory than without"] = (with_memory or 0.0) > (without or 0.0)
    both = report.having("walk_coverage.psnr_db", "walk_recent.psnr_db")
    summary["walks_passed"] = len(report.having("walk_coverage.psnr_db"))
    summary["walks_passed_recent"] = len(report.having("walk_recent.psnr_db"))
    summary["walks_passed_both"] = len(both)
    last = [rows[-1] for rows in report.parts.get("drift", {}).values()]  # windows at the ends of the walks
    for key in sorted({key for row in last for key in row} - {"frame"}):
        values = [row[key] for row in last if key in row]
        report.numbers[f"drift_end.{key}"] = {"mean": float(np.mean(values)), "n": len(values)}
    report.parts["conditions"] = conditions
    summary["proven"] = all(conditions.values())


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


def remaining_share(right: np.ndarray, swapped_gain: np.ndarray) -> float | None:
    """Which share of memory's gain survives a swap, in [0, 1]: 1 when the swap changes nothing, also where there is no
    gain. None without clips."""
    return _kept(float(right.mean()), float(swapped_gain.mean())) if len(right) else None


def _kept(gain: float, swapped_gain: float) -> float:
    lost = gain - swapped_gain
    if abs(lost) < 1e-9:
        return 1.0
    return float(np.clip(1 - lost / gain, 0, 1)) if gain > 0 else 1.0


def cost(system: System, episode: Episode) -> list[dict[str, float]]:
    """Seconds per chunk and bytes of memory against the frames remembered. Only for worlds of ours."""
    if not isinstance(system, WorldSystem):
        return []
    frames, cameras = recorded(episode)
    rows = []
    world = system.fresh(0)
    for history in (64, 256, 900):
        if history + 6 * world.chunk_frames > len(frames):
            break
        world.reset(frames[:history], cameras[:history])
        seconds = []
        for step in range(6):
            start = history + step * world.chunk_frames
            began = time.perf_counter()
            chunk = world.step(cameras[start : start + world.chunk_frames], commit=False)
            seconds.append(time.perf_counter() - began)
        latents = world.bank.latents(np.arange(1))
        size = latents.numel() * latents.element_size() + frames[0].nbytes
        rows.append(
            {
                "history_frames": float(history),
                "seconds_per_chunk": float(np.median(seconds[1:])),
                "retrieve_seconds": chunk.seconds["retrieve"],
                "memory_bytes": float(size * history),
            }
        )
    return rows


def write(report: Report, store: ClipStore, out: Path) -> None:
    """The reports of a proof."""
    contexts = [name for name in ("right", *CONTROLS, *SWAPS) if report.having(f"{name}.psnr_db")]
    returns = [
        [name.replace("_", " "), *scores(report, name, MEASURES)]
        + [cell(report.interval(f"gain_db.{name}")) if name != "none" else "0"]
        for name in contexts
    ]
    both = report.having("walk_coverage.psnr_db", "walk_recent.psnr_db")
    walks = []
    for name, title in (("coverage", "with memory"), ("recent", "recent frames only")):
        own = report.having(f"walk_{name}.psnr_db")
        row = [title, f"{len(own)} of {len(report.having(f'gate.{name}'))}"]
        row += [cell(report.interval(f"gate.{name}")), *scores(report, f"walk_{name}", MEASURES)]
        walks.append([*row, number(float(report.values(f"walk_{name}.psnr_db", both).mean()) if both else None)])
    gained = report.difference("walk_coverage.psnr_db", "walk_recent.psnr_db")
    below_walks = (
        f"Walks: {report.counted('gate.coverage')}. "
        f"PSNR, SSIM and LPIPS of the frame of the return, over the walks that passed in that arm; the last column "
        f"over the {len(both)} that passed in both. Memory's gain on those: {cell(gained)} dB."
    )
    facts = []
    for key, value in report.summary.items():
        known = report.numbers.get(key)
        ends = f" [{known['low']:.3f}, {known['high']:.3f}]" if known and known.get("low") is not None else ""
        facts.append([key.replace("_", " "), number(value) + ends])
    conditions = report.parts["conditions"]
    failed = [name for name, holds in conditions.items() if not holds]
    verdict = "Memory is used." if not failed else f"NOT proven. What does not hold: {'; '.join(failed)}."
    counted = f"{report.counted('right.psnr_db')}; intervals of 95 % over episodes and clips."
    tables: list[Table] = [
        ("Returns by context", ["context", *titles(MEASURES), "gain over none, dB"], returns, f"Returns: {counted}"),
        (
            "Walks that must leave and come back",
            ["memory", "passed the gate", "rate", *titles(MEASURES), "PSNR of common walks"],
            walks,
            below_walks,
        ),
        (
            "Conditions of the verdict",
            ["condition", "holds"],
            [[k, "yes" if v else "NO"] for k, v in conditions.items()],
            "",
        ),
        ("Summary", ["", ""], facts, "The values `retrieval random` are what as many random frames would reach."),
    ]
    drift: dict[str, list[dict[str, float]]] = report.parts.get("drift") or {}
    rows = [[name, *(number(row.get(key)) for key in DRIFT)] for name, part in drift.items() for row in part]
    if rows:
        tables.append(("Drift", ["episode", *(key.replace("_", " ") for key in DRIFT)], rows, ""))
    costs = report.parts.get("cost") or []
    if costs:
        head = [key.replace("_", " ") for key in costs[0]]
        tables.append(("Cost", head, [[f"{value:.4g}" for value in row.values()] for row in costs], ""))
    known_gains = {name: report.interval(f"gain_db.{name}") for name in contexts if name != "none"}
    bars = {name: interval for name, interval in known_gains.items() if interval is not None}
    mark = "no" if failed else "yes"
    first = [
        ("Verdict", f'<p class="verdict {mark}">{html.escape(verdict)}</p>'),
        ("Gain over the most recent frame alone", page.bars(bars, "dB", ["right"]) if bars else ""),
    ]
    last = []
    for keys, heading in (
        (("style", "style_recorded"), "Drift: style distance to recorded frames, mean over walks"),
        (("sharpness_ratio",), "Drift: sharpness as a share of the recorded one, mean over walks"),
    ):
        series = {key: _mean_line(list(drift.values()), key) for key in keys}
        if any(series.values()):
            last.append((heading, page.lines({key: line for key, line in series.items() if line}, "frame")))
    if costs:
        line = [(row["history_frames"], row["seconds_per_chunk"]) for row in costs]
        last.append(("Seconds per chunk against remembered frames", page.lines({"seconds": line}, "frames")))
    last.append(("Returns: truth, every context, retrieved frames", pictures(out, "return")))
    caption = (
        "left: the way out, played backwards; right: the way back. Above with memory, below with recent frames only"
    )
    last.append(("First visit and return", films(store.arrays("gate"), caption)))
    title = f"Proof that memory is used: {report.weights.get('name')}"
    write_reports(report, out, title, tables, first, last, f"**{verdict}**")


def _mean_line(walks: Sequence[Sequence[dict[str, float]]], key: str) -> list[tuple[float, float]]:
    """Points (frame, mean over walks), as far as all walks go."""
    windows = zip(*walks, strict=False)
    return [(rows[0]["frame"], float(np.mean([row[key] for row in rows]))) for rows in windows if key in rows[0]]


SUITE = Suite(cases, conclude, write)
