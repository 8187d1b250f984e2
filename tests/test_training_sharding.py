"""Training on several processes and in several batches a step: the same gradients, the same run after a stop."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.adapters import lora
from context_as_memory.errors import UserError
from context_as_memory.training import recipes
from context_as_memory.training.denoiser import DenoiserRecipe, DenoiserTask
from context_as_memory.training.recorded import RecordedVideos
from context_as_memory.training.trainer import Trainer

CPU = torch.device("cpu")


def recipe_of(mode: str, **changes: Any) -> DenoiserRecipe:
    """The tiny denoiser in one of the three ways to read its context."""
    recipe = recipes.denoiser_tiny()
    model = replace(recipe.model, context_mode=mode.split("+")[0])
    settings = {"steps": 3, "sample_every": 100, "optimizer": "adamw", "accumulate": 2, "log_every": 1}
    return replace(recipe, model=model, self_memory=0.0, train=replace(recipe.train, **{**settings, **changes}))


def trainer_of(mode: str, folder: Path, **changes: Any) -> Trainer:
    """A run on random latents. `+lora`: matrices in fp32 are trained beside frozen weights in bf16."""
    recipe = recipe_of(mode, **changes)
    videos = [(tiny.walk(60), np.random.default_rng(0).normal(size=(60, 4, 2, 4)).astype(np.float16))]
    source = RecordedVideos(videos, recipe.drawing, CPU)
    model = tiny.model(context_mode=recipe.model.context_mode)
    if "+lora" in mode:
        lora.inject(model, 2, 2.0)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            parameter.data = parameter.data if "lora_" in name else parameter.data.bfloat16()
            if "lora_" in name:
                parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Trainer(model, DenoiserTask(recipe, source, CPU, tiny.codec()), recipe.train, folder)


def full(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Of the first step."""
    batches = [trainer.task.batch(0, part * trainer.world_size + trainer.rank) for part in range(trainer.parts)]
    trainer.gradients(batches)
    return {name: full(p.grad).float() for name, p in trainer.model.named_parameters() if p.grad is not None}


_JOB = """
import os, sys
sys.path[:0] = {paths!r}
import torch
from pathlib import Path
from test_training_sharding import full, gradients, trainer_of
torch.set_num_threads(1)
out, modes = Path(sys.argv[1]), sys.argv[2].split(",")
for mode in modes:
    found = gradients(trainer_of(mode, out / mode, checkpointing="+again" in mode))
    if int(os.environ["RANK"]) == 0:
        torch.save(found, out / f"{{mode}}.pt")
for name, stop in (("whole", None), ("parts", 1e-9), ("parts", 1e-9), ("parts", None)):
    trainer = trainer_of("per_frame+lora", out / name, stop_after_minutes=stop, rates=(("lora_A", 5.0),))
    trainer.train()
    state = trainer.averaged_state() | {{f"now {{n}}": full(p) for n, p in trainer.model.named_parameters()}}
if int(os.environ["RANK"]) == 0:
    torch.save(state, out / "parts.pt")
trainer = trainer_of("per_frame+lora", out / "whole", rates=(("lora_A", 5.0),))
assert trainer.load() and trainer.step == 3
state = trainer.averaged_state() | {{f"now {{n}}": full(p) for n, p in trainer.model.named_parameters()}}
if int(os.environ["RANK"]) == 0:
    torch.save(state, out / "whole.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""
MODES = ("joint", "cached", "per_frame", "per_frame+again", "per_frame+lora", "per_frame+lora+again")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """What two processes under torchrun found, in files."""
    out = tmp_path_factory.mktemp("two")
    script = out / "job.py"
    script.write_text(_JOB.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(out), ",".join(MODES)], capture_output=True, text=True, timeout=400, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_have_the_gradients_of_one(two_processes, tmp_path, mode):
    """Sharded block by block, with blocks computed again, and with frozen bf16 parameters beside trained ones."""
    mine = gradients(trainer_of(mode, tmp_path))
    theirs = torch.load(two_processes / f"{mode}.pt")
    assert mine.keys() == theirs.keys() and all(("lora_" in name) == ("lora" in mode) for name in mine)
    largest = max(float(gradient.abs().max()) for gradient in mine.values())
    for name, gradient in mine.items():
        assert (gradient - theirs[name]).abs().max() <= 1e-6 * max(1.0, largest), name


@pytest.mark.slow
def test_a_sharded_run_goes_on_bit_by_bit(two_processes):
    whole, parts = (torch.load(two_processes / f"{name}.pt") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = {
        name: [json.loads(line)["loss"] for line in (two_processes / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    }
    assert len(rows["whole"]) == 3 and rows["whole"] == rows["parts"]
    assert [path.name for path in (two_processes / "parts").glob("last-*")] == ["last-3"], "older shards are removed"
    with pytest.raises(UserError, match="several processes"):
        trainer_of("per_frame+lora", two_processes / "whole").load()


def test_several_batches_are_one_large_step(tmp_path):
    """The mean gradient of two batches, and a step with it."""
    both = gradients(trainer_of("per_frame", tmp_path, accumulate=2))
    parts = []
    for number in range(2):
        trainer = trainer_of("per_frame", tmp_path, accumulate=1)
        trainer.rank = number  # the second process's batch and noise
        parts.append(gradients(trainer))
    for name, gradient in both.items():
        assert (gradient - (parts[0][name] + parts[1][name]) / 2).abs().max() <= 1e-6, name


def test_blocks_computed_again_give_the_same_gradients(tmp_path):
    for mode in ("joint", "cached", "per_frame"):
        once, again = (gradients(trainer_of(mode, tmp_path, checkpointing=flag)) for flag in (False, True))
        assert all(torch.equal(once[name], again[name]) for name in once)
    with pytest.raises(UserError, match="cannot compute its blocks again"):
        trainer = trainer_of("per_frame", tmp_path)
        Trainer(torch.nn.Linear(1, 1), trainer.task, replace(trainer.config, checkpointing=True), tmp_path)


def test_some_parameters_learn_faster_and_the_log_tells_pace_and_memory(tmp_path):
    start = {name: p.detach().clone() for name, p in tiny.model().named_parameters()}
    moved = []
    for rates in ((), (("pixel_embedding", 5.0),)):
        trainer = trainer_of("per_frame", tmp_path / str(len(rates)), steps=1, rates=rates, weight_decay=0.0)
        trainer.train()
        moved.append(
            {name: float((p.detach() - start[name]).abs().max()) for name, p in trainer.model.named_parameters()}
        )
    plain, fast = moved
    for name in start:
        factor = 5.0 if "pixel_embedding" in name else 1.0
        assert fast[name] == pytest.approx(factor * plain[name], rel=1e-2, abs=1e-9), name
    row = json.loads((tmp_path / "1" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["tokens_per_s"] > 0 and row["memory_gb"] > 0.05


def test_averages_and_checkpoints_hold_trained_parameters_only(tmp_path):
    trainer = trainer_of("per_frame+lora", tmp_path, stop_after_minutes=1e-9)
    trainer.train()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(state["ema"]) == trained
    assert not [name for name in state["model"] if name.endswith("weight") and name not in trained]
    resumed = trainer_of("per_frame+lora", tmp_path)
    assert resumed.load() and resumed.step == 1
    for mine, theirs in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _: None)
    with pytest.raises(UserError, match="2 processes cannot share"):
        trainer_of("per_frame", tmp_path, accumulate=3)
