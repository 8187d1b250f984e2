"""Styles of voxel worlds: textures, kinds of blocks, and what every world keeps."""

import hashlib
from functools import cache

import numpy as np
import pytest

from context_as_memory.data.voxel import blocks, styles, textures
from context_as_memory.data.voxel.styles import builder
from context_as_memory.data.voxel.world import BOXES, CUBE, EMPTY, MIP_LEVELS, SEE_THROUGH, VoxelWorld
from context_as_memory.errors import UserError

CLIMB_M, HEAD_CELLS = 1.0, 2  # from cell to cell: stairs rise two half steps within one cell


@pytest.fixture(autouse=True)
def _no_light(monkeypatch):
    """Light is tested with the renderer; here it would only cost time."""
    monkeypatch.setattr(builder, "bake_light", lambda world: world.light)


@cache
def built(style: str, seed: int) -> VoxelWorld:
    return styles.build(style, seed)


def surfaces(world: VoxelWorld) -> dict[tuple[int, int], list[float]]:
    """Heights in each column that hold a walker and leave room for a body."""
    top = np.zeros(len(world.kinds))
    for kind, way in enumerate(world.kinds):
        first, last = world.box_range[kind]
        top[kind] = 1.0 if way == CUBE else world.boxes[first:last, 5].max(initial=0)
    solid = ~world.walkable[world.blocks]
    firm = solid & (world.kinds[world.blocks] != SEE_THROUGH)
    above = np.pad(solid, ((0, 0), (0, 0), (0, HEAD_CELLS)))
    free = ~above[:, :, 1 : 1 + world.shape[2]] & ~above[:, :, 2 : 2 + world.shape[2]]
    found: dict[tuple[int, int], list[float]] = {}
    for x, y, z in np.argwhere(firm & free):
        found.setdefault((int(x), int(y)), []).append(float(z + top[world.blocks[x, y, z]]))
    return found


def reach(world: VoxelWorld) -> set[tuple[int, int, float]]:
    """Places that a walk from home reaches."""
    heights = surfaces(world)
    x, y = int(world.home[0]), int(world.home[1])
    todo = [(x, y, heights[x, y][0])]
    seen = set(todo)
    while todo:
        x, y, h = todo.pop()
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            for other in heights.get(cell, ()):
                if abs(other - h) <= CLIMB_M and (*cell, other) not in seen:
                    seen.add((*cell, other))
                    todo.append((*cell, other))
    return seen


# --- textures and kinds of blocks


def test_textures_are_many_small_and_calm():
    drawn = textures.draw_textures(5)
    assert len(drawn) >= 60
    assert sum(name.endswith("_0_0") for name in drawn) >= 30  # paintings
    for name, texture in drawn.items():
        assert texture.shape == (16, 16, 3) and texture.dtype == np.uint8, name
    for name in ("grass", "snow", "sand", "red", "plaster"):  # plain ground and cloth: nearly no grain
        assert drawn[name].std(axis=(0, 1)).max() < 12, name


def test_textures_follow_the_seed():
    one, same, other = textures.draw_textures(1), textures.draw_textures(1), textures.draw_textures(2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert sum(np.array_equal(one[name], other[name]) for name in one) < len(one) // 10


def test_mip_levels_are_exact_averages():
    texture = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    pyramid = textures.mip_pyramid(texture)
    assert pyramid.shape == (2, MIP_LEVELS, 16, 16, 3)
    assert np.array_equal(pyramid[:, 0], texture)
    for level in range(1, MIP_LEVELS):
        step = 1 << level
        block = texture[1, step : 2 * step, :step].reshape(-1, 3).astype(float).mean(0) if step < 16 else None
        if block is not None:
            assert np.array_equal(pyramid[1, level, 1, 0], np.floor(block + 0.5))
        assert not pyramid[:, level, 16 >> level :].any()
    assert np.array_equal(pyramid[0, 4, 0, 0], np.floor(texture[0].reshape(-1, 3).astype(float).mean(0) + 0.5))


@pytest.mark.parametrize("shape", [*blocks.SHAPES])
def test_shapes_fit_in_their_cell(shape):
    for direction in ("+x", "-x", "+y", "-y") if shape in blocks.FACING else ("",):
        kind = blocks.block(f"{shape}{direction}:oak")
        assert 1 <= len(kind.boxes) <= blocks.MAX_BOXES
        assert all(0 <= box[i] < box[i + 3] <= 16 for box in kind.boxes for i in range(3))


def test_stairs_climb_where_they_say():
    high = {d: next(b for b in blocks.block(f"stairs{d}:oak").boxes if b[5] == 16) for d in ("+x", "-x", "+y", "-y")}
    assert high["+x"][0] == 8 and high["-x"][3] == 8 and high["+y"][1] == 8 and high["-y"][4] == 8


def test_an_unknown_shape_is_refused():
    with pytest.raises(KeyError):
        blocks.block("nonsense:oak")


# --- worlds


@pytest.mark.parametrize("style", styles.STYLES)
@pytest.mark.parametrize("seed", [7, 2024])
def test_worlds_are_whole_and_walkable(style, seed):
    world = built(style, seed)
    count = len(world.kinds)
    assert world.name == f"{style}-{seed}"
    assert 64 <= world.shape[0] <= 96 and 64 <= world.shape[1] <= 96 and world.shape[2] <= 48
    assert world.blocks.dtype == np.uint8 and world.blocks.max() < count
    assert world.light.shape == (*world.shape, 3) and world.light.dtype == np.uint8
    assert world.kinds[0] == EMPTY and world.walkable[0]
    assert set(np.unique(world.kinds)) <= {EMPTY, CUBE, BOXES, SEE_THROUGH}
    assert world.faces.shape == (count, 6) and world.faces.min() >= 0 and world.faces.max() < len(world.textures)
    shaped = (world.kinds == BOXES) | (world.kinds == SEE_THROUGH)
    assert np.array_equal(world.box_range[:, 1] > world.box_range[:, 0], shaped)
    assert world.box_range.max() <= len(world.boxes)
    assert np.all(world.boxes[:, :3] < world.boxes[:, 3:]) and world.boxes.min() >= 0 and world.boxes.max() <= 1
    assert np.all((world.through >= 0) & (world.through < 1)) and np.all((world.glow >= 0) & (world.glow <= 1))
    direction = np.array(world.sky.sun_direction)
    assert np.isclose(np.linalg.norm(direction), 1) and np.abs(direction).min() > 0.05
    assert len(reach(world)) >= 1500


@pytest.mark.parametrize("style", ["house", "village", "castle", "temple", "harbour", "forest"])
def test_people_can_go_up(style):
    heights = [h for _, _, h in reach(built(style, 7))]
    assert max(heights) - min(heights) >= 4
    assert sum(h >= min(heights) + 4 for h in heights) >= 40


HASHES = {
    "gallery": "0f471b699525c405",
    "house": "84a808557bda634d",
    "village": "ab5c49c1fe5fb594",
    "forest": "d033e64e35ec10cc",
    "cave": "0cd39be911de1fc4",
    "castle": "ce2e862e3cfcb3d8",
    "temple": "71ba8249dcca3ebd",
    "harbour": "936126d080fde089",
}


@pytest.mark.parametrize("style", styles.STYLES)
def test_the_same_seed_gives_the_same_bytes(style):
    world, again, other = built(style, 7), styles.build(style, 7), built(style, 2024)
    assert np.array_equal(world.blocks, again.blocks) and np.array_equal(world.textures, again.textures)
    assert world.sky == again.sky and world.home == again.home
    assert (world.blocks.shape != other.blocks.shape) or (world.blocks != other.blocks).mean() > 0.02
    digest = hashlib.sha256(world.blocks.tobytes() + world.faces.tobytes() + world.textures.tobytes()).hexdigest()
    assert digest[:16] == HASHES[style]


# --- names and splits


@pytest.mark.parametrize("name", ["gallery", "gallery-", "gallery-x", "gallery--1", "moon-3", "", "gallery-1-2"])
def test_bad_names_are_refused(name):
    with pytest.raises(UserError, match="gallery, house, village, forest, cave, castle, temple, harbour"):
        styles.build_world(name)


def test_a_bad_style_or_seed_is_refused():
    with pytest.raises(UserError, match="harbour"):
        styles.build("moon", 0)
    with pytest.raises(UserError, match="-1"):
        styles.build("house", -1)


def test_splits_are_disjoint_and_unseen_styles_are_for_tests():
    names = {split: set(styles.world_names(split, 60)) for split in ("train", "val", "test")}
    assert all(len(part) == 60 for part in names.values())
    assert not names["train"] & names["val"] and not names["train"] & names["test"] and not names["val"] & names["test"]
    for split, part in names.items():
        assert {styles.split_of(name) for name in part} == {split}
        assert {name.rpartition("-")[0] for name in part} == set(styles.TRAINED)
    assert {styles.split_of(f"{style}-{seed}") for style in styles.UNSEEN for seed in (0, 150, 5000)} == {"test"}
    unseen = styles.world_names("test", 6, styles=styles.UNSEEN)
    assert unseen == ["temple-0", "harbour-0", "temple-1", "harbour-1", "temple-2", "harbour-2"]


@pytest.mark.parametrize(
    "split, count, chosen",
    [("dev", 1, None), ("train", 1, ("temple",)), ("val", 101, ("cave",)), ("test", 1, ()), ("val", 1, ("moon",))],
)
def test_bad_requests_for_names_are_refused(split, count, chosen):
    with pytest.raises(UserError):
        styles.world_names(split, count, chosen)
