"""Memory for a Wan model, from its public layout: does it learn to remember, and does the whole way work?"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paper_set
import tiny_wan
from context_as_memory.cli.main import main
from context_as_memory.data.dataset import Video
from context_as_memory.data.precompute import ClipConfig, encode_clips
from context_as_memory.diffusion import FlowMatching
from context_as_memory.errors import UserError
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.training import recipes
from context_as_memory.training.denoiser import DenoiserTask
from context_as_memory.training.folders import Adaptation, start_network
from context_as_memory.training.recorded import RecordedVideos
from context_as_memory.training.trainer import Trainer
from context_as_memory.transformer import TransformerConfig, WorldTransformer
from context_as_memory.weights import from_pretrained
from context_as_memory.world import World

CPU = torch.device("cpu")
P, CONTEXT, SIGMA = 2, 5, 0.95  # targets of a chunk, context frames, noise at which errors are compared
DRAWN = 32  # batches that are drawn


# -- does memory help? -------------------------------------------------------------------------------------------------


def painted_video() -> Video:
    """One room, 420 frames through it: a latent every four frames, and the clips between them."""
    cameras = paper_set.path(420, 1, hfov_deg=90)
    clips = ClipConfig(latents=P, hop=1)
    parts = (paper_set.paint(cameras[first : first + 60]) for first in range(0, 420, 60))
    alone, found, starts = encode_clips(paper_set.colour_codec(), parts, 420, clips, CPU)
    # Each place in the picture by its own statistics: what is the same in all pictures is no news.
    alone, found = ((x - x.mean(0)) / (x.std(0) + 1e-3) for x in (alone.astype(np.float32), found.astype(np.float32)))
    return Video(cameras[::4], alone.astype(np.float16), found.astype(np.float16), starts, ("",) * len(starts))


class OneLevel(FlowMatching):
    """Training at one level of noise."""

    def training_sigmas(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.full((count,), SIGMA)


@pytest.mark.slow
def test_a_tiny_network_learns_to_look_into_its_memory(tmp_path):
    """Error on clips that it was never trained on, with memory and with the recent frame alone.

    Windows of four clips are held out, at a distance from those that are trained on. A run of 500 steps, 85 seconds on
    a busy core, had a share of .80 after 100 steps and of .73 at its end.
    """
    video = painted_video()
    assert video.clips is not None and video.starts is not None
    place = np.arange(len(video.starts)) % 30
    parts = [
        video._replace(clips=video.clips[rows], starts=video.starts[rows])
        for rows in (place < 22, (place > 23) & (place < 28))
    ]
    model = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        ffn_dim=256,
        num_layers=2,
        freq_dim=32,
    )
    recipe = recipes.denoiser_recipe("wan-tiny")
    train = replace(
        recipe.train, steps=160, batch_size=16, accumulate=1, optimizer="muon", learning_rate=4e-3, warmup_steps=20
    )
    recipe = replace(
        recipe,
        adaptation=None,
        model=model,
        flow=OneLevel(preconditioned=True),
        retrieval=RetrievalConfig(max_context=CONTEXT),
        context_slots=(CONTEXT,),
        chunk_latents=P,
        context_noise=0.1,
        sampling=replace(
            recipe.sampling,
            pool_frames=(90, 105),
            hidden_frames=(3, 3),
            causal=0.0,
            random_context=0.0,
            recent_only=0.3,
        ),
        train=replace(train, sample_every=1000, decay_fraction=0.1, ema_decay=0.9, checkpointing=False),
    )
    sources = [RecordedVideos([part], recipe.drawing, CPU) for part in parts]
    torch.manual_seed(0)
    task = DenoiserTask(recipe, sources[0], CPU)
    drawn = [sources[0].batch(step, 0) for step in range(DRAWN)]  # drawing takes longer than a step of this network
    task.batch = lambda step, _: drawn[step % DRAWN]
    trainer = Trainer(WorldTransformer(model), task, recipe.train, tmp_path)
    trainer.train()
    errors: dict[bool, list[float]] = {True: [], False: []}
    drawing = replace(sources[1].drawing, sampling=replace(recipe.sampling, recent_only=0.0))
    for number in range(8):
        batch = RecordedVideos([parts[1]], drawing, CPU).batch(number, 0)
        for remembers in errors:
            batch.inputs.context_mask[:, :, 1:] = remembers  # all slots are filled; the first is the recent frame
            with torch.no_grad():
                loss, _ = task.loss(trainer.model, batch, torch.Generator().manual_seed(number))
            errors[remembers].append(float(loss))
    assert np.mean(errors[False]) < 1.15, "the recent frame alone explains something"
    assert np.mean(errors[True]) <= 0.85 * np.mean(errors[False])


# -- from the zip to a walk --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A tiny public pipeline of random weights, in Wan 2.1's layout."""
    return tiny_wan.save_pipeline(tmp_path_factory.mktemp("backbone") / "wan", "t2v")


@pytest.fixture(scope="module")
def prepared(pipeline, tmp_path_factory) -> Path:
    """What a user has before training: an adapted model, episodes from the zip, and their latents."""
    root = tmp_path_factory.mktemp("way")
    paper = paper_set.write(root / "paper", 100, paper_set.VIDEOS[:4], width=32, height=32)
    archive = paper_set.zipped(paper, root / "paper.zip")
    shutil.rmtree(paper)
    run("adapt", "--backbone", pipeline, "--size", "32x32", "--chunk-latents", 2, "--steps", 2, "--out", root / "model")
    run("import", "paper", archive, "--out", root / "episodes", "--workers", 1)
    encode = ("--data", root / "episodes", "--weights", root / "model", "--cache", root / "latents", "--latents", 2)
    run("encode", *encode, "--shard", "1/2")
    run("encode", *encode, "--shard", "0/2")
    return root


def run(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0, words


def train(root: Path, out: str, *words: Any) -> list[dict[str, float]]:
    """`cam train denoiser`; returns the rows of its log."""
    places = ("--data", root / "episodes", "--cache", root / "latents", "--out", root / out)
    run("train", "denoiser", *places, *words)
    return [json.loads(line) for line in (root / out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_from_the_zip_to_a_falling_loss_and_a_walk(prepared):
    words = ("--recipe", "wan-tiny", "--init", prepared / "model", "--learning-rate", 5e-3, "--accumulate", 4)
    rows = train(prepared, "lora", *words, "--steps", 40)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-10:]) < 0.97 * np.mean(losses[:10])
    assert {"memory_psnr_db", "recent_only_psnr_db", "tokens_per_s"} <= set().union(*rows)
    world = World.from_pretrained(prepared / "lora" / "model", device="cpu", prompt="a room")
    assert world.config.chunk_latents == 2 and world.chunk_frames == 8
    cameras = paper_set.path(9, 5, 32, 32)
    world.reset(paper_set.paint(cameras[:1]), cameras[:1])
    assert [len(chunk.frames_u8) for chunk in world.rollout(cameras[1:])] == [8]
    files = {
        path.relative_to(prepared / "lora" / "model").as_posix() for path in (prepared / "lora").rglob("model/**/*")
    }
    assert "transformer/diffusion_pytorch_model.safetensors" not in files, "the backbone is referred to, not copied"
    start, now = (from_pretrained(prepared / name / "transformer").state_dict() for name in ("model", "lora/model"))
    change = {name: float((now[name] - start[name]).abs().max()) for name in start}
    assert change["blocks.0.attn1.to_q.weight"] > 0 and change["blocks.0.attn1.camera_heads.to_out.0.weight"] > 0
    assert change["blocks.0.scale_shift_table"] == 0, "frozen"


@pytest.mark.slow
def test_full_training_and_few_steps_end_in_models_too(prepared, capsys):
    rows = train(prepared, "full", "--recipe", "wan-full", "--init", prepared / "model", *SMALL)
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    full = World.from_pretrained(prepared / "full" / "model", device="cpu", prompt="")
    assert full.config.num_steps == 20 and full.config.guidance == 5.0
    run("adapt", "--merge", "--backbone", prepared / "full" / "model", "--out", prepared / "merged")
    rows = train(prepared, "swift", "--recipe", "wan-swift", "--init", prepared / "merged", *SMALL)
    swift = World.from_pretrained(prepared / "swift" / "model", device="cpu", prompt="")
    assert (swift.config.num_steps, swift.config.guidance, swift.config.multistep) == (4, 1.0, False)
    assert main(["train", "denoiser", "--recipe", "wan-lora", "--data", "x", "--cache", "y", "--out", "z"]) == 2
    assert "--init" in capsys.readouterr().err


SMALL = ("--steps", 2, "--accumulate", 1, "--device", "cpu", "--seed", 3)


def test_matrices_that_were_not_merged_are_named(pipeline, tmp_path):
    model = tiny_wan.adapted(pipeline, tmp_path / "model", "t2v")
    network = start_network(model, Adaptation(rank=2), torch.bfloat16)
    trained = {name: p.dtype for name, p in network.named_parameters() if p.requires_grad}
    assert {"lora_" in name or "camera_heads" in name or "pixel" in name for name in trained} == {True}
    assert set(trained.values()) == {torch.float32}
    frozen = {p.dtype for p in network.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    every = start_network(model, Adaptation(rank=0), torch.bfloat16)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in every.parameters())
    (model / "transformer" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cam adapt --merge"):
        start_network(model, Adaptation(), torch.float32)
