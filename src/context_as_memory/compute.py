"""What this machine computes fastest: a number format and an attention kernel.

CPUs differ by an order of magnitude here: with bf16 instructions bf16 is several times faster than fp32, without them
several times slower; and torch's fused attention loses to two plain matrix products on some CPUs and wins on others.
The choice follows from the processor's instruction sets alone, never from a trial: a world that is opened again has to
go on bit by bit, whatever else the machine is doing.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from context_as_memory import machine
from context_as_memory.errors import UserError

AttentionKernel = Callable[..., Tensor]

_QUERY_BLOCK = 120  # rows of the score matrix at a time: keeps a block of scores inside the second-level cache


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Torch's own kernel. q [B, h, Nq, d], k and v [B, h, Nk, d], bias broadcastable to [B, h, Nq, Nk] or None; scores
    are multiplied by `scale`, d^-1/2 if None."""
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Two batched matrix products and a softmax over blocks of queries; equal to `fused_attention`. q [B, heads, n,
    hd], k and v [B, heads, m, hd], bias that broadcasts to [B, heads, n, m] -> [B, heads, n, hd]."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    keys = k.transpose(-1, -2)
    blocks = []
    for start in range(0, q.shape[-2], _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        scores = torch.matmul(q[..., rows, :] * scale, keys)
        if bias is not None:
            scores = scores + (bias if bias.shape[-2] == 1 else bias[..., rows, :])
        blocks.append(torch.matmul(scores.softmax(dim=-1), v))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


@cache
def attention_kernel(device: str) -> AttentionKernel:
    """The kernel for this device: torch's own on GPUs and on x86 CPUs from AVX2 on, where it was faster in every
    measurement (1.2 to 2 times with AVX2, 1.7 times with bf16), the blocked one elsewhere."""
    own = torch.device(device).type != "cpu" or bool(machine.features() & {"avx2", "avx512f"})
    return fused_attention if own else blocked_attention


@cache
def fast_dtype(device: str) -> torch.dtype:
    """bf16 where it is faster than fp32 (GPUs, and CPUs with bf16 instructions), else fp32."""
    return torch.bfloat16 if torch.device(device).type != "cpu" or machine.has_bf16() else torch.float32


def fast(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """The module on a device, in its fast number format (or in `dtype`) and, with bf16 on a CPU, in the layout that its
    convolutions are fast in (fp32 convolutions were six times slower in it on one machine). A module that says
    `fp32_on_cpu` knows better; one that has a method `cast` knows which of its parts must stay exact."""
    if dtype is None:
        exact = device.type == "cpu" and getattr(module, "fp32_on_cpu", False)
        dtype = torch.float32 if exact else fast_dtype(device.type)
    cast: Callable[[torch.device, torch.dtype], Any] | None = getattr(module, "cast", None)
    if cast is not None:
        return cast(device, dtype)
    if device.type == "cpu" and dtype == torch.bfloat16:
        for convolution in (part for part in module.modules() if isinstance(part, nn.Conv2d)):
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.to(device, dtype)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that nobody uses; None where nothing tells."""
    if device.type == "cuda":
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + spare
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(told["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None


def use_threads(count: int | None) -> None:
    """Compute with so many CPU threads from now on; None: with as many as were chosen at the start. `UserError` for
    less than one."""
    if count is None:
        return
    if count < 1:
        raise UserError(f"--threads is {count}; give at least 1")
    torch.set_num_threads(count)


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
