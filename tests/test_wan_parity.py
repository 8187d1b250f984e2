"""Stock weights of Wan in our network, camera heads and a whole pipeline beside diffusers, on tiny random weights."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
import tiny_wan
from context_as_memory.adapters.shards import shapes_of
from context_as_memory.adapters.wan import from_diffusers_config
from context_as_memory.diffusion import FlowMatching
from context_as_memory.retrieval import Retrieval
from context_as_memory.tokens import TokenLayout, build_model_inputs
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import from_pretrained
from context_as_memory.world import World

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=tiny_wan.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def stock(kind):
    return tiny_wan.transformer(kind)


@pytest.fixture(scope="module")
def adapted(kind, pipelines, tmp_path_factory):
    return tiny_wan.adapted(pipelines[kind], tmp_path_factory.mktemp("adapted") / kind, kind)


def inputs(kind: str, frames: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random latents [B, C, F, 4, 4] and words [B, 5, D]."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, tiny_wan.CHANNELS[kind], frames, 4, 4, generator=generator)
    return latents, torch.randn(batch, 5, tiny_wan.TEXT_DIM, generator=generator)


def walk_inputs(targets: int, context: list[int]) -> Any:
    """Inputs of one chunk with these frames of a walk as its context."""
    cameras, count = tiny.walk(40), len(context)
    found = Retrieval(np.array(context), np.zeros(count), np.array(context))
    built = build_model_inputs(TokenLayout(num_targets=targets), cameras, cameras[20 : 20 + targets], found)
    return replace(built, context_index=torch.arange(count).view(1, 1, -1))


@pytest.mark.parametrize("times", ["one", "per frame"])
def test_stock_weights_predict_what_they_predict_in_diffusers(kind, stock, pipelines, times):
    ours = from_pretrained(pipelines[kind] / "transformer")
    x, words = inputs(kind, 3)
    t = torch.tensor([[0.0, 100.0, 700.0], [999.0, 3.0, 50.0]])
    theirs = t[:, 1] if times == "one" else t.repeat_interleave(4, dim=1)
    expected = stock(x, theirs, words).sample
    got = ours(x, t[:, 1] if times == "one" else t, words)
    assert expected.abs().max() > 0.1
    assert (got - expected).abs().max() <= 1e-4


def test_bf16_is_as_exact_as_in_diffusers(kind, stock, pipelines):
    """Not worse than 1.2 times diffusers' own error of bf16."""
    x, words = inputs(kind, 3)
    t = torch.tensor([500.0, 20.0])
    half = copy.deepcopy(stock).to(torch.bfloat16)
    for name, part in half.named_modules():  # which diffusers keeps in fp32 when it loads as bf16
        if any(exact in name for exact in half._keep_in_fp32_modules):
            part.float()
        if getattr(part, "scale_shift_table", None) is not None:
            part.scale_shift_table.data = part.scale_shift_table.data.float()
    ours = from_pretrained(pipelines[kind] / "transformer", dtype=torch.bfloat16)
    exact = stock(x, t, words).sample
    theirs = half(x.bfloat16(), t, words.bfloat16()).sample.float()
    got = ours(x.bfloat16(), t, words.bfloat16()).float()
    assert (got - exact).norm() <= 1e-2 * exact.norm()
    assert (got - exact).norm() <= 1.2 * (theirs - exact).norm()


def test_every_tensor_of_the_public_weights_has_its_place(kind):
    from diffusers import WanTransformer3DModel

    config = {"text_dim": 4096, "attention_head_dim": 128, **tiny_wan.REAL[kind]}
    with torch.device("meta"):
        theirs, ours = WanTransformer3DModel(**config), WorldTransformer(from_diffusers_config(config))
    assert shapes_of(ours) == shapes_of(theirs)
    assert len(shapes_of(ours)) == 825


@pytest.mark.parametrize("mode", ["joint", "cached", "per_frame"])
def test_camera_heads_begin_as_the_stock_model(kind, stock, adapted, mode):
    """With cameras and a context, the network is the stock one in the same mode; in `joint` that is diffusers'."""
    ours = from_pretrained(adapted / "transformer")
    assert ours.config.camera_heads == 1
    plain = WorldTransformer(from_diffusers_config(dict(stock.config), context_mode=mode)).eval()
    plain.load_state_dict(stock.state_dict())
    heads = WorldTransformer(replace(ours.config, context_mode=mode)).eval()
    heads.load_state_dict(ours.state_dict())
    x, words = inputs(kind, 3, batch=1)
    noisy, clean, t = x[:, :, 1:], x[:, :, :1], torch.tensor([500.0])
    expected, got = (model.predict(noisy, t, clean, walk_inputs(2, [3]), words) for model in (plain, heads))
    assert (got - expected).abs().max() <= 1e-5
    if mode == "joint":
        times = torch.tensor([[0.0, 500.0, 500.0]]).repeat_interleave(4, dim=1)
        theirs = stock(torch.cat((clean, noisy), dim=2), times, words).sample[:, :, 1:]
        assert (got - theirs).abs().max() <= 1e-5


def test_trained_camera_heads_see_cameras_and_keep_keys_of_frames_alone(kind, adapted):
    ours = from_pretrained(adapted / "transformer")
    for block in ours.blocks:
        torch.nn.init.normal_(block.attn1.camera_heads.to_out[0].weight, std=0.1)
    x, words = inputs(kind, 4, batch=1)
    noisy, clean, t = x[:, :, 2:], x[:, :, :2], torch.tensor([500.0])
    one, other = (ours.predict(noisy, t, clean, walk_inputs(2, [3, 7 + k]), words) for k in (0, 1))
    assert (one - other).abs().max() > 1e-4
    together, alone = ours.encode_context(clean, text=words), ours.encode_context(clean[:, :, 1:], text=words)
    for (k, v), (one_k, one_v) in zip(together, alone, strict=True):
        assert k.shape[-2] == tiny_wan.HEADS + 1
        assert max((k[:, 1] - one_k[:, 0]).abs().max(), (v[:, 1] - one_v[:, 0]).abs().max()) <= 1e-5


@pytest.mark.parametrize("mode", ["joint", "cached", "per_frame"])
def test_blocks_that_are_computed_again_have_the_same_gradients(kind, adapted, mode):
    ours = from_pretrained(adapted / "transformer")
    model = WorldTransformer(replace(ours.config, context_mode=mode))
    model.load_state_dict(ours.state_dict())
    x, words = inputs(kind, 4, batch=1)
    found = []
    for again in (False, True):
        model.checkpointing = again
        model.zero_grad()
        with torch.enable_grad():
            predicted = model.predict(x[:, :, 2:], torch.tensor([500.0]), x[:, :, :2], walk_inputs(2, [3, 7]), words)
            predicted.square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 60
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_whole_pipeline_makes_the_same_pictures(pipelines, tmp_path):
    """Picture, prompt and guidance through `WanImageToVideoPipeline`, and through `World.step`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
    from PIL import Image

    folder = tiny_wan.adapted(pipelines["ti2v"], tmp_path / "model", "ti2v", camera="none", steps=4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipeline = WanImageToVideoPipeline.from_pretrained(pipelines["ti2v"], scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)

    class Theirs(FlowMatching):
        def sampling_sigmas(self, steps: int) -> torch.Tensor:
            scheduler.set_timesteps(steps)
            return scheduler.sigmas

    width, height = tiny_wan.SIZE["ti2v"]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    world = World.from_pretrained(folder, device="cpu", flow=Theirs(), multistep=False, engine="plain")
    world.prompt = "an old temple"
    decoded = []
    decode = world.engine.pictures.decode
    world.engine.pictures.decode = lambda recent, latents: decoded.append(latents) or decode(recent, latents)
    chunk = world.start(picture).step(tiny.walk(17).resized(width, height)[1:])

    noise = torch.randn(1, 48, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    start = torch.cat((torch.zeros(1, 48, 1, 4, 4), noise), dim=2)
    asked = {"height": height, "width": width, "num_frames": 17, "num_inference_steps": 4, "guidance_scale": 5.0}
    asked |= {"image": Image.fromarray(picture), "prompt": "an old temple", "negative_prompt": ""}
    latents = pipeline(**asked, latents=start.clone(), output_type="latent").frames
    frames = pipeline(**asked, latents=start.clone(), output_type="np").frames[0]
    assert latents.std() > 0.3 and frames.std() > 0.02
    assert (decoded[0] - latents[:, :, 1:]).abs().max() <= 1e-4
    assert np.abs(chunk.frames_u8 / 255 - frames[1:]).max() <= 0.6 / 255
