"""The steps of `gpu_voxel.sh`: short commands over the package that need no library for videos or command lines.

python scripts/gpu_voxel.py frames --out DIR        pictures of many voxel worlds, for the autoencoder
python scripts/gpu_voxel.py codec --data DIR ...    train the autoencoder on them
python scripts/gpu_voxel.py world ...               train the denoiser on worlds that are made meanwhile
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from context_as_memory.compute import pick_device
from context_as_memory.data.episode import write_episode
from context_as_memory.data.voxel.places import VoxelPlaces
from context_as_memory.errors import UserError
from context_as_memory.training.codec import train_codec
from context_as_memory.training.denoiser import train_denoiser_stream
from context_as_memory.training.recipes import codec_recipe, denoiser_recipe
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import from_pretrained, resolve

STRIDE = 8  # steps of a walk between two pictures for the autoencoder: neighbours are near-copies


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("frames", "codec", "world"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--width", type=int, default=320)
        command.add_argument("--height", type=int, default=192)
        if name == "frames":
            command.add_argument("--videos", type=int, default=150, help="of training; a tenth more for validation")
            command.add_argument("--pictures", type=int, default=48, help="of each")
            command.add_argument("--workers", type=int, default=14)
            continue
        command.add_argument("--recipe", default="base")
        command.add_argument("--init", help="model folder to go on from, or default")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--perceptual", type=float, help="weight of the perceptual distance; 0: without it")
        command.add_argument("--batch-size", type=int)
        command.add_argument("--steps", type=int)
        if name == "codec":
            command.add_argument("--data", type=Path, required=True)
            command.add_argument("--minutes", type=float, required=True, help="of training")
        else:
            command.add_argument("--until", type=float, required=True, help="time of day in seconds of its last step")
            command.add_argument("--codec", type=Path, required=True)
            command.add_argument("--workers", type=int)
            command.add_argument("--first", type=int, help="videos that training waits for")
            command.add_argument("--frames", type=int, help="of a video")
    options = parser.parse_args(words)
    {"frames": _frames, "codec": _codec, "world": _world}[options.command](options)


def _frames(options: argparse.Namespace) -> None:
    places, device = VoxelPlaces(width=options.width, height=options.height), pick_device()
    orders = [("train", number) for number in range(options.videos)]
    orders += [("val", number) for number in range(max(1, options.videos // 10))]
    length = STRIDE * options.pictures
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        futures = [pool.submit(places.plan, split, number, length) for split, number in orders]
        for (split, number), future in zip(orders, futures, strict=True):
            try:
                place, cameras = future.result()
            except UserError as error:
                print(f"{split} {number}: {error}", flush=True)
                continue
            cameras = cameras[::STRIDE]
            frames_u8 = places.painter(place, device)(cameras).cpu().numpy()
            meta = {"world": place.name, "split": split, "seed": number, "fps": 15}
            meta |= {"licence": "Apache-2.0", "generator": "scripts/gpu_voxel.py"}
            write_episode(options.out / f"{place.name}_{split}", frames_u8, cameras, meta, raw=True)


def _codec(options: argparse.Namespace) -> None:
    recipe = codec_recipe(options.recipe)
    if options.perceptual is not None:
        recipe = replace(recipe, loss=replace(recipe.loss, perceptual=options.perceptual))
    minutes = {"budget_minutes": options.minutes, "stop_after_minutes": options.minutes}
    recipe = replace(recipe, train=replace(recipe.train, **_changes(options), **minutes))
    print(train_codec(recipe, options.data, options.out, options.init, _network(recipe.loss.perceptual)))


def _world(options: argparse.Namespace) -> None:
    recipe = denoiser_recipe(options.recipe)
    if options.perceptual is not None:
        recipe = replace(recipe, perceptual=options.perceptual)
    stream = {name: getattr(options, name) for name in ("workers", "first", "frames") if getattr(options, name)}
    recipe = replace(
        recipe,
        train=replace(recipe.train, **_changes(options)),
        stream=replace(recipe.stream, **stream),
    )
    init = options.init
    if init is not None:
        start = from_pretrained(resolve(init) / "transformer", expect=WorldTransformer).config
        if start != recipe.model:
            print(f"{init} is of another architecture than the recipe {options.recipe}: training starts from nothing")
            init = None
    places = VoxelPlaces(width=options.width, height=options.height)
    network = _network(recipe.perceptual)
    print(train_denoiser_stream(recipe, places, options.codec, options.out, init, network, options.until))


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    given = {"batch_size": options.batch_size, "steps": options.steps, "seed": options.seed}
    return {name: value for name, value in given.items() if value is not None}


def _network(weight: float) -> Any:
    if not weight:
        return None
    from context_as_memory.evaluation.metric_networks import load_lpips

    return load_lpips()


if __name__ == "__main__":
    main()
