"""What one chunk costs on this machine, against its slow twins, a busy machine, and the machine's own limit.

    python benchmarks/speed.py [--threads 2] [--rounds 12] [--json speed.json] [--only idle busy ...]

Everything that is compared runs in turns in one process; fastest and median are given. The walk starts in a known place
with 96 remembered views, so the context is filled from the first chunk on. Flat keys of the JSON file:

    fps_idle            frames a second with the fastest engine; fps_plain, fps_torch: with the others
    one_thread_share    of that with one thread
    busy_share          of that beside one process that keeps a core busy
    limit_share         the chunk's arithmetic at the rate of this machine's products of the same shapes, over its time
    peer_ratio          time of diffusers' WanTransformer3DModel of the same size with joint attention over targets and
                        six context frames, four Euler steps, over ours where half of the six are new (as on a walk)
    fps_without_bf16    fps_idle in a process that may use AVX2 alone
    key_to_picture_s    explorer, one visitor: from a key to its first picture on a page that shows 30 frames a second
    first_frame_s       from the start of `cam generate --demo` to its first chunk
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import context_as_memory.machine  # noqa: F401  # says how threads wait, before torch is loaded

# isort: split
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from context_as_memory.camera import Z_UP, look, pinhole
from context_as_memory.engine import ENGINES
from context_as_memory.engine.eager import Product
from context_as_memory.engine.folded import Folded
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.places import known_place
from context_as_memory.retrieval import Retrieval
from context_as_memory.tokens import TokenLayout, build_model_inputs
from context_as_memory.world import World

PARTS = ("idle", "busy", "limit", "peer", "without_bf16", "key", "first")
ACTIONS = "l-24,w-16,j-20,w-16,k-12,l-40,w-12,j-24,s-8"
Figures = dict[str, float]
# What torch's counter does not know: its attention kernel on CPUs.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each function, in turns, so that a drifting machine hits all alike. The first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values[2:]) for name, values in times.items()}


class Walk:
    """One world on its way; every call makes a chunk."""

    def __init__(self, base: World, engine: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads, self.at = threads, 0
        self.world = World(base.model, base.codec, replace(base.config, engine=engine), str(base.device))
        frames, cameras = known_place("courtyard")
        self.world.reset(frames, cameras)
        self.path = cameras_from_actions(cameras[len(cameras) - 1 :], ACTIONS, up=Z_UP)

    def __call__(self) -> None:
        torch.set_num_threads(self.threads)
        size = self.world.chunk_frames
        self.world.step(self.path[self.at : self.at + size])
        self.at = (self.at + size) % (len(self.path) // size * size)


def idle(base: World, threads: int, rounds: int) -> Figures:
    """Every engine, and the fastest one with one thread, in turns."""
    walks: dict[str, Callable[[], object]] = {
        f"fps_{name}": Walk(base, name, threads) for name in ENGINES if name != "auto"
    }
    walks |= {"one": Walk(base, "auto", 1), "fps_idle": Walk(base, "auto", threads)}
    times, frames = in_turns(walks, rounds), base.chunk_frames
    figures = {name: frames / float(np.median(seconds)) for name, seconds in times.items() if name != "one"}
    figures |= {f"{name}_fastest": frames / float(seconds.min()) for name, seconds in times.items() if name != "one"}
    figures["one_thread_share"] = float(np.median(times["fps_idle"]) / np.median(times["one"]))
    return figures


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def busy(base: World, threads: int, rounds: int) -> Figures:
    """The fastest engine alone and beside a busy process, a few chunks each in turns."""
    walk = Walk(base, "auto", threads)
    alone, beside = [], []
    in_turns({"warm": walk}, 1)
    for _ in range(max(1, rounds // 4)):
        alone += in_turns({"alone": walk}, 4)["alone"].tolist()
        with busy_process():
            beside += in_turns({"beside": walk}, 4)["beside"].tolist()
    return {"busy_share": float(np.median(alone) / np.median(beside)), "busy_chunk_ms": 1000 * float(np.median(beside))}


def limit(base: World, threads: int, rounds: int) -> Figures:
    """What the chunk's arithmetic would take at the rate of products of the same shapes and nothing else."""
    counted = Walk(base, "plain", threads)
    counted()
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        counted()
    work = counter.get_total_flops()
    folded = Folded(base.model)
    rows = base.config.chunk_latents * (base.config.width * base.config.height) // (4 * base.codec.spatial_factor**2)
    layer, dtype = folded.layers[0], next(base.model.parameters()).dtype
    products = [Product(part, dtype) for part in (layer.qkv, layer.out, layer.up, layer.down)]
    inputs = [torch.randn(1, rows, product.weight.shape[1], dtype=dtype) for product in products]
    flops = sum(2 * rows * product.weight.numel() for product in products)

    @torch.inference_mode()
    def multiply() -> None:
        for product, x in zip(products, inputs, strict=True):
            product(x)

    runs: dict[str, Callable[[], object]] = {"torch": multiply, "chunk": Walk(base, "auto", threads)}
    if find_spec("openvino") is not None:
        runs["openvino"] = _openvino_products(products, inputs, threads)
    times = in_turns(runs, rounds)
    fastest = min(float(seconds.min()) for name, seconds in times.items() if name != "chunk")
    rate = flops / fastest
    figures = {"limit_share": work / rate / float(times["chunk"].min())}
    return figures | {"gigaflops_a_chunk": work / 1e9, "gigaflops_a_second": rate / 1e9}


def _openvino_products(products: list[Product], inputs: list[torch.Tensor], threads: int) -> Callable[[], object]:
    """The same products as graphs of OpenVINO, which packs their weights once."""
    import openvino as ov
    from openvino import opset15

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if inputs[0].dtype == torch.bfloat16:
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    requests = []
    for product, x in zip(products, inputs, strict=True):
        source = opset15.parameter(list(x.shape), np.float32)
        weight = opset15.constant(product.weight.detach().float().numpy())
        model = ov.Model([opset15.matmul(source, weight, False, True)], [source])
        request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(x.float().numpy().copy()))
        requests.append(request)
    return lambda: [request.infer() for request in requests]


def peer(base: World, threads: int, rounds: int) -> Figures:
    """diffusers' network of the same size, all frames in one sequence, against ours, from latents to latents."""
    try:
        from diffusers import WanTransformer3DModel
    except ImportError:
        print("diffusers is not installed: no peer_ratio", file=sys.stderr)
        return {}
    torch.set_num_threads(threads)
    config, settings = base.model.config, base.config
    dtype = next(base.model.parameters()).dtype
    wan: Any = WanTransformer3DModel(
        num_attention_heads=config.num_attention_heads, attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels, out_channels=config.out_channels, text_dim=16, freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim, num_layers=config.num_layers,
    )  # fmt: skip
    theirs = wan.to(dtype).eval()
    shape = (settings.height // base.codec.spatial_factor, settings.width // base.codec.spatial_factor)
    clip = torch.randn(1, config.in_channels, settings.chunk_latents + 6, *shape, dtype=dtype)
    text = torch.zeros(1, 1, 16, dtype=dtype)
    rng = np.random.default_rng(0)
    lens = pinhole(90, settings.width, settings.height)
    cameras = look(rng.normal(0, 1, (20, 3)), rng.normal(0, 1, 20), lens, settings.width, settings.height)
    inputs = build_model_inputs(
        TokenLayout(num_targets=settings.chunk_latents, max_context=6), cameras, cameras[: settings.chunk_latents],
        Retrieval(np.arange(6), np.zeros(6), np.arange(6)),
    )  # fmt: skip
    denoiser = base.engine.denoiser
    context, noisy = clip[0, :, :6].float(), clip[:, :, 6:].float()
    steps = [1000.0, 750.0, 500.0, 250.0]
    with torch.inference_mode():
        known = denoiser.read(context)
    assert known is not None, "these weights read context frames one by one"

    @torch.inference_mode()
    def jointly() -> None:
        for timestep in steps:
            theirs(clip, torch.tensor([timestep]), text)

    @torch.inference_mode()
    def ours(new: int) -> None:
        cached = (denoiser.read(context[:, :new]) or []) + known[new:] if new else known
        network = denoiser.place(context, inputs, cached)
        for timestep in steps:
            network(noisy, timestep)

    times = in_turns({"theirs": jointly, "0": lambda: ours(0), "3": lambda: ours(3), "6": lambda: ours(6)}, rounds)
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    figures = {"peer_ratio": medians["theirs"] / medians["3"], "peer_ms": 1000 * medians["theirs"]}
    figures["peer_ratio_fastest"] = float(times["theirs"].min() / times["3"].min())
    return figures | {f"peer_ratio_{new}_new": medians["theirs"] / medians[new] for new in ("0", "6")}


def without_bf16(threads: int, rounds: int) -> Figures:
    """The idle rate in a process whose libraries may use AVX2 alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        words = ["--only", "idle", "--threads", str(threads), "--rounds", str(rounds), "--json", str(out)]
        isa = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
        subprocess.run([sys.executable, __file__, *words], env=os.environ | isa, check=True, stdout=subprocess.DEVNULL)
        figures = json.loads(out.read_text())
    return {"fps_without_bf16": figures["fps_idle"], "fps_without_bf16_fastest": figures["fps_idle_fastest"]}


def key(rounds: int) -> Figures:
    """One visitor turns now and then on a page that shows 30 frames a second and says what it has shown."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = ["explore", "--no-browser", "--no-guard", "--port", str(port), "--worlds", folder]
        server = subprocess.Popen([sys.executable, "-m", "context_as_memory", *words], stdout=subprocess.DEVNULL)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                    break
                except OSError:
                    time.sleep(0.1)
            waits = asyncio.run(_turning(f"ws://127.0.0.1:{port}/v1/realtime_video/generate", rounds))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    return {"key_to_picture_s": float(np.median(waits)), "key_to_picture_fastest_s": min(waits)}


async def _turning(address: str, rounds: int) -> list[float]:
    """Seconds from each key to the moment its first picture is on the page."""
    from websockets.asyncio.client import connect

    from context_as_memory.server.protocol import Event, FrameBatch, Init, decode, encode

    waits: list[float] = []
    async with connect(address, max_size=None) as line:
        await line.send(encode(Init(realtime_output_format="jpeg")))
        pressed_at, event, all_shown, tasks, since = 0.0, 0, 0.0, set(), 10

        async def say_shown(chunk: int, at: float) -> None:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            await line.send(encode(Event(kind="shown", payload=chunk)))

        async def press(number: int) -> None:
            await asyncio.sleep(float(np.random.default_rng(number).uniform(0, 0.2)))  # keys come at any moment
            payload = {"mode": "state", "transitions": [{"actions": ["jl"[number % 2]]}]}
            nonlocal pressed_at
            pressed_at = time.monotonic()
            await line.send(encode(Event(kind="camera_actions", event_id=number, payload=payload)))

        while len(waits) < rounds + 2:
            if since >= 4:  # chunks since the last key
                event, since = event + 1, -(10**6)
                tasks.add(asyncio.create_task(press(event)))
            received = await asyncio.wait_for(line.recv(), 120)
            assert isinstance(received, bytes)
            message = decode(received, 10**8)
            if isinstance(message, FrameBatch) and message.chunk_index >= 0 and message.view == "with_memory":
                begins = max(time.monotonic(), all_shown)
                all_shown = begins + message.num_frames / 30
                tasks.add(asyncio.create_task(say_shown(message.chunk_index, all_shown)))
                since += 1
                if message.event_id == event and since < 0:
                    waits.append(begins - pressed_at)
                    since = 0
    return waits[2:]


FIRST = """
import sys, time
from context_as_memory.cli.main import main
from context_as_memory.world import World
step = World.step
def timed(*args, **more):
    step(*args, **more)
    print("first", flush=True)
    sys.exit(0)
World.step = timed
main(["generate", "--demo", "--no-compare", "--out", sys.argv[1]])
"""


def first(rounds: int) -> Figures:
    """A process from its start to its first chunk."""
    times = []
    for _ in range(max(1, min(3, rounds))):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", FIRST, folder], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            while "first" not in (line := process.stdout.readline()):
                assert line, "the demo ended before its first chunk"
            times.append(time.perf_counter() - start)
            process.wait()
    return {"first_frame_s": float(np.median(times)), "first_frame_fastest_s": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    base = World.from_pretrained(device="cpu")
    figures: Figures = {"threads": options.threads, "rounds": options.rounds}
    parts: dict[str, Callable[[], Figures]] = {
        "idle": lambda: idle(base, options.threads, options.rounds),
        "busy": lambda: busy(base, options.threads, options.rounds),
        "limit": lambda: limit(base, options.threads, options.rounds),
        "peer": lambda: peer(base, options.threads, options.rounds),
        "without_bf16": lambda: without_bf16(options.threads, options.rounds),
        "key": lambda: key(options.rounds),
        "first": lambda: first(options.rounds),
    }
    for name in options.only:
        for figure, value in parts[name]().items():
            figures[figure] = value
            print(f"{figure:32s} {value:10.3f}", flush=True)
    print(", ".join(f"{key} {value}" for key, value in base.engine.made_with.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
