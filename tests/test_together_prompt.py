"""Walks side by side, each with its own prompt, are what each would have been alone."""

import numpy as np
import pytest

import tiny
import tiny_wan
from context_as_memory.together import step_together
from context_as_memory.world import World

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


def test_each_walk_follows_its_own_prompt(pipelines, tmp_path):
    folder = tiny_wan.adapted(pipelines["ti2v"], tmp_path / "model", "ti2v", chunk_latents=1, steps=1)
    base = World.from_pretrained(folder, device="cpu")
    picture, path = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), tiny.walk(5).resized(64, 64)

    def begun(prompt):
        world = World(base.model, base.codec, base.config, "cpu")
        world.prompt = prompt
        return world.start(picture)

    alone = [begun(prompt).step(path[1:]).frames_u8 for prompt in ("red stone", "blue")]
    together = step_together([begun(prompt) for prompt in ("red stone", "blue")], [path[1:]] * 2)
    assert not np.array_equal(alone[0], alone[1])
    for one, chunk in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, chunk.frames_u8)
