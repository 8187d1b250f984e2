"""Everything that a run needs to go on, bit by bit.

One process writes `last.pt`; the one before stays as `previous.pt`, should the last one be damaged. Several write a
folder `last-STEP`, each its own shards (torch.distributed.checkpoint), and the first then names it in `last.txt`: a run
killed at any moment finds a whole one. A run of shards may go on with another number of processes. Frozen parameters
are in neither: they are those that the run began with.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, clear_partials, write_text

Optimizers = list[torch.optim.Optimizer]
Progress = tuple[int, float]  # steps done, seconds spent

LAST, PREVIOUS, _NAME = "last.pt", "previous.pt", "last.txt"


def _options(whole: bool) -> StateDictOptions:
    return StateDictOptions(full_state_dict=whole, cpu_offload=whole, ignore_frozen_params=True, strict=False)


def save_whole(
    folder: Path, model: nn.Module, optimizers: Optimizers, ema: dict[str, Tensor], step: int, elapsed_s: float
) -> None:
    """Write `last.pt`, whole or not at all; the one before stays as `previous.pt`. `UserError` for weights that are not
    finite, and for a full disk: then both stay as they were. ema: averages [...] by name of the parameter."""
    model_state, optimizer_state = get_state_dict(model, optimizers, options=_options(True))
    averages = {name: value.detach().cpu() for name, value in ema.items()}
    _require_finite([*model_state.items(), *averages.items()], step, folder)
    state = {
        "model": model_state,
        "optimizer": optimizer_state,
        "ema": averages,
        "step": step,
        "elapsed_s": elapsed_s,
    }
    path = folder / LAST
    try:
        clear_partials(folder, LAST)
        with atomic(path, sync=True) as partial:
            torch.save(state, partial)
            if path.exists():
                os.replace(path, folder / PREVIOUS)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        told = getattr(error, "strerror", None) or str(error).splitlines()[0][:120]
        raise UserError(
            f"training: {path} cannot be written ({told}); make room, and the same command goes on from the "
            "checkpoint before"
        ) from error


def _require_finite(values: Iterable[tuple[str, Any]], step: int, folder: Path) -> None:
    for name, value in values:
        if isinstance(value, Tensor) and not bool(local(value).isfinite().all()):
            raise UserError(
                f"training: {name} is not finite at step {step}, which is not saved; lower the learning rate, "
                f"and the same command goes on from the last checkpoint in {folder}"
            )


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor [...], which may be a part of its rows."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held


def _read(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none. `UserError` if there are some and none can be
    read."""
    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
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


def load_whole(folder: Path, model: nn.Module, optimizers: Optimizers, ema: dict[str, Tensor]) -> Progress | None:
    """Read `last.pt`, or `previous.pt` where that is damaged, into a model, its optimizers and averages [...] by name;
    None if there is neither."""
    state, path = _read(folder), folder / LAST
    if state is None:
        if (folder / _NAME).exists():
            raise UserError(
                f"training: {folder} is a run of several processes; go on with torchrun, or use another --out"
            )
        return None
    if set(state["ema"]) != set(ema):
        raise UserError(f"training: {path} belongs to a model of another architecture; use another --out folder")
    set_state_dict(
        model,
        optimizers,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_options(True),
    )
    with torch.no_grad():
        for name, mean in ema.items():
            mean.copy_(state["ema"][name])
    return state["step"], state["elapsed_s"]


def save_shards(
    folder: Path, model: nn.Module, optimizers: Optimizers, ema: dict[str, Tensor], step: int, elapsed_s: float
) -> None:
    """Write a folder of shards, averages [...] by name among them; every process must call this."""
    from torch.distributed import barrier, checkpoint, get_rank

    _require_finite([*model.named_parameters(), *ema.items()], step, folder)
    place = folder / f"last-{step}"
    if get_rank() == 0:
        shutil.rmtree(place, ignore_errors=True)
    barrier()
    checkpoint.save(_shards(model, optimizers, ema, step, elapsed_s), checkpoint_id=place)
    barrier()
    if get_rank() == 0:
        write_text(folder / _NAME, place.name + "\n")
        for old in folder.glob("last-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)


def load_shards(folder: Path, model: nn.Module, optimizers: Optimizers, ema: dict[str, Tensor]) -> Progress | None:
    """Read the last folder of shards, each process its own, averages [...] by name; None if there is none."""
    from torch.distributed import checkpoint

    if not (folder / _NAME).exists():
        if (folder / LAST).exists():
            raise UserError(f"training: {folder} is a run of one process; go on without torchrun, or use another --out")
        return None
    place = folder / (folder / _NAME).read_text().strip()
    state = _shards(model, optimizers, ema, 0, 0.0)
    try:
        checkpoint.load(state, checkpoint_id=place)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(f"training: {place} does not fit this run or is damaged ({told}); use another --out") from error
    set_state_dict(
        model,
        optimizers,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_options(False),
    )
    return int(state["progress"]["step"]), float(state["progress"]["elapsed_s"])


def _shards(
    model: nn.Module, optimizers: Optimizers, ema: dict[str, Tensor], step: int, elapsed_s: float
) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizers, options=_options(False))
    # Averages are read in place.
    progress = {"step": torch.tensor(step), "elapsed_s": torch.tensor(elapsed_s, dtype=torch.float64)}
    return {"model": model_state, "optimizer": optimizer_state, "ema": ema, "progress": progress}
