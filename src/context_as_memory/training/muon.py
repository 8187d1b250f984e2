"""Muon (arXiv 2502.16982) that computes in the number format this machine is fast in, matrices of one shape together.

torch's own Muon orthogonalises in bf16 always, and one matrix after the other; on a CPU without bf16 instructions that
took a quarter of a training step, and on a GPU hundreds of small kernels. State and settings are torch's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from context_as_memory.compute import fast_dtype


def orthogonalize(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, in the matrices' own number format; [N, m, n]."""
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with updates scaled to AdamW's size (`adjust_lr_fn="match_rms_adamw"`)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(_kind(parameter), []).append(parameter)
            for parameters in alike.values():
                self._move(group, parameters)
        return loss

    def _move(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One step of matrices of one shape."""
        rate, momentum = group["lr"], group["momentum"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum)
        dtype = fast_dtype(parameters[0].device.type)
        together = orthogonalize(
            torch.stack(updates).to(dtype), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        moves = [move.to(parameter.dtype) for move, parameter in zip(together, parameters, strict=True)]
        torch._foreach_add_(parameters, moves, alpha=-rate * 0.2 * max(parameters[0].shape) ** 0.5)


def _kind(parameter: Tensor) -> tuple[int, ...]:
    """Parameters of equal kind move together; those that are spread over processes each alone."""
    return (*parameter.shape, id(parameter)) if hasattr(parameter, "device_mesh") else tuple(parameter.shape)
