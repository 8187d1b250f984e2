"""A world as an environment of gymnasium."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import tiny
from context_as_memory.camera import look
from context_as_memory.environment import ID, KEYS, WalkEnv, WalkVectorEnv
from context_as_memory.errors import UserError
from context_as_memory.world import World


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def base(weights: Path) -> World:
    return World.from_pretrained(weights)


def _held(keys: str) -> np.ndarray:
    return np.array([key in keys for key in KEYS], np.int8)


@pytest.mark.parametrize("action", ["keys", "poses"])
def test_gymnasium_finds_nothing_to_complain_about(weights, action):
    env = gymnasium.make(f"context_as_memory.environment:{ID}", weights=weights, action=action, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_a_step_is_a_chunk_of_the_world_along_the_held_keys(base):
    env = WalkEnv(world=base)
    first, info = env.reset(seed=7)
    assert (first == first[0]).all()
    np.testing.assert_array_equal(info["frame_ids"], 0)
    seen = [env.step(_held(keys)) for keys in ("w", "wj", "", "i")]
    world = World(base.model, base.codec, type(base.config)(**{**vars(base.config), "seed": 7}), "cpu")
    count = world.chunk_frames
    walk = world.start().walk(f"w-{count},jw-{count},none-{count},i-{count}")
    np.testing.assert_array_equal(np.concatenate([frames for frames, *_ in seen]), walk.frames)
    np.testing.assert_allclose(np.concatenate([info["c2w"] for *_, info in seen]), walk.cameras.c2w, atol=1e-12)
    for number, (_, reward, terminated, truncated, info) in enumerate(seen):
        assert (reward, terminated, truncated) == (0.0, False, False)
        np.testing.assert_array_equal(info["frame_ids"], 1 + count * number + np.arange(count))
        assert info["context"][-1] == count * number, "the most recent frame comes last"


def test_poses_and_cameras_are_followed_as_they_are(base):
    env = WalkEnv(world=base, action="poses")
    count = base.chunk_frames
    env.reset(seed=0)
    poses = np.column_stack(
        [np.arange(count) * 0.1, np.zeros(count), np.ones(count), np.full(count, 0.5), [0.1] * count]
    )
    frames, *_, info = env.step(poses)
    np.testing.assert_array_equal(info["c2w"][:, :3, 3], poses[:, :3])
    ahead = [np.cos(0.5) * np.cos(0.1), np.sin(0.5) * np.cos(0.1), np.sin(0.1)]
    np.testing.assert_allclose(info["c2w"][:, :3, 2], np.tile(ahead, (count, 1)), atol=1e-12)
    env.reset(seed=0)
    lens = env.world.bank.cameras.K[0]
    size = base.config.width, base.config.height
    again, *_ = env.step(look(poses[:, :3], poses[:, 3], lens, *size, pitch_rad=poses[:, 4]))
    np.testing.assert_array_equal(again, frames)


def test_the_same_seed_gives_the_same_episode_and_no_seed_a_new_one(base):
    env = WalkEnv(world=base)

    def episode(seed: int | None) -> np.ndarray:
        env.reset(seed=seed)
        return env.step(_held("j"))[0]

    one, same = episode(3), episode(3)
    np.testing.assert_array_equal(one, same)
    assert (episode(4) != one).any()
    after, after_that = episode(None), episode(None)
    assert (after != after_that).any()


def test_a_world_file_is_made_and_gone_on_with(base, weights, tmp_path):
    kept = tmp_path / "kept"
    with_file = WalkEnv(weights, world=base, world_file=kept)
    with_file.reset(seed=5)
    with_file.step(_held("w"))
    with_file.close()
    with_file.close()
    again, info = with_file.reset(seed=99)
    assert info["frame_ids"][0] == base.chunk_frames, "it goes on where it ended"
    onwards = with_file.step(_held("l"))[0]
    with_file.close()
    alone = WalkEnv(world=base)
    alone.reset(seed=5)
    np.testing.assert_array_equal(alone.step(_held("w"))[0][-1], again[-1])
    np.testing.assert_array_equal(alone.step(_held("l"))[0], onwards)


def test_both_sides_of_a_fork_go_on_as_if_alone(base):
    env = WalkEnv(world=base, max_steps=3)
    env.reset(seed=1)
    env.step(_held("w"))
    twin = env.fork()
    left, right = env.step(_held("j")), twin.step(_held("l"))
    alone = WalkEnv(world=base)
    for keys, found in (("j", left), ("l", right)):
        alone.reset(seed=1)
        alone.step(_held("w"))
        np.testing.assert_array_equal(alone.step(_held(keys))[0], found[0])
    assert not left[3] and env.step(_held(""))[3] and twin.step(_held(""))[3], "the count of steps is forked as well"


def test_environments_in_a_vector_show_what_they_show_alone(base, weights):
    """All but the one step of 255 that another size of the products can make."""
    name, mode = f"context_as_memory.environment:{ID}", "vector_entry_point"
    env = gymnasium.make_vec(name, num_envs=3, world=base, max_steps=2, vectorization_mode=mode)
    frames, _ = env.reset(seed=5)
    assert env.observation_space.contains(frames)
    actions = np.stack([_held(keys) for keys in ("w", "j", "l")])
    seen = [env.step(actions) for _ in range(3)]
    for number in range(3):
        alone = WalkEnv(world=base)
        alone.reset(seed=5 + number)
        for step in range(2):
            expected, *_, info = alone.step(actions[number])
            assert np.abs(seen[step][0][number].astype(int) - expected).max() <= 1
            np.testing.assert_array_equal(seen[step][4]["c2w"][number], info["c2w"])
    assert [step[3].tolist() for step in seen] == [[False] * 3, [True] * 3, [False] * 3]
    assert (seen[2][4]["frame_ids"] == 0).all(), "the step after the end begins anew"
    env.close()


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda env: env.step(_held("w")), "call reset first"),
        (lambda env: env.reset(options={"place": "x"}), "'place' is not one of start, world_file, branch"),
        (lambda env: env.reset(options={"start": "nowhere"}), "neither a picture file nor a start place"),
        (lambda env: env.reset(options={"branch": "side"}), "Give the world_file"),
        (lambda env: (env.reset(seed=0), env.step([1, 0])), "action is not in"),
        (lambda env: (env.reset(seed=0), env.step(env.world.bank.cameras[[0, 0, 0, 0, 0, 0, 0]])), "7 cameras"),
        (lambda env: WalkEnv(world=env._base, action="words"), "not one of keys, poses"),
        (lambda env: WalkEnv(world=env._base, render_mode="human"), "render mode"),
        (lambda env: WalkVectorEnv(0, world=env._base), "num_envs is 0"),
        (lambda env: WalkVectorEnv(2, world=env._base, world_file="kept"), "keeps one walk"),
    ],
)
def test_bad_input_is_one_clear_error(base, do, says):
    with pytest.raises(UserError, match=says):
        do(WalkEnv(world=base))


def test_a_bad_start_leaves_no_world_file(base, weights, tmp_path):
    env = WalkEnv(weights, world=base)
    with pytest.raises(UserError):
        env.reset(options={"start": "nowhere", "world_file": tmp_path / "kept"})
    assert not (tmp_path / "kept").exists()
