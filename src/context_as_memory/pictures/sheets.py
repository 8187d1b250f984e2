"""Pictures side by side: two runs as one video, and tables of pictures."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.errors import UserError

if TYPE_CHECKING:
    from PIL import ImageFont

BACKGROUND, INK, MUTED = (250, 250, 249), (33, 37, 41), (110, 116, 122)
RETURN_COLOUR, FIRST_COLOUR = (232, 89, 12), (43, 138, 62)


class SideBySide:
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
    from PIL import ImageFont

    found = find_spec("matplotlib")  # to import it takes a quarter of a second; only its folder is wanted
    assert found is not None and found.origin is not None, "matplotlib comes with the package"
    fonts = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size_px)
