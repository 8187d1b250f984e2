"""One training loop: one CPU process, one GPU, or N GPUs under torchrun (FSDP2), with the same lines.

A `TrainingTask` says what is learned (batch of a step, loss of a batch, sample pictures); the loop knows nothing else.
A batch is a pure function of (seed, step, rank), so a resumed run sees exactly the batches that an uninterrupted one
would have seen. A run is a folder: `config.json`, `metrics.jsonl`, `last.pt` (everything to resume), `previous.pt` (the
one before, should the last one be damaged), `samples/`, and what `run_folder` keeps.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..compute import fast_dtype, pick_device
from ..errors import UserError
from ..formats.files import atomic, clear_partials, write_text
from ..signals import StopOnSignal, leave_signals_to_the_parent
from .muon import Muon
from .run_folder import RunFolder

LAST, PREVIOUS = "last.pt", "previous.pt"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the loop. The learning rate warms up, stays, and falls to zero over the last part of the budget."""

    steps: int = 10_000  # the run ends after this many steps ...
    budget_minutes: float | None = None  # ... or after this much training time over all resumes, whichever comes first
    stop_after_minutes: float | None = None  # end this call (with a checkpoint) and leave the rest to the next one
    batch_size: int = 32  # per process
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
        """The batch of this step on this process: a pure function of its arguments."""
        ...

    def loss(self, model: Any, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Scalar loss, and figures for the log: numbers, or tensors of one element, which nobody waits for before the
        log is written."""
        ...

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Write sample pictures of the averaged model into `folder`; returns validation figures."""
        ...

    # A task may also have `tend(step, average)`, called after every step: what goes on beside training. `average` fills
    # a network of the same architecture with the averaged weights.


class _Steps(Dataset[Any]):
    def __init__(self, batch: Callable[[int, int], Any], rank: int) -> None:
        self._batch, self._rank = batch, rank

    def __getitem__(self, step: int) -> Any:
        return self._batch(step, self._rank)


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
        if self.world_size > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
        if config.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"training: precision {config.precision!r} is not one of auto, fp32, bf16")
        bf16 = config.precision == "bf16" or (
            config.precision == "auto" and fast_dtype(self.device.type) == torch.bfloat16
        )
        self.autocast_dtype = torch.bfloat16 if bf16 else None
        self._on_gpu = self.device.type == "cuda"
        self.model = self._distribute(model.to(self.device))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizers = self._optimizers()
        self.step, self.elapsed_s = 0, 0.0

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
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=self._on_gpu or None)
        ]
        if hidden:
            # updates scaled to the size of AdamW's, so that one learning rate serves both
            optimizers.append(Muon(hidden, lr=config.learning_rate, weight_decay=config.weight_decay))
        return optimizers

    def _distribute(self, model: nn.Module) -> nn.Module:
        """Shard parameters (FSDP2) when torchrun started several processes."""
        if self.world_size == 1:
            return model
        from torch.distributed.fsdp import fully_shard

        # One unit, not one per block: a block runs twice in a pass and hands keys and values out of the first run,
        # which per-block hooks cannot see. Optimizer state, gradients and averages are sharded all the same.
        fully_shard(model)
        # Tasks call another method than forward; the shards must be gathered there too.
        for name in getattr(model, "entry_points", ()):
            torch.distributed.fsdp.register_fsdp_forward_method(model, name)
        return model

    # -- state ---------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    def _full(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor.detach().cpu()

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights and the buffers, whole, on the CPU (every process must call this)."""
        state = {name: self._full(value) for name, value in zip(self._names(), self.ema, strict=True)}
        return state | {name: self._full(value) for name, value in self.model.named_buffers()}

    def save(self) -> None:
        """Write `last.pt`, whole or not at all; the one before stays as `previous.pt`. A run that is killed at any
        moment resumes from one of both. `UserError` for weights that are not finite, and for a full disk: then both
        stay as they were."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model_state, optimizer_state = get_state_dict(self.model, self.optimizers, options=options)
        averages = {name: self._full(value) for name, value in zip(self._names(), self.ema, strict=True)}
        state = {
            "model": model_state,
            "optimizer": optimizer_state,
            "ema": averages,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        for name, value in [*model_state.items(), *averages.items()]:
            if isinstance(value, Tensor) and not bool(value.isfinite().all()):
                raise UserError(
                    f"training: {name} is not finite at step {self.step}, which is not saved; lower the learning rate, "
                    f"and the same command goes on from the last checkpoint in {self.folder}"
                )
        if self.rank == 0:
            path = self.folder / LAST
            try:
                clear_partials(self.folder, LAST)
                with atomic(path, sync=True) as partial:
                    torch.save(state, partial)
                    if path.exists():
                        os.replace(path, self.folder / PREVIOUS)
            except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
                told = getattr(error, "strerror", None) or str(error).splitlines()[0][:120]
                raise UserError(
                    f"training: {path} cannot be written ({told}); make room, and the same command goes on from the "
                    "checkpoint before"
                ) from error

    def _read(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read; None where there is none. `UserError` if there are some and none can
        be read."""
        damaged: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                if not {"model", "optimizer", "ema", "step", "elapsed_s"} <= state.keys():
                    raise ValueError("it is no checkpoint of a run")
            except Exception as error:
                told = " ".join(str(error).split()).split(". ")[0][:120] or type(error).__name__
                damaged.append(f"{path} cannot be read ({told})")
                continue
            if damaged:
                print(f"cam: {damaged[0]}; the run goes on from {path}, step {state['step']}", file=sys.stderr)
            return state
        if damaged:
            raise UserError(f"training: {'; '.join(damaged)}; delete it to start this run anew")
        return None

    def load(self) -> bool:
        """Resume from `last.pt`, or from `previous.pt` where that is damaged, if there is one."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        state, path = self._read(), self.folder / LAST
        if state is None:
            return False
        if set(state["ema"]) != set(self._names()):
            raise UserError(f"training: {path} belongs to a model of another architecture; use another --out folder")
        set_state_dict(
            self.model,
            self.optimizers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True, cpu_offload=True),
        )
        with torch.no_grad():
            for name, mean, parameter in zip(self._names(), self.ema, self.parameters, strict=True):
                value = state["ema"][name].to(self.device)
                if hasattr(parameter, "device_mesh"):
                    from torch.distributed.tensor import distribute_tensor

                    layout: Any = parameter
                    value = distribute_tensor(value, layout.device_mesh, layout.placements)
                mean.copy_(value)
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        return True

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
        loader = DataLoader(
            _Steps(self.task.batch, self.rank),
            sampler=range(self.step, config.steps),
            batch_size=None,
            num_workers=config.data_workers,
            prefetch_factor=2 if config.data_workers else None,
            worker_init_fn=leave_signals_to_the_parent if config.data_workers else None,
        )
        figures: dict[str, float] = {}
        tend = getattr(self.task, "tend", None)
        with _Progress(self, resumed) as bar, StopOnSignal(self._say_stop) as stop:
            started = last_save = self._agree(False)[0]
            before_s = self.elapsed_s
            for batch in self._until_budget(loader):
                raw = self._train_step(_to_device(batch, self.device))
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
                    bar.log(figures)
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

    def _until_budget(self, loader: DataLoader[Any]) -> Iterator[Any]:
        for batch in loader:
            if self.progress >= 1:
                return
            yield batch

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

    def _train_step(self, batch: Any) -> dict[str, Any]:
        self.model.train()
        seed = (self.config.seed * 1_000_003 + self.step) * 4099 + self.rank
        generator = torch.Generator().manual_seed(seed)
        with self.autocast():
            loss, figures = self.task.loss(self.model, batch, generator)
        rate = self.config.learning_rate * learning_rate_factor(self.config, self.step, self.progress)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # a young average forgets its start
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return {"loss": loss.detach(), **figures, "gradient_norm": norm, "learning_rate": rate}

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


class _Progress:
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
        if self.active:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            text = TextColumn("{task.description}")
            self.bar = Progress(
                text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
            )
            verb = "resumed at" if resumed else "from"
            self.id = self.bar.add_task(f"training ({verb} step {trainer.step})", total=1.0, note="")

    def __enter__(self) -> "_Progress":
        if self.active:
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.active:
            self.bar.stop()
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
        self.bar.update(self.id, completed=trainer.progress, note=note)
