"""Closure, mirror and control of any video: right on walks whose cameras are known, and able to see what is wrong."""

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.camera.actions import Z_UP, MotionSpeed
from context_as_memory.errors import UserError
from context_as_memory.evaluation.foreign import measures
from context_as_memory.evaluation.protocols import control, own, protocol_of
from context_as_memory.evaluation.protocols.control import GAP, MOST, measure_control, relative_motion
from context_as_memory.evaluation.protocols.measures import closure_rows, mirror_pairs
from context_as_memory.evaluation.protocols.scenes import StartView
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.importers import ImportedVideo
from context_as_memory.formats.pictures import write_image
from tiny import paint_room

WIDTH, HEIGHT = 160, 96
START = look([0.3, 0.2, 0.0], 0.4, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)


def path(actions: str, start: Cameras = START, speed: MotionSpeed | None = None) -> Cameras:
    return Cameras.concat([start, cameras_from_actions(start, actions, speed or MotionSpeed(), up=Z_UP)])


def textured(cameras: Cameras) -> np.ndarray:
    """A room as `paint_room` paints it, with a colour of its own on every hand's breadth: SIFT finds corners."""
    low, high = np.array([-4.0, -4.0, -1.4]), np.array([5.0, 4.0, 1.6])
    u, v = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    frames = []
    for pose, (fx, fy, cx, cy), place in zip(cameras.c2w, cameras.K, cameras.position, strict=True):
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ pose[:3, :3].T
        rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        depth = np.where(rays > 0, (high - place) / rays, (low - place) / rays)
        point = place + depth.min(-1, keepdims=True) * rays
        cell = np.floor(point * 3 + 1e-6).astype(np.int64) @ np.array([73856093, 19349663, 83492791])
        frames.append(np.stack([40 + (cell * step) % 200 for step in (3, 5, 7)], -1).astype(np.uint8))
    return np.stack(frames)


def measured(frames: np.ndarray, cameras: Cameras) -> dict[str, float]:
    found = measure_control(lambda rows: frames[rows], cameras)
    return {name: float(value) for name, value in found.items() if value is not None}


# -- closure and mirror: which frames ----------------------------------------------------------------------------------


def test_closure_rows_are_the_frames_that_come_back_after_leaving():
    assert closure_rows(path("j-15,l-15")).tolist() == [30], "a turn by 45 degrees is enough, unlike for a return"
    assert closure_rows(path("j-40,l-40,j-40,l-40")).tolist() == [80, 160]
    assert closure_rows(path("w-10,s-10,none-3")).tolist() == [20], "the first of equally close frames"
    assert closure_rows(path("none-20")).tolist() == closure_rows(path("j-30")).tolist() == []
    assert closure_rows(path("none-4,j-15,l-15"), given=4).tolist() == [34]


def test_the_way_of_a_closure_protocol_ends_at_its_closure_row():
    start = StartView("room", "room", paint_room(START)[0], START, Z_UP)
    walked = Cameras.concat([START, start.path(f"j-{own.AWAY},l-{own.AWAY}")])
    assert closure_rows(walked).tolist() == [len(walked) - 1]


def test_mirror_pairs_are_those_of_a_path_out_and_back():
    for actions in ("j-20,l-20", "w-12,jw-9,lw-9,s-12"):
        cameras = path(actions)
        if actions.startswith("w"):
            cameras = Cameras.concat([cameras[:22], cameras[np.arange(20, -1, -1)]])
        back, out = own.mirrored(len(cameras))
        pairs = mirror_pairs(cameras)
        assert sorted(map(tuple, pairs.tolist())) == sorted(zip(out.tolist(), back.tolist(), strict=True))


def test_a_path_that_turns_between_two_frames_is_a_mirror_too():
    out = path("w-10")
    cameras = Cameras.concat([out, out[np.arange(10, -1, -1)]])
    pairs = mirror_pairs(cameras)
    assert len(pairs) == 11 and set(map(sum, pairs.tolist())) == {21}


def test_what_is_no_way_out_and_back_mirrors_nothing():
    for actions in ("none-40", "w-40", "wl-60", "j-5,l-5"):
        assert len(mirror_pairs(path(actions))) == 0, actions


def test_the_longest_mirror_counts():
    pairs = mirror_pairs(path("j-10,l-10,w-30,s-30"))
    assert pairs[:, 1].max() == 80 and len(pairs) == 30


# -- control -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "rotation_deg", "direction_deg"),
    [("j-8", 0.2, None), ("i-8,k-8", 0.3, None), ("d-8", 1.0, 6.0), ("w-8", 3.0, 20.0)],
)
def test_the_true_camera_is_found_in_true_pictures(actions, rotation_deg, direction_deg):
    cameras = path(actions)
    found = measured(textured(cameras), cameras)
    assert found["control.measured"] == 1 and found["control.rotation_deg"] < rotation_deg
    if direction_deg is None:
        assert found["control.turn_share"] == pytest.approx(1, abs=0.03)
    else:
        assert found["control.moved_share"] == 1 and found["control.direction_deg"] < direction_deg


def test_half_a_turn_a_wrong_turn_and_no_turn_are_told_apart():
    commanded = path("j-12")
    for made, share in (("j-24", 0.5), ("l-12", -1.0), ("none-12", 0.0)):
        speed = MotionSpeed(turn_rad=float(np.radians(1.5 if made == "j-24" else 3.0)))
        frames = textured(path(made, speed=speed)[: len(commanded)])
        found = measured(frames, commanded)
        assert found["control.turn_share"] == pytest.approx(share, abs=0.05), made
        assert found["control.rotation_deg"] == pytest.approx(12 * abs(1 - share), abs=1)


def test_a_step_back_instead_of_ahead_is_180_degrees_off():
    found = measured(textured(path("s-12")), path("w-12"))
    assert found["control.direction_deg"] > 165


def test_standing_still_where_a_walk_was_commanded_is_seen():
    found = measured(textured(path("none-12")), path("w-12"))
    assert found["control.moved_share"] == 0 and "control.direction_deg" not in found


def test_pictures_without_a_feature_tell_nothing_and_are_counted():
    cameras = path("j-12")
    grey = np.full((len(cameras), HEIGHT, WIDTH, 3), 120, np.uint8)
    assert measured(grey, cameras) == {"control.measured": 0.0}
    assert relative_motion(grey[0], grey[1], cameras.K[0], cameras.K[1]) is None


def test_long_videos_are_sampled_evenly(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(control, "relative_motion", lambda *_: None)

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(int(rows[0]))
        return np.zeros((2, 4, 4, 3), np.uint8)

    cameras = path("j-4000")
    assert measure_control(read, cameras) == {"control.measured": 0.0}
    assert len(asked) == MOST and asked[0] == 0 and asked[-1] >= 4000 - 2 * GAP


def test_without_opencv_control_is_left_out_or_asked_for(monkeypatch):
    monkeypatch.setattr(control, "has_opencv", lambda: False)
    frames = textured(path("j-1"))
    assert control.control_of(frames, path("j-1")) == {}
    with pytest.raises(UserError, match=r"pip install '(opencv-python-headless|\.\[bench\])"):
        relative_motion(frames[0], frames[1], START.K[0], START.K[0])


# -- any video ---------------------------------------------------------------------------------------------------------


def test_a_video_of_another_system_has_all_three(tmp_path):
    cameras = path("j-15,l-15")
    frames = textured(cameras)
    (tmp_path / "walk").mkdir()
    frames[16:] = np.clip(frames[16:].astype(int) + 25, 0, 255)  # the way back is brighter
    for number, frame in enumerate(frames):
        write_image(tmp_path / "walk" / f"{number:04d}.png", frame)
    video = ImportedVideo("walk", (tmp_path / "walk",), cameras)
    found = measures(video, networks=False)
    loss = 20 * np.log10(255 / 25)
    assert found["closure.psnr_db"] == pytest.approx(loss, abs=0.7) and found["mirror.psnr_db"] == pytest.approx(
        loss, abs=0.7
    )
    assert found["control.turn_share"] == pytest.approx(1, abs=0.05)
    assert [protocol_of(name, "videos") for name in ("closure.ssim", "mirror.psnr_db", "control.measured")] == [
        "closure",
        "mirror",
        "control",
    ]
    later = measures(ImportedVideo("walk", (tmp_path / "walk",), cameras, recorded=len(cameras)), networks=False)
    assert not {name for name in later if name.startswith(("closure", "mirror"))}, "recorded frames are not scored"
