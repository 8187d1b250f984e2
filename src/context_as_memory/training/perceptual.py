"""A perceptual distance on predicted frames, against fog.

The velocity loss pays a small denoiser for the mean of all textures that a wall could have. A perceptual distance
(LPIPS) between the decoded prediction and the decoded truth pays it for one that looks like them; the same distance
made the autoencoder's decoder sharp. (Perceptual losses for few-step models: consistency models, arXiv 2310.14189.)
"""

import torch
from torch import Tensor

from ..codec import Perceptual, VideoCodec

MOST_CROPS = 64  # of a large batch: enough to say in which direction texture lies
CROP = (8, 10)  # latents: a 64x80 part of the picture says as much about texture as the whole, at a third of the cost


def perceptual_price(
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
    rows = torch.nonzero(sigma < 1).flatten().tolist() or [0]
    rows = rows[:: -(-len(rows) // MOST_CROPS)]
    crops = []
    for row in rows:
        h, w = (min(side, whole) for side, whole in zip(CROP, predicted.shape[-2:], strict=True))
        frame, top, left = (
            int(torch.randint(room, (), generator=generator))
            for room in (predicted.shape[2], predicted.shape[-2] - h + 1, predicted.shape[-1] - w + 1)
        )
        crops.append((row, slice(None), slice(frame, frame + 1), slice(top, top + h), slice(left, left + w)))
    made = codec.decode(torch.stack([predicted[crop] for crop in crops]))[:, :, 0]
    with torch.no_grad():
        real = codec.decode(torch.stack([truth[crop] for crop in crops]))[:, :, 0]
    return ((1 - sigma[rows]) * distance(made.float(), real.float())).mean()
