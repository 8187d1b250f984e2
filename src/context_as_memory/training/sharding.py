"""One network on several processes (FSDP2), and how much memory a process uses."""

import resource
from typing import Any

import torch
from torch import nn


def distribute(model: nn.Module, processes: int, dtype: torch.dtype | None = None) -> nn.Module:
    """Shard the parameters when torchrun started several processes: each block is a unit, and what is left is one.

    A unit is whole only while it computes. dtype: what it then computes in (gradients are summed in fp32); None: as it
    is stored. Frozen and trained parameters may have different number formats.
    """
    if processes == 1:
        return model
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Inputs stay as they are: timesteps and cameras lose their meaning in bf16.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    blocks: Any = getattr(model, "blocks", ())
    for block in blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    # Tasks call another method than forward; the shards must be gathered there too.
    for name in getattr(model, "entry_points", ()):
        register_fsdp_forward_method(model, name)
    return model


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that this process has used so far: of the GPU, or all there is on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
