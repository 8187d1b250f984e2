"""Muon (arXiv 2502.16982) that computes in the number format this machine is fast in.

torch's own Muon orthogonalises in bf16 always; on a CPU without bf16 instructions that took a quarter of a training
step. State and settings are torch's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..compute import fast_dtype


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, in the matrix's own number format."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with updates scaled to AdamW's size (`adjust_lr_fn="match_rms_adamw"`)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = parameter.grad.lerp(buffer, momentum).to(fast_dtype(parameter.device.type))
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)
        return loss
