"""How much arithmetic a step of training is, and how much of a device's rate it uses."""

import math
import time
from collections.abc import Sequence
from functools import cache

import torch

from context_as_memory.transformer import TransformerConfig


def step_flops(
    config: TransformerConfig,
    pool: Sequence[int],
    targets: Sequence[int],
    slots: int,
    words: int = 0,
    passes: float = 3.0,
) -> float:
    """Floating-point operations of the blocks' matrix products and attention in one batch.

    pool, targets: shapes of the latents, [S, C, M, h, w] and [N, C, P, h, w]. slots: context frames of a chunk.
    words: rows of a prompt. passes: how often a product is computed; 3 is forwards, and backwards for inputs and for
    weights.
    """
    width, inner = config.width, (config.num_attention_heads + config.camera_heads) * config.attention_head_dim
    linear = 2 * (4 * width * inner + 2 * width * config.ffn_dim)  # of a token
    if config.text_dim is not None:
        linear += 2 * 2 * width**2 + 4 * words * width
    total = 0.0
    for shape, frames_seen in ((pool, 1), (targets, targets[2] + slots)):
        frame = math.prod(shape[3:]) // math.prod(config.patch_size)  # tokens
        total += shape[0] * shape[2] * frame * (linear + 4 * frames_seen * frame * inner)
        if config.text_dim is not None:
            total += shape[0] * words * 2 * 2 * width**2  # keys and values of the prompts
    return passes * config.num_layers * total


@cache
def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second that this device reaches in products of large matrices, measured once for about so long. On a
    GPU the matrices take 0.8 GB in fp32."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(2):  # the first chooses a kernel
        a @ b
    _wait(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(3):
            a @ b
        count += 3
        _wait(device)
    return 2 * size**3 * count / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
