"""The sections of `gpu_wan.sh`: what Wan models of true size cost on a GPU, with random weights that are made there.

python scripts/gpu_wan.py --work DIR --until SECONDS [--tiny] [--only SECTION ...]

Figures are in DIR/out/SECTION.json as soon as they are measured, and as tables in DIR/out/table.md. Seconds are medians
between CUDA events (on a CPU, of the clock). TFLOP are counted by torch on networks without memory (`meta`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bench import (
    FACTOR,
    SEED,
    TINY,
    Bench,
    Cases,
    Kind,
    P,
    Plan,
    Row,
    Sample,
    Section,
    Size,
    convolutions,
    error_of,
    flop_of,
    measure,
    rate,
    read_record,
    turning,
)
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from context_as_memory.adapters import lora
from context_as_memory.adapters.text import Words, key_of
from context_as_memory.adapters.wan import WanCodec, to_diffusers_config
from context_as_memory.compute import fast
from context_as_memory.data.dataset import DenoiserBatch
from context_as_memory.diffusion import FlowMatching
from context_as_memory.storage import create_world
from context_as_memory.training.compiled import turn
from context_as_memory.training.denoiser import DenoiserTask
from context_as_memory.training.recipes import denoiser_recipe
from context_as_memory.training.trainer import Trainer
from context_as_memory.transformer import WorldTransformer
from context_as_memory.transformer.placement import projections, ray_angles, rotary_table
from context_as_memory.world import World, WorldConfig

PROMPT = "an old temple"
MODES = ("joint", "cached", "per_frame")


# -- sections ----------------------------------------------------------------------------------------------------------


def card(bench: Bench) -> Cases:
    """The card itself, and the line that is measured again at the end."""
    yield "product of large matrices", partial(_product, bench)
    kind = bench.plan.kinds["5B"]
    model = bench.network(kind.config())
    yield "5B, denoise step", partial(_step, bench, model, kind, kind.size, "per_frame", bench.plan.usual)


def _product(bench: Bench) -> Row:
    side = bench.plan.product
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    return rate("product", bench.seconds(lambda: a @ b), 2 * side**3 / 1e12)


def parity(bench: Bench, name: str) -> Cases:
    """Our network beside diffusers', same weights, five latents."""
    from diffusers import WanTransformer3DModel

    kind = bench.plan.kinds[name]
    ours = bench.network(kind.stock())
    settings = to_diffusers_config(kind.stock())
    assert settings is not None
    del settings["_class_name"]

    def twin(dtype: torch.dtype) -> Any:
        with bench.building(dtype):
            model: Any = WanTransformer3DModel(**settings)
        model.load_state_dict(ours.state_dict())
        return model.eval().requires_grad_(False)

    theirs, exact = twin(bench.dtype), twin(torch.float32)
    for part_name, part in theirs.named_modules():  # which diffusers keeps in fp32 when it loads as bf16
        if any(kept in part_name for kept in theirs._keep_in_fp32_modules):
            part.float()
        if getattr(part, "scale_shift_table", None) is not None:
            part.scale_shift_table.data = part.scale_shift_table.data.float()
    yield "one time", partial(_parity, bench, kind, ours, theirs, exact, False)
    yield "a time a frame", partial(_parity, bench, kind, ours, theirs, exact, True)


@torch.no_grad()
def _parity(bench: Bench, kind: Kind, ours: WorldTransformer, theirs: Any, exact: Any, each: bool) -> Row:
    sample = bench.sample(kind, kind.size, 5)
    x, words, tokens = sample.pool, sample.words, sample.pool[0, 0, 0].numel() // 4
    times = torch.tensor([[0.0, 900.0, 600.0, 300.0, 20.0]], device=bench.device)
    times, spread = (times, times.repeat_interleave(tokens, dim=1)) if each else (times[:, 2], times[:, 2])
    with convolutions(tf32=False):
        expected = exact(x.float(), spread, words.float()).sample
    ours_s, theirs_s = bench.seconds(lambda: ours(x, times, words)), bench.seconds(lambda: theirs(x, spread, words))
    meta = torch.device("meta")

    def prepared(model: Any) -> Callable[[], Any]:
        clean = bench.sample(kind, kind.size, 5, device=meta)
        return lambda: model(clean.pool, clean.time, clean.words)

    return {
        "ours_error": error_of(ours(x, times, words), expected),
        "diffusers_error": error_of(theirs(x, spread, words).sample, expected),
        "diffusers_s": theirs_s,
        **rate("ours", ours_s, bench.tflop(kind.stock(), prepared)),
        "times_as_fast": theirs_s / ours_s,
    }


def steps(bench: Bench, name: str, size: str, counts: Sequence[int]) -> Cases:
    """One pass over the context and one denoising step, for each way to read the context."""
    kind = bench.plan.kinds[name]
    model = bench.network(kind.config())
    for count in counts:
        for mode in MODES:
            yield f"{mode}, {count}", partial(_step, bench, model, kind, getattr(kind, size), mode, count)


@torch.no_grad()
def _step(bench: Bench, model: WorldTransformer, kind: Kind, size: Size, mode: str, count: int) -> Row:
    model.config = replace(model.config, context_mode=mode)
    calls = _calls(model, bench.sample(kind, size, count))
    row: Row = {}
    for part, call in calls.items():
        if part == "place":
            row["place_s"] = bench.seconds(call)
            continue

        def prepared(twin: Any, part: str = part) -> Callable[[], Any]:
            return _calls(twin, bench.sample(kind, size, count, device=torch.device("meta")))[part]

        row |= rate(part, bench.seconds(call), bench.tflop(model.config, prepared))
    return row


def _calls(model: WorldTransformer, sample: Sample) -> dict[str, Callable[[], Any]]:
    """The parts of a chunk, ready to be called."""
    context = model.prepare(sample.pool, sample.inputs, sample.no_words)
    calls: dict[str, Callable[[], Any]] = {
        "step": lambda: model.denoise(sample.noisy, sample.time, context, sample.inputs, sample.words)
    }
    if model.config.context_mode != "joint":
        calls["context"] = lambda: model.prepare(sample.pool, sample.inputs, sample.no_words)
    if model.config.context_mode == "per_frame":
        encoded = model.encode_context(sample.pool, text=sample.no_words)
        calls["read_a_frame"] = lambda: model.encode_context(sample.pool[:, :, :1], text=sample.no_words)
        calls["place"] = lambda: model.prepare(sample.pool, sample.inputs, encoded=encoded)
    return calls


def kernels(bench: Bench) -> Cases:
    """Attention of one layer alone, by the kernels that torch has: targets look at themselves and their context."""
    for name, kind in bench.plan.kinds.items():
        for backend in bench.plan.backends:
            yield f"{name}, {backend}", partial(_kernel, bench, kind, backend)


@torch.no_grad()
def _kernel(bench: Bench, kind: Kind, backend: str) -> Row:
    config, (height, width) = kind.config(), kind.grid(kind.size)
    heads, tokens = config.num_attention_heads + config.camera_heads, height * width // 4
    queries, keys = P * tokens, (P + bench.plan.usual) * tokens
    q, k, v = (
        torch.randn(1, rows, heads, config.attention_head_dim, device=bench.device, dtype=bench.dtype).transpose(1, 2)
        for rows in (queries, keys, keys)
    )
    tflop = 4 * heads * queries * keys * config.attention_head_dim / 1e12
    if backend == "as chosen":
        return rate("attention", bench.seconds(lambda: scaled_dot_product_attention(q, k, v)), tflop)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        return rate("attention", bench.seconds(lambda: scaled_dot_product_attention(q, k, v)), tflop)


def compiling(bench: Bench) -> Cases:
    """A denoising step whose blocks are compiled, for one number of context frames, beside the network as it is."""
    for name in reversed(bench.plan.kinds):
        model = bench.network(bench.plan.kinds[name].config())
        yield name, partial(_compiled, bench, model, bench.plan.kinds[name])


@torch.no_grad()
def _compiled(bench: Bench, model: WorldTransformer, kind: Kind) -> Row:
    sample = bench.sample(kind, kind.size, bench.plan.usual)
    context = model.prepare(sample.pool, sample.inputs, sample.no_words)
    assert context.keys_values is not None
    positions, grid = sample.inputs.target_positions, (sample.noisy.shape[3] // 2, sample.noisy.shape[4] // 2)
    cameras = sample.inputs.target_cameras.flatten(0, 1)
    place = (
        rotary_table(positions, *grid, model.config.attention_head_dim, bench.device).angle(),
        ray_angles(model.config, positions, grid, bench.device, cameras),
        *projections(cameras, model.config.translation_scale_m),
    )
    block_of = torch.compile(_block, dynamic=False, backend=bench.plan.compiler)

    def plain() -> Tensor:
        return model.denoise(sample.noisy, sample.time, context, sample.inputs, sample.words)

    def quick() -> Tensor:
        x, _ = model._embed(sample.noisy)
        embedding, modulation = model.condition_embedder(sample.time.unsqueeze(1).expand(-1, P))
        text = model.condition_embedder.text_embedder(sample.words).unsqueeze(1)
        for block, (keys, values) in zip(model.blocks, context.keys_values or (), strict=True):
            x = block_of(block, x, modulation, text, keys, values, place)
        return model._head(x, embedding, grid)

    counters.clear()
    begun = time.perf_counter()
    found = quick().float().cpu()
    compiled_s = time.perf_counter() - begun  # by the clock: this is not the GPU's work
    plain_s, quick_s = bench.seconds(plain), bench.seconds(quick)
    row = {"plain_s": plain_s, "compiled_s": quick_s, "times_as_fast": plain_s / quick_s}
    row |= {"to_compile_s": compiled_s, "graph_breaks": sum(counters["graph_break"].values())}
    return row | {"difference": error_of(found, plain().cpu())}


def _block(
    block: Any, x: Tensor, modulation: Tensor, text: Tensor, keys: Tensor, values: Tensor, place: tuple[Tensor, ...]
) -> Tensor:
    """One block over targets; positions turn in real numbers, which a compiler can fuse with what is around them."""
    stock, rays, to_image, to_world = place
    heads = block.attn1.heads

    def put(y: Tensor, matrix: Tensor, sign: int = 1, both: bool = True) -> Tensor:
        before = turn(y[..., :heads, :], None, stock) if both else y[..., :heads, :]
        return torch.cat((before, turn(y[..., heads:, :], matrix, sign * rays)), dim=-2)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = torch.cat((put(k, to_world), keys), dim=1)
        v = torch.cat((put(v, to_world, both=False), values), dim=1)
        q, k, v = (y.flatten(1, 2).transpose(1, 2) for y in (put(q, to_image.mT), k, v))
        found = scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(1, (x.shape[1], -1))
        return put(found, to_image, -1, both=False)

    found: Tensor = block(x, modulation, 0, attend, None, text)[0]
    return found


def vae(bench: Bench, name: str) -> Cases:
    """The codec: single frames and clips to latents, a chunk of latents to frames, in several number formats."""
    kind = bench.plan.kinds[name]
    for form in bench.plan.forms:
        for work in ("encode 1 frame", f"encode {1 + P * FACTOR} frames", f"decode {P} latents"):
            yield f"{work}, {form}", partial(_vae, bench, kind, work, form)


@torch.no_grad()
def _vae(bench: Bench, kind: Kind, work: str, form: str) -> Row:
    with convolutions(tf32=False):
        expected = _codec_call(bench, bench.codec(kind), kind, work)()
    codec = bench.codec(kind)
    if "bf16" in form:
        codec = codec.cast(bench.device, torch.bfloat16) if "decode" in work else codec.to(torch.bfloat16)
    if "channels last" in form:
        for part in codec.vae.modules():
            if isinstance(part, nn.Conv3d):
                part.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    with convolutions(tf32="without" not in form, tried="tried" in form):
        call = _codec_call(bench, codec, kind, work)
        seconds, error = bench.seconds(call), error_of(call(), expected)
    with torch.device("meta"):
        twin = WanCodec.from_config(kind.vae)
    tflop = flop_of(_codec_call(bench, twin, kind, work, torch.device("meta"))) / 1e12
    return rate("codec", seconds, tflop) | {"error": error}


def _codec_call(
    bench: Bench, codec: WanCodec, kind: Kind, work: str, device: torch.device | None = None
) -> Callable[[], Tensor]:
    device = device or bench.device
    torch.manual_seed(SEED)
    if "decode" in work:
        latents = torch.randn(1, codec.latent_channels, 1 + P, *kind.grid(kind.size), device=device)
        state = codec.decode_next(latents[:, :, :1])[1]
        return lambda: codec.decode_next(latents[:, :, 1:], state)[0]
    frames = int(work.split()[1])
    video = torch.rand(1, 3, frames, kind.size[1], kind.size[0], device=device) * 2 - 1
    return lambda: codec.encode_frames(video) if frames == 1 else codec.encode_clip(video)


def walks(bench: Bench, name: str) -> Cases:
    """`World.rollout`: four steps a chunk, no guidance, memory by coverage."""
    kind = bench.plan.kinds[name]
    model, codec = bench.network(kind.config()), fast(bench.codec(kind), bench.device)
    width = kind.transformer["text_dim"]
    rows = torch.randn(12, width)
    model.words = Words(None, {key_of(""): rows[:1], key_of(PROMPT): rows}, width)
    config = WorldConfig(width=kind.size[0], height=kind.size[1], chunk_latents=P, num_steps=4, prompt=PROMPT)
    world = World(model, codec, replace(config, flow=FlowMatching(shift=5.0)), str(bench.device))
    yield "in memory", partial(_walk, bench, world, bench.plan.chunks)
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        path = Path(folder) / "world"
        with closing(create_world(path, networks=world)) as filed:
            yield "world file", partial(_walk, bench, filed, max(3, bench.plan.chunks // 3), path)


def _walk(bench: Bench, world: World, chunks: int, path: Path | None = None) -> Row:
    size = (world.config.width, world.config.height)
    cameras = turning(1 + chunks * world.chunk_frames, size)
    rng = np.random.default_rng(SEED)
    small = rng.integers(0, 256, (1, size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    parts: Any = _Parts(bench, world.engine)
    world.engine = replace(world.engine, denoiser=parts, pictures=parts)
    world.reset(small.repeat(16, axis=1).repeat(16, axis=2), cameras[:1])
    begun, context = bench.mark(), 0
    marks = [begun]
    for chunk in world.rollout(cameras[1:]):
        marks.append(bench.mark())
        context += len(chunk.retrieval.frame_ids)
        parts.chunks += 1
    seconds = [bench.between(a, b) for a, b in zip(marks[:-1], marks[1:], strict=True)]
    settled, early = seconds[1:], seconds[4:9] if chunks > 12 else seconds[1:2]
    row = {
        "frames_per_s": world.chunk_frames * len(settled) / sum(settled),
        "p50_s": float(np.percentile(settled, 50)),
        "p95_s": float(np.percentile(settled, 95)),
        "last_to_early": statistics.median(seconds[-len(early) :]) / statistics.median(early),
        "chunks": chunks,
        "context_frames_a_chunk": context / chunks,
        "keys_kept": 1 - parts.frames_read / context,
        **{f"{part}_s": spent / len(settled) for part, spent in parts.spent().items()},
    }
    row["else_s"] = sum(settled) / len(settled) - sum(parts.spent().values()) / len(settled)
    if path is not None:
        row["file_mb_a_chunk"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6 / chunks
    return row


class _Parts:
    """The verbs of an engine, with a mark before and after each call; calls of the first chunk do not count."""

    def __init__(self, bench: Bench, engine: Any) -> None:
        self.bench, self.engine, self.chunks, self.frames_read = bench, engine, 0, 0
        self.marks: list[tuple[str, Any, Any]] = []

    def _marked(self, part: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = self.bench.mark()
        found = call(*arguments)
        if self.chunks:
            self.marks.append((part, start, self.bench.mark()))
        return found

    def spent(self) -> dict[str, float]:
        """Seconds by part."""
        sums = dict.fromkeys(("read", "place", "denoise", "decode", "encode"), 0.0)
        for part, start, end in self.marks:
            sums[part] += self.bench.between(start, end)
        return sums

    def read(self, latents: Tensor) -> Any:
        self.frames_read += latents.shape[1]
        return self._marked("read", self.engine.denoiser.read, latents)

    def place(self, *arguments: Any) -> Callable[[Tensor, float], Tensor]:
        network = self._marked("place", self.engine.denoiser.place, *arguments)
        return partial(self._marked, "denoise", network)

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        found: Tensor = self._marked("encode", self.engine.pictures.encode, frames_u8)
        return found

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        found: np.ndarray = self._marked("decode", self.engine.pictures.decode, recent, latents)
        return found


def training(bench: Bench, name: str, size: str, recipe: str) -> Cases:
    """One training step as `cam train denoiser` makes it: gradients of a batch, and the update that follows."""
    kind = bench.plan.kinds[name]
    micro = bench.plan.micro if recipe == "wan-lora" else bench.plan.micro[:2]
    for again in (True, False):
        for batch in micro:
            yield (
                f"{batch} at once, {'blocks computed again' if again else 'all kept'}",
                partial(_train, bench, kind, getattr(kind, size), recipe, batch, again),
            )


class _MadeUp:
    """A source of samples that has nothing: a batch brings all."""

    own = None
    batch = None


def _train(bench: Bench, kind: Kind, size: Size, name: str, batch: int, again: bool) -> Row:
    recipe = denoiser_recipe(name)
    assert recipe.adaptation is not None
    rank, alpha, count = recipe.adaptation.rank, recipe.adaptation.alpha, bench.plan.usual
    model = _trained(bench.network(kind.config()), rank, alpha)
    settings = replace(recipe.train, batch_size=batch, accumulate=1, checkpointing=again, device=bench.device.type)
    recipe = replace(recipe, model=model.config, train=settings)
    source: Any = _MadeUp()
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        trainer = Trainer(model, DenoiserTask(recipe, source, bench.device), settings, Path(folder))
    sample = bench.sample(kind, size, count, batch)
    numbers = torch.zeros(batch, 1, dtype=torch.int64, device=bench.device)
    own, latents = numbers[:, 0] > 0, (sample.pool, sample.noisy)
    made = DenoiserBatch(numbers, numbers, own, sample.inputs, *latents, sample.words, sample.no_words)
    batch_s = bench.seconds(lambda: trainer.gradients([made]))
    step_s = bench.seconds(lambda: trainer._train_step([made]))
    meta = bench.sample(kind, size, count, batch, torch.device("meta"))

    def predicted(twin: Any) -> Tensor:
        found: Tensor = twin.predict(meta.noisy, meta.time, meta.pool, meta.inputs, meta.words, meta.no_words)
        return found

    def backwards(twin: WorldTransformer) -> Callable[[], Any]:
        twin = _trained(twin, rank, alpha)
        return lambda: predicted(twin).sum().backward()

    tflop = bench.tflop(model.config, backwards)
    if again:
        with torch.no_grad():
            tflop += bench.tflop(model.config, lambda twin: lambda: predicted(twin))
    wanted = denoiser_recipe(name).train.accumulate or 1
    row = {"sample_s": batch_s / batch, "sample_tflop": tflop / batch, "tflop_per_s": tflop / batch_s}
    if (peak := _peak(bench.work)) is not None:
        row["share_of_product"] = tflop / batch_s / peak
    return row | {"update_s": step_s - batch_s, f"step_of_{wanted}_s": batch_s * wanted / batch + step_s - batch_s}


def _trained(model: WorldTransformer, rank: int, alpha: float) -> WorldTransformer:
    """As `start_network` prepares it: what is trained is fp32, and with a rank it is little."""
    model.requires_grad_(True)
    if rank:
        lora.inject(model, rank, alpha)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _peak(work: Path) -> float | None:
    """TFLOP/s of the product of large matrices, if it was measured."""
    row = read_record(work, "card")["rows"].get("product of large matrices", {})
    return row.get("product_tflop_per_s")


# -- the job -----------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Section] = {
    "card": Section(0.2, card),
    "parity-5B": Section(0.3, partial(parity, name="5B")),
    "parity-1.3B": Section(0.2, partial(parity, name="1.3B")),
    "steps-5B-480p": Section(0.6, lambda bench: steps(bench, "5B", "size", bench.plan.counts)),
    "walk-5B": Section(0.9, partial(walks, name="5B")),
    "lora-5B-480p": Section(0.8, partial(training, name="5B", size="size", recipe="wan-lora")),
    "steps-1.3B-480p": Section(1.0, lambda bench: steps(bench, "1.3B", "size", bench.plan.counts)),
    "walk-1.3B": Section(0.8, partial(walks, name="1.3B")),
    "lora-1.3B-352p": Section(0.8, partial(training, name="1.3B", size="other", recipe="wan-lora")),
    "full-1.3B-352p": Section(0.4, partial(training, name="1.3B", size="other", recipe="wan-full")),
    "vae-5B": Section(0.5, partial(vae, name="5B")),
    "vae-1.3B": Section(0.4, partial(vae, name="1.3B")),
    "compile": Section(0.8, compiling),
    "steps-1.3B-352p": Section(0.4, lambda bench: steps(bench, "1.3B", "other", bench.plan.counts)),
    "steps-5B-704p": Section(0.4, lambda bench: steps(bench, "5B", "other", (bench.plan.usual,))),
    "attention": Section(0.1, kernels),
    "card-again": Section(0.2, card),
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="time of day in seconds of the end")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU: a rehearsal")
    parser.add_argument("--only", nargs="*", default=(), choices=SECTIONS, help="sections, by name")
    options = parser.parse_args(words)
    (options.work / "out").mkdir(parents=True, exist_ok=True)
    bench = Bench(TINY if options.tiny else Plan(), options.work, options.until)
    return 0 if measure(bench, SECTIONS, options.only) else 1


if __name__ == "__main__":
    raise SystemExit(main())
