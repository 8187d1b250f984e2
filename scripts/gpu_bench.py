"""What jobs for a GPU machine share: networks of public sizes with random weights, a clock, and figures that are kept.

A section is a row of cases. A case is measured once and is in its JSON file at once; a section that has all its cases
is not begun again. The time that is left is shared out among the sections that are not complete.
"""

import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from context_as_memory.adapters.text import ROWS
from context_as_memory.adapters.wan import WanCodec
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.evaluation.report import write_json
from context_as_memory.retrieval import Retrieval
from context_as_memory.tokens import ModelInputs, TokenLayout, build_model_inputs
from context_as_memory.transformer import TransformerConfig, WorldTransformer

SEED, P, FACTOR = 7, 4, 4  # P: targets of a chunk; FACTOR: frames of a latent

Row = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Row]]]
Size = tuple[int, int]  # width, height


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A public model: its two networks, and the sizes of its pictures."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    size: Size
    other: Size

    def config(self, **changes: Any) -> TransformerConfig:
        """Of the denoiser with camera heads; changes: other fields."""
        heads = max(1, self.transformer["num_attention_heads"] // 6)
        memory = {"camera": "rays", "camera_heads": heads, "context_mode": "per_frame"}
        return TransformerConfig(**{**self.transformer, **memory, **changes})

    def stock(self) -> TransformerConfig:
        return self.config(camera="none", camera_heads=0, context_mode="joint")

    def grid(self, size: Size) -> tuple[int, int]:
        """Height and width of latents."""
        factor = 8 * (self.vae.get("patch_size") or 1)
        return size[1] // factor, size[0] // factor


def _kind(channels: int, transformer: dict[str, Any], vae: dict[str, Any], sizes: tuple[Size, Size]) -> Kind:
    if channels == 48:  # Wan 2.2: patches of pictures, residual paths
        vae = vae | {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "z_dim": 48}
        vae |= {"scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
    return Kind(transformer | {"in_channels": channels, "out_channels": channels}, vae, *sizes)


def _layers(heads: int, ffn_dim: int, layers: int, text_dim: int) -> dict[str, Any]:
    return {"num_attention_heads": heads, "ffn_dim": ffn_dim, "num_layers": layers, "text_dim": text_dim}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a job: `Plan()` for a GPU, `TINY` to rehearse it."""

    kinds: dict[str, Kind] = field(
        default_factory=lambda: {
            "1.3B": _kind(16, _layers(12, 8960, 30, 4096), {}, ((832, 480), (640, 352))),
            "5B": _kind(
                48, _layers(24, 14336, 30, 4096), {"base_dim": 160, "decoder_base_dim": 256}, ((832, 480), (1280, 704))
            ),
        }
    )
    device: str = "cuda"
    counts: tuple[int, ...] = (1, 5, 8, 20)  # context frames
    usual: int = 8  # context frames where only one number is measured
    repeats: int = 10
    chunks: int = 30  # of a walk; a third of them with a world file
    micro: tuple[int, ...] = (1, 2, 4)  # chunks that go through training at once
    product: int = 8192  # side of the matrices that tell the card's peak
    compiler: str = "inductor"
    backends: tuple[str, ...] = ("as chosen", "FLASH_ATTENTION", "CUDNN_ATTENTION")
    forms: tuple[str, ...] = ("fp32", "bf16", "bf16, channels last", "bf16, kernels tried out", "fp32 without TF32")


_SMALL = {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
TINY = Plan(
    kinds={
        "1.3B": _kind(16, _layers(2, 256, 2, 32), _SMALL, ((32, 32), (48, 32))),
        "5B": _kind(48, _layers(2, 256, 2, 32), _SMALL | {"decoder_base_dim": 12}, ((64, 64), (96, 64))),
    },
    device="cpu",
    counts=(2,),
    usual=2,
    repeats=1,
    chunks=4,
    micro=(1,),
    product=128,
    compiler="eager",
    backends=("as chosen", "MATH"),
    forms=("fp32", "bf16, channels last"),
)


@dataclass(frozen=True)
class Sample:
    """What a denoiser is given for B chunks: noise [B, C, P, h, w], context [B, C, K, h, w], rows of prompts."""

    noisy: Tensor
    time: Tensor
    pool: Tensor
    inputs: ModelInputs
    words: Tensor
    no_words: Tensor


class Bench:
    """Networks and inputs of a plan, and the clock."""

    def __init__(self, plan: Plan, work: Path, until: float) -> None:
        self.plan, self.work, self.until = plan, work, until
        self.device = torch.device(plan.device)
        self.gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.gpu else torch.float32

    # -- time

    def mark(self) -> Any:
        """Now, for `between`."""
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds between two marks; waits for the later one."""
        if not self.gpu:
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def seconds(self, call: Callable[[], Any], budget_s: float = 2.0) -> float:
        """Median over up to `repeats` calls that take about `budget_s`, after one in which libraries choose kernels."""
        call()
        times: list[float] = []
        while len(times) < self.plan.repeats and (len(times) < 3 or sum(times) < budget_s):
            start = self.mark()
            call()
            times.append(self.between(start, self.mark()))
        return statistics.median(times)

    def tflop(self, config: TransformerConfig, prepared: Callable[[Any], Callable[[], Any]]) -> float:
        """Counted for networks of one and two layers, all layers being alike. prepared: what is called, for a network
        on `meta`."""
        counts = []
        for layers in (1, 2):
            with torch.device("meta"):
                model = WorldTransformer(replace(config, num_layers=layers))
            # On `meta` there are no number formats to choose from.
            with mock.patch("torch.autocast", lambda *_, **__: nullcontext()):
                counts.append(flop_of(prepared(model)))
        return (counts[0] + (config.num_layers - 1) * (counts[1] - counts[0])) / 1e12

    # -- networks and inputs

    @contextmanager
    def building(self, dtype: torch.dtype) -> Iterator[None]:
        """New tensors lie on the device, as `dtype`, and are the same every time."""
        torch.manual_seed(SEED)
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                yield
        finally:
            torch.set_default_dtype(torch.float32)

    @torch.no_grad()
    def network(self, config: TransformerConfig) -> WorldTransformer:
        """The denoiser with random weights, none of them zero: zeros would be computed faster."""
        with self.building(self.dtype):
            model = WorldTransformer(config).eval().requires_grad_(False)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.1)
                elif "norm" in name:
                    parameter.normal_(1, 0.1)
                elif "scale_shift_table" not in name:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
        return model

    def codec(self, kind: Kind) -> WanCodec:
        with self.building(torch.float32):
            return WanCodec.from_config(kind.vae).requires_grad_(False)

    def sample(self, kind: Kind, size: Size, count: int, batch: int = 1, device: torch.device | None = None) -> Sample:
        """Inputs of `batch` chunks with `count` context frames each."""
        device = device or self.device
        channels, width = kind.transformer["in_channels"], kind.transformer["text_dim"]
        torch.manual_seed(SEED)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=torch.float32 if device.type == "meta" else self.dtype)

        cameras = turning(count + P, size)
        numbers = np.arange(count)
        found = Retrieval(numbers, np.zeros(count), numbers)
        one = build_model_inputs(TokenLayout(num_targets=P, max_context=count), cameras, cameras[count:], found)
        inputs = ModelInputs.cat([replace(one, context_index=torch.arange(count).view(1, 1, -1))] * batch, dim=0)
        mask = inputs.context_mask if device.type == "meta" else inputs.context_mask.to(device)  # it is looked at
        inputs = replace(inputs.to(device), context_mask=mask)
        words, no_words = normal(batch, ROWS, width), normal(batch, ROWS, width)
        words[:, ROWS // 5 :], no_words[:, 1:] = 0, 0
        noisy, pool = (normal(batch, channels, frames, *kind.grid(size)) for frames in (P, count))
        return Sample(noisy, torch.full((batch,), 500.0, device=device), pool, inputs, words, no_words)


@dataclass(frozen=True)
class Section:
    """Cases, and the share of the time that they may take beside those of other sections."""

    share: float
    cases: Callable[[Bench], Cases]


@contextmanager
def convolutions(*, tf32: bool = True, tried: bool = False) -> Iterator[None]:
    """How cuDNN computes them: fp32 ones with fewer digits or not, by kernels that were tried out or guessed."""
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32, cudnn.benchmark = tf32, tried
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = True, False  # as torch begins


def turning(frames: int, size: Size) -> Cameras:
    """A walk on a circle, once around in 96 frames: the same places are seen again."""
    yaw = np.arange(frames) * 2 * np.pi / 96
    place = np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], axis=1)
    return look(place, yaw, pinhole(90, *size), *size)


def flop_of(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def rate(part: str, seconds: float, tflop: float) -> Row:
    return {f"{part}_s": seconds, f"{part}_tflop": tflop, f"{part}_tflop_per_s": tflop / seconds}


def error_of(got: Tensor, expected: Tensor) -> float:
    """Relative, of all values together."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def measure(bench: Bench, sections: Mapping[str, Section], only: Sequence[str] = ()) -> bool:
    """Measure what is missing, as far as the time goes; whether nothing failed."""
    waiting = [name for name in only or sections if not read_record(bench.work, name)["complete"]]
    good = True
    for number, name in enumerate(waiting):
        left = bench.until - time.time()
        if left < 1:
            break
        until = time.time() + left * sections[name].share / sum(sections[later].share for later in waiting[number:])
        good &= _section(bench, name, sections[name].cases, until)
        gc.collect()
        if bench.gpu:
            torch.cuda.empty_cache()
        (bench.work / "out" / "table.md").write_text(table(bench.work, tuple(sections)))
    return good


def _section(bench: Bench, name: str, cases: Callable[[Bench], Cases], until: float) -> bool:
    """Measure the cases of a section that it lacks; whether none failed."""
    record = read_record(bench.work, name) | {"failed": {}} | _machine(bench)
    path = bench.work / "out" / f"{name}.json"
    print(f"\n{name}", flush=True)
    late, begun = False, False
    try:
        for case, measured in cases(bench):
            if case in record["rows"]:
                continue
            # What it took to begin is not to be lost: the first case is measured while the job has time at all.
            if late := time.time() > (until if begun else bench.until):
                print("  its time is up", flush=True)
                break
            begun = True
            record["rows"] |= _case(bench, case, measured, record["failed"])
            write_json(path, record)
    except Exception as error:  # a section that cannot even begin must not take the others with it
        traceback.print_exc()
        record["failed"]["its beginning"] = _said(error)
    record["complete"] = not late and not record["failed"]
    write_json(path, record)
    return not record["failed"]


def _case(bench: Bench, case: str, measured: Callable[[], Row], failed: dict[str, str]) -> dict[str, Row]:
    """The row of a case; what failed is noted in `failed`, and measured again by the next call."""
    gc.collect()
    if bench.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        row = measured()
        if bench.gpu:
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        # JSON has no word for what is not finite.
        row = {
            key: str(value) if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()
        }
    except torch.OutOfMemoryError:
        row = {"note": "out of memory"}
    except Exception as error:
        traceback.print_exc()
        failed[case] = _said(error)
        return {}
    print(f"  {case}: " + ", ".join(f"{key} {_figure(value)}" for key, value in row.items()), flush=True)
    return {case: row}


def _told(value: Any) -> Any:
    """As JSON can have it, which has no word for what is not finite."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def read_record(work: Path, name: str) -> Row:
    """What is known of a section."""
    try:
        record: Row = json.loads((work / "out" / f"{name}.json").read_text())
        return record
    except (OSError, ValueError):
        return {"complete": False, "rows": {}}


def _machine(bench: Bench) -> Row:
    device = torch.cuda.get_device_name() if bench.gpu else "cpu"
    return {"device": device, "torch": torch.__version__, "diffusers": metadata.version("diffusers")}


def table(work: Path, sections: Sequence[str]) -> str:
    """All that was measured, as Markdown."""
    lines = []
    for name in sections:
        record = read_record(work, name)
        rows: dict[str, Row] = record["rows"]
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        lines += [f"## {name}" + ("" if record["complete"] else " (not complete)"), ""]
        if rows:
            lines += ["| | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
            for case, row in rows.items():
                lines.append(f"| {case} | " + " | ".join(_figure(row.get(key, "")) for key in columns) + " |")
            lines.append("")
        lines += [f"{case}: failed, {why}\n" for case, why in record.get("failed", {}).items()]
    first, last = (read_record(work, name)["rows"].get("5B, denoise step") for name in ("card", "card-again"))
    if first and last:
        lines.append(f"The first line again at the end: {last['step_s'] / first['step_s']:.3f} of its time.")
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
