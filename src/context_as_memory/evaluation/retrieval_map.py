"""What would be remembered for one frame of a camera file: as text, as JSON, and as a picture seen from above.

This looks at poses only; no video and no model are needed. Colours mean the same as in `inspector`: orange is the frame
asked about, grey the most recent frame; the retrieved frames run from dark to light in the order of their ranks.
"""

import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from context_as_memory.camera import (
    Cameras,
    PlanarViews,
    ground_basis,
    planar,
    wedge_polygon,
)
from context_as_memory.errors import UserError
from context_as_memory.evaluation.inspector import FAINT, INK, PAPER, RECENT, TARGET
from context_as_memory.formats.cameras import read_track
from context_as_memory.formats.documents import PAPER_HFOV_DEG
from context_as_memory.formats.files import atomic
from context_as_memory.formats.options import PoseOptions
from context_as_memory.retrieval import Retrieval, RetrievalConfig, retrieve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MUTED = "#868E96"
DPI = 130


def retrieve_command(
    cameras: Path,
    query: int,
    memory: str,
    json: bool,
    plot: Path | None,
    literal: bool,
    max_context: int,
    seed: int,
    past_only: bool = False,
    out: TextIO | None = None,
    poses: PoseOptions | None = None,
    hfov_deg: float | None = None,
    intrinsics: Path | None = None,
) -> None:
    """The `cam retrieve` command: which frames of a camera file would be the context of frame `query`.

    cameras: any file or folder that `read_track` reads, understood by `poses`, `hfov_deg` and `intrinsics`; without a
    lens it gets 52.67 degrees. query: a frame number as the file counts. The other
    frames of the file are the bank, later ones too (as in the paper's labels) unless `past_only`; the frame before the
    query counts as the most recent one. json: print one JSON object instead of text. plot: write a picture there.
    out: where to print (default: standard output). Raises UserError for an unreadable or empty file, a query that is
    not in it, or an unknown strategy.
    """
    config = RetrievalConfig(strategy=memory, max_context=max_context, literal=literal)
    track = read_track(cameras, poses, hfov_deg=hfov_deg, assumed_hfov_deg=PAPER_HFOV_DEG, intrinsics=intrinsics)
    path, asked = track.upright(), query
    if len(path) == 0:
        raise UserError(f"{cameras} holds no cameras: give a file with at least one pose")
    query = track.frame(asked)
    for line in track.lines():
        print(f"cam: {line}", file=sys.stderr)
    numbers = np.arange(len(path)) if track.numbers is None else np.array(track.numbers)
    answer = retrieve_for_frame(path, query, config, seed=seed, past_only=past_only)
    wide_deg = float(np.degrees(path.hfov_rad[query]))
    if plot is not None:
        draw_retrieval_map(plot, path, query, answer, config, numbers)
    stream = sys.stdout if out is None else out
    if json:
        report = {
            "query": asked,
            "strategy": memory,
            "candidates": numbers[answer.candidates].tolist(),
            "selected": numbers[answer.indices].tolist(),
            "scores": [round(score, 6) for score in answer.scores.tolist()],
            "num_frames": len(path),
            "hfov_deg": round(wide_deg, 4),
            "cameras": track.report(),
            "settings": {**asdict(config), "seed": seed, "past_only": past_only},
        }
        print(dumps(report, allow_nan=False), file=stream)
        return
    print(
        f"frame {asked} of {len(path)}, strategy {memory}: {len(answer.candidates)} frames qualify, "
        f"{len(answer.indices)} selected ({wide_deg:.2f} degrees wide)",
        file=stream,
    )
    for rank, (index, score) in enumerate(zip(answer.indices.tolist(), answer.scores.tolist(), strict=True), start=1):
        note = "most recent" if index == query - 1 else _gap(query, index)
        print(f"{rank:4d}  frame {numbers[index]:6d}  {score:6.3f}  {note}", file=stream)


def retrieve_for_frame(
    cameras: Cameras, query: int, config: RetrievalConfig, *, seed: int = 0, past_only: bool = False
) -> Retrieval:
    """Context of one frame of a path out of all other frames (`past_only`: earlier ones); indices are frame numbers."""
    frames = np.arange(len(cameras))
    allowed = frames < query if past_only else frames != query
    return retrieve(
        cameras, cameras[query], config, recent=query - 1 if query > 0 else None, allowed=allowed, seed=seed
    )


def _gap(query: int, index: int) -> str:
    frames = abs(query - index)
    return f"{frames} frame{'s' if frames > 1 else ''} {'earlier' if index < query else 'later'}"


# --- the picture ------------------------------------------------------------------------------------------------------


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = np.arange(len(cameras)) if numbers is None else numbers
    views = _facing_up(planar(cameras, ground_basis(cameras)), query)
    number = len(answer.indices)
    recent = query - 1 if query > 0 else None
    retrieved = number - (recent is not None)
    shades = colormaps["viridis"](np.linspace(0.08, 0.82, max(retrieved, 1)))
    colours: list[Any] = [RECENT if index == recent else shades[i] for i, index in enumerate(answer.indices.tolist())]

    figure = Figure(figsize=(11.5, 8.2), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.035, 0.955, f"What frame {numbers[query]} remembers", size=17, weight="bold", color=INK, va="center")
    figure.text(
        0.035,
        0.918,
        f"{config.strategy}{' (literal)' if config.strategy == 'paper' and config.literal else ''}  ·  "
        f"{len(answer.candidates):,} of {len(cameras):,} frames qualify, {number} selected  ·  "
        f"{np.degrees(cameras.hfov_rad[query]):.1f}° field of view",
        size=10.5,
        color=MUTED,
        va="center",
    )
    depth_m = _draw_paths(figure.add_axes((0.035, 0.17, 0.645, 0.72)), views, query, answer, colours)
    _draw_table(figure.add_axes((0.715, 0.17, 0.255, 0.72)), query, answer, colours, depth_m, config, numbers)
    _draw_time(figure.add_axes((0.035, 0.06, 0.935, 0.062)), len(cameras), query, answer, colours)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        figure.savefig(partial, format="png")


def _facing_up(views: PlanarViews, query: int) -> PlanarViews:
    """The same views with the query at the origin, looking along +y."""
    ahead = views.heading[query]
    axes = np.array([[ahead[1], -ahead[0]], ahead])
    return PlanarViews((views.origin - views.origin[query]) @ axes.T, views.heading @ axes.T, views.half_width_tan)


def _draw_paths(axes: "Axes", views: PlanarViews, query: int, answer: Retrieval, colours: list[Any]) -> float:
    """Draws the map; returns the depth to which views are drawn in metres (their true far limit would cover it all)."""
    from matplotlib.collections import LineCollection, PolyCollection

    spread = float(np.ptp(views.origin, axis=0).max())
    depth_m = min(max(0.22 * spread, 0.6), 6.0)

    def wedges(indices: np.ndarray, depth: float) -> np.ndarray:
        part = PlanarViews(views.origin[indices], views.heading[indices], views.half_width_tan[indices])
        return wedge_polygon(part, 0.01 * depth, depth)

    shown = answer.candidates[:: max(1, len(answer.candidates) // 400)]
    if len(shown):
        alpha = float(np.clip(4.0 / len(shown), 0.012, 0.12))
        faint = PolyCollection(
            list(wedges(shown, depth_m)), facecolors="#4C6EF5", edgecolors="none", alpha=alpha, zorder=1
        )
        axes.add_collection(faint)
    segments = np.stack([views.origin[:-1], views.origin[1:]], 1)
    axes.add_collection(LineCollection(list(segments), colors=FAINT, linewidths=1.4, capstyle="round", zorder=2))
    for rank in reversed(range(len(answer.indices))):  # the best on top
        one = answer.indices[rank : rank + 1]
        shape = wedges(one, depth_m)
        z = 4 + 2 * (len(answer.indices) - rank) / len(answer.indices)
        axes.add_collection(PolyCollection(list(shape), facecolors=[colours[rank]], alpha=0.20, linewidths=0, zorder=z))
        axes.add_collection(
            PolyCollection(list(shape), facecolors="none", edgecolors=[colours[rank]], linewidths=1.3, zorder=z)
        )
    shape = wedges(np.array([query]), 1.25 * depth_m)
    axes.add_collection(PolyCollection(list(shape), facecolors=TARGET, alpha=0.10, linewidths=0, zorder=6.5))
    axes.add_collection(PolyCollection(list(shape), facecolors="none", edgecolors=TARGET, linewidths=2.8, zorder=6.6))
    axes.scatter(
        views.origin[query, 0], views.origin[query, 1], s=70, color=TARGET, edgecolors=PAPER, linewidths=1.4, zorder=9
    )

    corners = np.concatenate([views.origin, wedges(np.append(answer.indices, query), 1.25 * depth_m).reshape(-1, 2)])
    low, high = corners.min(0) - 0.06 * (spread + depth_m), corners.max(0) + 0.06 * (spread + depth_m)
    size = axes.figure.get_size_inches() * axes.get_position().size  # type: ignore[union-attr]
    half = max((high - low) / size) * size / 2
    centre = (low + high) / 2
    axes.set(xlim=(centre[0] - half[0], centre[0] + half[0]), ylim=(centre[1] - half[1], centre[1] + half[1]))
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color(FAINT)
    _draw_badges(axes, views, answer, colours, depth_m, 2 * half[0] / size[0])
    _draw_scale(axes)
    return depth_m


def _draw_badges(
    axes: "Axes", views: PlanarViews, answer: Retrieval, colours: list[Any], depth_m: float, metres_per_inch: float
) -> None:
    """Rank numbers in the selected views, pushed outwards along their view until they do not overlap."""
    taken: list[np.ndarray] = []
    for rank, index in enumerate(answer.indices.tolist()):
        reach = 0.86 * depth_m
        spot = views.origin[index] + reach * views.heading[index]
        while any(np.linalg.norm(spot - other) < 0.25 * metres_per_inch for other in taken) and reach < 3 * depth_m:
            reach += 0.08 * metres_per_inch
            spot = views.origin[index] + reach * views.heading[index]
        taken.append(spot)
        axes.plot(
            *np.stack([views.origin[index], spot]).T,
            color=colours[rank],
            linewidth=0.9,
            linestyle=(0, (2, 2)),
            zorder=8,
        )
        axes.scatter(
            views.origin[index, 0],
            views.origin[index, 1],
            s=26,
            color=colours[rank],
            edgecolors=PAPER,
            linewidths=0.8,
            zorder=8.5,
        )
        axes.scatter(
            spot[0], spot[1], s=210, color=colours[rank], edgecolors=PAPER, linewidths=1.2, zorder=9, clip_on=False
        )
        axes.text(
            spot[0],
            spot[1],
            str(rank + 1),
            size=8.5,
            weight="bold",
            color=PAPER,
            ha="center",
            va="center_baseline",
            zorder=10,
        )


def _draw_scale(axes: "Axes") -> None:
    """A round length in metres at the lower left."""
    (low_x, high_x), (low_y, high_y) = axes.get_xlim(), axes.get_ylim()
    length = max((m for m in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 500) if m < 0.2 * (high_x - low_x)), default=0.1)
    x, y = low_x + 0.03 * (high_x - low_x), low_y + 0.03 * (high_y - low_y)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=11)
    axes.text(
        x + length / 2,
        y + 0.012 * (high_y - low_y),
        f"{length:g} m",
        size=9,
        color=INK,
        ha="center",
        va="bottom",
        zorder=11,
    )


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
    rows = len(answer.indices)
    step = min(0.05, 0.74 / max(rows, 1))
    largest = max(float(answer.scores.max()) if rows else 0.0, 1e-9)
    for rank, (index, score) in enumerate(zip(answer.indices.tolist(), answer.scores.tolist(), strict=True)):
        y = 0.055 + rank * step
        axes.barh(y + 0.36 * step, score / largest, height=0.07 * step, left=0, color=colours[rank], alpha=0.55)
        axes.scatter(0.045, y, s=min(180, 3600 * step), color=colours[rank], clip_on=False)
        axes.text(0.045, y, str(rank + 1), size=8, weight="bold", color=PAPER, ha="center", va="center_baseline")
        axes.text(0.13, y, f"{numbers[index]}", size=9.5, weight="bold", color=INK, va="center_baseline")
        note = "most recent" if index == query - 1 else _gap(query, index)
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
    for rank, index in reversed(list(enumerate(answer.indices.tolist()))):
        axes.plot([index, index], [0, 0.72], color=colours[rank], linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.scatter(index, 0.78, s=26, color=colours[rank], zorder=4, clip_on=False)
    axes.plot([query, query], [0, 0.72], color=TARGET, linewidth=2.8, solid_capstyle="butt", zorder=5)
    axes.scatter(query, 0.78, s=46, marker="v", color=TARGET, zorder=6, clip_on=False)
    axes.tick_params(labelsize=8.5, length=2, color=FAINT, labelcolor=MUTED)
    axes.set_xlabel("frame, by its place in the file", size=9, color=MUTED, labelpad=2)
    for side in axes.spines.values():
        side.set_visible(False)
