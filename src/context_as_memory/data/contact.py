"""A contact sheet: a few frames of each episode with its name, to see at a glance what was made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from context_as_memory.data.episode import Episode
from context_as_memory.formats.pictures import fit_frame, write_image

ROWS, COLUMNS = 16, 6
WIDTH, GAP, CAPTION = 160, 4, 14  # pixels


def write_contact_sheet(path: Path, folders: Sequence[Path]) -> None:
    """Write a PNG with a row for each episode folder: its name and `COLUMNS` frames from beginning to end.

    At most `ROWS` episodes are shown, spread evenly.
    """
    from PIL import Image, ImageDraw

    shown = [folders[i] for i in np.unique(np.linspace(0, len(folders) - 1, min(ROWS, len(folders))).astype(int))]
    rows = []
    for folder in shown:
        episode = Episode.open(folder)
        frames = episode.frames()
        picked = frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]
        height = max(1, round(WIDTH * frames.shape[1] / frames.shape[2]))
        strip = np.full((CAPTION + height, COLUMNS * (WIDTH + GAP) - GAP, 3), 255, np.uint8)
        for column, frame in enumerate(picked):
            left = column * (WIDTH + GAP)
            strip[CAPTION:, left : left + WIDTH] = fit_frame(frame, WIDTH, height)[0]
        picture = Image.fromarray(strip)
        ImageDraw.Draw(picture).text((1, 1), f"{episode.name}  ({episode.split})", fill=(0, 0, 0))
        rows.append(np.pad(np.asarray(picture), ((0, GAP), (0, 0), (0, 0)), constant_values=255))
    write_image(path, np.concatenate(rows))
