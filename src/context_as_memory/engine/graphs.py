"""The rewritten denoiser and the image autoencoder as OpenVINO graphs.

They are built from OpenVINO's operators directly (tracing the modules would take half a minute) and compiled once per
process, in a second or two, beside what else a program does at its start. Inside a graph queries, keys and values are
heads-first, [heads, F, n, hd], so that the plugin fuses an attention into one kernel.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from torch import Tensor, nn

from context_as_memory.adapters.text import Said
from context_as_memory.codec import ImageAutoencoder, ResidualBlock, Shortcut
from context_as_memory.engine.finite import refuse
from context_as_memory.engine.folded import Folded, Layer, Linear, TokenPlaces
from context_as_memory.tokens import ModelInputs

Node = Any  # OpenVINO's nodes carry no types


@cache
def _core() -> Any:
    return ov.Core()


def version() -> str:
    """OpenVINO's version, without the build."""
    return str(ov.__version__).split("-")[0]


@cache
def _builders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "graphs")


class _Graphs:
    """A graph for each size: built when it is first asked for, or before that in another thread."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build, self._found, self._alone = build, dict[tuple[Any, ...], Future[Any]](), Lock()

    def begin(self, *size: Any) -> Future[Any]:
        """Let it be built, unless it is or will be already."""
        with self._alone:
            if size not in self._found:
                self._found[size] = _builders().submit(torch.inference_mode()(self._build), *size)
            return self._found[size]

    def __call__(self, *size: Any) -> Any:
        return self.begin(*size).result()


def _compiled(outputs: Sequence[Node], inputs: Sequence[Node], name: str, bf16: bool, threads: int) -> Any:
    """A request of a compiled graph. Threads are not pinned to cores: beside a busy process that costs a third."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    model = ov.Model(list(outputs), list(inputs), name)
    return _core().compile_model(model, "CPU", settings).create_infer_request()


def _constant(values: Tensor | Sequence[int] | float) -> Node:
    if isinstance(values, Tensor):
        return op.constant(values.float().contiguous().numpy())
    kind = np.float32 if isinstance(values, float) else np.int64
    return op.constant(np.asarray(values, kind))


def _linear(x: Node, layer: Linear) -> Node:
    return op.add(op.matmul(x, _constant(layer.weight), False, True), _constant(layer.bias))


def _layer_norm(x: Node, shift: Node, scale: Node, eps: float) -> Node:
    normal = op.mvn(x, _constant([-1]), True, eps, "INSIDE_SQRT")
    return op.add(op.multiply(normal, scale), shift)


def _rms_norm(x: Node, weight: Tensor, eps: float) -> Node:
    mean = op.reduce_mean(op.power(x, _constant(2.0)), _constant([-1]), True)
    inverse = op.divide(_constant(1.0), op.sqrt(op.add(mean, _constant(eps))))
    return op.multiply(op.multiply(x, inverse), _constant(weight))


def _reshape(x: Node, shape: Sequence[int]) -> Node:
    """-1: what is left; 0: as before."""
    return op.reshape(x, _constant(shape), True)


class _Placing:
    """C and S [heads, F, n, hd], R [1, F, hd, hd], as nodes of a graph."""

    def __init__(self, cosine: Node, sine: Node, query: Node, key: Node, output: Node) -> None:
        self.cosine, self.sine, self.query, self.key, self.output = cosine, sine, query, key, output

    def of(self, x: Node, matrix: Node) -> Node:
        return op.add(op.multiply(x, self.cosine), op.multiply(op.matmul(x, matrix, False, False), self.sine))


def heads_first(places: TokenPlaces) -> list[np.ndarray]:
    """C and S [heads, F, n, hd], R [1, F, hd, hd] of queries, keys and outputs, as the graphs want them."""
    tables = [part.permute(2, 0, 1, 3) for part in (places.cosine, places.sine)]
    matrices = [part.unsqueeze(0) for part in (places.query, places.key, places.output)]
    return [part.contiguous().numpy() for part in (*tables, *matrices)]


class _Block:
    """One block of the network as a piece of a graph."""

    def __init__(self, folded: Folded, layer: Layer) -> None:
        self.folded, self.layer = folded, layer

    def project(self, x: Node, shift: Node, scale: Node) -> tuple[Node, Node, Node]:
        """Queries, keys, values of tokens [F, n, d], each [heads, F, n, hd], before they are placed."""
        layer, eps = self.layer, self.folded.eps
        parts = op.split(_linear(_layer_norm(x, shift, scale, eps), layer.qkv), op.constant(np.int64(-1)), 3).outputs()
        normed = (_rms_norm(parts[0], layer.norm_q, eps), _rms_norm(parts[1], layer.norm_k, eps), parts[2])
        shape, order = (0, 0, self.folded.heads, self.folded.head_dim), _constant([2, 0, 1, 3])
        q, k, v = (op.transpose(_reshape(part, shape), order) for part in normed)
        return q, k, v

    def go_on(self, x: Node, attended: Node, rows: Sequence[Node]) -> Node:
        """Tokens after the block. attended [heads, F, n, hd], placed; rows: gate, shift, 1 + scale, gate."""
        gate, shift, scale, second_gate = rows
        merged = _reshape(op.transpose(attended, _constant([1, 2, 0, 3])), (0, 0, self.folded.width))
        x = op.add(x, op.multiply(_linear(merged, self.layer.out), gate))
        hidden = op.gelu(_linear(_layer_norm(x, shift, scale, self.folded.eps), self.layer.up), "tanh")
        return op.add(x, op.multiply(_linear(hidden, self.layer.down), second_gate))


def _split(x: Node, chunks: int) -> list[Node]:
    """Frames [heads, B P, n, hd] of B chunks apart."""
    return op.split(x, op.constant(np.int64(1)), chunks).outputs() if chunks > 1 else [x]


def _attention(q: Node, k: Node, v: Node) -> Node:
    return op.matmul(op.softmax(op.matmul(q, k, False, True), -1), v, False, False)


class GraphDenoiser:
    """The denoiser in three graphs: `context` reads frames, `placing` puts what was read in its place for a chunk,
    `step` is one evaluation of the network."""

    def __init__(self, folded: Folded, bf16: bool) -> None:
        self.folded, self.bf16, self.threads = folded, bf16, torch.get_num_threads()
        self._context, self._placing = _Graphs(self._build_context), _Graphs(self._build_placing)
        self._steps = _Graphs(self._build_step)

    def prepare(self, frames: int, rows: int, columns: int) -> None:
        """Begin to build what chunks of that many latents of that size will need."""
        grid = rows // self.folded.patch[0], columns // self.folded.patch[1]
        self._context.begin(grid)
        self._steps.begin(frames, grid, 1)
        self._placing.begin(grid)

    # -- graphs ------------------------------------------------------------------------------------------------------

    def _build_context(self, grid: tuple[int, int]) -> Any:
        """Patches [K, n, C p q] -> keys and values of each layer in turn, [K, 2 layers, heads, n, hd]."""
        folded, count = self.folded, grid[0] * grid[1]
        patches = op.parameter([-1, count, folded.patch_weight.shape[1]], np.float32)
        x = _linear(patches, Linear(folded.patch_weight, folded.offset(grid)))
        table = folded.modulation(0.0)
        place = _Placing(*(op.constant(part) for part in heads_first(folded.places((0,), grid, None))))
        cached = []
        for number, layer in enumerate(folded.layers):
            rows = [_constant(row) for row in table[6 * number : 6 * number + 6]]
            block = _Block(folded, layer)
            q, k, v = block.project(x, rows[0], rows[1])
            cached += [k, v]
            if number + 1 < len(folded.layers):  # of the last layer nothing else is read
                seen = _attention(place.of(q, place.query), place.of(k, place.key), place.of(v, place.key))
                x = block.go_on(x, place.of(seen, place.output), rows[2:])
        stacked = op.concat([op.unsqueeze(part, _constant([0])) for part in cached], 0)
        return _compiled(
            [op.transpose(stacked, _constant([2, 0, 1, 3, 4]))], [patches], "context", self.bf16, self.threads
        )

    def _build_placing(self, grid: tuple[int, int]) -> Any:
        """What `context` gives, C, S and R -> placed keys and values of each layer in turn, [1, heads, K n, hd]."""
        folded, count = self.folded, grid[0] * grid[1]
        heads, width, parts = folded.heads, folded.head_dim, 2 * len(folded.layers)
        cached = op.parameter([-1, parts, heads, count, width], np.float32)
        cosine, sine = (op.parameter([-1, 1, heads, count, width], np.float32) for _ in range(2))
        matrix = op.parameter([-1, 1, 1, width, width], np.float32)
        placed = op.add(op.multiply(cached, cosine), op.multiply(op.matmul(cached, matrix, False, False), sine))
        apart = op.split(op.transpose(placed, _constant([1, 2, 0, 3, 4])), op.constant(np.int64(0)), parts).outputs()
        outputs = [_reshape(part, (1, heads, -1, width)) for part in apart]
        return _compiled(outputs, [cached, cosine, sine, matrix], "placing", self.bf16, self.threads)

    def _build_step(self, frames: int, grid: tuple[int, int], chunks: int) -> Any:
        """For B chunks of P frames: patches [B P, n, C p q], modulation, places, placed keys and values of each chunk
        in turn -> output [B P, n, p q C]. Products see all chunks at once, attention one by one."""
        folded, count = self.folded, grid[0] * grid[1]
        heads, width, parts = folded.heads, folded.head_dim, 2 * len(folded.layers)
        patches = op.parameter([chunks * frames, count, folded.patch_weight.shape[1]], np.float32)
        table = op.parameter([3 * parts + 2, folded.width], np.float32)
        tables = [op.parameter([heads, chunks * frames, count, width], np.float32) for _ in range(2)]
        matrices = [op.parameter([1, chunks * frames, width, width], np.float32) for _ in range(3)]
        known = [[op.parameter([1, heads, -1, width], np.float32) for _ in range(parts)] for _ in range(chunks)]
        place = _Placing(*tables, *matrices)
        rows = op.split(table, op.constant(np.int64(0)), 3 * parts + 2).outputs()
        x = _linear(patches, Linear(folded.patch_weight, folded.offset(grid)))
        flat, apart = (1, heads, frames * count, width), (heads, frames, count, width)
        for number, layer in enumerate(folded.layers):
            shift, scale, *others = rows[6 * number : 6 * number + 6]
            block = _Block(folded, layer)
            q, k, v = block.project(x, shift, scale)
            q, k, v = place.of(q, place.query), place.of(k, place.key), place.of(v, place.key)
            seen = []
            for own_q, own_k, own_v, memory in zip(*(_split(part, chunks) for part in (q, k, v)), known, strict=True):
                keys = op.concat([_reshape(own_k, flat), memory[2 * number]], 2)
                values = op.concat([_reshape(own_v, flat), memory[2 * number + 1]], 2)
                seen.append(_reshape(_attention(_reshape(own_q, flat), keys, values), apart))
            x = block.go_on(x, place.of(op.concat(seen, 1) if chunks > 1 else seen[0], place.output), others)
        output = _linear(_layer_norm(x, rows[-2], rows[-1], folded.eps), folded.head)
        inputs = [patches, table, *tables, *matrices, *(part for memory in known for part in memory)]
        return _compiled([output], inputs, "step", self.bf16, self.threads)

    # -- use ---------------------------------------------------------------------------------------------------------

    def read(self, latents: Tensor) -> list[np.ndarray]:
        """Keys and values of K clean frames [C, K, h, w], in one batch: a block a frame. A frame's block does not
        depend on the others, nor on the number of threads (tests hold this)."""
        request = self._context(self.folded.grid(latents))
        request.infer([self.folded.tokens(latents.float()).contiguous().numpy()], share_inputs=True)
        return [frame.copy() for frame in request.get_output_tensor(0).data]

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: list[np.ndarray], said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for one chunk, a context [C, K, h, w]; see `Denoiser.place`."""
        return self.place_together([(latents, inputs, cached)])

    def place_together(
        self, chunks: Sequence[tuple[Tensor, ModelInputs, list[np.ndarray]]]
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for B chunks at once, a context [C, K, h, w] each; see `Denoiser.place_together`."""
        folded, grid = self.folded, self.folded.grid(chunks[0][0])
        positions, parts = chunks[0][1].target_positions, 2 * len(folded.layers)
        placing, step = self._placing(grid), self._steps(len(positions), grid, len(chunks))
        targets = []
        for number, (_, inputs, cached) in enumerate(chunks):
            used = inputs.context_mask[0, 0]
            context = folded.places(inputs.context_positions, grid, inputs.context_cameras.flatten(0, 1))
            tables = [part[used].transpose(1, 2).unsqueeze(1).contiguous() for part in (context.cosine, context.sine)]
            matrix = context.key[used][:, None, None].contiguous()
            blocks = np.stack([cached[slot] for slot in torch.nonzero(used).flatten().tolist()])
            placing.infer([blocks, *(part.numpy() for part in (*tables, matrix))], share_inputs=True)
            for part in range(parts):
                found = placing.get_output_tensor(part)  # is written over by the next chunk's
                step.set_input_tensor(
                    7 + number * parts + part, found if len(chunks) == 1 else ov.Tensor(found.data.copy())
                )
            targets.append(heads_first(folded.places(positions, grid, inputs.target_cameras.flatten(0, 1))))
        for number, arrays in enumerate(zip(*targets, strict=True)):
            step.set_input_tensor(2 + number, ov.Tensor(np.concatenate(arrays, axis=1)))

        def output(noisy: Tensor, timestep: float) -> Tensor:
            patches = folded.tokens(noisy.float().transpose(0, 1).flatten(1, 2))
            step.set_input_tensor(0, ov.Tensor(patches.contiguous().numpy()))
            step.set_input_tensor(1, ov.Tensor(folded.modulation(timestep).numpy()))
            step.infer()
            found = folded.latents(torch.from_numpy(step.get_output_tensor(0).data.copy()), grid)
            apart: Tensor = found.unflatten(1, (len(chunks), -1)).transpose(0, 1)  # type: ignore[no-untyped-call]
            return apart

        return output


class GraphPictures:
    """The image autoencoder from uint8 to latents and back, each in one graph."""

    def __init__(self, codec: ImageAutoencoder, bf16: bool) -> None:
        self.bf16, self.threads = bf16, torch.get_num_threads()
        self._mean, self._std = (part.detach().float().cpu().clone() for part in (codec.latent_mean, codec.latent_std))
        self._encoder, self._decoder = ([_copy_of(part) for part in net] for net in (codec.encoder, codec.decoder))
        self._encode, self._decode = _Graphs(self._build_encode), _Graphs(self._build_decode)
        self._channels, self._factor = codec.latent_channels, codec.spatial_factor

    def prepare(self, height: int, width: int) -> None:
        """Begin to build what pictures of that size will need."""
        self._encode.begin(height, width)
        self._decode.begin(self._channels, height // self._factor, width // self._factor)

    def _build_encode(self, height: int, width: int) -> Any:
        frames = op.parameter([-1, height, width, 3], np.uint8)
        x = op.transpose(op.convert(frames, np.float32), _constant([0, 3, 1, 2]))
        x = _sequence(op.subtract(op.divide(x, _constant(127.5)), _constant(1.0)), self._encoder)
        x = op.divide(op.subtract(x, _constant(self._mean.view(1, -1, 1, 1))), _constant(self._std.view(1, -1, 1, 1)))
        return _compiled([x], [frames], "encode", self.bf16, self.threads)

    def _build_decode(self, channels: int, rows: int, columns: int) -> Any:
        latents = op.parameter([-1, channels, rows, columns], np.float32)
        x = op.add(
            op.multiply(latents, _constant(self._std.view(1, -1, 1, 1))), _constant(self._mean.view(1, -1, 1, 1))
        )
        x = op.multiply(op.add(_sequence(x, self._decoder), _constant(1.0)), _constant(127.5))
        mean = op.reduce_mean(x, _constant([0, 1, 2, 3]))  # not finite where one value is not: bytes cannot tell
        x = op.clamp(op.round(x, "half_to_even"), 0.0, 255.0)
        frames = op.convert(op.transpose(x, _constant([0, 2, 3, 1])), np.uint8)
        return _compiled([frames, mean], [latents], "decode", self.bf16, self.threads)

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        """uint8 [T, H, W, 3] -> latents [C, T, h, w], each frame alone."""
        request = self._encode(*frames_u8.shape[1:3])
        request.infer([np.ascontiguousarray(frames_u8)], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy()).transpose(0, 1)

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        """New latents [1, C, P, h, w] -> uint8 [P, H, W, 3]; `recent` [C, 1, h, w] is not needed."""
        alone = latents[0].float().transpose(0, 1).contiguous()
        request = self._decode(*alone.shape[1:])
        request.infer([alone.numpy()], share_inputs=True)
        refuse(torch.tensor(float(request.get_output_tensor(1).data)), "the autoencoder gave pictures")
        return np.array(request.get_output_tensor(0).data)


def _copy_of(part: nn.Module) -> nn.Module:
    return copy.deepcopy(part).float().cpu()


def _sequence(x: Node, parts: Sequence[nn.Module]) -> Node:
    """Layers of the image autoencoder on [T, C, h, w]."""
    for part in parts:
        if isinstance(part, nn.Conv2d):
            x = _convolution(x, part)
        elif isinstance(part, nn.SiLU):
            x = op.swish(x)
        elif isinstance(part, ResidualBlock):
            x = op.add(x, _convolution(op.swish(_convolution(op.swish(x), part.conv1)), part.conv2))
        elif isinstance(part, nn.PixelShuffle):
            x = _shuffled(x, part.upscale_factor)
        elif isinstance(part, nn.PixelUnshuffle):
            x = _unshuffled(x, part.downscale_factor)
        elif isinstance(part, Shortcut):
            assert isinstance(part.body, nn.Sequential)
            x = op.add(_sequence(x, list(part.body)), _regrouped(x, part))
        else:
            raise TypeError(f"no graph for {type(part).__name__}")
    return x


def _shuffled(x: Node, factor: int) -> Node:
    return op.depth_to_space(x, "depth_first", factor) if factor > 1 else x


def _unshuffled(x: Node, factor: int) -> Node:
    return op.space_to_depth(x, "depth_first", factor) if factor > 1 else x


def _regrouped(x: Node, part: Shortcut) -> Node:
    """The path of a `Shortcut` that has no weights."""
    y, wanted = _unshuffled(x, part.coarser), part.channels * part.finer**2
    channels, rows, columns = (y.get_output_partial_shape(0)[axis].get_length() for axis in (1, 2, 3))
    if channels > wanted:
        y = op.reduce_mean(_reshape(y, (0, wanted, channels // wanted, rows, columns)), _constant([2]), False)
    elif channels < wanted:
        repeated = torch.arange(channels).repeat_interleave(wanted // channels).tolist()
        y = op.gather(y, _constant(repeated), op.constant(np.int64(1)))
    return _shuffled(y, part.finer)


def _convolution(x: Node, layer: nn.Conv2d) -> Node:
    pads = list(layer.padding)
    y = op.convolution(x, _constant(layer.weight.detach()), list(layer.stride), pads, pads, list(layer.dilation))
    assert layer.bias is not None
    return op.add(y, _constant(layer.bias.detach().view(1, -1, 1, 1)))
