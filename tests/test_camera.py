"""The pose axioms: what must hold for every camera, whatever its origin."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from shapely.geometry import Point, Polygon

from context_as_memory.camera import Z_UP, Cameras, MotionSpeed, cameras_from_keys, ground_basis, look, pinhole, planar
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions, parse_actions
from context_as_memory.pictures.topdown import wedge_polygon
from reference_retrieval import frustum_planes
from tiny import transformed

K = pinhole(90, 160, 96)
SEEDS = st.integers(0, 2**32 - 1)

FIXED = settings(deadline=None, max_examples=30, derandomize=True)


def rigid_motion(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.random(rng=rng).as_matrix()
    motion[:3, 3] = rng.uniform(-50, 50, 3)
    return motion


def any_cameras(seed: int, count: int = 5) -> Cameras:
    """Any poses at all, with focal lengths and centres of their own."""
    rng = np.random.default_rng(seed)
    c2w = np.stack([rigid_motion(int(s)) for s in rng.integers(0, 2**32, count)])
    size = np.array([160, 96])
    intrinsics = np.concatenate([rng.uniform(40, 400, (count, 2)), size * rng.uniform(0.2, 0.8, (count, 2))], axis=1)
    return Cameras(c2w, intrinsics, 160, 96)


def standing_cameras(seed: int, count: int = 5) -> Cameras:
    """Upright cameras in a world with z up, tilted by less than 60 degrees."""
    rng = np.random.default_rng(seed)
    level = look(rng.uniform(-10, 10, (count, 3)), rng.uniform(-7, 7, count), K, 160, 96)
    tilt = np.tile(np.eye(4), (count, 1, 1))
    tilt[:, :3, :3] = Rotation.from_rotvec(rng.uniform(-1, 1, (count, 1)) * [1, 0, 0]).as_matrix()
    return Cameras(level.c2w @ tilt, K, 160, 96)


# --- Cameras ---


def test_look_axes_follow_the_convention():
    yaw = np.radians([0, 90, 180, 37])
    cameras = look([[0, 0, 0], [1, 2, 3], [4, 5, 6], [7, 8, 9]], yaw, K, 160, 96)
    np.testing.assert_allclose(cameras.forward, np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], 1), atol=1e-15)
    np.testing.assert_allclose(cameras.forward[1], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(cameras.right, np.stack([np.sin(yaw), -np.cos(yaw), 0 * yaw], 1), atol=1e-15)
    np.testing.assert_array_equal(cameras.down, [[0, 0, -1]] * 4)
    np.testing.assert_array_equal(cameras.position[1], [1, 2, 3])


def test_look_broadcasts_one_place_or_one_heading():
    assert len(look([0, 0, 0], 0.0, K, 160, 96)) == 1
    assert len(look([0, 0, 0], np.zeros(3), K, 160, 96)) == 3
    assert len(look(np.zeros((4, 3)), 0.5, K, 160, 96)) == 4
    assert len(look(np.zeros((0, 3)), 0.5, K, 160, 96)) == 0
    with pytest.raises(UserError, match="do not fit"):
        look(np.zeros((4, 3)), np.zeros(3), K, 160, 96)


@FIXED
@given(SEEDS)
def test_views_of_the_axes_agree_with_the_matrix(seed):
    cameras = any_cameras(seed)
    point = cameras.position + 2 * cameras.forward + 0.5 * cameras.right - 0.25 * cameras.down
    seen = np.einsum("nij,nj->ni", cameras.w2c, np.concatenate([point, np.ones((5, 1))], 1))
    np.testing.assert_allclose(seen, [[0.5, -0.25, 2, 1]] * 5, atol=1e-12)


@FIXED
@given(SEEDS, st.integers(1, 400), st.integers(1, 400))
def test_resizing_keeps_every_ray_on_its_scene_point(seed, width, height):
    cameras = any_cameras(seed, 1)
    small = cameras.resized(width, height)
    scale = max(width / 160, height / 96)
    for pixel in ([80.0, 48.0], [13.0, 77.0]):
        centre_offset = np.array(pixel) - [80, 48]
        moved = np.array([width / 2, height / 2]) + scale * centre_offset
        ray = (np.array(pixel) - cameras.K[0, 2:]) / cameras.K[0, :2]
        np.testing.assert_allclose((moved - small.K[0, 2:]) / small.K[0, :2], ray, atol=1e-9)
    assert (small.width, small.height) == (width, height)


def test_resized_covers_then_crops():
    wide = look([0, 0, 0], 0, pinhole(90, 200, 100), 200, 100).resized(50, 50)
    np.testing.assert_allclose(wide.K, [[50, 50, 25, 25]])  # scaled by one half, 25 columns cut off each side
    np.testing.assert_allclose(wide.hfov_rad, 2 * np.arctan(0.5))


def test_fields_of_view_and_normalised_intrinsics():
    cameras = look([0, 0, 0], 0, pinhole(52.67, 640, 360), 640, 360)
    np.testing.assert_allclose(np.degrees(cameras.hfov_rad), 52.67)
    wide = 1 / cameras.half_width_tan[0]
    np.testing.assert_allclose(cameras.normalized_K(), [[wide, wide * 640 / 360, 0, 0]], atol=1e-12)
    corner = Cameras(np.eye(4)[None], np.array([100.0, 50, 0, 360]), 640, 360)
    np.testing.assert_allclose(corner.normalized_K()[0, 2:], [-1, 1])


def test_selecting_and_joining():
    cameras = any_cameras(3, 6)
    for index, expected in ((2, [2]), (-1, [5]), (slice(1, 4), [1, 2, 3]), (np.array([4, 0]), [4, 0]), ([], [])):
        np.testing.assert_array_equal(cameras[index].c2w, cameras.c2w[np.array(expected, int)])
        np.testing.assert_array_equal(cameras[index].K, cameras.K[np.array(expected, int)])
    assert len(cameras[np.array([True, False, True, False, False, True])]) == 3
    assert [len(one) for one in cameras] == [1] * 6
    np.testing.assert_array_equal(Cameras.concat([cameras[:2], cameras[2:2], cameras[2:]]).c2w, cameras.c2w)
    with pytest.raises(IndexError):
        cameras[6]
    with pytest.raises(UserError, match="part 1 is 80x48 but part 0 is 160x96"):
        Cameras.concat([cameras, cameras.resized(80, 48)])
    with pytest.raises(UserError, match="at least one"):
        Cameras.concat([])


def test_one_K_serves_all():
    assert look(np.zeros((7, 3)), 0, K, 160, 96).K.shape == (7, 4)


def spoil(change) -> None:
    """Build ten good cameras after `change(c2w, K)` has spoiled some."""
    cameras = any_cameras(11, 10)
    c2w, intrinsics = cameras.c2w.copy(), cameras.K.copy()
    change(c2w, intrinsics)
    Cameras(c2w, intrinsics, 160, 96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, k: c.__setitem__((slice(6, None), 1, 3), np.nan), "camera 6 has a pose that is not finite"),
        (lambda c, k: c.__setitem__((4, 0, 3), np.inf), "camera 4 has a pose that is not finite"),
        (lambda c, k: c.__setitem__((4, 1, 3), -1e300), "camera 4 is further than 1e[+]09 m away"),
        (lambda c, k: c[7, :3, :3].__imul__(1.01), "camera 7 has a rotation that is not orthonormal"),
        (lambda c, k: c[3, :3, :3].__imul__(1e200), "camera 3 has a rotation that is not orthonormal"),
        (lambda c, k: c[2, :3, 0].__imul__(-1), "camera 2 has a rotation that mirrors"),
        (lambda c, k: c.__setitem__((5, 3), [0, 0, 1, 1]), "camera 5 has a bottom row"),
        (lambda c, k: k.__setitem__((8, 0), 0), "camera 8 has a focal length that is not positive"),
        (lambda c, k: k.__setitem__((9, 2), np.nan), "camera 9 has intrinsics that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_validation_names_the_first_bad_camera(change, message):
    with pytest.raises(UserError, match=message):
        spoil(change)


def test_validation_of_shapes_and_sizes():
    eye = np.eye(4)[None]
    for c2w, intrinsics, width, height, message in (
        (np.eye(4), K, 160, 96, r"poses have shape \[4, 4\]"),
        (eye[:, :3], K, 160, 96, r"poses have shape \[1, 3, 4\]"),
        (eye, np.zeros((2, 4)), 160, 96, r"intrinsics have shape \[2, 4\] for 1 poses"),
        (eye, K[:3], 160, 96, r"intrinsics have shape \[3\]"),
        (eye, K, 0, 96, "0x96 pixels"),
        (eye, K, 160.5, 96, "160.5x96 pixels"),
        (eye.astype(str), K, 160, 96, "not an array of real numbers"),
    ):
        with pytest.raises(UserError, match=message):
            Cameras(c2w, intrinsics, width, height)
    nearly = eye.copy()
    nearly[0, 0, 0] += 4e-5  # rounding of a float32 or text file is forgiven
    Cameras(nearly, K, 160, 96)
    for fov in (0, 180, -5, float("nan")):
        with pytest.raises(UserError, match="field of view"):
            pinhole(fov, 160, 96)


# --- what a camera sees ---


@FIXED
@given(SEEDS, SEEDS)
def test_ground_views_do_not_depend_on_the_choice_of_world(seed, motion_seed):
    cameras, motion = standing_cameras(seed), rigid_motion(motion_seed)
    moved = transformed(cameras, motion)
    basis = ground_basis(cameras)
    np.testing.assert_allclose(ground_basis(moved), basis @ motion[:3, :3].T, atol=1e-9)
    before, after = planar(cameras, basis), planar(moved, ground_basis(moved))
    np.testing.assert_allclose(after.heading, before.heading, atol=1e-9)
    # Only the origin of the plane may shift, and by the same amount for all.
    np.testing.assert_allclose(after.origin - after.origin[0], before.origin - before.origin[0], atol=1e-9)
    shift = after.origin[0] - before.origin[0]
    np.testing.assert_allclose(wedge_polygon(after, 0.1, 15), wedge_polygon(before, 0.1, 15) + shift, atol=1e-9)


@FIXED
@given(SEEDS)
def test_ground_basis_is_orthonormal_and_faces_up(seed):
    for cameras in (standing_cameras(seed), any_cameras(seed), any_cameras(seed, 1)):
        basis = ground_basis(cameras)
        np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(basis @ cameras.down.mean(0), 0, atol=1e-9)
        assert np.cross(*basis) @ -cameras.down.mean(0) > 0


def test_ground_basis_of_awkward_batches():
    upright = look([0, 0, 0], 0.0, K, 160, 96)
    roll = np.eye(4)
    roll[:3, :3] = Rotation.from_euler("z", np.pi).as_matrix()
    mixed = Cameras.concat([upright, Cameras(upright.c2w @ roll, K, 160, 96)])  # ups that cancel
    np.testing.assert_allclose(ground_basis(mixed), ground_basis(upright), atol=1e-12)
    with pytest.raises(UserError, match="no cameras"):
        ground_basis(upright[:0])


def test_level_cameras_project_to_their_yaw():
    yaw = np.array([0.3, 2.0, -1.0])
    views = planar(look(np.arange(9).reshape(3, 3), yaw, K, 160, 96), np.eye(2, 3))
    np.testing.assert_allclose(views.heading, np.stack([np.cos(yaw), np.sin(yaw)], 1), atol=1e-12)
    np.testing.assert_array_equal(views.origin, [[0, 1], [3, 4], [6, 7]])
    np.testing.assert_allclose(views.half_width_tan, 1)


@pytest.mark.parametrize("tilt_deg", [90, -90, 89.9999])
def test_a_vertical_camera_keeps_the_heading_it_tilted_from(tilt_deg):
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    camera = Cameras(look([0, 0, 0], 0.7, K, 160, 96).c2w @ tilt, K, 160, 96)
    np.testing.assert_allclose(planar(camera, np.eye(2, 3)).heading, [[np.cos(0.7), np.sin(0.7)]], atol=1e-9)


@FIXED
@given(SEEDS, st.floats(0.01, 1), st.floats(1.5, 30))
def test_wedge_is_the_set_it_says(seed, near_m, far_m):
    cameras = standing_cameras(seed, 3)
    views = planar(cameras, ground_basis(cameras))
    rng = np.random.default_rng(seed)
    for i, corners in enumerate(wedge_polygon(views, near_m, far_m)):
        polygon = Polygon(corners)
        assert polygon.exterior.is_ccw and polygon.is_valid
        k = views.half_width_tan[i]
        np.testing.assert_allclose(polygon.area, k * (far_m**2 - near_m**2), rtol=1e-9)
        for point in views.origin[i] + rng.uniform(-2 * far_m, 2 * far_m, (20, 2)):
            depth = (point - views.origin[i]) @ views.heading[i]
            across = np.cross([*views.heading[i], 0], [*(point - views.origin[i]), 0])[2]
            assert polygon.contains(Point(point)) == (near_m < depth < far_m and abs(across) < k * depth)


@FIXED
@given(SEEDS)
def test_frustum_planes_agree_with_projection(seed):
    """The slow obvious reference: project the point and see whether it falls into the picture."""
    cameras = any_cameras(seed, 1)
    rng = np.random.default_rng(seed)
    local = rng.uniform([-15, -15, -5], [15, 15, 25], (200, 3))
    points = local @ cameras.c2w[0, :3, :3].T + cameras.position
    fx, fy, cx, cy = cameras.K[0]
    with np.errstate(all="ignore"):
        u, v = fx * local[:, 0] / local[:, 2] + cx, fy * local[:, 1] / local[:, 2] + cy
    seen = (local[:, 2] > 0.5) & (local[:, 2] < 20) & (u > 0) & (u < 160) & (v > 0) & (v < 96)
    planes = frustum_planes(cameras, 0.5, 20)[0]
    np.testing.assert_array_equal((points @ planes[:, :3].T + planes[:, 3] > 0).all(1), seen)


@pytest.mark.parametrize(("near_m", "far_m"), [(1, 1), (2, 1), (-1, 5), (0, np.inf), (np.nan, 1)])
def test_impossible_depth_ranges_are_refused(near_m, far_m):
    cameras = any_cameras(0)
    with pytest.raises(UserError, match="near"):
        wedge_polygon(planar(cameras, np.eye(2, 3)), near_m, far_m)


# --- actions ---


def test_actions_are_read():
    assert parse_actions("w-40,jw-40,none-8") == [("w", 40), ("jw", 40), ("none", 8)]
    assert parse_actions(" W - 3 ,\n ddI-2\uff0cNone-1 ") == [("w", 3), ("di", 2), ("none", 1)]


@FIXED
@given(st.lists(st.tuples(st.sampled_from(["w", "sd", "ijkl", "none", "al"]), st.integers(1, 999)), min_size=1))
def test_actions_round_trip(steps):
    assert parse_actions(",".join(f"{keys}-{frames}" for keys, frames in steps)) == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "action 1 '' is not of the form"),
        ("w-4,", "action 2 '' is not of the form"),
        ("w-4,,s-4", "action 2 '' is not of the form"),
        ("w-4,s", "action 2 's' is not of the form"),
        ("w-4,s-", "action 2 's-' is not of the form"),
        ("w-4,s-x", "action 2 's-x' is not of the form"),
        ("w-1.5", "action 1 'w-1.5' is not of the form"),
        ("w-²", "action 1 'w-²' is not of the form"),
        ("w-4,-4", "action 2 '-4' names no keys"),
        ("w--4", "action 1 'w--4' has unknown keys '-'"),
        ("w-4,wxq-4", "action 2 'wxq-4' has unknown keys 'qx'"),
        ("nonew-4", "action 1 'nonew-4' has unknown keys 'eno'"),
        ("w-0", "action 1 'w-0' lasts no frames"),
        ("w-9,s-" + "9" * 5000, "action 2 .* passes 1,000,000 frames"),
        ("w-600000,s-600000", "action 2 's-600000' passes"),
    ],
)
def test_malformed_actions_point_at_the_bad_item(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_actions(text)
    assert len(str(caught.value)) < 200


@FIXED
@given(st.text(alphabet="wasdijklnoe-,0123 x", max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        steps = parse_actions(text)
    except UserError:
        return
    assert steps and all(frames > 0 and (keys == "none" or set(keys) <= set("wasdijkl")) for keys, frames in steps)


@pytest.mark.parametrize(
    ("text", "step", "turn_deg", "tilt_deg"),
    [
        ("w-2", (2, 0, 0), 0, 0),
        ("s-2", (-2, 0, 0), 0, 0),
        ("a-2", (0, 2, 0), 0, 0),
        ("d-2", (0, -2, 0), 0, 0),
        ("wd-2", (2, -2, 0), 0, 0),
        ("ws-2", (0, 0, 0), 0, 0),
        ("j-2", (0, 0, 0), 20, 0),
        ("l-2", (0, 0, 0), -20, 0),
        ("i-2", (0, 0, 0), 0, 20),
        ("k-2", (0, 0, 0), 0, -20),
        ("none-2", (0, 0, 0), 0, 0),
        ("i-2,w-2", (2, 0, 0), 0, 20),  # moves stay level while the camera looks up
        ("j-9,w-1", (0, 1, 0), 90, 0),
    ],
)
def test_keys_do_what_they_say(text, step, turn_deg, tilt_deg):
    path = cameras_from_actions(look([5, 6, 7], 0, K, 160, 96), text, MotionSpeed(1.0, np.radians(10)))
    assert len(path) == sum(frames for _, frames in parse_actions(text))
    np.testing.assert_allclose(path.position[-1], np.array([5, 6, 7]) + step, atol=1e-12)
    turn, tilt = np.radians([turn_deg, tilt_deg])
    expected = [np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)]
    np.testing.assert_allclose(path.forward[-1], expected, atol=1e-12)
    np.testing.assert_allclose(path.right[:, 2], 0, atol=1e-12)


def test_a_set_of_keys_for_each_frame_is_the_same_path_as_its_text():
    start = look([1, 2, 1.5], 0.4, K, 160, 96)
    keys = [frozenset("wj")] * 3 + [frozenset()] * 2 + [frozenset("dki")] + [{"l"}] * 4
    path = cameras_from_keys(start, keys, up=Z_UP)
    assert (path.c2w == cameras_from_actions(start, "wj-3,none-2,dik-1,l-4", up=Z_UP).c2w).all()
    assert len(cameras_from_keys(start, [])) == 0


def test_action_path_excludes_the_start_and_keeps_its_intrinsics():
    start = look([0, 0, 0], 0.4, K, 160, 96)
    path = cameras_from_actions(start, "w-3")
    np.testing.assert_allclose(np.linalg.norm(path.position, axis=1), [0.15, 0.30, 0.45])
    np.testing.assert_array_equal(path.K, np.tile(K, (3, 1)))
    with pytest.raises(UserError, match="3 start cameras"):
        cameras_from_actions(path, "w-3")
    with pytest.raises(UserError, match="speed"):
        MotionSpeed(move_m=float("nan"))
    for up in ([0, 0, 0], [0, 1], [0, 0, np.nan]):
        with pytest.raises(UserError, match="up is"):
            cameras_from_actions(start, "w-3", up=up)


@pytest.mark.parametrize("text", ["w-40,s-40", "j-25,l-25", "a-7,d-7", "i-20,k-20", "j-120", "jw-30,ls-30", "jw-120"])
@given(seed=SEEDS)
@settings(FIXED, max_examples=5)
def test_what_is_undone_returns(text, seed):
    start = any_cameras(seed, 1)
    np.testing.assert_allclose(cameras_from_actions(start, text).c2w[-1], start.c2w[0], atol=1e-10)


KEYS = st.sampled_from(["w", "s", "a", "d", "j", "l", "wj", "sl", "none", "i", "ka"])
OPPOSITE = str.maketrans("wsadjlik", "swdaljki")


@FIXED
@given(st.lists(st.tuples(KEYS, st.integers(1, 9)), min_size=1, max_size=3), SEEDS)
def test_retracing_backwards_returns(steps, seed):
    there = ",".join(f"{keys}-{n}" for keys, n in steps)
    back = ",".join(f"{keys if keys == 'none' else keys.translate(OPPOSITE)}-{n}" for keys, n in reversed(steps))
    start = look(np.random.default_rng(seed).uniform(-9, 9, 3), seed % 7, K, 160, 96)
    path = cameras_from_actions(start, f"{there},{back}")
    np.testing.assert_allclose(path.c2w[-1], start.c2w[0], atol=1e-10)
    half = len(path) // 2
    np.testing.assert_allclose(path.c2w[half:-1], path.c2w[: half - 1][::-1], atol=1e-10)


@FIXED
@given(SEEDS, SEEDS)
def test_action_paths_move_with_the_world(seed, motion_seed):
    start, motion = any_cameras(seed, 1), rigid_motion(motion_seed)
    text = "jw-9,i-12,da-2,kd-30,lsi-7"
    path = cameras_from_actions(start, text)
    np.testing.assert_allclose(
        cameras_from_actions(transformed(start, motion), text).c2w, transformed(path, motion).c2w, atol=1e-9
    )


@pytest.mark.parametrize(("key", "sign"), [("i", 1), ("k", -1)])
def test_tilt_stops_at_85_degrees(key, sign):
    path = cameras_from_actions(look([0, 0, 0], 1, K, 160, 96), f"{key}-50")
    pitch = np.degrees(np.arcsin(path.forward[:, 2]))
    np.testing.assert_allclose(pitch[:28], sign * 3.0 * np.arange(1, 29), atol=1e-9)
    np.testing.assert_allclose(pitch[28:], sign * 85, atol=1e-9)


def test_a_string_can_be_continued_when_the_vertical_is_known():
    start = look([1, 2, 3], 1, K, 160, 96)
    whole = cameras_from_actions(start, "wi-20,jw-15,i-20,w-4")
    parts = cameras_from_actions(start, "wi-20", up=Z_UP)
    for text in ("jw-15", "i-20", "w-4"):
        parts = Cameras.concat([parts, cameras_from_actions(parts[-1], text, up=Z_UP)])
    np.testing.assert_allclose(parts.c2w, whole.c2w, atol=1e-12)


@pytest.mark.parametrize(("sign", "onward", "back"), [(1, "i", "k"), (-1, "k", "i")])
def test_a_start_beyond_the_limit_does_not_jump(sign, onward, back):
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("x", sign * 89, degrees=True).as_matrix()
    start = Cameras(look([0, 0, 0], 0, K, 160, 96).c2w @ tilt, K, 160, 96)
    path = cameras_from_actions(start, f"none-1,{onward}-1,{back}-1", up=Z_UP)
    np.testing.assert_allclose(np.degrees(np.arcsin(path.forward[:, 2])), sign * np.array([89, 89, 86]), atol=1e-5)


def test_cameras_need_only_numpy():
    code = (
        "import sys, context_as_memory.camera; print({'torch', 'scipy', 'diffusers', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert run.stdout.strip() == "set()", run.stderr
