"""The tiny decoder: public layouts, parity, streams without a seam, files, and a walk with it.

`tiny_decoder.npz` holds what TAEHV's own module answered, once, on a CPU in fp32: for `latents` and the weights of
`state` in both layouts, with narrower levels. Its decoder (taehv.py at 115aaa7: the layers, the pass that is parallel
in time, and `decode_video`) was written out by hand for that, with the widths as an argument; it was not run as it is
published, and no public weights were loaded.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d

import published
import tiny
import tiny_wan
from context_as_memory.adapters.shards import shapes_of
from context_as_memory.adapters.tiny_decoder import (
    TinyDecoded,
    TinyDecoder,
    TinyDecoderConfig,
    open_tiny_decoder,
    sizes_of,
)
from context_as_memory.cli.adapt import Adapt, adapt
from context_as_memory.compute import fast
from context_as_memory.errors import UserError
from context_as_memory.formats.video import to_video
from context_as_memory.training.folders import Adaptation, export_adapted, start_network
from context_as_memory.weights import fingerprint, open_codec
from context_as_memory.world import World

LAYOUTS = {"taew2_1": (16, 1), "taew2_2": (48, 2)}  # channels of latents, side of a patch
REAL, NARROW = (256, 128, 64, 64), (16, 12, 8, 8)  # widths
MEMORY, ENLARGE, GROW = (3, 4, 5, 9, 10, 11, 15, 16, 17), (6, 12, 18), {7: 1, 13: 2, 19: 2}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def table(layout: str, widths: tuple[int, ...] = REAL) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the decoder's tensors in a public file, written down layer by layer."""
    channels, patch = LAYOUTS[layout]
    found: dict[str, tuple[int, ...]] = {"decoder.1.weight": (widths[0], channels, 3, 3), "decoder.1.bias": widths[:1]}
    for layer in MEMORY:
        width = widths[layer // 6]
        for place, inputs in ((0, 2 * width), (2, width), (4, width)):
            found[f"decoder.{layer}.conv.{place}.weight"] = (width, inputs, 3, 3)
            found[f"decoder.{layer}.conv.{place}.bias"] = (width,)
    for layer, frames in GROW.items():
        width = widths[layer // 6 - 1]
        found[f"decoder.{layer}.conv.weight"] = (frames * width, width, 1, 1)
        found[f"decoder.{layer + 1}.weight"] = (widths[layer // 6], width, 3, 3)
    return found | {"decoder.22.weight": (3 * patch**2, widths[-1], 3, 3), "decoder.22.bias": (3 * patch**2,)}


def state(layout: str) -> dict[str, torch.Tensor]:
    """Numbers that follow from the names; the last layer's keep pictures within their range."""
    tensors = {name: published.draw(name, shape) for name, shape in table(layout, NARROW).items()}
    tensors["decoder.22.bias"] += 0.5
    tensors["decoder.22.weight"] *= 0.5
    return tensors


def network(layout: str) -> TinyDecoder:
    tensors = state(layout)
    decoder = TinyDecoder(sizes_of({name: tuple(value.shape) for name, value in tensors.items()}, Path()))
    decoder.load_state_dict(tensors)
    return decoder.eval()


def latents(layout: str, batch: int, frames: int, height: int, width: int) -> torch.Tensor:
    shape = (batch, LAYOUTS[layout][0], frames, height, width)
    return 1.2 * torch.randn(shape, generator=torch.Generator().manual_seed(7))


def save(folder: Path, layout: str, suffix: str = ".pth", **changes: Any) -> Path:
    """A file as it is published, the encoder's tensors among the others; None takes one out."""
    tensors: dict[str, Any] = state(layout) | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)} | changes
    tensors = {name: value for name, value in tensors.items() if value is not None}
    path = folder / f"{layout}{suffix}"
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    return path


def slowly(tensors: dict[str, torch.Tensor], given: torch.Tensor) -> torch.Tensor:
    """The definition: one frame after the other through one layer after the other, and what each memory block saw."""
    seen: dict[int, torch.Tensor] = {}

    def convolved(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=padding)

    def through(layer: int, x: torch.Tensor) -> list[torch.Tensor]:
        if layer == 23:
            return [x]
        name = f"decoder.{layer}"
        if layer in GROW:
            frames = convolved(x, f"{name}.conv", padding=0).chunk(GROW[layer], dim=1)
            return [made for frame in frames for made in through(layer + 1, frame)]
        if layer == 0:
            x = 3 * torch.tanh(x / 3)
        elif layer in (2, 21):
            x = x.relu()
        elif layer in ENLARGE:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        elif layer in MEMORY:
            before, seen[layer] = seen.get(layer, torch.zeros_like(x)), x
            y = torch.cat([x, before], dim=1)
            for place in (0, 2):
                y = convolved(y, f"{name}.conv.{place}").relu()
            x = (convolved(y, f"{name}.conv.4") + x).relu()
        else:
            x = convolved(x, name)
        return through(layer + 1, x)

    frames = torch.stack([frame for latent in given.unbind(2) for frame in through(0, latent)][3:], dim=2)
    side = round((frames.shape[1] / 3) ** 0.5)
    pictures = torch.zeros(len(given), 3, frames.shape[2], frames.shape[3] * side, frames.shape[4] * side)
    for row in range(side):
        for column in range(side):
            pictures[..., row::side, column::side] = frames[:, row * side + column :: side**2]
    return 2 * pictures.clamp(0, 1) - 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_those_of_the_public_files(layout):
    public = table(layout)
    assert len(public) == 64
    assert sum(int(np.prod(shape)) for shape in public.values()) == {"taew2_1": 9844611, "taew2_2": 9923532}[layout]
    channels, patch = LAYOUTS[layout]
    sizes = sizes_of(public, Path())
    assert sizes == TinyDecoderConfig(latent_channels=channels, patch_size=patch)
    with torch.device("meta"):
        decoder = TinyDecoder(sizes)
    assert shapes_of(decoder) == public
    assert (decoder.temporal_factor, decoder.spatial_factor) == (4, 8 * patch)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_makes_what_the_definition_makes(layout):
    given = latents(layout, 2, 3, 2, 3)
    pictures, _ = network(layout).decode_next(given)
    assert pictures.shape == (2, 3, 9, 16 * LAYOUTS[layout][1], 24 * LAYOUTS[layout][1])
    assert pictures.abs().max() <= 1 and pictures.std() > 0.1
    torch.testing.assert_close(pictures, slowly(state(layout), given), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layout", "width"), [("taew2_1", 2), ("taew2_2", 1)])
def test_it_makes_what_the_public_module_makes(layout, width):
    channels = LAYOUTS[layout][0]
    given = published.draw("latents of " + layout, (1, 3, channels, 1, width)) * 2 * (channels * width) ** 0.5
    with np.load(Path(__file__).with_name("tiny_decoder.npz")) as file:
        theirs = torch.from_numpy(file[layout])  # [1, T, 3, H, W] in 0..1
    pictures, _ = network(layout).decode_next(given.transpose(1, 2))
    torch.testing.assert_close(pictures, 2 * theirs.transpose(1, 2) - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stream_has_no_seam(layout):
    decoder, given = network(layout), latents(layout, 2, 5, 1, 2)
    whole, end = decoder.decode_next(given)
    first, cache = decoder.decode_next(given[:, :, :2])
    kept = [part.clone() for part in cache.before]
    middle, later = decoder.decode_next(given[:, :, 2:4], cache)
    last, _ = decoder.decode_next(given[:, :, 4:], later)
    assert [part.shape[2] for part in (first, middle, last)] == [5, 8, 4]
    assert torch.equal(torch.cat([first, middle, last], dim=2), whole)
    assert all(torch.equal(a, b) for a, b in zip(cache.before, kept, strict=True))  # a branch may start there again
    assert len(end.before) == 9
    assert not torch.allclose(decoder.decode_next(given[:, :, 2:4])[0][:, :, -4:], middle[:, :, -4:])


def test_a_stream_keeps_its_size():
    decoder = network("taew2_1")
    _, cache = decoder.decode_next(latents("taew2_1", 1, 1, 1, 2))
    with pytest.raises(UserError, match=r"latents of \(B, h, w\) = \(1, 1, 2\), not \(1, 2, 2\)"):
        decoder.decode_next(latents("taew2_1", 1, 1, 2, 2), cache)
    with pytest.raises(UserError, match=r"latents must be \[B,16,n,h,w\] with n >= 1, not \[1, 48, 1, 1, 2\]"):
        decoder.decode_next(latents("taew2_2", 1, 1, 1, 2))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_open_without_their_encoder(suffix, tmp_path):
    halves = {name: value.half() for name, value in state("taew2_2").items()}
    decoder = open_tiny_decoder(save(tmp_path, "taew2_2", suffix, **halves))
    assert decoder.config == TinyDecoderConfig(latent_channels=48, patch_size=2, widths=NARROW)
    assert decoder.state_dict().keys() == halves.keys()
    assert all(torch.equal(value, halves[name]) for name, value in decoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decoder.13.conv.weight": None}, r"decoder.13.conv.weight is not there"),
        ({"decoder.10.conv.2.bias": None}, r"decoder.10.conv.2.bias is not there, it should be \(12,\)"),
        ({"decoder.9.skip.weight": torch.zeros(2)}, r"decoder.9.skip.weight is \(2,\), it should be not there"),
        ({"model.patch": torch.zeros(2)}, r"model.patch is \(2,\), it should be not there"),
        ({"decoder.20.weight": torch.zeros(0, 8, 3, 3)}, r"decoder.20.weight is \(0, 8, 3, 3\)"),
        ({"decoder.22.bias": torch.zeros(4)}, r"decoder.22.bias is \(4,\), it should be \(3,\)"),
        ({"decoder.19.conv.weight": torch.zeros(20, 8, 1, 1)}, r"conv.weight is \(20, 8, 1, 1\), it should be \(16"),
        ({"decoder.1.bias": torch.full((16,), torch.nan)}, r"decoder.1.bias has values that are not finite"),
    ],
)
def test_files_of_another_network_are_refused(changes, told, tmp_path):
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(UserError, match=told) as caught:
            open_tiny_decoder(save(tmp_path, "taew2_1", suffix, **changes))
        assert f"taew2_1{suffix}" in str(caught.value)


def test_files_that_are_missing_damaged_or_would_run_something_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no file; give TAEHV's taew2_1"):
        open_tiny_decoder(tmp_path / "nowhere.pth")
    for suffix in (".pth", ".safetensors"):
        path = save(tmp_path, "taew2_1", suffix)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"taew2_1\.(pth|safetensors) (cannot be read|is damaged)"):
            open_tiny_decoder(path)
    torch.save({"decoder.1.weight": Path("x")}, tmp_path / "more.pth")
    with pytest.raises(UserError, match="holds more than tensors, and is not run"):
        open_tiny_decoder(tmp_path / "more.pth")


# -- in a model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(pipelines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    file = save(folder, "taew2_2")
    return tiny_wan.adapted(pipelines["ti2v"], folder / "model", "ti2v", decoder=file, chunk_latents=2, steps=1)


def test_a_model_walks_with_it_and_remembers_its_pictures(model, pipelines, own_cache):
    world = World.from_pretrained(model, device="cpu", guidance=1.0)
    assert isinstance(world.codec, TinyDecoded)
    cameras = tiny.walk(13).resized(64, 64)
    world.reset(np.tile(tiny.pictures(1), (1, 4, 2, 1)), cameras[:1])
    shown = [chunk.frames_u8 for chunk in world.rollout(cameras[1:])]
    assert [len(frames) for frames in shown] == [8, 4]
    full = open_codec(pipelines["ti2v"] / "vae")
    for number, frame in ((1, shown[0][0]), (12, shown[1][-1])):
        alone = full.encode_frames(to_video(frame[None]))[0]
        torch.testing.assert_close(world.bank.latents(np.array([number])), alone, atol=2e-2, rtol=0)  # kept in 16 bits


def test_a_chunk_goes_on_from_the_recent_frame(model, own_cache):
    """The stream of a chunk begins with the latent of the recent frame, whose own picture is not shown again."""
    world = World.from_pretrained(model, device="cpu")
    recent, following = latents("taew2_2", 1, 1, 4, 4), latents("taew2_2", 1, 2, 4, 4)
    made = world.engine.pictures.decode(recent[0], following)
    wanted = slowly(state("taew2_2"), torch.cat([recent, following], dim=2))[0, :, 1:]
    difference = (wanted.permute(1, 2, 3, 0).numpy() + 1) * 127.5 - made
    assert made.shape == (8, 64, 64, 3) and np.abs(difference).max() < 0.51


def test_it_stays_with_the_model(model, pipelines, tmp_path, own_cache):
    """Merged, trained further, and told from the model without it."""
    adapt(Adapt(backbone=str(model), out=tmp_path / "whole", merge=True))
    network = start_network(model, Adaptation(rank=1), torch.float32)
    trained = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}
    export_adapted(network, trained, {}, model, tmp_path / "trained")
    own = (model / "decoder" / "diffusion_pytorch_model.safetensors").read_bytes()
    for folder in (tmp_path / "whole", tmp_path / "trained"):
        assert (folder / "decoder" / "diffusion_pytorch_model.safetensors").read_bytes() == own
    plain = shutil.copytree(model, tmp_path / "plain")
    shutil.rmtree(plain / "decoder")
    assert fingerprint(plain) != fingerprint(model)


def test_only_decoders_of_the_same_latents_are_taken(pipelines, tmp_path, own_cache):
    file = save(tmp_path, "taew2_1")
    with pytest.raises(UserError, match=r"for latents of 16 channels, 8 times smaller .* this model has 48, 16 and"):
        tiny_wan.adapted(pipelines["ti2v"], tmp_path / "out", "ti2v", decoder=file)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is made for latents of 16 channels"):
        TinyDecoded(open_codec(pipelines["ti2v"] / "vae"), network("taew2_1"))


def test_in_a_fast_number_format_the_encoder_stays_exact(pipelines):
    codec = TinyDecoded(open_codec(pipelines["ti2v"] / "vae"), network("taew2_2"))
    fast(codec, torch.device("cpu"), torch.bfloat16)
    kinds = [next(part.parameters()).dtype for part in (codec.codec.vae.encoder, codec.decoder)]
    assert kinds == [torch.float32, torch.bfloat16]
    assert codec.decode_next(latents("taew2_2", 1, 1, 1, 1))[0].dtype == torch.bfloat16
