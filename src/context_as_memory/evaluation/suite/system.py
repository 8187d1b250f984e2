"""What the suite needs of a system under test: to generate from a given context, and to walk on its own.

Any generator with memory fits behind these two calls, ours as well as somebody else's, or one made up for a test.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.formats.video import to_frames, to_video
from context_as_memory.retrieval import Retrieval, RetrievalConfig
from context_as_memory.seeds import draw_seed

if TYPE_CHECKING:
    from context_as_memory.world import World

Rule = Callable[[Cameras, Cameras, int, np.ndarray], np.ndarray]
"""Chooses a context from cameras: memory [N], targets, seed, which frames of the memory were given and not generated,
bool [N] -> frame numbers int64 [m], the most recent one last."""


class System(Protocol):
    """A generator that reads context frames. rule: how it chooses its context, and how many frames that may be; size:
    width and height of its frames."""

    chunk_frames: int
    rule: RetrievalConfig
    size: tuple[int, int]

    def generate(self, context_u8: np.ndarray, context: Cameras, targets: Cameras, seed: int) -> np.ndarray:
        """One chunk, uint8 [chunk_frames, H, W, 3], seen from `targets`, given m context frames uint8 [m, H, W, 3] and
        their cameras, the most recent frame last."""
        ...

    def walk(self, start_u8: np.ndarray, start: Cameras, path: Cameras, rule: str | Rule, seed: int) -> np.ndarray:
        """Frames uint8 [N, H, W, 3] along a path of N cameras, remembering the start frames [m, H, W, 3] and its own;
        `rule` is one of `retrieval.STRATEGIES`, or is asked for the context of every chunk."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Name, hash and settings, for the report."""
        ...


class WorldSystem:
    """Our world as a system: the one generation loop of `World`, with nothing of its own."""

    def __init__(self, world: "World", name: str, sha256: str) -> None:
        self.world, self._name, self._sha256 = world, name, sha256
        self.chunk_frames = world.chunk_frames
        self.rule = world.config.retrieval
        self.size = (world.config.width, world.config.height)

    def fresh(self, seed: int, strategy: str | None = None) -> "World":
        """The same weights with an empty memory."""
        config = replace(self.world.config, seed=seed)
        if strategy is not None:
            config = replace(config, retrieval=replace(config.retrieval, strategy=strategy))
        return type(self.world)(self.world.model, self.world.codec, config, str(self.world.device))

    def generate(self, context_u8: np.ndarray, context: Cameras, targets: Cameras, seed: int) -> np.ndarray:
        """See `System.generate`: m frames uint8 [m, H, W, 3] -> a chunk uint8 [chunk_frames, H, W, 3]."""
        world = self.fresh(seed)
        world.reset(context_u8, context)
        return world.step(targets, retrieval=_given(np.arange(len(context))), commit=False).frames_u8

    def walk(self, start_u8: np.ndarray, start: Cameras, path: Cameras, rule: str | Rule, seed: int) -> np.ndarray:
        """See `System.walk`: m start frames uint8 [m, H, W, 3] -> N frames along the path, uint8 [N, H, W, 3]."""
        world = self.fresh(seed, rule if isinstance(rule, str) else None)
        world.reset(start_u8, start)
        chunks = world.rollout(path, None if isinstance(rule, str) else lambda targets: _asked(rule, world, targets))
        return np.concatenate([chunk.frames_u8 for chunk in chunks])

    def reconstruct(self, frames_u8: np.ndarray) -> np.ndarray:
        """Frames uint8 [T, H, W, 3], encoded and decoded by the codec alone."""
        import torch

        with torch.inference_mode():
            latents = self.world.codec.encode_frames(to_video(frames_u8, self.world.device))
            return to_frames(self.world.codec.decode(latents))

    def identity(self) -> Mapping[str, Any]:
        return {
            "name": self._name,
            "sha256": self._sha256,
            "num_steps": self.world.config.num_steps,
            "max_context": self.rule.max_context,
        }


def _given(rows: np.ndarray) -> Retrieval:
    """A ready-made context, for `World.step`."""
    return Retrieval(rows, np.zeros(len(rows)), rows)


def _asked(rule: Rule, world: "World", targets: Cameras) -> Retrieval:
    """The context that a rule of one's own chooses for the next chunk of a world, with the random draws of `World`."""
    memory, seed = world.bank, draw_seed(world.config.seed, world.steps)
    return _given(rule(memory.cameras, targets, seed, ~memory.generated))
