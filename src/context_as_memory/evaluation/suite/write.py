"""report.json, report.md and report.html of every suite, and the parts that their pages share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from context_as_memory.evaluation.report import write_json
from context_as_memory.evaluation.suite import page
from context_as_memory.evaluation.suite.result import Report, cell, markdown_table
from context_as_memory.formats.files import read_arrays, write_text
from context_as_memory.formats.pictures import read_image

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


def titles(measures: Sequence[str]) -> list[str]:
    """Headings of these measures."""
    return [TITLES[measure] for measure in measures]


def films(files: Sequence[Path], caption: str) -> str:
    """The films that the first clips left, for a page."""
    shown = []
    for path in files[:FILMS]:
        shown.append(page.film(read_arrays(path)["film"], caption))
    return "".join(shown)


def pictures(out: Path, kind: str) -> str:
    """Up to `PICTURES` of the pictures that the clips of a protocol left, for a page."""
    strips = sorted((out / "pictures").glob(f"{kind}_*.png"))
    picked = strips[:: max(1, len(strips) // PICTURES)][:PICTURES]
    return "".join(page.picture(read_image(path)) for path in picked)
