"""What the image autoencoder is asked for, besides the picture itself.

- *Again and again*: memory is made of pictures, so what a walk remembers is decoded and encoded once per chunk. A
  codec that is only good once turns a still view into grain within forty frames. A share of the steps therefore
  encodes the decoded picture again: latents and picture of the second round have to be those of the first. The picture
  may go round several times before that, without gradients: what ten rounds do is seen only after some of them.
- *Moved and scaled* (EQ-VAE, arXiv 2502.09509): latents that are shifted by a part of a latent, or made smaller,
  have to decode to the picture shifted or made smaller. The denoiser then sees that a place two pixels further is
  the same place.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from context_as_memory.codec import ImageAutoencoder
from context_as_memory.training.perceptual import Perceptual

_SIZES = (0.5, 0.625, 0.75, 0.875)  # of a scaled picture
_NEVER_BELOW = 48  # pixels: the perceptual network needs them


@dataclass(frozen=True, kw_only=True)
class CodecLossConfig:
    """Weights of the autoencoder's training loss."""

    gradient: float = 0.5
    """On differences of neighbouring pixels: keeps edges sharp where a plain L1 blurs them."""
    latent: float = 3e-4
    """Pulls raw latents towards zero, against the noise below."""
    latent_noise: float = 0.1
    """Gaussian noise on raw latents, as a share of their deviation: small errors must stay small in pictures."""
    perceptual: float = 0.0
    """On a perceptual distance (LPIPS): texture instead of its mean."""
    moved: float = 0.0
    """Share of steps whose latents are shifted or scaled before they are decoded."""
    rounds: float = 0.0
    """Share of the other steps that encode and decode the result once more."""
    earlier_rounds: int = 0
    """Such a step begins with a picture that went round up to so many times, drawn anew; the goal stays the first."""
    round_picture: float = 0.5
    """Weight of the picture after the second round."""
    round_latent: float = 0.2
    """Weight of the latents of the second round: squared error in units of the latents' variance."""


def codec_loss(
    codec: ImageAutoencoder,
    images: Tensor,
    config: CodecLossConfig,
    generator: torch.Generator,
    perceptual: Perceptual | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss on images [N, 3, H, W] in [-1, 1]; returns it and figures for the log (PSNR in dB)."""
    raw = codec.encode_images(images)
    spread = raw.detach().std(dim=(0, 2, 3), keepdim=True)
    noise = config.latent_noise * spread * torch.randn(raw.shape, generator=generator).to(raw)
    draw = torch.rand(2, generator=generator).tolist()
    figures = {"latent_rms": raw.detach().square().mean().sqrt().item()}

    def picture_loss(output: Tensor, goal: Tensor) -> Tensor:
        loss = _pixel_loss(output, goal, config)
        if perceptual is not None and config.perceptual:
            distance = perceptual(output, goal).mean()
            figures.setdefault("perceptual", distance.item())  # of the first round
            loss = loss + config.perceptual * distance
        return loss

    if draw[0] < config.moved:
        moved, goal = _moved(raw + noise, images, codec.spatial_factor, generator)
        output = codec.decode_images(moved)
        margin = codec.spatial_factor // 2  # what was shifted in from outside the picture
        inside = (..., slice(margin, -margin), slice(margin, -margin))
        loss = picture_loss(output[inside], goal[inside])
        figures["moved"] = loss.item()
        return loss + config.latent * raw.square().mean(), figures

    shown = raw
    if draw[1] < config.rounds and config.earlier_rounds:
        count = int(torch.randint(config.earlier_rounds + 1, (), generator=generator))
        shown = codec.encode_images(went_round(codec, images, count)) if count else raw
    output = codec.decode_images(shown + noise)
    loss = picture_loss(output, images) + config.latent * raw.square().mean()
    mse = (output.detach().clamp(-1, 1) - images).square().mean().item()
    figures |= {"picture": loss.item(), "psnr_db": 10 * math.log10(4 / max(mse, 1e-10))}
    if draw[1] < config.rounds:
        again = codec.encode_images(eight_bit(output))
        latent_error = ((again - raw) / spread).square().mean()
        second = picture_loss(codec.decode_images(again), images)
        loss = loss + config.round_latent * latent_error + config.round_picture * second
        figures |= {"round_latent": latent_error.item(), "round_picture": second.item()}
    return loss, figures


@torch.no_grad()
def went_round(codec: ImageAutoencoder, images: Tensor, count: int) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] after `count` times encoding and decoding, 8-bit in between."""
    for _ in range(count):
        images = eight_bit(codec.decode_images(codec.encode_images(images)))
    return images


def eight_bit(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] as they are stored, clipped and in steps of 1/255, with the gradient of the
    clipped ones."""
    clipped = images.clamp(-1, 1)
    return clipped + (((clipped + 1) * 127.5).round() / 127.5 - 1 - clipped).detach()


def _pixel_loss(output: Tensor, goal: Tensor, config: CodecLossConfig) -> Tensor:
    gradient = sum(
        (output.diff(dim=dim) - goal.diff(dim=dim)).abs().mean()  # neighbours along height, then width
        for dim in (-2, -1)
    )
    return (output - goal).abs().mean() + config.gradient * gradient


def _moved(latents: Tensor, images: Tensor, factor: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and images shifted by the same part of a latent, or scaled to the same smaller size."""
    height, width = latents.shape[-2:]
    smallest = min(height, width)
    if torch.rand((), generator=generator) < 0.5:
        number = int(torch.randint(len(_SIZES), (), generator=generator))
        share = max(_SIZES[number], _NEVER_BELOW / (factor * smallest))
        size = (round(share * height), round(share * width))
        small = interpolate(latents, size, mode="bilinear", antialias=True)
        return small, interpolate(images, (factor * size[0], factor * size[1]), mode="bilinear", antialias=True)
    reach = factor // 2
    right, down = (int(torch.randint(-reach, reach + 1, (), generator=generator)) for _ in range(2))
    grid_shift = torch.tensor([[1.0, 0, 2 * right / (factor * width)], [0, 1, 2 * down / (factor * height)]])
    grid = affine_grid(grid_shift.to(latents).expand(len(latents), 2, 3), list(latents.shape), align_corners=False)
    shifted = grid_sample(latents, grid, padding_mode="border", align_corners=False)
    return shifted, torch.roll(images, (-down, -right), dims=(-2, -1))
