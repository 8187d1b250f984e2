"""Checkpoints in the names of public projects, with numbers that follow from the names alone.

The same numbers were given to the projects' own modules, once; what those answered lies in `published.npz`.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, FFN, LAYERS, TEXT, FREQ = 256, 320, 2, 32, 64
TINY = {"width": WIDTH, "ffn": FFN, "layers": LAYERS, "text": TEXT, "freq": FREQ, "compress": 2}
_PUBLIC = {"width": 1536, "ffn": 8960, "layers": 30, "text": 4096, "freq": 256}
REAL = {  # the public sizes
    "wan": _PUBLIC, "echo": _PUBLIC, "memorizon": _PUBLIC | {"width": 3072, "ffn": 14336, "compress": 8}
}  # fmt: skip
CHANNELS = {"wan": 16, "echo": 16, "memorizon": 48}
MEMORIZON = {
    "model_type": "memorizon", "base_model": "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "image_width": 64, "image_height": 64,
    "chunk_size": 2, "scheduler_shift": 3.0, "camera_compress": 2, "camera_freq_base": 100.0,
    "camera_freq_scale": 1.0,
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers of a tensor: by its name."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("bias"):
        return torch.from_numpy(0.1 * numbers)
    if "norm" in name:
        return torch.from_numpy(1 + 0.1 * numbers)
    return torch.from_numpy(numbers / np.sqrt(np.prod(shape[1:])).astype(np.float32))


def _linear(name: str, out: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def _attention(name: str, width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for layer in "qkvo":
        found |= _linear(f"{name}.{layer}", width, width)
    return found | {f"{name}.norm_q.weight": (width,), f"{name}.norm_k.weight": (width,)}


def _wan(channels: int, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a text-to-video network in Wan's own names."""
    width, ffn, layers, text, freq = (sizes[name] for name in ("width", "ffn", "layers", "text", "freq"))
    found: dict[str, tuple[int, ...]] = {"patch_embedding.weight": (width, channels, 1, 2, 2)}
    found |= {"patch_embedding.bias": (width,)}
    found |= _linear("text_embedding.0", width, text) | _linear("text_embedding.2", width, width)
    found |= _linear("time_embedding.0", width, freq) | _linear("time_embedding.2", width, width)
    found |= _linear("time_projection.1", 6 * width, width)
    for block in (f"blocks.{number}." for number in range(layers)):
        found |= _attention(block + "self_attn", width) | _attention(block + "cross_attn", width)
        found |= {block + "norm3.weight": (width,), block + "norm3.bias": (width,)}
        found |= _linear(block + "ffn.0", ffn, width) | _linear(block + "ffn.2", width, ffn)
        found |= {block + "modulation": (1, 6, width)}
    return found | {"head.modulation": (1, 2, width)} | _linear("head.head", 4 * channels, width)


def diffusers_name(name: str) -> str:
    """The name that diffusers gives a tensor, written anew here: the loader is compared with it."""
    table = {
        ".self_attn.": ".attn1.", ".cross_attn.": ".attn2.", ".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.",
        ".o.": ".to_out.0.", ".ffn.0.": ".ffn.net.0.proj.", ".ffn.2.": ".ffn.net.2.", ".norm3.": ".norm2.",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj", "head.head": "proj_out", "head.modulation":
        "scale_shift_table", ".modulation": ".scale_shift_table",
    }  # fmt: skip
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def shapes(kind: str, sizes: dict[str, int] = TINY) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint of `wan`, `echo` or `memorizon`, in the project's names."""
    found, width = _wan(CHANNELS[kind], sizes), sizes["width"]
    if kind == "memorizon":
        found = {"model." + diffusers_name(name): shape for name, shape in found.items()}
    for number in range(sizes["layers"]):
        if kind == "echo":
            found |= _attention(f"blocks.{number}.self_attn_with_action", width)
            found |= _linear(f"blocks.{number}.action_mlp.proj", width, 12)
        if kind == "memorizon":
            branch, narrow = f"model.blocks.{number}.prope_attn.", width // sizes["compress"]
            found |= {branch + "norm.weight": (width,), branch + "norm.bias": (width,)}
            found |= {branch + f"{part}_proj.weight": (narrow, width) for part in "qkv"}
            found |= {branch + "out_proj.weight": (width, narrow)}
    return found


def tensors(kind: str) -> dict[str, torch.Tensor]:
    """A tiny checkpoint."""
    return {name: draw(name, shape) for name, shape in shapes(kind).items()}


def save(folder: Path, kind: str) -> Path:
    """The checkpoint as a folder: what its project publishes."""
    folder.mkdir(parents=True)
    files = {"wan": "diffusion_pytorch_model", "echo": "epoch-0", "memorizon": "model"}
    save_file(tensors(kind), folder / f"{files[kind]}.safetensors")
    if kind == "memorizon":
        (folder / "config.json").write_text(json.dumps(MEMORIZON))
    return folder


def inputs(kind: str, context: int, targets: int = 2) -> dict[str, Any]:
    """Noisy targets, clean context, words, and cameras: poses [F, 4, 4] in metres, one lens in image units [-1, 1]."""
    random = np.random.RandomState(7)
    latents = random.standard_normal((1, CHANNELS[kind], context + targets, 4, 4)).astype(np.float32)
    words = random.standard_normal((1, 5, TEXT)).astype(np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (context + targets, 1, 1))
    for pose in poses:
        angle = random.uniform(-1, 1)
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[:3, 3] = random.uniform(-2, 2, 3) * (1, 0, 1)
    return {
        "noisy": torch.from_numpy(latents[:, :, context:]),
        "context": torch.from_numpy(latents[:, :, :context]),
        "words": torch.from_numpy(words),
        "target_c2w": torch.from_numpy(poses[context:])[None],
        "context_c2w": torch.from_numpy(poses[:context])[None],
        "lens": torch.tensor([1.0, 1.1, 0.05, -0.1]),
        "timestep": torch.tensor([600.0]),
    }
