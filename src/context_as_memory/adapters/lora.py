"""LoRA: small changes of large weights, through peft while training, and in the files of diffusers' pipelines.

A changed product is W x + alpha / r B A x. Trainers differ in what they take alpha to be, and a wrong one scales the
change without a word; so it stands in the header of every file written here, and files without it are refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from context_as_memory.errors import UserError, install
from context_as_memory.formats.files import atomic

FILE = "pytorch_lora_weights.safetensors"
# All products of a block but those of the camera heads, which are trained themselves.
TARGETS = r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
_HEADER = "lora_adapter_metadata"  # of diffusers: JSON of peft's settings, each with the component's name before it
_COMPONENT = "transformer."


@dataclass(frozen=True)
class Lora:
    """Matrices A [r, in] and B [out, r] by the name of the product that they change, and their scale alpha / r."""

    matrices: dict[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def inject(model: nn.Module, rank: int, alpha: float, targets: str = TARGETS) -> None:
    """Put matrices that begin as nothing beside the products whose names match `targets`. Only they, and what a
    backbone lacks (camera heads and the like), have gradients from then on."""
    peft = _peft()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_added(name))
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name or is_added(name):
            parameter.requires_grad_(True)


_ADDED = ("camera_heads.", "pixel_embedding.", "camera_encoder.", "prope_attn.", "action_attn.", "action_mlp.")


def is_added(name: str) -> bool:
    """Whether a parameter is one that stock weights of Wan lack."""
    return any(part in name for part in _ADDED)


def save(model: nn.Module, folder: Path, averaged: dict[str, Tensor] | None = None) -> Path:
    """Write the matrices that `inject` made, as `WanPipeline.load_lora_weights` reads them; returns the file.

    averaged: other values of them, [rank, in] and [out, rank], by the names of the model's parameters.
    """
    state, configs = _peft().get_peft_model_state_dict(model, averaged), cast(Any, model.peft_config)
    settings = configs["default"]
    told = {"r": settings.r, "lora_alpha": settings.lora_alpha, "target_modules": settings.target_modules}
    header = {"format": "pt", _HEADER: json.dumps({_COMPONENT + key: value for key, value in told.items()})}
    tensors = {_COMPONENT + key: value.detach().cpu().contiguous() for key, value in state.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with atomic(Path(folder) / FILE) as partial:
        save_file(tensors, partial, header)
    return Path(folder) / FILE


def load(model: nn.Module, folder: Path) -> None:
    """`inject`, with the matrices of a file, to train them further."""
    found = read(folder)
    inject(model, found.rank, found.alpha)
    known: dict[str, Tensor] = {}
    for name, (a, b) in found.matrices.items():
        known |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    told = _peft().set_peft_model_state_dict(model, known)
    if told.unexpected_keys:
        raise UserError(f"lora: {folder} changes {told.unexpected_keys[0]}, which this network does not have")


def read(folder: Path) -> Lora:
    """The matrices of a folder or file. Raises `UserError` for files without alpha, or of another kind."""
    path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    try:
        with safe_open(path, framework="pt") as file:
            header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        told: dict[str, Any] = json.loads(header.get(_HEADER, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"lora: {path} cannot be read ({error})") from error
    rank, alpha = told.get(_COMPONENT + "r"), told.get(_COMPONENT + "lora_alpha")
    if not rank or alpha is None:
        raise UserError(
            f"lora: {path} does not say its rank and alpha, and a wrong alpha scales it without a word; save it with "
            f"its header ({_HEADER}), as diffusers' save_lora_weights does when it is given the adapter's metadata"
        )
    matrices: dict[str, tuple[Tensor, Tensor]] = {}
    for key in sorted(tensors):
        if key.endswith(".lora_A.weight"):
            other = key.replace(".lora_A.", ".lora_B.")
            if other not in tensors:
                raise UserError(f"lora: {path} has {key} without {other}")
            name = key.removeprefix(_COMPONENT).removesuffix(".lora_A.weight")
            matrices[name] = tensors[key], tensors[other]
        elif not key.endswith(".lora_B.weight"):
            raise UserError(f"lora: {path} has {key}; only lora_A and lora_B matrices are read")
    return Lora(matrices, int(rank), float(alpha))


@torch.no_grad()
def merge(model: nn.Module, found: Lora) -> None:
    """Add the changes to the weights themselves, for good."""
    for name, (a, b) in found.matrices.items():
        try:
            weight = model.get_parameter(name + ".weight")
        except AttributeError:
            raise UserError(f"lora: it changes {name}, which this network does not have") from None
        change = found.scale * (b.float() @ a.float())
        if change.shape != weight.shape:
            raise UserError(
                f"lora: {name} is {list(weight.shape)}, its change {list(change.shape)}: of another network"
            )
        weight.copy_(weight.float() + change.to(weight.device))


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(f"LoRA needs peft: {install('wan')}") from error
    return peft
