"""Tiny random pipelines in the public layouts of Wan, saved by diffusers itself: a folder each, whole and sharded.

`t2v` is laid out as Wan2.1-T2V-1.3B, `ti2v` as Wan2.2-TI2V-5B: channels, factors, patches, class names and files are
theirs, everything else is small. What a network of ours makes of such a folder is compared with what diffusers makes.
"""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

KINDS = ("t2v", "ti2v")
SIZE = {"t2v": (32, 32), "ti2v": (64, 64)}  # width and height of pictures: 2 x 2 tokens a latent
CHANNELS = {"t2v": 16, "ti2v": 48}
TEXT_DIM, HEADS, HEAD_DIM = 32, 2, 128
REAL: dict[str, dict[str, Any]] = {  # the public configurations of the transformers
    "t2v": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "in_channels": 16, "out_channels": 16},
    "ti2v": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
}


def transformer(kind: str, seed: int = 0) -> Any:
    """A random `WanTransformer3DModel` of two layers."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    model: Any = WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=CHANNELS[kind], out_channels=CHANNELS[kind],
        text_dim=TEXT_DIM, freq_dim=256, ffn_dim=512, num_layers=2,
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # which would otherwise be 0 or 1, and hide mistakes
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def vae(kind: str, seed: int = 0) -> Any:
    """A random `AutoencoderKLWan`: 16 channels and 8 times smaller, or 48 and 16 times."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(seed)
    config: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
    if kind == "ti2v":
        config |= {"z_dim": 48, "decoder_base_dim": 12, "is_residual": True, "patch_size": 2, "in_channels": 12}
        config |= {"out_channels": 12, "scale_factor_spatial": 16}
        config |= {"latents_mean": torch.linspace(-0.2, 0.2, 48).tolist()}
        config |= {"latents_std": torch.linspace(0.3, 0.9, 48).tolist()}
    made: Any = AutoencoderKLWan(**config)
    return made.eval()


def text_encoder(seed: int = 0) -> Any:
    """A random UMT5 encoder of two layers."""
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": TEXT_DIM, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return UMT5EncoderModel(UMT5Config(vocab_size=len(_pieces()), **sizes)).eval()


@cache
def _pieces() -> list[tuple[str, float]]:
    letters = [chr(code) for code in range(33, 127)]
    words = ["▁", *("▁" + word for word in ("a", "an", "the", "old", "temple", "room", "of", "stone", "red", "blue"))]
    scores = [(piece, -2.0 - 0.01 * number) for number, piece in enumerate(words)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores, *((letter, -6.0) for letter in letters)]


def tokenizer() -> Any:
    """A tokenizer of words and letters in the class of Wan's."""
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=_pieces(), extra_ids=0)


def save_pipeline(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a whole `WanPipeline`; the transformer lies in several files with an index."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    shift = 5.0 if kind == "ti2v" else 3.0
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    parts = {"tokenizer": tokenizer(), "text_encoder": text_encoder(seed), "vae": vae(kind, seed)}
    pipeline: Any = WanPipeline(
        **parts, scheduler=scheduler, transformer=transformer(kind, seed), expand_timesteps=kind == "ti2v"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(folder, max_shard_size="2MB")
    return folder


def adapted(pipeline: Path, out: Path, kind: str, **changes: Any) -> Path:
    """A model of a tiny pipeline by `cam adapt`."""
    from context_as_memory.cli.adapt import Adapt, adapt

    width, height = SIZE[kind]
    adapt(Adapt(backbone=str(pipeline), out=out, **{"size": f"{width}x{height}", **changes}))
    return out
