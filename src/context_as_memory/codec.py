"""Frames to latents and back.

Two verbs turn pictures into latents, because they give different latents of the same rank (paper section 3.2, arXiv
2506.03141): `encode_frames` encodes every frame alone, for memory, where neighbours in the list are not neighbours in
time; `encode_clip` encodes a continuous clip, causally in time, for targets. A codec with temporal factor 1 does the
same in both.

Shapes: `video` is float [B, 3, T, H, W] in [-1, 1]; latents are float [B, C, F, h, w] with h = H / spatial_factor,
about zero mean and unit variance per channel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from .errors import UserError


class VideoCodec(Protocol):
    """What the rest of the package needs from an autoencoder."""

    temporal_factor: int  # r: a clip of 1 + n r frames has 1 + n latents
    spatial_factor: int
    latent_channels: int

    def encode_frames(self, video: Tensor) -> Tensor:
        """Encode each frame alone: [B, 3, T, H, W] -> [B, C, T, h, w]."""
        ...

    def encode_clip(self, video: Tensor) -> Tensor:
        """Encode a continuous clip: [B, 3, 1 + n r, H, W] -> [B, C, 1 + n, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole clip: [B, C, 1 + n, h, w] -> [B, 3, 1 + n r, H, W]."""
        ...

    def decode_next(self, latents: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Decode the next latents of a stream; `cache=None` starts a clip. Equal to `decode` over any split."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageAutoencoderConfig:
    """Sizes of the image autoencoder; widths from the finest level (half resolution) to the coarsest (1/8)."""

    latent_channels: int = 16
    encoder_widths: tuple[int, ...] = (32, 64, 128)
    decoder_widths: tuple[int, ...] = (48, 96, 192)
    encoder_blocks: tuple[int, ...] = (1, 1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2)

    def __post_init__(self) -> None:
        levels = {
            len(self.encoder_widths),
            len(self.decoder_widths),
            len(self.encoder_blocks),
            len(self.decoder_blocks),
        }
        if len(levels) != 1:
            raise UserError("autoencoder config: widths and blocks must have one entry per level, the same number each")

    @property
    def spatial_factor(self) -> int:
        return 2 ** len(self.encoder_widths)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip; instead of a normalisation, which is slow on CPUs, the last starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x))))


def _encoder(config: ImageAutoencoderConfig) -> nn.Sequential:
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, config.encoder_widths[0], 3, padding=1)]
    for level, (width, blocks) in enumerate(zip(config.encoder_widths, config.encoder_blocks, strict=True)):
        if level > 0:
            layers.append(nn.Conv2d(config.encoder_widths[level - 1], width, 3, stride=2, padding=1))
        layers += [ResidualBlock(width) for _ in range(blocks)]
    layers += [nn.SiLU(), nn.Conv2d(config.encoder_widths[-1], config.latent_channels, 3, padding=1)]
    return nn.Sequential(*layers)


def _decoder(config: ImageAutoencoderConfig) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, config.decoder_widths[-1], 3, padding=1)]
    for level in reversed(range(len(config.decoder_widths))):
        width = config.decoder_widths[level]
        layers += [ResidualBlock(width) for _ in range(config.decoder_blocks[level])]
        if level > 0:
            layers += [nn.Conv2d(width, 4 * config.decoder_widths[level - 1], 3, padding=1), nn.PixelShuffle(2)]
    # The last doubling is a pixel shuffle: full-resolution convolutions would cost more than all the rest.
    layers += [nn.SiLU(), nn.Conv2d(config.decoder_widths[0], 12, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class ImageAutoencoder(nn.Module):
    """Our own small image autoencoder: 8x smaller on each side, 16 channels, every frame alone (temporal factor 1).

    Latents leave with the per-channel mean and deviation measured on the training set removed (`latent_mean`,
    `latent_std`), so the denoiser sees about unit variance.
    """

    temporal_factor = 1

    def __init__(self, config: ImageAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ImageAutoencoderConfig()
        self.encoder = _encoder(self.config)
        self.decoder = _decoder(self.config)
        self.register_buffer("latent_mean", torch.zeros(self.config.latent_channels))
        self.register_buffer("latent_std", torch.ones(self.config.latent_channels))
        self.latent_mean: Tensor
        self.latent_std: Tensor

    @property
    def spatial_factor(self) -> int:
        return self.config.spatial_factor

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    def encode_images(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> raw latents [N, C, h, w] (not normalised; used in training)."""
        factor = self.spatial_factor
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise UserError(
                f"codec: pictures of {images.shape[-1]}x{images.shape[-2]} do not divide by {factor}; "
                f"resize or crop them to multiples of {factor}"
            )
        return self.encoder(images)

    def decode_images(self, latents: Tensor) -> Tensor:
        """Raw latents [N, C, h, w] -> [N, 3, H, W], about [-1, 1] (not clipped)."""
        return self.decoder(latents)

    def encode_frames(self, video: Tensor) -> Tensor:
        batch = video.shape[0]
        raw = self.encode_images(rearrange(video, "b c t h w -> (b t) c h w").to(self.latent_mean.dtype))
        raw = (raw - self.latent_mean.view(1, -1, 1, 1)) / self.latent_std.view(1, -1, 1, 1)
        return rearrange(raw, "(b t) c h w -> b c t h w", b=batch)

    def encode_clip(self, video: Tensor) -> Tensor:
        return self.encode_frames(video)

    def decode(self, latents: Tensor) -> Tensor:
        batch = latents.shape[0]
        raw = rearrange(latents, "b c t h w -> (b t) c h w").to(self.latent_mean.dtype)
        raw = raw * self.latent_std.view(1, -1, 1, 1) + self.latent_mean.view(1, -1, 1, 1)
        return rearrange(self.decode_images(raw), "(b t) c h w -> b c t h w", b=batch)

    def decode_next(self, latents: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        return self.decode(latents), "stateless" if cache is None else cache


@dataclass(frozen=True, kw_only=True)
class CodecLossConfig:
    """Weights of the autoencoder's training loss."""

    gradient: float = 0.5  # on differences of neighbouring pixels: keeps edges sharp where a plain L1 blurs them
    latent: float = 3e-4  # pulls raw latents towards zero, against the noise below
    latent_noise: float = 0.1  # Gaussian noise on raw latents: small latent errors must stay small picture errors
    perceptual: float = 0.0  # on a perceptual distance (LPIPS): texture instead of its mean


Perceptual = Callable[[Tensor, Tensor], Tensor]  # two batches of images in [-1, 1] -> distances [N]


def codec_loss(
    codec: ImageAutoencoder,
    images: Tensor,
    config: CodecLossConfig,
    generator: torch.Generator,
    perceptual: Perceptual | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction loss on images [N, 3, H, W] in [-1, 1]; returns the loss and figures for the log (PSNR in dB)."""
    raw = codec.encode_images(images)
    noise = torch.randn(raw.shape, generator=generator).to(raw)
    output = codec.decode_images(raw + config.latent_noise * noise)
    pixel = (output - images).abs().mean()
    gradient = sum(
        (output.diff(dim=dim) - images.diff(dim=dim)).abs().mean()  # neighbours along height, then width
        for dim in (-2, -1)
    )
    loss = pixel + config.gradient * gradient + config.latent * raw.square().mean()
    figures = {"pixel": pixel.item(), "latent_rms": raw.detach().square().mean().sqrt().item()}
    if perceptual is not None and config.perceptual:
        distance = perceptual(output, images).mean()
        loss = loss + config.perceptual * distance
        figures["perceptual"] = distance.item()
    mse = (output.detach().clamp(-1, 1) - images).square().mean().item()
    return loss, figures | {"psnr_db": 10 * math.log10(4 / max(mse, 1e-10))}
