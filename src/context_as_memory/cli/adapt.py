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
    checkpoint: str | None = None
    """Weights that somebody trained further, for the network of this backbone: a file or folder in Wan's original names
    or in those of diffusers, safetensors or pickled tensors; Memorizon; Echo-Memory with frames as context. They are
    copied. Networks that have cameras of their own keep those, whatever --camera says."""
    size: str | None = None
    """Width and height of its pictures, as in 832x480; as the checkpoint's makers use it, if it tells."""
    camera: Literal["rays", "prope", "additive", "none"] = "rays"
    """How cameras enter: rays and prope by heads beside the pre-trained ones; additive as in the paper; none: the
    stock model."""
    camera_heads: int | None = None
    """Heads beside the pre-trained ones; one for every six of them if not given."""
    chunk_latents: int | None = None
    """Target latents of a chunk, of four frames each; 4 if neither this nor the checkpoint tells."""
    steps: int | None = None
    """Denoising steps of a chunk; 20 if neither this nor the checkpoint tells."""
    guidance: float | None = None
    """How far pictures are led to the prompt; 1: not at all, for distilled weights. 5 if neither this nor the
    checkpoint tells."""
    context: int | None = None
    """Frames in the context, the recent one included; 8 if neither this nor the checkpoint tells."""
    negative: str = ""
    """What guidance leads away from."""
    prompts: tuple[str, ...] = ()
    """Keep the rows of these prompts in the model, for machines without the text encoder."""
    decoder: Path | None = None
    """A tiny decoder for pictures at once, a .pth or .safetensors file: TAEHV's taew2_1 for Wan 2.1, its taew2_2 for
    Wan 2.2 5B. It is copied. Memory is then made of its pictures."""
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
    if is_model and command.checkpoint:
        raise UserError(f"adapt: {base} is a model already; a --checkpoint needs a backbone in the diffusers layout")
    if is_model and not command.merge:
        raise UserError(f"adapt: {base} is a model already; use it as it is, or add --merge for one that stands alone")
    with _whole(command.out) as folder:
        told = None if is_model else _write(command, base, folder)
        if command.decoder is not None:
            _save_decoder(command.decoder, base, folder)
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
    from context_as_memory.adapters.original import open_checkpoint
    from context_as_memory.adapters.published import recognise
    from context_as_memory.adapters.shards import check_shapes, open_shards
    from context_as_memory.adapters.text import FILE, open_words
    from context_as_memory.adapters.wan import from_diffusers_config, spatial_factor
    from context_as_memory.diffusion import FlowMatching
    from context_as_memory.formats.files import write_text
    from context_as_memory.retrieval import RetrievalConfig
    from context_as_memory.weights import MODEL_FILE, read_object
    from context_as_memory.world import WorldConfig

    values = read_object(base / "transformer" / "config.json", "backbone")
    if values.get("_class_name") != "WanTransformer3DModel":
        raise UserError(
            f"backbone: {base / 'transformer'} holds a {values.get('_class_name')}, not a WanTransformer3DModel"
        )
    stock = from_diffusers_config(values)
    checkpoint = None if command.checkpoint is None else open_checkpoint(command.checkpoint)
    found = None if checkpoint is None else recognise(checkpoint)
    vae = read_object(base / "vae" / "config.json", "backbone")
    if vae.get("_class_name") != "AutoencoderKLWan" or vae.get("z_dim", 16) != stock.in_channels:
        raise UserError(f"backbone: {base / 'vae'} holds no AutoencoderKLWan of {stock.in_channels} channels")
    width, height = _size(command.size or (found.size if found else None), spatial_factor(vae) * stock.patch_size[1])
    if checkpoint is None or found is None:
        name, config, shards = "WorldTransformer", stock, open_shards(base / "transformer")
        check_shapes(_shapes(name, config), shards.shapes, str(base / "transformer"))
    else:
        name, config = found.class_name, found.config
        if (config.in_channels, config.text_dim) != (stock.in_channels, stock.text_dim):
            raise UserError(
                f"checkpoint: {checkpoint.path} works on latents of {config.in_channels} channels and words of "
                f"{config.text_dim}, the backbone in {base} on {stock.in_channels} and {stock.text_dim}; give the one "
                "that it was trained from"
            )
        check_shapes(_shapes(name, config), checkpoint.shapes, str(checkpoint.path))
        checkpoint.save(folder / "transformer")
        shards = open_shards(folder / "transformer")
    if name == "WorldTransformer":  # no camera of its own
        config = _with_cameras(config, command)
    _save_added(folder / "transformer", name, config, shards)
    theirs = {} if found is None else dict(found.settings)
    retrieval = RetrievalConfig()
    if context := command.context or (found.context if found else None):
        retrieval = replace(retrieval, max_context=context)
    shift = theirs.pop("shift", None) or _shift(base)
    chosen = {"chunk_latents": command.chunk_latents, "num_steps": command.steps, "guidance": command.guidance}
    usual = {"chunk_latents": 4, "num_steps": 20, "guidance": 5.0}
    settings = WorldConfig(
        width=width,
        height=height,
        flow=FlowMatching(shift=shift),
        negative=command.negative,
        retrieval=retrieval,
        **(usual | theirs | {key: value for key, value in chosen.items() if value is not None}),
    )
    told = {"backbone": described(command.backbone, base, command.out)} | asdict(settings)
    if command.prompts:
        words = open_words(folder, base, stock.text_dim or 0)
        words.save(folder / FILE, tuple(dict.fromkeys(("", command.negative, *command.prompts))))
    write_text(folder / MODEL_FILE, json.dumps(told, indent=2) + "\n")
    if found is not None and found.told is not None:
        return found.told
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


def _with_cameras(stock: "TransformerConfig", command: Adapt) -> "TransformerConfig":
    """The configuration of a stock network with the cameras that were asked for."""
    heads = command.camera_heads or max(1, stock.num_attention_heads // 6)
    heads = 0 if command.camera in ("additive", "none") else heads
    mode = "per_frame" if heads else "joint"
    return replace(stock, camera=command.camera, camera_heads=heads, context_mode=mode)


def _shapes(name: str, config: "TransformerConfig") -> dict[str, tuple[int, ...]]:
    """Tensors of a network of that class."""
    import torch

    from context_as_memory.adapters.shards import shapes_of
    from context_as_memory.weights import NETWORKS

    with torch.device("meta"):
        return shapes_of(NETWORKS[name][0](config))


def _shift(base: Path) -> float:
    """How far the pipeline's own scheduler moves noise levels."""
    from context_as_memory.weights import read_object

    path = base / "scheduler" / "scheduler_config.json"
    told = read_object(path, "backbone") if path.exists() else {}
    return float(told.get("flow_shift") or told.get("shift") or 5.0)


def _save_added(folder: Path, name: str, config: "TransformerConfig", shards: "Shards") -> None:
    """Write the configuration, and the tensors that stock weights lack, as they begin."""
    from safetensors.torch import save_file

    from context_as_memory.adapters.wan import added_tensors
    from context_as_memory.formats.files import atomic, write_text
    from context_as_memory.weights import MEMORY_FILE

    write_text(folder / "config.json", json.dumps({"_class_name": name} | asdict(config), indent=2) + "\n")
    tensors: dict[str, Tensor] = added_tensors(config, shards)
    if tensors:
        with atomic(folder / MEMORY_FILE) as partial:
            save_file(tensors, partial)


def _save_decoder(path: Path, base: Path, folder: Path) -> None:
    """Copy a tiny decoder into a model, if it is made for latents of this backbone."""
    from context_as_memory.adapters.tiny_decoder import FOLDER, check_fit, open_tiny_decoder
    from context_as_memory.adapters.wan import spatial_factor
    from context_as_memory.weights import component, read_object, save_pretrained

    vae = read_object(component(base, "vae") / "config.json", "backbone")
    if vae.get("_class_name") != "AutoencoderKLWan":
        raise UserError(f"decoder: the codec of {base} is a {vae.get('_class_name')}; tiny decoders are for Wan's")
    decoder = open_tiny_decoder(path)
    frames = 2 ** sum(vae.get("temperal_downsample", (False, True, True)))  # (sic)
    check_fit(decoder, int(vae.get("z_dim", 16)), spatial_factor(vae), frames)
    save_pretrained(decoder, folder / FOLDER, dtype=None)


def _merge(model: Path, base: Path, folder: Path) -> None:
    """A model with all that it refers to, in a folder."""
    from context_as_memory.adapters.tiny_decoder import FOLDER as DECODER
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
    if stock is not None and type(network) is WorldTransformer:
        write_text(folder / "transformer" / "config.json", json.dumps(stock, indent=2) + "\n")
    for part in PARTS:
        found = component(model, part)
        if not found.is_dir() and (base / part).is_dir():
            found = base / part
        if found.is_dir() and not (folder / part).exists():
            shutil.copytree(found, folder / part)
    for part in ("text", DECODER):
        if (model / part).is_dir() and not (folder / part).exists():
            shutil.copytree(model / part, folder / part)
    settings.pop("backbone", None)
    write_text(folder / MODEL_FILE, json.dumps(settings, indent=2) + "\n")


def run(command: Adapt) -> int:
    """`cam adapt`."""
    print(adapt(command))
    return 0
