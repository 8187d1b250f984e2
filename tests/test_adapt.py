"""`cam adapt`: what it writes, what it refuses, and how a model finds its backbone again."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from context_as_memory.adapters import lora, shards
from context_as_memory.adapters.backbone import identity
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.weights import component, fingerprint, from_pretrained, open_codec
from context_as_memory.world import World

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def backbone(pipelines, tmp_path):
    """A pipeline of its own, to break or to move."""
    return shutil.copytree(pipelines["ti2v"], tmp_path / "backbones" / "ti2v")


def adapt(backbone, out, *more):
    return main(["adapt", "--backbone", str(backbone), "--size", "64x64", "--out", str(out), *more])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_model_refers_to_its_backbone_and_copies_nothing(backbone, tmp_path, capsys):
    out = tmp_path / "models" / "five"
    assert adapt(backbone, out) == 0
    assert capsys.readouterr().out.startswith(f"model in {out}")
    assert files(out) == ["model.json", "transformer/config.json", "transformer/memory.safetensors"]
    told = json.loads((out / "model.json").read_text())
    assert told["backbone"] == {"path": "../../backbones/ti2v", "sha256": identity(backbone)}
    assert (told["width"], told["flow"]["shift"], told["guidance"], told["num_steps"]) == (64, 5.0, 5.0, 20)
    added = load_file(out / "transformer" / "memory.safetensors")
    stock = shards.open_shards(backbone / "transformer").shapes
    assert added and not set(added) & set(stock) and all(lora.is_added(name) for name in added)
    model = from_pretrained(out / "transformer")
    assert set(model.state_dict()) == set(added) | set(stock)
    assert component(out, "vae") == backbone.resolve() / "vae"
    assert open_codec(out / "vae").spatial_factor == 16


def test_model_and_backbone_may_move_together(backbone, tmp_path):
    out = tmp_path / "models" / "five"
    adapt(backbone, out)
    before = fingerprint(out)
    shutil.move(tmp_path / "backbones", tmp_path / "elsewhere" / "backbones")
    shutil.move(tmp_path / "models", tmp_path / "elsewhere" / "models")
    moved = tmp_path / "elsewhere" / "models" / "five"
    assert from_pretrained(moved / "transformer").config.camera_heads == 1
    told = json.loads((moved / "model.json").read_text())
    told["backbone"]["path"] = "../../backbones/../backbones/ti2v"
    (moved / "model.json").write_text(json.dumps(told))
    again = fingerprint(moved)
    assert fingerprint(moved) == again and len({before, again}) <= 2
    World.from_pretrained(moved, device="cpu")


def test_where_a_backbone_lies_is_no_part_of_the_fingerprint(backbone, tmp_path):
    out = tmp_path / "five"
    adapt(backbone, out)
    prints = []
    for path in ("backbones/ti2v", "../elsewhere"):
        told = json.loads((out / "model.json").read_text())
        told["backbone"]["path"] = path
        (out / "model.json").write_text(json.dumps(told))
        prints.append(fingerprint(out))
    told["backbone"]["sha256"] = "0" * 64
    (out / "model.json").write_text(json.dumps(told))
    assert prints[0] == prints[1] != fingerprint(out)


@pytest.mark.parametrize("change", ["other weights", "other vae"])
def test_another_backbone_is_named_with_both_hashes(backbone, tmp_path, change):
    out = tmp_path / "five"
    adapt(backbone, out)
    before = identity(backbone)
    part = "transformer" if change == "other weights" else "vae"
    file = sorted((backbone / part).glob("*.safetensors"))[0]
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"not the one .* its hash is {identity(backbone)}, not {before}"):
        from_pretrained(out / "transformer")
    shutil.rmtree(backbone)
    with pytest.raises(UserError, match="is no folder"):
        World.from_pretrained(out)


def test_one_file_is_in_memory_at_a_time(backbone, tmp_path, monkeypatch):
    """While one part is read, the parts before it have been given away."""
    adapt(backbone, tmp_path / "five")
    seen, read = [], shards.Shards.parts

    def parts(self, dtype=None):
        for part in read(self, dtype):
            seen.append(sum(value.nbytes for value in part.values()))
            yield part

    monkeypatch.setattr(shards.Shards, "parts", parts)
    model = from_pretrained(tmp_path / "five" / "transformer", dtype=torch.bfloat16)
    total = sum(value.nbytes for value in model.state_dict().values())
    assert len(seen) == 7 and max(seen) < total / 3 and sum(seen) == total
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}


def test_merged_models_stand_alone(backbone, tmp_path):
    out = tmp_path / "five"
    adapt(backbone, out)
    model = from_pretrained(out / "transformer")
    lora.inject(model, 2, 4.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    lora.save(model, out / "transformer")
    path, frames = tiny.walk(5).resized(64, 64), []
    before = World.from_pretrained(out, device="cpu", num_steps=1)
    frames.append(before.start(np.zeros((64, 64, 3), np.uint8)).step(path[1:]).frames_u8)
    assert main(["adapt", "--backbone", str(out), "--merge", "--out", str(tmp_path / "merged")]) == 0
    shutil.rmtree(backbone)
    shutil.rmtree(out)
    assert "backbone" not in json.loads((tmp_path / "merged" / "model.json").read_text())
    after = World.from_pretrained(tmp_path / "merged", device="cpu", num_steps=1)
    frames.append(after.start(np.zeros((64, 64, 3), np.uint8)).step(path[1:]).frames_u8)
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 1
    assert frames[0].std() > 1


def test_a_merged_stock_model_loads_in_diffusers(backbone, tmp_path):
    from diffusers import WanPipeline, WanTransformer3DModel

    assert adapt(backbone, tmp_path / "stock", "--camera", "none", "--merge") == 0
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "stock" / "transformer")
    expected = WanPipeline.from_pretrained(backbone).transformer.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in theirs.state_dict().items())
    World.from_pretrained(tmp_path / "stock", device="cpu")


def test_cameras_of_the_paper_begin_as_nothing(backbone, tmp_path):
    assert adapt(backbone, tmp_path / "paper", "--camera", "additive") == 0
    model = from_pretrained(tmp_path / "paper" / "transformer")
    assert (model.config.context_mode, model.config.camera_heads) == ("joint", 0)
    assert model.blocks[1].camera_encoder.weight.abs().max() == 0


def test_prompts_may_be_kept_in_the_model(backbone, tmp_path):
    assert adapt(backbone, tmp_path / "five", "--prompts", "red stone", "--negative", "blue") == 0
    shutil.rmtree(backbone / "text_encoder")
    model = World.from_pretrained(tmp_path / "five", device="cpu").model
    assert set(model.words.prompts) == {"", "blue", "red stone"}
    model.words("red stone")
    with pytest.raises(UserError, match="it knows '', 'blue', 'red stone'"):
        model.words("green")


def other_class(folder):
    file = folder / "transformer" / "config.json"
    file.write_text(file.read_text().replace("WanTransformer3DModel", "CogVideoXTransformer3DModel"))


def foreign_shard(folder):
    one, two, *_ = sorted((folder / "transformer").glob("*.safetensors"))
    shutil.copy(one, two)


def fewer_layers(folder):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_layers": 1}))


def vae_of_the_other(folder):
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"z_dim": 16}))


BROKEN = {
    "another class": (other_class, "holds a CogVideoXTransformer3DModel, not a WanTransformer3DModel"),
    "a shard is missing": (
        lambda f: sorted((f / "transformer").glob("*.safetensors"))[2].unlink(),
        "is missing, which .*index.json names",
    ),
    "a foreign shard": (foreign_shard, "belongs to another model"),
    "a damaged shard": (
        lambda f: sorted((f / "transformer").glob("*.safetensors"))[1].write_bytes(b"\0" * 100),
        "is damaged",
    ),
    "no index": (lambda f: next((f / "transformer").glob("*.index.json")).unlink(), "is missing"),
    "a broken index": (lambda f: next((f / "transformer").glob("*.index.json")).write_text("[]"), "no index"),
    "other layers": (fewer_layers, "has blocks.1.* which this architecture does not"),
    "the autoencoder of another": (vae_of_the_other, "holds no AutoencoderKLWan of 48 channels"),
    "no transformer": (lambda f: shutil.rmtree(f / "transformer"), "config.json is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_backbones_that_are_refused(backbone, tmp_path, name, capsys):
    break_it, match = BROKEN[name]
    break_it(backbone)
    assert adapt(backbone, tmp_path / "new" / "model") == 2
    error = capsys.readouterr().err
    assert re.search(match, error), error
    assert error.count("\n") == 1
    assert not list((tmp_path / "new").glob("*")) and not list((tmp_path / "new").glob(".*"))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--size", "64"], "--size is 64; give width and height"),
        (["--size", "64x72"], "multiples of 32 pixels"),
        (["--size", "0x0"], "multiples of 32 pixels"),
    ],
)
def test_sizes_that_do_not_fit(pipelines, tmp_path, more, match, capsys):
    assert main(["adapt", "--backbone", str(pipelines["ti2v"]), "--out", str(tmp_path / "model"), *more]) == 2
    assert match in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_there_or_models_already(backbone, tmp_path, capsys):
    out = tmp_path / "model"
    assert adapt(backbone, out) == 0
    assert adapt(backbone, out) == 2 and "is there already" in capsys.readouterr().err
    assert adapt(out, tmp_path / "second") == 2 and "is a model already" in capsys.readouterr().err


def test_a_backbone_without_a_picture_at_birth_says_so(pipelines, tmp_path, capsys):
    words = ["adapt", "--backbone", str(pipelines["t2v"]), "--size", "32x32", "--out", str(tmp_path / "model")]
    assert main(words) == 0
    assert "never seen a clean first frame" in capsys.readouterr().out


def test_a_pipeline_that_is_no_model_yet_is_told_how_to_become_one(backbone, tmp_path, capsys):
    words = ["generate", "--start", "courtyard", "--actions", "w-4", "--out", str(tmp_path / "out")]
    assert main([*words, "--weights", str(backbone)]) == 2
    said = capsys.readouterr().err
    assert f"cam adapt --backbone {backbone} --size WIDTHxHEIGHT --out MODEL" in said
