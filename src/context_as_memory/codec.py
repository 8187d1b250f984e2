"""Frames to latents and back.

Every frame is encoded alone (paper section 3.2, arXiv 2506.03141): neighbours in memory are not neighbours in time.

Shapes: `video` is float [B, 3, T, H, W] in [-1, 1]; latents are float [B, C, F, h, w] with h = H / spatial_factor,
about zero mean and unit variance per channel.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor, nn

from context_as_memory.errors import UserError
from context_as_memory.shapes import Float


@runtime_checkable
class VideoCodec(Protocol):
    """What the rest of the package needs from an autoencoder."""

    @property
    def temporal_factor(self) -> int:
        """r: a clip of 1 + n r frames has 1 + n latents."""

    @property
    def spatial_factor(self) -> int:
        """How many times smaller latents are than pictures, in either direction."""

    @property
    def latent_channels(self) -> int:
        """C of latents [B, C, F, h, w]."""

    def encode_frames(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c t h w"]:
        """Encode each frame alone: [B, 3, T, H, W] -> [B, C, T, h, w]."""

    def decode(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 t H W"]:
        """Decode a whole clip: [B, C, 1 + n, h, w] -> [B, 3, 1 + n r, H, W]."""

    def decode_next(
        self, latents: Float[Tensor, "b c f h w"], cache: Any = None
    ) -> tuple[Float[Tensor, "b 3 t H W"], Any]:
        """Decode the next latents of a stream; `cache=None` starts a clip. Equal to `decode` over any split."""


@dataclass(frozen=True, kw_only=True)
class ImageAutoencoderConfig:
    """Sizes of the image autoencoder; widths and blocks from the finest level to the coarsest.

    The finest level is `stem` times smaller than the picture, each further one half as large as the one before it.
    """

    latent_channels: int = 16
    stem: int = 2
    encoder_widths: tuple[int, ...] = (32, 64, 128)
    decoder_widths: tuple[int, ...] = (48, 96, 192)
    encoder_blocks: tuple[int, ...] = (1, 1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2)
    # Around each change of size a path without weights that only regroups channels (DC-AE, arXiv 2410.10733): strong
    # compression is learned much faster with it.
    shortcuts: bool = False

    def __post_init__(self) -> None:
        levels = self.encoder_widths, self.decoder_widths, self.encoder_blocks, self.decoder_blocks
        if len({len(level) for level in levels}) != 1:
            raise UserError("autoencoder config: widths and blocks must have one entry per level, the same number each")
        if self.stem < 1:
            raise UserError(f"autoencoder config: stem {self.stem} is no factor; give 1 or more")

    @property
    def spatial_factor(self) -> int:
        return int(self.stem * 2 ** (len(self.encoder_widths) - 1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip; instead of a normalisation, which is slow on CPUs, the last starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        result: Tensor = x + self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x))))
        return result


class Shortcut(nn.Module):
    """A body that changes size or channels, plus its input regrouped to the same shape: no weights, nothing lost on
    the way down but by taking means of channels."""

    def __init__(self, body: nn.Module, channels: int, finer: int = 1, coarser: int = 1) -> None:
        super().__init__()
        self.body, self.channels, self.finer, self.coarser = body, channels, finer, coarser

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n out H W"]:
        wanted = self.channels * self.finer**2
        y = nn.functional.pixel_unshuffle(x, self.coarser)
        if y.shape[1] >= wanted:
            y = y.reshape(len(y), wanted, -1, *y.shape[2:]).mean(dim=2)
        else:
            y = y.repeat_interleave(wanted // y.shape[1], dim=1)
        result: Tensor = self.body(x) + nn.functional.pixel_shuffle(y, self.finer)
        return result


def _convolution(
    config: ImageAutoencoderConfig, inputs: int, outputs: int, finer: int = 1, coarser: int = 1
) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, or makes it `finer` or `coarser` times as fine or coarse."""
    body: list[nn.Module] = [nn.Conv2d(inputs, outputs * finer**2, 3, stride=coarser, padding=1)]
    body += [nn.PixelShuffle(finer)] if finer > 1 else []
    if not config.shortcuts:
        return body
    before, after = inputs * coarser**2, outputs * finer**2
    if max(before, after) % min(before, after):
        raise UserError(f"autoencoder config: with shortcuts widths must divide each other, not {before} and {after}")
    return [Shortcut(nn.Sequential(*body), outputs, finer, coarser)]


def _encoder(config: ImageAutoencoderConfig) -> nn.Sequential:
    widths, stem = config.encoder_widths, config.stem
    layers: list[nn.Module] = [nn.PixelUnshuffle(stem), nn.Conv2d(3 * stem**2, widths[0], 3, padding=1)]
    for level, (width, blocks) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
        if level > 0:
            layers += _convolution(config, widths[level - 1], width, coarser=2)
        layers += [ResidualBlock(width) for _ in range(blocks)]
    layers += [nn.SiLU(), *_convolution(config, widths[-1], config.latent_channels)]
    return nn.Sequential(*layers)


def _decoder(config: ImageAutoencoderConfig) -> nn.Sequential:
    widths, stem = config.decoder_widths, config.stem
    layers: list[nn.Module] = _convolution(config, config.latent_channels, widths[-1])
    for level in reversed(range(len(widths))):
        layers += [ResidualBlock(widths[level]) for _ in range(config.decoder_blocks[level])]
        if level > 0:
            layers += _convolution(config, widths[level], widths[level - 1], finer=2)
    # The last step is a pixel shuffle: full-resolution convolutions would cost more than all the rest.
    layers += [nn.SiLU(), nn.Conv2d(widths[0], 3 * stem**2, 3, padding=1), nn.PixelShuffle(stem)]
    return nn.Sequential(*layers)


class ImageAutoencoder(nn.Module):
    """Our own small image autoencoder: every frame alone (temporal factor 1); sizes by its config.

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

    def encode_images(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """[N, 3, H, W] in [-1, 1] -> raw latents [N, C, h, w] (not normalised; used in training)."""
        factor = self.spatial_factor
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise UserError(
                f"codec: pictures of {images.shape[-1]}x{images.shape[-2]} do not divide by {factor}; "
                f"resize or crop them to multiples of {factor}"
            )
        result: Tensor = self.encoder(images)
        return result

    def decode_images(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Raw latents [N, C, h, w] -> [N, 3, H, W], about [-1, 1] (not clipped)."""
        result: Tensor = self.decoder(latents)
        return result

    def encode_frames(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c t h w"]:
        batch = video.shape[0]
        raw = self.encode_images(rearrange(video, "b c t h w -> (b t) c h w").to(self.latent_mean.dtype))
        raw = (raw - self.latent_mean.view(1, -1, 1, 1)) / self.latent_std.view(1, -1, 1, 1)
        return rearrange(raw, "(b t) c h w -> b c t h w", b=batch)

    def decode(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 t H W"]:
        batch = latents.shape[0]
        raw = rearrange(latents, "b c t h w -> (b t) c h w").to(self.latent_mean.dtype)
        raw = raw * self.latent_std.view(1, -1, 1, 1) + self.latent_mean.view(1, -1, 1, 1)
        return rearrange(self.decode_images(raw), "(b t) c h w -> b c t h w", b=batch)

    def decode_next(
        self, latents: Float[Tensor, "b c f h w"], cache: Any = None
    ) -> tuple[Float[Tensor, "b 3 t H W"], Any]:
        return self.decode(latents), "stateless" if cache is None else cache
