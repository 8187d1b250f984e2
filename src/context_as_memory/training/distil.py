"""Fewer sampling steps: a student learns to go in one step where its teacher goes in several.

The steps of sampling are fixed; from each of their noise levels a frozen teacher follows the flow to the next one in
small steps, and the straight line to where it arrives is the velocity that the student is to predict. (Progressive
distillation, arXiv 2202.00512, from a fixed teacher to a fixed number of steps.)
"""

import torch
from torch import Tensor

from context_as_memory.diffusion import TIMESTEPS, FlowMatching
from context_as_memory.tokens import ModelInputs
from context_as_memory.training.rollout import BatchDenoiser


@torch.no_grad()
def teacher_velocity(
    teacher: BatchDenoiser,
    flow: FlowMatching,
    noisy: Tensor,
    sigma: Tensor,
    until: Tensor,
    steps: int,
    pool: Tensor,
    inputs: ModelInputs,
    words: tuple[Tensor, ...] = (),
    guidance: float = 1.0,
) -> Tensor:
    """Mean velocity of the teacher's way from noise levels sigma [B] to `until` [B], in `steps` steps of second order.

    noisy: targets at levels sigma, [B, C, P, h, w]; pool, inputs: as for `WorldTransformer.prepare`. words: for
    teachers that read them, rows of the prompts [B, L, D] and of the empty prompt [S, L, D]; guidance: how far the
    teacher goes from what it does without words towards what it does with them, and beyond; 1: no guidance.
    """
    spoken, silent = words or (None, None)
    context = teacher.prepare(pool, inputs, *([] if silent is None else [silent]))
    nothing = None if silent is None else silent.repeat_interleave(len(noisy) // len(silent), dim=0)
    step = (until - sigma) / steps
    length = step.view(-1, 1, 1, 1, 1)
    x, before = noisy, torch.empty(0)
    for number in range(steps):
        level = sigma + number * step
        output = teacher.denoise(x, level * TIMESTEPS, context, inputs, *([] if spoken is None else [spoken])).float()
        velocity = flow.velocity_of(output, x, level)
        if guidance != 1 and nothing is not None:
            plainly = teacher.denoise(x, level * TIMESTEPS, context, inputs, nothing).float()
            plainly = flow.velocity_of(plainly, x, level)
            velocity = plainly + guidance * (velocity - plainly)
        plain = number in (0, steps - 1)  # the first has nothing to look back at, the last may end at 0
        x = x + length * (velocity if plain else velocity + 0.5 * (velocity - before))
        before = velocity
    return (x - noisy) / (until - sigma).view(-1, 1, 1, 1, 1)
