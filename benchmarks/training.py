"""How many chunks a second a training step takes in, on this device: the denoiser's, its walks', and where time goes.

    python benchmarks/training.py --recipe base --out runs/training_speed
    python benchmarks/training.py --recipe tiny --batch-size 4 --seconds 1 --no-compile --out /tmp/speed   (rehearsal)

Latents and cameras are made up: speed does not depend on them. Reported for every number of context frames: chunks a
second of whole steps (loss, gradients, optimiser, average), their share of this device's measured matrix products in
its fast number format; for a round of walks the milliseconds of one chunk; for compiling the seconds. `profile.txt`
has the kernels of a few steps, `trace.json` the same as a timeline.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import look, pinhole
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.compute import fast, fast_dtype, pick_device
from context_as_memory.data.dataset import DenoiserBatch
from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.training.denoiser import DenoiserRecipe, DenoiserTask
from context_as_memory.training.recipes import denoiser_recipe
from context_as_memory.training.rollout import plan_rollout
from context_as_memory.training.self_memory import SelfMemory, WalkJob
from context_as_memory.training.stream import blank_batch, buckets
from context_as_memory.training.trainer import Trainer
from context_as_memory.training.validation import latents_of
from context_as_memory.training.work import product_rate, step_flops
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import from_pretrained

FRAMES = 4096  # made-up training frames


class MadeUp:
    """A source of samples of the right shapes, with random latents."""

    def __init__(self, recipe: DenoiserRecipe, shape: tuple[int, int, int], device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.latents = torch.randn(FRAMES, *shape, device=device).half()
        self.own = SelfMemory(FRAMES, shape, device) if recipe.self_memory else None
        self.slots = buckets(recipe.drawing)[-1]

    def read(self, frames: Tensor) -> Tensor:
        return self.latents[frames].float().transpose(1, 2)

    def batch(self, step: int, rank: int) -> DenoiserBatch:
        blank = blank_batch(self.recipe.drawing, self.slots, self.device)
        pool, targets = (torch.randint_like(part, FRAMES) for part in (blank.pool_frames, blank.target_frames))
        index = torch.randint_like(blank.inputs.context_index, pool.shape[1])
        return DenoiserBatch(pool, targets, blank.own, replace(blank.inputs, context_index=index))

    def blanks(self) -> list[DenoiserBatch]:
        return [blank_batch(self.recipe.drawing, slots, self.device) for slots in buckets(self.recipe.drawing)]

    def walks(self, number: int) -> list[WalkJob]:
        drawing, walks = self.recipe.drawing, self.recipe.self_walks
        length = walks.chunks * drawing.layout.num_targets
        yaw = np.linspace(0, 9, 40 + length)
        cameras = look(np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], axis=1), yaw, pinhole(90, 320, 192), 320, 192)
        plan = plan_rollout(cameras, 40, drawing.layout, drawing.retrieval)
        given, made = (torch.arange(count, device=self.device) for count in (40, length))
        return [WalkJob(0, plan, given, made)] * walks.walks

    def keep(self, jobs: Any, made: Tensor, good: Tensor) -> None:
        pass


def _seconds(run: Callable[[], Any], device: torch.device, budget_s: float) -> float:
    """Mean seconds of a call over about `budget_s`, after two calls that do not count."""
    for _ in range(2):
        run()
    _wait(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < budget_s:
        for _ in range(5):
            run()
        count += 5
        _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each figure")
    parser.add_argument("--rows", type=int, default=12, help="of latents of a frame")
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--codec", type=Path, help="folder of an autoencoder, for walks and perceptual distance")
    parser.add_argument("--perceptual", action="store_true", help="with the recipe's perceptual distance")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = denoiser_recipe(options.recipe)
    size = options.batch_size or recipe.train.batch_size
    recipe = replace(
        recipe,
        train=replace(recipe.train, batch_size=size, data_workers=0),
        compile=False if options.no_compile else None,
        perceptual=recipe.perceptual if options.perceptual else 0.0,
    )
    device = pick_device(recipe.train.device)
    source = MadeUp(recipe, (recipe.model.in_channels, options.rows, options.columns), device)
    codec = None
    if options.codec is not None:
        codec = fast(from_pretrained(options.codec, expect=ImageAutoencoder), device).requires_grad_(False)
    network = None
    if options.perceptual:
        from context_as_memory.evaluation.metric_networks import load_lpips

        network = load_lpips().to(device)
    task = DenoiserTask(recipe, source, device, codec, network)
    trainer = Trainer(WorldTransformer(recipe.model), task, recipe.train, options.out)

    start = time.perf_counter()
    task.warm_up(trainer)
    _wait(device)
    figures: dict[str, Any] = {"warm_up_s": time.perf_counter() - start}
    figures["peak_tflops"] = product_rate(device, fast_dtype(device.type), 1.0) / 1e12
    numbers = iter(range(1_000_000_000))

    def step() -> None:
        trainer._train_step([source.batch(next(numbers), 0)])

    shares = []
    for slots in buckets(recipe.drawing):
        source.slots = slots
        seconds = _seconds(step, device, options.seconds)
        targets, pool = latents_of(source, source.batch(0, 0))
        flops = step_flops(recipe.model, pool.shape, targets.shape, slots)
        name = f"context_{slots}"
        figures[f"{name}_chunks_per_s"] = size / seconds
        figures[f"{name}_tflops"] = flops / seconds / 1e12
        figures[f"{name}_share_of_peak"] = figures[f"{name}_tflops"] / figures["peak_tflops"]
        shares.append((slots, seconds))
        print(f"{name}: {size / seconds:.0f} chunks/s, {figures[f'{name}_tflops']:.1f} TFLOP/s", flush=True)
    # As recipes mix them: without memory now and then, else each number of context frames equally often.
    alone, others = recipe.sampling.recent_only, [seconds for slots, seconds in shares if slots > 1]
    mixed = alone * shares[0][1] + (1 - alone) * sum(others) / len(others)
    figures["mixed_chunks_per_s"] = size / mixed
    print(f"as mixed in training: {size / mixed:.0f} chunks/s", flush=True)

    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            step()
        _wait(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=80)
    (options.out / "profile.txt").write_text(table)
    profile.export_chrome_trace(str(options.out / "trace.json"))

    if task.walks is not None:
        every = recipe.self_walks.every
        seen = iter(range(every, 1_000_000_000, every))

        def walk() -> None:
            task.tend(next(seen), trainer.average_into)

        seconds = _seconds(walk, device, options.seconds)
        figures["walk_chunk_ms"] = 1e3 * seconds
        figures["walk_share_of_time"] = seconds / (seconds + every * mixed)
        print(f"one chunk of {recipe.self_walks.walks} walks: {1e3 * seconds:.0f} ms", flush=True)
    if device.type == "cuda":
        figures["most_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    write_json(options.out / "training.json", figures | {"batch_size": size} | environment())


if __name__ == "__main__":
    main()
