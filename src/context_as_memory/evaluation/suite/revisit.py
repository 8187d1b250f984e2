"""Any start picture: protocols `mirror` and `closure`, with memory and with recent frames only."""

from functools import partial
from pathlib import Path

import numpy as np

from context_as_memory.evaluation.foreign import MEASURES
from context_as_memory.evaluation.protocols.own import BOTH, measure_closure, measure_mirror, turn_and_back
from context_as_memory.evaluation.suite.result import Case, ClipStore, Report
from context_as_memory.evaluation.suite.setup import Setup, Suite
from context_as_memory.evaluation.suite.write import Table, films, scores, titles, write_reports

WALK = "w-40,s-40"


def cases(setup: Setup) -> list[Case]:
    """For every picture: turn and back, walk and back, and the given picture itself; at most `clips`."""
    system, seed, lpips = setup.system, setup.config.seed, setup.lpips
    rng = np.random.default_rng(seed)
    found = []
    for start in setup.starts:
        for kind, path in (("turn", turn_and_back(start, rng)), ("walk", start.path(WALK))):
            measure = partial(measure_mirror, system, start, path, BOTH, seed, lpips, kind)
            found.append(Case(f"mirror/{start.name}/{kind}", start.group, measure))
        found.append(Case(f"closure/{start.name}", start.group, partial(measure_closure, system, start, seed, lpips)))
    return found[: setup.config.clips]


def conclude(report: Report, setup: Setup, store: ClipStore) -> None:
    """What memory gains, and how well the given picture comes back."""
    for key, metric in (("gain_db", "hc_gain_db"), ("closure_db", "closure.psnr_db")):
        interval = report.interval(metric)
        report.summary[key] = None if interval is None else interval.mean
    report.notes.append("a foggy picture that stays foggy scores well here: look at the videos")


def write(report: Report, store: ClipStore, out: Path) -> None:
    """The reports on revisits from any picture."""
    rows = [["every frame of the way back", name, *scores(report, f"mirror_{name}", MEASURES)] for name in BOTH]
    rows += [["frames whose view was left", name, *scores(report, f"history_{name}", MEASURES)] for name in BOTH]
    rows.append(["the given picture (closure)", "coverage", *scores(report, "closure", MEASURES)])
    below = f"Walks with returns: {len(report.having('hc_gain_db'))}."
    tables: list[Table] = [("Ways back against ways out", ["what", "memory", *titles(MEASURES)], rows, below)]
    shown = films(store.arrays("mirror"), "left: with memory; right: recent frames only")
    title = f"Revisits: {report.weights.get('name')}"
    write_reports(report, out, title, tables, last=[("With memory, with recent frames only", shown)])


SUITE = Suite(cases, conclude, write)
