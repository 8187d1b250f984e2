"""Camera files that users bring: every format round trips or gives a pose worked out by hand, and nothing is assumed
in silence."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.formats import write
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.cameras import CameraTrack, read_cameras, read_track
from context_as_memory.formats.colmap import write_colmap
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.poses import quaternions

K = pinhole(70, 160, 96)


def any_cameras(count: int = 7, seed: int = 0) -> Cameras:
    """Any poses at all, one lens."""
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = Rotation.random(count, random_state=rng).as_matrix()
    c2w[:, :3, 3] = rng.uniform(-5, 5, (count, 3))
    return Cameras(c2w, K, 160, 96)


def walk(count: int = 30) -> Cameras:
    """Level cameras that go forward and turn, z up."""
    start = look(np.zeros((1, 3)), 0.3, K, 160, 96)
    return Cameras.concat([start, cameras_from_actions(start, f"wj-{count // 2},wl-{count // 2}")])


def complaint(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        read_track(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- formats -----------------------------------------------------------------------------------------------------------


def _colmap_text(cameras: Cameras, folder: Path) -> Path:
    write_colmap(cameras, folder)
    return folder


def _colmap_binary(cameras: Cameras, folder: Path) -> Path:
    write_colmap(cameras, folder / "sparse" / "0", binary=True)
    return folder


def _file(writer, name):
    def write_it(cameras: Cameras, folder: Path) -> Path:
        writer(cameras, folder / name)
        return folder / name

    write_it.__name__ = name
    return write_it


def _seven(cameras: Cameras, folder: Path) -> Path:
    write.write_7scenes(cameras, folder)
    return folder


WITH_LENS = [_colmap_text, _colmap_binary, _file(write.write_transforms, "transforms.json")]
WITH_LENS += [_file(write.write_csv, "poses.csv")]
WITHOUT_LENS = [
    _file(write.write_tum, "groundtruth.txt"),
    _file(write.write_euroc, "data.csv"),
    _file(write.write_kitti, "00.txt"),
    _file(write.write_tartanair, "pose_left.txt"),
    _seven,
]


@pytest.mark.parametrize("write_it", [*WITH_LENS, *WITHOUT_LENS], ids=lambda f: f.__name__)
def test_what_is_written_is_read(tmp_path, write_it):
    cameras = any_cameras()
    path = write_it(cameras, tmp_path)
    if write_it not in WITH_LENS:
        assert "intrinsics" in complaint(path)
        (tmp_path / "intrinsics.txt").write_text(" ".join(str(v) for v in K))
    track = read_track(path, PoseOptions(width=160, height=96))
    np.testing.assert_allclose(track.cameras.c2w, cameras.c2w, atol=1e-9)
    np.testing.assert_allclose(track.cameras.K, cameras.K, atol=1e-9)
    assert (track.cameras.width, track.cameras.height) == (160, 96)


def test_a_transforms_json_by_hand(tmp_path):
    """A camera at (1, 2, 3) of a world with z up that looks along +y: OpenGL's z is behind it, its y is up."""
    matrix = [[1, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1]]
    blender = {"camera_angle_x": math.pi / 2, "frames": [{"file_path": "./train/r_0", "transform_matrix": matrix}] * 2}
    (tmp_path / "transforms.json").write_text(json.dumps(blender))
    track = read_track(tmp_path, picture=(64, 64))
    np.testing.assert_allclose(track.cameras.position[0], [1, 2, 3])
    np.testing.assert_allclose(track.cameras.forward[0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(track.cameras.down[0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(track.cameras.K[0], [32, 32, 32, 32])
    np.testing.assert_allclose(track.up, [0, 0, 1], atol=1e-12)
    # instant-ngp and DL3DV: the lens in pixels of full-size pictures, which the pictures at hand are a quarter of.
    frames = [{"file_path": f"images/frame_{n:05d}.png", "transform_matrix": matrix} for n in (2, 10, 1)]
    ngp = {"w": 640, "h": 360, "fl_x": 500.0, "fl_y": 500.0, "cx": 321.0, "cy": 180.0, "k1": 0.1, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(ngp), encoding="utf-16")
    track = read_track(tmp_path, picture=(160, 90))
    np.testing.assert_allclose(track.cameras.K[0], [125, 125, 80.25, 45])
    assert track.names == tuple(f"images/frame_{n:05d}.png" for n in (1, 2, 10))
    assert "distortion" in " ".join(track.notes) and "order" in " ".join(track.notes)
    (tmp_path / "transforms.json").write_text(json.dumps(ngp | {"camera_model": "OPENCV_FISHEYE"}))
    assert "undistort" in complaint(tmp_path)


def test_colmap_by_hand(tmp_path):
    """A quarter turn about y (w x y z), at the camera's 1 2 3: the camera stands at -R^T t."""
    half = math.sqrt(0.5)
    (tmp_path / "cameras.txt").write_text("# comment\n1 SIMPLE_RADIAL 640 480 500 320 240 0.01\n")
    (tmp_path / "images.txt").write_text(f"2 {half} 0 {half} 0 1 2 3 1 b.png\n1 2 3\n1 1 0 0 0 0 0 0 1 a.png\n\n")
    track = read_track(tmp_path)
    assert track.names == ("a.png", "b.png") and (track.cameras.width, track.cameras.height) == (640, 480)
    np.testing.assert_allclose(track.cameras.position[1], [3, -2, -1], atol=1e-12)
    np.testing.assert_allclose(track.cameras.forward[1], [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(track.cameras.K[0], [500, 500, 320, 240])
    assert "image_undistorter" in " ".join(track.notes) and "scale of its own" in " ".join(track.notes)
    (tmp_path / "cameras.txt").write_text("1 OPENCV_FISHEYE 640 480 500 500 320 240 0 0 0 0\n")
    assert "no pinhole" in complaint(tmp_path)
    (tmp_path / "cameras.txt").write_text("7 PINHOLE 640 480 500 500 320 240\n")
    assert "picture a.png has camera 1" in complaint(tmp_path)


def test_colmap_binary_that_ends_early_is_named(tmp_path):
    write_colmap(any_cameras(), tmp_path, binary=True)
    whole = (tmp_path / "images.bin").read_bytes()
    for end in (0, 3, 50, len(whole) - 8):
        (tmp_path / "images.bin").write_bytes(whole[:end])
        assert str(tmp_path / "images.bin") in complaint(tmp_path)


def test_tartanair_counts_in_north_east_and_down(tmp_path):
    """No rotation: the camera looks north (x), its right is east (y), down is z."""
    (tmp_path / "pose_left.txt").write_text("1 2 -3 0 0 0 1\n1.1 2 -3 0 0 0 1\n")
    for path, options in ((tmp_path / "pose_left.txt", None), (tmp_path / "other.txt", PoseOptions(axes="ned"))):
        (tmp_path / "pose_left.txt").replace(path)
        track = read_track(path, options, hfov_deg=90)
        np.testing.assert_allclose(
            track.cameras.c2w[0, :3, :3], np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=1e-12
        )
        np.testing.assert_allclose(track.up, [0, 0, -1])
        np.testing.assert_allclose(track.cameras.position[0], [1, 2, -3])


def test_euroc_gives_the_camera_and_not_the_body(tmp_path):
    folder = tmp_path / "mav0" / "state_groundtruth_estimate0"
    folder.mkdir(parents=True)
    row = "1403636579763555584, 1, 2, 3, 1, 0, 0, 0" + ", 0" * 9
    (folder / "data.csv").write_text(f"#timestamp, p_RS_R_x [m], ...\n{row}\n")
    assert "body" in " ".join(read_track(folder / "data.csv", hfov_deg=80).notes)
    sensor = tmp_path / "mav0" / "cam0" / "sensor.yaml"
    sensor.parent.mkdir()
    sensor.write_text(
        "sensor_type: camera\nT_BS:\n  cols: 4\n  data: [0.0, -1.0, 0.0, 0.5,\n  1.0, 0.0, 0.0, 0.0,\n"
        "  0.0, 0.0, 1.0, 0.0,\n  0.0, 0.0, 0.0, 1.0]\nresolution: [752, 480]\n"
        "intrinsics: [458.654, 457.296, 367.215, 248.375] #fu, fv, cu, cv\ndistortion_coefficients: [-0.28, 0.07]\n"
    )
    track = read_track(tmp_path)
    np.testing.assert_allclose(track.cameras.position[0], [1.5, 2, 3])
    np.testing.assert_allclose(track.cameras.right[0], [0, 1, 0])
    np.testing.assert_allclose(track.cameras.K[0], [458.654, 457.296, 367.215, 248.375])
    assert track.times_s[0] == pytest.approx(1403636579.763555) and "distortion" in " ".join(track.notes)


def test_exports_of_phones(tmp_path):
    """ARKit: y up, the camera looks along -z. Record3D writes K by columns and quaternions with the real part last."""
    record = {"K": [500, 0, 0, 0, 501, 0, 320, 240, 1], "w": 640, "h": 480, "poses": [[0, 0, 0, 1, 1, 2, 3]] * 2}
    (tmp_path / "metadata").write_text(json.dumps(record))
    track = read_track(tmp_path)
    np.testing.assert_allclose(track.cameras.forward[0], [0, 0, -1])
    np.testing.assert_allclose(track.cameras.down[0], [0, -1, 0])
    np.testing.assert_allclose(track.cameras.position[0], [1, 2, 3])
    np.testing.assert_allclose(track.cameras.K[0], [500, 501, 320, 240])
    np.testing.assert_allclose(track.up, [0, 1, 0])
    pose = {f"t_{r}{c}": float(r == c) + 5.0 * (c == 3) for r in range(3) for c in range(4)}
    polycam = pose | {"fx": 500, "fy": 500, "cx": 320, "cy": 240, "width": 640, "height": 480}
    folder = tmp_path / "polycam" / "keyframes" / "cameras"
    folder.mkdir(parents=True)
    for name in ("100.json", "99.json"):
        (folder / name).write_text(json.dumps(polycam))
    track = read_track(tmp_path / "polycam")
    assert track.kind == "a Polycam export" and track.names == ("99", "100")
    np.testing.assert_allclose(track.cameras.position, [[5, 5, 5]] * 2)
    scanner = {"cameraPoseARFrame": np.eye(4).ravel().tolist(), "intrinsics": [500, 0, 320, 0, 500, 240, 0, 0, 1]}
    (tmp_path / "frame_00000.json").write_text(json.dumps(scanner))
    track = read_track(tmp_path / "frame_00000.json", PoseOptions(width=640, height=480))
    np.testing.assert_allclose(track.cameras.K[0], [500, 500, 320, 240])


def test_arkit_scenes_rows_are_world_to_camera(tmp_path):
    """time, axis times angle, translation: half a turn about z."""
    (tmp_path / "lowres_wide.traj").write_text(f"1.0 0 0 {math.pi} 1 2 3\n1.1 0 0 {math.pi} 1 2 3\n")
    cameras = read_track(tmp_path, hfov_deg=60).cameras
    np.testing.assert_allclose(cameras.position[0], [1, 2, -3], atol=1e-12)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_tables_of_any_make(tmp_path, encoding, separator):
    cameras = any_cameras()
    write.write_csv(cameras, tmp_path / "poses.csv")
    text = (tmp_path / "poses.csv").read_text()
    if separator == ";":  # as a German spreadsheet saves it
        text = text.replace(",", ";").replace(".", ",")
    (tmp_path / "poses.csv").write_text(text.replace(",", separator) if separator != ";" else text, encoding=encoding)
    track = read_track(tmp_path / "poses.csv", PoseOptions(width=160, height=96))
    np.testing.assert_allclose(track.cameras.c2w, cameras.c2w, atol=1e-9)
    np.testing.assert_allclose(track.cameras.K, cameras.K)


@pytest.mark.parametrize("shape", ["N34", "N12", "N16", "44", "t16", "t12", "npz", "cam_c2w", "w2c", "json", "lines"])
def test_matrices_in_every_wrapping(tmp_path, shape):
    cameras = any_cameras(1 if shape == "44" else 7)
    c2w, count = cameras.c2w, len(cameras)
    path = tmp_path / "poses.npy"
    arrays = {"N34": c2w[:, :3], "N12": c2w[:, :3].reshape(-1, 12), "N16": c2w.reshape(-1, 16), "44": c2w[0]}
    if shape in arrays:
        np.save(path, arrays[shape])
    elif shape in ("t16", "t12"):
        rows = c2w.reshape(-1, 16) if shape == "t16" else c2w[:, :3].reshape(-1, 12)
        path = tmp_path / "poses.txt"
        np.savetxt(path, np.column_stack([np.arange(count), rows]))
    elif shape in ("json", "lines"):
        path = tmp_path / "poses.json"
        objects = [{"c2w": pose.tolist()} for pose in c2w]
        path.write_text(json.dumps(c2w.tolist()) if shape == "json" else "\n".join(json.dumps(one) for one in objects))
    else:
        path = tmp_path / "poses.npz"
        name, value = {"npz": ("c2w", c2w), "cam_c2w": ("cam_c2w", c2w), "w2c": ("w2c", cameras.w2c)}[shape]
        np.savez(path, **{name: value}, intrinsic=np.array([[110, 0, 80], [0, 110, 48], [0, 0, 1.0]]))
    np.testing.assert_allclose(read_track(path, assumed_hfov_deg=70).cameras.c2w, c2w, atol=1e-9)


def test_unreal_files_of_any_actor_and_step(tmp_path):
    file = tmp_path / "u.json"
    frames = {
        str(n): {"position": {"X": n, "Y": 0, "Z": 0}, "rotation": {"Pitch": 0, "Yaw": 90, "Roll": 0}}
        for n in range(120, 180, 3)
    }
    file.write_text(json.dumps({"MyCamera": frames}))
    track = read_track(file)
    np.testing.assert_allclose(track.cameras.position[1], [1.23, 0, 0])
    np.testing.assert_allclose(track.cameras.forward[0], [0, -1, 0], atol=1e-12)
    assert track.frame(123) == 1 and "every 3th" in " ".join(track.notes)
    for number in (50, 124, -1):
        with pytest.raises(UserError, match="numbered 120 to 177"):
            track.frame(number)


def test_realestate10k_keeps_its_first_row(tmp_path):
    rows = [f"{{}} 0.5 0.9 0.5 0.5 0 0 1 0 0 {n} 0 1 0 0 0 0 1 0" for n in range(3)]
    for first in ("00:00:00", "0,0", "t0", "0"):
        file = tmp_path / "walk"
        file.write_text("\n".join(row.format(first if n == 0 else 33333 * n) for n, row in enumerate(rows)))
        np.testing.assert_allclose(read_cameras(file).position[:, 0], [0, -1, -2])


# -- lenses ------------------------------------------------------------------------------------------------------------


def lens_of(folder: Path, K, picture=None, note=None, **options) -> CameraTrack:
    np.save(folder / "poses.npy", walk().c2w)
    np.save(folder / "intrinsics.npy", np.array(K, np.float64))
    (folder / "episode.json").unlink(missing_ok=True)
    if note is not None:
        (folder / "episode.json").write_text(json.dumps({"width": note[0], "height": note[1]}))
    return read_track(folder, PoseOptions(**options), picture=picture)


@pytest.mark.parametrize(
    ("K", "picture", "note", "options", "expected"),
    [
        ([80, 80, 80, 48], (320, 192), (160, 96), {}, [160, 160, 160, 96]),  # the stated size wins and is scaled
        ([80, 80, 80, 48], (320, 192), None, {}, [160, 160, 160, 96]),
        ([80, 80, 80, 48], (96, 192), (160, 96), {}, [160, 160, 48, 96]),  # cropped as the picture is
        ([0.85, 1.511, 0.5, 0.5], (320, 180), None, {}, [272, 271.98, 160, 90]),  # shares
        ([0.785, 1.395, 0.5, 0.5], (180, 240), None, {}, [335.1, 334.8, 90, 120]),  # of a wide video: square pixels
        ([500, 500, 200, 180], None, None, {"width": 640, "height": 360}, [500, 500, 200, 180]),
        ([517.3, 516.5, 318.6, 255.3], (640, 480), None, {}, [517.3, 516.5, 318.6, 255.3]),
        ([[80, 0, 80], [0, 80, 48], [0, 0, 1]], (160, 96), None, {}, [80, 80, 80, 48]),
        ([502.9, 503.1, 415.8, 239.7], (416, 240), None, {}, [251.45, 251.55, 207.9, 119.85]),
    ],
)
def test_one_place_decides_which_lens_fits(tmp_path, K, picture, note, options, expected):
    track = lens_of(tmp_path, K, picture, note, **options)
    np.testing.assert_allclose(track.cameras.K[0], expected, atol=0.5)
    assert track.report()["lens"]["fx"] == pytest.approx(expected[0], abs=0.5)
    assert f"{track.cameras.width}x{track.cameras.height}" in track.lines()[0]


@pytest.mark.parametrize(
    ("K", "picture", "note", "words"),
    [
        ([500, 500, 200, 180], None, None, "nothing here says the image size"),  # 400x360 is no usual size
        ([160, 160, 60, 54], (192, 108), None, "not the centre"),
        ([900.0, 900.0, 700.3, 300.2], (32, 18), None, "not the centre"),
        ([0.1, 0.1, 0.5, 0.5], (160, 96), None, "degrees wide"),
        ([40, 40, 320, 180], (640, 360), None, "degrees wide"),
        ([300, 600, 320, 180], (640, 360), None, "fx / fy"),
        ([80, 80, 90, 48], (160, 96), (80, 48), "centre outside the 80x48"),
        ([80, -80, 80, 48], (160, 96), None, "not positive"),
        ([80, float("inf"), 80, 48], (160, 96), None, "not finite"),
    ],
)
def test_a_lens_that_fits_no_picture_is_refused(tmp_path, K, picture, note, words):
    with pytest.raises(UserError, match=words):
        lens_of(tmp_path, K, picture, note)


def test_what_the_refusal_says_can_be_done(tmp_path):
    """Every mend that a lens error names is tried: with it the file is read."""
    with pytest.raises(UserError, match="--width and --height"):
        lens_of(tmp_path, [500, 500, 200, 180])
    assert lens_of(tmp_path, [500, 500, 200, 180], width=640, height=360).lens.width == 640
    with pytest.raises(UserError, match="--width and --height"):
        lens_of(tmp_path, [40, 40, 320, 180], (640, 360))
    odd = lens_of(tmp_path, [40, 40, 320, 180], (640, 360), width=640, height=360)
    assert "166 degrees wide" in " ".join(odd.notes)
    with pytest.raises(UserError, match="leave them away"):
        lens_of(tmp_path, [80, 80, 80, 48], note=(160, 96), width=320, height=192)
    with pytest.raises(UserError, match="leave --hfov-deg away"):
        read_track(tmp_path, hfov_deg=65)
    (tmp_path / "intrinsics.npy").unlink()
    (tmp_path / "episode.json").unlink()
    assert np.degrees(read_track(tmp_path, hfov_deg=65).cameras.hfov_rad[0]) == pytest.approx(65)
    assert "intrinsics.txt" in complaint(tmp_path)
    (tmp_path / "intrinsics.txt").write_text("80 80 80 48\n")
    assert read_track(tmp_path).cameras.width == 160


def test_three_and_four_poses_are_not_taken_for_a_matrix(tmp_path):
    for count in (3, 4):
        np.save(tmp_path / "poses.npy", walk().c2w[:count])
        np.save(tmp_path / "intrinsics.npy", np.tile(K, (count, 1)))
        np.testing.assert_array_equal(read_cameras(tmp_path).K, np.tile(K, (count, 1)))


# -- poses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["four decimals", "three decimals", "half", "quaternion", "single"])
def test_rounded_rotations_are_the_nearest_rotation(tmp_path, rounding):
    exact = any_cameras(60).c2w
    rounded = exact.copy()
    if rounding == "half":
        rounded = exact.astype(np.float16)
    elif rounding == "single":
        rounded = exact.astype(np.float32)
    elif rounding == "quaternion":  # four decimals through the textbook formula, which does not normalise
        x, y, z, w = Rotation.from_matrix(exact[:, :3, :3]).as_quat().round(4).T
        rounded[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1)
        rounded[:, 1, :3] = np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1)
        rounded[:, 2, :3] = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1)
    else:
        rounded[:, :3, :3] = exact[:, :3, :3].round(4 if rounding == "four decimals" else 3)
    np.save(tmp_path / "poses.npy", rounded)
    found = read_track(tmp_path / "poses.npy", hfov_deg=70).cameras.c2w
    np.testing.assert_allclose(found[:, :3, :3], exact[:, :3, :3], atol=2e-3)
    np.testing.assert_allclose(
        found[:, :3, :3].transpose(0, 2, 1) @ found[:, :3, :3], np.tile(np.eye(3), (60, 1, 1)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c2w: c2w * np.where(np.arange(4) < 3, 2.0, 1.0), "scaled by 2"),
        (lambda c2w: c2w + np.diag([0.0, 0.05, 0, 0]), "without scale or shear"),
        (lambda c2w: c2w @ np.diag([1.0, -1, 1, 1]), "mirrors"),
        (
            lambda c2w: np.where(np.arange(len(c2w))[:, None, None] == 7, -np.inf, c2w),
            "camera 7 has a pose that is not finite",
        ),
        (lambda c2w: c2w.transpose(0, 2, 1), "bottom row"),
    ],
)
def test_poses_that_are_no_motion_name_file_frame_and_reason(tmp_path, spoil, words):
    np.save(tmp_path / "poses.npy", spoil(walk().c2w))
    told = complaint(tmp_path / "poses.npy", hfov_deg=70)
    assert words in told and told.startswith(str(tmp_path / "poses.npy"))


def test_options_undo_other_axes_directions_and_units(tmp_path):
    cameras = walk()
    flip = np.diag([1.0, -1, -1, 1])
    unreal = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    mirror = np.diag([1.0, -1, 1, 1])
    ned = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    left = mirror @ cameras.c2w @ np.linalg.inv(unreal)
    left[:, :3, 3] *= 100
    centimetres = cameras.c2w.copy()
    centimetres[:, :3, 3] *= 100
    for poses, options in (
        (cameras.c2w, {}),
        (cameras.c2w @ flip, {"axes": "opengl"}),
        (cameras.w2c, {"w2c": True}),
        (np.linalg.inv(cameras.c2w @ flip), {"w2c": True, "axes": "opengl"}),
        (centimetres, {"unit": "cm"}),
        (left, {"axes": "unreal"}),
        (cameras.c2w @ np.linalg.inv(ned), {"axes": "ned", "up": "z"}),
    ):
        np.save(tmp_path / "poses.npy", poses)
        track = read_track(tmp_path / "poses.npy", PoseOptions(**options), hfov_deg=70)
        np.testing.assert_allclose(track.cameras.c2w, cameras.c2w, atol=1e-9)
        np.testing.assert_allclose(track.up, [0, 0, 1], atol=1e-9)
        assert track.notes == ()


def test_what_looks_wrong_is_said_with_the_option_that_mends_it(tmp_path):
    cameras, flip = walk(), np.diag([1.0, -1, -1, 1])
    centimetres = cameras.c2w.copy()
    centimetres[:, :3, 3] *= 100
    for poses, words in (
        (cameras.c2w @ flip, "--axes opengl"),
        (cameras.w2c, "--w2c"),
        (centimetres, "--unit cm"),
    ):
        np.save(tmp_path / "poses.npy", poses)
        told = " ".join(read_track(tmp_path / "poses.npy", hfov_deg=70).notes)
        assert f"{words} " in told + " "
        name = words.split()[0].lstrip("-")
        value = {"axes": "opengl", "w2c": True, "unit": "cm"}[name]
        mended = read_track(tmp_path / "poses.npy", PoseOptions(**{name: value}), hfov_deg=70)
        assert mended.notes == ()
        np.testing.assert_allclose(mended.cameras.c2w, cameras.c2w, atol=1e-9)
    start = look(np.zeros((1, 3)), 0.0, K, 160, 96)
    for quiet in ("a-20,d-20", "j-40,l-40", "s-3,w-3", "none-20", "i-20,k-40"):  # strafing, turning, nodding are fine
        np.save(tmp_path / "poses.npy", cameras_from_actions(start, quiet).c2w)
        assert read_track(tmp_path / "poses.npy", hfov_deg=70).notes == ()


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("world", ["z up", "y up"])
def test_a_phone_held_upright_is_turned(tmp_path, turns, world):
    """Poses of a sensor on its side: the vertical is found from the turning, and the cameras are level after it."""
    start = look(np.zeros((1, 3)), 0.0, K, 160, 96)
    level = cameras_from_actions(start, "j-35,l-35")
    roll = np.eye(4)
    roll[:2, :2] = [[0, -1], [1, 0]] if turns == 3 else [[0, 1], [-1, 0]]
    stand = np.eye(4) if world == "z up" else np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    np.save(tmp_path / "poses.npy", stand @ level.c2w @ roll)
    track = read_track(tmp_path / "poses.npy", hfov_deg=70)
    np.testing.assert_allclose(track.up, stand[:3, :3] @ [0, 0, 1], atol=1e-6)
    assert track.turns == turns
    upright = track.upright()
    np.testing.assert_allclose(upright.c2w, stand @ level.c2w, atol=1e-9)
    assert (upright.width, upright.height) == (track.cameras.height, track.cameras.width)


def test_folders_name_what_they_hold_and_do_not_use(tmp_path):
    cameras = walk()
    write.write_poses(cameras, tmp_path)
    write.write_transforms(cameras, tmp_path / "transforms.json")
    assert "transforms.json is not used" in " ".join(read_track(tmp_path).notes)
    (tmp_path / "poses.npy").rename(tmp_path / "POSES.NPY")
    (tmp_path / "transforms.json").unlink()
    assert len(read_track(tmp_path)) == len(cameras)
    for name, content in (("a.h5", b"\x89HDF\r\n"), ("a.pt", b"PK\x03\x04"), ("a.pkl", b"\x80\x04\x95")):
        (tmp_path / name).write_bytes(content)
        assert "numpy.save" in complaint(tmp_path / name)


def test_half_a_size_and_files_of_other_kinds_are_refused_in_one_sentence(tmp_path):
    np.save(tmp_path / "poses.npy", walk().c2w)
    assert "only one of --width and --height" in complaint(tmp_path, PoseOptions(width=30), hfov_deg=70)
    assert "at least 1 pixel" in complaint(tmp_path, PoseOptions(width=30, height=0), hfov_deg=70)
    for name, content, words in (
        ("a.png", b"\x89PNG\r\n\x1a\n", "is a picture"),
        ("a.txt", b"1 2 3\n4 5 6\n", "rows of 3 numbers"),
        ("b.txt", b"1 2 3 4 5 6 7 8\n1 2 3\n", "line 2 has 3 entries, the others 8"),
        ("c.txt", b"1 2 3 4 5 6 7 8\n1 2 3 x 5 6 7 8\n", "line 2: 'x' is not a number"),
        ("d.csv", b"time,x,y,z,roll,pitch,yaw\n0,1,2,3,0,0,0\n", "give quaternions"),
        ("e.txt", b"0 1 2 3 0 0 0 0\n", "quaternion of length 0"),
        ("f.json", b'{"a":' + b"[" * 99_999, "damaged"),
        ("g.json", b'{"frames": [{"transform_matrix": [[1, 2], [3]]}]}', "transform_matrix of frame 0"),
        ("h.mp4", b"\0\0\0\x18ftypisom", "is a video"),
    ):
        (tmp_path / name).write_bytes(content)
        told = complaint(tmp_path / name, hfov_deg=70)
        assert words in told and told.startswith(str(tmp_path / name)), told


def _turned_over(lens):
    return np.array([[lens[0], 0, lens[2]], [0, lens[1], lens[3]], [0, 0, 1]]).T


@pytest.mark.parametrize(
    ("lens", "told"),
    [
        (_turned_over([80, 80, 80, 48]), "turned over"),
        (np.stack([_turned_over([80, 80, 80, 48])] * 12), "turned over"),
        ("80,0 80,0 80,0 48,0\n", "point for decimals"),
        ("fx fy cx cy\n", "no row of numbers"),
        ("", "no row of numbers"),
    ],
)
def test_a_lens_in_another_layout_is_refused_and_the_reason_is_the_true_one(tmp_path, lens, told):
    np.save(tmp_path / "poses.npy", walk(12).c2w)
    name = tmp_path / ("lens.txt" if isinstance(lens, str) else "lens.npy")
    if isinstance(lens, str):
        name.write_text(lens)
    else:
        np.save(name, lens)
    said = complaint(tmp_path / "poses.npy", PoseOptions(width=160, height=96), intrinsics=name)
    assert told in said and name.name in said


@pytest.mark.parametrize("angle", [90, -1.0, 0, np.pi])
def test_an_angle_that_is_none_in_radians_is_told(tmp_path, angle):
    frames = [{"file_path": f"{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(walk(4).c2w)]
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    assert "it is in radians" in complaint(tmp_path / "transforms.json")


def test_a_field_of_view_in_radians_is_asked_about(tmp_path):
    np.save(tmp_path / "poses.npy", walk(12).c2w)
    asked = [" ".join(read_track(tmp_path / "poses.npy", hfov_deg=angle).notes) for angle in (1.57, 0.9, 40)]
    assert ["radians" in note for note in asked] == [True, True, False]


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([0, 1, 2, 3, 4, 5], None),
        ([0, 1, 2.2, 3, 4.5, 5], None),  # jitter
        ([0, 0, 0, 0, 0, 0], None),  # no times
        ([5, 4, 3, 2, 1, 0], "5 go back, 0 stay; first at row 1"),
        ([0, 1, 2, 2, 3, 4], "0 go back, 1 stay; first at row 3"),
        ([0, 1, 2, 40, 41, 42], "leap 38 usual steps at row 3"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_times_that_go_back_stay_or_leap_are_told(tmp_path, times, told, named):
    rows = ["time,x,y,z,qx,qy,qz,qw"] if named else []
    rows += [f"{time},{0.1 * i},0,0,0,0,0,1" for i, time in enumerate(times)]
    (tmp_path / "walk.csv").write_text("\n".join(rows) + "\n")
    notes = [note for note in read_track(tmp_path / "walk.csv", hfov_deg=70).notes if "times" in note]
    assert len(notes) == (told is not None) and (told or "") in " ".join(notes)


def _tum(path: Path, poses: np.ndarray, order: list[int], heading: str = "") -> Path:
    table = np.hstack([np.arange(len(poses))[:, None], poses[:, :3, 3], quaternions(poses[:, :3, :3])[:, order]])
    path.write_text("\n".join([heading, *(" ".join(f"{value:.9f}" for value in row) for row in table)]).strip() + "\n")
    return path


def _forward_walk(first_deg: float = 0.0) -> np.ndarray:
    """Poses [24, 4, 4] that go forward while they turn about their own y axis."""
    poses, place = np.tile(np.eye(4), (24, 1, 1)), np.zeros(3)
    for number, angle in enumerate(np.radians(first_deg + 3.0 * np.arange(24))):
        poses[number, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[number, :3, 3] = place
        place = place + 0.1 * poses[number, :3, 2]
    return poses


@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("first_deg", [0.0, 30.0])
def test_quaternions_with_the_real_part_first_are_told_and_the_advice_works(tmp_path, first_deg, time):
    poses, columns = _forward_walk(first_deg), slice(0 if time else 1, None)
    last, first = _tum(tmp_path / "last.txt", poses, [0, 1, 2, 3]), _tum(tmp_path / "first.txt", poses, [3, 0, 1, 2])
    for path in (last, first):
        rows = [" ".join(line.split()[columns]) for line in path.read_text().splitlines()]
        path.write_text("\n".join(rows) + "\n")
    assert not [note for note in read_track(last, hfov_deg=70).notes if "real part" in note]
    told = [note for note in read_track(first, hfov_deg=70).notes if "real part" in note]
    assert len(told) == 1 and ("turned over" in told[0]) == (first_deg == 0)
    heading = "time x y z qw qx qy qz" if time else "x y z qw qx qy qz"
    assert "time x y z qw qx qy qz, without time" in told[0]
    first.write_text(f"{heading}\n{first.read_text()}")
    np.testing.assert_allclose(read_track(first, hfov_deg=70).cameras.c2w, poses, atol=1e-6)


def test_cameras_turned_over_that_go_forward_are_no_quaternions_of_another_order(tmp_path):
    """OpenCV cameras in a world of OpenGL's axes begin with a half turn about x."""
    poses = np.diag([1.0, -1.0, -1.0, 1.0]) @ _forward_walk()
    track = read_track(_tum(tmp_path / "gl.txt", poses, [0, 1, 2, 3]), hfov_deg=70)
    assert not [note for note in track.notes if "real part" in note]
    still = np.tile(poses[:1], (24, 1, 1))  # nothing says which it is
    track = read_track(_tum(tmp_path / "still.txt", still, [0, 1, 2, 3]), hfov_deg=70)
    assert [note for note in track.notes if "real part" in note]
