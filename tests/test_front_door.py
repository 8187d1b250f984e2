"""Three lines: a world from a picture, a walk from keys, a film of it."""

import numpy as np
import pytest

import tiny
from context_as_memory.errors import UserError
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.video import read_video


def test_start_walk_save(tmp_path):
    write_image(tmp_path / "photo.png", np.full((90, 200, 3), 80, np.uint8))
    world = tiny.world().start(tmp_path / "photo.png")
    assert world.bank.frames_u8(0).shape == (1, tiny.HEIGHT, tiny.WIDTH, 3)
    walk = world.walk("j-3,l-2")
    assert walk.frames.shape == (5, tiny.HEIGHT, tiny.WIDTH, 3) and len(walk.cameras) == len(walk.contexts) == 5
    np.testing.assert_array_equal(walk.frames, world.bank.frames_u8(slice(1, None)))
    assert walk.contexts[0] == (0,) and walk.contexts[-1][-1] == 4, "the most recent frame, last"
    assert walk.save(tmp_path / "walk.mp4") == tmp_path / "walk.mp4"
    assert read_video(tmp_path / "walk.mp4").shape == walk.frames.shape


def test_a_walk_goes_on_where_the_last_one_ended():
    once, twice = tiny.world().start(), tiny.world().start()
    first, second = twice.walk("w-2"), twice.walk("j-2")
    np.testing.assert_array_equal(once.walk("w-2,j-2").frames, np.concatenate([first.frames, second.frames]))
    along = once.walk(twice.bank.cameras[:2])
    np.testing.assert_array_equal(along.cameras.c2w, twice.bank.cameras.c2w[:2])


def test_a_start_is_a_file_a_picture_or_a_place_and_nothing_else():
    given = tiny.pictures(1)[0]
    np.testing.assert_array_equal(tiny.world().start(given).bank.frames_u8(0)[0], given)
    vault, default = tiny.world().start("vault"), tiny.world().start()
    assert (vault.bank.frames_u8(0) != default.bank.frames_u8(0)).any()
    with pytest.raises(UserError, match="neither a picture file nor a start place; the places are .*vault"):
        tiny.world().start("no_such_place")
    with pytest.raises(UserError, match="uint8"):
        tiny.world().start(np.zeros((4, 4, 3)))
