"""What this machine computes fastest: a number format and an attention kernel.

CPUs differ by an order of magnitude here: with bf16 instructions bf16 is several times faster than fp32, without them
several times slower; and torch's fused attention loses to two plain matrix products on some CPUs and wins on others.
The choice must not depend on what else a machine is doing, since a world that is opened again has to go on bit by bit.
"""

import os
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

AttentionKernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

_CLEARLY = 1.5  # times faster than the other: what a busy machine does not feign
_QUERY_BLOCK = 120  # rows of the score matrix at a time: keeps a block of scores inside the second-level cache


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Torch's own kernel. q [B, h, Nq, d], k and v [B, h, Nk, d], bias broadcastable to [B, h, Nq, Nk] or None."""
    return scaled_dot_product_attention(q, k, v, attn_mask=bias)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Two batched matrix products and a softmax over blocks of queries; equal to `fused_attention`."""
    scale = q.shape[-1] ** -0.5
    keys = k.transpose(-1, -2)
    blocks = []
    for start in range(0, q.shape[-2], _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        scores = torch.matmul(q[..., rows, :] * scale, keys)
        if bias is not None:
            scores = scores + (bias if bias.shape[-2] == 1 else bias[..., rows, :])
        blocks.append(torch.matmul(scores.softmax(dim=-1), v))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def _best_of(run: Callable[[], object], budget_s: float) -> float:
    run()  # the first call pays for buffers and thread pools
    best, spent = float("inf"), 0.0
    while spent < budget_s:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        spent += time.perf_counter() - start
    return best


@cache
def attention_kernel(device: str, dtype: torch.dtype, head_dim: int) -> AttentionKernel:
    """The kernel for this device, number format and head width: torch's own on GPUs, on CPUs the blocked one unless the
    other wins clearly in a trial of about 50 ms."""
    if torch.device(device).type != "cpu":
        return fused_attention
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 240, head_dim, generator=generator).to(dtype)
    k, v = (torch.randn(1, 4, 720, head_dim, generator=generator).to(dtype) for _ in range(2))
    with torch.inference_mode():
        times = {kernel: _best_of(partial(kernel, q, k, v), 0.02) for kernel in (fused_attention, blocked_attention)}
    return fused_attention if _CLEARLY * times[fused_attention] < times[blocked_attention] else blocked_attention


@cache
def fast_dtype(device: str) -> torch.dtype:
    """bf16 where it is faster than fp32 (GPUs, and CPUs with bf16 instructions), else fp32."""
    return torch.bfloat16 if torch.device(device).type != "cpu" or _has_bf16() else torch.float32


def _has_bf16() -> bool:
    """Whether this CPU has instructions for bf16, as Linux tells it for x86 and Arm; unknown elsewhere: no."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def fast(module: nn.Module, device: torch.device) -> Any:
    """The module on a device, in its fast number format and, with bf16 on a CPU, in the layout that its convolutions
    are fast in (fp32 convolutions were six times slower in it on one machine). A module that says `fp32_on_cpu` knows
    better."""
    dtype = fast_dtype(device.type)
    if device.type == "cpu" and getattr(module, "fp32_on_cpu", False):
        dtype = torch.float32
    if device.type == "cpu" and dtype == torch.bfloat16:
        for convolution in (part for part in module.modules() if isinstance(part, nn.Conv2d)):
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.to(device, dtype)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; processes of torchrun get one each."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else torch.device(name)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A source of random numbers on a device that follows from one on the CPU: on the CPU the same one."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
