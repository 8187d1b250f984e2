"""`cam train codec` and `cam train denoiser`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from context_as_memory.errors import UserError


@dataclass(frozen=True, kw_only=True)
class _Training:
    out: Path
    """Folder for checkpoints, curves and the final weights; a run found there is resumed."""
    steps: int | None = None
    """Stop after this many steps."""
    budget_minutes: float | None = None
    """Stop after this much training time, over all resumes; the learning rate follows whichever ends first."""
    stop_after_minutes: float | None = None
    """End this call with a checkpoint; the same command continues."""
    batch_size: int | None = None
    """Samples per step and process."""
    learning_rate: float | None = None
    """Its plateau; a run with `--init` often wants half of the recipe's."""
    seed: int | None = None
    """Initial weights, order of samples, noise."""
    device: str | None = None
    """auto, cpu, cuda or cuda:1."""
    threads: int | None = None
    """CPU threads."""
    tensorboard: bool = False
    """Write curves for tensorboard too (extra `train`); `metrics.jsonl` has them in any case."""
    init: str | None = None
    """Start a new run from the weights of this model folder, or of `default`; a found run is resumed instead."""


@dataclass(frozen=True, kw_only=True)
class TrainCodec(_Training):
    """Train the image autoencoder; weights end in OUT/vae."""

    data: Path
    """Folder of episodes made by `cam render`."""
    recipe: Literal["light", "base", "onward", "decoder", "tiny"] = "light"
    """Complete named settings; the other flags change single ones. `light` is for a CPU, `base` for a GPU."""


@dataclass(frozen=True, kw_only=True)
class TrainDenoiser(_Training):
    """Train the denoiser; a complete model folder ends in OUT/model."""

    codec: Path | None = None
    """Folder of the autoencoder: the output of `cam train codec` or its `vae`. Default: that of `--init`."""
    data: Path | None = None
    """Folder of episodes made by `cam render`."""
    cache: Path | None = None
    """With `--data`: folder of latents (`cam encode`); missing ones are made."""
    worlds: Literal["voxel"] | None = None
    """Instead of `--data`: worlds are built, painted and encoded while training goes on."""
    width: int = 320
    """With `--worlds`: width of the pictures in pixels."""
    height: int = 192
    """With `--worlds`: their height."""
    recipe: Literal[
        "light", "light-stage2", "base", "base-2step", "onward", "tiny", "wan-lora", "wan-full", "wan-swift", "wan-tiny"
    ] = "light"
    """Complete named settings; the other flags change single ones. `light` is for a CPU, `base` for a GPU.
    `light-stage2` goes on from `light` weights (`--init`), `base-2step` from those of `base`, `onward` from any.
    `wan-...` put memory under a model that `cam adapt` made (`--init`)."""
    accumulate: int | None = None
    """Batches of a step, over all processes together: more of them where less fits in memory at once."""


Train = Annotated[
    Annotated[TrainCodec, tyro.conf.subcommand("codec")] | Annotated[TrainDenoiser, tyro.conf.subcommand("denoiser")],
    tyro.conf.subcommand("train", description="Train the autoencoder or the denoiser."),
]


def _train_codec(command: TrainCodec) -> int:
    from context_as_memory.training.codec import train_codec
    from context_as_memory.training.recipes import codec_recipe

    recipe = codec_recipe(command.recipe)
    recipe = replace(recipe, train=replace(recipe.train, **_training_changes(command)))
    perceptual = _perceptual(recipe.loss.perceptual)
    _print_figures(train_codec(recipe, command.data, command.out, command.init, perceptual))
    return 0


def _train_denoiser(command: TrainDenoiser) -> int:
    from context_as_memory.training.denoiser import train_denoiser, train_denoiser_stream
    from context_as_memory.training.recipes import denoiser_recipe
    from context_as_memory.weights import resolve

    recipe = denoiser_recipe(command.recipe)
    second = command.recipe in ("light-stage2", "base-2step", "onward") and not (command.out / "last.pt").exists()
    if (second or recipe.adaptation is not None) and command.init is None:
        raise UserError(
            f"the recipe {command.recipe} is a second stage; give the model folder to go on from (--init default)"
        )
    changes = _training_changes(command) | ({} if command.accumulate is None else {"accumulate": command.accumulate})
    recipe = replace(recipe, train=replace(recipe.train, **changes))
    if command.codec is None and command.init is None:
        raise UserError("give the autoencoder (--codec), or the model folder to go on from (--init)")
    codec = command.codec if command.codec is not None else resolve(str(command.init))
    if (command.worlds is None) == (command.data is None):
        raise UserError("give either --data with --cache, or --worlds voxel")
    perceptual = _perceptual(recipe.perceptual)
    if command.data is not None:
        if command.cache is None:
            raise UserError("--data needs --cache, a folder for latents")
        folders = (command.data, codec, command.cache, command.out)
        _print_figures(train_denoiser(recipe, *folders, command.init, perceptual))
        return 0
    from context_as_memory.data.voxel.places import VoxelPlaces

    places = VoxelPlaces(width=command.width, height=command.height)
    _print_figures(train_denoiser_stream(recipe, places, codec, command.out, command.init, perceptual))
    return 0


def _perceptual(weight: float) -> Any:
    """The network behind the perceptual distance, if a recipe weighs it."""
    if not weight:
        return None
    from context_as_memory.evaluation.metric_networks import load_lpips

    return load_lpips()


def _training_changes(command: TrainCodec | TrainDenoiser) -> dict[str, Any]:
    """The flags that were given, as changes of a `TrainConfig`."""
    if command.threads is not None:
        from context_as_memory.compute import use_threads

        use_threads(command.threads)
    numbers = ("steps", "budget_minutes", "stop_after_minutes", "batch_size", "learning_rate")
    names = (*numbers, "seed", "device", "tensorboard")
    changes = {name: getattr(command, name) for name in names if getattr(command, name) is not None}
    for name in numbers:
        if name in changes and changes[name] <= 0:
            raise UserError(f"--{name.replace('_', '-')} is {changes[name]}; give more than 0")
    return changes


def _print_figures(figures: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))


RUN: dict[type, Callable[[Any], int]] = {TrainCodec: _train_codec, TrainDenoiser: _train_denoiser}
