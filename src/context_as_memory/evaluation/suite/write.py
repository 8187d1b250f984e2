"""report.json, report.md and report.html of every suite."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.evaluation.foreign import MEASURES
from context_as_memory.evaluation.report import contact_sheet, write_json
from context_as_memory.evaluation.suite import page, paper, proof
from context_as_memory.evaluation.suite.result import Report, cell, markdown_table, write_text
from context_as_memory.video import read_image

PICTURES, FILMS = 12, 6  # at most so many in a page
DIGITS = {"psnr_db": 2, "ssim": 3, "lpips": 3, "context_frames": 1}
TITLES = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "context_frames": "frames"}

Table = tuple[str, Sequence[str], Sequence[Sequence[str]], str]  # heading, headings of columns, rows, words below


def write_reports(
    report: Report,
    out: Path,
    title: str,
    tables: Sequence[Table],
    first: Sequence[tuple[str, str]] = (),
    last: Sequence[tuple[str, str]] = (),
    lead: str = "",
) -> None:
    """The three files. lead: Markdown above the tables; first, last: sections of the page before and after them."""
    write_json(out / "report.json", report.json())
    text = [f"# {title}\n", *([f"{lead}\n"] if lead else [])]
    for heading, columns, rows, below in tables:
        text += [f"## {heading}\n", markdown_table(columns, rows), *([f"{below}\n"] if below else [])]
    footer = report.footer()
    write_text(out / "report.md", "\n".join([*text, *footer]))
    sections = [*first]
    sections += [(heading, page.table(columns, rows) + page.words(below)) for heading, columns, rows, below in tables]
    sections += [*last, ("Notes", "".join(page.words(line) for line in footer))]
    write_text(out / "report.html", page.page(title, sections))


def scores(report: Report, name: str, measures: Sequence[str]) -> list[str]:
    """Cells of a row: these measures of a name, with intervals."""
    return [cell(report.interval(f"{name}.{measure}"), DIGITS[measure]) for measure in measures]


def number(value: Any) -> str:
    """A value for people: floats to three digits."""
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def films(folder: Path, name: str = "film") -> list[np.ndarray]:
    """The first films that the clips left, uint8 [T, H, W, 3] each."""
    found = []
    for path in sorted(folder.glob("*.npz"))[:FILMS]:
        with np.load(path) as made:
            found.append(made[name])
    return found


# -- proof -------------------------------------------------------------------------------------------------------------


def write_proof(report: Report, out: Path) -> None:
    """The reports of a proof."""
    contexts = [name for name in ("right", *proof.CONTROLS, *proof.SWAPS) if report.having(f"{name}.psnr_db")]
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
        ("Returns by context", ["context", *_titles(MEASURES), "gain over none, dB"], returns, f"Returns: {counted}"),
        (
            "Walks that must leave and come back",
            ["memory", "passed the gate", "rate", *_titles(MEASURES), "PSNR of common walks"],
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
    rows = [[name, *(number(row.get(key)) for key in _DRIFT)] for name, part in drift.items() for row in part]
    if rows:
        tables.append(("Drift", ["episode", *(key.replace("_", " ") for key in _DRIFT)], rows, ""))
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
    strips = sorted((out / "pictures").glob("*.png"))
    picked = strips[:: max(1, len(strips) // PICTURES)][:PICTURES]
    shown = "".join(page.picture(read_image(path)) for path in picked)
    last.append(("Returns: truth, every context, retrieved frames", shown))
    caption = (
        "left: the way out, played backwards; right: the way back. Above with memory, below with recent frames only"
    )
    last.append(("First visit and return", "".join(page.film(film, caption) for film in films(out / "films"))))
    title = f"Proof that memory is used: {report.weights.get('name')}"
    write_reports(report, out, title, tables, first, last, f"**{verdict}**")


_DRIFT = ("frame", "sharpness_ratio", "style", "style_recorded")


def _titles(measures: Sequence[str]) -> list[str]:
    return [TITLES[measure] for measure in measures]


def _mean_line(walks: Sequence[Sequence[dict[str, float]]], key: str) -> list[tuple[float, float]]:
    """Points (frame, mean over walks), as far as all walks go."""
    windows = zip(*walks, strict=False)
    return [(rows[0]["frame"], float(np.mean([row[key] for row in rows]))) for rows in windows if key in rows[0]]


# -- paper -------------------------------------------------------------------------------------------------------------


def write_paper(report: Report, out: Path) -> None:
    """The reports of the paper's three tables."""
    measured = ("context_frames", *MEASURES)
    gap = f"PSNR minus {paper.BASE}"

    def row(name: str, title: str, distances: bool) -> list[str]:
        cells = [title]
        for kind, protocol in (("", "fid"), ("history_", "history_fid")):
            cells += scores(report, f"{kind}{name}", measured)
            if distances:
                cells += [_distance(report, f"{protocol}.{name}"), _distance(report, f"{kind}fvd.{name}")]
            cells.append(cell(report.interval(f"{kind}{name}.psnr_db_minus_{paper.BASE}")))
        return cells

    def columns(what: str, distances: bool) -> list[str]:
        own = [*_titles(measured), *(["FID", "FVD"] if distances else []), gap]
        return [what, *(f"{protocol} {title}" for protocol in ("GT", "HC") for title in own)]

    below = (
        f"GT (recorded frames as memory): clips {report.counted('coverage.psnr_db')}; HC (own frames, turn and "
        f"return): walks {report.counted('history_coverage.psnr_db')}; {report.settings['seeds']} seeds each. "
        f"Intervals of 95 % over episodes and clips; differences are paired."
    )
    tables: list[Table] = [
        (
            "Methods (the paper's table 1)",
            columns("context", True),
            [row(name, name.replace("_", " "), True) for name in paper.ROWS],
            f"{below} FID and FVD (n : recorded).",
        ),
        (
            "Context size (table 2), coverage",
            columns("size", False),
            [row(f"{paper.BASE}@{size}", str(size), False) for size in paper.SIZES],
            below,
        ),
        (
            "Retrieval (table 3)",
            columns("retrieval", False),
            [row(name, name.replace("_", " "), False) for name in paper.ABLATION],
            below,
        ),
    ]
    found = {name: report.interval(f"history_{name}.psnr_db") for name in paper.ROWS}
    bars = {name: interval for name, interval in found.items() if interval is not None}
    first = [("Own frames after a turn and return: PSNR to the first visit", page.bars(bars, "dB", [paper.BASE]))]
    strips = []
    for path in sorted((out / "frames").glob("chunk-*.npz"))[:PICTURES]:
        with np.load(path) as made:
            names = ("truth", *paper.ROWS)
            own = [(made[name][report.settings["chunk_frames"] - 1], name.replace("_", " ")) for name in names]
            retrieved = [(frame, f"retrieved {number + 1}") for number, frame in enumerate(made["retrieved"])]
        strips.append(page.picture(contact_sheet([own, retrieved], [], scale=1)))
    shown = []
    for path in sorted((out / "frames").glob("turn-*.npz"))[:FILMS]:
        with np.load(path) as made:
            film = np.concatenate([made[f"film_{name}"] for name in (paper.BASE, "recent")], axis=2)
        shown.append(page.film(film, "left: context by coverage; right: recent frames only. A turn away and back"))
    last = [
        ("Chunks on recorded memory: truth, every row, frames that coverage retrieved", "".join(strips)),
        ("Turn and return on own frames", "".join(shown)),
    ]
    title = f"The paper's tables: {report.weights.get('name')}"
    write_reports(report, out, title, tables, first if bars else (), last)


def _distance(report: Report, name: str) -> str:
    found = report.numbers.get(name)
    return f"{found['mean']:.1f} ({found['n']} : {found['reference']})" if found else "-"


# -- videos and revisits -----------------------------------------------------------------------------------------------


def write_videos(report: Report, out: Path) -> None:
    """The reports on videos of another system."""
    columns = ["returns", *(f"return.{measure}" for measure in MEASURES)]
    headings = ["video", "returns", *_titles(MEASURES)]
    if report.settings["truth"]:
        columns += [f"return_truth.{measure}" for measure in MEASURES]
        headings += ["PSNR to truth, dB", "SSIM to truth", "LPIPS to truth"]
    rows = [[name, *(number(clip.get(key)) for key in columns)] for name, clip in report.clips.items()]
    tables = [
        ("Returns against first visits", headings, rows, f"Videos with returns: {len(report.having(columns[1]))}.")
    ]
    write_reports(report, out, f"Returns in {report.weights.get('name')}", tables)


def write_revisit(report: Report, out: Path) -> None:
    """The reports on revisits from any picture."""
    rows = [[name, *scores(report, f"revisit_{name}", MEASURES)] for name in ("coverage", "recent")]
    below = f"Walks with returns: {len(report.having('gain_db'))}."
    tables = [("Returns against first visits", ["memory", *_titles(MEASURES)], rows, below)]
    shown = "".join(page.film(film, "left: with memory; right: recent frames only") for film in films(out / "films"))
    title = f"Revisits: {report.weights.get('name')}"
    write_reports(report, out, title, tables, last=[("With memory, with recent frames only", shown)])
