"""Model folders as training sees them: whose codec, which words, where it starts, and what it leaves behind."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from context_as_memory.adapters import lora
from context_as_memory.adapters.backbone import described
from context_as_memory.adapters.shards import has_weights
from context_as_memory.adapters.text import open_words
from context_as_memory.adapters.tiny_decoder import FOLDER as DECODER
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.compute import fast
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, read_text, write_text
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import (
    MEMORY_FILE,
    MODEL_FILE,
    backbone_of,
    component,
    from_pretrained,
    open_codec,
    read_object,
    read_settings,
    resolve,
    save_pretrained,
)


def codec_folder(folder: Path) -> Path:
    """Where the codec of a model folder lies, in it or in its backbone; any other folder is taken for a codec."""
    vae = component(Path(folder), "vae")
    return vae if vae.is_dir() else Path(folder)


def quick_codec(folder: Path, device: torch.device) -> Any:
    """The codec in a folder, ready to encode there. Codecs of videos encode in fp32: rounding in their encoders adds up
    over a walk."""
    codec: Any = open_codec(folder)
    return fast(codec, device) if codec.temporal_factor == 1 else codec.to(device)


def words_of_model(folder: Path) -> Callable[[str], Tensor] | None:
    """What turns prompts into rows [L, D], for a model that reads words; None for others."""
    config = Path(folder) / "transformer" / "config.json"
    if not config.exists() or (width := read_object(config, "weights").get("text_dim")) is None:
        return None
    return open_words(Path(folder), backbone_of(folder), int(width)).rows


def to_go_on_from(init: str | Path | None) -> Path:
    """Folder of the model that a stage goes on from; `UserError` if none is named."""
    if init is None:
        raise UserError("training: this recipe goes on from weights that are there; name their model with --init")
    return resolve(init)


def export_with_codec(start: Path, codec: ImageAutoencoder, folder: Path) -> None:
    """Write the model of `start` with another codec into `folder`; `model.json` comes last and makes it a model."""
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    for path in sorted((start / "transformer").iterdir()):
        with atomic(folder / "transformer" / path.name) as partial:
            shutil.copyfile(path, partial)
    save_pretrained(codec, folder / "vae")
    write_text(folder / MODEL_FILE, read_text(start / MODEL_FILE))


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What is trained of a public model. What memory adds to it (camera heads and the like) is trained in fp32."""

    rank: int = 32  # of the matrices beside its own weights (LoRA), which then stay as they are; 0: train them all
    alpha: float = 32.0  # the matrices count alpha / rank times
    added: bool = True  # train what memory adds; False: the matrices only


def start_network(init: str | Path, adaptation: Adaptation, dtype: torch.dtype) -> WorldTransformer:
    """The network of a model folder, ready to be trained; what stays as it is has this number format.

    `UserError` for a folder whose own matrices were not merged yet.
    """
    folder = resolve(init)
    if (folder / "transformer" / lora.FILE).exists():
        raise UserError(
            f"training: {init} has LoRA matrices of its own; make them part of it first: cam adapt --merge "
            f"--backbone {init} --out NEW, then --init NEW"
        )
    if adaptation.rank and has_weights(folder / "transformer") and backbone_of(folder) is not None:
        raise UserError(
            f"training: {init} has weights of its own beside a backbone's, and matrices beside them would lose one of "
            f"the two; make a model of both first: cam adapt --merge --backbone {init} --out NEW, then --init NEW"
        )
    network: WorldTransformer = from_pretrained(folder / "transformer", expect=WorldTransformer, dtype=dtype)
    network.requires_grad_(True)
    if adaptation.rank:
        lora.inject(network, adaptation.rank, adaptation.alpha)
        for name, parameter in network.named_parameters():
            if lora.is_added(name) and not adaptation.added:
                parameter.requires_grad_(False)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return network


def export_adapted(
    network: WorldTransformer, state: Mapping[str, Tensor], settings: dict[str, Any], init: str | Path, folder: Path
) -> None:
    """Write a model folder that refers to the backbone of `init`: only what was trained, and how it is used.

    state: the trained parameters [...] by name, whole. settings: changes of those of `init`.
    """
    start = resolve(init)
    place = folder / "transformer"
    place.mkdir(parents=True, exist_ok=True)
    if any("lora_" in name for name in state):
        everything = {name: value.detach().cpu() for name, value in network.named_parameters() if lora.is_added(name)}
        added = everything | {name: value for name, value in state.items() if lora.is_added(name)}
        with atomic(place / MEMORY_FILE) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in added.items()}, partial)
        lora.save(network, place, dict(state))
        config = {"_class_name": type(network).__name__} | asdict(network.config)
        write_text(place / "config.json", json.dumps(config, indent=2) + "\n")
    else:
        save_pretrained(network, place, state=dict(state), dtype=torch.bfloat16)
    for part in ("text", DECODER):
        if (start / part).is_dir():
            shutil.copytree(start / part, folder / part, dirs_exist_ok=True)
    base = backbone_of(start) or start  # a model that stands alone is a backbone itself
    values = read_settings(start) | settings | {"backbone": described(base, base, folder)}
    write_text(folder / MODEL_FILE, json.dumps(values, indent=2) + "\n")
