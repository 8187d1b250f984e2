"""Training with the tiny recipes on a tiny data set: it learns, stops, resumes, and ends in usable weights."""

import inspect
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from context_as_memory import tokens
from context_as_memory.codec import ImageAutoencoder, ImageAutoencoderConfig
from context_as_memory.data.dataset import DenoiserBatch, collate, pool_size, sample_segment
from context_as_memory.data.episode import write_episode
from context_as_memory.diffusion import FlowMatching
from context_as_memory.errors import UserError
from context_as_memory.formats.video import to_video
from context_as_memory.retrieval import Retrieval
from context_as_memory.tokens import TokenLayout, build_model_inputs
from context_as_memory.training import recipes
from context_as_memory.training.codec import CodecTask, train_codec
from context_as_memory.training.codec_loss import CodecLossConfig
from context_as_memory.training.compiled import CompiledDenoiser
from context_as_memory.training.corrupt import corrupt
from context_as_memory.training.denoiser import train_denoiser, train_denoiser_stream
from context_as_memory.training.distil import teacher_velocity
from context_as_memory.training.perceptual import perceptual_loss
from context_as_memory.training.rollout import Rollouts, Sampling, plan_rollout
from context_as_memory.training.stream import Stream, plan_video
from context_as_memory.training.trainer import TrainConfig, Trainer, learning_rate_factor
from context_as_memory.transformer import model as transformer_model
from context_as_memory.transformer import placement as transformer_placement
from context_as_memory.weights import fingerprint, from_pretrained
from context_as_memory.world import World


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    for number, split in enumerate(("train", "train", "val")):
        meta = {
            "name": f"walk_{number}",
            "map": "none",
            "split": split,
            "seed": number,
            "fps": 15,
            "licence": "none",
            "generator": "test",
        }
        write_episode(root / f"walk_{number}", tiny.pictures(60, number), tiny.walk(60, number), meta)
    return root


@pytest.fixture(scope="module")
def codec_run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("codec")
    train_codec(replace(recipes.codec_tiny(), crop=16), data, out)
    return out


def test_codec_shapes_and_errors():
    codec = tiny.codec()
    video = torch.randn(2, 3, 5, 16, 32)
    latents = codec.encode_frames(video)
    assert latents.shape == (2, 4, 5, 2, 4)
    assert codec.decode(latents).shape == video.shape
    one = codec.encode_frames(video[:, :, 2:3])
    assert (one[:, :, 0] - latents[:, :, 2]).abs().max() <= 1e-5, "every frame alone"
    streamed, cache = codec.decode_next(latents[:, :, :2])
    more, _ = codec.decode_next(latents[:, :, 2:], cache)
    assert (torch.cat((streamed, more), 2) - codec.decode(latents)).abs().max() <= 1e-5
    with pytest.raises(UserError, match="multiples of 8"):
        codec.encode_frames(torch.randn(1, 3, 1, 20, 32))
    with pytest.raises(UserError, match="one entry per level"):
        ImageAutoencoderConfig(encoder_widths=(8, 8))


def test_latents_are_normalised_after_training(data, codec_run):
    codec = from_pretrained(codec_run / "vae", expect=ImageAutoencoder)
    frames = torch.from_numpy(tiny.pictures(60, 0)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = codec.encode_frames(frames)
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 0.3
    assert (latents.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.3


def test_run_folder_has_log_samples_and_weights(codec_run):
    rows = [json.loads(line) for line in (codec_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert any("validation_psnr_db" in row for row in rows)
    assert list((codec_run / "samples").glob("*.png"))
    assert not list(codec_run.rglob("*.partial"))


class _Distance(nn.Module):
    """The smallest network that compares pictures: mean squared difference of random features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (self.features(a) - self.features(b)).square().mean(dim=(1, 2, 3))


def test_codec_training_starts_from_other_weights_and_weighs_a_perceptual_distance(data, codec_run, tmp_path):
    recipe = replace(recipes.codec_tiny(), crop=16)
    recipe = replace(recipe, loss=CodecLossConfig(perceptual=0.5), train=replace(recipe.train, steps=1))
    with pytest.raises(UserError, match="perceptual distance"):
        train_codec(recipe, data, tmp_path / "run", codec_run)
    train_codec(recipe, data, tmp_path / "run", codec_run, _Distance())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"perceptual", "validation_lpips"} <= set().union(*rows)
    start = from_pretrained(codec_run / "vae", expect=ImageAutoencoder).state_dict()
    mine = from_pretrained(tmp_path / "run" / "vae", expect=ImageAutoencoder).state_dict()
    for name, value in start.items():
        if "latent" not in name:
            assert (mine[name] - value).abs().max() < 0.05, "one small step from where it started"


def test_a_decoder_alone_learns_while_latents_and_denoiser_stay(data, codec_run, tmp_path):
    recipe = replace(recipes.codec_tiny(), crop=16, as_start=True, decoder_only=True)
    recipe = replace(recipe, loss=CodecLossConfig(rounds=1.0, earlier_rounds=2))
    with pytest.raises(UserError, match="--init"):
        train_codec(recipe, data, tmp_path / "none")
    first = recipes.denoiser_tiny()
    train_denoiser(replace(first, train=replace(first.train, steps=1)), data, codec_run, tmp_path / "cache", tmp_path)
    train_codec(recipe, data, tmp_path / "run", tmp_path / "model")
    before, after = tmp_path / "model", tmp_path / "run" / "model"
    assert World.from_pretrained(after, device="cpu").config == World.from_pretrained(before, device="cpu").config
    assert fingerprint(after / "transformer") == fingerprint(before / "transformer")
    start, mine = (from_pretrained(model / "vae", expect=ImageAutoencoder) for model in (before, after))
    frames = to_video(np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8), "cpu")
    assert torch.equal(latents := mine.encode_frames(frames), start.encode_frames(frames))
    assert not torch.equal(mine.decode(latents), start.decode(latents))


def test_recipes_without_an_architecture_take_that_of_the_start(data, codec_run, tmp_path):
    codec = replace(recipes.codec_tiny(), as_start=True, crop=16, train=replace(recipes.codec_tiny().train, steps=1))
    codec = replace(codec, model=replace(codec.model, encoder_widths=(8, 8, 8)))
    with pytest.raises(UserError, match="--init"):
        train_codec(codec, data, tmp_path / "none")
    train_codec(codec, data, tmp_path / "codec", codec_run)
    config = from_pretrained(tmp_path / "codec" / "vae", expect=ImageAutoencoder).config
    assert config == recipes.codec_tiny().model
    first = recipes.denoiser_tiny()
    first = replace(first, model=replace(first.model, num_layers=1), train=replace(first.train, steps=1))
    train_denoiser(first, data, codec_run, tmp_path / "cache", tmp_path / "start")
    onward = replace(recipes.denoiser_tiny(), as_start=True, train=replace(first.train, learning_rate=0.0))
    with pytest.raises(UserError, match="--init"):
        train_denoiser(onward, data, codec_run, tmp_path / "cache", tmp_path / "none")
    train_denoiser(onward, data, codec_run, tmp_path / "cache", tmp_path / "run", init=tmp_path / "start" / "model")
    start, mine = (World.from_pretrained(tmp_path / run / "model", device="cpu").model for run in ("start", "run"))
    assert mine.config == first.model != onward.model
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), mine.parameters(), strict=True))


def test_world_training_ends_in_a_world_that_walks(data, codec_run, tmp_path):
    recipe = recipes.denoiser_tiny()
    train_denoiser(recipe, data, codec_run, tmp_path / "cache", tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"memory_psnr_db", "recent_only_psnr_db"} <= set().union(*rows)
    assert {path.suffix for path in (tmp_path / "run" / "samples").iterdir()} == {".png", ".mp4"}
    world = World.from_pretrained(tmp_path / "run" / "model", device="cpu")
    cameras = tiny.walk(7)
    world.reset(tiny.pictures(1), cameras[:1])
    assert sum(len(chunk.frames_u8) for chunk in world.rollout(cameras[1:])) == 6
    short = replace(recipe, train=replace(recipe.train, steps=1, learning_rate=0.0))
    train_denoiser(short, data, codec_run, tmp_path / "cache", tmp_path / "more", init=tmp_path / "run" / "model")
    continued = World.from_pretrained(tmp_path / "more" / "model", device="cpu")
    for mine, theirs in zip(world.model.parameters(), continued.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), "a run that learns nothing keeps the weights it started from"
    with pytest.raises(UserError, match="another codec"):
        other = tmp_path / "codec"
        train_codec(
            replace(recipes.codec_tiny(), crop=16, train=replace(recipes.codec_tiny().train, seed=1)), data, other
        )
        train_denoiser(recipe, data, other, tmp_path / "cache", tmp_path / "run2")


def test_a_perceptual_distance_pulls_predictions_and_leaves_the_codec_alone(data, codec_run, tmp_path):
    recipe = replace(recipes.denoiser_tiny(), perceptual=0.3)
    with pytest.raises(UserError, match="perceptual"):
        train_denoiser(recipe, data, codec_run, tmp_path / "cache", tmp_path / "run")
    before = {name: value.clone() for name, value in from_pretrained(codec_run / "vae").state_dict().items()}
    train_denoiser(recipe, data, codec_run, tmp_path / "cache", tmp_path / "run", None, _Distance())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["perceptual"] > 0 for row in rows if "loss" in row)
    after = from_pretrained(tmp_path / "run" / "model" / "vae").state_dict()
    assert all((after[name].float() - before[name].float()).abs().max() < 1e-3 for name in before)
    plain = replace(recipe, perceptual=0.0)
    train_denoiser(plain, data, codec_run, tmp_path / "cache", tmp_path / "plain")
    mine, theirs = (from_pretrained(tmp_path / run / "model" / "transformer").state_dict() for run in ("run", "plain"))
    assert any((mine[name] != theirs[name]).any() for name in mine)


def test_the_perceptual_loss_is_nothing_for_the_truth_and_where_all_is_noise():
    truth = torch.randn(2, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([1.0, 0.2])

    def loss(predicted):
        generator = torch.Generator().manual_seed(1)
        return perceptual_loss(tiny.codec(), _Distance(), predicted, truth, sigma, generator)

    assert loss(truth).item() == 0
    predicted = (truth + 0.5).requires_grad_()
    loss(predicted).backward()
    assert predicted.grad[0].abs().max() == 0 and predicted.grad[1].abs().max() > 0


def test_a_jump_in_one_step_is_the_teachers_velocity_and_in_more_it_follows_the_flow():
    teacher, flow = tiny.model(), FlowMatching(preconditioned=True)
    for parameter in teacher.parameters():  # a fresh denoiser predicts nothing
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    cameras = tiny.walk(12)
    found = Retrieval(np.array([2, 5]), np.ones(2), np.arange(6))
    inputs = build_model_inputs(TokenLayout(num_targets=2, max_context=2), cameras[:6], cameras[6:8], found)
    inputs = replace(inputs, context_index=torch.tensor([[[0, 1]]]))
    pool, noisy = (torch.randn(1, 4, 2, 2, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 2))

    def go(steps: int) -> torch.Tensor:
        return teacher_velocity(teacher, flow, noisy, torch.tensor([0.9]), torch.tensor([0.4]), steps, pool, inputs)

    with torch.no_grad():
        output = teacher.predict(noisy, torch.tensor([900.0]), pool, inputs)
    torch.testing.assert_close(go(1), flow.velocity_of(output, noisy, torch.tensor([0.9])))
    truth = go(256)
    errors = [(go(steps) - truth).abs().mean().item() for steps in (2, 8, 32)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_distillation_goes_on_from_its_teacher_and_saves_its_steps(data, codec_run, tmp_path):
    recipe = recipes.denoiser_tiny()
    train_denoiser(recipe, data, codec_run, tmp_path / "cache", tmp_path / "run")
    distilled = replace(recipe, num_steps=1, multistep=False, teacher_steps=2, perceptual=0.3)
    with pytest.raises(UserError, match="--init"):
        train_denoiser(distilled, data, codec_run, tmp_path / "cache", tmp_path / "distilled", None, _Distance())
    start = tmp_path / "run" / "model"
    train_denoiser(distilled, data, codec_run, tmp_path / "cache", tmp_path / "distilled", start, _Distance())
    world = World.from_pretrained(tmp_path / "distilled" / "model", device="cpu")
    assert (world.config.num_steps, world.config.multistep) == (1, False)
    before = from_pretrained(start / "transformer").state_dict()
    after = from_pretrained(tmp_path / "distilled" / "model" / "transformer").state_dict()
    changes = [(after[name].float() - before[name].float()).abs().max() for name in before]
    assert 0 < max(changes) < 0.1


def _codec_trainer(folder: Path, **changes: Any) -> Trainer:
    recipe = recipes.codec_tiny()
    recipe = replace(recipe, crop=16, train=replace(recipe.train, steps=8, sample_every=100, **changes))
    torch.manual_seed(0)
    task = CodecTask(recipe, tiny.pictures(20), tiny.pictures(2))
    return Trainer(ImageAutoencoder(recipe.model), task, recipe.train, folder)


def test_stopping_at_any_step_and_resuming_changes_nothing(tmp_path):
    whole = _codec_trainer(tmp_path / "whole")
    whole.train()
    for _ in range(10):
        part = _codec_trainer(tmp_path / "parts", stop_after_minutes=1e-9)  # ends after one step
        part.train()
    assert part.step == whole.step == 8
    for name, value in whole.averaged_state().items():
        assert torch.equal(value, part.averaged_state()[name]), name
    for mine, theirs in zip(whole.model.parameters(), part.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_training_reduces_the_loss(tmp_path):
    recipe = recipes.codec_tiny()
    train = replace(recipe.train, steps=200, learning_rate=3e-3, log_every=1, sample_every=1000, batch_size=8)
    torch.manual_seed(0)
    colours = np.random.default_rng(0).integers(0, 256, (20, 1, 1, 3), dtype=np.uint8)
    frames = np.ascontiguousarray(np.broadcast_to(colours, (20, tiny.HEIGHT, tiny.WIDTH, 3)))  # noise cannot be learned
    task = CodecTask(replace(recipe, crop=16, train=train), frames, frames[:2])
    Trainer(ImageAutoencoder(recipe.model), task, train, tmp_path).train()
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_damaged_or_foreign_checkpoints_are_named(tmp_path):
    _codec_trainer(tmp_path, stop_after_minutes=1e-9).train()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    state["ema"]["other"] = state["ema"].pop(next(iter(state["ema"])))
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(UserError, match="another architecture"):
        _codec_trainer(tmp_path).train()
    (tmp_path / "last.pt").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        _codec_trainer(tmp_path).train()


def test_learning_rate_warms_up_stays_and_falls_to_zero():
    config = TrainConfig(warmup_steps=10, decay_fraction=0.5)
    assert learning_rate_factor(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate_factor(config, 50, 0.4) == pytest.approx(1.0)
    assert learning_rate_factor(config, 50, 0.75) == pytest.approx(0.5)
    assert learning_rate_factor(config, 50, 1.0) == pytest.approx(0.0)


def test_wrong_settings_are_named(data, tmp_path):
    with pytest.raises(UserError, match="precision"):
        _codec_trainer(tmp_path, precision="fp8")
    with pytest.raises(UserError, match="no episodes"):
        train_codec(recipes.codec_tiny(), tmp_path, tmp_path / "run")
    with pytest.raises(UserError, match="choose one of tiny"):
        recipes.denoiser_recipe("huge")


@pytest.mark.parametrize("name", sorted(recipes.DENOISER_RECIPES))
def test_every_recipe_builds(name):
    from context_as_memory.transformer import WorldTransformer

    recipe = recipes.denoiser_recipe(name)
    if recipe.adaptation is not None or recipe.as_start:
        return  # the network is that of the start
    with torch.device("meta"):
        model = WorldTransformer(recipes.denoiser_recipe(name).model)
        if name in recipes.CODEC_RECIPES:
            ImageAutoencoder(recipes.codec_recipe(name).model)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    low, high = {"tiny": (0, 0.1), "light": (5, 10), "base": (10, 13)}[name.split("-")[0]]
    assert low < size < high


_TWO_PROCESSES = """
import sys
sys.path[:0] = {paths!r}
import os, torch, tiny
from dataclasses import replace
from pathlib import Path
from typing import Any
from context_as_memory.training import recipes
from context_as_memory.training.rollout import Rollouts, Sampling, plan_rollout
from context_as_memory.training.trainer import Trainer
from context_as_memory.training.recorded import RecordedVideos
from context_as_memory.training.denoiser import DenoiserTask
import numpy as np
torch.set_num_threads(1)
recipe = recipes.denoiser_tiny()
limit = 1e-9 if sys.argv[2] == "stop" else None
recipe = replace(recipe, train=replace(recipe.train, sample_every=100, stop_after_minutes=limit))
videos = [(tiny.walk(60), np.random.default_rng(0).normal(size=(60, 4, 2, 4)).astype(np.float16))]
source = RecordedVideos(videos, recipe.drawing, torch.device("cpu"))
task = DenoiserTask(recipe, source, torch.device("cpu"), tiny.codec())
trainer = Trainer(tiny.model(), task, recipe.train, Path(sys.argv[1]))
trainer.train()
state = trainer.averaged_state()
total = float(sum(v.double().abs().sum() for v in state.values()))
Path(sys.argv[1], f"rank{{trainer.rank}}.txt").write_text(f"{{trainer.step}} {{total}}")
torch.distributed.destroy_process_group()
os._exit(0)
"""


def test_the_same_loop_shards_over_processes(tmp_path):
    """Two processes under torchrun (FSDP2 on gloo): both hold the same averaged weights, and the run resumes."""
    script = tmp_path / "job.py"
    script.write_text(_TWO_PROCESSES.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]))
    for mode, step in (("stop", 1), ("go", 3)):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(script),
            str(tmp_path / "run"),
            mode,
        ]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert result.returncode == 0, result.stderr
        told = [path.read_text().split() for path in sorted((tmp_path / "run").glob("rank*.txt"))]
        assert [words[0] for words in told] == [str(step)] * 2
        assert told[0][1] == told[1][1], "both processes hold the same averaged weights"


def test_muon_equals_torchs_up_to_bf16():
    """Same rule as `torch.optim.Muon`, which rounds to bf16 inside; steps must agree closely."""
    from context_as_memory.training.muon import Muon

    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((12, 30), (30, 12), (16, 16))]
    grads = [[torch.randn(start.shape, generator=generator) for start in starts] for _ in range(3)]
    moved = []
    for kind in (Muon, torch.optim.Muon):
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = kind(parameters, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for step in grads:
            for parameter, grad in zip(parameters, step, strict=True):
                parameter.grad = grad.clone()
            optimizer.step()
        moved.append([p.detach() - start for p, start in zip(parameters, starts, strict=True)])
    for ours, theirs in zip(*moved, strict=True):
        assert (ours - theirs).norm() <= 0.03 * theirs.norm()


def test_corruption_leaves_others_alone_and_goes_all_the_way():
    """Of many segments about the chosen share changes; a constant frame stays constant under fog and streaks."""
    pool = torch.randn(200, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    result = corrupt(pool, 0.3, torch.Generator().manual_seed(1))
    changed = (result != pool).flatten(1).any(dim=1)
    assert 0.2 < changed.float().mean() < 0.4
    assert torch.equal(corrupt(pool, 0.0, torch.Generator().manual_seed(1)), pool)
    flat = torch.ones(50, 3, 1, 6, 8)
    rows = corrupt(flat, 1.0, torch.Generator().manual_seed(2))
    spread = rows.flatten(1).amax(dim=1) - rows.flatten(1).amin(dim=1)
    assert spread.max() < 1e-5 and (rows.flatten(1).mean(dim=1) - 1).abs().max() > 0.1  # only the contrast differs


def test_walks_of_training_are_those_of_the_world():
    """Two walks in one batch, of different length of memory, make the frames that `World` makes of each alone."""
    walks, recorded, chunks = (tiny.walk(20, 1), tiny.walk(22, 2)), (4, 6), 8
    worlds = [tiny.world(seed, memory_noise=0.3, num_steps=3) for seed in (5, 9)]
    plans, latents, truth = [], [], []
    for world, cameras, count in zip(worlds, walks, recorded, strict=True):
        world.reset(tiny.pictures(count, count), cameras[:count])
        rule = world.config.retrieval
        layout = TokenLayout(num_targets=world.config.chunk_latents, max_context=rule.max_context)
        plan = plan_rollout(cameras, count, layout, rule, world.config.seed)
        plans.append(plan)
        latents.append(world.bank.latents(np.arange(count)))
        for number, chunk in enumerate(world.rollout(cameras[count:])):
            truth.append(torch.from_numpy(chunk.frames_u8))
            mask = plan.inputs.context_mask[0, number]
            chosen = plan.inputs.context_index[0, number][mask].tolist()
            assert chosen == [chunk.retrieval.frame_ids[-1], *chunk.retrieval.frame_ids[:-1]], "the same memory"
    config = worlds[0].config
    sampling = Sampling(flow=config.flow, num_steps=3, multistep=config.multistep, memory_noise=0.3)
    for fixed in (False, True):
        rollouts = Rollouts(plans, latents, (5, 9), sampling, worlds[0].codec, fixed_slots=fixed)
        made = [rollouts.advance(worlds[0].model) for _ in range(chunks)]
        assert rollouts.finished
        for row, world in enumerate(worlds):
            frames = torch.cat([(video[row] + 1) * 127.5 for video in made], dim=1).permute(1, 2, 3, 0)
            difference = (frames - torch.cat(truth[row * chunks : (row + 1) * chunks]).float()).abs()
            assert difference.max() < 1.5 and difference.mean() < 0.02, "but for rounding at half a level"
            stored = world.bank.latents(np.arange(recorded[row], recorded[row] + 2 * chunks)).transpose(0, 1)
            assert (rollouts.made[row] - stored).square().mean() < 1e-4 * stored.square().mean()


def _one_batch(slots: int = 3, segments: int = 2) -> DenoiserBatch:
    recipe, cameras = recipes.denoiser_tiny(), tiny.walk(60)
    layout, rng = TokenLayout(num_targets=2, max_context=slots), np.random.default_rng(3)
    sampling = replace(recipe.sampling, pool_frames=(30, 50), radius_m=9.0)
    drawn = [
        sample_segment(cameras, layout, recipe.retrieval, sampling, rng, slots=(1, slots)) for _ in range(segments)
    ]
    assert all(segment.inputs.context_mask.shape[2] == slots for segment in drawn)
    return collate(drawn, [0] * segments, size=pool_size(2, slots))


def _is_ours(function) -> bool:
    return "context_as_memory" in function.__code__.co_filename


@pytest.fixture
def unchecked(monkeypatch):
    """The network without the checks of array shapes (`shape_checks`): their wrappers cannot be traced."""
    for module in (transformer_model, transformer_placement, tokens):
        for place in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            for name, value in list(vars(place).items()):
                if isinstance(value, FunctionType) and "jaxtyping" in value.__code__.co_filename:
                    monkeypatch.setattr(place, name, inspect.unwrap(value, stop=_is_ours))


# Tracing reads torch's own sources and leaves their files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by torch itself while it traces
@pytest.mark.parametrize("masked", [False, True])
def test_the_compiled_denoiser_computes_what_the_denoiser_computes(unchecked, masked):
    """Outputs and gradients of all weights; traced as a compiler sees it, in one piece, but run without one."""
    model, batch = tiny.model(), _one_batch()
    inputs = batch.inputs
    if masked:
        inputs.context_mask[0, 0, 2] = False
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(2, 4, batch.pool_frames.shape[1], 2, 4, generator=generator)
    noisy = torch.randn(4, 4, 2, 2, 4, generator=generator)
    timestep = torch.tensor([900.0, 500.0, 100.0, 0.0])
    compiled = CompiledDenoiser(model, masked=masked, compile=_traced)
    results = []
    for network in (model, compiled):
        model.zero_grad()
        output = network.predict(noisy, timestep, pool, inputs)
        output.square().mean().backward()
        results.append((output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (truth, gradients), (output, mine) = results
    torch.testing.assert_close(output, truth, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def _traced(function, **settings):
    return torch.compile(function, backend="eager", **settings)


class _Rooms:
    """Places for a stream: random pictures along a random walk; every third has no room."""

    width, height = tiny.WIDTH, tiny.HEIGHT

    def plan(self, split, number, frames):
        if number % 3 == 2:
            raise UserError("no room")
        return 100 * (split == "val") + number, tiny.walk(frames, number)

    def painter(self, place, device):
        return lambda cameras: torch.from_numpy(tiny.pictures(len(cameras), place)).to(device)


def _stream(**changes: Any) -> Stream:
    recipe = replace(recipes.denoiser_tiny(), self_memory=0.5)
    stream = Stream(
        _Rooms(), tiny.codec(), recipe.drawing, replace(recipe.stream, **changes), torch.device("cpu"), first_number=9
    )
    stream.wait()
    return stream


def test_a_stream_gives_the_latents_and_cameras_of_its_videos_and_replaces_the_oldest():
    stream = _stream(device_share=0.5)
    recipe, rooms = recipes.denoiser_tiny(), _Rooms()
    try:
        seen = set()
        for step in range(4000):
            if len(seen) > 3:
                break
            time.sleep(0.005)
            batch = stream.batch(step, 0)
            slots = set((batch.target_frames // 60).flatten().tolist())
            plans = {slot: stream._plans[slot] for slot in slots}
            if step % 5 or any(plan is None for plan in plans.values()):
                continue  # given up meanwhile
            seen |= {plan.number for plan in plans.values()}
            inputs = batch.inputs
            assert inputs.context_mask.all() and inputs.context_mask.shape[2] in (1, 2, 3)
            latents = stream.read(batch.pool_frames)
            for row in range(len(batch.pool_frames)):
                slot = int(batch.pool_frames[row, 0]) // 60
                cameras = rooms.plan("train", plans[slot].number, 60)[1]
                frames = (batch.pool_frames[row] % 60)[inputs.context_index[row]]
                targets = (batch.target_frames % 60).view(len(batch.pool_frames), -1, 2)[row]
                for chunk in range(recipe.sampling.chunks):
                    context = cameras.w2c[int(targets[chunk, 0])] @ cameras.c2w[frames[chunk].numpy()]
                    np.testing.assert_allclose(inputs.context_cameras.c2w[row, chunk].numpy(), context, atol=1e-5)
                pictures = torch.from_numpy(tiny.pictures(60, plans[slot].number)).permute(3, 0, 1, 2)[None]
                truth = stream.codec.encode_frames(pictures.float() / 127.5 - 1)[0]
                torch.testing.assert_close(latents[row], truth[:, batch.pool_frames[row] % 60], atol=2e-2, rtol=1e-2)
        assert len(seen) > 3, "more than the ring holds"
        assert all(number >= 9 and number % 3 != 2 for number in seen)
        assert len(stream.held_out) == 1 and stream.held_out[0][1].shape == (60, 4, 2, 4)
    finally:
        stream.close()


def test_plans_follow_from_their_number_alone():
    recipe = recipes.denoiser_tiny()
    first, second = (plan_video(_Rooms(), "train", 4, 60, recipe.drawing, recipe.stream) for _ in range(2))
    for slots, rows in first.rows.items():
        for name, values in rows.items():
            np.testing.assert_array_equal(values, second.rows[slots][name])
    assert set(first.rows) == {1, 2, 3} and all(len(rows["pool"]) == 3 for rows in first.rows.values())
    assert plan_video(_Rooms(), "train", 5, 60, recipe.drawing, recipe.stream) is None


def test_training_on_a_stream_walks_on_its_own_frames_and_ends_in_a_world(unchecked, codec_run, tmp_path):
    recipe = recipes.denoiser_tiny()
    recipe = replace(recipe, self_memory=0.9, train=replace(recipe.train, steps=12, sample_every=6))
    train_denoiser_stream(recipe, _Rooms(), codec_run, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"memory_psnr_db", "self_error_last"} <= set().union(*rows)
    shares = [row["self_share"] for row in rows if "self_share" in row]
    assert shares[0] == 0 and max(shares) > 0, "own frames are memory once the first walks are done"
    assert list((tmp_path / "run" / "samples").glob("*_walks.png"))
    assert World.from_pretrained(tmp_path / "run" / "model", device="cpu").config.width == tiny.WIDTH


def test_own_frames_reach_training_from_recorded_videos_too(data, codec_run, tmp_path):
    recipe = recipes.denoiser_tiny()
    recipe = replace(recipe, self_memory=1.0, train=replace(recipe.train, steps=7))
    train_denoiser(recipe, data, codec_run, tmp_path / "cache", tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = {row["step"]: row["self_share"] for row in rows if "self_share" in row}
    assert max(shares[step] for step in (1, 2, 3)) == 0 and min(shares[step] for step in (4, 5, 6)) > 0
