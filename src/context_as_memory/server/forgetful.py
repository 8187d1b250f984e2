"""A world with memory off, which walks beside another one: what it makes differently is what forgetting does."""

import numpy as np

from context_as_memory.world import World


def forgetful(world: World, frames: int) -> World:
    """A copy in working memory that has only the last `frames` frames of a world, with the same noise ahead."""
    copy = type(world)(world.model, world.codec, world.config, str(world.device))
    first = max(0, len(world.bank) - frames)
    for entry in range(first, len(world.bank)):
        note = {"step": -1} if world.bank.generated[entry] else {}
        latents = world.bank.latents(np.array([entry]))
        profiles_m = world.bank.profiles_m[[entry]]
        copy.bank.append(world.bank.frames_u8(entry), world.bank.cameras[entry], latents, note, profiles_m)
    copy.depth, copy.prompt, copy.guidance = world.depth, world.prompt, world.guidance
    copy.steps, copy.first_entry = world.steps, world.first_entry + first
    return copy
