"""The denoiser's passes as a GPU likes them: one compiled function per kind of block, fixed shapes, few kernels.

`WorldTransformer` is the reference; this computes the same with its weights (a test compares outputs and gradients).
What differs: positions turn in real numbers, which a compiler can fuse with what stands around them (complex ones it
cannot); memory frames are handed to chunks by a product with zeros and ones, whose gradient needs no scattered
additions; and where all context slots are filled there is no mask, so that attention takes its fastest kernel. All
blocks of a network share one compiled function, so that compiling costs seconds, not minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.transformer import TransformerConfig, WorldTransformer
from context_as_memory.transformer.placement import pixel_features, projections, ray_angles

VARIANTS = 64  # compiled versions of a function: shapes of training, of walks and of a teacher


class PlacedFrames(NamedTuple):
    """Where frames stand: what `Placement` holds, in real numbers."""

    angle: Tensor  # [B, F, n, heads, pairs]
    to_image: Tensor | None  # [B, F, 4, 4]; None: frames by themselves
    to_world: Tensor | None


@dataclass(frozen=True)
class CompiledContext:
    """Context made ready for its chunks, not yet placed."""

    keys_values: list[tuple[Tensor, Tensor]]  # per layer, of the pool: [S, M, n heads hd]
    choice: Tensor  # [S, G K, M]: 1 where a slot takes a frame
    place: PlacedFrames
    bias: Tensor | None  # [B, 1, 1, (P + K) n]; None when all slots are filled


class CompiledDenoiser:
    """`prepare`, `denoise` and `predict` of a `WorldTransformer` with ray cameras and frames encoded each alone.

    masked: whether slots may be empty. compile: how functions are compiled; None: not at all (tests).
    """

    def __init__(
        self, model: WorldTransformer, *, masked: bool = False, compile: Callable[..., Any] | None = torch.compile
    ) -> None:
        self.model, self.masked = model, masked
        self._embed, self._read, self._write, self._head = (
            _compiled(function, compile) for function in (_embed, _read, _write, _head)
        )

    @staticmethod
    def fits(config: TransformerConfig) -> bool:
        plain = config.text_dim is None and not config.camera_heads
        return plain and config.camera == "rays" and config.context_mode == "per_frame"

    def _tokens(self, latents: Tensor) -> tuple[Tensor, tuple[int, int]]:
        _, height, width = self.model.config.patch_size
        grid = (latents.shape[3] // height, latents.shape[4] // width)
        features = pixel_features(grid, latents.device)
        return self._embed(self.model.patch_embedding, self.model.pixel_embedding, latents, features), grid

    def _place(
        self, frames: tuple[int, ...], grid: tuple[int, int], device: torch.device, cameras: CameraTensors | None
    ) -> PlacedFrames:
        config = self.model.config
        with torch.autocast(device.type, enabled=False):
            angle = ray_angles(config, frames, grid, device, cameras)
            both = (None, None) if cameras is None else projections(cameras, config.translation_scale_m)
        return PlacedFrames(angle, *both)

    def prepare(self, pool: Tensor, inputs: ModelInputs) -> CompiledContext:
        """As `WorldTransformer.prepare`: pool [S, C, M, h, w]."""
        segments, _, frames = pool.shape[:3]
        x, grid = self._tokens(rearrange(pool, "s c m h w -> (s m) c 1 h w"))
        _, modulation = self.model.condition_embedder(x.new_zeros(1, 1))
        alone = self._place((0,), grid, pool.device, None)
        kept = []
        for block in self.model.blocks:
            x, k, v = self._read(block, x, modulation, alone)
            kept.append((k.view(segments, frames, -1), v.view(segments, frames, -1)))
        mask, cameras = inputs.context_mask.flatten(0, 1), inputs.context_cameras.flatten(0, 1)
        index = inputs.context_index.flatten(1)
        choice = (index.unsqueeze(-1) == torch.arange(frames, device=pool.device)).to(kept[0][0].dtype)
        bias = None
        if self.masked:
            count, targets = grid[0] * grid[1], len(inputs.target_positions)
            shown = torch.cat((mask.new_ones(len(mask), targets), mask), dim=1).repeat_interleave(count, dim=1)
            bias = torch.zeros(shown.shape, device=pool.device).masked_fill(~shown, float("-inf"))[:, None, None]
        return CompiledContext(kept, choice, self._place(inputs.context_positions, grid, pool.device, cameras), bias)

    def denoise(self, noisy: Tensor, timestep: Tensor, context: CompiledContext, inputs: ModelInputs) -> Tensor:
        """As `WorldTransformer.denoise`: noisy [B, C, P, h, w], timestep [B]."""
        x, grid = self._tokens(noisy)
        times = timestep.unsqueeze(1).expand(-1, noisy.shape[2])
        embedding, modulation = self.model.condition_embedder(times)
        place = self._place(inputs.target_positions, grid, noisy.device, inputs.target_cameras.flatten(0, 1))
        for block, (k, v) in zip(self.model.blocks, context.keys_values, strict=True):
            x = self._write(block, x, modulation, place, k, v, context.choice, context.place, context.bias)
        x = self._head(self.model, x, embedding)
        _, rows, columns = self.model.config.patch_size
        return rearrange(x, "b f (h w) (p q c) -> b c f (h p) (w q)", h=grid[0], p=rows, q=columns)

    def predict(self, noisy: Tensor, timestep: Tensor, pool: Tensor, inputs: ModelInputs) -> Tensor:
        """As `WorldTransformer.predict`: noisy [B, C, P, h, w], timestep [B], pool [S, C, M, h, w]."""
        return self.denoise(noisy, timestep, self.prepare(pool, inputs), inputs)


_DONE: dict[tuple[Any, Any], Any] = {}  # compiled functions, shared by all networks


def _compiled(function: Callable[..., Any], compile: Callable[..., Any] | None) -> Callable[..., Any]:
    if compile is None:
        return function
    if (function, compile) not in _DONE:
        torch._dynamo.config.recompile_limit = VARIANTS
        _DONE[function, compile] = compile(function, dynamic=False, fullgraph=True)
    return _DONE[function, compile]


def _embed(patches: nn.Conv3d, pixels: nn.Linear, latents: Tensor, features: Tensor) -> Tensor:
    """Latents [B, C, F, h, w] -> tokens [B, F, n, d]; the convolution of patches as a matrix product."""
    _, height, width = patches.kernel_size
    cut = rearrange(latents, "b c f (h p) (w q) -> b f (h w) (c p q)", p=height, q=width)
    tokens = linear(cut.to(patches.weight.dtype), patches.weight.flatten(1), patches.bias)
    return tokens + pixels(features.to(tokens.dtype))


def _read(block: nn.Module, x: Tensor, modulation: Tensor, place: PlacedFrames) -> tuple[Tensor, Tensor, Tensor]:
    """One block over context frames; returns tokens, and keys and values before they are placed."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (turn(y, None, place.angle) for y in (q, k, v))
        return turn(_attention(q, k, v, None), None, -place.angle)

    found: tuple[Tensor, Tensor, Tensor] = block(x, modulation, 0, attend, None, None)
    return found


def _write(
    block: nn.Module,
    x: Tensor,
    modulation: Tensor,
    place: PlacedFrames,
    pool_k: Tensor,
    pool_v: Tensor,
    choice: Tensor,
    context: PlacedFrames,
    bias: Tensor | None,
) -> Tensor:
    """One block over target frames, with the keys and values of their context."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = (len(q), -1, *q.shape[2:])
        assert place.to_image is not None
        context_k, context_v = (
            turn(torch.bmm(choice.to(kept.dtype), kept).reshape(shape), context.to_world, context.angle)
            for kept in (pool_k, pool_v)
        )
        k = torch.cat((turn(k, place.to_world, place.angle), context_k), dim=1)
        v = torch.cat((turn(v, place.to_world, place.angle), context_v), dim=1)
        q = turn(q, place.to_image.mT, place.angle)
        return turn(_attention(q, k, v, bias), place.to_image, -place.angle)

    result: Tensor = block(x, modulation, 0, attend, None, None)[0]
    return result


def _head(model: WorldTransformer, tokens: Tensor, embedding: Tensor) -> Tensor:
    shift, scale = (model.scale_shift_table + embedding.float().unsqueeze(2)).chunk(2, dim=2)
    result: Tensor = model.proj_out((model.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
    return result


def turn(x: Tensor, matrix: Tensor | None, angle: Tensor) -> Tensor:
    """As `placement.Place`, in real numbers: x [B, F, n, heads, dim], matrix [B, F, 4, 4] or None (nothing happens to
    the first channels), angle [B, F, n, heads, pairs]."""
    split = x.shape[-1] - 2 * angle.shape[-1]
    head, rest = x[..., :split].float(), x[..., split:].float()
    if matrix is not None:
        fours = head.unflatten(-1, (-1, 1, 4))
        head = (fours * matrix[:, :, None, None, None]).sum(-1).flatten(-2)
    cos, sin = angle.cos(), angle.sin()
    a, b = rest.unflatten(-1, (-1, 2)).unbind(-1)
    rest = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return torch.cat((head, rest), dim=-1).to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """All frames of q attend to all frames of k and v; [B, F, n, heads, hd] in and out."""
    frames = q.shape[1]
    q, k, v = (y.flatten(1, 2).transpose(1, 2) for y in (q, k, v))
    mask = None if bias is None else bias.to(q.dtype)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).unflatten(1, (frames, -1))
