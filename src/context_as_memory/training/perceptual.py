"""A perceptual distance on predicted frames, against fog.

The velocity loss pays a small denoiser for the mean of all textures that a wall could have. A perceptual distance
(LPIPS) between the decoded prediction and the decoded truth pays it for one that looks like them; the same distance
made the autoencoder's decoder sharp. (Perceptual losses for few-step models: consistency models, arXiv 2310.14189.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from context_as_memory.codec import VideoCodec

Perceptual = Callable[[Tensor, Tensor], Tensor]  # two batches of images in [-1, 1] -> distances [N]

MOST_CROPS = 64  # of a large batch: enough to say in which direction texture lies
CROP = (8, 10)  # latents: a part of the picture says as much about texture as the whole, at a third of the cost


def perceptual_loss(
    codec: VideoCodec,
    distance: Perceptual,
    predicted: Tensor,
    truth: Tensor,
    sigma: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean distance of pictures: one crop of one frame for each chunk of predicted and true latents [B, C, P, h, w].

    Chunks at noise level sigma [B] count (1 - sigma): what is still open at high noise is layout, and a prediction
    with texture but without layout would mislead the steps that follow.
    """
    count = min(len(predicted), MOST_CROPS)  # chunks of a batch come in no order
    h, w = (min(side, whole) for side, whole in zip(CROP, predicted.shape[-2:], strict=True))
    sizes = (predicted.shape[2], predicted.shape[-2] - h + 1, predicted.shape[-1] - w + 1)
    frame, top, left = (torch.randint(size, (count,), generator=generator, device=generator.device) for size in sizes)
    one = torch.arange(count, device=predicted.device)
    index = (
        one.view(-1, 1, 1),
        slice(None),
        frame.view(-1, 1, 1),
        (top.view(-1, 1) + torch.arange(h, device=top.device)).view(count, h, 1),
        (left.view(-1, 1) + torch.arange(w, device=top.device)).view(count, 1, w),
    )

    def pictures(latents: Tensor) -> Tensor:
        crops = latents[index].movedim(-1, 1).unsqueeze(2)  # [N, C, 1, h, w]
        return codec.decode(crops)[:, :, 0].float()

    made = pictures(predicted)
    with torch.no_grad():
        real = pictures(truth)
    return ((1 - sigma[:count]) * distance(made, real)).mean()
