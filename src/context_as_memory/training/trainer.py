"""One training loop: one CPU process, one GPU, or N GPUs under torchrun (FSDP2), with the same lines.

A `TrainingTask` says what is learned (batch of a step, loss of a batch, sample pictures); the loop knows nothing else.
A batch is a pure function of (seed, step, number), so a resumed run sees exactly the batches that an uninterrupted one
would have seen. A run is a folder: `config.json`, `metrics.jsonl`, everything to resume (`checkpoint`), `samples/`, and
what `run_folder` keeps.

With `accumulate` a step is the same on any number of processes: the same batches, the mean of their gradients.
"""

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from context_as_memory.compute import fast_dtype, pick_device
from context_as_memory.errors import UserError
from context_as_memory.formats.files import write_text
from context_as_memory.progress import ProgressBar
from context_as_memory.seeds import draw_seed
from context_as_memory.signals import StopOnSignal, leave_signals_to_the_parent
from context_as_memory.training import checkpoint
from context_as_memory.training.muon import Muon
from context_as_memory.training.run_folder import RunFolder
from context_as_memory.training.sharding import distribute, peak_memory_gb
from context_as_memory.training.work import product_rate


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the loop. The learning rate warms up, stays, and falls to zero over the last part of the budget."""

    steps: int = 10_000  # the run ends after this many steps ...
    budget_minutes: float | None = None  # ... or after this much training time over all resumes, whichever comes first
    stop_after_minutes: float | None = None  # end this call (with a checkpoint) and leave the rest to the next one
    batch_size: int = 32  # of a batch: what goes through the network at once
    accumulate: int | None = None  # batches of a step, over all processes together; None: one per process
    checkpointing: bool = False  # blocks are computed again for their gradients: less memory, a third more work
    rates: tuple[tuple[str, float], ...] = ()  # parameters with such a word in their name learn so many times faster
    optimizer: str = "adamw"  # adamw | muon (hidden matrices by Muon, arXiv 2502.16982, the rest by AdamW)
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_fraction: float = 0.6  # share of the budget over which the learning rate falls (cosine)
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    checkpoint_every_s: float = 180.0
    log_every: int = 20
    sample_every: int = 500
    precision: str = "auto"  # auto | fp32 | bf16
    data_workers: int = 1
    seed: int = 0
    device: str = "auto"
    tensorboard: bool = False


class TrainingTask(Protocol):
    """What is learned."""

    def batch(self, step: int, rank: int) -> Any:
        """The batch of a step with this number, one of those that `accumulate` asks for: a pure function of its
        arguments."""
        ...

    def loss(self, model: Any, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Loss [], and figures for the log: numbers, or tensors [] of one element, which nobody waits for before the
        log is written."""
        ...

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Write sample pictures of the averaged model into `folder`; returns validation figures."""
        ...

    # A task may also have `tend(step, average)`, called after every step: what goes on beside training. `average` fills
    # a network of the same architecture with the averaged weights.


class _Steps(Dataset[Any]):
    """The batches of one process, numbered on: `parts` of them are a step."""

    def __init__(self, batch: Callable[[int, int], Any], rank: int, processes: int, parts: int) -> None:
        self._batch, self._rank, self._processes, self._parts = batch, rank, processes, parts

    def __getitem__(self, number: int) -> Any:
        step, part = divmod(number, self._parts)
        return self._batch(step, part * self._processes + self._rank)


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _to_device(value, device) for key, value in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch


def learning_rate_factor(config: TrainConfig, step: int, progress: float) -> float:
    """Warm-up, plateau, cosine to zero; `progress` in [0, 1] is the used share of the budget."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = min(1.0, (1.0 - progress) / config.decay_fraction)
    return warm * 0.5 * (1 - math.cos(math.pi * left))


class Trainer:
    """Runs a `TrainingTask` on a model until its budget is used; call `train` again on the same folder to resume."""

    def __init__(
        self,
        model: nn.Module,
        task: TrainingTask,
        config: TrainConfig,
        folder: Path,
        made_with: Mapping[str, Any] | None = None,
    ) -> None:
        """made_with: what the run is made with besides `config`, as JSON values; "data" names the data it learns from.
        Noted in the folder, and compared when the run is resumed."""
        self.task, self.config, self.folder = task, config, folder
        self.made_with = dict(made_with or {})
        self.run = RunFolder(folder)
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = pick_device(config.device)
        if self.world_size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
        if config.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"training: precision {config.precision!r} is not one of auto, fp32, bf16")
        bf16 = config.precision == "bf16" or (
            config.precision == "auto" and fast_dtype(self.device.type) == torch.bfloat16
        )
        self.autocast_dtype = torch.bfloat16 if bf16 else None
        wanted = config.accumulate or self.world_size
        if wanted % self.world_size:
            raise UserError(
                f"training: a step has {wanted} batches, which {self.world_size} processes cannot share evenly; start "
                "another number of them"
            )
        self.parts = wanted // self.world_size  # batches of a step on this process
        if config.checkpointing:
            if not hasattr(model, "checkpointing"):
                raise UserError(f"training: {type(model).__name__} cannot compute its blocks again (checkpointing)")
            model.checkpointing = True  # type: ignore[assignment]
        self._on_gpu = self.device.type == "cuda"
        self.model = distribute(model.to(self.device), self.world_size, self.autocast_dtype)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizers = self._optimizers()
        self.step, self.elapsed_s = 0, 0.0
        self._tokens, self._flops, self._counted_since = 0.0, 0.0, time.monotonic()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and for `muon` a second optimizer for the matrices inside the blocks."""
        config = self.config
        if config.optimizer not in ("adamw", "muon"):
            raise UserError(f"training: optimizer {config.optimizer!r} is not one of adamw, muon")
        hidden = [
            p for name, p in self.model.named_parameters() if p.requires_grad and p.ndim == 2 and "blocks." in name
        ]
        hidden = hidden if config.optimizer == "muon" else []
        taken = {id(p) for p in hidden}
        decayed = [p for p in self.parameters if p.ndim >= 2 and id(p) not in taken]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = self._by_rate(decayed, config.weight_decay) + self._by_rate(rest, 0.0)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=self._on_gpu or None)
        ]
        if hidden:
            # updates scaled to the size of AdamW's, so that one learning rate serves both
            by_rate = self._by_rate(hidden, config.weight_decay)
            optimizers.append(Muon(by_rate, lr=config.learning_rate, weight_decay=config.weight_decay))
        return optimizers

    def _by_rate(self, parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
        """Groups of parameters that learn equally fast, the first of those that are not named in `rates`; a group of
        others says its `factor`."""
        factors = {id(p): self._factor(name) for name, p in self.model.named_parameters()}
        groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}]
        for factor in sorted({1.0, *(factors[id(p)] for p in parameters)}, key=lambda factor: factor != 1):
            found = [p for p in parameters if factors[id(p)] == factor]
            if factor == 1:
                groups[0]["params"] = found
            else:
                groups.append({"params": found, "weight_decay": weight_decay, "factor": factor})
        return [group for number, group in enumerate(groups) if number == 0 or group["params"]]

    def _factor(self, name: str) -> float:
        return next((factor for word, factor in self.config.rates if word in name), 1.0)

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def names(self) -> set[str]:
        """Names of the trained parameters."""
        return set(self._names())

    def _names(self) -> list[str]:
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    def _full(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor.detach().cpu()

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights and the buffers [...] by name, whole, on the CPU (every process must call this)."""
        state = {name: self._full(value) for name, value in zip(self._names(), self.ema, strict=True)}
        return state | {name: self._full(value) for name, value in self.model.named_buffers()}

    def save(self) -> None:
        """Write everything to resume (see `checkpoint`), whole or not at all; every process must call this."""
        ema = dict(zip(self._names(), self.ema, strict=True))
        keep = checkpoint.save_shards if self.world_size > 1 else checkpoint.save_whole
        keep(self.folder, self.model, self.optimizers, ema, self.step, self.elapsed_s)

    def load(self) -> bool:
        """Resume from what `save` wrote, if it is there."""
        ema = dict(zip(self._names(), self.ema, strict=True))
        find = checkpoint.load_shards if self.world_size > 1 else checkpoint.load_whole
        found = find(self.folder, self.model, self.optimizers, ema)
        if found is not None:
            self.step, self.elapsed_s = found
        return found is not None

    # -- the loop ------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Used share of the budget, in [0, 1]."""
        by_steps = self.step / self.config.steps
        by_time = self.elapsed_s / (60 * self.config.budget_minutes) if self.config.budget_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def train(self) -> dict[str, float]:
        """Train until the budget or `stop_after_minutes` is used; returns the last logged figures.

        Ctrl-C, SIGTERM and SIGHUP save and end it with KeyboardInterrupt. `UserError` if another process trains in the
        folder, or the run there was made with other data or another seed.
        """
        if self.rank == 0:
            self.run.claim()
        try:
            return self._train()
        finally:
            self.run.release()

    def _train(self) -> dict[str, float]:
        config = self.config
        resumed = self.load()
        if self.rank == 0:
            self.run.record(asdict(config) | self.made_with, self.step)
            self.run.trim(self.step)
            write_text(self.folder / "config.json", json.dumps(asdict(config), indent=2, default=str) + "\n")
        workers = min(config.data_workers, os.cpu_count() or 1)
        loader = DataLoader(
            _Steps(self.task.batch, self.rank, self.world_size, self.parts),
            sampler=range(self.step * self.parts, config.steps * self.parts),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=leave_signals_to_the_parent if workers else None,
        )
        if self._on_gpu:
            self._product_rate()  # now, while there is room for the matrices
        figures: dict[str, float] = {}
        tend = getattr(self.task, "tend", None)
        with _Curves(self, resumed) as bar, StopOnSignal(self._say_stop) as stop:
            started = last_save = self._agree(False)[0]
            before_s = self.elapsed_s
            for batches in self._until_budget(loader):
                raw = self._train_step(_to_device(batch, self.device) for batch in batches)
                if tend is not None:
                    tend(self.step, self.average_into)
                now, asked = self._agree(stop.requested)
                self.elapsed_s = before_s + now - started
                if asked:
                    self.save()
                    raise KeyboardInterrupt
                if self.step % config.log_every == 0 or not self._on_gpu:  # to look is to wait for the GPU
                    figures = self._checked(raw)
                if self.step % config.log_every == 0:
                    bar.log(figures | self._pace())
                if self.step % config.sample_every == 0:
                    bar.log(self._sample())
                if now - last_save > config.checkpoint_every_s:
                    self.save()
                    last_save = now
                if config.stop_after_minutes and now - started > 60 * config.stop_after_minutes:
                    break
            self.save()
            if self.progress >= 1:
                bar.log(self._sample())
        return figures

    def _say_stop(self, name: str) -> None:
        if self.rank == 0:
            print(
                f"cam: {name}: saving after this step; the same command goes on from there. Once more stops at once",
                file=sys.stderr,
                flush=True,
            )

    def _agree(self, asked: bool) -> tuple[float, bool]:
        """Seconds on the first process's clock, and whether it was asked to stop: all processes must save and stop at
        the same step, since each of these waits for the others."""
        if self.world_size == 1:
            return time.monotonic(), asked
        first = torch.tensor([time.monotonic(), float(asked)], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(first, src=0)
        now, stop = first.tolist()
        return now, bool(stop)

    def _until_budget(self, loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
        """The batches of one step after the other."""
        batches = iter(loader)
        while self.progress < 1 and (first := next(batches, None)) is not None:
            yield itertools.chain((first,), itertools.islice(batches, self.parts - 1))

    def _pace(self) -> dict[str, float]:
        """Since the last log, where the task counts them: tokens per second of all processes, TFLOP/s of each, and
        their share of what this device reaches in products alone; and the most memory in use on this one, in GB."""
        seconds, figures = max(1e-9, time.monotonic() - self._counted_since), {}
        if self._tokens:
            figures["tokens_per_s"] = self.world_size * self._tokens / seconds
        if self._flops:
            figures["tflop_per_s"] = self._flops / seconds / 1e12
            figures["share_of_peak"] = self._flops / seconds / self._product_rate()
        self._tokens, self._flops, self._counted_since = 0.0, 0.0, time.monotonic()
        return figures | {"memory_gb": peak_memory_gb(self.device)}

    def _product_rate(self) -> float:
        return product_rate(self.device, self.autocast_dtype or torch.float32)

    def _checked(self, raw: dict[str, Any]) -> dict[str, float]:
        """The figures of a step as numbers."""
        figures = {name: float(value) for name, value in raw.items()}
        if not math.isfinite(figures["loss"]):
            raise UserError(
                f"training: the loss is {figures['loss']} at step {self.step}; lower the learning rate and resume"
            )
        return figures

    def autocast(self) -> AbstractContextManager[Any]:
        """The number formats of a step."""
        return torch.autocast(self.device.type, self.autocast_dtype) if self.autocast_dtype else nullcontext()

    def gradients(self, batches: Iterable[Any]) -> dict[str, Any]:
        """Mean gradients over the batches of a step, left in the parameters; returns figures of the last batch, and the
        mean loss."""
        self.model.train()
        figures: dict[str, Any] = {}
        total = torch.zeros((), device=self.device)
        for part, batch in enumerate(batches):
            number = part * self.world_size + self.rank
            seed = draw_seed(self.config.seed, self.step) * 4099 + number
            with self.autocast():
                loss, figures = self.task.loss(self.model, batch, torch.Generator().manual_seed(seed))
            self._tokens += figures.pop("tokens", 0)
            self._flops += figures.pop("flops", 0)
            (loss / self.parts if self.parts > 1 else loss).backward()
            total += loss.detach() / self.parts
        return {"loss": total, **figures}

    def _train_step(self, batches: Iterable[Any]) -> dict[str, Any]:
        rate = self.config.learning_rate * learning_rate_factor(self.config, self.step, self.progress)
        figures = self.gradients(batches)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # a young average forgets its start
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return {**figures, "gradient_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def average_into(self, module: nn.Module) -> None:
        """Fill a network of the same architecture with the averaged weights (every process must call this)."""
        theirs = dict(module.named_parameters())
        parameters: list[Tensor] = [theirs[name] for name in self._names()]
        whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in self.ema]
        torch._foreach_copy_(parameters, whole)

    def _sample(self) -> dict[str, float]:
        """Swap the averaged weights in, let the task draw, swap back."""
        original = [p.detach().clone() for p in self.parameters]
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        self._fill(self.ema)
        self.model.eval()
        try:
            with torch.no_grad():
                return self.task.sample(self.model, folder, self.step)
        finally:
            self._fill(original)

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


class _Curves:
    """Progress bar on a terminal, `metrics.jsonl` always, tensorboard on request; silent on all ranks but the first."""

    def __init__(self, trainer: Trainer, resumed: bool) -> None:
        self.trainer, self.active = trainer, trainer.rank == 0
        self.sums: dict[str, list[float]] = {}
        self.writer: Any = None
        if self.active and trainer.config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("training: tensorboard is not installed; pip install tensorboard") from error
            self.writer = SummaryWriter(str(trainer.folder / "tensorboard"))
        label = f"training ({'resumed at' if resumed else 'from'} step {trainer.step})"
        self.bar = ProgressBar(label, 1.0, shown=self.active)

    def __enter__(self) -> "_Curves":
        self.bar.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.__exit__(*exc)
        if self.writer:
            self.writer.close()

    def log(self, figures: dict[str, float]) -> None:
        if not self.active or not figures:
            return
        trainer = self.trainer
        row = {"step": trainer.step, "elapsed_s": round(trainer.elapsed_s, 1)}
        row |= {key: float(f"{value:.5g}") for key, value in figures.items()}
        trainer.run.log(row)
        if self.writer:
            for key, value in figures.items():
                self.writer.add_scalar(key, value, trainer.step)
        note = f"step {trainer.step}  " + "  ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:3])
        self.bar.reach(trainer.progress, note=note)
