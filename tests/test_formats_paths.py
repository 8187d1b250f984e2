"""Paths of other generators: what they mean in our axes, and what is said about them."""

import json
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.camera.actions import MotionSpeed
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions, parse_actions
from context_as_memory.formats.cameras import read_track
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.paths import LATENT_FRAMES, STEP_M, STEP_RAD, WBENCH_LATENTS, denser

FORWARD, RIGHT, DOWN = np.array([0.0, 0, 1]), np.array([1.0, 0, 0]), np.array([0.0, 1, 0])


def written(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def turned(yaw_deg: float) -> np.ndarray:
    """Camera-to-world of a camera at the origin that looks `yaw_deg` to the right of z, OpenCV axes."""
    sin, cos = np.sin(np.radians(yaw_deg)), np.cos(np.radians(yaw_deg))
    pose = np.eye(4)
    pose[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    return pose


def test_a_hy_worldplay_file_is_camera_to_world_with_a_lens(tmp_path):
    lens = [[970.0, 0, 960], [0, 970, 540], [0, 0, 1]]
    poses = [turned(3.0 * i) for i in range(12)]
    data = {str(i): {"extrinsic": pose.tolist(), "K": lens} for i, pose in enumerate(poses)}
    track = read_track(written(tmp_path / "pose.json", data))
    np.testing.assert_allclose(track.cameras.c2w, poses, atol=1e-12)
    np.testing.assert_array_equal(track.cameras.K[0], [970, 970, 960, 540])
    assert (track.cameras.width, track.cameras.height) == (1920, 1080)
    assert track.cameras.forward[11] @ RIGHT == pytest.approx(np.sin(np.radians(33))), "in the order of the numbers"
    assert any("every four frames" in note for note in track.notes)
    np.testing.assert_allclose(track.up, -DOWN)


def echo(yaw_deg: float, ahead: float = 0.0) -> list[float]:
    """A row of Echo-Memory: x right, y forward, z up; positive yaw turns to the left."""
    sin, cos = np.sin(np.radians(yaw_deg)), np.cos(np.radians(yaw_deg))
    return [0.0, ahead, 0.0, cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0]


def test_an_echo_memory_file_turns_left_for_positive_yaw_and_goes_along_y(tmp_path):
    file = written(tmp_path / "action.json", {str(i): echo(45.0 * i / 4, 0.1 * i) for i in range(5)})
    cameras = read_track(file, hfov_deg=60.0).cameras
    left = cameras.forward[0] @ -cameras.right[4]
    assert left < 0 and cameras.forward[4] @ -cameras.right[0] == pytest.approx(np.sin(np.radians(45)))
    assert (cameras.position[4] - cameras.position[0]) @ cameras.forward[0] == pytest.approx(0.4)
    assert read_track(file, hfov_deg=60.0).up.tolist() == [0, 0, 1]


def test_chunks_of_echo_memory_follow_one_another(tmp_path):
    for number, yaw in enumerate((45.0, -45.0)):
        written(tmp_path / f"chunk{number:02d}_x.json", {str(i): echo(yaw * i / 3) for i in range(4)})
    cameras = read_track(tmp_path, hfov_deg=60.0).cameras
    assert len(cameras) == 8
    np.testing.assert_allclose(cameras.c2w[7], cameras.c2w[0], atol=1e-12)
    np.testing.assert_allclose(cameras.c2w[4], cameras.c2w[3], atol=1e-12)
    assert cameras.forward[3] @ cameras.forward[0] == pytest.approx(np.cos(np.radians(45)))
    written(tmp_path / "chunk02_x.json", {"frames": []})
    with pytest.raises(UserError, match="chunk02_x.json"):
        read_track(tmp_path, hfov_deg=60.0)


def case(*actions: str, perspective: str = "first_person") -> dict[str, object]:
    turns = [{"type": "navigation", "action": action} for action in actions]
    return {"id": "7", "settings": {"perspective": perspective}, "interactions": turns}


def test_a_wbench_case_is_a_walk_of_four_seconds_a_turn(tmp_path):
    track = read_track(written(tmp_path / "case_7.json", case("W", "right", "W+D", "up")))
    cameras = track.cameras
    assert len(cameras) == 4 * WBENCH_LATENTS
    np.testing.assert_array_equal(cameras.c2w[0], np.eye(4))
    ends = [turn * WBENCH_LATENTS - 1 for turn in (1, 2, 3, 4)]
    np.testing.assert_allclose(cameras.position[ends[0]], [0, 0, 23 * STEP_M], atol=1e-12)
    yaw = WBENCH_LATENTS * STEP_RAD
    np.testing.assert_allclose(cameras.forward[ends[1]], [np.sin(yaw), 0, np.cos(yaw)], atol=1e-12)
    step = cameras.position[ends[2]] - cameras.position[ends[1]]
    assert step @ cameras.forward[ends[1]] == pytest.approx(step @ cameras.right[ends[1]]) and step[1] == 0
    assert cameras.forward[ends[3]] @ -DOWN == pytest.approx(np.sin(yaw))
    assert not any("stand still" in note for note in track.notes)


def test_wbench_turns_that_are_no_navigation_stand_still(tmp_path):
    track = read_track(written(tmp_path / "case_7.json", case("W", "open the door")))
    assert np.ptp(track.cameras.position[WBENCH_LATENTS - 1 :], axis=0).max() == 0
    assert any("stand still" in note for note in track.notes)


def test_the_third_person_goes_around_to_the_named_side_and_looks_at_the_subject(tmp_path):
    cameras = read_track(written(tmp_path / "case_7.json", case("right", perspective="third_person"))).cameras
    assert cameras.position[0] @ FORWARD < 0, "behind somebody who looks along z"
    assert cameras.position[-1] @ RIGHT > 0, "to their right"
    assert (cameras.position @ DOWN < 0).all(), "a little above"
    at = -cameras.position / np.linalg.norm(cameras.position, axis=1, keepdims=True)
    assert (np.sum(at * cameras.forward, axis=1) > 0.97).all()
    ahead = read_track(written(tmp_path / "case_8.json", case("W", perspective="third_person"))).cameras
    np.testing.assert_allclose(ahead.position[-1] - ahead.position[0], [0, 0, 23 * STEP_M], atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(cameras.c2w[:, :3, :3]), 1.0)


def test_memorizons_arrays_are_in_units_of_four_metres(tmp_path):
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 2, 3] = np.arange(5) / 16
    np.save(tmp_path / "walk.npy", poses)
    cameras = read_track(tmp_path / "walk.npy", PoseOptions(unit="4m"), hfov_deg=60.0).cameras
    np.testing.assert_allclose(cameras.position[:, 2], np.arange(5) * 0.25)


def test_denser_paths_keep_every_given_camera_and_go_evenly_between():
    K = pinhole(60, 64, 48)
    given = cameras_from_actions(look([0, 0, 0], 0.3, K, 64, 48), "wl-6,i-3", MotionSpeed(0.4, 0.2))
    dense = denser(given)
    assert len(dense) == 8 * LATENT_FRAMES + 1
    np.testing.assert_array_equal(dense.c2w[::LATENT_FRAMES], given.c2w)
    steps = np.linalg.norm(np.diff(dense.position[: 4 * LATENT_FRAMES + 1], axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0])
    cosines = np.sum(dense.forward[1:] * dense.forward[:-1], axis=1)
    np.testing.assert_allclose(cosines[:LATENT_FRAMES], cosines[0])
    one = Cameras(given.c2w[:1], given.K[:1], 64, 48)
    assert denser(one) is one


def test_action_strings_of_other_systems_are_understood():
    assert parse_actions("w*16 l*24  w*16") == parse_actions("w-16,l-24,w-16")
    assert parse_actions("w*3 wl . .*4") == [("w", 3), ("wl", 1), ("none", 1), ("none", 4)]
    assert parse_actions("w-3, right-1, d-4") == parse_actions("w-3,l-1,d-4")
    assert parse_actions("up-2,DOWN-3,left-4") == [("i", 2), ("k", 3), ("j", 4)]
    assert parse_actions("w*3, l-2") == [("w", 3), ("l", 2)]
    for text in ("w-3,forward-2", "w*x", "right-0.5", "w*3 q"):
        with pytest.raises(UserError, match="action"):
            parse_actions(text)
