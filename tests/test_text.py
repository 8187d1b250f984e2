"""Prompts as rows of numbers: as diffusers' pipeline makes them, from a file, and without an encoder."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tiny_wan
from context_as_memory.adapters import text
from context_as_memory.adapters.text import FILE, Words, clean, key_of, open_words, pad, read_rows
from context_as_memory.errors import UserError
from context_as_memory.storage import create_world, open_world
from context_as_memory.world import World

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")
PROMPTS = ("", "an old temple", "  an &amp;quot;old&amp;quot;\n temple xyz ", "stone " * 600)


@pytest.fixture(scope="module")
def pipeline(pipelines):
    from diffusers import WanPipeline

    return WanPipeline.from_pretrained(pipelines["t2v"])


@pytest.mark.parametrize("prompt", PROMPTS, ids=["empty", "plain", "to be cleaned", "too long"])
def test_rows_are_those_of_the_pipeline(pipelines, pipeline, prompt):
    expected, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    got = open_words(pipelines["t2v"], None, tiny_wan.TEXT_DIM)(prompt)
    assert got.shape == (1, 512, tiny_wan.TEXT_DIM)
    assert (got - expected).abs().max() <= 5e-5  # of about 1; lengths differ, and with them the order of sums


@torch.no_grad()
def test_zeros_after_the_prompt_are_part_of_it(pipelines):
    """The network attends to them, so leaving them out changes what it predicts."""
    from context_as_memory.weights import from_pretrained

    model = from_pretrained(pipelines["t2v"] / "transformer")
    rows = open_words(pipelines["t2v"], None, tiny_wan.TEXT_DIM).rows("an old temple")
    x, t = torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0])
    whole, bare = model(x, t, pad(rows)[None]), model(x, t, rows[None])
    assert (whole - bare).abs().max() > 0.01 * whole.abs().max()


def test_the_encoder_is_asked_once_a_prompt_and_rows_are_kept(pipelines, own_cache, monkeypatch):
    asked = []
    made = text.encode
    monkeypatch.setattr(text, "encode", lambda base, prompt: asked.append(prompt) or made(base, prompt))
    words = open_words(pipelines["t2v"], None, tiny_wan.TEXT_DIM)
    first = words("red  stone")
    assert torch.equal(words("red stone"), first) and asked == ["red stone"]
    again = open_words(pipelines["t2v"], None, tiny_wan.TEXT_DIM)
    assert torch.equal(again("red stone"), first) and asked == ["red stone"]
    assert len(list((own_cache / "words").glob("*.safetensors"))) == 1
    other = open_words(shutil.copytree(pipelines["t2v"], own_cache.parent / "other"), None, tiny_wan.TEXT_DIM)
    file = other.base / "text_encoder" / "model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert not torch.equal(other("red stone"), first)  # another encoder has other rows


def test_rows_from_a_file_need_no_encoder(pipelines, tmp_path):
    words = open_words(pipelines["t2v"], None, tiny_wan.TEXT_DIM)
    words.save(tmp_path / FILE, ("", "a room"))
    known, prompts = read_rows(tmp_path / FILE)
    assert set(known) == {key_of(""), key_of("a room")} and set(prompts) == {"", "a room"}
    alone = open_words(tmp_path, None, tiny_wan.TEXT_DIM)
    assert torch.equal(alone(" a  room "), words("a room"))
    assert alone.knows("a room") and not alone.knows("a temple")
    with pytest.raises(UserError, match="'a temple' cannot be read: text_encoder.* it knows '', 'a room'"):
        alone("a temple")


def test_cleaning_is_that_of_diffusers():
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for prompt in (*PROMPTS, "na\u00c3\u00afve \u201cstone\u201d &lt;b&gt;"):
        assert clean(prompt) == prompt_clean(prompt)


def damage(folder, **changes):
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config | changes))


def zeros(folder):
    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    save_file({k: v * (0 if "shared" in k or "embed" in k else 1) for k, v in state.items()}, file, {"format": "pt"})


def no_layer(folder):
    file = folder / "text_encoder" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "block.1" not in k}, file, {"format": "pt"})


BROKEN = {
    "zeros": (zeros, "was read as zeros"),
    "a layer is missing": (no_layer, "lack encoder.block.1"),
    "other sizes": (lambda f: damage(f, d_ff=128), "cannot be loaded|lack"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "cannot be loaded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_encoders_are_refused(pipelines, tmp_path, name):
    break_it, match = BROKEN[name]
    folder = shutil.copytree(pipelines["t2v"], tmp_path / "pipeline")
    break_it(folder)
    with pytest.raises(UserError, match=match):
        open_words(folder, None, tiny_wan.TEXT_DIM)("an old temple")


def test_an_encoder_of_another_model_is_refused(pipelines):
    with pytest.raises(UserError, match="gives rows of 32, these weights take 4096"):
        Words(pipelines["t2v"], {}, 4096)("an old temple")


# -- in a world ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(pipelines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "model"
    return tiny_wan.adapted(pipelines["ti2v"], folder, "ti2v", chunk_latents=1, steps=2)


def begun(model, **changes):
    world = World.from_pretrained(model, device="cpu", engine="plain", **changes)
    return world.start(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_a_prompt_changes_pictures_at_the_next_chunk_and_is_noted(model):
    told, untold = begun(model), begun(model)
    path = tiny.walk(9).resized(64, 64)
    assert np.array_equal(told.step(path[1:5]).frames_u8, untold.step(path[1:5]).frames_u8)
    told.prompt = "red stone"
    assert not np.array_equal(told.step(path[5:]).frames_u8, untold.step(path[5:]).frames_u8)
    notes = [note for _, note in told.bank.store.notes()]
    assert [note.get("prompt") for note in notes] == [None, "", "red stone"]
    assert notes[-1]["guidance"] == 5.0


def test_memory_is_read_without_words_once_a_frame(model):
    """So its keys hold when the prompt changes, and both branches of guidance share them."""
    world = begun(model)
    read, encode = [], world.model.encode_context
    world.model.encode_context = lambda latents, **more: read.append(latents.shape[2]) or encode(latents, **more)
    path = tiny.walk(9).resized(64, 64)
    world.step(path[1:5])
    kept = list(world._read._cached.values())[0]
    world.prompt = "red stone"
    world.step(path[5:])
    assert sum(read) == len(world._read)
    other = begun(model, prompt="blue room")
    other.step(path[1:5])
    for (k, v), (k_other, v_other) in zip(kept, list(other._read._cached.values())[0], strict=True):
        assert torch.equal(k, k_other) and torch.equal(v, v_other)


def test_guidance_leads_to_the_prompt(model):
    one, five = (
        begun(model, prompt="red stone", guidance=g).step(tiny.walk(5).resized(64, 64)[1:]) for g in (1.0, 5.0)
    )
    assert not np.array_equal(one.frames_u8, five.frames_u8)


def test_an_opened_world_says_what_was_said_last(model, tmp_path):
    world = create_world(tmp_path / "world", model, device="cpu", engine="plain")
    world.start(np.zeros((64, 64, 3), np.uint8))
    world.prompt, world.guidance = "red stone", 3.0
    path = tiny.walk(9).resized(64, 64)
    world.step(path[1:5])
    world.close()
    opened = open_world(tmp_path / "world", device="cpu")
    assert (opened.prompt, opened.guidance) == ("red stone", 3.0)
    opened.step(path[5:])
    assert [note.get("prompt") for _, note in opened.bank.store.notes()] == [None, "red stone", "red stone"]
    opened.close()


def test_weights_that_read_no_text_refuse_words():
    world = tiny.world()
    world.reset(tiny.pictures(1), tiny.walk(1))
    for name, value in (("prompt", "red stone"), ("guidance", 5.0)):
        other = tiny.world(**{name: value})
        other.reset(tiny.pictures(1), tiny.walk(1))
        with pytest.raises(UserError, match="read no text"):
            other.step(tiny.walk(3)[1:])
    world.step(tiny.walk(3)[1:])


def test_guidance_below_one_is_refused(model):
    with pytest.raises(UserError, match="guidance is 0.5"):
        begun(model, guidance=0.5).step(tiny.walk(5).resized(64, 64)[1:])
