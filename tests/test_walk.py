"""What a walk leaves behind, and what it keeps in working memory."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.suite.run import evaluate
from context_as_memory.evaluation.suite.videos import own_output
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.cameras import read_poses
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.video import read_video
from context_as_memory.walk.config import GenerateConfig
from context_as_memory.walk.look import FAR_LOOK, look_report
from context_as_memory.walk.recorder import Frames, Recorder
from context_as_memory.walk.request import read_request
from context_as_memory.world import World
from tiny import ROOM_HEIGHT as HEIGHT
from tiny import ROOM_WIDTH as WIDTH
from tiny import paint_room, save_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_image(path, paint_room(look((0, 0, 0), 0.0, pinhole(90, 130, 70), 130, 70))[0])
    return path


def test_poses_and_lens_lie_beside_the_video_and_evaluate_reads_the_folder(
    weights: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["generate", "--image", str(photo), "--actions", "j-40,l-41", "--out", str(out), "--weights", str(weights)]
    assert main([*words, "--threads", "1", "--no-compare", "--hfov-deg", "70"]) == 0
    cameras = read_poses(out / "poses.npy", width=WIDTH, height=HEIGHT)
    assert len(cameras) == len(read_video(out / "video.mp4")) == 82
    camera = look((0.0, 0.0, 0.0), 0.0, pinhole(70, 130, 70), 130, 70).resized(WIDTH, HEIGHT)
    path = Cameras.concat([camera, cameras_from_actions(camera, "j-40,l-41")])
    np.testing.assert_allclose(cameras.c2w, path.c2w, atol=1e-12)
    np.testing.assert_allclose(cameras.K, path.K)
    report = json.loads((out / "report.json").read_text())
    assert report["closure"]["frames"] == [80] and "psnr" in report["closure"]["with_memory"]
    (video,) = own_output(out)
    assert video.recorded == 1 and len(video.frames()) == 82
    found = evaluate(EvaluateConfig(videos=out, out=tmp_path / "scores"))
    assert found.summary["return.psnr_db"] == pytest.approx(report["returns"]["with_memory"]["psnr"]["mean"], abs=3)
    assert own_output(tmp_path) == []


def test_a_continued_walk_has_poses_for_its_new_part(weights: Path, photo: Path, tmp_path: Path) -> None:
    world = str(tmp_path / "world")
    words = ["generate", "--weights", str(weights), "--threads", "1", "--no-compare", "--world", world]
    assert main([*words, "--image", str(photo), "--actions", "w-6", "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "--actions", "l-5", "--out", str(tmp_path / "b")]) == 0
    first, second = (read_poses(tmp_path / name / "poses.npy", width=WIDTH, height=HEIGHT) for name in "ab")
    assert (len(first), len(second)) == (7, 6) == tuple(len(read_video(tmp_path / n / "video.mp4")) for n in "ab")
    np.testing.assert_array_equal(first.c2w[-1], second.c2w[0])
    assert json.loads((tmp_path / "b" / "report.json").read_text())["closure"] is None


def test_a_walk_holds_every_picture_once(weights: Path, tmp_path: Path) -> None:
    """The memory has them all; what records the walk reads them there instead of keeping its own."""
    world = World.from_pretrained(weights, device="cpu")
    start = look((0.0, 0.0, 0.0), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    path = cameras_from_actions(start, ",".join(["j-20,l-20"] * 6))
    world.reset(paint_room(start), start)
    one_copy = (1 + len(path)) * WIDTH * HEIGHT * 3
    with Recorder(tmp_path, {"with_memory": world}, path, 15.0) as recorder:
        chunks = world.rollout(path)
        recorder.add([next(chunks)])  # whatever is imported or set up on the way is there now
        tracemalloc.start()
        try:
            for chunk in chunks:
                recorder.add([chunk])
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert 0.9 * one_copy < held < 1.5 * one_copy
    frames = Frames(world.bank, recorder.length)
    assert len(frames) == 1 + len(path)
    np.testing.assert_array_equal(frames[17], world.bank.frames_u8(17)[0])


def test_a_request_is_a_value_and_needs_no_model(photo: Path, tmp_path: Path) -> None:
    request = read_request(GenerateConfig(out=tmp_path, image=photo, actions="w-3", weights="nowhere", hfov_deg=60))
    assert request.start.name == "photo.png" and request.start.past == 0 and len(request.path) == 3
    assert np.degrees(request.start.camera.hfov_rad[0]) == pytest.approx(60)
    demo = read_request(GenerateConfig(out=tmp_path, demo=True))
    assert len(demo.path) == 496 and demo.start.name.startswith("start frame")


def test_a_picture_far_from_training_is_told_from_one_of_it(weights: Path) -> None:
    from context_as_memory.formats.pictures import fit_frame
    from context_as_memory.formats.places import start_frame

    world = World.from_pretrained(weights, device="cpu")
    known = fit_frame(start_frame(None).frame, WIDTH, HEIGHT)[0]
    strange = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    near, far = look_report(world, known), look_report(world, strange)
    assert near is not None and far is not None and near["distance"] < far["distance"]
    assert far["threshold"] == FAR_LOOK and far["far_from_training"] is (far["distance"] > FAR_LOOK)
