"""A critic that knows what latents of real frames look like, against fog.

The velocity loss pays a denoiser of few steps for the mean of all pictures that could come next. Where memory knows the
place, the mean is the place; in new territory it is fog, and the next chunk is given that fog as its recent frame. The
critic sees single frames, recorded ones and those that the denoiser believes in, and the denoiser is paid for beliefs
that the critic cannot tell from recorded ones (adversarial training of few-step models: arXiv 2311.17042, 2501.08316).

The losses are those of R3GAN (arXiv 2501.05441): each generated frame is compared with the recorded frame of the same
view, and the critic's slope is held small at both; the slope is measured by a small random step.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Size and strength of the critic."""

    strength: float = 0.0  # gradient on the predicted frames, as a share of that of the velocity loss; 0: no critic
    width: int = 48
    learning_rate: float = 5e-4
    slope: float = 1.0  # weight of the squared slope of the critic
    slope_step: float = 0.1  # the random step that measures it, in latent units


class Critic(nn.Module):
    """Latents [N, C, h, w] -> how real each part looks, at three scales: from a few latents to half of the frame.

    Every part is judged: one that judged whole frames would be content with the first fault it finds.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 2 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=1 if scale == 0 else 2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(after, after, 3, padding=1),
                nn.LeakyReLU(0.2),
            )
            for scale, (before, after) in enumerate(pairwise(widths))
        )
        self.heads = nn.ModuleList(nn.Conv2d(after, 1, 1) for after in widths[1:])

    def forward(self, latents: Tensor) -> list[Tensor]:
        """Scores [N, h, w], [N, h/2, w/2], [N, h/4, w/4]."""
        scores, x = [], latents
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            scores.append(head(x)[:, 0])
        return scores


class Adversary:
    """A critic with its optimizer. `judge` trains it on a batch and returns what the denoiser has to pay."""

    def __init__(self, channels: int, config: CriticConfig) -> None:
        self.config = config
        self.critic = Critic(channels, config.width)
        self.optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), weight_decay=0.0
        )

    def judge(
        self, predicted: Tensor, recorded: Tensor, weight: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Frames as the denoiser predicts them and as they were recorded, both [N, C, h, w], each with a weight [N].

        Returns the denoiser's loss (a scalar with a gradient to `predicted`) and figures for the log.
        """
        self.critic.to(predicted.device)
        with torch.autocast(predicted.device.type, enabled=False):  # slopes are differences: too small for bf16
            predicted, recorded = predicted.float(), recorded.float()
            figures = self._learn(predicted.detach(), recorded, weight, generator)
            self.critic.requires_grad_(False)
            loss = _compare(self.critic(recorded), self.critic(predicted), weight)
            self.critic.requires_grad_(True)
        return loss, figures

    @torch.enable_grad()
    def _learn(
        self, predicted: Tensor, recorded: Tensor, weight: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        both = torch.cat((recorded, predicted))
        step = self.config.slope_step * torch.randn(both.shape, generator=generator).to(both)
        halves = [scores.chunk(2) for scores in self.critic(torch.cat((both, both + step)))]
        slopes = [((moved - score) / self.config.slope_step).square().mean() for score, moved in halves]
        slope = torch.stack(slopes).mean()
        real, made = zip(*(score.chunk(2) for score, _ in halves), strict=True)
        loss = _compare(made, real, weight) + self.config.slope * slope
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_over_processes()
        self.optimizer.step()
        told_apart = [(x > y).float().mean().item() for x, y in zip(real, made, strict=True)]
        return {"critic_told_apart": sum(told_apart) / len(told_apart), "critic_slope": slope.item()}

    def _average_over_processes(self) -> None:
        if not torch.distributed.is_initialized():
            return
        for parameter in self.critic.parameters():
            assert parameter.grad is not None
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()  # gloo has no mean

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])


def _compare(lower: Sequence[Tensor], higher: Sequence[Tensor], weight: Tensor) -> Tensor:
    """The loss of whoever wants `higher` above `lower`: scores [N, ...] at several scales, weights [N]."""
    losses = [softplus(x - y).flatten(1).mean(dim=1) for x, y in zip(lower, higher, strict=True)]
    return (torch.stack(losses).mean(dim=0) * weight).mean()
