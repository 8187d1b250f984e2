"""What a run leaves behind besides its video: numbers as JSON, pictures side by side, contact sheets."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory import __version__
from context_as_memory.errors import UserError
from context_as_memory.evaluation.metrics import Interval, mean_interval, psnr, ssim
from context_as_memory.evaluation.returns import Visit
from context_as_memory.formats.files import atomic as whole

if TYPE_CHECKING:
    from PIL import ImageFont

STAGES = ("retrieve", "encode", "denoise", "decode")

BACKGROUND, INK, MUTED = (250, 250, 249), (33, 37, 41), (110, 116, 122)
RETURN_COLOUR, FIRST_COLOUR = (232, 89, 12), (43, 138, 62)

# ---- numbers
# ------------------------------------------------------------------------------------------------------------


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Write indented JSON, whole or not at all. Not-a-number values are refused: no other program could read them."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with whole(Path(path)) as partial:
        partial.write_text(text)


def environment() -> dict[str, Any]:
    """Versions and machine, for reports. Never imports torch; names the version that is installed."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "package": __version__,
        "torch": version("torch"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far, in MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


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


def interval_json(interval: Interval) -> dict[str, float | int | None]:
    """An interval for JSON, rounded to what it is worth."""
    if interval.num < 2:  # one value says nothing about its spread
        return {"mean": round(interval.mean, 4), "low": None, "high": None, "n": interval.num}
    return {
        "mean": round(interval.mean, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.num,
    }


def compare_visits(frames_u8: Sequence[np.ndarray] | np.ndarray, visits: Sequence[Visit]) -> dict[str, np.ndarray]:
    """PSNR and SSIM of returns against their first visits, averaged within each visit: {"psnr", "ssim"}: float64
    [V]."""
    result: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for visit in visits:
        returned = np.stack([frames_u8[i] for i in visit.frames.tolist()])
        first = np.stack([frames_u8[i] for i in visit.firsts.tolist()])
        result["psnr"].append(float(psnr(returned, first).mean()))
        result["ssim"].append(float(ssim(returned, first).mean()))
    return {name: np.array(values) for name, values in result.items()}


def returns_report(runs: dict[str, Sequence[np.ndarray]], visits: Sequence[Visit], *, seed: int = 0) -> dict[str, Any]:
    """The `returns` part of a report: each run (by name, its frames) compared with its own first visits.

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


# ---- pictures
# -------------------------------------------------------------------------------------------------------------


class Comparison:
    """Frames of two runs side by side, with a heading over each and a mark that says where the path returns.

    width, height: size of the runs' frames; labels: the two headings. `size` is that of the composed frames, even on
    both sides.
    """

    def __init__(self, width: int, height: int, labels: tuple[str, str], scale: int = 3) -> None:
        self.panel = (width * scale, height * scale)
        self.gap, self.head, self.foot = 4 * scale, 14 * scale, 3 * scale
        full_width, full_height = 2 * self.panel[0] + 3 * self.gap, self.head + self.panel[1] + self.foot
        self.size = (full_width + full_width % 2, full_height + full_height % 2)
        self.labels = labels
        self.font, self.small = font(round(6.0 * scale)), font(round(4.4 * scale))
        self.scale = scale

    def compose(
        self,
        pictures: tuple[np.ndarray, np.ndarray],
        number: int,
        *,
        first: int | None = None,
        then: tuple[np.ndarray, np.ndarray] | None = None,
        revisited: bool = False,
    ) -> np.ndarray:
        """One frame, uint8 [height, width, 3].

        pictures: frame `number` of both runs, uint8 [H, W, 3]. first: frame number of the first visit if this is a
        return; then: the frames of the first visit, shown small for comparison. revisited: the path will come back
        here.
        """
        from PIL import Image, ImageDraw

        canvas = Image.new("RGB", self.size, BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        middle = self.head // 2
        for side, (frame, label) in enumerate(zip(pictures, self.labels, strict=True)):
            x = self.gap + side * (self.panel[0] + self.gap)
            picture = Image.fromarray(np.ascontiguousarray(frame)).resize(self.panel, Image.Resampling.BICUBIC)
            canvas.paste(picture, (x, self.head))
            draw.text((x, middle), label, font=self.font, fill=INK, anchor="lm")
            if then is not None:
                self._inset(canvas, draw, then[side], x + self.panel[0], self.head + self.panel[1])
        if first is not None:
            self._pill(draw, f"return to frame {first}", RETURN_COLOUR, middle)
        elif revisited:
            self._pill(draw, "first visit", FIRST_COLOUR, middle)
        draw.text((self.size[0] - self.gap, middle), f"frame {number}", font=self.small, fill=MUTED, anchor="rm")
        return np.array(canvas)

    def _inset(self, canvas: Any, draw: Any, frame: np.ndarray, right: int, bottom: int) -> None:
        """The picture of the first visit, small and framed, in the lower right corner of a panel."""
        from PIL import Image

        width, height = (round(0.3 * side) for side in self.panel)
        x, y = right - width - 2 * self.scale, bottom - height - 2 * self.scale
        draw.rectangle((x - self.scale, y - 6 * self.scale, right - self.scale, bottom - self.scale), fill=FIRST_COLOUR)
        canvas.paste(
            Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC), (x, y)
        )
        text = (x + width / 2, y - 2.8 * self.scale)
        draw.text(text, "first visit", font=self.small, fill=(255, 255, 255), anchor="mm")

    def _pill(self, draw: Any, text: str, colour: tuple[int, int, int], middle: int) -> None:
        """A coloured mark that ends where the left picture does, and again on the right before the frame number."""
        half = round(4.2 * self.scale)
        pad = 3 * self.scale
        width = draw.textlength(text, font=self.small) + 2 * pad
        right_end = self.size[0] - self.gap - draw.textlength("frame 88888", font=self.small) - pad
        for end in (self.gap + self.panel[0], right_end):
            draw.rounded_rectangle((end - width, middle - half, end, middle + half), radius=half, fill=colour)
            draw.text((end - width / 2, middle), text, font=self.small, fill=(255, 255, 255), anchor="mm")


def contact_sheet(
    rows: Sequence[Sequence[tuple[np.ndarray, str]]],
    headings: Sequence[str],
    *,
    row_labels: Sequence[str] = (),
    scale: int = 2,
) -> np.ndarray:
    """A table of pictures: one row per case, each cell (uint8 [H, W, 3], caption). Rows may be of unequal length.

    headings: over the columns; the last one also stands for the columns after it. Returns uint8 [height, width, 3].
    """
    from PIL import Image, ImageDraw

    if not rows or not rows[0]:
        raise UserError("a contact sheet needs at least one row with one picture")
    height, width = (side * scale for side in rows[0][0][0].shape[:2])
    columns = max(max(len(row) for row in rows), len(headings))
    gap, line, margin = 4 * scale, max(16, 9 * scale), 6 * scale  # text is readable at any scale
    label_width = 0 if not row_labels else 26 * scale
    size = (
        2 * margin + label_width + columns * (width + gap) - gap,
        2 * margin + line + len(rows) * (height + line + gap) - gap,
    )
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    bold, small = font(max(12, 6 * scale)), font(max(11, 5 * scale))
    left = margin + label_width
    for column, heading in enumerate(headings):
        draw.text((left + column * (width + gap), margin + line // 2), heading, font=bold, fill=INK, anchor="lm")
    for number, row in enumerate(rows):
        top = margin + line + number * (height + line + gap)
        if number < len(row_labels):
            draw.text((margin, top + height // 2), row_labels[number], font=bold, fill=INK, anchor="lm")
        for column, (frame, caption) in enumerate(row):
            x = left + column * (width + gap)
            picture = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC)
            canvas.paste(picture, (x, top))
            draw.text((x, top + height + line // 2), caption, font=small, fill=MUTED, anchor="lm")
    return np.array(canvas)


@cache
def font(size_px: int) -> "ImageFont.ImageFont | ImageFont.FreeTypeFont":
    """DejaVu Sans as shipped with matplotlib: the same letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)
