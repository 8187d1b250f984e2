"""`cam adapt`: a public pipeline folder becomes a model, in seconds: what it lacks is added, nothing is copied."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from context_as_memory.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from context_as_memory.adapters.shards import Shards
    from context_as_memory.transformer import TransformerConfig

PARTS = ("vae", "tokenizer", "text_encoder", "scheduler")  # what a merged model has of its backbone, as it is


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Make a model of a public video model: its folder is referred to, and what memory needs is added.

    The new parameters change nothing until they are trained: the model is the backbone, with a memory that it does not
    read by camera yet.
    """

    backbone: str
    """Pipeline folder in the diffusers layout (Wan2.1-T2V-1.3B, Wan2.2-TI2V-5B), or its name on the Hugging Face hub:
    owner/name, owner/name@revision. With --merge also a model that refers to one."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder of the new model; it must not exist yet, or be empty."""
    size: str | None = None
    """Width and height of its pictures, as in 832x480."""
    camera: Literal["rays", "prope", "additive", "none"] = "rays"
    """How cameras enter: rays and prope by heads beside the pre-trained ones; additive as in the paper; none: the
    stock model."""
    camera_heads: int | None = None
    """Heads beside the pre-trained ones; one for every six of them if not given."""
    chunk_latents: int = 4
    """Target latents of a chunk, of four frames each."""
    steps: int = 20
    """Denoising steps of a chunk."""
    guidance: float = 5.0
    """How far pictures are led to the prompt; 1: not at all, for distilled weights."""
    negative: str = ""
    """What guidance leads away from."""
    prompts: tuple[str, ...] = ()
    """Keep the rows of these prompts in the model, for machines without the text encoder."""
    merge: bool = False
    """Write a folder that stands alone: every weight is in it, changes by LoRA are added to them."""


def adapt(command: Adapt) -> str:
    """Write the model; returns what to tell. Raises `UserError` for what is no such backbone, before anything is
    written; `command.out` is there whole or not at all."""
    from context_as_memory.adapters.backbone import locate
    from context_as_memory.weights import MODEL_FILE

    base = locate(command.backbone)
    is_model = (base / MODEL_FILE).exists()
    if command.out.exists() and (not command.out.is_dir() or any(command.out.iterdir())):
        raise UserError(f"adapt: {command.out} is there already; give another folder with --out")
    if is_model and not command.merge:
        raise UserError(f"adapt: {base} is a model already; use it as it is, or add --merge for one that stands alone")
    with _whole(command.out) as folder:
        told = None if is_model else _write(command, base, folder)
        if command.merge:
            _merge(base if is_model else folder, base, folder)
    return "\n".join(line for line in (f"model in {command.out}", told) if line)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, and is gone if the block fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield folder
        if out.exists():
            out.rmdir()  # empty, as was looked at before
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(command: Adapt, base: Path, folder: Path) -> str | None:
    """Settings, and what the backbone's weights lack."""
    from context_as_memory.adapters.backbone import described
    from context_as_memory.adapters.shards import check_shapes, open_shards
    from context_as_memory.adapters.text import FILE, open_words
    from context_as_memory.adapters.wan import from_diffusers_config, spatial_factor
    from context_as_memory.diffusion import FlowMatching
    from context_as_memory.formats.files import write_text
    from context_as_memory.weights import MODEL_FILE, read_object
    from context_as_memory.world import WorldConfig

    values = read_object(base / "transformer" / "config.json", "backbone")
    if values.get("_class_name") != "WanTransformer3DModel":
        raise UserError(
            f"backbone: {base / 'transformer'} holds a {values.get('_class_name')}, not a WanTransformer3DModel"
        )
    stock = from_diffusers_config(values)
    vae = read_object(base / "vae" / "config.json", "backbone")
    if vae.get("_class_name") != "AutoencoderKLWan" or vae.get("z_dim", 16) != stock.in_channels:
        raise UserError(f"backbone: {base / 'vae'} holds no AutoencoderKLWan of {stock.in_channels} channels")
    width, height = _size(command.size, spatial_factor(vae) * stock.patch_size[1])
    shards = open_shards(base / "transformer")
    check_shapes(_shapes(stock), shards.shapes, str(base / "transformer"))

    heads = (
        0 if command.camera in ("additive", "none") else command.camera_heads or max(1, stock.num_attention_heads // 6)
    )
    mode = "per_frame" if heads else "joint"
    config = replace(stock, camera=command.camera, camera_heads=heads, context_mode=mode)
    _save_added(folder / "transformer", config, shards)
    settings = WorldConfig(
        width=width,
        height=height,
        chunk_latents=command.chunk_latents,
        num_steps=command.steps,
        flow=FlowMatching(shift=_shift(base)),
        negative=command.negative,
        guidance=command.guidance,
    )
    told = {"backbone": described(command.backbone, base, command.out)} | asdict(settings)
    if command.prompts:
        words = open_words(folder, base, stock.text_dim or 0)
        words.save(folder / FILE, tuple(dict.fromkeys(("", command.negative, *command.prompts))))
    write_text(folder / MODEL_FILE, json.dumps(told, indent=2) + "\n")
    index = base / "model_index.json"
    starts_from_pictures = index.exists() and bool(read_object(index, "backbone").get("expand_timesteps"))
    if starts_from_pictures:
        return None
    return "this backbone has never seen a clean first frame: untrained, its pictures after the first one are noise"


def _size(size: str | None, multiple: int) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in (size or "").lower().split("x"))
    except ValueError:
        raise UserError(f"--size is {size}; give width and height of the pictures, as in 832x480") from None
    if min(width, height) < multiple or width % multiple or height % multiple:
        raise UserError(f"--size is {size}; this backbone makes pictures in multiples of {multiple} pixels")
    return width, height


def _shapes(config: "TransformerConfig") -> dict[str, tuple[int, ...]]:
    import torch

    from context_as_memory.adapters.shards import shapes_of
    from context_as_memory.transformer import WorldTransformer

    with torch.device("meta"):
        return shapes_of(WorldTransformer(config))


def _shift(base: Path) -> float:
    """How far the pipeline's own scheduler moves noise levels."""
    from context_as_memory.weights import read_object

    path = base / "scheduler" / "scheduler_config.json"
    told = read_object(path, "backbone") if path.exists() else {}
    return float(told.get("flow_shift") or told.get("shift") or 5.0)


def _save_added(folder: Path, config: "TransformerConfig", shards: "Shards") -> None:
    """Write the configuration, and the tensors that stock weights lack, as they begin."""
    from safetensors.torch import save_file

    from context_as_memory.adapters.wan import added_tensors
    from context_as_memory.formats.files import atomic, write_text
    from context_as_memory.weights import MEMORY_FILE

    write_text(
        folder / "config.json", json.dumps({"_class_name": "WorldTransformer"} | asdict(config), indent=2) + "\n"
    )
    tensors: dict[str, Tensor] = added_tensors(config, shards)
    if tensors:
        with atomic(folder / MEMORY_FILE) as partial:
            save_file(tensors, partial)


def _merge(model: Path, base: Path, folder: Path) -> None:
    """A model with all that it refers to, in a folder."""
    from context_as_memory.adapters.wan import to_diffusers_config
    from context_as_memory.formats.files import write_text
    from context_as_memory.transformer import WorldTransformer
    from context_as_memory.weights import (
        MEMORY_FILE,
        MODEL_FILE,
        component,
        from_pretrained,
        read_settings,
        save_pretrained,
    )

    settings: dict[str, Any] = read_settings(model)
    network = from_pretrained(model / "transformer", expect=WorldTransformer, dtype=None)
    save_pretrained(network, folder / "transformer", dtype=None)
    (folder / "transformer" / MEMORY_FILE).unlink(missing_ok=True)
    stock = to_diffusers_config(network.config)
    if stock is not None:
        write_text(folder / "transformer" / "config.json", json.dumps(stock, indent=2) + "\n")
    for part in PARTS:
        found = component(model, part)
        if not found.is_dir() and (base / part).is_dir():
            found = base / part
        if found.is_dir() and not (folder / part).exists():
            shutil.copytree(found, folder / part)
    if (model / "text").is_dir() and model != folder:
        shutil.copytree(model / "text", folder / "text")
    settings.pop("backbone", None)
    write_text(folder / MODEL_FILE, json.dumps(settings, indent=2) + "\n")


def run(command: Adapt) -> int:
    """`cam adapt`."""
    print(adapt(command))
    return 0
