"""One picture that explains a generated video: the path from above, and what was remembered where.

Colours mean the same everywhere: orange is the frame being generated, blue are the frames retrieved for it, grey is the
most recent frame, green is the first visit that a return is measured against.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews, ground_basis, planar, wedge_polygon
from context_as_memory.evaluation.returns import visits
from context_as_memory.formats.files import atomic
from context_as_memory.retrieval import Retrieval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET, RETRIEVED, RECENT, FIRST = "#E8590C", "#1971C2", "#868E96", "#2B8A3E"
INK, FAINT, PAPER = "#212529", "#CED4DA", "#FFFFFF"
WEDGE_M = 1.6  # drawn depth of a view; the true one (15 m) would cover the map
MAX_ROWS = 5
DPI = 110


@dataclass(frozen=True)
class InspectedChunk:
    """A chunk to show. target: number of its frame on display; retrieval: its context (indices are frame numbers);
    first: frame number of the first visit, None when the chunk is no return."""

    target: int
    retrieval: Retrieval
    first: int | None = None


def choose_chunks(
    starts: Sequence[int], retrievals: Sequence[Retrieval], pairs: np.ndarray, max_rows: int = MAX_ROWS
) -> list[InspectedChunk]:
    """Pick chunks worth showing: the middle of each return (longest gaps first), filled up with evenly spaced other
    chunks.

    starts: first frame number of each chunk. pairs: int64 [R, 2] of `find_returns`, in the same frame numbers. Result
    in order of time.
    """
    if not starts:
        return []
    chosen: dict[int, InspectedChunk] = {}

    def chunk_of(frame: int) -> int:
        return int(np.searchsorted(starts, frame, side="right")) - 1

    for visit in sorted(visits(pairs), key=lambda v: -v.gap_frames):
        middle = len(visit.frames) // 2
        frame, first = int(visit.frames[middle]), int(visit.firsts[middle])
        chunk = chunk_of(frame)
        if len(chosen) < max_rows and chunk >= 0:
            chosen.setdefault(chunk, InspectedChunk(frame, retrievals[chunk], first))
    returns = dict(pairs[:, ::-1].tolist())
    for chunk in np.linspace(0, len(starts) - 1, max_rows + 2).round().astype(int)[1:-1].tolist():
        if len(chosen) < min(3, max_rows) and all(abs(chunk - other) > 1 for other in chosen):
            chosen[chunk] = InspectedChunk(starts[chunk], retrievals[chunk], returns.get(starts[chunk]))
    return [chosen[chunk] for chunk in sorted(chosen)]


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    views = _upright_views(cameras)
    slots = max((len(chunk.retrieval.indices) for chunk in chunks), default=0)
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
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)

    def place(left: float, top: float, w: float, h: float) -> "Axes":
        """An axes from inches, measured from the top left corner."""
        axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    figure.text(
        0.35 / width, 1 - 0.38 / height, title or "Memory inspector", size=17, weight="bold", color=INK, va="center"
    )
    # A file's name may hold signs of mathematical text ($, {, \\): it is drawn as it is.
    figure.text(0.35 / width, 1 - 0.72 / height, subtitle, size=10.5, color="#495057", va="center", parse_math=False)
    _draw_map(
        figure,
        place(0.35, head_h, map_w, body_h - 0.55),
        views,
        chunks,
        (0.35 / width, 0.62 / height, map_w / width, 0.12 / height),
    )

    left = map_w + 0.7
    for number, chunk in enumerate(chunks):
        top = head_h + number * row_h
        _draw_mini_map(place(left, top + 0.26, mini_w, row_h - 0.5), views, chunk)
        figure.text(
            left / width,
            1 - (top + 0.14) / height,
            _row_title(number, chunk),
            size=10.5,
            weight="bold",
            color=INK,
            va="center",
        )
        x = left + mini_w + 0.25
        _thumbnail(
            place(x, top + 0.3, thumb_w, thumb_h), frames_u8[chunk.target], TARGET, f"{chunk.target}", "generated"
        )
        x += thumb_w + 0.25
        for slot, (index, score) in enumerate(
            zip(chunk.retrieval.indices.tolist(), chunk.retrieval.scores.tolist(), strict=True)
        ):
            recent = slot == len(chunk.retrieval.indices) - 1
            colour = RECENT if recent else RETRIEVED
            note = f"recent  {score:.2f}" if recent else f"{score:.2f}"
            axes = place(x, top + 0.3, thumb_w, thumb_h)
            _thumbnail(axes, frames_u8[index], colour, f"{index}", note, first=index == chunk.first)
            x += thumb_w + 0.08
    _draw_legend(
        figure, width, height, bool(rows), any(c.first is not None and c.first in c.retrieval.indices for c in chunks)
    )
    path = Path(path)
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def _row_title(number: int, chunk: InspectedChunk) -> str:
    letter = chr(ord("A") + number)
    if chunk.first is None:
        return f"{letter}   frame {chunk.target}"
    gap = chunk.target - chunk.first
    return f"{letter}   frame {chunk.target} returns to the view of frame {chunk.first}, {gap} frames earlier"


def _upright_views(cameras: Cameras) -> PlanarViews:
    """Seen from above with the start camera looking up the page: x to its right, y ahead, metres from the start."""
    views = planar(cameras, ground_basis(cameras))
    origin = views.origin - views.origin[0]
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # (ahead, left) -> (right, ahead)
    return PlanarViews(origin @ turn.T, views.heading @ turn.T, views.half_width_tan)


def _wedges(views: PlanarViews, indices: Sequence[int], depth_m: float) -> np.ndarray:
    chosen = np.asarray(indices, np.int64)
    part = PlanarViews(views.origin[chosen], views.heading[chosen], views.half_width_tan[chosen])
    return wedge_polygon(part, 0.02 * depth_m, depth_m)


def _frame_map(axes: "Axes", points: np.ndarray, pad_m: float) -> None:
    """Equal scales, all points inside, the shape of the axes filled."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = points.min(0) - pad_m, points.max(0) + pad_m
    figure_size = np.array(figure.get_size_inches()) * axes.get_position().size
    centre, span = (low + high) / 2, high - low
    scale = max(span[0] / figure_size[0], span[1] / figure_size[1])
    half = scale * figure_size / 2
    axes.set_xlim(centre[0] - half[0], centre[0] + half[0])
    axes.set_ylim(centre[1] - half[1], centre[1] + half[1])
    for side in axes.spines.values():
        side.set_color(FAINT)


def _draw_map(
    figure: "Figure",
    axes: "Axes",
    views: PlanarViews,
    chunks: Sequence[InspectedChunk],
    bar_box: tuple[float, float, float, float],
) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    number = len(views.origin)
    every = np.unique(np.linspace(0, number - 1, min(number, 60)).round().astype(int))
    spread = float(np.ptp(views.origin, axis=0).max())
    depth = max(WEDGE_M, 0.14 * spread)
    wedges = _wedges(views, every.tolist(), depth)
    axes.add_collection(PolyCollection(list(wedges), facecolors="#ADB5BD", edgecolors="none", alpha=0.10, zorder=1))
    segments = np.stack([views.origin[:-1], views.origin[1:]], axis=1)
    line = LineCollection(list(segments), cmap="viridis", linewidths=3.2, capstyle="round", zorder=3)
    line.set_array(np.arange(max(number - 1, 1)) if number > 1 else np.zeros(0))
    line.set_clim(0, max(number - 1, 1))
    axes.add_collection(line)
    targets = [chunk.target for chunk in chunks]
    if targets:
        marked = _wedges(views, targets, depth)
        axes.add_collection(
            PolyCollection(list(marked), facecolors=TARGET, edgecolors=TARGET, alpha=0.16, linewidths=0, zorder=4)
        )
        axes.add_collection(
            PolyCollection(list(marked), facecolors="none", edgecolors=TARGET, linewidths=1.3, zorder=5)
        )
    start_x, start_y = views.origin[0].tolist()
    axes.scatter(start_x, start_y, s=90, marker="o", color=PAPER, edgecolors=INK, linewidths=1.8, zorder=6)
    axes.annotate(
        "start",
        (start_x, start_y),
        xytext=(9, -13),
        textcoords="offset points",
        size=10,
        color=INK,
        weight="bold",
        zorder=8,
    )
    taken: list[np.ndarray] = []
    for letter, target in zip("ABCDEFGHIJ", targets, strict=False):
        spot = views.origin[target] + 0.72 * depth * views.heading[target]
        side = np.array([views.heading[target, 1], -views.heading[target, 0]])
        offset = 0
        while any(np.linalg.norm(spot - other) < 0.09 * (spread + 2 * depth) for other in taken) and offset < 6:
            offset += 1  # returns often look the same way from the same place: set their letters side by side
            spot = spot + side * 0.095 * (spread + 2 * depth)
        taken.append(spot)
        badge = {"boxstyle": "circle,pad=0.28", "facecolor": TARGET, "edgecolor": PAPER, "linewidth": 1.2}
        axes.text(
            spot[0],
            spot[1],
            letter,
            size=10,
            weight="bold",
            color=PAPER,
            ha="center",
            va="center",
            zorder=9,
            bbox=badge,
        )
    corners = [views.origin, wedges.reshape(-1, 2), *([np.array(taken)] if taken else [])]
    _frame_map(axes, np.concatenate(corners), 0.05 * (spread + depth))
    _scale_bar(axes)
    bar = figure.add_axes(bar_box)
    if number > 1:
        figure.colorbar(line, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=8.5, length=2, color=INK)
        bar.set_xlabel("frame number", size=9, labelpad=1)
        bar.xaxis.get_offset_text().set_visible(False)
        for spine in bar.spines.values():
            spine.set_visible(False)
    else:
        bar.set_axis_off()


def _scale_bar(axes: "Axes") -> None:
    """A round length in metres at the lower right."""
    low_x, high_x = axes.get_xlim()
    low_y, high_y = axes.get_ylim()
    length = max((m for m in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if m < 0.28 * (high_x - low_x)), default=0.1)
    x, y = high_x - 0.04 * (high_x - low_x), low_y + 0.035 * (high_y - low_y)
    axes.plot([x - length, x], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=9)
    axes.text(
        x - length / 2,
        y + 0.012 * (high_y - low_y),
        f"{length:g} m",
        size=9,
        color=INK,
        ha="center",
        va="bottom",
        zorder=9,
    )


def _draw_mini_map(axes: "Axes", views: PlanarViews, chunk: InspectedChunk) -> None:
    from matplotlib.collections import PolyCollection

    indices = chunk.retrieval.indices.tolist()
    here = views.origin[[chunk.target, *indices]]
    spread = float(np.ptp(here, axis=0).max())
    depth = max(WEDGE_M, 0.35 * spread)
    layers = (
        (indices[:-1], RETRIEVED, 0.10, 1.2),
        (indices[-1:], RECENT, 0.12, 1.2),
        ([chunk.target], TARGET, 0.28, 1.6),
    )
    axes.plot(*views.origin.T, color=FAINT, linewidth=1.4, zorder=1)
    points = [here]
    for order, (frames, colour, alpha, stroke) in enumerate(layers):
        if frames:
            polygons = _wedges(views, frames, depth)
            points.append(polygons.reshape(-1, 2))
            fill = PolyCollection(
                list(polygons), facecolors=colour, edgecolors="none", alpha=alpha, zorder=2 + 2 * order
            )
            rim = PolyCollection(
                list(polygons), facecolors="none", edgecolors=colour, linewidths=stroke, zorder=3 + 2 * order
            )
            axes.add_collection(fill)
            axes.add_collection(rim)
    _frame_map(axes, np.concatenate(points), 0.06 * (spread + depth))


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
