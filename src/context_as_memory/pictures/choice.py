"""The picture of `cam retrieve`: which frames of a camera file one frame would remember, seen from above.

The retrieved frames run from dark to light in the order of their ranks.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews
from context_as_memory.pictures.topdown import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    RECENT,
    TARGET,
    Marked,
    draw_map,
    figure_file,
    from_above,
    metres_per_inch,
    scale_bar,
    spread,
)
from context_as_memory.retrieval import Retrieval, RetrievalConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 130


def apart(query: int, index: int) -> str:
    """How far a frame lies from the query in time, in words."""
    frames = abs(query - index)
    if index == query - 1:
        return "most recent"
    return f"{frames} frame{'s' if frames > 1 else ''} {'earlier' if index < query else 'later'}"


def draw_retrieval_map(
    path: Path,
    cameras: Cameras,
    query: int,
    answer: Retrieval,
    config: RetrievalConfig,
    numbers: np.ndarray | None = None,
) -> None:
    """Write a picture (PNG): the path from above with the query looking up the page, all candidate views faint, the
    selected ones coloured by rank, a table of them, and where in time they lie.

    numbers: what the frames are called, int [N]; by their place if None.
    """
    from matplotlib import colormaps

    numbers = np.arange(len(cameras)) if numbers is None else numbers

    recent = query - 1 if query > 0 else None
    number = len(answer.frame_ids)
    shades = colormaps["viridis"](np.linspace(0.08, 0.82, max(number - (recent is not None), 1)))
    colours: list[Any] = [RECENT if index == recent else shades[i] for i, index in enumerate(answer.frame_ids.tolist())]
    published = " (as published)" if config.strategy == "paper" and config.paper.as_published else ""
    subtitle = (
        f"{config.strategy}{published}  ·  {len(answer.candidates):,} of {len(cameras):,} frames qualify, "
        f"{number} selected  ·  {np.degrees(cameras.hfov_rad[query]):.1f}° field of view"
    )
    with figure_file(path, 11.5, 8.2, DPI) as figure:
        title = f"What frame {numbers[query]} remembers"
        figure.text(0.035, 0.955, title, size=17, weight="bold", color=INK, va="center")
        figure.text(0.035, 0.918, subtitle, size=10.5, color=MUTED, va="center")
        views = from_above(cameras, query)
        depth_m = _draw_map(figure.add_axes((0.035, 0.17, 0.645, 0.72)), views, query, answer, colours)
        _draw_table(figure.add_axes((0.715, 0.17, 0.255, 0.72)), query, answer, colours, depth_m, config, numbers)
        _draw_time(figure.add_axes((0.035, 0.06, 0.935, 0.062)), len(cameras), query, answer, colours)


def _draw_map(axes: "Axes", views: PlanarViews, query: int, answer: Retrieval, colours: list[Any]) -> float:
    """Draws the map; returns the depth to which views are drawn in metres (their true far limit would cover it all)."""
    depth_m = min(max(0.22 * spread(views), 0.6), 6.0)
    shown = answer.candidates[:: max(1, len(answer.candidates) // 400)]
    haze = Marked(shown.tolist(), "#4C6EF5", float(np.clip(4.0 / max(len(shown), 1), 0.012, 0.12)), 0)
    ranked = [Marked([index], colour) for index, colour in zip(answer.frame_ids.tolist(), colours, strict=True)]
    marked = [*reversed(ranked), Marked([query], TARGET, 0.10, 2.8)]  # the best above the others
    draw_map(axes, views, marked, depth_m, haze=haze)
    x, y = views.origin[query].tolist()
    axes.scatter(x, y, s=70, color=TARGET, edgecolors=PAPER, linewidths=1.4, zorder=9)
    _draw_badges(axes, views, answer, colours, depth_m)
    scale_bar(axes)
    return depth_m


def _draw_badges(axes: "Axes", views: PlanarViews, answer: Retrieval, colours: list[Any], depth_m: float) -> None:
    """Rank numbers in the selected views, pushed outwards along their view until they do not overlap."""
    taken: list[np.ndarray] = []
    inch = metres_per_inch(axes)
    style: dict[str, Any] = {
        "size": 8.5,
        "weight": "bold",
        "color": PAPER,
        "ha": "center",
        "va": "center_baseline",
        "zorder": 10,
    }
    for rank, index in enumerate(answer.frame_ids.tolist()):
        here, colour = views.origin[index], colours[rank]
        reach = 0.86 * depth_m
        spot = here + reach * views.heading[index]
        while any(np.linalg.norm(spot - other) < 0.25 * inch for other in taken) and reach < 3 * depth_m:
            reach += 0.08 * inch
            spot = here + reach * views.heading[index]
        taken.append(spot)
        axes.plot(*np.stack([here, spot]).T, color=colour, linewidth=0.9, linestyle=(0, (2, 2)), zorder=8)
        (x, y), (spot_x, spot_y) = here.tolist(), spot.tolist()
        axes.scatter(x, y, s=26, color=colour, edgecolors=PAPER, linewidths=0.8, zorder=8.5)
        axes.scatter(spot_x, spot_y, s=210, color=colour, edgecolors=PAPER, linewidths=1.2, zorder=9, clip_on=False)
        axes.text(spot_x, spot_y, str(rank + 1), **style)


def _draw_table(
    axes: "Axes",
    query: int,
    answer: Retrieval,
    colours: list[Any],
    depth_m: float,
    config: RetrievalConfig,
    numbers: np.ndarray,
) -> None:
    """Rank, frame, gap and score of each selected frame, and what the colours mean."""
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.set_axis_off()
    for x, word, align in ((0.13, "frame", "left"), (0.36, "distance in time", "left"), (1.0, "score", "right")):
        axes.text(x, 0.012, word, size=9, color=MUTED, ha=align, va="center")
    rows = len(answer.frame_ids)
    step = min(0.05, 0.74 / max(rows, 1))
    largest = max(float(answer.scores.max()) if rows else 0.0, 1e-9)
    for rank, (index, score) in enumerate(zip(answer.frame_ids.tolist(), answer.scores.tolist(), strict=True)):
        y = 0.055 + rank * step
        axes.barh(y + 0.36 * step, score / largest, height=0.07 * step, left=0, color=colours[rank], alpha=0.55)
        axes.scatter(0.045, y, s=min(180, 3600 * step), color=colours[rank], clip_on=False)
        axes.text(0.045, y, str(rank + 1), size=8, weight="bold", color=PAPER, ha="center", va="center_baseline")
        axes.text(0.13, y, f"{numbers[index]}", size=9.5, weight="bold", color=INK, va="center_baseline")
        note = apart(query, index)
        axes.text(0.36, y, note, size=9, color=INK, va="center_baseline")
        axes.text(1.0, y, f"{score:.2f}", size=9.5, color=INK, ha="right", va="center_baseline")
    meaning = {
        "coverage": "score: share of the query's view that this\nframe is the first to explain (most recent: overlap)",
        "paper": "score: passes the ray test of the paper\n(most recent: exact overlap)",
    }.get(config.strategy, "score: exact overlap with the query's view")
    axes.text(0.0, 0.885, meaning, size=8.5, color=MUTED, va="top", linespacing=1.35)
    drawn = f"views drawn to {depth_m:.1f} m, compared to {config.far_m:g} m"
    legend = f"orange: the query   blue haze: frames that qualify\n{drawn}"
    axes.text(0.0, 1.0, legend, size=8.5, color=MUTED, va="bottom", linespacing=1.35)


def _draw_time(axes: "Axes", frames: int, query: int, answer: Retrieval, colours: list[Any]) -> None:
    """Where on the time line the candidates, the selected frames and the query lie."""
    axes.set(xlim=(-0.005 * frames, 1.005 * frames), ylim=(0, 1), yticks=[])
    axes.axhspan(0.0, 0.5, color="#F1F3F5", zorder=0)
    if len(answer.candidates):
        edges = np.flatnonzero(np.diff(answer.candidates) > 1)
        starts = np.append(answer.candidates[:1], answer.candidates[edges + 1])
        stops = np.append(answer.candidates[edges], answer.candidates[-1:])
        axes.broken_barh(
            list(zip(starts - 0.5, stops - starts + 1, strict=True)), (0.0, 0.5), color="#BAC8FF", linewidth=0, zorder=1
        )
    for rank, index in reversed(list(enumerate(answer.frame_ids.tolist()))):
        axes.plot([index, index], [0, 0.72], color=colours[rank], linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.scatter(index, 0.78, s=26, color=colours[rank], zorder=4, clip_on=False)
    axes.plot([query, query], [0, 0.72], color=TARGET, linewidth=2.8, solid_capstyle="butt", zorder=5)
    axes.scatter(query, 0.78, s=46, marker="v", color=TARGET, zorder=6, clip_on=False)
    axes.tick_params(labelsize=8.5, length=2, color=FAINT, labelcolor=MUTED)
    axes.set_xlabel("frame, by its place in the file", size=9, color=MUTED, labelpad=2)
    for side in axes.spines.values():
        side.set_visible(False)
