"""One picture that explains a generated video: the path from above, and what was remembered where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews
from context_as_memory.pictures.topdown import (
    FIRST,
    INK,
    PAPER,
    RECENT,
    RETRIEVED,
    TARGET,
    Marked,
    draw_map,
    figure_file,
    from_above,
    scale_bar,
    spread,
)
from context_as_memory.retrieval import Retrieval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEDGE_M = 1.6  # drawn depth of a view; the true one (15 m) would cover the map
DPI = 110


@dataclass(frozen=True)
class InspectedChunk:
    """A chunk to show. target: number of its frame on display; retrieval: its context (`frame_ids` are frame numbers);
    first: frame number of the first visit, None when the chunk is no return."""

    target: int
    retrieval: Retrieval
    first: int | None = None


def draw_inspector(
    path: str | Path,
    cameras: Cameras,
    frames_u8: Sequence[np.ndarray] | np.ndarray,
    chunks: Sequence[InspectedChunk],
    *,
    title: str = "",
    subtitle: str = "",
) -> None:
    """Write the inspector picture (PNG).

    cameras: all N frames of the video, start frame first. frames_u8: uint8 [N, H, W, 3] (or a list of such frames).
    chunks: rows of the picture, see `choose_chunks`; may be empty, then only the map is drawn.
    """
    views = from_above(cameras)
    slots = max((len(chunk.retrieval.frame_ids) for chunk in chunks), default=0)
    rows = len(chunks)
    thumb_w = 1.75
    thumb_h = thumb_w * cameras.height / cameras.width
    row_h = max(thumb_h + 0.62, 1.55)
    body_h = max(rows * row_h, 5.2)
    map_w = max(5.6, body_h * 0.72)
    mini_w = 1.45
    side_w = 0.0 if not rows else mini_w + 0.25 + (1 + slots) * (thumb_w + 0.08) + 0.25
    width, head_h, foot_h = map_w + side_w + 0.9, 1.0, 0.55
    height = head_h + body_h + foot_h
    with figure_file(path, width, height, DPI) as figure:

        def place(left: float, top: float, w: float, h: float) -> "Axes":
            """An axes from inches, measured from the top left corner."""
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            axes.set(xticks=[], yticks=[])
            return axes

        def write(left: float, top: float, text: str, size: float, colour: str = INK, weight: str = "normal") -> None:
            # A file's name may hold signs of mathematical text ($, {, \\): it is drawn as it is.
            style: dict[str, Any] = {"size": size, "color": colour, "weight": weight, "va": "center"}
            figure.text(left / width, 1 - top / height, text, parse_math=False, **style)

        write(0.35, 0.38, title or "Memory inspector", 17, weight="bold")
        write(0.35, 0.72, subtitle, 10.5, "#495057")
        bar = (0.35 / width, 0.62 / height, map_w / width, 0.12 / height)
        _draw_map(figure, place(0.35, head_h, map_w, body_h - 0.55), views, chunks, bar)
        left = map_w + 0.7
        for number, chunk in enumerate(chunks):
            top = head_h + number * row_h
            _draw_mini_map(place(left, top + 0.26, mini_w, row_h - 0.5), views, chunk)
            write(left, top + 0.14, _row_title(number, chunk), 10.5, weight="bold")
            x = left + mini_w + 0.25
            axes = place(x, top + 0.3, thumb_w, thumb_h)
            _thumbnail(axes, frames_u8[chunk.target], TARGET, f"{chunk.target}", "generated")
            x += thumb_w + 0.25
            found = list(zip(chunk.retrieval.frame_ids.tolist(), chunk.retrieval.scores.tolist(), strict=True))
            for slot, (index, score) in enumerate(found):
                recent = slot == len(found) - 1
                colour, note = (RECENT, f"recent  {score:.2f}") if recent else (RETRIEVED, f"{score:.2f}")
                axes = place(x, top + 0.3, thumb_w, thumb_h)
                _thumbnail(axes, frames_u8[index], colour, f"{index}", note, first=index == chunk.first)
                x += thumb_w + 0.08
        found_first = any(c.first is not None and c.first in c.retrieval.frame_ids for c in chunks)
        _draw_legend(figure, width, height, bool(rows), found_first)


def _row_title(number: int, chunk: InspectedChunk) -> str:
    letter = chr(ord("A") + number)
    if chunk.first is None:
        return f"{letter}   frame {chunk.target}"
    gap = chunk.target - chunk.first
    return f"{letter}   frame {chunk.target} returns to the view of frame {chunk.first}, {gap} frames earlier"


def _draw_map(
    figure: "Figure",
    axes: "Axes",
    views: PlanarViews,
    chunks: Sequence[InspectedChunk],
    bar_box: tuple[float, float, float, float],
) -> None:
    """The whole path by frame number, the views of the chunks with their letters, and a bar of the colours."""
    number = len(views.origin)
    every = np.unique(np.linspace(0, number - 1, min(number, 60)).round().astype(int))
    wide = spread(views)
    depth = max(WEDGE_M, 0.14 * wide)
    targets = [chunk.target for chunk in chunks]
    taken: list[np.ndarray] = []
    for target in targets:
        spot = views.origin[target] + 0.72 * depth * views.heading[target]
        side = np.array([views.heading[target, 1], -views.heading[target, 0]])
        for _ in range(6):  # returns often look the same way from the same place: set their letters side by side
            if all(np.linalg.norm(spot - other) >= 0.09 * (wide + 2 * depth) for other in taken):
                break
            spot = spot + side * 0.095 * (wide + 2 * depth)
        taken.append(spot)
    haze, letters = Marked(every.tolist(), "#ADB5BD", 0.10, 0), np.array(taken).reshape(-1, 2)
    line = draw_map(axes, views, [Marked(targets, TARGET, 0.16)], depth, haze=haze, timed=True, also=letters)
    start_x, start_y = views.origin[0].tolist()
    axes.scatter(start_x, start_y, s=90, marker="o", color=PAPER, edgecolors=INK, linewidths=1.8, zorder=6)
    style: dict[str, Any] = {"textcoords": "offset points", "size": 10, "color": INK, "weight": "bold", "zorder": 8}
    axes.annotate("start", (start_x, start_y), xytext=(9, -13), **style)
    badge = {"boxstyle": "circle,pad=0.28", "facecolor": TARGET, "edgecolor": PAPER, "linewidth": 1.2}
    style = {"size": 10, "weight": "bold", "color": PAPER, "ha": "center", "va": "center", "zorder": 9}
    for letter, (x, y) in zip("ABCDEFGHIJ", letters.tolist(), strict=False):
        axes.text(x, y, letter, bbox=badge, **style)
    scale_bar(axes, right=True)
    bar = figure.add_axes(bar_box)
    if number < 2:
        bar.set_axis_off()
        return
    figure.colorbar(line, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=8.5, length=2, color=INK)
    bar.set_xlabel("frame number", size=9, labelpad=1)
    bar.xaxis.get_offset_text().set_visible(False)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _draw_mini_map(axes: "Axes", views: PlanarViews, chunk: InspectedChunk) -> None:
    """The target's view, those retrieved for it and the most recent one."""
    frame_ids = chunk.retrieval.frame_ids.tolist()
    depth = max(WEDGE_M, 0.35 * spread(views, [chunk.target, *frame_ids]))
    marked = [
        Marked(frame_ids[:-1], RETRIEVED, 0.10, 1.2),
        Marked(frame_ids[-1:], RECENT, 0.12, 1.2),
        Marked([chunk.target], TARGET, 0.28, 1.6),
    ]
    draw_map(axes, views, marked, depth, show_all=False)


def _thumbnail(axes: "Axes", frame: np.ndarray, colour: str, label: str, note: str, first: bool = False) -> None:
    axes.imshow(frame, interpolation="bicubic", aspect="auto")
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(2.4)
    axes.text(0.0, -0.06, label, transform=axes.transAxes, size=9, color=colour, weight="bold", va="top", ha="left")
    axes.text(1.0, -0.06, note, transform=axes.transAxes, size=9, color="#495057", va="top", ha="right")
    if first:
        badge = {"boxstyle": "round,pad=0.22", "facecolor": FIRST, "edgecolor": "none"}
        axes.text(
            0.5,
            -0.075,
            "first visit",
            transform=axes.transAxes,
            size=7.5,
            color=PAPER,
            weight="bold",
            va="top",
            ha="center",
            bbox=badge,
        )


def _draw_legend(figure: "Figure", width: float, height: float, rows: bool, first: bool) -> None:
    if not rows:
        return
    entries = [
        (TARGET, "generated"),
        (RETRIEVED, "retrieved, in the order picked, with its score"),
        (RECENT, "most recent frame"),
    ]
    if first:
        entries.append((FIRST, "the first visit itself was retrieved"))
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, label=text) for colour, text in entries]
    figure.legend(
        handles=handles, loc="center right", bbox_to_anchor=(1 - 0.25 / width, 0.3 / height), ncols=len(handles),
        frameon=False, fontsize=10, handlelength=1.0, handleheight=1.0, columnspacing=1.6,
    )  # fmt: skip
