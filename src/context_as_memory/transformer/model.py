"""The network: blocks with diffusers' names, and the three ways to read the context."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, silu
from torch.utils.checkpoint import checkpoint

from context_as_memory.compute import attention_kernel
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float
from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.transformer.config import TransformerConfig
from context_as_memory.transformer.placement import PIXEL_OCTAVES, RAY_FRAME_PAIRS, Placement, pixel_features

KeysValues = list[tuple[Tensor, Tensor]]  # one pair per layer
Kept = KeysValues | None  # a list to put them in
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # (layer, q, k, v), each [B, F, n, heads, hd] -> same as q


def attend_all(
    q: Float[Tensor, "b f n heads hd"],
    k: Float[Tensor, "b g m heads hd"],
    v: Float[Tensor, "b g m heads hd"],
    bias: Tensor | None = None,
) -> Float[Tensor, "b f n heads hd"]:
    """All frames of q attend to all frames of k and v; [B, F, n, heads, hd] in and out."""
    frames = q.shape[1]
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # views: kernels read strides
    out = attention_kernel(q.device.type)(q, k, v, bias)
    result: Tensor = out.transpose(1, 2).unflatten(1, (frames, -1))  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(nn.RMSNorm):
    """In the number format of its input: with another one torch has no fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _LayerNorm(nn.LayerNorm):
    """In fp32, whatever the number format of its input and weights, as in Wan."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)


class Attention(nn.Module):
    """Projections of one attention layer; queries and keys are normalised across all heads, as in Wan. Camera heads
    stand behind the pre-trained ones, with projections and norms of their own."""

    def __init__(self, width: int, heads: int, head_dim: int, eps: float, camera_heads: int = 0) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = _RMSNorm(inner, eps), _RMSNorm(inner, eps)
        self.camera_heads = Attention(width, camera_heads, head_dim, eps) if camera_heads else None

    def project(
        self, x: Float[Tensor, "b f n d"], source: Tensor | None = None
    ) -> tuple[Float[Tensor, "b f n heads hd"], Float[Tensor, "b g m heads hd"], Float[Tensor, "b g m heads hd"]]:
        """Queries from x, keys and values from `source` (x itself if None): [B, F, n, d] -> [B, F, n, heads, hd]."""
        source = x if source is None else source
        q, k, v = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source)), self.to_v(source)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (q, k, v))
        if self.camera_heads is not None:
            others = self.camera_heads.project(x, source)
            q, k, v = (torch.cat((own, other), dim=-2) for own, other in zip((q, k, v), others, strict=True))
        return q.to(v.dtype), k.to(v.dtype), v

    def merge(self, o: Float[Tensor, "b f n heads hd"]) -> Float[Tensor, "b f n d"]:
        result: Tensor = self.to_out[0](o[..., : self.heads, :].flatten(-2))
        return result if self.camera_heads is None else result + self.camera_heads.merge(o[..., self.heads :, :])


@torch.no_grad()
def look_along_rays(attention: Attention, config: TransformerConfig) -> None:
    """Give queries and keys a constant part in the ray codes: attention starts out near the token's own ray."""
    first = config.attention_head_dim - config.rotary_dim + 2 * RAY_FRAME_PAIRS
    for layer in (attention.to_q, attention.to_k):
        layer.bias.view(attention.heads, -1)[:, first::2] = 1.0


class _GELUProjection(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.proj(x), approximate="tanh")


class TransformerBlock(nn.Module):
    """Self-attention, optional attention to text, feed-forward; modulated by the timestep of each frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, eps = config.width, config.eps
        self.norm1 = nn.LayerNorm(width, eps, elementwise_affine=False)
        heads, head_dim = config.num_attention_heads, config.attention_head_dim
        self.attn1 = Attention(width, heads, head_dim, eps, config.camera_heads)
        if config.text_dim is not None:
            self.attn2 = Attention(width, heads, head_dim, eps)
            self.norm2 = _LayerNorm(width, eps) if config.cross_attn_norm else nn.Identity()
        hidden, out = _GELUProjection(width, config.ffn_dim), nn.Linear(config.ffn_dim, width)
        self.ffn = nn.Sequential(OrderedDict(net=nn.Sequential(hidden, nn.Identity(), out)))
        self.norm3 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        if config.camera == "additive":
            self.camera_encoder = nn.Linear(12, width)  # begins as nothing: see `_initialise`

    def forward(
        self, x: Tensor, modulation: Tensor, layer: int, attend: Attend, pose: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, F, n, d]; modulation [B, F, 6, d]; pose [B, F, 12] for additive cameras; text [B, 1, T, d]. Returns x,
        and keys and values before any position is applied to them."""
        table = (self.scale_shift_table + modulation.float()).type_as(x)
        shift1, scale1, gate1, shift2, scale2, gate2 = (y.unsqueeze(2) for y in table.unbind(2))
        y = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        if pose is not None:
            y = y + self.camera_encoder(pose.to(y.dtype)).unsqueeze(2)
        q, k, v = self.attn1.project(y)
        x = torch.addcmul(x, self.attn1.merge(attend(layer, q, k, v)), gate1)
        if text is not None:
            x = x + self.attn2.merge(attend_all(*self.attn2.project(self.norm2(x), text)))
        y = torch.addcmul(shift2, self.norm3(x), 1 + scale2)
        return torch.addcmul(x, self.ffn(y), gate2), k, v


class _TwoLayers(nn.Module):
    """linear_1, activation, linear_2: diffusers' shape of the timestep and text embedders."""

    def __init__(self, inputs: int, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear_2(self.activation(self.linear_1(x)))
        return result


class ConditionEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = _TwoLayers(config.freq_dim, config.width, silu)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        if config.text_dim is not None:
            self.text_embedder = _TwoLayers(config.text_dim, config.width, lambda x: gelu(x, approximate="tanh"))

    def forward(self, timestep: Float[Tensor, "b f"]) -> tuple[Float[Tensor, "b f d"], Float[Tensor, "b f 6 d"]]:
        """timestep [B, F] in [0, 1000] -> embedding [B, F, d], modulation [B, F, 6, d]."""
        half = self.freq_dim // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half)
        angle = timestep.float().unsqueeze(-1) * rates
        embedding = self.time_embedder(torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.time_proj.weight.dtype))
        return embedding, self.time_proj(silu(embedding)).unflatten(-1, (6, -1))


@dataclass(frozen=True)
class Context:
    """Context made ready for a chunk: either placed keys and values, or, in `joint` mode, the latents themselves."""

    keys_values: KeysValues | None  # per layer, placed: [B, K, n, heads, hd]
    latents: Tensor | None  # [B, C, K, h, w]
    bias: Tensor | None  # [B, 1, 1, K n]: 0 for real frames, -inf for empty slots; None when there are no empty slots


class WorldTransformer(nn.Module):
    """The denoiser. `prepare` reads the context once per chunk, `denoise` predicts the velocity of noisy targets."""

    entry_points = ("predict",)  # what training calls instead of forward
    block_class: type[TransformerBlock] = TransformerBlock

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False  # True: blocks are computed again for their gradients
        self.words: Any = None  # what turns a prompt into rows [1, T, text_dim], for weights that read text
        self.patch_embedding = nn.Conv3d(config.in_channels, config.width, config.patch_size, config.patch_size)
        self.condition_embedder = ConditionEmbedder(config)
        self.blocks = nn.ModuleList(self.block_class(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(config.width, config.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(config.width, config.out_channels * math.prod(config.patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, config.width) / config.width**0.5)
        if config.relative_cameras:
            # With relative cameras a token must know where it stands in its own picture to be a ray; this tells it.
            self.pixel_embedding = nn.Linear(2 + 2 * 2 * PIXEL_OCTAVES, config.width)
        self._initialise()

    def _initialise(self) -> None:
        """Start as a network that predicts zero and passes its tokens through with small, open gates."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.condition_embedder.time_proj.weight)
        nn.init.zeros_(self.proj_out.weight)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            with torch.no_grad():
                block.scale_shift_table[:, (2, 5)] = (2 * self.config.num_layers) ** -0.5
            if self.config.camera == "additive":
                nn.init.zeros_(block.camera_encoder.weight)
            if self.config.camera == "rays":
                look_along_rays(block.attn1.camera_heads or block.attn1, self.config)
            if block.attn1.camera_heads is not None:  # the network begins as the one that they are added to
                nn.init.zeros_(self.pixel_embedding.weight)
                for parameter in block.attn1.camera_heads.to_out.parameters():
                    nn.init.zeros_(parameter)

    # -- shared pieces -------------------------------------------------------------------------------------------

    def _embed(self, latents: Float[Tensor, "b c f h w"]) -> tuple[Float[Tensor, "b f n d"], tuple[int, int]]:
        """Latents [B, C, F, h, w] -> tokens [B, F, n, d] and the token grid (rows, columns)."""
        x = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))
        grid = (x.shape[-2], x.shape[-1])
        tokens = rearrange(x, "b d f h w -> b f (h w) d")
        if self.config.relative_cameras:
            tokens = tokens + self.pixel_embedding(pixel_features(grid, tokens.device).to(tokens.dtype))
        return tokens, grid

    def _run(
        self, x: Tensor, times: Tensor, attend: Attend, pose: Tensor | None, text: Tensor | None, kept: Kept = None
    ) -> tuple[Tensor, Tensor]:
        """All blocks, on tokens x; returns them and the timestep embedding for the output layer, fills `kept`."""
        embedding, modulation = self.condition_embedder(times)
        if self.config.text_dim is not None:
            if text is None:
                raise UserError("transformer: these weights are conditioned on text; give encoder_hidden_states")
            text = self.condition_embedder.text_embedder(text).unsqueeze(1)
        for layer, block in enumerate(self.blocks):
            arguments = (x, modulation, layer, attend, pose, text)
            if self.checkpointing and torch.is_grad_enabled():
                x, k, v = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, k, v = block(*arguments)
            if kept is not None:
                kept.append((k, v))
        return x, embedding

    def _head(
        self, tokens: Float[Tensor, "b f n d"], embedding: Float[Tensor, "b f d"], grid: tuple[int, int]
    ) -> Float[Tensor, "b c f h w"]:
        """Tokens [B, F, n, d] -> [B, C, F, h, w]."""
        shift, scale = (self.scale_shift_table + embedding.float().unsqueeze(2)).chunk(2, dim=2)
        x = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        _, rows, columns = self.config.patch_size
        result: Tensor = rearrange(x, "b f (h w) (p q c) -> b c f (h p) (w q)", h=grid[0], p=rows, q=columns)
        return result

    def _pose(self, cameras: CameraTensors | None) -> Tensor | None:
        """The paper's camera vector: rows of the 3x4 pose, lengths in model units; [B, F, 12]."""
        if self.config.camera != "additive" or cameras is None:
            return None
        scale = cameras.c2w.new_tensor([1, 1, 1, 1 / self.config.translation_scale_m])
        return (cameras.c2w[..., :3, :] * scale).flatten(-2)

    # -- the stock joint pass ------------------------------------------------------------------------------------

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, " b *f"],
        encoder_hidden_states: Tensor | None = None,
        *,
        frame_positions: tuple[int, ...] | None = None,
        cameras: CameraTensors | None = None,
        bias: Tensor | None = None,
        kept: Kept = None,
    ) -> Float[Tensor, "b out f h w"]:
        """All frames attend to all frames; without the keyword arguments this is `WanTransformer3DModel.forward`.

        hidden_states [B, C, F, h, w]; timestep [B] or, one per frame, [B, F], in [0, 1000]; encoder_hidden_states
        [B, T, text_dim]; frame_positions F integers (0 .. F-1 if None); cameras [B, F]; bias [B, 1, 1, F n] added to
        the attention scores; kept: a list that keys and values go to. Returns the predicted velocity, [B, C, F, h, w].
        """
        frames = hidden_states.shape[2]
        tokens, grid = self._embed(hidden_states)
        place = Placement(self.config, frame_positions or tuple(range(frames)), grid, tokens.device, cameras)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return place.output(attend_all(place.query(q), place.key(k), place.value(v), bias))

        timestep = timestep.unsqueeze(1).expand(-1, frames) if timestep.ndim == 1 else timestep
        tokens, embedding = self._run(tokens, timestep, attend, self._pose(cameras), encoder_hidden_states, kept)
        return self._head(tokens, embedding, grid)

    # -- memory --------------------------------------------------------------------------------------------------

    def encode_context(
        self,
        latents: Float[Tensor, "b c k h w"],
        frame_positions: tuple[int, ...] | None = None,
        cameras: CameraTensors | None = None,
        bias: Tensor | None = None,
        text: Tensor | None = None,
    ) -> KeysValues:
        """Keys and values of clean context frames [B, C, K, h, w], before any position is applied to them.

        In `per_frame` mode the result is a function of the latents (and of the text, if any) alone; the other arguments
        are for `cached`.
        """
        batch, _, frames = latents.shape[:3]
        per_frame = self.config.context_mode == "per_frame"
        if per_frame:
            latents = rearrange(latents, "b c k h w -> (b k) c 1 h w")
            frame_positions, cameras, bias = (0,), None, None
            text = None if text is None else text.repeat_interleave(frames, dim=0)
        kept: KeysValues = []
        clean = latents.new_zeros(len(latents))
        self(latents, clean, text, frame_positions=frame_positions, cameras=cameras, bias=bias, kept=kept)
        if per_frame:
            kept = [(k.view(batch, frames, *k.shape[2:]), v.view(batch, frames, *v.shape[2:])) for k, v in kept]
        return kept

    def prepare(
        self,
        pool: Float[Tensor, "s c m h w"],
        inputs: ModelInputs,
        text: Tensor | None = None,
        encoded: KeysValues | None = None,
    ) -> Context:
        """Read the context of S x G chunks whose frames lie in pools of M clean latents, [S, C, M, h, w].

        A frame that several chunks of a segment use is encoded once in `per_frame` mode (packing). There the keys and
        values of the pool, [S, M, n, heads, hd] per layer, may be given as `encoded`, if they are known already.
        """
        segments, _, frames = pool.shape[:3]
        groups = inputs.context_index.shape[1]
        offset = torch.arange(segments, device=pool.device).view(-1, 1, 1) * frames
        flat = (inputs.context_index + offset).flatten()  # rows of the pools laid end to end
        cameras = inputs.context_cameras.flatten(0, 1)
        positions = inputs.context_positions
        mask = inputs.context_mask.flatten(0, 1)
        rows, columns = (pool.shape[3] // self.config.patch_size[1], pool.shape[4] // self.config.patch_size[2])
        bias = None
        if not bool(mask.all()):
            bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))
            bias = bias.repeat_interleave(rows * columns, dim=1)[:, None, None]
        if self.config.context_mode == "per_frame":
            kept = [
                (k.flatten(0, 1).index_select(0, flat), v.flatten(0, 1).index_select(0, flat))
                for k, v in encoded or self.encode_context(pool, text=text)
            ]
            kept = [(k.unflatten(0, mask.shape), v.unflatten(0, mask.shape)) for k, v in kept]  # type: ignore[no-untyped-call]
        else:
            gathered = rearrange(pool, "s c m h w -> (s m) c h w").index_select(0, flat)
            latents = rearrange(gathered, "(b k) c h w -> b c k h w", k=mask.shape[1])
            if self.config.context_mode == "joint":
                return Context(None, latents, bias)
            text = None if text is None else text.repeat_interleave(groups, dim=0)
            kept = self.encode_context(latents, positions, cameras, bias, text)
        place = Placement(self.config, positions, (rows, columns), pool.device, cameras)
        return Context([(place.key(k), place.value(v)) for k, v in kept], None, bias)

    def denoise(
        self,
        noisy: Float[Tensor, "b c p h w"],
        timestep: Float[Tensor, " b"],
        context: Context,
        inputs: ModelInputs,
        text: Tensor | None = None,
    ) -> Float[Tensor, "b out p h w"]:
        """Velocity of noisy targets [B, C, P, h, w] at timestep [B] in [0, 1000], given their context; B = S G."""
        frames, bias, latents = noisy.shape[2], context.bias, context.latents
        cameras = inputs.target_cameras.flatten(0, 1)
        times = timestep.unsqueeze(1).expand(-1, frames)
        if bias is not None:  # nothing hides the targets themselves
            tokens_per_frame = bias.shape[-1] // inputs.context_mask.shape[-1]
            bias = torch.cat((bias.new_zeros(*bias.shape[:3], frames * tokens_per_frame), bias), dim=-1)
        if latents is not None:  # the paper's way: targets and context in one sequence through all layers, every time
            predicted: Tensor = self(
                torch.cat((noisy, latents.to(noisy.dtype)), dim=2),
                torch.cat((times, times.new_zeros(len(times), latents.shape[2])), dim=1),
                text,
                frame_positions=inputs.target_positions + inputs.context_positions,
                cameras=CameraTensors.cat((cameras, inputs.context_cameras.flatten(0, 1)), dim=1),
                bias=bias,
            )
            return predicted[:, :, :frames]
        known = context.keys_values
        assert known is not None
        tokens, grid = self._embed(noisy)
        place = Placement(self.config, inputs.target_positions, grid, tokens.device, cameras)
        bias = None if bias is None else bias.to(tokens.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            context_k, context_v = known[layer]
            k, v = torch.cat((place.key(k), context_k), dim=1), torch.cat((place.value(v), context_v), dim=1)
            return place.output(attend_all(place.query(q), k, v, bias))

        tokens, embedding = self._run(tokens, times, attend, self._pose(cameras), text)
        return self._head(tokens, embedding, grid)

    def predict(
        self,
        noisy: Float[Tensor, "b c p h w"],
        timestep: Float[Tensor, " b"],
        pool: Float[Tensor, "s c m h w"],
        inputs: ModelInputs,
        text: Tensor | None = None,
        memory_text: Tensor | None = None,
    ) -> Float[Tensor, "b out p h w"]:
        """`prepare` and `denoise` in one call, as training uses them. text and
        memory_text: rows [B, T, text_dim] for the targets and for memory, which is read with `text` if None."""
        context = self.prepare(pool, inputs, text if memory_text is None else memory_text)
        return self.denoise(noisy, timestep, context, inputs, text)
