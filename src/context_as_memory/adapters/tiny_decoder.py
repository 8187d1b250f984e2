"""A tiny decoder in place of the one of a Wan autoencoder, for pictures at once: the layout of TAEHV.

It takes the latents that the denoiser works on, normalised as they are, and makes pictures of them with plain
2-D convolutions. Time enters in two ways: a memory block sees the frame before, and the last levels make two frames of
one. Public weights are `taew2_1` (16 channels, Wan 2.1) and `taew2_2` (48 channels, Wan 2.2 5B); see docs/wan.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from context_as_memory.adapters.original import unpickled
from context_as_memory.adapters.shards import open_file, shapes_of
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float

FOLDER = "decoder"  # of a model that has one
_BLOCKS = 3  # memory blocks of a level
_RANGE = 3.0  # latents beyond it are bent back
_WIDTHS = [f"decoder.{layer}.weight" for layer in (1, 8, 14, 20)]  # tensors whose first side is a width
_GROWTH = [f"decoder.{layer}.conv.weight" for layer in (7, 13, 19)]
_LAST = "decoder.22.weight"
_GIVE = "give TAEHV's taew2_1 for Wan 2.1, its taew2_2 for Wan 2.2 5B"


@dataclass(frozen=True, kw_only=True)
class TinyDecoderConfig:
    """Sizes of the network; each level doubles the picture's sides."""

    latent_channels: int = 16
    patch_size: int = 1  # pictures come out in patches of this side
    widths: tuple[int, ...] = (256, 128, 64, 64)  # of the levels, and of what is left for the last convolution
    growth: tuple[int, ...] = (1, 2, 2)  # frames that each level makes of one


@dataclass(frozen=True, kw_only=True)
class TinyDecodeCache:
    """Everything a decoding stream remembers: the last input of each memory block. A value, never written to."""

    before: tuple[Tensor, ...]  # [B,c,h',w'] each
    shape: tuple[int, int, int]  # B, h, w of the latents of this stream


class Bend(nn.Module):
    """Latents within [-3, 3], smoothly."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return _RANGE * torch.tanh(x / _RANGE)


class MemoryBlock(nn.Module):
    """Three convolutions around a skip; they see the same place in the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, *others = (nn.Conv2d(inputs, width, 3, padding=1) for inputs in (2 * width, width, width))
        self.conv = nn.Sequential(first, nn.ReLU(), others[0], nn.ReLU(), others[1])

    def forward(self, x: Float[Tensor, "n c h w"], before: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        result: Tensor = torch.relu(self.conv(torch.cat([x, before], dim=1)) + x)
        return result


class Grow(nn.Module):
    """`frames` frames of one, with twice its sides. The product comes before the enlargement: the same values for a
    quarter of the work."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c H W"]:
        x = rearrange(self.conv(x), "n (s c) h w -> (n s) c h w", s=self.frames)
        return nn.functional.interpolate(x, scale_factor=2.0)


class TinyDecoder(nn.Module):
    """The network; names and places of its layers are those of the public files."""

    def __init__(self, config: TinyDecoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyDecoderConfig()
        widths = config.widths
        layers: list[nn.Module] = [Bend(), nn.Conv2d(config.latent_channels, widths[0], 3, padding=1), nn.ReLU()]
        for width, following, frames in zip(widths[:-1], widths[1:], config.growth, strict=True):
            layers += [MemoryBlock(width) for _ in range(_BLOCKS)]
            layers += [nn.Identity(), Grow(width, frames)]  # public files count the enlargement as a layer of its own
            layers += [nn.Conv2d(width, following, 3, padding=1, bias=False)]
        layers += [nn.ReLU(), nn.Conv2d(widths[-1], 3 * config.patch_size**2, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    @property
    def latent_channels(self) -> int:
        """C of latents [B,C,F,h,w]."""
        return self.config.latent_channels

    @property
    def temporal_factor(self) -> int:
        """Frames of a latent, but the first of a stream, which has one."""
        return math.prod(self.config.growth)

    @property
    def spatial_factor(self) -> int:
        """How many times larger pictures are than latents, in either direction."""
        return int(self.config.patch_size * 2 ** len(self.config.growth))

    def decode_next(
        self, latents: Float[Tensor, "b c n h w"], cache: TinyDecodeCache | None = None
    ) -> tuple[Float[Tensor, "b 3 t H W"], TinyDecodeCache]:
        """Decode the next n latents of a stream, n >= 1, to frames in [-1, 1]; any split of a clip gives the same ones.

        `cache=None` starts a clip: of the frames of its first latent only the last one counts. Latents go through one
        after the other, so that a long clip takes no more memory than a short one. Raises UserError if the latents are
        ill-shaped or not of the size the stream started with.
        """
        if latents.shape[1] != self.latent_channels or 0 in latents.shape:
            raise UserError(f"latents must be [B,{self.latent_channels},n,h,w] with n >= 1, not {list(latents.shape)}")
        shape = (latents.shape[0], latents.shape[3], latents.shape[4])
        if cache is not None and cache.shape != shape:
            raise UserError(f"the stream has latents of (B, h, w) = {cache.shape}, not {shape}: start a new one")
        pieces, before = [], None if cache is None else cache.before
        for latent in latents.to(next(self.parameters()).dtype).unbind(2):
            frames, last = self._frames(latent, before)
            pieces.append(frames if before is not None else frames[:, :, -1:])
            before = last
        assert before is not None
        return torch.cat(pieces, dim=2), TinyDecodeCache(before=before, shape=shape)

    def _frames(self, x: Tensor, before: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All frames [B,3,r,H,W] of one latent [B,C,h,w], and the last input of each memory block."""
        batch, last = len(x), list[Tensor]()
        for layer in self.decoder:
            if not isinstance(layer, MemoryBlock):
                x = layer(x)
                continue
            frames = rearrange(x, "(b t) c h w -> b t c h w", b=batch)
            earlier = torch.zeros_like(frames[:, 0]) if before is None else before[len(last)]
            last.append(frames[:, -1].clone())
            x = layer(x, torch.cat([earlier.unsqueeze(1), frames[:, :-1]], dim=1).flatten(0, 1))
        pictures = nn.functional.pixel_shuffle(x, self.config.patch_size).clamp(0.0, 1.0) * 2.0 - 1.0
        return rearrange(pictures, "(b t) c h w -> b c t h w", b=batch), tuple(last)


class TinyDecoded(nn.Module):
    """A codec whose pictures are those of a tiny decoder. It encodes with the full autoencoder, every frame alone:
    what is remembered are still pictures that a viewer saw, here those of the tiny decoder."""

    fp32_on_cpu = True

    def __init__(self, codec: Any, decoder: TinyDecoder) -> None:
        """Raises UserError if the decoder is made for other latents."""
        super().__init__()
        check_fit(decoder, codec.latent_channels, codec.spatial_factor, codec.temporal_factor)
        self.codec: Any = codec
        self.decoder = decoder
        self.temporal_factor: int = codec.temporal_factor
        self.spatial_factor: int = codec.spatial_factor
        self.latent_channels: int = codec.latent_channels

    def cast(self, device: torch.device, dtype: torch.dtype) -> Self:
        """To a device: the decoder as `dtype`, the full autoencoder as it wants to be cast."""
        self.codec.cast(device, dtype)
        self.decoder.to(dtype)
        return self.to(device)

    def encode_frames(self, video: Float[Tensor, "b 3 t H W"]) -> Float[Tensor, "b c t h w"]:
        """Each frame alone; see `WanCodec.encode_frames`."""
        result: Tensor = self.codec.encode_frames(video)
        return result

    def decode(self, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 t H W"]:
        """A whole clip: [B,C,1+n,h,w] -> [B,3,1+4n,H,W] in [-1, 1]."""
        return self.decoder.decode_next(latents)[0]

    def decode_next(
        self, latents: Float[Tensor, "b c n h w"], cache: TinyDecodeCache | None = None
    ) -> tuple[Float[Tensor, "b 3 t H W"], TinyDecodeCache]:
        """The next latents of a stream; see `TinyDecoder.decode_next`."""
        return self.decoder.decode_next(latents, cache)


def check_fit(decoder: TinyDecoder, channels: int, spatial: int, temporal: int) -> None:
    """`UserError` for a decoder that is made for other latents than those of an autoencoder."""
    made = decoder.latent_channels, decoder.spatial_factor, decoder.temporal_factor
    if made != (channels, spatial, temporal):
        raise UserError(
            "decoder: it is made for latents of {} channels, {} times smaller than pictures and {} frames long; this "
            "model has {}, {} and {}; {}".format(*made, channels, spatial, temporal, _GIVE)
        )


def open_tiny_decoder(path: str | Path) -> TinyDecoder:
    """A tiny decoder from a safetensors file or a pickle of tensors, numbers as they are stored. Tensors of the encoder
    beside it are not read.

    Raises `UserError` for a file that is missing or damaged, or that holds another network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"decoder: {path} is no file; {_GIVE}")
    stored = open_file(path) if path.suffix == ".safetensors" else None
    loaded = {} if stored is not None else unpickled([path], path)
    shapes = {name: tuple(value.shape) for name, value in loaded.items()} if stored is None else stored.shapes
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("encoder.")}
    with torch.device("meta"):
        decoder = TinyDecoder(sizes_of(shapes, path))
    own = shapes_of(decoder)
    for name in sorted(own.keys() | shapes.keys()):
        if own.get(name) != shapes.get(name):
            there, wanted = (sizes.get(name, "not there") for sizes in (shapes, own))
            raise UserError(f"decoder: {path} is no tiny decoder: {name} is {there}, it should be {wanted}; {_GIVE}")
    tensors = loaded if stored is None else next(stored.parts())
    for name in own:
        if not bool(tensors[name].isfinite().all()):
            raise UserError(f"decoder: {path}: {name} has values that are not finite; fetch it again")
    decoder.load_state_dict({name: tensors[name].clone() for name in own}, assign=True)
    return decoder.eval()


def sizes_of(shapes: Mapping[str, tuple[int, ...]], path: Path) -> TinyDecoderConfig:
    """The sizes that shapes of tensors tell; whether all tensors fit them is not looked at. `UserError`, which names
    the file, where one that tells a size is missing."""

    def sides() -> Iterator[tuple[int, ...]]:
        for name in [*_WIDTHS, *_GROWTH, _LAST]:
            shape = shapes.get(name, ())
            if len(shape) != 4 or 0 in shape:
                there = shape or "not there"
                raise UserError(f"decoder: {path} is no tiny decoder: {name} is {there}; {_GIVE}")
            yield shape

    told = list(sides())
    widths = tuple(shape[0] for shape in told[:4])
    return TinyDecoderConfig(
        latent_channels=told[0][1],
        patch_size=max(1, math.isqrt(told[-1][0] // 3)),
        widths=widths,
        growth=tuple(max(1, shape[0] // width) for shape, width in zip(told[4:7], widths, strict=False)),
    )
