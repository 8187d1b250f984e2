"""Weights and settings from strangers: nothing is allocated, kept or shown that they do not bear out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from context_as_memory import engine
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.engine import open_engine
from context_as_memory.errors import UserError
from context_as_memory.formats.settings import build_config
from context_as_memory.formats.video import to_frames
from context_as_memory.weights import WEIGHTS_FILE, from_pretrained, load_weights, save_pretrained
from context_as_memory.world import World, WorldConfig

FAST = pytest.param("openvino", marks=pytest.mark.skipif(not engine._installed(), reason="needs openvino"))


def _copied(weights: Path, folder: Path) -> Path:
    shutil.copytree(weights, folder)
    return folder


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("transformer", {"ffn_dim": 10**7}),
        ("transformer", {"num_attention_heads": 10**6}),
        ("transformer", {"num_attention_heads": 1000}),
        ("transformer", {"num_layers": 100_000}),
        ("transformer", {"num_layers": 10**12}),
        ("transformer", {"freq_dim": 10**9}),
        ("transformer", {"in_channels": 10**9}),
        ("transformer", {"attention_head_dim": 8 * 10**8}),
        ("transformer", {"attention_head_dim": 0}),
        ("transformer", {"num_layers": -1}),
        ("transformer", {"patch_size": [1, 10**6, 10**6]}),
        ("transformer", {"text_dim": 10**9}),
        ("vae", {"encoder_blocks": [10**6] * 3}),
        ("vae", {"encoder_widths": [10**6] * 3}),
        ("vae", {"latent_channels": 10**9}),
        ("vae", {"stem": 10**6}),
        ("vae", {"stem": 0}),
        ("vae", {"encoder_widths": [8] * 10_000, "decoder_widths": [8] * 10_000, "encoder_blocks": [0] * 10_000}),
    ],
)
def test_settings_ask_for_no_more_than_the_weights_hold(weights, tmp_path, monkeypatch, part, changes):
    """The header of the weights says how large the network is; what says more is refused before it is built."""
    folder = _copied(weights / part, tmp_path / part)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))
    monkeypatch.setattr(torch.nn.Module, "to", _must_not_be_reached)
    with pytest.raises(UserError, match=r"weights|autoencoder|config"):
        from_pretrained(folder)


def _must_not_be_reached(*_):
    raise AssertionError("it was built")


def test_weights_are_read_as_before(weights):
    for part in ("transformer", "vae"):
        state = load_file(weights / part / WEIGHTS_FILE)
        found = from_pretrained(weights / part).state_dict()
        assert set(found) == set(state) and all(torch.equal(found[key], state[key].float()) for key in state)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_steps": 10**9},
        {"num_steps": 0},
        {"num_steps": "4"},
        {"num_steps": 4.5},
        {"num_steps": True},
        {"chunk_latents": 10**6},
        {"width": -5},
        {"width": None},
        {"memory_noise": float("nan")},
        {"memory_noise": float("inf")},
        {"memory_noise": 1e30},
        {"memory_noise": -0.1},
        {"seed": 1e400},
        {"seed": 2**70},
        {"retrieval": []},
        {"retrieval": {"max_context": 10**9}},
        {"retrieval": {"coverage": {"min_gain": float("nan")}}},
        {"flow": "none"},
        {"unknown": 1},
    ],
)
def test_settings_are_of_their_type_and_within_reason(changes):
    with pytest.raises(UserError, match=r"^the file: .*"):
        build_config(WorldConfig, changes, "the file")


@pytest.mark.parametrize("values", [[], None, 3, "text"])
def test_settings_that_are_no_object_are_named(values):
    with pytest.raises(UserError, match="is no set of settings"):
        build_config(WorldConfig, values, "the file")


def test_settings_of_the_shipped_kind_are_taken():
    config = WorldConfig(memory_noise=0.1, num_steps=7)
    text = json.dumps({"memory_noise": 0.1, "num_steps": 7, "flow": {}, "retrieval": {"max_context": 8}})
    assert build_config(WorldConfig, json.loads(text), "here") == replace(config, retrieval=config.retrieval)


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_settings_that_are_nested_without_end_are_one_error(weights, tmp_path, nested):
    folder = _copied(weights, tmp_path / "weights")
    (folder / "model.json").write_text(nested)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        World.from_pretrained(folder)


# -- what is not finite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_that_are_not_finite_are_neither_read_nor_written(weights, tmp_path, part, value):
    folder = _copied(weights / part, tmp_path / part)
    state = load_file(folder / WEIGHTS_FILE)
    key = sorted(state)[-1]
    state[key].view(-1)[0] = value
    save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match=f"{key} has values that are not finite"):
        from_pretrained(folder)
    model = from_pretrained(weights / part)
    with pytest.raises(UserError, match="not finite"):
        load_weights(model, state, "here")
    before = (weights / part / WEIGHTS_FILE).read_bytes()
    own = _copied(weights / part, tmp_path / "own")
    with pytest.raises(UserError, match=f"{key} has values that are not finite"):
        save_pretrained(model, own, state=state)
    assert (own / WEIGHTS_FILE).read_bytes() == before


@pytest.mark.parametrize("name", ["plain", "torch", FAST])
@pytest.mark.parametrize("where", ["denoiser", "decoder", "encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_raises_and_nothing_is_kept(name, where, value):
    """One weight that is not a number, in each network in turn; then the walk goes on from the last good chunk."""
    model, codec = tiny.model(), tiny.codec()
    world = tiny.world(networks=(model, codec), engine=name)
    cameras = tiny.walk(9)
    world.reset(tiny.pictures(1), cameras[:1])
    before = world.step(cameras[1:3])
    part = {"denoiser": model, "decoder": codec.decoder, "encoder": codec.encoder}[where]
    weight = list(part.parameters())[-1]
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] = value
    broken = tiny.world(networks=(model, codec), engine=name)
    broken.bank, broken.steps = world.bank, world.steps
    with pytest.raises(UserError, match="not finite"):
        broken.step(cameras[3:5])
    assert len(broken.bank) == 3 and broken.steps == 1
    with torch.no_grad():
        weight.copy_(kept)
    other = tiny.world(networks=(model, codec), engine=name)
    other.bank, other.steps = world.bank, world.steps
    assert len(other.step(cameras[3:5]).frames_u8) == len(before.frames_u8) and len(other.bank) == 5


def test_pictures_that_are_not_finite_are_no_frames():
    video = torch.zeros(1, 3, 2, 4, 4)
    for value in (float("nan"), float("inf")):
        video[0, 1, 1, 2, 2] = value
        with pytest.raises(UserError, match="not finite"):
            to_frames(video)


def test_start_frames_with_latents_that_are_not_finite_leave_the_world_as_it_was():
    codec = tiny.codec()
    assert isinstance(codec, ImageAutoencoder)
    with torch.no_grad():
        codec.latent_std.zero_()
    world = tiny.world(networks=(tiny.model(), codec))
    with pytest.raises(UserError, match="not finite"):
        world.reset(tiny.pictures(1), tiny.walk(1))
    assert len(world.bank) == 0
    pictures = open_engine(tiny.model(), tiny.codec(), "plain", torch.device("cpu")).pictures
    assert bool(pictures.encode(tiny.pictures(1)).isfinite().all())


# -- weights in several files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "sub/../../outside.safetensors", "..", ""]
)
def test_an_index_of_weights_leads_nowhere_else(weights, tmp_path, name):
    folder = _copied(weights / "transformer", tmp_path / "transformer")
    state = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).rename(tmp_path / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(state, name)}
    (folder / f"{WEIGHTS_FILE}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not in its folder"):
        from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"weight_map": 5}', '{"weight_map": ' + "[" * 100_000])
def test_an_index_that_is_none_is_one_sentence(weights, tmp_path, content):
    folder = _copied(weights / "transformer", tmp_path / "transformer")
    (folder / f"{WEIGHTS_FILE}.index.json").write_text(content)
    with pytest.raises(UserError, match="no index of weights"):
        from_pretrained(folder)


@pytest.mark.parametrize("head", [2**62, 2**40, 10, 0, 101 * 2**20])
def test_a_header_that_says_more_than_the_file_holds_is_damage(weights, tmp_path, head):
    folder = _copied(weights / "transformer", tmp_path / "transformer")
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(head.to_bytes(8, "little") + data[8:])
    with pytest.raises(UserError, match="damaged"):
        from_pretrained(folder)
