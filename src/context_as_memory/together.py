"""Worlds that walk side by side: the next chunk of each, with the networks asked once for all."""

from collections.abc import Callable, Sequence

from context_as_memory.camera import Cameras
from context_as_memory.engine import Engine
from context_as_memory.engine.together import Together
from context_as_memory.errors import UserError
from context_as_memory.world import Chunk, World


def step_together(worlds: Sequence[World], paths: Sequence[Cameras]) -> list[Chunk]:
    """`World.step` of every world along its cameras, in one batch; the worlds must share their networks.

    A world may come once. Last bits differ from a step alone, since products of another size round differently. If a
    world cannot step, the others do all the same, and its error is raised.
    """
    if not worlds:
        return []
    first = worlds[0]
    if len(worlds) != len(paths):
        raise UserError(f"{len(worlds)} worlds and {len(paths)} paths; give each world its own")
    if len({id(world) for world in worlds}) != len(worlds):
        raise UserError("a world stands twice among those that step together; fork it")
    alike = (first.model, first.codec, first.config.engine, first.config.num_steps, first.config.chunk_latents)
    for number, world in enumerate(worlds):
        settings = world.config
        if (world.model, world.codec, settings.engine, settings.num_steps, settings.chunk_latents) != alike:
            raise UserError(f"world {number} has other networks, steps or engine than world 0; they step alone")

    def walk(world: World, path: Cameras) -> Callable[[Engine], Chunk]:
        def step(engine: Engine) -> Chunk:
            alone = world.engine
            world.engine = engine
            try:
                return world.step(path)
            finally:
                world.engine = alone

        return step

    together = Together(first.engine, images=first.codec.temporal_factor == 1)
    return together.run([walk(world, path) for world, path in zip(worlds, paths, strict=True)])
