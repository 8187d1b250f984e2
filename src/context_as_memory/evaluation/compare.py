"""`cam compare`: what changed between two reports, with intervals, and where their settings differ."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.evaluation.metrics import Interval, mean_interval, resampled_means
from context_as_memory.evaluation.report import SCHEMA, write_json
from context_as_memory.formats.files import check_plain

HUGE = 1e100  # beyond any metric; leaves out infinity and what is no number too


def read_report(path: Path) -> dict[str, Any]:
    """A report.json of a known schema, checked as far as it is compared; else `UserError` that names file and field."""
    check_plain(path)
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no report ({error}); give a report.json of `cam evaluate`") from error
    if not isinstance(report, dict) or "schema" not in report:
        raise UserError(f"{path} is no report (no schema is named in it); give a report.json of `cam evaluate`")
    if report["schema"] != SCHEMA:
        raise UserError(f"{path} has report schema {report['schema']!r}, this version reads {SCHEMA}; evaluate again")
    for key, kind in (("clips", list), ("metrics", dict), ("settings", dict)):
        if not isinstance(report.get(key), kind):
            raise UserError(f"{path} lacks {key!r}; evaluate again")
    if not isinstance(report.get("weights") or {}, dict):
        raise UserError(f"{path}: 'weights' names no fields; evaluate again")
    clips = report["clips"]
    if not all(isinstance(clip, str) for clip in clips) or len(set(clips)) < len(clips):
        raise UserError(f"{path}: 'clips' are not names that differ from each other; evaluate again")
    groups = report.get("groups", clips)
    if not isinstance(groups, list) or len(groups) != len(clips) or not all(isinstance(name, str) for name in groups):
        raise UserError(f"{path}: 'groups' does not name one for each of the {len(clips)} clips; evaluate again")
    numbers = report.get("numbers", {})
    if not isinstance(numbers, dict) or not all(
        isinstance(n, dict) and _is_value(n.get("mean")) for n in numbers.values()
    ):
        raise UserError(f"{path}: 'numbers' are not finite means by name; evaluate again")
    for name, metric in report["metrics"].items():
        values = metric.get("values") if isinstance(metric, dict) else None
        if not isinstance(values, list) or len(values) != len(clips) or not all(map(_is_value, values)):
            raise UserError(
                f"{path}: metric {name!r} has no 'values', a finite number or null for each of the {len(clips)} clips; "
                f"evaluate again"
            )
    return report


def _is_value(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return -HUGE < value < HUGE


def difference(a: dict[str, Any], b: dict[str, Any], metric: str) -> tuple[Interval, bool] | None:
    """The mean of a metric in report b minus that in a, with its 95 % interval, and whether it is paired: clip by clip
    where both measured at least two of the same clips, else by resampling each on its own. None if one has no value.
    The interval of single values has no width."""
    values, groups = [], []
    for report in (a, b):
        found = zip(report["clips"], report["metrics"][metric]["values"], strict=True)
        values.append({clip: value for clip, value in found if value is not None})
        groups.append(dict(zip(report["clips"], report.get("groups", report["clips"]), strict=True)))
    common = sorted(values[0].keys() & values[1].keys())
    if len(common) >= 2:
        apart = np.array([values[1][clip] - values[0][clip] for clip in common])
        return mean_interval(apart, [groups[1][clip] for clip in common]), True
    if not values[0] or not values[1]:
        return None
    means, centres = [], []
    for number, (part, group) in enumerate(zip(values, groups, strict=True)):
        column = np.array(list(part.values()), np.float64)[:, None]
        means.append(resampled_means(column, [group[clip] for clip in part], seed=number)[:, 0])
        centres.append(float(column.mean()))
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return Interval(centres[1] - centres[0], float(low), float(high), min(map(len, values))), False


def compare(first: Path, second: Path, out: Path | None = None) -> dict[str, Any]:
    """Print how the second report differs from the first; returns (and writes to `out`) the same as JSON."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    a, b = read_report(first), read_report(second)
    if a.get("suite") != b.get("suite"):
        raise UserError(f"{first} is of suite {a.get('suite')}, {second} of {b.get('suite')}; compare like with like")
    changed = {
        key: [a["settings"].get(key), b["settings"].get(key)]
        for key in sorted(a["settings"].keys() | b["settings"].keys())
        if a["settings"].get(key) != b["settings"].get(key)
    }
    weights = [(report.get("weights") or {}).get("sha256") for report in (a, b)]
    if weights[0] != weights[1]:
        changed["weights"] = weights
    found: dict[str, Any] = {}
    table = Table(title=escape(f"{second} minus {first}"))
    for heading in ("metric", "difference", "95 % interval", "clips"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric in (name for name in a["metrics"] if name in b["metrics"]):
        result = difference(a, b, metric)
        if result is None:
            continue
        interval, paired = result
        found[metric] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "paired": paired}
        sure = interval.num > 1 and not interval.low <= 0 <= interval.high
        mark = " *" if sure else ""
        clips = f"{interval.num}" if paired else f"{interval.num}, unpaired"
        table.add_row(
            escape(metric), f"{interval.mean:+.3f}{mark}", f"[{interval.low:+.3f}, {interval.high:+.3f}]", clips
        )
    numbers = [report.get("numbers", {}) for report in (a, b)]
    for name in (name for name in numbers[0] if name in numbers[1]):
        before, after = (number[name]["mean"] for number in numbers)
        if before is not None and after is not None:  # one value each, of sets or curves: no interval of the difference
            found[name] = {"mean": after - before, "low": None, "high": None, "paired": False}
            table.add_row(escape(name), f"{after - before:+.3f}", "-", "-")
    console = Console()
    console.print(table)
    console.print("* the interval leaves out 0")
    for key, (before, after) in changed.items():
        console.print(f"settings differ: {key}: {before} -> {after}", markup=False)
    for path, here, there in ((first, a, b), (second, b, a)):
        if alone := [name for name in here["metrics"] if name not in there["metrics"]]:
            console.print(f"only in {path}: {', '.join(alone)}", markup=False)
    answer = {"suite": a.get("suite"), "settings_differ": changed, "differences": found}
    if out is not None:
        write_json(out, answer)
    return answer
