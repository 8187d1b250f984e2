"""Stores in working memory, and worlds that fork."""

from copy import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from context_as_memory.camera import Cameras
from context_as_memory.storage import create_world
from context_as_memory.stores import Log
from context_as_memory.world import World


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), max_size=30))
def test_copies_of_a_log_are_lists_of_their_own(moves):
    """Whatever order they are copied and appended to in. A move: which copy, whether to copy it, how much to append."""
    logs, lists, number = [Log[int]()], [list[int]()], 0
    for which, fork, count in moves:
        which %= len(logs)
        if fork:
            logs.append(copy(logs[which]))
            lists.append(list(lists[which]))
        new = list(range(number, number := number + count))
        logs[which].extend(new)
        lists[which].extend(new)
        for log, plain in zip(logs, lists, strict=True):
            assert log.all() == plain
            assert [log[i] for i in range(len(log))] == plain


def _begun(length: int, **changes: Any) -> tuple[World, Cameras]:
    cameras = tiny.walk(length + 12)
    world = tiny.world(**changes)
    world.reset(tiny.pictures(1), cameras[:1])
    for _ in world.rollout(cameras[1:length]):
        pass
    return world, cameras[length:]


def _frames(world: World, path: Cameras) -> np.ndarray:
    return np.concatenate([chunk.frames_u8 for chunk in world.rollout(path)])


@pytest.mark.parametrize("strategy", ["coverage", "random", "recent"])
def test_both_branches_of_a_fork_go_on_as_if_alone(strategy):
    rule = tiny.world().config.retrieval
    rule = type(rule)(**{**vars(rule), "strategy": strategy})
    alone, ahead = _begun(11, retrieval=rule)
    one_way, other_way = ahead, ahead[::-1]
    expected_one = _frames(alone, one_way)
    again, _ = _begun(11, retrieval=rule)
    expected_other = _frames(again, other_way)

    trunk, _ = _begun(11, retrieval=rule)
    branch = trunk.fork()
    made = {"trunk": [], "branch": []}
    for start in range(0, len(ahead), 2):  # in turns, a chunk each
        made["trunk"].append(trunk.step(one_way[start : start + 2]).frames_u8)
        made["branch"].append(branch.step(other_way[start : start + 2]).frames_u8)
    np.testing.assert_array_equal(np.concatenate(made["trunk"]), expected_one)
    np.testing.assert_array_equal(np.concatenate(made["branch"]), expected_other)
    np.testing.assert_array_equal(branch.bank.cameras.c2w, again.bank.cameras.c2w)
    np.testing.assert_array_equal(branch.bank.frames_u8(slice(None)), again.bank.frames_u8(slice(None)))
    assert branch.bank.store.notes() == again.bank.store.notes()
    assert branch.bank.store.steps == again.steps


def test_forks_of_forks_and_one_that_is_thrown_away():
    trunk, ahead = _begun(5)
    expected = _frames(trunk.fork().fork(), ahead)
    thrown_away = trunk.fork()
    _frames(thrown_away, ahead[::-1])
    np.testing.assert_array_equal(_frames(trunk, ahead), expected)


def test_a_fork_holds_the_same_pictures_not_copies_of_them():
    trunk, ahead = _begun(9)
    twin = trunk.fork()
    store, same = trunk.bank.store, twin.bank.store
    assert all(store._frame(row) is same._frame(row) for row in range(9))
    assert all(store._latent(row) is same._latent(row) for row in range(9))
    _frames(twin, ahead)
    assert all(store._frame(row) is same._frame(row) for row in range(9)), "nor after it has gone on"


def test_a_world_in_a_file_forks_into_working_memory(tmp_path):
    tiny.save_model(tmp_path / "weights")
    world = create_world(tmp_path / "file", tmp_path / "weights")
    size = world.config.width, world.config.height
    cameras = tiny.walk(17).resized(*size)
    world.reset(np.zeros((1, size[1], size[0], 3), np.uint8), cameras[:1])
    _frames(world, cameras[1:9])
    twin, kept = world.fork(), len(world.bank)
    expected = _frames(world, cameras[9:])
    np.testing.assert_array_equal(_frames(twin, cameras[9:]), expected)
    np.testing.assert_array_equal(twin.bank.frames_u8(slice(None)), world.bank.frames_u8(slice(None)))
    assert len(twin.bank.store.cameras()) == len(twin.bank) == kept + 8
    again = type(twin.bank)(twin.bank.store)  # what it holds opens as a bank
    np.testing.assert_array_equal(again.cameras.c2w, world.bank.cameras.c2w)
    world.close()


def test_pictures_that_were_packed_ahead_are_those_that_are_appended(tmp_path):
    """And none others: what was expected and did not come leaves no trace, nor does an array that is only equal."""
    tiny.save_model(tmp_path / "weights")
    world = create_world(tmp_path / "file", tmp_path / "weights")
    store, encode = world.bank.store, world.engine.pictures.encode
    cameras = tiny.walk(2).resized(world.config.width, world.config.height)
    first, second, third = (tiny.paint_room(cameras) + np.uint8(shift) for shift in range(3))
    for expected, frames_u8 in ((first, first), (first, second), (third, third.copy())):
        store.expect(expected)
        world.bank.append(frames_u8, cameras, encode(frames_u8))
    world.bank.append(first, cameras, encode(first))  # expected by nobody
    np.testing.assert_array_equal(store.frames_u8(range(8)), np.concatenate([first, second, third, first]))
    assert store.chunks[0].frames_sha256 == store.chunks[3].frames_sha256 != store.chunks[1].frames_sha256
    world.close()
