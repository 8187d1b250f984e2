"""One self-contained HTML page: tables, plots as SVG, pictures and videos, all inside one file."""

import base64
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from context_as_memory.evaluation.metrics import Interval
from context_as_memory.formats.video import VideoWriter

WIDTH, BAR, LEFT = 640, 26, 190  # pixels of a plot, of a bar with its gap, of the labels

_STYLE = """
:root { color-scheme: light dark; --ink: #212529; --muted: #6e747a; --ground: #fafaf9; --line: #d8dadd;
  --bar: #2b8a3e; --other: #868e96; --alarm: #c92a2a }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ecef; --muted: #a0a6ac; --ground: #16181a; --line: #3a3f44;
  --bar: #51cf66; --other: #868e96; --alarm: #ff8787 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line) }
.verdict { font-size: 1.2rem; font-weight: 600 } .no { color: var(--alarm) } .yes { color: var(--bar) }
img, video { max-width: 100%; image-rendering: pixelated; border-radius: 4px } video { width: 36rem }
figure { margin: 1rem 0 } figcaption, .muted { color: var(--muted); font-size: .9rem }
.scroll { overflow-x: auto }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif } svg .muted { fill: var(--muted) }
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page; sections are (heading, HTML)."""
    body = "\n".join(f"<h2>{html.escape(heading)}</h2>\n{content}" for heading, content in sections)
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def words(text: str) -> str:
    """A paragraph of plain text; nothing for none."""
    return f'<p class="muted">{html.escape(text)}</p>' if text else ""


def bars(values: Mapping[str, Interval], unit: str, strong: Sequence[str] = ()) -> str:
    """Horizontal bars with their 95 % intervals; bars named in `strong` stand out."""
    low = min(0.0, *(value.low for value in values.values()))
    high = max(0.0, *(value.high for value in values.values()))
    scale = (WIDTH - LEFT - 110) / max(high - low, 1e-9)

    def x(value: float) -> float:
        return round(LEFT + (value - low) * scale, 1)

    parts = []
    for row, (name, value) in enumerate(values.items()):
        y = row * BAR + 6
        start, end = sorted((x(0.0), x(value.mean)))
        colour = "var(--bar)" if name in strong else "var(--other)"
        parts.append(f'<text x="0" y="{y + 13}">{html.escape(name.replace("_", " "))}</text>')
        parts.append(f'<rect x="{start}" y="{y}" width="{end - start:.1f}" height="{BAR - 8}" rx="2" fill="{colour}"/>')
        parts.append(
            f'<line x1="{x(value.low)}" x2="{x(value.high)}" y1="{y + 9}" y2="{y + 9}" stroke="var(--ink)" '
            'stroke-width="2"/>'
        )
        label = f"{value.mean:.2f} {unit}"
        parts.append(f'<text class="muted" x="{max(x(value.high), end) + 8}" y="{y + 13}">{label}</text>')
    return _svg(len(values) * BAR + 10, "".join(parts))


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str) -> str:
    """Lines through points (x, y), each with its name at its end."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    xs, ys = (np.array(values) for values in zip(*points, strict=True))
    top, height, bottom = max(float(ys.max()), 1e-9), 220, 30
    wide = WIDTH - 200
    parts = [
        f'<line x1="40" x2="{40 + wide}" y1="{height}" y2="{height}" stroke="var(--line)"/>'
        f'<text class="muted" x="0" y="14">{top:.3g}</text><text class="muted" x="0" y="{height}">0</text>'
        f'<text class="muted" x="{wide - 60}" y="{height + 22}">{html.escape(x_label)} {xs.max():g}</text>'
    ]
    for number, (name, line) in enumerate(series.items()):
        at = [(40 + wide * a / max(float(xs.max()), 1e-9), height - (height - 14) * b / top) for a, b in line]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        dash = "" if number == 0 else f' stroke-dasharray="{6 - number} {2 + 2 * number}"'
        colour = "var(--bar)" if number == 0 else "var(--ink)"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{at[-1][0] + 8:.0f}" y="{at[-1][1] + 4:.0f}">{html.escape(name)}</text>')
    return _svg(height + bottom, "".join(parts))


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" style="max-width:100%" role="img">{content}</svg>'


def picture(frame_u8: np.ndarray, caption: str = "") -> str:
    """A picture uint8 [H, W, 3] as JPEG inside the page."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame_u8)).save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = html.escape(caption)
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{words}</figcaption></figure>'


def film(frames_u8: np.ndarray, caption: str = "", fps: float = 15.0) -> str:
    """A video uint8 [T, H, W, 3] (even sides) inside the page, playing in a loop."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with VideoWriter(path, frames_u8.shape[2], frames_u8.shape[1], fps, crf=23, pix_fmt="yuv420p") as writer:
            writer.write(frames_u8)
        data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><video controls autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
