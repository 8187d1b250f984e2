"""Checkpoints in Wan's original names: one file or several, safetensors or pickles of plain tensors, with any prefix.

Most people who train Wan further publish such a file, without a configuration. Its names become those of diffusers,
which are ours too, and its sizes follow from the shapes of its tensors.
"""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from context_as_memory.adapters.hub import fetch, is_hub_name
from context_as_memory.adapters.shards import INDEX_FILE, WEIGHTS_FILE, Shards, open_file
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, check_plain, read_json, write_text

_ANCHOR = "patch_embedding.weight"  # every Wan network has this one; what stands before it is the prefix
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_HEAD_DIM = 128  # of every public Wan network
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_PARTS = {  # beginnings of names in Wan's own code, and in diffusers
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_IN_BLOCK = {
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",  # the only norm with weights
    "modulation": "scale_shift_table",
    "action_mlp.proj": "action_mlp",  # Echo-Memory
    "prope_attn.q_proj": "prope_attn.to_q",  # Memorizon
    "prope_attn.k_proj": "prope_attn.to_k",
    "prope_attn.v_proj": "prope_attn.to_v",
    "prope_attn.out_proj": "prope_attn.to_out",
}
_LAYERS = {"self_attn": "attn1", "cross_attn": "attn2", "self_attn_with_action": "action_attn"}


def translated(name: str) -> str:
    """The name of a tensor here, given the one in Wan's own code; every other name stays as it is."""
    block = re.fullmatch(r"(blocks\.\d+\.)(.+)", name)
    start, rest = (block.group(1), block.group(2)) if block else ("", name)
    layer = re.fullmatch(r"(self_attn|cross_attn|self_attn_with_action)\.([qkvo]|norm_[qk])(\..+)", rest)
    if layer and start:
        return f"{start}{_LAYERS[layer.group(1)]}.{_ATTENTION.get(layer.group(2), layer.group(2))}{layer.group(3)}"
    for old, new in (_IN_BLOCK if start else _PARTS).items():
        if rest == old or rest.startswith(old + "."):
            return start + new + rest[len(old) :]
    return name


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint under our names; read one file after the other."""

    path: Path
    names: dict[str, str]  # ours -> theirs
    files: Shards | None  # safetensors
    loaded: dict[str, Tensor]  # a pickle's tensors, mapped from the file; empty for safetensors
    settings: dict[str, Any]  # of the config.json beside it; empty if there is none

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by our names."""
        if self.files is None:
            return {ours: tuple(self.loaded[theirs].shape) for ours, theirs in self.names.items()}
        return {ours: self.files.shapes[theirs] for ours, theirs in self.names.items()}

    def parts(self) -> Iterator[dict[str, Tensor]]:
        """The tensors under our names, as they are stored (shapes: [...]), some at a time."""
        ours = {theirs: name for name, theirs in self.names.items()}
        for part in [self.loaded] if self.files is None else self.files.parts():
            yield {ours[name]: value for name, value in part.items() if name in ours}

    def save(self, folder: Path) -> None:
        """Write the tensors as a network's folder holds them: a file for each part, and their index. `UserError` for
        values that are not finite."""
        folder.mkdir(parents=True, exist_ok=True)
        places: dict[str, str] = {}
        size = 0
        for number, part in enumerate(self.parts()):
            file = WEIGHTS_FILE.replace(".safetensors", f"-{number + 1:05d}.safetensors")
            for name, value in part.items():
                if not bool(value.isfinite().all()):
                    raise UserError(f"checkpoint: {self.path}: {self.names[name]} has values that are not finite")
                size += value.numel() * value.element_size()
            with atomic(folder / file) as partial:
                save_file({name: value.contiguous() for name, value in part.items()}, partial)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def open_checkpoint(name: str | Path) -> Checkpoint:
    """A checkpoint by its file, its folder, or a folder's name on the hub; only headers are read of safetensors.

    Raises `UserError` where there is none, where it is no network of Wan's kind, or holds several.
    """
    path = Path(name)
    if not path.exists():
        if not is_hub_name(str(name)):
            raise UserError(f"checkpoint: {path} is missing; give a file of weights, or its folder")
        path = fetch(str(name))
    settings = _settings(path if path.is_dir() else path.parent)
    files = _weights_in(path) if path.is_dir() else [path]
    if files[0].suffix == ".safetensors":
        found, loaded = Shards({}, {}), {}
        for file in files:
            part = open_file(file)
            if twice := sorted(set(part.files) & set(found.files)):
                raise UserError(f"checkpoint: {twice[0]} is in two files of {path}; give the file that is meant")
            found = Shards(found.files | part.files, found.shapes | part.shapes)
        stored = list(found.files)
    else:
        found, loaded = None, unpickled(files, path)
        stored = list(loaded)
    names = _without_prefix(stored, path)
    if image := sorted(name for name in names if name.startswith(("img_emb.", "condition_embedder.image_embedder."))):
        raise UserError(f"checkpoint: {path} has {image[0]}: an image-to-video variant, which is not supported")
    return Checkpoint(path, names, found, loaded, settings)


def _settings(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint's folder."""
    if not (folder / "config.json").exists():
        return {}
    values = read_json(folder / "config.json")
    if not isinstance(values, dict):
        raise UserError(f"checkpoint: {folder / 'config.json'} holds no JSON object")
    return values


def _weights_in(folder: Path) -> list[Path]:
    """Files of weights in a folder: safetensors if there are any, else pickles, those of codec and words left out."""
    for kinds in ((".safetensors",), _PICKLES):
        files = [path for path in sorted(folder.iterdir()) if path.suffix in kinds]
        files = [path for path in files if not re.search(r"vae|t5|clip|training_args", path.name, re.IGNORECASE)]
        if files:
            return files
    raise UserError(f"checkpoint: no weights in {folder}; give the file itself, or a folder that holds it")


def unpickled(files: list[Path], path: Path) -> dict[str, Tensor]:
    """Tensors [...] of pickles, which may hold nothing else that runs; what lies in dictionaries is named by them.
    `UserError` for a file that is damaged or holds more."""
    tensors: dict[str, Tensor] = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                collect(inner, f"{name}.{key}" if name else str(key))

    for file in files:
        check_plain(file)
        try:
            collect(torch.load(file, map_location="cpu", weights_only=True, mmap=True), "")
        except pickle.UnpicklingError as error:
            raise UserError(
                f"checkpoint: {file} holds more than tensors, and is not run; save its state_dict alone as safetensors"
            ) from error
        except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError) as error:
            why = " ".join(str(error).split())[:120]
            raise UserError(f"checkpoint: {file} cannot be read as weights ({why}); fetch it again") from error
    if not tensors:
        raise UserError(f"checkpoint: {path} holds no tensors")
    return tensors


def _without_prefix(stored: list[str], path: Path) -> dict[str, str]:
    """Our names of the tensors of the one network in a checkpoint, and theirs."""
    prefixes = sorted(name.removesuffix(_ANCHOR) for name in stored if name == _ANCHOR or name.endswith("." + _ANCHOR))
    if not prefixes:
        raise UserError(f"checkpoint: {path} has no {_ANCHOR}: it holds no network of Wan's kind")
    if len(prefixes) > 1:
        told = ", ".join(repr(prefix.rstrip(".")) for prefix in prefixes[:4])
        raise UserError(f"checkpoint: {path} holds several networks ({told}); save the one that is meant alone")
    return {translated(name.removeprefix(prefixes[0])): name for name in stored if name.startswith(prefixes[0])}


def sizes_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The `WanTransformer3DModel` config of a checkpoint, from the shapes of its tensors. `UserError` where one that
    tells a size is missing."""
    shapes = checkpoint.shapes
    wanted = {
        _ANCHOR: 5,
        "blocks.0.ffn.net.0.proj.weight": 2,
        "condition_embedder.text_embedder.linear_1.weight": 2,
        "condition_embedder.time_embedder.linear_1.weight": 2,
        "proj_out.weight": 2,
    }
    for name, sides in wanted.items():
        if name not in shapes:
            raise UserError(f"checkpoint: {checkpoint.path} lacks {name}: it holds no whole network of Wan's kind")
        if len(shapes[name]) != sides:
            raise UserError(f"checkpoint: {checkpoint.path}: {name} has shape {shapes[name]}, not {sides} sides")
    patch, width, ffn, text, time, out = (
        shapes[_ANCHOR],
        shapes[_ANCHOR][0],
        *(shapes[name] for name in wanted if name != _ANCHOR),
    )
    heads = int(checkpoint.settings.get("num_heads") or width // _HEAD_DIM)
    if heads < 1 or width % heads:
        raise UserError(f"checkpoint: {checkpoint.path}: a width of {width} is no multiple of {heads or _HEAD_DIM}")
    numbers = [int(found.group(1)) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))]
    area = patch[2] * patch[3] * patch[4]
    return {
        "patch_size": list(patch[2:]),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": patch[1],
        "out_channels": out[0] // area,
        "text_dim": text[1],
        "freq_dim": time[1],
        "ffn_dim": ffn[0],
        "num_layers": len(set(numbers)),
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "eps": float(checkpoint.settings.get("eps", 1e-6)),
    }
