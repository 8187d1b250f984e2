"""The yardstick for weights: are the pictures good, does memory make them right, do they stay good? Suites `quality`
and, for memory alone, `returns`.

Keys of the flat results (`benchmarks/quality.py --json`), by protocol:

    codec      codec_*
    chunk      all_coverage_*
    return     returns_<rule>_*, returns_copy_*, gt_gain_db, paper_margin_db, copy_margin_db
    swap       returns_swap_*, swap_gain_db, swap_gain_lost
    mirror     history_*, hc_gain_db (views that were left), mirror_* (every frame)
    closure    closure_db, closure_lpips
    still      still_lpips, still_early_lpips, sway_lpips
    territory  style_*, sharpness_*, colour_shift_255, fps; style_ratio_last, sharpness_ratio_last

Episodes of a style that was never trained on (`unseen_style` in their note) are left out of all that and have returns
of their own: unseen_style_psnr_db, unseen_style_gain_db.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.foreign import MEASURES
from context_as_memory.evaluation.protocols import territory
from context_as_memory.evaluation.protocols.own import (
    BOTH,
    THERE,
    measure_closure,
    measure_mirror,
    measure_still,
    there_and_back,
    turn_and_back,
)
from context_as_memory.evaluation.protocols.recorded import COPY, RULES, SWAP, measure_rules
from context_as_memory.evaluation.protocols.scenes import anywhere, choose_returns, is_unseen, recorded, start_of
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured, Report, Scores, cell, gathered
from context_as_memory.evaluation.suite.setup import Setup, Suite
from context_as_memory.evaluation.suite.system import WorldSystem
from context_as_memory.evaluation.suite.write import Table, films, number, pictures, scores, titles, write_reports

CODEC_EVERY = 50  # of the recorded frames, so many is one for the codec
METHODS = (*RULES, SWAP, COPY)
CONTEXTS = {COPY: "copy of the nearest retrieved frame", SWAP: "frames that show something else"}
HEADLINE = {  # what the last table shows: key, words, protocol
    "closure_db": ("the given picture after a turn by 90 degrees and back, PSNR", "closure"),
    "closure_lpips": ("the same, LPIPS", "closure"),
    "still_lpips": ("standing still for 200 frames, LPIPS to the given picture", "still"),
    "sway_lpips": ("ten turns by 10 degrees and back, LPIPS to the given picture", "still"),
    "style_ratio_last": ("style distance of frames 541 to 600, as a share of that of recorded walks", "territory"),
    "sharpness_ratio_last": ("sharpness of the same frames against recorded ones", "territory"),
    "unseen_style_psnr_db": ("returns in styles never trained on, PSNR", "return"),
    "unseen_style_gain_db": ("gain over recent frames there", "return"),
}


def returns(setup: Setup, episodes: Sequence[Episode], prefix: str) -> list[Case]:
    """Returns under every rule, with swapped memory, and copied."""
    if not episodes:
        return []
    config = setup.config
    found = []
    for task in choose_returns(episodes, setup.system.chunk_frames, config.clips, config.seed, config.max_withheld):
        measure = partial(measure_rules, setup.system, task, METHODS, config.seed, setup.lpips, prefix)
        found.append(Case(f"return/{task.name}", task.episode.name, measure))
    return found


def measure_codec(system: WorldSystem, episode: Episode, networks: bool) -> Measured:
    """Recorded frames against what the codec makes of them."""
    truth = recorded(episode)[0][::CODEC_EVERY]
    made = system.reconstruct(truth)
    table = Scores(networks)
    table.add("codec", made, truth)
    return Measured(table.clip(), [[(truth[0], "recorded"), (made[0], "decoded")]])


def measure_unseen(setup: Setup, case: Case) -> Measured:
    """A return in a style that was never trained on, under names of its own."""
    measured = case.measure()
    named = {f"returns_coverage.{name}": f"unseen_style.{name}" for name in MEASURES}
    named |= {"gt_gain_db": "unseen_style_gain_db"}
    return Measured({named[name]: value for name, value in measured.values.items() if name in named}, measured.rows)


def cases(setup: Setup) -> list[Case]:
    """Every protocol, the quick ones first."""
    system, config, lpips = setup.system, setup.config, setup.lpips
    unseen = [episode for episode in setup.episodes if is_unseen(episode)]
    episodes = [episode for episode in setup.episodes if not is_unseen(episode)] or list(setup.episodes)
    found = []
    if isinstance(system, WorldSystem):
        found += [Case(f"codec/{e.name}", e.name, partial(measure_codec, system, e, lpips)) for e in episodes]
    for task in anywhere(episodes, system.chunk_frames, config.clips, config.seed):
        measure = partial(measure_rules, system, task, ("coverage",), config.seed, lpips, "all_")
        found.append(Case(f"chunk/{task.name}", task.episode.name, measure))
    found += returns(setup, episodes, "returns_")
    for case in returns(setup, unseen, "returns_"):
        found.append(Case(case.name, case.group, partial(measure_unseen, setup, case)))
    for row, task in enumerate(anywhere(episodes, THERE, config.num_walks, config.seed + 1, earliest=0)):
        start, seed = start_of(task), config.seed + row
        cameras = recorded(task.episode)[1]
        paths = {
            "turn": turn_and_back(start, np.random.default_rng(task.start)),
            "walk": there_and_back(cameras[task.start : task.start + THERE]),
        }
        for kind, path in paths.items():
            measure = partial(measure_mirror, system, start, path, BOTH, config.seed, lpips, kind)
            found.append(Case(f"mirror/{task.name}/{kind}", start.group, measure))
        found.append(Case(f"closure/{task.name}", start.group, partial(measure_closure, system, start, seed, lpips)))
        if row < len(episodes):
            found.append(Case(f"still/{task.name}", start.group, partial(measure_still, system, start, seed, lpips)))
    return found + territory.cases(system, episodes, config.num_long_walks, config.num_drift_frames, config.seed, lpips)


def conclude(report: Report, setup: Setup, store: ClipStore) -> None:
    """The figures that belong to no clip, and the headline."""
    conclude_returns(report, setup, store)
    walks = store.arrays("territory")
    if walks:
        report.numbers["fps"] = {"mean": float(gathered(walks, "fps").mean()), "n": len(walks)}
    if setup.lpips and walks:
        files: dict[str, list[Path]] = {}
        for path in walks:
            files.setdefault(path.stem.removeprefix("territory_").rpartition("_")[0], []).append(path)
        report.numbers |= store.keep("style", lambda: territory.style_numbers(files, setup.episodes))
    made, truth = report.interval("sharpness_last"), report.interval("sharpness_recorded_last")
    if made and truth:
        report.numbers["sharpness_ratio_last"] = {"mean": made.mean / max(truth.mean, 1e-9), "n": made.num}
    headline = {
        "gt_psnr_db": "all_coverage.psnr_db",
        "gt_lpips": "all_coverage.lpips",
        "closure_db": "closure.psnr_db",
        "closure_lpips": "closure.lpips",
        "still_lpips": "still.lpips",
        "sway_lpips": "sway.lpips",
        "unseen_style_psnr_db": "unseen_style.psnr_db",
        "unseen_style_gain_db": "unseen_style_gain_db",
        "hc_gain_db": "hc_gain_db",
    }
    for key, metric in headline.items():
        interval = report.interval(metric)
        report.summary[key] = None if interval is None else interval.mean
    for key in ("style_ratio_last", "sharpness_ratio_last"):
        known = report.numbers.get(key)
        report.summary[key] = known["mean"] if known else None


def conclude_returns(report: Report, setup: Setup, store: ClipStore) -> None:
    """What memory gains on returns, and how much of that a swap takes."""
    gain, left = report.interval("gt_gain_db"), report.interval("swap_gain_db")
    report.summary["gt_gain_db"] = None if gain is None else gain.mean
    if gain is not None and left is not None:
        lost = 1 - left.mean / gain.mean if gain.mean > 0 else 0.0
        report.summary["swap_gain_lost"] = float(np.clip(lost, 0, 1))


def returns_table(report: Report, prefix: str) -> Table:
    """PSNR, SSIM and LPIPS of returns by context."""
    rows = [[CONTEXTS.get(name, name), *scores(report, f"{prefix}{name}", MEASURES)] for name in METHODS]
    below = (
        f"Protocol `return`, returns: {report.counted(f'{prefix}coverage.psnr_db')}; intervals of 95 % over episodes "
        f"and clips. Gain of coverage over recent: {cell(report.interval('gt_gain_db'))} dB; with swapped memory: "
        f"{cell(report.interval('swap_gain_db'))} dB."
    )
    return "Returns by context", ["context", *titles(MEASURES)], rows, below


def write_returns(report: Report, store: ClipStore, out: Path) -> None:
    """The reports of the suite `returns`."""
    last = [("Returns: truth, every context, retrieved frames", pictures(out, "return"))]
    title = f"Returns on recorded memory: {report.weights.get('name')}"
    write_reports(report, out, title, [returns_table(report, "")], last=last)


def write(report: Report, store: ClipStore, out: Path) -> None:
    """The reports of the suite `quality`."""
    others = {"codec": "codec alone", "all_coverage": "chunks anywhere"}
    others |= {f"history_{name}": f"own frames, views that were left, {name}" for name in BOTH}
    others |= {f"mirror_{name}": f"own frames, every mirrored frame, {name}" for name in BOTH}
    rows = [
        [words, report.protocol(f"{name}.psnr_db"), *scores(report, name, MEASURES)]
        for name, words in others.items()
        if report.having(f"{name}.psnr_db")
    ]
    facts = [[words, protocol, number(report.summary.get(key))] for key, (words, protocol) in HEADLINE.items()]
    gain = f"Gain on own frames: {cell(report.interval('hc_gain_db'))} dB."
    tables: list[Table] = [
        returns_table(report, "returns_"),
        ("Pictures", ["what", "protocol", *titles(MEASURES)], rows, gain),
        ("One picture, and new territory", ["what", "protocol", ""], facts, ""),
    ]
    last = [(f"Protocol {kind}", pictures(out, kind)) for kind in report.protocols() if kind != "codec"]
    last.append(("Out and back: with memory, with recent frames only", films(store.arrays("mirror"), "")))
    write_reports(report, out, f"Quality: {report.weights.get('name')}", tables, last=last)


def _returns_alone(setup: Setup) -> list[Case]:
    return returns(setup, setup.episodes, "")


SUITE = Suite(cases, conclude, write)
RETURNS = Suite(_returns_alone, conclude_returns, write_returns)
