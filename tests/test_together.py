"""Worlds that walk side by side."""

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.camera import Cameras
from context_as_memory.engine import ENGINES, Engine
from context_as_memory.engine.together import Together
from context_as_memory.errors import UserError
from context_as_memory.together import step_together
from context_as_memory.tokens import TokenLayout, build_model_inputs
from context_as_memory.world import World

NETWORKS = tiny.model(), tiny.codec()
PATHS = [tiny.walk(9, seed) for seed in (0, 1, 2)]


def _begun(engine: str) -> list[World]:
    """Three worlds with histories of different lengths."""
    worlds = [tiny.world(seed, NETWORKS, engine=engine) for seed in (0, 1, 2)]
    for number, (world, path) in enumerate(zip(worlds, PATHS, strict=True)):
        world.reset(tiny.pictures(1 + 2 * number, number), path[: 1 + 2 * number])
    return worlds


def _ahead(number: int, chunk: int) -> Cameras:
    start = 1 + 2 * number + 2 * chunk
    return PATHS[number][start : start + (1 if number == 2 and chunk == 1 else 2)]  # one of them ends inside a chunk


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "auto"])
def test_worlds_that_step_together_show_what_they_show_alone(engine):
    """All but the one step of 255 that rounding can make, and where it is made memory goes on a little differently."""
    together, alone = _begun(engine), _begun(engine)
    for chunk in range(2):
        paths = [_ahead(number, chunk) for number in range(3)]
        chunks = step_together(together, paths)
        for world, path, found in zip(alone, paths, chunks, strict=True):
            expected = world.step(path)
            assert found.frames_u8.shape == expected.frames_u8.shape
            difference = np.abs(found.frames_u8.astype(int) - expected.frames_u8)
            assert difference.max() <= 1 and (difference > 0).mean() < 0.01
            np.testing.assert_array_equal(found.retrieval.frame_ids, expected.retrieval.frame_ids)
    for one, other in zip(together, alone, strict=True):
        assert len(one.bank) == len(other.bank) and one.steps == other.steps
        assert isinstance(one.engine, Engine) and one.engine is other.engine or one.engine.name == other.engine.name
        np.testing.assert_array_equal(one.bank.cameras.c2w, other.bank.cameras.c2w)


def test_the_networks_are_asked_once_for_all():
    worlds, asked = _begun("plain"), []

    class Counted:
        def __init__(self, part):
            self.part = part

        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.part, name)

    inner = worlds[0].engine
    for world in worlds:
        world.engine = Engine(inner.name, Counted(inner.denoiser), Counted(inner.pictures), inner.made_with)
    step_together(worlds, [_ahead(number, 0) for number in range(3)])
    assert asked == ["read", "place_together", "decode", "encode"]


def test_a_walk_may_ask_for_several_chunks_at_once():
    world = _begun("plain")[1]
    bank, engine = world.bank, world.engine
    inputs = build_model_inputs(
        TokenLayout(num_targets=2, max_context=4), bank.cameras, bank.cameras[-2:], world.step(_ahead(1, 0)).retrieval
    )
    latents, noisy = bank.latents(inputs.context_index[0, 0].numpy()), torch.randn(2, 4, 2, 2, 4)

    def ask(engine: Engine) -> torch.Tensor:
        with torch.inference_mode():
            chunk = latents, inputs, engine.denoiser.read(latents)
            return engine.denoiser.place_together([chunk, chunk])(noisy, 400.0)

    asked = Together(engine, True).run([ask])[0]
    assert asked.shape == noisy.shape
    torch.testing.assert_close(asked, ask(engine))


def test_one_that_fails_does_not_stop_the_others():
    worlds = _begun("plain")
    too_long = tiny.walk(5)
    with pytest.raises(UserError, match="a step takes 1 to 2 cameras"):
        step_together(worlds, [_ahead(0, 0), too_long, _ahead(2, 0)])
    assert [world.steps for world in worlds] == [1, 0, 1]


def test_an_error_of_the_networks_reaches_every_walk():
    engine = _begun("plain")[0].engine
    with pytest.raises(UserError, match="frames must be uint8"):
        Together(engine, True).run([lambda member: member.pictures.encode(np.zeros((1, 2)))] * 2)


def test_bad_input_is_one_clear_error():
    one, two, _ = _begun("plain")
    path = _ahead(0, 0)
    other = tiny.world(0, (tiny.model(seed=5), tiny.codec()))
    for worlds, says in (([one, one], "twice"), ([one, other], "world 1 has other networks")):
        with pytest.raises(UserError, match=says):
            step_together(worlds, [path] * 2)
    with pytest.raises(UserError, match="2 worlds and 1 paths"):
        step_together([one, two], [path])
    assert step_together([], []) == []
