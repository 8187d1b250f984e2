"""Voxel renderer: depth against boxes intersected one by one, pictures against slow shading, and the same bytes."""

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.voxel.light import bake_light
from context_as_memory.data.voxel.rays import BEND, BRIGHTEST, SPREAD
from context_as_memory.data.voxel.render import VoxelGpuRenderer, VoxelRenderer
from context_as_memory.data.voxel.scene import (
    AMBIENT_STRENGTH,
    LAMP_BY_FACE,
    LAMP_STRENGTH,
    OCCLUSION,
    SKY_BY_FACE,
    SUN_STRENGTH,
)
from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, SEE_THROUGH, Sky, VoxelWorld
from context_as_memory.errors import UserError

pytest.importorskip("numba")

AIR, STONE, BRICK, TABLE, WATER, PANE, LAMP, STAIR = range(8)
KINDS = np.array([EMPTY, CUBE, CUBE, BOXES, SEE_THROUGH, SEE_THROUGH, CUBE, BOXES], np.uint8)
BOX_LIST = np.array(
    [
        (0, 0, 0.75, 1, 1, 1), (0.125, 0.125, 0, 0.25, 0.25, 0.75),  # table: its top and one leg
        (0, 0, 0, 1, 1, 0.875),  # water
        (0.375, 0, 0, 0.625, 1, 1),  # pane across x
        (0, 0, 0, 1, 1, 0.5), (0.5, 0, 0.5, 1, 1, 1),  # stair
    ]
)  # fmt: skip
BOX_RANGE = np.array([(0, 0), (0, 0), (0, 0), (0, 2), (2, 3), (3, 4), (0, 0), (4, 6)], np.int32)
PICTURE_SHA256 = "097c2e457febcadeb99851ca95700c8386d130cf3334a328fa1163b3b478453e"


def textures() -> np.ndarray:
    """Three textures of noise with their smaller levels."""
    level = np.random.default_rng(7).integers(40, 256, (3, 16, 16, 3)).astype(np.float64)
    out = np.zeros((3, 5, 16, 16, 3), np.uint8)
    for number in range(5):
        side = 16 >> number
        out[:, number, :side, :side] = np.round(level)
        level = level.reshape(3, max(side // 2, 1), min(side, 2), max(side // 2, 1), min(side, 2), 3).mean((2, 4))
    return out


def world_of(blocks: np.ndarray, light: np.ndarray | None = None, **sky: object) -> VoxelWorld:
    if light is None:
        light = np.random.default_rng(3).integers(0, 256, (*blocks.shape, 3)).astype(np.uint8)
        light[KINDS[blocks] == CUBE] = 0
    return VoxelWorld(
        name="tiny-0",
        blocks=blocks.astype(np.uint8),
        kinds=KINDS,
        faces=np.array([[k % 3, (k + 1) % 3, k % 3, (k + 2) % 3, k % 3, (k + 1) % 3] for k in range(8)], np.int16),
        boxes=BOX_LIST,
        box_range=BOX_RANGE,
        through=np.array([0, 0, 0, 0, 0.5, 0.75, 0, 0]),
        glow=np.array([0, 0, 0, 0, 0, 0, 0.75, 0]),
        walkable=np.zeros(8, bool),
        textures=textures(),
        light=light,
        sky=Sky(**sky),  # type: ignore[arg-type]
    )


def jumble(seed: int = 0, share: float = 0.12) -> np.ndarray:
    """Blocks of all kinds thrown into a box of 12 x 10 x 8 cells, with water beside water."""
    rng = np.random.default_rng(seed)
    blocks = np.where(rng.random((12, 10, 8)) < share, rng.integers(1, 8, (12, 10, 8)), 0)
    blocks[3:6, 2:5, 1] = WATER
    return blocks


def turned(position: object, yaw: float, pitch: float, roll: float, K: np.ndarray, width: int, height: int) -> Cameras:
    """One camera of any attitude."""
    level = look(np.asarray(position, float), yaw, K, width, height).c2w[0].copy()
    cos, sin = math.cos(pitch), math.sin(pitch)
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    cos, sin = math.cos(roll), math.sin(roll)
    level[:3, :3] = level[:3, :3] @ tilt @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return Cameras(level[None], K, width, height)


# --- The slow reference: every box of the world against every ray ------------------------------------


def all_boxes(world: VoxelWorld) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [B, 6] of the whole world in metres, their cells [B, 3] and kinds [B]."""
    boxes, cells, kinds = [], [], []
    for cell in np.argwhere(world.blocks):
        kind = int(world.blocks[tuple(cell)])
        shapes = [(0, 0, 0, 1, 1, 1)] if KINDS[kind] == CUBE else BOX_LIST[slice(*BOX_RANGE[kind])]
        for shape in shapes:
            boxes.append(np.concatenate([cell + np.array(shape[:3]), cell + np.array(shape[3:])]))
            cells.append(cell)
            kinds.append(kind)
    return np.array(boxes, float).reshape(-1, 6), np.array(cells).reshape(-1, 3), np.array(kinds, int)


def hits_of(world: VoxelWorld, origin: np.ndarray, direction: np.ndarray) -> list[tuple[float, int, int, np.ndarray]]:
    """All faces that one ray meets from their front, nearest first, up to the first solid one: t, face, kind, cell."""
    boxes, cells, kinds = all_boxes_cached(world)
    if not len(boxes):
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (boxes[:, :3] - origin) / direction, (boxes[:, 3:] - origin) / direction
    near, far = np.minimum(low, high), np.maximum(low, high)
    enter, leave, axis = near.max(1), far.min(1), near.argmax(1)
    found = []
    for index in np.argsort(enter):
        if not 0 < enter[index] <= leave[index]:
            continue
        kind, cell = int(kinds[index]), cells[index]
        face = 2 * int(axis[index]) + (0 if direction[axis[index]] > 0 else 1)
        if KINDS[kind] == SEE_THROUGH:
            side = boxes[index, face // 2 + 3 * (face % 2)]
            neighbour = cell.copy()
            neighbour[face // 2] += 1 if face % 2 else -1
            inside = ((neighbour >= 0) & (neighbour < world.blocks.shape)).all()
            on_border = side == cell[face // 2] + face % 2
            if on_border and inside and world.blocks[tuple(neighbour)] == kind:
                continue
        found.append((float(enter[index]), face, kind, cell))
        if KINDS[kind] != SEE_THROUGH or len(found) == 5:
            break
    return found


_BOXES: dict[int, tuple[VoxelWorld, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}


def all_boxes_cached(world: VoxelWorld) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if id(world) not in _BOXES:
        _BOXES[id(world)] = (world, all_boxes(world))
    return _BOXES[id(world)][1]


def slow_depth(world: VoxelWorld, cameras: Cameras) -> np.ndarray:
    out = np.full((len(cameras), cameras.height, cameras.width), np.inf)
    for n in range(len(cameras)):
        fx, fy, cx, cy = cameras.K[n]
        for row in range(cameras.height):
            for column in range(cameras.width):
                ray = cameras.c2w[n, :3, :3] @ [(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0]
                hits = hits_of(world, cameras.position[n], ray)
                if hits and (KINDS[hits[-1][2]] != SEE_THROUGH or len(hits) == 5):
                    out[n, row, column] = hits[-1][0]
    return out


def slow_light(world: VoxelWorld, cell: np.ndarray, face: int, place: np.ndarray) -> tuple[np.ndarray, float]:
    """Sun, sky and lamp light [3] and openness at a place of a face, from the 4 cells at each of its 4 corners."""
    axis = face // 2
    layer = cell.copy()
    if abs(place[axis] - face % 2) < 1e-9:
        layer[axis] += 1 if face % 2 else -1
    p, q = (a for a in range(3) if a != axis)
    light, open_ = np.zeros(3), 0.0
    for i in (0, 1):
        for j in (0, 1):
            share = (place[p] if i else 1 - place[p]) * (place[q] if j else 1 - place[q])
            total, weights, full = np.zeros(3), 0.0, 0.0
            for di in (i - 1, i):
                for dj in (j - 1, j):
                    other = layer.copy()
                    other[p], other[q] = other[p] + di, other[q] + dj
                    inside = ((other >= 0) & (other < world.blocks.shape)).all()
                    kind = int(world.blocks[tuple(other)]) if inside else AIR
                    volume = {AIR: 0, WATER: 0, PANE: 0, TABLE: 0.25 + 0.75 / 64, STAIR: 0.75}.get(kind, 1.0)
                    value = world.light[tuple(other)] if inside else np.array([255, 255, 0])
                    weight = 0.0 if volume == 1 else 1 / 64 if volume >= 0.45 else 1.0
                    total, weights = total + weight * value, weights + weight
                    full += 1.0 if volume == 1 else volume**2
            if weights:
                light += share * total / weights
            open_ += share * float(np.interp(full, range(5), OCCLUSION))
    return light / 255, open_


def slow_color(world: VoxelWorld, origin: np.ndarray, ray: np.ndarray, sample_width: float) -> np.ndarray:
    sky, length = world.sky, float(np.linalg.norm(ray))
    zenith, horizon, sun = (np.array(c) for c in (sky.zenith, sky.horizon, sky.sun))
    color, left = np.zeros(3), 1.0
    hits = hits_of(world, origin, ray)
    for layer, (t, face, kind, cell) in enumerate(hits):
        place = origin + t * ray - cell
        x, y, z = place
        u, v = [(1 - y, 1 - z), (y, 1 - z), (x, 1 - z), (1 - x, 1 - z), (x, y), (x, 1 - y)][face]
        slant = max(abs(ray[face // 2]) / length, 0.02)
        footprint = 16 * t * sample_width / slant**0.5 / SPREAD
        level = min(max(int(math.floor(math.log2(footprint))), 0), 4)
        mix = min(max(footprint / 2**level - 1, 0), 1) if level < 4 else 0.0
        texture = world.textures[world.faces[kind, face]].astype(float)
        texels = []
        for number in (level, min(level + 1, 4)):
            side = 16 >> number
            texels.append(texture[number, min(int(v * side), side - 1), min(int(u * side), side - 1)])
        texel = (texels[0] * (1 - mix) + texels[1] * mix) / 255
        light, open_ = slow_light(world, cell, face, place)
        normal = np.zeros(3)
        normal[face // 2] = 1 if face % 2 else -1
        lit = SUN_STRENGTH * max(normal @ np.array(sky.sun_direction), 0) * light[0] * sun
        lit = lit + AMBIENT_STRENGTH * SKY_BY_FACE[face] * light[1] * np.array(sky.ambient)
        lit = lit + LAMP_STRENGTH * LAMP_BY_FACE[face] * light[2] * np.array(sky.lamp)
        lit = open_ * (lit + LAMP_BY_FACE[face] * sky.dark)
        over = np.maximum(lit - BEND, 0)
        lit = np.minimum(lit, BEND) + over * (BRIGHTEST - BEND) / (over + BRIGHTEST - BEND)
        shown = np.minimum(texel * (lit + world.glow[kind]), 1)
        clear = (1 + (t * length / sky.haze_m) ** 2 / 16) ** -16
        weight = left * (1 - world.through[kind]) if KINDS[kind] == SEE_THROUGH and layer < 4 else left
        color = color + weight * (horizon + (shown - horizon) * clear)
        left -= weight
    up = max(ray[2] / length, 0)
    behind = horizon + (zenith - horizon) * (1 - (1 - up) ** 3)
    near = float(ray @ np.array(sky.sun_direction)) / length
    if near > 0.9:
        halo = 0.25 * ((near - 0.9) * 10) ** 3 + max(near - 0.9975, 0) * 1500
        behind = behind + (sun * [1, 1, 0.96] - behind) * min(halo, 1)
    return color + left * behind


def slow_picture(world: VoxelWorld, cameras: Cameras) -> np.ndarray:
    out = np.zeros((cameras.height, cameras.width, 3))
    fx, fy, cx, cy = cameras.K[0]
    for row in range(cameras.height):
        for column in range(cameras.width):
            for dy in (0.25, 0.75):
                for dx in (0.25, 0.75):
                    ray = cameras.c2w[0, :3, :3] @ [(column + dx - cx) / fx, (row + dy - cy) / fy, 1.0]
                    out[row, column] += slow_color(world, cameras.position[0], ray, 0.5 / (fx * fy) ** 0.5) / 4
    return 255 * out


# --- Depth --------------------------------------------------------------------------------------


def test_depth_of_one_wall_is_its_distance_in_every_pixel() -> None:
    blocks = np.zeros((20, 30, 30), np.uint8)
    blocks[15] = STONE
    cameras = look([3.25, 15.0, 15.0], 0.0, pinhole(60, 24, 16), 24, 16)
    depth = VoxelRenderer(world_of(blocks), 1).depth(cameras)
    assert depth.dtype == np.float32 and depth.shape == (1, 16, 24)
    np.testing.assert_allclose(depth, 11.75, rtol=1e-7)


def test_depth_of_a_box_inside_a_cell() -> None:
    blocks = np.zeros((9, 9, 9), np.uint8)
    blocks[4, 4, 4] = TABLE
    straight_down = turned([4.5, 4.5, 8.0], 0.0, -math.pi / 2, 0.0, pinhole(20, 8, 8), 8, 8)
    renderer = VoxelRenderer(world_of(blocks), 1)
    depth = renderer.depth(straight_down)[0]
    below = renderer.depth(turned([4.5, 4.5, 1.0], 0.0, math.pi / 2, 0.0, pinhole(10, 8, 8), 8, 8))[0]
    assert depth[4, 4] == 3.0 and below[4, 4] == 3.75  # the top; the lower side of the top, a quarter metre thick


EVERYWHERE = st.tuples(st.floats(-3, 15), st.floats(-3, 13), st.floats(-3, 11))


@settings(max_examples=30, deadline=None)
@given(
    EVERYWHERE, st.floats(-3.2, 3.2), st.floats(-1.6, 1.6), st.floats(-3.2, 3.2), st.floats(2, 40), st.integers(0, 3)
)
def test_depth_equals_every_box_against_every_ray(place, yaw, pitch, roll, focal, seed) -> None:
    """Any pose, also outside the world and inside blocks, any lens. Rays along edges may fall to either side."""
    world = world_of(jumble(seed))
    K = np.array([focal, 1.3 * focal, 3.1, 2.3])
    cameras = turned(place, yaw, pitch, roll, K, 7, 5)
    fast, slow = VoxelRenderer(world, 1).depth(cameras), slow_depth(world, cameras)
    differs = ~np.isclose(fast, slow, rtol=1e-5)
    assert differs.sum() <= (2 if any(float(4 * p).is_integer() for p in place) or yaw == 0 or roll == 0 else 0)


def test_large_empty_spaces_are_crossed_exactly() -> None:
    """Jumps over empty space end where single steps would."""
    blocks = np.zeros((60, 50, 40), np.uint8)
    rng = np.random.default_rng(2)
    blocks[tuple(rng.integers(0, (60, 50, 40), (60, 3)).T)] = rng.integers(1, 8, 60)
    world = world_of(blocks)
    for number in range(6):
        place = rng.uniform(0, (60, 50, 40))
        yaw, pitch, roll = rng.uniform(-3, 3, 3)
        cameras = turned(place, yaw, pitch, roll, pinhole(80, 20, 12), 20, 12)
        np.testing.assert_allclose(
            VoxelRenderer(world, 1).depth(cameras), slow_depth(world, cameras), rtol=1e-6, err_msg=str(number)
        )


def test_four_see_through_faces_are_passed_and_the_fifth_is_solid() -> None:
    blocks = np.zeros((16, 3, 3), np.uint8)
    blocks[2:14:2] = PANE
    cameras = look([0.5, 1.5, 1.5], 0.0, pinhole(10, 4, 4), 4, 4)
    np.testing.assert_allclose(VoxelRenderer(world_of(blocks), 1).depth(cameras), 10.375 - 0.5)
    blocks[8:] = 0
    blocks[15] = STONE
    np.testing.assert_allclose(VoxelRenderer(world_of(blocks), 1).depth(cameras), 14.5)


def test_water_beside_water_has_no_face_between() -> None:
    """A metre of water looks like ten metres: its colour is mixed in once."""
    light = np.full((20, 5, 5, 3), 255, np.uint8)
    pictures = []
    for length in (1, 10):
        blocks = np.zeros((20, 5, 5), np.uint8)
        blocks[4 : 4 + length, :, 2] = WATER
        cameras = look([1.0, 2.5, 2.4], 0.0, pinhole(10, 6, 4), 6, 4)
        pictures.append(VoxelRenderer(world_of(blocks, light, haze_m=1e6), 1).render(cameras))
    np.testing.assert_array_equal(pictures[0], pictures[1])


# --- Pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pictures_equal_slow_shading(seed: int) -> None:
    """All that a pixel shows but clouds: textures and levels, light at corners, sun, layers, haze and sky."""
    world = world_of(jumble(seed), haze_m=30.0, clouds=0.0)
    rng = np.random.default_rng(seed)
    toward_sun = turned([6.2, 5.1, 4.3], 0.64, 0.9, 0.2, pinhole(80, 12, 8), 12, 8)
    place = rng.uniform((0, 0, 2), (12, 10, 8))
    yaw, pitch, roll = rng.uniform(-1, 1, 3)
    anywhere = turned(place, yaw, pitch, roll, pinhole(75, 12, 8), 12, 8)
    far = turned([-14.0, 5.2, 9.0], 0.0, -0.25, 0.1, pinhole(40, 12, 8), 12, 8)
    for cameras in (toward_sun, anywhere, far):
        fast, slow = VoxelRenderer(world, 1).render(cameras)[0], slow_picture(world, cameras)
        assert np.abs(fast - slow).max() <= 1.5  # light and occlusion at corners are stored in 255 steps


@settings(max_examples=20, deadline=None)
@given(EVERYWHERE, st.floats(-3, 3), st.floats(-1.5, 1.5), st.integers(0, 20), st.integers(0, 12))
def test_a_crop_off_the_centre_equals_that_part_of_the_whole(place, yaw, pitch, left, top) -> None:
    renderer = VoxelRenderer(world_of(jumble(1)), 1)
    K = np.array([16.0, 16.0, 16.0, 10.0])
    whole = renderer.render(turned(place, yaw, pitch, 0.3, K, 32, 20))[0]
    crop = renderer.render(turned(place, yaw, pitch, 0.3, K - [0, 0, left, top], 12, 8))[0]
    np.testing.assert_array_equal(crop, whole[top : top + 8, left : left + 12])


def many_cameras(count: int) -> Cameras:
    rng = np.random.default_rng(4)

    def one() -> Cameras:
        place = rng.uniform((0, 0, 0), (12, 10, 8))
        yaw, pitch, roll = rng.uniform(-1, 1, 3)
        return turned(place, yaw, pitch, roll, pinhole(90, 40, 24), 40, 24)

    return Cameras.concat([one() for _ in range(count)])


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_the_number_of_threads_changes_nothing(count: int) -> None:
    cameras, world = many_cameras(9)[:count], world_of(jumble(2))
    for paint in ("render", "depth"):
        one, three = (getattr(VoxelRenderer(world, threads), paint)(cameras) for threads in (1, 3))
        np.testing.assert_array_equal(one, three)


def test_inside_solid_blocks_and_in_an_empty_world_a_picture_ends() -> None:
    solid, empty = np.full((6, 6, 6), STONE), np.zeros((6, 6, 6), int)
    for blocks in (solid, empty):
        renderer = VoxelRenderer(world_of(blocks), 1)
        for place in ([3.5, 3.5, 3.5], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0], [-5.0, 3.0, 50.0]):
            assert renderer.render(look(place, 0.0, pinhole(90, 16, 10), 16, 10)).shape == (1, 10, 16, 3)
    assert np.isinf(renderer.depth(look([3.5, 3.5, 3.5], 0.0, pinhole(90, 4, 4), 4, 4))).all()


# --- The same bytes -----------------------------------------------------------------------------


def picture_sha256() -> str:
    """Of pictures of a world whose light is baked too."""
    world = world_of(jumble(5))
    world = replace(world, light=bake_light(world))
    return hashlib.sha256(VoxelRenderer(world, 1).render(many_cameras(6)).tobytes()).hexdigest()


def test_pictures_are_the_stored_ones() -> None:
    assert picture_sha256() == PICTURE_SHA256


@pytest.mark.slow
def test_a_plain_x86_processor_paints_the_same_bytes() -> None:
    """Compiled for the oldest x86-64 processor, and NumPy without its newer instructions."""
    plain = {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    }
    assert run_here("print(picture_sha256())", plain).strip() == PICTURE_SHA256


def run_here(code: str, environment: dict[str, str]) -> str:
    """Run code with this module's names in another process; returns what it printed."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([folder, *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from test_voxel_render import *\n{code}"],
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_gpu_kernel_paints_what_the_cpu_paints() -> None:
    """In numba's simulator: the grid of threads and all that the kernel writes, for sizes that fill no whole tile."""
    code = """
from context_as_memory.data.voxel.gpu import Lenses, blocks_of_threads, paint_all
from context_as_memory.data.voxel.scene import make_scene
world, cameras = world_of(jumble(2)), many_cameras(2)
cameras = Cameras(cameras.c2w, cameras.K - [0, 0, 9, 7], 11, 6)
out = np.zeros((2, 6, 11, 3), np.uint8)
paint_all[blocks_of_threads(2, 6, 11), 128](make_scene(world), Lenses(cameras.c2w, cameras.K), out)
print(np.abs(out.astype(int) - VoxelRenderer(world, 1).render(cameras)).max())
"""
    assert run_here(code, {"NUMBA_ENABLE_CUDASIM": "1"}).strip() == "0"


@pytest.mark.gpu
def test_a_gpu_paints_nearly_the_same_bytes() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    world, cameras = world_of(jumble(2)), many_cameras(9)
    found = VoxelGpuRenderer(world).render(cameras)
    assert found.is_cuda and found.dtype == torch.uint8
    difference = np.abs(found.cpu().numpy().astype(int) - VoxelRenderer(world).render(cameras))
    assert (difference > 1).mean() < 0.002  # fused multiply-adds may send a ray along an edge to its other side


# --- Light --------------------------------------------------------------------------------------


def room() -> np.ndarray:
    """A closed room of 9 x 9 x 5 cells inside, in the middle of a field."""
    blocks = np.zeros((24, 24, 10), np.uint8)
    blocks[:, :, 0] = STONE
    blocks[6:17, 6:17, 1:7] = BRICK
    blocks[7:16, 7:16, 1:6] = AIR
    return blocks


def lit(blocks: np.ndarray) -> np.ndarray:
    return bake_light(world_of(blocks, np.zeros((*blocks.shape, 3), np.uint8))).astype(int)


def test_a_closed_room_is_dark_and_a_field_is_bright() -> None:
    light = lit(room())
    assert light.dtype == int and light.shape == (24, 24, 10, 3)
    assert not light[7:16, 7:16, 1:6].any()
    assert not light[6, 6, 3].any()  # inside a wall
    assert light[1, 1, 1, 0] == 255 and light[1, 1, 1, 1] > 230
    assert light[12, 18, 1, 0] == 255 and light[12, 4, 1, 0] == 0  # the sun stands towards +x and +y


def test_light_from_a_window_falls_off_and_glass_takes_its_share() -> None:
    open_, glazed = room(), room()
    open_[6, 10:13, 2:4] = AIR
    glazed[6, 10:13, 2:4] = PANE
    free, behind_glass = lit(open_), lit(glazed)
    sky = free[7:16, 11, 2, 1]
    assert (np.diff(sky) <= 0).all() and sky[0] > 1.5 * sky[-1] > 0
    assert 0 < behind_glass[8, 11, 2, 1] < free[8, 11, 2, 1]


def test_lamps_fall_off_and_walls_stop_them() -> None:
    blocks = room()
    blocks[11, 11, 5] = LAMP
    light = lit(blocks)[..., 2]
    along = light[11, 11:16, 1]  # on the floor: direct light is worked out beside blocks only
    assert (np.diff(along) <= 0).all() and along[0] > 90 and along[0] > along[-1] + 20
    assert not light[:6].any() and not light[17:].any()


# --- What goes wrong ----------------------------------------------------------------------------


def test_impossible_requests_say_how_to_mend_them() -> None:
    world = world_of(jumble())
    with pytest.raises(UserError, match="1 or more"):
        VoxelRenderer(world, 0)
    with pytest.raises(UserError, match="CUDA"):
        VoxelGpuRenderer(world, "cpu")


def test_without_numba_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from context_as_memory.data.voxel.rays import paint
from context_as_memory.errors import UserError
try:
    paint(None, None, None, None, 0, 0)
except UserError as error:
    print(error)
"""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert "pip install" in done.stdout and "numba" in done.stdout, done.stderr
