"""Camera files: every format round trips, means what it says, and complains in one line when it is damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import read_cameras, read_poses, read_realestate10k, read_unreal_json
from context_as_memory.formats.write import write_poses, write_realestate10k, write_unreal_json

K = pinhole(90, 160, 96)


def unreal_file(folder: Path) -> Path:
    """A path of our own in the layout of the paper's pose files: pieces of 76 steps of 4 m, yaw unwrapped past 180."""
    share = np.arange(153) / 76
    x, y, yaw = 10_000 + 400 * share, 30 - 20 * share, 150 + 40 * share  # centimetres and degrees
    frames = {
        str(i): {"position": [x[i], y[i], -200.0], "rotation": [0.0, 0.0, yaw[i]], "scale": [1.0, 1.0, 1.0]}
        for i in range(153)
    }
    file = folder / "unreal_cameras.json"
    file.write_text(json.dumps({"CineCameraActor": frames}))
    return file


def any_cameras(seed: int, count: int = 5) -> Cameras:
    """Any poses at all, with focal lengths and centres of their own."""
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    c2w[:, :3, 3] = rng.uniform(-50, 50, (count, 3))
    size = np.array([160, 96])
    intrinsics = np.concatenate([rng.uniform(40, 400, (count, 2)), size * rng.uniform(0.2, 0.8, (count, 2))], axis=1)
    return Cameras(c2w, intrinsics, 160, 96)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_every_format_round_trips(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("cameras")
    cameras = any_cameras(seed)

    write_poses(cameras, folder)
    back = read_poses(folder / "poses.npy", width=160, height=96)
    np.testing.assert_array_equal(back.c2w, cameras.c2w)
    np.testing.assert_array_equal(back.K, cameras.K)

    write_realestate10k(cameras, folder / "re10k.txt", url="https://example.org/a video")
    back = read_realestate10k(folder / "re10k.txt", width=160, height=96)
    np.testing.assert_allclose(back.c2w, cameras.c2w, atol=1e-11)
    np.testing.assert_allclose(back.K, cameras.K, atol=1e-11)

    level = Cameras(cameras.c2w, pinhole(60, 160, 96), 160, 96)
    write_unreal_json(level, folder / "unreal.json")
    back = read_unreal_json(folder / "unreal.json", width=160, height=96, hfov_deg=60)
    np.testing.assert_allclose(back.c2w, level.c2w, atol=1e-9)
    np.testing.assert_array_equal(back.K, level.K)


@pytest.mark.parametrize("tilt_deg", [90, -90])
def test_unreal_file_round_trips_straight_up_and_down(tmp_path, tilt_deg):
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    cameras = Cameras(look(np.zeros((3, 3)), np.array([0, 1, 2.0]), K, 160, 96).c2w @ tilt, K, 160, 96)
    c2w = cameras.c2w.copy()
    c2w[:, :2, 2] = c2w[:, 2, 1] = 0  # exactly: no rounding is left that would betray the heading
    cameras = Cameras(c2w, K, 160, 96)
    write_unreal_json(cameras, tmp_path / "u.json")
    np.testing.assert_allclose(read_unreal_json(tmp_path / "u.json").c2w, cameras.c2w, atol=1e-9)


def test_unreal_axes(tmp_path):
    """X forward, Y right, Z up, centimetres; yaw from X towards Y, so to the right seen from above."""
    frames = {
        "0": {"position": [100, 200, 300], "rotation": [0, 0, 0]},
        "1": {"position": [0, 0, 0], "rotation": [0, 0, 90]},
        "2": {"position": [0, 0, 0], "rotation": [0, 30, 0]},
        "3": {"position": [0, 0, 0], "rotation": [90, 0, 0]},
    }
    file = tmp_path / "unreal.json"
    file.write_text("\ufeff" + json.dumps({"CineCameraActor": frames}), encoding="utf-8")  # as Windows tools write it
    cameras = read_cameras(file)
    np.testing.assert_allclose(cameras.position[0], [1, -2, 3])
    np.testing.assert_allclose(cameras[0].c2w[:, :3, :3], look([0, 0, 0], 0, K, 160, 96).c2w[:, :3, :3], atol=1e-12)
    np.testing.assert_allclose(cameras.forward[1], cameras.right[0], atol=1e-12)  # a quarter turn right
    np.testing.assert_allclose(cameras.forward[2], [np.cos(np.pi / 6), 0, 0.5], atol=1e-12)  # pitch looks up
    np.testing.assert_allclose(cameras.right[3], [0, 0, -1], atol=1e-12)  # positive roll leans to the right


def test_unreal_angles_follow_a_second_derivation(tmp_path):
    """After the flip of Y, yaw turns about +z, pitch about the right axis and roll about the view direction."""
    angles = np.random.default_rng(0).uniform(-180, 180, (20, 3))
    frames = {str(i): {"position": [0, 0, 0], "rotation": list(a)} for i, a in enumerate(angles)}
    file = tmp_path / "unreal.json"
    file.write_text(json.dumps({"CineCameraActor": frames}))
    level = look([0, 0, 0], 0, K, 160, 96).c2w[0, :3, :3]
    turned = Rotation.from_euler("ZYX", np.stack([-angles[:, 2], -angles[:, 1], angles[:, 0]], 1), degrees=True)
    np.testing.assert_allclose(read_unreal_json(file).c2w[:, :3, :3], turned.as_matrix() @ level, atol=1e-12)


def test_unreal_poses_become_right_handed_metres(tmp_path):
    file = unreal_file(tmp_path)
    cameras = read_cameras(file)
    raw = json.loads(file.read_text())["CineCameraActor"]
    assert len(cameras) == len(raw) == 153
    assert (cameras.width, cameras.height) == (640, 360)
    np.testing.assert_allclose(np.degrees(cameras.hfov_rad), 52.67)
    np.testing.assert_allclose(cameras.position[:, 2], -2.0)
    np.testing.assert_allclose(cameras.forward[:, 2], 0, atol=1e-12)
    for i in (0, 77, 152):
        x, y, z = raw[str(i)]["position"]
        yaw = np.radians(raw[str(i)]["rotation"][2])
        expected = look([x / 100, -y / 100, z / 100], -yaw, cameras.K[0], 640, 360)
        np.testing.assert_allclose(cameras[i].c2w, expected.c2w, atol=1e-12)
    joints = cameras[::76]
    moved = np.linalg.norm(np.diff(joints.position, axis=0), axis=1)
    assert ((moved > 3) & (moved < 6)).all()
    assert (np.einsum("ni,ni->n", joints.forward[1:], joints.forward[:-1]) > np.cos(np.radians(60))).all()


def test_unreal_file_survives_rewriting(tmp_path):
    original = unreal_file(tmp_path)
    cameras = read_cameras(original)
    write_unreal_json(cameras, tmp_path / "copy.json")
    old, new = (
        [frame["rotation"][2] for frame in json.loads(file.read_text())["CineCameraActor"].values()]
        for file in (original, tmp_path / "copy.json")
    )
    np.testing.assert_allclose(np.diff(new), np.diff(old), atol=1e-9)  # yaw stays unwrapped
    np.testing.assert_allclose(read_cameras(tmp_path / "copy.json").c2w, cameras.c2w, atol=1e-12)


def test_realestate10k_rows_are_world_to_camera_and_normalised(tmp_path):
    file = tmp_path / "clip.txt"
    pose = "1 0 0 5 0 1 0 6 0 0 1 7"
    file.write_text(f"https://example.org/watch\n\n0 0.5 0.9 0.5 0.5 0 0 {pose}\n33333 0.5 0.9 0.5 0.5 0 0 {pose}\n")
    cameras = read_cameras(file, width=200, height=100)
    np.testing.assert_allclose(cameras.position, [[-5, -6, -7]] * 2)
    np.testing.assert_allclose(cameras.K, [[100, 90, 100, 50]] * 2)
    file.write_text(f"0 0.5 0.9 0.5 0.5 0 0 {pose}\n")  # no address line
    assert len(read_cameras(file, width=200, height=100)) == 1
    alone = read_cameras(file)  # no size anywhere: square pixels tell its proportions
    assert (alone.width, alone.height) == (640, 356)
    np.testing.assert_allclose(alone.K[0, 0], alone.K[0, 1], rtol=0.002)


def test_realestate10k_timestamps_follow_the_rate(tmp_path):
    write_realestate10k(look(np.zeros((3, 3)), 0, K, 160, 96), tmp_path / "c.txt", fps=10)
    assert [line.split()[0] for line in (tmp_path / "c.txt").read_text().splitlines()[1:]] == ["0", "100000", "200000"]
    with pytest.raises(UserError, match="frames per second"):
        write_realestate10k(look([0, 0, 0], 0, K, 160, 96), tmp_path / "c.txt", fps=0)


def test_read_cameras_tells_formats_by_content(tmp_path):
    cameras = look(np.random.default_rng(0).normal(size=(4, 3)), 0.2, K, 160, 96)
    write_poses(cameras, tmp_path)
    write_unreal_json(cameras, tmp_path / "misleading.txt")
    write_realestate10k(cameras, tmp_path / "misleading.json")
    for name in ("", "poses.npy", "misleading.txt", "misleading.json"):
        back = read_cameras(tmp_path / name, width=160, height=96)
        np.testing.assert_allclose(back.c2w, cameras.c2w, atol=1e-9)
        assert (back.width, back.height) == (160, 96)
    with pytest.raises(UserError, match="only one of width and height"):
        read_cameras(tmp_path, width=160)


@pytest.mark.parametrize("name", ["k.txt", "K.txt", "intrinsics.txt"])
def test_a_file_that_is_named_is_not_its_own_lens(tmp_path, name):
    """Whatever it is called: who names a file means its poses."""
    rows = [f"1 0 0 {0.1 * i} 0 1 0 0 0 0 1 0" for i in range(4)]
    (tmp_path / name).write_text("\n".join(rows))
    (tmp_path / "intrinsic_color.txt").write_text("90 90 80 48")
    cameras = read_cameras(tmp_path / name, width=160, height=96)
    assert cameras.K[0].tolist() == [90, 90, 80, 48]
    np.testing.assert_allclose(cameras.position[:, 0], [0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["k.txt", "K.txt", "Intrinsics.txt"])
def test_a_lens_in_a_folder_is_no_second_pose_file(tmp_path, name):
    rows = [f"1 0 0 {0.1 * i} 0 1 0 0 0 0 1 0" for i in range(4)]
    (tmp_path / "walk.txt").write_text("\n".join(rows))
    (tmp_path / name).write_text("90 90 80 48")
    cameras = read_cameras(tmp_path, width=160, height=96)
    np.testing.assert_allclose(cameras.K, np.tile([90, 90, 80, 48], (4, 1)))


def test_read_cameras_finds_the_image_size_of_arrays(tmp_path):
    cameras = look(np.zeros((2, 3)), 0.2, K, 160, 96)
    write_poses(cameras, tmp_path)
    assert (read_cameras(tmp_path).width, read_cameras(tmp_path).height) == (160, 96)  # twice the principal point
    unknown = ([80, 80, 79.3, 48], [80, 80, 0, 48], [[80, 80, 80, 48], [80, 80, 90, 48]], [500, 500, 200, 180])
    for intrinsics in unknown:
        np.save(tmp_path / "intrinsics.npy", np.array(intrinsics))
        with pytest.raises(UserError, match="nothing here says the image size.*--width and --height"):
            read_cameras(tmp_path)
    for intrinsics in ([80, 80, 80], []):
        np.save(tmp_path / "intrinsics.npy", np.array(intrinsics))
        with pytest.raises(UserError, match="intrinsics have shape"):
            read_cameras(tmp_path)
    np.save(tmp_path / "intrinsics.npy", np.array([80, 80, 79.3, 48]))
    (tmp_path / "episode.json").write_text('{"width": 170, "height": 90}')
    assert (read_cameras(tmp_path).width, read_cameras(tmp_path).height) == (170, 90)
    for meta, message in (
        ("{}", "width and height are missing"),
        ('{"width": "a", "height": 1}', "pixels"),
        ("{", "damaged"),
    ):
        (tmp_path / "episode.json").write_text(meta)
        with pytest.raises(UserError, match=message):
            read_cameras(tmp_path)


def unreal(**changes) -> str:
    frame = {"position": [0, 0, 0], "rotation": [0, 0, 0], **changes}
    return json.dumps({"CineCameraActor": {"0": {"position": [0, 0, 0], "rotation": [0, 0, 0]}, "1": frame}})


ROW = "0 0.5 0.5 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\x93NUMPY\x01\x00", "damaged"),
        (bytes(range(256)), "damaged"),
        (b'{"CineCameraActor": {"0": {"posi', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"{}", "no frames under"),
        (b"[1, 2]", "no frames under"),
        (b'{"CineCameraActor": {}}', "no frames under"),
        (b'{"CineCameraActor": {"first": {}}}', "frame name 'first'"),
        (unreal().replace('"1"', '"2"').encode(), "frame 1 is missing"),
        (unreal().replace('"1"', '"00"').encode(), "frame 1 is missing or doubled"),
        (unreal(position=[0, 0]).encode(), 'frame 1 has no "position" of three numbers'),
        (unreal(rotation=[0, "0", 0]).encode(), 'frame 1 has no "rotation" of three numbers'),
        (unreal(position=None).encode(), 'frame 1 has no "position"'),
        (unreal(position=[float("nan"), 0, 0]).encode(), "camera 1 has a pose that is not finite"),
        (unreal(position=[10**400, 0, 0]).encode(), "damaged"),
        (b"https://example.org\n", "no camera rows"),
        (f"url\n{ROW}\n{ROW[:-4]}\n".encode(), "line 3 is not 19 numbers"),
        (f"url\n{ROW}\nend\n".encode(), "line 3 is not 19 numbers"),
        (f"{ROW[:-2]}\n".encode(), "line 1 is not 19 numbers"),
        (f"url\n{ROW} x\n".encode(), "line 2 is not 19 numbers"),
        (f"url\n{ROW}\n{ROW.replace('1', '2')}\n".encode(), "camera 1 has a rotation that is not orthonormal"),
        (f"url\n{ROW.replace('0.5', '80')}\n".encode(), "camera 0 has its centre outside the 160x96 image"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_files_give_one_line_that_names_them(tmp_path, content, message):
    file = tmp_path / "cameras"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_cameras(file, width=160, height=96)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_bad_arrays_give_one_line_that_names_them(tmp_path):
    cameras = look(np.zeros((3, 3)), 0.2, K, 160, 96)
    poses, intrinsics = tmp_path / "poses.npy", tmp_path / "intrinsics.npy"

    def complaint(**size) -> str:
        with pytest.raises(UserError) as caught:
            read_poses(poses, **({"width": 160, "height": 96} | size))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no such file" in complaint()
    write_poses(cameras, tmp_path)
    assert "camera 0 has its centre outside the 32x32 image" in complaint(width=32, height=32)
    whole = poses.read_bytes()
    for end in (len(whole) - 8, 100, 10, 3, 0):
        poses.write_bytes(whole[:end])
        assert str(poses) in complaint() and "damaged" in complaint()
    np.save(poses, np.array([{"a": 1}], dtype=object))
    assert "Python objects instead of numbers" in complaint()
    np.save(poses, np.array(["a"]))
    assert "not an array of real numbers" in complaint()
    with poses.open("wb") as file:
        np.savez(file, poses=cameras.c2w)
    assert "an archive of arrays" in complaint()
    np.save(poses, cameras.c2w[:, :2])
    assert "shape [3, 2, 4]" in complaint()
    np.save(poses, cameras.c2w)
    np.save(intrinsics, np.zeros((2, 4)))
    assert "intrinsics have shape [2, 4] for 3 poses" in complaint()
    intrinsics.unlink()
    assert str(intrinsics) in complaint() and "are missing" in complaint()
    np.save(tmp_path / "elsewhere.npy", K)
    assert len(read_poses(poses, tmp_path / "elsewhere.npy", width=160, height=96)) == 3


def test_missing_paths_and_folders_without_poses(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_cameras(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no poses.npy"):
        read_cameras(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_unreal_json(tmp_path)
