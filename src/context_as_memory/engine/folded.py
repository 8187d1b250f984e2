"""The denoiser's weights, rewritten once so that a step is few large operations. Exact in real arithmetic.

- The channels of each head are permuted (`head_order`): the camera's first, plane by plane, then the real and the
  imaginary parts of the ray code. Then to put q, k, v or an output in its place is x * C + (x @ R) * S, with one matrix
  R a frame.
- Queries, keys and values are one product. The scale of the scores stands in the norm of the queries.
- All targets of a chunk share a timestep, and noise levels repeat in every chunk: modulation is the weight and the bias
  of the layer norms, from a table that is made once per timestep.
- Position code and bias of the patches are one constant.

Only `rays` cameras with `per_frame` context and without text are rewritten; the plain model is for all others.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from context_as_memory.tokens import CameraTensors
from context_as_memory.transformer import TransformerConfig, WorldTransformer
from context_as_memory.transformer.model import TransformerBlock
from context_as_memory.transformer.placement import pixel_features, projections, ray_angles


@dataclass(frozen=True)
class Linear:
    """weight [out, in], bias [out]; fp32, like everything here."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Layer:
    """One block: products and norms of queries and keys, [d] each."""

    qkv: Linear
    norm_q: Tensor
    norm_k: Tensor
    out: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True)
class TokenPlaces:
    """Where the tokens of F frames stand: C and S [F, n, heads, hd], R [F, hd, hd] for queries, keys (and values) and
    outputs."""

    cosine: Tensor
    sine: Tensor
    query: Tensor
    key: Tensor
    output: Tensor


def why_not(config: TransformerConfig) -> str | None:
    """What keeps these weights from being rewritten, in a few words; None if nothing does."""
    if type(config) is not TransformerConfig:
        return "a network of their makers"
    if config.camera != "rays":
        return f"cameras {config.camera!r}"
    if config.context_mode != "per_frame":
        return f"context mode {config.context_mode!r}"
    if config.camera_heads:
        return "camera heads"
    return None if config.text_dim is None else "conditioning on text"


def head_order(head_dim: int) -> Tensor:
    """Old channel numbers in the new order: channel i of a head is what was channel `head_order(...)[i]`."""
    split = head_dim // 2
    camera = torch.arange(split).view(-1, 4).T.flatten()
    return torch.cat((camera, torch.arange(split, head_dim, 2), torch.arange(split + 1, head_dim, 2)))


class Folded:
    """The weights of a `WorldTransformer`, rewritten. Holds copies only: later changes of the model do not reach it."""

    def __init__(self, model: WorldTransformer) -> None:
        config = self.config = model.config
        self.width, self.heads, self.head_dim = config.width, config.num_attention_heads, config.attention_head_dim
        self.device = next(model.parameters()).device
        self.eps, self.patch = config.eps, config.patch_size[1:]
        self._embedder = copy.deepcopy(model.condition_embedder).float()
        order = (torch.arange(self.heads).unsqueeze(1) * self.head_dim + head_order(self.head_dim)).flatten()
        order = order.to(self.device)
        self._tables, self.layers = [], []
        for block in model.blocks:
            assert isinstance(block, TransformerBlock)
            attention, net = block.attn1, cast(nn.Sequential, block.ffn.net)
            up, down = cast(Any, net[0]), net[2]
            parts = [_copied(part) for part in (attention.to_q, attention.to_k, attention.to_v)]
            qkv = Linear(
                torch.cat([part.weight[order] for part in parts]), torch.cat([part.bias[order] for part in parts])
            )
            scale = self.head_dim**-0.5  # a power of two for heads of 64: exact
            norm_q = attention.norm_q.weight.detach().float()[order] * scale
            norm_k = attention.norm_k.weight.detach().float()[order]
            out = _copied(attention.to_out[0])
            out = Linear(out.weight[:, order].contiguous(), out.bias)
            self.layers.append(Layer(qkv, norm_q, norm_k, out, _copied(up.proj), _copied(down)))
            self._tables.append(block.scale_shift_table.detach().float()[0])
        self._head_table = model.scale_shift_table.detach().float()[0]
        self.head = _copied(model.proj_out)
        patches = model.patch_embedding
        assert patches.bias is not None
        self._patch_bias = patches.bias.detach().float()
        self.patch_weight = patches.weight.detach().float().flatten(1)  # [d, C p q]
        self._pixel = _copied(model.pixel_embedding)
        self.modulation = lru_cache(maxsize=64)(self._modulation)

    def offset(self, grid: tuple[int, int]) -> Tensor:
        """What is added to the embedded patches of a frame: bias and position code, [n, d]."""
        code = linear(pixel_features(grid, self.device), self._pixel.weight, self._pixel.bias)
        return code + self._patch_bias

    def _modulation(self, timestep: float) -> Tensor:
        """At one timestep: six rows a layer (shift, 1 + scale, gate of attention and of the feed-forward), and shift
        and 1 + scale of the output; [6 layers + 2, d]."""
        embedding, six = self._embedder(torch.full((1, 1), timestep, device=self.device))
        rows = torch.cat([table + six[0, 0] for table in self._tables] + [self._head_table + embedding[0]])
        scales = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        scales[1:-2:3] = scales[-1] = True  # rows 1 and 4 of each six
        return rows + scales.unsqueeze(1)

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents [C, F, h, w] as patches [F, n, C p q]."""
        rows, columns = self.patch
        return rearrange(latents, "c f (h p) (w q) -> f (h w) (c p q)", p=rows, q=columns)

    def latents(self, output: Tensor, grid: tuple[int, int]) -> Tensor:
        """The network's output [F, n, p q C] as latents [C, F, h, w]."""
        rows, columns = self.patch
        return rearrange(output, "f (h w) (p q c) -> c f (h p) (w q)", h=grid[0], p=rows, q=columns)

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens in a frame of latents [..., h, w]."""
        return latents.shape[-2] // self.patch[0], latents.shape[-1] // self.patch[1]

    def places(self, frames: tuple[int, ...], grid: tuple[int, int], cameras: CameraTensors | None) -> TokenPlaces:
        """Places of the tokens of F frames with cameras [1, F]; without cameras, as a context frame sees itself."""
        angle = ray_angles(self.config, frames, grid, self.device, cameras)[0]
        table = torch.polar(torch.ones_like(angle), angle)
        plain = torch.zeros(*table.shape[:-1], self.head_dim // 2, device=self.device)
        cosine = torch.cat((plain, table.real, table.real), dim=-1)
        sine = torch.cat((plain + 1, table.imag, table.imag), dim=-1)
        if cameras is None:
            to_image = to_world = torch.eye(4, device=self.device).expand(len(frames), 4, 4)
        else:
            to_image, to_world = (matrix[0] for matrix in projections(cameras, self.config.translation_scale_m))
        query, key = self._matrix(to_image, 1.0), self._matrix(to_world.mT, 1.0)
        return TokenPlaces(cosine, sine, query, key, self._matrix(to_image.mT, -1.0))

    def _matrix(self, camera: Tensor, turn: float) -> Tensor:
        """R [F, hd, hd] of the cameras' row-vector matrices [F, 4, 4]; `turn` is -1 to turn the ray code back."""
        matrix = torch.zeros(len(camera), self.head_dim, self.head_dim, device=self.device)
        planes, split, pairs = self.head_dim // 8, self.head_dim // 2, self.head_dim // 4
        channels = torch.arange(planes, device=self.device)
        blocks = matrix[:, :split, :split].view(-1, 4, planes, 4, planes)
        blocks[:, :, channels, :, channels] = camera.to(self.device)
        real = torch.arange(split, split + pairs, device=self.device)
        matrix[:, real, real + pairs], matrix[:, real + pairs, real] = turn, -turn
        return matrix


def _copied(module: Any) -> Linear:
    """Copies of a linear layer's, or a convolution's, weight and bias."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return Linear(weight.detach().float().clone(), bias.detach().float().clone())
