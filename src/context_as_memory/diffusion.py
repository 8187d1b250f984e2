"""Flow matching: noising, velocity target, training noise levels, sampling.

Convention (that of Wan and of diffusers' flow-matching schedulers): sigma in [0, 1] is the share of noise,
x_sigma = (1 - sigma) x + sigma noise, the network predicts the velocity noise - x, and its timestep is 1000 sigma.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from context_as_memory.errors import UserError
from context_as_memory.shapes import Float

TIMESTEPS = 1000.0


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Noise levels of training and sampling."""

    shift: float = 1.0  # > 1 moves levels towards noise: sigma -> shift sigma / (1 + (shift - 1) sigma)
    logit_mean: float = 0.0  # training levels are logit-normal before the shift
    logit_std: float = 1.0
    preconditioned: bool = False  # False: the network's output is the velocity itself, as in Wan; see `velocity_of`

    def __post_init__(self) -> None:
        if self.shift <= 0 or self.logit_std <= 0:
            raise UserError(f"diffusion config: shift {self.shift} and logit_std {self.logit_std} must be positive")

    def _shifted(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def velocity_of(
        self, output: Float[Tensor, " b *x"], noisy: Float[Tensor, " b *x"], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *x"]:
        """The velocity that a network output stands for, at noise levels sigma [B].

        Plain networks predict it themselves, which at high noise means to copy the noise through all layers without
        error before anything can be learned. With preconditioning (the idea of EDM, arXiv 2206.00364, for unit-variance
        latents) the part that is linear in the noisy input is given, and the output is its residual at unit variance:
        at sigma = 1 the network predicts the (negative) sample, at sigma = 0 the noise.
        """
        if not self.preconditioned:
            return output
        level = sigma.to(noisy).view(-1, *[1] * (noisy.ndim - 1))
        variance = level.square() + (1 - level).square()
        return (2 * level - 1) / variance * noisy + variance.rsqrt() * output

    def training_sigmas(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Random noise levels [count] in (0, 1), on the generator's device."""
        normal = torch.randn(count, generator=generator, device=generator.device) * self.logit_std + self.logit_mean
        return self._shifted(normal.sigmoid())

    def sampling_sigmas(self, steps: int) -> Float[Tensor, " levels"]:
        """Falling noise levels [steps + 1] from 1 to 0."""
        if steps < 1:
            raise UserError(f"diffusion: {steps} steps; give at least 1")
        return self._shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).float()


def add_noise(
    x: Float[Tensor, " b *x"], noise: Float[Tensor, " b *x"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, " b *x"]:
    """Noisy version of x at levels sigma [B] (one per batch entry)."""
    level = sigma.to(x).view(-1, *[1] * (x.ndim - 1))
    return (1 - level) * x + level * noise


def velocity(x: Float[Tensor, "*x"], noise: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """What the network learns to predict."""
    return noise - x


def clean_from_velocity(
    noisy: Float[Tensor, " b *x"], predicted: Float[Tensor, " b *x"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, " b *x"]:
    """The clean sample that a velocity prediction implies."""
    return noisy - sigma.to(noisy).view(-1, *[1] * (noisy.ndim - 1)) * predicted


def sample_flow(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, " b *x"],
    sigmas: Float[Tensor, " levels"],
    multistep: bool = True,
) -> Float[Tensor, " b *x"]:
    """Follow the flow from noise to a sample.

    A step of second order (Adams and Bashforth) looks back at the velocity of the step before and costs nothing more
    than Euler's. The last step goes all the way to the clean sample that the network believes in, so it is Euler's.

    Args:
        predict: (noisy [B, ...], timestep [B] in [0, 1000]) -> velocity of the same shape as noisy.
        noise: the start, [B, ...].
        sigmas: falling levels [steps + 1] from `FlowMatching.sampling_sigmas`.
        multistep: False for plain Euler steps.
    """
    x, before, step_before = noise, None, 0.0
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        timestep = torch.full((len(x),), sigma * TIMESTEPS, device=x.device)
        velocity, step = predict(x, timestep).to(x.dtype), following - sigma
        ahead = velocity
        if multistep and before is not None and following > 0:
            ahead = velocity + step / (2 * step_before) * (velocity - before)
        x, before, step_before = x + step * ahead, velocity, step
    return x
