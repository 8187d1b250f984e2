"""Videos of other systems: every layout is read as what it means, and what does not fit is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.data.episode import write_episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.foreign import score_video, score_videos
from context_as_memory.evaluation.metrics import MAX_PSNR_DB
from context_as_memory.evaluation.returns import find_returns
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.importers import SCENE_MEM_HFOV_DEG, ImportedVideo, import_videos
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses, write_realestate10k, write_unreal_json

WIDTH, HEIGHT = 32, 18
HFOV_DEG = 52.67  # the lens of the paper's data set


def there_and_back(hfov_deg: float = HFOV_DEG, turn: int = 16) -> Cameras:
    """Look to the left and back: 2 * turn + 5 frames, of which the last return to the first ones."""
    start = look(np.zeros((1, 3)), 0.0, pinhole(hfov_deg, WIDTH, HEIGHT), WIDTH, HEIGHT)
    return Cameras.concat([start, cameras_from_actions(start, f"j-{turn},none-4,l-{turn}")])


def static_scene(cameras: Cameras) -> np.ndarray:
    """A picture for every direction of view: equal poses give equal pictures. uint8 [T, H, W, 3] in 20..200."""
    angle = np.arctan2(cameras.forward[:, 1], cameras.forward[:, 0]).round(6)[:, None]
    column = np.linspace(0, 3, cameras.width)[None]
    wave = 110 + 90 * np.sin(3 * angle + column)
    pixels = np.broadcast_to(wave[:, None, :, None], (len(cameras), cameras.height, cameras.width, 3))
    return pixels.round().astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, frames.shape[2], frames.shape[1], 15, lossless=True) as video:
        video.write(frames)
    return path


def write_pictures(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        write_image(folder / f"{number:04d}.png", frame)
    return folder


def write_scene_mem(case: Path, frames: np.ndarray, cameras: Cameras, recorded: int) -> None:
    """A case of SceneMemBench; the angles go the way round that its card names."""
    write_video(case / "context.mp4", frames[:recorded])
    write_video(case / "eval.mp4", frames[recorded:])
    write_unreal_json(cameras, case / "unreal.json")
    unreal = json.loads((case / "unreal.json").read_text())["CineCameraActor"]
    (case / "unreal.json").unlink()
    rows = []
    for key in sorted(unreal, key=int):
        roll, pitch, yaw = unreal[key]["rotation"]
        rows.append({"primary_pose": [*unreal[key]["position"], pitch, yaw, roll]})
    (case / "pose").mkdir()
    (case / "pose" / "poses.json").write_text(json.dumps({"frames": rows}))


CAMERAS = there_and_back()
FRAMES = static_scene(CAMERAS)


def the_only(found: list[ImportedVideo]) -> ImportedVideo:
    (video,) = found
    return video


def assert_same_cameras(found: Cameras, expected: Cameras, tolerance: float = 1e-9) -> None:
    assert (found.width, found.height) == (expected.width, expected.height)
    np.testing.assert_allclose(found.c2w, expected.c2w, atol=tolerance)
    np.testing.assert_allclose(found.K, expected.K, rtol=1e-9)


# -- layouts -----------------------------------------------------------------------------------------------------------


def _unreal(folder: Path) -> None:
    write_unreal_json(CAMERAS, folder / "walk.json")


def _realestate(folder: Path) -> None:
    write_realestate10k(CAMERAS, folder / "walk.txt", url="https://example.org/walk")


def _arrays(folder: Path) -> None:
    write_poses(CAMERAS, folder / "walk")


def _one_lens(folder: Path) -> None:
    np.save(folder / "walk.npy", CAMERAS.c2w)
    np.save(folder / "intrinsics.npy", CAMERAS.K[:1])


def _archive_of_matrices(folder: Path) -> None:
    K = np.tile(np.eye(3), (len(CAMERAS), 1, 1))
    K[:, [0, 1, 0, 1], [0, 1, 2, 2]] = CAMERAS.K
    np.savez(folder / "walk.npz", c2w=CAMERAS.c2w, intrinsics=K)


def _archive_of_another_size(folder: Path) -> None:
    """Intrinsics for the picture at three times its size, off the centre as a real lens is."""
    np.savez(folder / "walk.npz", poses=CAMERAS.c2w, K=3 * CAMERAS.K, width=3 * WIDTH, height=3 * HEIGHT)


@pytest.mark.parametrize(
    "write", [_unreal, _realestate, _arrays, _one_lens, _archive_of_matrices, _archive_of_another_size]
)
@pytest.mark.parametrize("pictures", ["video", "folder"])
def test_every_pose_file_beside_its_pictures(tmp_path, write, pictures):
    if pictures == "video":
        write_video(tmp_path / "walk.mp4", FRAMES)
    else:
        write_pictures(tmp_path / "walk", FRAMES)
    write(tmp_path)
    video = the_only(import_videos(tmp_path))
    assert video.name == "walk" and video.truth() is None and video.recorded == 0
    assert_same_cameras(video.cameras, CAMERAS)
    frames = video.frames()
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, FRAMES)


def test_a_folder_per_clip_is_read_and_our_own_episodes_are_such(tmp_path):
    write_episode(tmp_path / "one", FRAMES, CAMERAS, {"split": "test", "fps": 15.0})
    write_episode(tmp_path / "two", FRAMES[:9], CAMERAS[:9], {"split": "test", "fps": 15.0})
    videos = import_videos(tmp_path)
    assert [(video.name, len(video.cameras), len(video.frames())) for video in videos] == [
        ("one", 37, 37),
        ("two", 9, 9),
    ]


@pytest.mark.parametrize("as_video", [False, True])
def test_the_papers_data_set_and_what_a_system_made_of_it(tmp_path, as_video):
    theirs, data = tmp_path / "theirs", tmp_path / "data"
    write_pictures(data / "frames" / "Rome_3", FRAMES)
    (data / "jsons").mkdir()
    write_unreal_json(CAMERAS, data / "jsons" / "Rome_3.json")
    assert_same_cameras(the_only(import_videos(data)).cameras, CAMERAS)
    # The system made the picture cropped to 32x16, and the truth is cropped with it, and so are the cameras.
    cropped = FRAMES[:, 1:-1]
    if as_video:
        write_video(theirs / "Rome_3.mp4", cropped)
    else:
        write_pictures(theirs / "frames" / "Rome_3", cropped)
    video = the_only(import_videos(theirs, data, data))
    assert_same_cameras(video.cameras, CAMERAS.resized(WIDTH, 16))
    np.testing.assert_array_equal(video.frames(), cropped)
    np.testing.assert_array_equal(video.truth(), cropped)


def test_scene_mem_bench_gives_the_context_and_scores_what_follows(tmp_path):
    cameras = there_and_back(SCENE_MEM_HFOV_DEG, turn=40)
    frames, recorded = static_scene(cameras), 50
    benchmark, theirs = tmp_path / "core", tmp_path / "theirs"
    write_scene_mem(benchmark / "turn" / "case_7", frames, cameras, recorded)
    write_scene_mem(benchmark / "turn" / "not_generated", frames, cameras, recorded)
    write_video(theirs / "turn" / "case_7" / "eval.mp4", frames[recorded:] + np.uint8(10))
    video = the_only(import_videos(theirs, benchmark, benchmark))
    assert (video.name, video.recorded) == ("turn/case_7", recorded)
    assert_same_cameras(video.cameras, cameras)
    np.testing.assert_array_equal(video.frames()[:recorded], frames[:recorded])
    np.testing.assert_array_equal(video.truth(), frames)
    clip = score_video(video, networks=False)
    away = 20 * np.log10(255 / 10)
    assert clip["return.psnr_db"] == pytest.approx(away) and clip["return_truth.psnr_db"] == pytest.approx(away)
    assert [case.name for case in import_videos(benchmark)] == ["turn/case_7", "turn/not_generated"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_scene_mem_poses_round_trip_however_the_camera_is_tilted(tmp_path, seed):
    """Pitch, yaw and roll each go where they belong: looked at two tilted cameras somewhere in space."""
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[:, :3, :3] = Rotation.random(2, random_state=rng).as_matrix()
    c2w[:, :3, 3] = rng.normal(size=(2, 3))
    cameras = Cameras(c2w, pinhole(SCENE_MEM_HFOV_DEG, WIDTH, HEIGHT), WIDTH, HEIGHT)
    case = tmp_path / str(seed) / "case"
    if not case.exists():
        write_scene_mem(case, FRAMES[:2], cameras, 1)
    assert_same_cameras(the_only(import_videos(case.parent)).cameras, cameras, 1e-7)


def test_recorded_frames_are_no_returns(tmp_path):
    """A spoilt return in the recorded part costs nothing, and a video of recorded frames has no returns."""
    first_return = int(find_returns(CAMERAS)[0, 1])
    spoilt = FRAMES.copy()
    spoilt[first_return] = 255
    write_video(tmp_path / "walk.mp4", spoilt)
    source = (tmp_path / "walk.mp4",)
    assert score_video(ImportedVideo("a", source, CAMERAS), False)["return.psnr_db"] < MAX_PSNR_DB - 1
    later = score_video(ImportedVideo("a", source, CAMERAS, recorded=first_return + 1), False)
    assert later["return.psnr_db"] == pytest.approx(MAX_PSNR_DB)
    none = score_video(ImportedVideo("a", source, CAMERAS, recorded=len(CAMERAS)), False)
    assert none == {"returns": 0.0, "frames": len(CAMERAS)}


def test_lingbot_intrinsics_are_for_its_own_image_size(tmp_path):
    """Off the centre of 832x480 as its files are: the picture that it stretched to 32x18 has the same field of view."""
    np.save(tmp_path / "walk.npy", CAMERAS.c2w)
    np.save(tmp_path / "intrinsics.npy", np.array([502.9, 503.1, 415.8, 239.7]))
    write_video(tmp_path / "walk.mp4", FRAMES)
    found = the_only(import_videos(tmp_path)).cameras
    np.testing.assert_allclose(found.normalized_K()[0, :2], [2 * 502.9 / 832, 2 * 503.1 / 480])
    np.testing.assert_allclose(found.K[0, 2:], [415.8 * WIDTH / 832, 239.7 * HEIGHT / 480])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hfov_deg=st.floats(30, 120),
    yaw=st.floats(-3, 3),
    scale=st.integers(1, 9),
    kind=st.sampled_from(["npz", "npy", "txt"]),
)
def test_cameras_round_trip_at_any_lens_and_size(tmp_path, hfov_deg, yaw, scale, kind):
    """Written for an image `scale` times as large, read for the picture."""
    large = look(np.array([[1.0, -2.0, 0.5]]), yaw, pinhole(hfov_deg, scale * 32, scale * 18), scale * 32, scale * 18)
    folder = tmp_path / kind
    if not folder.exists():
        write_video(folder / "walk.mp4", FRAMES[:1])
    if kind == "npz":
        np.savez(folder / "walk.npz", c2w=large.c2w, intrinsics=large.K)
    elif kind == "npy":
        write_poses(large, folder / "walk")
    else:
        write_realestate10k(large, folder / "walk.txt")
    assert_same_cameras(the_only(import_videos(folder)).cameras, large.resized(WIDTH, HEIGHT), 1e-8)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brighter", [1, 7, 40])
def test_scores_are_known_answers_in_the_report_schema(tmp_path, brighter):
    """Equal returns score at the ceiling; returns brighter by c have 20 log10(255 / c) dB."""
    faded = FRAMES.copy()
    faded[len(FRAMES) // 2 :] += np.uint8(brighter)
    for name, frames in (("faded", faded), ("still", FRAMES[:1].repeat(9, 0)), ("true", FRAMES)):
        write_video(tmp_path / f"{name}.mp4", frames)
        write_poses(CAMERAS[: len(frames)], tmp_path / name)
    report = score_videos(import_videos(tmp_path), networks=False)
    json.dumps(report, allow_nan=False)
    assert (report["schema"], report["suite"]) == (2, "videos")
    assert report["clips"] == ["faded", "still", "true"]
    expected = 20 * np.log10(255 / brighter)
    assert report["metrics"]["return.psnr_db"]["values"] == [pytest.approx(expected), None, pytest.approx(MAX_PSNR_DB)]
    assert report["metrics"]["return.ssim"]["values"][2] == pytest.approx(1.0)
    assert report["metrics"]["return.psnr_db"]["n"] == report["summary"]["videos_with_returns"] == 2
    assert "return_truth.psnr_db" not in report["summary"]


def test_cam_evaluate_scores_against_the_truth_too(tmp_path):
    theirs, true = tmp_path / "theirs", tmp_path / "true"
    write_video(theirs / "walk.mp4", FRAMES + np.uint8(5))
    write_poses(CAMERAS, theirs / "walk")
    write_video(true / "walk.mp4", FRAMES)
    words = ["evaluate", "--videos", str(theirs), "--truth", str(true), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["return.psnr_db"] == pytest.approx(MAX_PSNR_DB)
    assert report["summary"]["return_truth.psnr_db"] == pytest.approx(20 * np.log10(255 / 5))
    assert "PSNR to truth" in (tmp_path / "out" / "report.md").read_text()


def test_two_videos_of_one_name_are_refused(tmp_path):
    video = ImportedVideo("walk", (tmp_path,), CAMERAS)
    with pytest.raises(UserError, match="two videos are called walk"):
        score_videos([video, video], networks=False)


# -- what does not fit -------------------------------------------------------------------------------------------------


def _no_intrinsics(folder: Path) -> None:
    (folder / "walk" / "intrinsics.npy").unlink()


def _text_for_an_array(folder: Path) -> None:
    (folder / "walk" / "poses.npy").write_text("these are no poses")


def _wrong_shape(folder: Path) -> None:
    np.save(folder / "walk" / "poses.npy", np.zeros((37, 2, 4)))


def _no_rotation(folder: Path) -> None:
    np.save(folder / "walk" / "poses.npy", np.zeros((37, 4, 4)))


def _lens_without_numbers(folder: Path) -> None:
    np.save(folder / "walk" / "intrinsics.npy", np.full(4, np.nan))


def _lens_for_other_frames(folder: Path) -> None:
    np.save(folder / "walk" / "intrinsics.npy", CAMERAS.K[:5])


def _lens_of_words(folder: Path) -> None:
    np.save(folder / "walk" / "intrinsics.npy", np.array(["fx", "fy", "cx", "cy"]))


def _lens_of_an_unknown_size(folder: Path) -> None:
    np.save(folder / "walk" / "intrinsics.npy", np.array([900.0, 900.0, 700.3, 300.2]))


def _too_few_cameras(folder: Path) -> None:
    write_poses(CAMERAS[:-3], folder / "walk")


def _nameless_array(folder: Path) -> None:
    np.savez(folder / "walk.npz", extrinsics=CAMERAS.c2w, intrinsics=CAMERAS.K)
    (folder / "walk" / "poses.npy").unlink()


def _half_a_size(folder: Path) -> None:
    np.savez(folder / "walk.npz", c2w=CAMERAS.c2w, intrinsics=CAMERAS.K, width=32)
    (folder / "walk" / "poses.npy").unlink()


def _a_size_of_nothing(folder: Path) -> None:
    np.savez(folder / "walk.npz", c2w=CAMERAS.c2w, intrinsics=CAMERAS.K, width=0, height=18)
    (folder / "walk" / "poses.npy").unlink()


def _no_cameras(folder: Path) -> None:
    (folder / "walk" / "poses.npy").unlink()


def _broken_video(folder: Path) -> None:
    (folder / "walk.mp4").write_bytes(b"this is no video")


def _two_of_a_name(folder: Path) -> None:
    write_pictures(folder / "walk", FRAMES[:1])


def _bad_text(folder: Path) -> None:
    (folder / "walk" / "poses.npy").unlink()
    (folder / "walk.txt").write_text("https://example.org\n1 2 3\n")


def _bad_json(folder: Path) -> None:
    (folder / "walk" / "poses.npy").unlink()
    (folder / "walk.json").write_text('{"CineCameraActor": {"0": {"position": [1, 2]}}}')


@pytest.mark.parametrize(
    ("spoil", "file", "words"),
    [
        (_no_intrinsics, "intrinsics.npy", "write fx fy cx cy"),
        (_text_for_an_array, "poses.npy", "save it again"),
        (_wrong_shape, "poses.npy", r"\[37, 2, 4\]; give camera-to-world"),
        (_no_rotation, "poses.npy", "camera 0"),
        (_lens_without_numbers, "intrinsics.npy", "not finite; give numbers"),
        (_lens_for_other_frames, "intrinsics.npy", r"\[5, 4\] for 37 poses; give"),
        (_lens_of_words, "intrinsics.npy", "not an array of real numbers; give one"),
        (_lens_of_an_unknown_size, "intrinsics.npy", "cx cy = 700.3 300.2 .* write the intrinsics"),
        (_too_few_cameras, "poses.npy", "37 frames.* 34 cameras; cut"),
        (_nameless_array, "walk.npz", "no array 'c2w' or 'poses', only extrinsics"),
        (_half_a_size, "walk.npz", "no array 'height'"),
        (_a_size_of_nothing, "walk.npz", "width and height are not positive"),
        (_no_cameras, "walk.mp4", "has no cameras: none of walk.npy, walk.npz"),
        (_broken_video, "walk.mp4", "cannot be read"),
        (_two_of_a_name, "walk.mp4", "both called walk"),
        (_bad_text, "walk.txt", "line 2"),
        (_bad_json, "walk.json", 'frame 0 has no "position"'),
    ],
)
def test_what_is_wrong_is_one_error_that_names_the_file(tmp_path, spoil, file, words):
    write_video(tmp_path / "walk.mp4", FRAMES)
    write_poses(CAMERAS, tmp_path / "walk")
    spoil(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        import_videos(tmp_path)
    assert file in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("{}", "no frames under"),
        ("[]", "no frames under"),
        ('[{"primary_pose": [0, 0, 0, 0, 0]}]', 'frame 0 has no "primary_pose" of six'),
        ('{"poses": [{"primary_pose": [0, 0, 0, 0, "0", 0]}]}', 'frame 0 has no "primary_pose" of six'),
        ('{"frames": [{"primary_pose": [NaN, 0, 0, 0, 0, 0]}]}', "camera 0"),
        ('{"frames": [{"primary_pose": [0, 0, 0, 0, 0, 0]}]}', "37 frames.* 1 cameras"),
    ],
)
def test_damaged_scene_mem_poses_are_named(tmp_path, text, words):
    write_scene_mem(tmp_path / "case", FRAMES, CAMERAS, 20)
    (tmp_path / "case" / "pose" / "poses.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        import_videos(tmp_path)
    assert "poses.json" in str(caught.value)


def test_parts_that_are_missing_or_of_another_size_are_named(tmp_path):
    write_scene_mem(tmp_path / "case", FRAMES, CAMERAS, 20)
    with pytest.raises(UserError, match=r"eval.mp4 is missing; add it, or leave --truth out"):
        import_videos(tmp_path, truth=tmp_path / "case")
    write_video(tmp_path / "case" / "eval.mp4", FRAMES[20:, :, :16])
    with pytest.raises(UserError, match=r"eval.mp4 is 16x18, .*context.mp4 32x18; bring them to one size"):
        import_videos(tmp_path)
    (tmp_path / "case" / "context.mp4").unlink()
    with pytest.raises(UserError, match=r"context.mp4 is missing"):
        import_videos(tmp_path)


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ("0004.png", "picture 3 is missing"),
        ("three.png", "three.png has no number"),
        ("x_0002.png", "number of its own"),
    ],
)
def test_pictures_must_be_numbered_without_gaps(tmp_path, rename, words):
    folder = write_pictures(tmp_path / "walk", FRAMES[:4])
    write_poses(CAMERAS[:4], folder)
    (folder / "0003.png").rename(folder / rename)
    with pytest.raises(UserError, match=words):
        import_videos(tmp_path)


def test_pictures_of_unequal_sizes_and_truth_that_does_not_fit(tmp_path):
    folder = write_pictures(tmp_path / "theirs" / "walk", FRAMES[:4])
    write_poses(CAMERAS[:4], folder)
    true = tmp_path / "true"
    true.mkdir()
    with pytest.raises(UserError, match="has no true video"):
        import_videos(tmp_path / "theirs", truth=true)
    write_video(true / "walk.mp4", FRAMES[:3])
    with pytest.raises(UserError, match=r"walk.mp4 has 3 frames, .*poses.npy 4 cameras"):
        import_videos(tmp_path / "theirs", truth=true)
    write_image(folder / "0002.png", FRAMES[2, :9])
    with pytest.raises(UserError, match="0002.png has another size than 0000.png"):
        the_only(import_videos(tmp_path / "theirs")).frames()
    with pytest.raises(UserError, match="no videos"):
        import_videos(true / "..", tmp_path / "theirs")
    with pytest.raises(UserError, match="is no folder"):
        import_videos(tmp_path / "nowhere")
