"""Measure this package with LiveFrame, a neutral harness for the speed of world models: pip install "liveframe[world]"

liveframe world run examples/05_liveframe.py:ContextAsMemory --suite smoke
liveframe world run examples/05_liveframe.py:ContextAsMemory --suite memory    # turns away and back

LiveFrame holds keys, counts the frames that come and the time that they take, and writes a report. The interface is
that of liveframe 0.3.1. MODEL and FPS in the environment name another model, and another rate than 15 frames a second.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory import World
from context_as_memory.camera import look, pinhole
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.pictures import fit_frame

if TYPE_CHECKING:
    from liveframe.engine import NativeFrame
    from liveframe.world.backend import WorldCapabilities

KEYS = {"W": "w", "S": "s", "A": "a", "D": "d", "L": "j", "R": "l", "U": "i", "N": "k", "0": "none"}  # theirs -> ours
Z_UP = (0.0, 0.0, 1.0)


class ContextAsMemory:
    """A world behind LiveFrame's five methods: every step is one chunk with keys held."""

    def __init__(self) -> None:
        self.world = World.from_pretrained(os.environ.get("MODEL", "default"))
        self.emitted = 0

    @property
    def capabilities(self) -> "WorldCapabilities":
        from liveframe.world.backend import WorldCapabilities

        config = self.world.config
        return WorldCapabilities(
            name="context-as-memory",
            interaction_mode="interactive",
            native_fps=float(os.environ.get("FPS", "15")),
            chunk_frames=self.world.chunk_frames,
            resolution=(config.height, config.width),
            actions=frozenset(KEYS),
            action_magnitudes={"move_units_per_frame": 0.15, "yaw_degrees_per_frame": 3.0},
            license_notice="Apache-2.0",
        )

    def load(self) -> None:
        """The networks are there already; one chunk makes the engine ready."""
        self.reset(np.zeros((48, 80, 3), np.uint8), None, 0)
        list(self.step(["0"]))

    def reset(self, image: np.ndarray, prompt: str | None, seed: int) -> None:
        """Begin anew from a picture uint8 [H, W, 3], taken to be 90 degrees wide. There are no words to listen to."""
        config = self.world.config
        lens = pinhole(90.0, config.width, config.height)
        camera = look((0.0, 0.0, 0.0), 0.0, lens, config.width, config.height)
        frame, _ = fit_frame(np.ascontiguousarray(image), config.width, config.height)
        self.world.reset(frame[None], camera)
        self.emitted = 0

    def step(self, actions: Sequence[str]) -> "Iterator[NativeFrame]":
        """One chunk with these keys held."""
        from liveframe.engine import NativeFrame

        keys = "".join(KEYS[action] for action in actions)
        path = cameras_from_actions(self.world.bank.cameras[-1], f"{keys}-{self.world.chunk_frames}", up=Z_UP)
        frames = self.world.step(path).frames_u8
        self.emitted += 1
        yield NativeFrame(index=self.emitted - 1, payload=frames, native_frame_count=len(frames))

    def run_script(self, script: Any) -> "Iterator[NativeFrame]":
        raise RuntimeError("this world listens to keys as they come; LiveFrame calls step")

    def close(self) -> None:
        self.world.close()
