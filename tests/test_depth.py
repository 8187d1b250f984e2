"""Depth from pictures: real but tiny networks, loaded as large ones are; what a world remembers of them."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import tiny
from context_as_memory.adapters.depth import DepthEstimator, _input_size
from context_as_memory.camera import PROFILE, Cameras, eye_level, horizon_profile, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.server.forgetful import forgetful
from context_as_memory.storage import create_world, open_world
from tiny import save_model, transformed

transformers = pytest.importorskip("transformers")

MAX_M = 20
WIDTH, HEIGHT = 56, 42  # pictures that the tiny networks take as they are


def save_depth_anything(folder, kind="metric", seed=0):
    """A Depth Anything of two layers with random weights, as `from_pretrained` finds it in a folder."""
    torch.manual_seed(seed)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=WIDTH,
        patch_size=14,
        out_indices=[1, 2],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        initializer_range=0.2,
        depth_estimation_type=kind,
        max_depth=MAX_M,
    )
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_depth_anything(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def estimator(folder):
    return DepthEstimator.from_pretrained(folder, device="cpu")


def views(frames, pitch_deg=0.0, width=WIDTH, height=HEIGHT):
    """Random pictures, uint8 [T, H, W, 3], and cameras that look up by `pitch_deg`."""
    rng = np.random.default_rng(0)
    level = look(np.zeros((frames, 3)), rng.uniform(-3, 3, frames), pinhole(90, width, height), width, height)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), tilted(level, pitch_deg)


def tilted(cameras, pitch_deg):
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ Rotation.from_euler("x", pitch_deg, degrees=True).as_matrix()
    return Cameras(c2w, cameras.K, cameras.width, cameras.height)


# ------------------------------------------------------------------------------------------------------- eye level


def test_eye_level_follows_pitch_and_lens():
    level = look((1.0, 2.0, 3.0), 0.7, np.array([50.0, 40.0, 32.0, 20.0]), 64, 48)
    assert eye_level(level) == pytest.approx([20 / 48])
    up, down = tilted(level, 10.0), tilted(level, -10.0)
    assert up.forward[0, 2] > 0 > down.forward[0, 2]
    shift = 40 * np.tan(np.radians(10))  # what is level lies lower in a picture that looks up
    assert eye_level(up) * 48 == pytest.approx([20 + shift])
    assert eye_level(down) * 48 == pytest.approx([20 - shift])
    assert eye_level(tilted(level, 80.0)).tolist() == [1] and eye_level(tilted(level, -90.0)).tolist() == [0]
    # The row is where a point far ahead at the camera's own height is seen.
    ahead = np.append(up.position[0] + 1e6 * level.forward[0], 1)
    x, y, z = (up.w2c[0] @ ahead)[:3]
    assert eye_level(up) * 48 == pytest.approx([20 + 40 * y / z])


def test_eye_level_in_a_world_that_is_not_z_up():
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [100, 20, 30], degrees=True).as_matrix()
    cameras = tilted(look((0.0, 0.0, 0.0), [0.0, 2.0], pinhole(90, 64, 48), 64, 48), 5.0)
    assert eye_level(transformed(cameras, turn), 3 * turn[:3, 2]) == pytest.approx(eye_level(cameras))


# ------------------------------------------------------------------------------------------------------- estimator


def test_profiles_are_those_of_the_depth_maps_at_eye_level(estimator):
    frames, cameras = views(3, pitch_deg=10.0)
    profiles = estimator(frames, cameras)
    assert profiles.shape == (3, PROFILE) and profiles.dtype == np.float32
    assert (profiles > 0).all() and (profiles <= MAX_M).all() and profiles.std() > 0
    assert np.array_equal(profiles, estimator(frames, cameras))
    maps = estimator.depth_m(frames, cameras)
    level = 0.5 + np.tan(np.radians(10)) * cameras.K[0, 1] / HEIGHT
    assert np.array_equal(profiles, horizon_profile(maps, level))
    assert not np.array_equal(profiles, horizon_profile(maps))


def test_pictures_reach_the_network_as_it_was_trained(estimator, folder, tmp_path):
    frames, cameras = views(2)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for mean, std, used in (
            ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], estimator),
            ([0.5, 0.4, 0.3], [0.5, 0.6, 0.7], None),
        ):
            if used is None:
                save_depth_anything(tmp_path)
                (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
                used = DepthEstimator.from_pretrained(tmp_path, device="cpu")
            wanted = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
            expected = used.model(wanted).predicted_depth.numpy()
            np.testing.assert_allclose(used.depth_m(frames, cameras), expected, rtol=1e-5)


def test_metres_are_metres_of_the_world(folder):
    estimator = DepthEstimator.from_pretrained(folder, device="cpu", scale=0.5)
    with torch.no_grad():  # a head that says the same everywhere: half of the greatest depth
        estimator.model.head.conv3.weight.zero_()
        estimator.model.head.conv3.bias.zero_()
    for size in ((40, 30), (160, 96), (33, 90)):
        frames, cameras = views(2, width=size[0], height=size[1])
        assert estimator(frames, cameras) == pytest.approx(np.full((2, PROFILE), MAX_M / 2 * 0.5))


def test_a_long_history_goes_through_in_parts(estimator):
    frames, cameras = views(11)
    alone = np.concatenate([estimator(frames[i : i + 1], cameras[i]) for i in range(11)])
    np.testing.assert_allclose(estimator(frames, cameras), alone, rtol=1e-4)


def test_input_sizes_are_whole_patches_near_the_size_of_training():
    config = SimpleNamespace(
        model_type="depth_anything", backbone_config=SimpleNamespace(image_size=518, patch_size=14)
    )
    assert _input_size(config, 96, 160) == (308, 518)  # small pictures fit inside
    assert _input_size(config, 1080, 1920) == (518, 924)  # large ones cover it
    assert _input_size(config, 518, 518) == (518, 518)


def test_zoedepth_and_depthpro_answer_in_metres_too(tmp_path):
    torch.manual_seed(0)
    beit = transformers.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    zoe = transformers.ZoeDepthConfig(
        backbone_config=beit,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    )
    transformers.ZoeDepthForDepthEstimation(zoe).save_pretrained(tmp_path / "zoe")
    frames, cameras = views(2)
    profiles = DepthEstimator.from_pretrained(tmp_path / "zoe", device="cpu")(frames, cameras)
    assert profiles.shape == (2, PROFILE) and (profiles > 0).all() and np.isfinite(profiles).all()

    dino = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    pro = transformers.DepthProConfig(
        patch_size=32,
        fusion_hidden_size=8,
        intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        image_model_config=dino,
        patch_model_config=dino,
        fov_model_config=dino,
        initializer_range=0.2,
    )
    transformers.DepthProForDepthEstimation(pro).save_pretrained(tmp_path / "pro")
    estimator = DepthEstimator.from_pretrained(tmp_path / "pro", device="cpu")
    with torch.no_grad():  # its last layer says the same everywhere: 0.25, for a lens as long as the picture is wide
        last = [part for part in estimator.model.modules() if isinstance(part, torch.nn.Conv2d)][-1]
        last.weight.zero_()
        last.bias.fill_(0.25)
    for focal in (WIDTH, 2 * WIDTH):  # twice the lens makes everything look half as far
        longer = Cameras(cameras.c2w, np.array([focal, focal, WIDTH / 2, HEIGHT / 2]), WIDTH, HEIGHT)
        assert estimator.depth_m(frames, longer) == pytest.approx(np.full((2, HEIGHT, WIDTH), 4 * focal / WIDTH))


# --------------------------------------------------------------------------------------------------------- refusals


def test_what_is_no_metric_model_is_refused_in_one_line(tmp_path, monkeypatch):
    def refused(name, words, **options):
        with pytest.raises(UserError, match=words) as error:
            DepthEstimator.from_pretrained(name, **options)
        assert "\n" not in str(error.value)

    relative = save_depth_anything(tmp_path / "relative", kind="relative")
    refused(relative, "relative.*metres.*give a metric model")
    refused(tmp_path / "nowhere", "nowhere' is neither a folder with a model nor one of the hub")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty' is neither a folder with a model")
    bare = save_depth_anything(tmp_path / "bare")
    refused(bare, "scale", scale=0.0)
    config = (bare / "config.json").read_text()
    (bare / "config.json").write_text(config.replace('"fusion_hidden_size": 8', '"fusion_hidden_size": 16'))
    refused(bare, "cannot be loaded")
    (bare / "config.json").write_text(config)
    torch.save({}, bare / "pytorch_model.bin")
    (bare / "model.safetensors").rename(bare / "model.kept")
    refused(bare, "cannot be loaded")  # nothing is unpickled
    from safetensors.torch import load_file, save_file

    state = load_file(bare / "model.kept")
    del state["head.conv1.weight"]
    save_file(state, bare / "model.safetensors", metadata={"format": "pt"})
    refused(bare, "lack head.conv1.weight")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(relative, r"pip install 'transformers")


def test_frames_and_cameras_must_belong_together(estimator):
    frames, cameras = views(2)
    for wrong in (frames[:1], frames[:, :-1], frames.astype(np.float32)):
        with pytest.raises(UserError, match="the cameras are for uint8"):
            estimator(wrong, cameras)


# ------------------------------------------------------------------------------------------------------------ world


def walked(depth=None, strategy="visible"):
    """A tiny world after a walk of twenty frames, and its chunks."""
    world = tiny.world(retrieval=RetrievalConfig(strategy=strategy, max_context=3))
    world.depth = depth
    cameras = tiny.walk(21)
    world.reset(tiny.pictures(1), cameras[:1])
    return world, list(world.rollout(cameras[1:]))


def near_walls(frames_u8, cameras):
    assert frames_u8.shape == (len(cameras), tiny.HEIGHT, tiny.WIDTH, 3)
    return np.full((len(frames_u8), PROFILE), 0.8, np.float32)


def chosen(chunks):
    return [(chunk.retrieval.frame_ids.tolist(), chunk.retrieval.scores.tolist()) for chunk in chunks]


def test_every_frame_is_remembered_with_its_profile_and_visible_uses_it():
    world, chunks = walked(near_walls)
    assert np.array_equal(world.bank.profiles_m, np.full((21, PROFILE), 0.8, np.float32))
    assert all("profiles_m" in note for _, note in world.bank.store.notes())
    assert chosen(chunks) != chosen(walked()[1])
    copy = forgetful(world, 5)
    assert copy.depth is near_walls and np.isfinite(copy.bank.profiles_m).all()


def test_without_an_estimator_nothing_changes():
    plain, chunks = walked()
    assert np.isinf(plain.bank.profiles_m).all()
    assert not any("profiles_m" in note for _, note in plain.bank.store.notes())
    assert chosen(chunks) == chosen(walked(strategy="coverage")[1])  # `visible` is `coverage` then
    frames = plain.bank.frames_u8(slice(None))
    for depth in (None, near_walls):  # and depth serves `visible` alone
        assert np.array_equal(walked(depth, "coverage")[0].bank.frames_u8(slice(None)), frames)


def test_given_profiles_go_before_estimated_ones_and_bad_ones_leave_the_world_as_it_was():
    world, _ = walked(near_walls)
    cameras = tiny.walk(23)[21:]
    world.remember(tiny.pictures(2), cameras, np.full((2, PROFILE), 3.0))
    assert (world.bank.profiles_m[21:] == 3).all()
    world.depth = lambda frames_u8, cameras: np.zeros((len(cameras), 5))
    with pytest.raises(UserError, match="depth profiles are"):
        world.step(cameras)
    assert len(world.bank) == 23
    world.depth = near_walls
    world.step(cameras, commit=False)
    assert len(world.bank) == 23


def test_a_world_file_keeps_the_profiles(estimator, tmp_path):
    weights = save_model(tmp_path / "weights")
    size = 64, 48
    frames, cameras = views(10, width=size[0], height=size[1])
    world = create_world(
        tmp_path / "world", weights, device="cpu", retrieval=RetrievalConfig(strategy="visible", max_context=3)
    )
    world.depth = estimator
    world.reset(frames[:2], cameras[:2])
    list(world.rollout(cameras[2:]))
    kept = world.bank.profiles_m.copy()
    assert kept.shape == (10, PROFILE) and np.isfinite(kept).all()
    np.testing.assert_allclose(kept, estimator(world.bank.frames_u8(slice(None)), cameras), atol=2e-3)
    world.close()
    again = open_world(tmp_path / "world", device="cpu")
    assert np.array_equal(again.bank.profiles_m, kept) and again.depth is None
    again.close()


def test_cam_generate_depth(folder, tmp_path, capsys):
    weights = save_model(tmp_path / "weights")
    words = ["generate", "--demo", "--weights", str(weights), "--threads", "1", "--no-compare", "--fps", "15"]
    words += ["--actions", "i-2,j-6", "--strategy", "visible", "--out", str(tmp_path / "out")]
    words += ["--world", str(tmp_path / "world"), "--depth"]
    assert main([*words, str(tmp_path / "nowhere")]) == 2
    assert "neither a folder with a model" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()
    assert main([*words, str(folder)]) == 0
    world = open_world(tmp_path / "world", device="cpu")
    assert world.bank.profiles_m.shape == (9, PROFILE) and np.isfinite(world.bank.profiles_m).all()
    world.close()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["depth"] == str(folder)
