"""Corrupted memory: fog, stripes, ghosts and wrong contrast, in every degree.

On a long walk over own frames small faults of memory are copied into what comes next and grow. Here memory is given
such faults on purpose, from hardly any to nothing but, while the targets stay recorded: a little of it is mended, and
what is beyond mending is not believed.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

KINDS = 4  # fog, streaks along rows, streaks along columns, another frame shining through


def corrupt(pool: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Memory latents [S, C, M, h, w]; a share of the segments gets one kind of fault in one degree, in all frames.

    generator: on the device of the latents. All faults are computed for all segments: a GPU would wait longer for the
    word which ones are needed.
    """
    if not share:
        return pool
    shape = (len(pool), 1, 1, 1, 1)

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, device=pool.device)

    chosen, kind, degree = uniform() < share, (uniform() * KINDS).long(), uniform()
    gain = torch.exp(0.25 * torch.randn(shape, generator=generator, device=pool.device))
    fog = avg_pool2d(pool.flatten(1, 2), 5, stride=1, padding=2, count_include_pad=False).view_as(pool)
    order = torch.randperm(pool.shape[2], generator=generator, device=pool.device)
    faulty = torch.where(kind == 0, fog, pool[:, :, order])
    for side in (1, 2):
        faulty = torch.where(kind == side, pool.mean(dim=-side, keepdim=True), faulty)
    return torch.where(chosen, gain * torch.lerp(pool, faulty, degree), pool)
