"""The styles of voxel worlds, and how their seeds are split."""

from importlib import import_module

from context_as_memory.data.voxel.world import VoxelWorld
from context_as_memory.errors import UserError

TRAINED = ("gallery", "house", "village", "forest", "cave", "castle")
UNSEEN = ("temple", "harbour")  # for tests only, never trained on
STYLES = TRAINED + UNSEEN
FIRST_SEED = {"test": 0, "val": 100, "train": 200}


def build(style: str, seed: int) -> VoxelWorld:
    """Build the world of a style and a seed (0 or more). Raises `UserError` for an unknown style or a bad seed."""
    if style not in STYLES:
        raise UserError(f"no style {style!r} of voxel worlds; choose from {', '.join(STYLES)}")
    if seed < 0:
        raise UserError(f"the seed {seed} of a voxel world must be 0 or more")
    world = import_module(f"context_as_memory.data.voxel.styles.{style}").build(seed)
    assert isinstance(world, VoxelWorld)
    return world


def parse_name(name: str) -> tuple[str, int]:
    """Style and seed of a name such as `gallery-17`. Raises `UserError` for any other name."""
    style, _, seed = name.rpartition("-")
    if style not in STYLES or not (seed.isascii() and seed.isdigit()):
        raise UserError(f"no voxel world {name!r}; give STYLE-SEED such as gallery-17, styles: {', '.join(STYLES)}")
    return style, int(seed)


def build_world(name: str) -> VoxelWorld:
    """Build a world by its name, such as `gallery-17`. Raises `UserError` for a name that is none."""
    return build(*parse_name(name))


def split_of(name: str) -> str:
    """The split of a world: `train`, `val` or `test`, by its seed; styles never trained on are always `test`."""
    style, seed = parse_name(name)
    if style in UNSEEN or seed < FIRST_SEED["val"]:
        return "test"
    return "val" if seed < FIRST_SEED["train"] else "train"


def world_names(split: str, count: int, styles: tuple[str, ...] | None = None) -> list[str]:
    """Names of the first `count` worlds of a split, styles dealt in turns (by default those trained on).

    Raises `UserError` for an unknown split, an unknown style, a style never trained on outside `test`, or more worlds
    than a split has.
    """
    styles = TRAINED if styles is None else styles
    if split not in FIRST_SEED:
        raise UserError(f"no split {split!r}; choose from train, val, test")
    for style in styles:
        if style not in STYLES or (style in UNSEEN and split != "test"):
            allowed = STYLES if split == "test" else TRAINED
            raise UserError(f"no style {style!r} in split {split}; choose from {', '.join(allowed)}")
    if not styles:
        raise UserError(f"give at least one style; choose from {', '.join(STYLES)}")
    limit = 100 * len(styles)
    if split != "train" and count > limit:
        raise UserError(f"split {split} has {limit} worlds of {len(styles)} styles, not {count}; ask for fewer")
    first = FIRST_SEED[split]
    return [f"{styles[i % len(styles)]}-{first + i // len(styles)}" for i in range(count)]
