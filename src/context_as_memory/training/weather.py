"""Memory that has suffered: fog, stripes, ghosts and wrong contrast, in every degree.

On a long walk over own frames small faults of memory are copied into what comes next and grow. Here memory is given
such faults on purpose, from hardly any to nothing but, while the targets stay recorded: a little of it is mended, and
what is beyond mending is not believed.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

KINDS = 4  # fog, streaks along rows, streaks along columns, another frame shining through


def weathered(pool: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Memory latents [S, C, M, h, w]; a share of the segments gets one kind of fault in one degree, in all frames."""
    segments = len(pool)
    chosen = torch.rand(segments, generator=generator) < share
    kinds = torch.randint(KINDS, (segments,), generator=generator)
    degree = torch.rand(segments, generator=generator)
    gain = torch.exp(0.25 * torch.randn(segments, generator=generator))
    order = torch.randperm(pool.shape[2], generator=generator).to(pool.device)
    result = pool.clone()
    for row in torch.nonzero(chosen).flatten().tolist():
        frames = pool[row]
        faulty = _faulty(frames, int(kinds[row]), order)
        result[row] = gain[row].item() * torch.lerp(frames, faulty, degree[row].item())
    return result


def _faulty(frames: Tensor, kind: int, order: Tensor) -> Tensor:
    """Frames [C, M, h, w] with nothing but the fault."""
    if kind == 0:
        return avg_pool2d(frames, 5, stride=1, padding=2, count_include_pad=False)
    if kind in (1, 2):
        return frames.mean(dim=-kind, keepdim=True).expand_as(frames)
    return frames[:, order]
