"""`cam generate --prompt --image --guidance` with a model of a public pipeline."""

import json

import numpy as np
import pytest
from PIL import Image

import tiny_wan
from context_as_memory.cli.main import main
from context_as_memory.storage import open_world

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def model(pipelines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "model"
    return tiny_wan.adapted(pipelines["ti2v"], folder, "ti2v", chunk_latents=1, steps=2)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    return path


def generate(model, out, *more):
    return main(["generate", "--weights", str(model), "--out", str(out), "--actions", "w-4", "--no-compare", *more])


def test_a_picture_a_prompt_and_guidance_make_a_walk_that_goes_on(model, picture, tmp_path):
    world = tmp_path / "world"
    told = ["--world", str(world), "--prompt", "an old temple"]
    assert generate(model, tmp_path / "out", "--image", str(picture), "--guidance", "3", *told) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["settings"]["prompt"], report["world"]["guidance"]) == ("an old temple", 3.0)
    assert generate(model, tmp_path / "out", "--world", str(world)) == 0
    assert generate(model, tmp_path / "out", "--world", str(world), "--prompt", "red stone") == 0
    opened = open_world(world, device="cpu")
    notes = [note for _, note in opened.bank.store.notes()][1:]
    assert [note["prompt"] for note in notes] == ["an old temple", "an old temple", "red stone"]
    assert [note["guidance"] for note in notes] == [3.0, 3.0, 3.0]
    opened.close()


def distilled(model, folder):
    """The same model, as a recipe without guidance leaves it."""
    folder.mkdir()
    (folder / "transformer").symlink_to(model / "transformer")
    told = json.loads((model / "model.json").read_text()) | {"guidance": 1.0}
    told["backbone"]["path"] = str((model / told["backbone"]["path"]).resolve())
    (folder / "model.json").write_text(json.dumps(told))
    return folder


def test_what_weights_cannot_take_is_refused_before_anything_is_made(model, weights, picture, tmp_path, capsys):
    quick = distilled(model, tmp_path / "quick")
    cases = [
        (weights, ["--prompt", "red"], "these weights read no text"),
        (weights, ["--guidance", "4"], "these weights read no text"),
        (model, ["--guidance", "0.5"], "guidance is 0.5; give 1 (none) or more"),
        (quick, ["--guidance", "4"], "guidance is 4.0, but these weights were distilled"),
    ]
    for which, more, words in cases:
        world = ["--world", str(tmp_path / "world")]
        assert generate(which, tmp_path / "out", "--image", str(picture), *world, *more) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "world").exists() and not (tmp_path / "out" / "video.mp4").exists()
    assert generate(quick, tmp_path / "out", "--image", str(picture), "--prompt", "red stone") == 0
