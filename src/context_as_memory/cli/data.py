"""`cam render`, `check` and `encode`: what data sets are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from context_as_memory.cli.cluster import InParts, encode_on
from context_as_memory.cli.explore import view
from context_as_memory.cli.terminal import fail
from context_as_memory.errors import UserError


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
        return fail(f"{len(broken)} broken episode{'s' if len(broken) > 1 else ''} in {command.folder}; render again")
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


RUN: dict[type, Callable[[Any], int]] = {Render: _render, Check: _check, Encode: _encode}
