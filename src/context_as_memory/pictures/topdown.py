"""One map from above: a path, views as wedges, a scale.

Colours mean the same in every picture: orange is the frame that is asked about or generated, blue are the frames
retrieved for it, grey is the most recent frame, green is a first visit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.camera import Cameras, PlanarViews, ground_basis, planar
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic
from context_as_memory.shapes import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

TARGET, RETRIEVED, RECENT, FIRST = "#E8590C", "#1971C2", "#868E96", "#2B8A3E"
INK, FAINT, PAPER, MUTED = "#212529", "#CED4DA", "#FFFFFF", "#868E96"
SCALES_M = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class Marked:
    """Views to mark: frame numbers, their colour, how strongly they are filled, how thick their outline is."""

    frames: Sequence[int]
    colour: Any
    fill: float = 0.2
    stroke: float = 1.3


def from_above(cameras: Cameras, frame: int = 0) -> PlanarViews:
    """The cameras seen from above, with one frame at the origin and looking up the page: x to its right, metres."""
    views = planar(cameras, ground_basis(cameras))
    ahead = views.heading[frame]
    axes = np.array([[ahead[1], -ahead[0]], ahead])
    return PlanarViews((views.origin - views.origin[frame]) @ axes.T, views.heading @ axes.T, views.half_width_tan)


def wedges(views: PlanarViews, frames: Sequence[int] | np.ndarray, depth_m: float) -> np.ndarray:
    """Outlines of these views, drawn to a depth: [n, corners, 2]."""
    rows = np.asarray(frames, np.int64)
    part = PlanarViews(views.origin[rows], views.heading[rows], views.half_width_tan[rows])
    return wedge_polygon(part, 0.02 * depth_m, depth_m)


def wedge_polygon(views: PlanarViews, near_m: float, far_m: float) -> Float[np.ndarray, "n 4 2"]:
    """What each view covers between two depths: trapezoids [N,4,2] metres, counter-clockwise from near right.

    A point at depth z along the heading and x across it is inside when near <= z <= far and |x| <= half_width_tan z.
    """
    if not 0 <= near_m < far_m < np.inf:
        raise UserError(f"near {near_m} m and far {far_m} m; give 0 <= near < far")
    left = np.stack([-views.heading[:, 1], views.heading[:, 0]], axis=1)
    depth = np.array([near_m, far_m, far_m, near_m])
    across = np.array([-near_m, -far_m, far_m, near_m]) * views.half_width_tan[:, None]
    return np.asarray(
        views.origin[:, None] + depth[:, None] * views.heading[:, None] + across[..., None] * left[:, None]
    )


def draw_map(
    axes: "Axes",
    views: PlanarViews,
    marked: Sequence[Marked],
    depth_m: float,
    *,
    haze: Marked | None = None,
    timed: bool = False,
    show_all: bool = True,
    also: np.ndarray | None = None,
) -> "LineCollection":
    """Draw the path and the marked views, later ones above earlier ones, in equal scales. Returns the path.

    haze: views to show faintly below everything. timed: colour the path by frame number, and show all of the haze.
    show_all: the whole path lies inside; otherwise only the marked views do. also: further points [n, 2] that must lie
    inside.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    segments = list(np.stack([views.origin[:-1], views.origin[1:]], axis=1))
    if timed:
        line = LineCollection(segments, cmap="viridis", linewidths=3.2, capstyle="round", zorder=3)
        line.set_array(np.arange(len(segments)))
        line.set_clim(0, max(len(segments), 1))
    else:
        line = LineCollection(segments, colors=FAINT, linewidths=1.4, capstyle="round", zorder=3)
    axes.add_collection(line)
    inside = [views.origin] if show_all else []
    inside += [] if also is None else [also]
    for order, part in enumerate([*([haze] if haze else []), *marked]):
        if not len(part.frames):
            continue
        shapes = wedges(views, part.frames, depth_m)
        if part is not haze or timed:
            inside += [views.origin[np.asarray(part.frames)], shapes.reshape(-1, 2)]
        z = 1.0 if part is haze else 4 + order / 100
        fill = PolyCollection(list(shapes), facecolors=[part.colour], edgecolors="none", alpha=part.fill, zorder=z)
        axes.add_collection(fill)
        if part.stroke:
            rim = PolyCollection(
                list(shapes), facecolors="none", edgecolors=[part.colour], linewidths=part.stroke, zorder=z + 0.005
            )
            axes.add_collection(rim)
    _fit(axes, np.concatenate(inside), 0.06 * (spread(views) + depth_m) if show_all else 0.1 * depth_m)
    return line


def spread(views: PlanarViews, frames: Sequence[int] | None = None) -> float:
    """The longer side of the box around the places of these frames (of all), in metres."""
    origin = views.origin if frames is None else views.origin[list(frames)]
    return float(np.ptp(origin, axis=0).max())


def _fit(axes: "Axes", points: np.ndarray, pad_m: float) -> None:
    """Equal scales, all points inside, the shape of the axes filled."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = points.min(0) - pad_m, points.max(0) + pad_m
    size = np.array(figure.get_size_inches()) * axes.get_position().size
    half = max((high - low) / size) * size / 2
    (x, y), (half_x, half_y) = (low + high) / 2, half
    axes.set(xlim=(x - half_x, x + half_x), ylim=(y - half_y, y + half_y), xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color(FAINT)


def metres_per_inch(axes: "Axes") -> float:
    """The scale of a map that `draw_map` drew."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = axes.get_xlim()
    return float((high - low) / (figure.get_size_inches()[0] * axes.get_position().width))


def scale_bar(axes: "Axes", right: bool = False) -> None:
    """A round length in metres at the lower left or right."""
    (low_x, high_x), (low_y, high_y) = axes.get_xlim(), axes.get_ylim()
    wide, high = high_x - low_x, high_y - low_y
    length = max((m for m in SCALES_M if m < 0.25 * wide), default=0.1)
    x = high_x - 0.03 * wide - length if right else low_x + 0.03 * wide
    y = low_y + 0.03 * high
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=11)
    where = x + length / 2, y + 0.012 * high
    axes.text(*where, f"{length:g} m", size=9, color=INK, ha="center", va="bottom", zorder=11)


@contextmanager
def figure_file(path: str | Path, width: float, height: float, dpi: int) -> Iterator["Figure"]:
    """A figure of so many inches, written as PNG at the end, whole or not at all; its folder is made if need be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=PAPER)
    FigureCanvasAgg(figure)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)
