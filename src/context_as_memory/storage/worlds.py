"""Worlds that live in a folder instead of working memory.

Every chunk is committed when it is finished. An opened world goes on where the last chunk ended, with the frames that
an uninterrupted walk would have had.
"""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from context_as_memory.camera import Z_UP
from context_as_memory.engine import differences, open_engine
from context_as_memory.errors import UserError
from context_as_memory.formats.settings import build_config
from context_as_memory.storage.file import MAIN, WorldFile
from context_as_memory.storage.store import BranchStore
from context_as_memory.world import World, WorldConfig

log = logging.getLogger(__name__)


def create_world(
    path: str | Path,
    weights: str | Path = "default",
    *,
    device: str = "auto",
    networks: World | None = None,
    up: ArrayLike = Z_UP,
    **changes: object,
) -> World:
    """A new world in a new folder; `weights` and `changes` as in `World.from_pretrained`.

    up: upwards in it, [3]; stored with the world, for whoever walks on. networks: a world with these weights, whose
    networks are shared instead of being loaded again. `reset` gives the new world its start frames.
    """
    fresh = networks or World.from_pretrained(weights, device=device)
    config = replace(fresh.config, **changes)  # type: ignore[arg-type]
    engine = open_engine(fresh.model, fresh.codec, config.engine, fresh.device)
    config = replace(config, engine=engine.name)
    settings = {
        "weights": str(weights),
        "weights_sha256": fresh.weights_sha256,
        "width": config.width,
        "height": config.height,
        "config": asdict(config),
        "made_with": engine.made_with,
        "up": (np.asarray(up, np.float64) + 0.0).tolist(),
    }
    return _in_store(fresh, config, BranchStore(WorldFile.create(path, settings)))


def open_world(
    path: str | Path,
    branch: str = MAIN,
    *,
    weights: str | Path | None = None,
    write: bool = True,
    device: str = "auto",
    networks: World | None = None,
) -> World:
    """Continue a branch of a world file with the weights that it was made with.

    weights: where they lie now. networks: a world with these weights, whose networks are shared instead of being loaded
    again. The world goes on with the engine it was made with; on another machine, or where that engine is missing, a
    warning says that last bits will differ. Raises `UserError` for a damaged world, one that is being written
    elsewhere, and other weights.
    """
    file = WorldFile.open(path, write=write)
    try:
        settings = file.settings
        named = settings.get("weights")
        if weights is None and not isinstance(named, str):
            raise UserError(f"the world in {path} does not say which weights it was made with; give them (--weights)")
        fresh = networks or World.from_pretrained(weights or str(named), device=device)
        if fresh.weights_sha256 != settings.get("weights_sha256"):
            raise UserError(
                f"the world in {path} was made with other weights ({str(named)[:60]}); give the folder of those "
                "(--weights), or start a new world"
            )
        config: WorldConfig = build_config(WorldConfig, settings.get("config"), f"the settings of the world in {path}")
        if (config.width, config.height) != file.size:
            raise UserError(f"the world in {path} names two sizes of its pictures; restore it from an export or a copy")
        store = BranchStore(file, branch)
        store.latent_shape = _latent_shape(fresh, config)
        world = _in_store(fresh, config, store)
        _say_on(world)
        made = [note["made_with"] for _, note in world.bank.store.notes() if "made_with" in note]
        before = made[-1] if made else settings.get("made_with")
        notice = differences(before if isinstance(before, dict) else {}, world.engine.made_with)
        if notice is not None:
            log.warning("%s: %s", path, notice)
        return world
    except BaseException:
        file.close()
        raise


def _say_on(world: World) -> None:
    """What was said last is said on: prompt and guidance of the last chunk that notes them."""
    for _, note in world.bank.store.notes():
        prompt, guidance = note.get("prompt"), note.get("guidance")
        if isinstance(prompt, str) and isinstance(guidance, float):
            world.prompt, world.guidance = prompt, guidance


def file_of(world: World) -> WorldFile | None:
    """The world file that a world lives in; None in working memory."""
    store = world.bank.store
    return store.file if isinstance(store, BranchStore) else None


def _latent_shape(networks: World, config: WorldConfig) -> tuple[int, int, int]:
    """[C, h, w] of one latent of these weights."""
    codec = networks.codec
    return codec.latent_channels, config.height // codec.spatial_factor, config.width // codec.spatial_factor


def _in_store(networks: World, config: WorldConfig, store: BranchStore) -> World:
    """A world of the same kind and with the same networks in a world file."""
    world = type(networks)(networks.model, networks.codec, config, str(networks.device), store)
    world.weights_sha256 = networks.weights_sha256
    return world
