"""Which network a checkpoint in Wan's names holds, and how its makers use it."""

from dataclasses import dataclass, field
from typing import Any

from context_as_memory.adapters.echo import EchoConfig
from context_as_memory.adapters.memorizon import MemorizonConfig
from context_as_memory.adapters.original import Checkpoint, sizes_of
from context_as_memory.adapters.wan import from_diffusers_config
from context_as_memory.errors import UserError
from context_as_memory.transformer import TransformerConfig

_PLAIN = (None, "t2v", "ti2v")  # `model_type` of networks without a camera of their own


@dataclass(frozen=True)
class PublishedNetwork:
    """A network that somebody trained: its class here, its sizes, and settings that its makers use it with."""

    class_name: str
    config: TransformerConfig
    size: str | None = None  # of its pictures
    context: int | None = None  # frames in its context, the recent one included
    settings: dict[str, Any] = field(default_factory=dict)  # of `model.json`
    told: str | None = None  # what its user must know


def recognise(checkpoint: Checkpoint) -> PublishedNetwork:
    """What a checkpoint holds: plain Wan, Memorizon, or Echo-Memory with frames as context. `UserError` for others."""
    kind, shapes = checkpoint.settings.get("model_type"), checkpoint.shapes
    has_branch = "blocks.0.prope_attn.to_q.weight" in shapes
    if kind not in (*_PLAIN, "memorizon"):
        raise UserError(f"checkpoint: config.json of {checkpoint.path} says model_type {kind!r}; memorizon is known, "
                        "and plain Wan: t2v, ti2v")  # fmt: skip
    if has_branch != (kind == "memorizon"):
        what = "is no Memorizon checkpoint: it has no camera branch" if not has_branch else "has a camera branch"
        mend = "check its config.json" if not has_branch else 'put its config.json beside it, model_type "memorizon"'
        raise UserError(f"checkpoint: {checkpoint.path} {what}; {mend}")
    sizes = sizes_of(checkpoint)
    if has_branch:
        return _memorizon(checkpoint, sizes)
    if "blocks.0.action_mlp.weight" in shapes:
        return _echo(checkpoint, sizes)
    return PublishedNetwork("WorldTransformer", from_diffusers_config(sizes))


def _memorizon(checkpoint: Checkpoint, sizes: dict[str, Any]) -> PublishedNetwork:
    told = checkpoint.settings
    try:
        compress = int(told.get("camera_compress", 8))
        heads, wide = max(1, sizes["num_attention_heads"] // compress), _width(sizes) // compress
        codes = [float(told.get(f"camera_freq_{name}", usual)) for name, usual in (("base", 100.0), ("scale", 1.0))]
        guidance = float(told.get("default_guidance_scale", 4.0))
        settings = {
            "chunk_latents": int(told.get("chunk_size", 4)),
            "num_steps": int(told.get("default_num_steps", 20)),
            "shift": float(told.get("scheduler_shift", 3.0)),
            "guidance": guidance if guidance > 0 else 1.0,  # none is 0 there, 1 here
            "multistep": False,
        }
        size = f"{int(told.get('image_width', 864))}x{int(told.get('image_height', 480))}"
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"checkpoint: config.json of {checkpoint.path} describes no Memorizon ({error})") from error
    inner = checkpoint.shapes["blocks.0.prope_attn.to_q.weight"][0]
    if inner != wide or inner % heads or (inner // heads) % 8:
        raise UserError(
            f"checkpoint: {checkpoint.path} has a camera branch {inner} wide, its config.json asks for {wide} in "
            f"{heads} heads; check camera_compress there"
        )
    config = from_diffusers_config(sizes)
    own = {"branch_heads": heads, "branch_head_dim": inner // heads}
    own |= {"branch_freq_base": codes[0], "branch_freq_scale": codes[1]}
    return PublishedNetwork(
        "MemorizonTransformer",
        MemorizonConfig(**_fields(config), **own),
        size,
        7,
        settings,
        "Memorizon remembers latents of its own stream; here it is given remembered pictures, each encoded alone",
    )


def _echo(checkpoint: Checkpoint, sizes: dict[str, Any]) -> PublishedNetwork:
    shape = checkpoint.shapes["blocks.0.action_mlp.weight"]
    if shape[1:] != (12,):
        raise UserError(
            f"checkpoint: {checkpoint.path} takes {shape[-1]} numbers a frame, not the 12 of a pose; only Echo-Memory "
            "with camera poses is known"
        )
    settings = {"chunk_latents": 20, "num_steps": 50, "shift": 5.0, "guidance": 5.0, "multistep": False}
    return PublishedNetwork(
        "EchoTransformer",
        EchoConfig(**_fields(from_diffusers_config(sizes))),
        "640x352",
        1,
        settings,
        "context_k1 was trained with one frame of context, the recent one; give --context for others, as in 20",
    )


def _width(sizes: dict[str, Any]) -> int:
    return int(sizes["num_attention_heads"] * sizes["attention_head_dim"])


def _fields(config: TransformerConfig) -> dict[str, Any]:
    """Sizes of stock Wan, for a class that adds to them."""
    return {name: getattr(config, name) for name in TransformerConfig.__dataclass_fields__}
