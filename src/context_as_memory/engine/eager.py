"""The rewritten denoiser in plain torch: the fast path where OpenVINO is missing, and on GPUs.

On CPUs with bf16 the weights are packed once for oneDNN, with operators that torch's own compiler uses but does not
promise to keep; where they are missing, and for fp32, which gains nothing, it is `torch.nn.functional.linear`.
On GPUs a step is recorded once per number of context frames and replayed as a CUDA graph.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, rms_norm

from context_as_memory import machine
from context_as_memory.adapters.text import Said
from context_as_memory.compute import attention_kernel
from context_as_memory.engine.folded import Folded, Layer, Linear, TokenPlaces
from context_as_memory.tokens import ModelInputs

_ROWS = 240  # tokens that packed weights are laid out for; others work too


def can_pack() -> bool:
    """Whether torch has the operators for packed weights."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _gains_by_packing(dtype: torch.dtype, device: torch.device) -> bool:
    """fp32 products were as fast without."""
    return dtype == torch.bfloat16 and device.type == "cpu" and machine.has_bf16() and can_pack()


class Product:
    """x @ weight.T + bias, optionally with GELU (tanh) after it."""

    def __init__(self, layer: Linear, dtype: torch.dtype, activated: bool = False, packed: bool | None = None) -> None:
        """packed: whether to pack the weights; None: where it gains something."""
        self.weight, self.bias, self.activated = layer.weight.to(dtype), layer.bias.to(dtype), activated
        self._packed = None
        if _gains_by_packing(dtype, self.weight.device) if packed is None else packed:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, _ROWS)
        self._after: tuple[Any, ...] = ("gelu", [], "tanh") if activated else ("none", [], "")

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self._packed is not None:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, *self._after)
            return found
        y = linear(x, self.weight, self.bias)
        return gelu(y, approximate="tanh") if self.activated else y


class _Block:
    """One block on tokens [F, n, d]."""

    def __init__(self, folded: Folded, layer: Layer, dtype: torch.dtype) -> None:
        self.heads, self.eps, self.width = folded.heads, folded.eps, folded.width
        self.qkv, self.out, self.down = (Product(part, dtype) for part in (layer.qkv, layer.out, layer.down))
        self.up = Product(layer.up, dtype, activated=True)
        self.norm_q, self.norm_k = layer.norm_q.to(dtype), layer.norm_k.to(dtype)

    def project(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each [F, n, heads, hd], before they are placed."""
        normal = layer_norm(x, (self.width,), scale, shift, self.eps)
        q, k, v = self.qkv(normal).chunk(3, dim=-1)
        q = rms_norm(q, (self.width,), self.norm_q, self.eps)
        k = rms_norm(k, (self.width,), self.norm_k, self.eps)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))  # type: ignore[no-untyped-call]
        return q, k, v

    def go_on(self, x: Tensor, attended: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
        """Tokens after the block; rows: gate, shift, 1 + scale, gate."""
        gate, shift, scale, second_gate = rows
        x = torch.addcmul(x, self.out(attended.flatten(-2)), gate)
        return torch.addcmul(x, self.down(self.up(layer_norm(x, (self.width,), scale, shift, self.eps))), second_gate)


def _placed(x: Tensor, cosine: Tensor, sine: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """x * C + (x @ R) * S for x [F, n, heads, hd]."""
    turned = torch.bmm(x.flatten(1, 2), matrix).view(x.shape)
    return torch.addcmul(x * cosine, turned, sine, out=out)


class EagerDenoiser:
    """The denoiser in torch, in one number format on one device."""

    def __init__(self, folded: Folded, dtype: torch.dtype) -> None:
        self.folded, self.dtype = folded, dtype
        self.blocks = [_Block(folded, layer, dtype) for layer in folded.layers]
        self.head = Product(folded.head, dtype)
        self._kernel = attention_kernel(folded.device.type)
        self._embeds = lru_cache(maxsize=4)(self._embed_of)
        self._table = lru_cache(maxsize=64)(lambda timestep: folded.modulation(timestep).to(dtype))
        self._here = lru_cache(maxsize=4)(lambda grid: self._cast(folded.places((0,), grid, None)))
        self._graphs = lru_cache(maxsize=16)(lambda frames, known, grid: _Step(self, frames, known, grid))

    def _embed_of(self, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        weight, offset = self.folded.patch_weight.to(self.dtype), self.folded.offset(grid).to(self.dtype)
        return lambda latents: linear(self.folded.tokens(latents).to(weight), weight) + offset

    def _cast(self, places: TokenPlaces) -> TokenPlaces:
        return TokenPlaces(*(part.to(self.dtype) for part in vars(places).values()))

    def read(self, latents: Tensor) -> list[Tensor]:
        """Keys and values of clean frames [C, K, h, w]: a block [2 layers, n, heads, hd] a frame. One at a time: the
        last bits of a product depend on its size, and a frame must be the same with whatever else it is read."""
        grid = self.folded.grid(latents)
        return [self._read_one(latents[:, [frame]], grid) for frame in range(latents.shape[1])]

    def _read_one(self, latent: Tensor, grid: tuple[int, int]) -> Tensor:
        x, place, table = self._embeds(grid)(latent), self._here(grid), self._table(0.0)
        cached = []
        for number, block in enumerate(self.blocks):
            shift, scale, *others = table[6 * number : 6 * number + 6]
            q, k, v = block.project(x, shift, scale)
            cached += [k[0], v[0]]
            if number + 1 < len(self.blocks):  # of the last layer nothing else is read
                q, k, v = (
                    _placed(part, place.cosine, place.sine, matrix)
                    for part, matrix in ((q, place.query), (k, place.key), (v, place.key))
                )
                x = block.go_on(x, self._turned_back(self.attend(q, k, v), place), tuple(others))
        return torch.stack(cached)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [F, n, heads, hd]; k and v [..., heads, hd] of all frames; the scale stands in q already."""
        queries, keys, values = (part.flatten(0, -3).transpose(0, 1).unsqueeze(0) for part in (q, k, v))
        result: Tensor = self._kernel(queries, keys, values, None, 1.0)[0].transpose(0, 1).unflatten(0, q.shape[:2])  # type: ignore[no-untyped-call]
        return result

    def _turned_back(self, attended: Tensor, place: TokenPlaces) -> Tensor:
        return _placed(attended, place.cosine, place.sine, place.output)

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: list[Tensor], said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for one chunk, a context [C, K, h, w]; see `Denoiser.place`."""
        return self.place_together([(latents, inputs, cached)])

    def place_together(
        self, chunks: Sequence[tuple[Tensor, ModelInputs, list[Tensor]]]
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for B chunks at once, a context [C, K, h, w] each; see `Denoiser.place_together`."""
        folded, grid = self.folded, self.folded.grid(chunks[0][0])
        rows = [torch.nonzero(inputs.context_mask[0, 0]).flatten().tolist() for _, inputs, _ in chunks]
        positions = chunks[0][1].target_positions
        step = self._graphs(len(positions), tuple(len(used) for used in rows), grid)
        targets = []
        for number, ((_, inputs, cached), used) in enumerate(zip(chunks, rows, strict=True)):
            inputs = inputs.to(folded.device)
            cameras = inputs.context_cameras.flatten(0, 1)
            where = self._cast(folded.places(inputs.context_positions, grid, cameras))
            for row, slot in enumerate(used):
                block = cached[slot].flatten(1, 2).flatten(0, 1).unsqueeze(0)  # [1, 2 layers n heads, hd]
                turned = torch.bmm(block, where.key[slot : slot + 1]).view(cached[slot].shape)
                step.put(number, row, torch.addcmul(cached[slot] * where.cosine[slot], turned, where.sine[slot]))
            targets.append(vars(folded.places(positions, grid, inputs.target_cameras.flatten(0, 1))))
        for name, held in vars(step.place).items():
            held.copy_(torch.cat([target[name] for target in targets]))

        def output(noisy: Tensor, timestep: float) -> Tensor:
            found = step.run(self._embeds(grid)(noisy.transpose(0, 1).flatten(1, 2)), self._table(timestep))
            latents = folded.latents(found, grid)
            apart: Tensor = latents.unflatten(1, (len(chunks), -1)).transpose(0, 1)  # type: ignore[no-untyped-call]
            return apart

        return output


class _Step:
    """One evaluation of the network for chunks of P target frames, each with its own number of context frames, with
    buffers of its own. Products see all chunks at once, attention one by one."""

    def __init__(self, denoiser: EagerDenoiser, frames: int, known: tuple[int, ...], grid: tuple[int, int]) -> None:
        folded, self.denoiser = denoiser.folded, denoiser
        self.frames, count, together = frames, grid[0] * grid[1], frames * len(known)

        def empty(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=denoiser.dtype, device=folded.device)

        heads, width = folded.heads, folded.head_dim
        self.place = TokenPlaces(
            *(empty(together, count, heads, width) for _ in range(2)),
            *(empty(together, width, width) for _ in range(3)),
        )
        # Of each chunk, keys and values of each layer in turn; own frames first.
        self.memory = [
            empty(2 * len(denoiser.blocks), frames + frames_known, count, heads, width) for frames_known in known
        ]
        self._x, self._table = empty(together, count, folded.width), empty(6 * len(denoiser.blocks) + 2, folded.width)
        self._found: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def put(self, chunk: int, row: int, placed: Tensor) -> None:
        """Placed keys and values of one context frame of a chunk, [2 layers, n, heads, hd]."""
        self.memory[chunk][:, self.frames + row] = placed

    def run(self, x: Tensor, table: Tensor) -> Tensor:
        """Output [B P, n, p q C] for embedded tokens [B P, n, d]."""
        if x.device.type != "cuda":
            return self._evaluate(x, table)
        self._x.copy_(x)
        self._table.copy_(table)
        if self._graph is None:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._evaluate(self._x, self._table)  # libraries choose their kernels outside the recording
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._found = self._evaluate(self._x, self._table)
        self._graph.replay()
        assert self._found is not None
        return self._found.clone()

    def _evaluate(self, x: Tensor, table: Tensor) -> Tensor:
        denoiser, place = self.denoiser, self.place
        for number, block in enumerate(denoiser.blocks):
            shift, scale, *others = table[6 * number : 6 * number + 6]
            q, k, v = block.project(x, shift, scale)
            q = _placed(q, place.cosine, place.sine, place.query)
            each = []
            for chunk, memory in enumerate(self.memory):
                own = slice(chunk * self.frames, (chunk + 1) * self.frames)
                keys, values = memory[2 * number], memory[2 * number + 1]
                where = place.cosine[own], place.sine[own], place.key[own]
                _placed(k[own], *where, out=keys[: self.frames])
                _placed(v[own], *where, out=values[: self.frames])
                each.append(denoiser.attend(q[own], keys, values))
            seen = each[0] if len(each) == 1 else torch.cat(each)
            x = block.go_on(x, _placed(seen, place.cosine, place.sine, place.output), tuple(others))
        folded = denoiser.folded
        return denoiser.head(layer_norm(x, (folded.width,), table[-1], table[-2], folded.eps)).float()
