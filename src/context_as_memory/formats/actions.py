"""Action strings: which keys are held, and for how long, as people and other programs write it."""

import re

from numpy.typing import ArrayLike

from context_as_memory.camera import Cameras, MotionSpeed, cameras_from_keys
from context_as_memory.camera.actions import PACE
from context_as_memory.errors import UserError

MAX_ACTION_FRAMES = 1_000_000
WORDS = {"up": "i", "down": "k", "left": "j", "right": "l", ".": "none"}  # for keys, in the grammars of others


def parse_actions(text: str) -> list[tuple[str, int]]:
    """Read an action string such as "w-40,jw-40,none-8": keys held together, and for how many frames.

    The grammar is that of SANA-WM in diffusers: keys `wasd` move and `ijkl` look, `none` waits; items are separated by
    commas (full-width ones too); spaces and case do not matter. "right-3" and "w*16 wl .*4" are understood as well.

    Returns one (keys, frames) per item; keys in lower case without repeats, or "none". Raises `UserError` naming the
    first item that cannot be read.
    """
    steps: list[tuple[str, int]] = []
    total = 0
    stars, text = "*" in text, text.strip().lower().replace("\uff0c", ",")  # with stars, spaces separate as well
    for number, item in enumerate(re.split(r"[\s,]+", text) if stars else re.sub(r"\s", "", text).split(","), 1):
        where = f"action {number} {item if len(item) <= 40 else item[:37] + '...'!r}"
        match = re.fullmatch(r"(.*)[-*]([0-9]+)", f"{item}*1" if stars and not re.search("[-*]", item) else item)
        if not match:
            raise UserError(f"{where} is not of the form keys-frames; write for example w-40,jw-40,none-8")
        keys, frames = WORDS.get(match[1], match[1]), int(match[2][:12])  # int() has a limit of its own
        unknown = "".join(sorted(set(keys) - set("wasdijkl")))
        if keys != "none" and (not keys or unknown):
            found = f"has unknown keys {unknown!r}" if unknown else "names no keys"
            raise UserError(f"{where} {found}; use wasd to move, ijkl to look, or none")
        if not frames:
            raise UserError(f"{where} lasts no frames; give 1 or more")
        steps.append((keys if keys == "none" else "".join(dict.fromkeys(keys)), frames))
        total += frames
        if total > MAX_ACTION_FRAMES:
            raise UserError(f"{where} passes {MAX_ACTION_FRAMES:,} frames in all; ask for fewer")
    return steps


def cameras_from_actions(start: Cameras, text: str, speed: MotionSpeed = PACE, up: ArrayLike | None = None) -> Cameras:
    """Follow an action string (see `parse_actions`) from a start camera; the rest is as in `cameras_from_keys`, `up`
    [3] too."""
    keys = [held for held, frames in parse_actions(text) for _ in range(frames)]
    return cameras_from_keys(start, keys, speed, up)
