"""Networks that others trained: Wan in its original names, Memorizon and Echo-Memory beside their own modules.

`published.npz` holds what the projects' modules answered, once, on a CPU in fp32: for `published.inputs` and the
weights of `published.tensors`. Their source was written out by hand for that, without what a pass does not use, and
took the weights by their names; it was not run as it is published.

- Memorizon 4f04e3a: memorizon/wan/transformer.py and memorizon/camera.py, in one pass without a cache, with torch's own
  attention in the place of flex attention; positions and mask are those of memorizon/layout.py.
- Echo-Memory 224d81e: model_fn_wan_video with the context behind the targets, blocks of
  training_modules/action_blocks.py with poses and attention along time.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import published
import tiny
from context_as_memory.adapters.original import Checkpoint, open_checkpoint, translated
from context_as_memory.adapters.published import recognise
from context_as_memory.adapters.shards import Shards, shapes_of
from context_as_memory.cli.adapt import Adapt, adapt
from context_as_memory.engine.folded import why_not
from context_as_memory.errors import UserError
from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.training.folders import Adaptation, export_adapted, start_network
from context_as_memory.weights import NETWORKS, from_pretrained, read_settings
from context_as_memory.world import World

pytestmark = pytest.mark.usefixtures("own_cache")
BACKBONE = {"wan": "t2v", "echo": "t2v", "memorizon": "ti2v"}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return {kind: published.save(folder / kind, kind) for kind in published.CHANNELS}


@pytest.fixture(scope="module")
def answers():
    with np.load(Path(__file__).with_name("published.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def adapted(kind: str, pipelines, checkpoints, out: Path, **changes) -> Path:
    size = None if kind == "memorizon" else "32x32"
    told = {"backbone": str(pipelines[BACKBONE[kind]]), "checkpoint": str(checkpoints[kind]), "size": size}
    adapt(Adapt(**(told | {"out": out} | changes)))
    return out


def network(kind: str, checkpoints) -> Any:
    checkpoint = open_checkpoint(checkpoints[kind])
    found = recognise(checkpoint)
    model: Any = NETWORKS[found.class_name][0](found.config).eval()
    (state,) = checkpoint.parts()
    model.load_state_dict(state)
    return model


def chunk(given) -> ModelInputs:
    """Model inputs of the same cameras."""
    parts = {}
    for name in ("context", "target"):
        c2w = given[f"{name}_c2w"].unsqueeze(1)
        parts[name] = CameraTensors(c2w, given["lens"].expand(*c2w.shape[:3], 4))
    count, targets = given["context"].shape[2], given["noisy"].shape[2]
    return ModelInputs(
        torch.arange(count).view(1, 1, -1),
        torch.ones(1, 1, count, dtype=torch.bool),
        parts["context"],
        parts["target"],
        (0,) + (targets + 1,) * (count - 1),
        tuple(range(1, targets + 1)),
    )


@pytest.mark.parametrize(
    ("kind", "name", "context"),
    [
        ("memorizon", "memorizon_first", 1),
        ("memorizon", "memorizon_bank", 4),
        ("echo", "echo_k1", 1),
        ("echo", "echo_k3", 3),
    ],
)
def test_a_network_answers_as_the_modules_of_its_makers(kind, name, context, checkpoints, answers):
    model, given = network(kind, checkpoints), published.inputs(kind, context)
    got = model.predict(given["noisy"], given["timestep"], given["context"], chunk(given), given["words"])
    assert answers[name].abs().max() > 1
    assert (got - answers[name]).abs().max() <= 1e-4


@pytest.mark.parametrize(("kind", "name", "context"), [("memorizon", "memorizon_bank", 4), ("echo", "echo_k3", 3)])
def test_a_network_in_bf16_is_near(kind, name, context, checkpoints, answers):
    model, given = network(kind, checkpoints).bfloat16(), published.inputs(kind, context)
    noisy, pool, words = (given[part].bfloat16() for part in ("noisy", "context", "words"))
    got = model.predict(noisy, given["timestep"], pool, chunk(given), words)
    assert got.dtype == torch.bfloat16
    assert (got.float() - answers[name]).norm() <= 0.03 * answers[name].norm()


def test_memorizon_reads_its_context_with_the_words_of_the_targets(checkpoints, answers):
    """Whatever it was prepared with; and once for each text."""
    model, given = network("memorizon", checkpoints), published.inputs("memorizon", 4)
    inputs = chunk(given)
    context = model.prepare(given["context"], inputs, torch.zeros(1, 5, published.TEXT))
    for _ in range(2):
        got = model.denoise(given["noisy"], given["timestep"], context, inputs, given["words"])
        other = model.denoise(given["noisy"], given["timestep"], context, inputs, given["words"] + 1)
        assert (got - answers["memorizon_bank"]).abs().max() <= 1e-4
        assert (other - got).abs().max() > 1e-2
    assert len(context.read) == 2


def test_empty_slots_change_nothing_in_memorizon_and_are_refused_by_echo(checkpoints, answers):
    given = published.inputs("memorizon", 4)
    inputs = chunk(given)
    wider = [torch.cat((value, value[:, :, :1]), dim=2) for value in inputs.context_cameras]
    mask = torch.tensor([[[True] * 4 + [False]]])
    inputs = ModelInputs(
        torch.tensor([[[0, 1, 2, 3, 0]]]), mask, CameraTensors(*wider), inputs.target_cameras, (0, 3, 3, 3, 3), (1, 2)
    )
    pool = given["context"]
    got = network("memorizon", checkpoints).predict(given["noisy"], given["timestep"], pool, inputs, given["words"])
    assert (got - answers["memorizon_bank"]).abs().max() <= 1e-4
    given = published.inputs("echo", 4)
    with pytest.raises(UserError, match="no empty context slots"):
        network("echo", checkpoints).predict(
            given["noisy"], given["timestep"], given["context"], inputs, given["words"]
        )


def test_original_names_and_names_of_diffusers_are_one_network(checkpoints, tmp_path):
    """And prefixes and pickles change nothing."""
    tensors = published.tensors("wan")
    save_file(
        {"model.dit." + published.diffusers_name(name): value for name, value in tensors.items()},
        tmp_path / "d.safetensors",
    )
    torch.save(
        {"step": 3, "state_dict": {"module." + name: value for name, value in tensors.items()}}, tmp_path / "p.pt"
    )
    torch.save(tensors, tmp_path / "q.bin")
    expected = network("wan", checkpoints).state_dict()
    assert len(expected) == len(tensors)
    for file in ("d.safetensors", "p.pt", "q.bin"):
        got = network("wan", {"wan": tmp_path / file}).state_dict()
        assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_original_names_compute_what_diffusers_computes(checkpoints):
    diffusers = pytest.importorskip("diffusers")
    checkpoint = open_checkpoint(checkpoints["wan"])
    config = recognise(checkpoint).config
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=published.TEXT,
        freq_dim=published.FREQ, ffn_dim=published.FFN, num_layers=2,
    ).eval()  # fmt: skip
    assert (config.num_attention_heads, config.attention_head_dim, config.cross_attn_norm) == (2, 128, True)
    theirs.load_state_dict({published.diffusers_name(name): value for name, value in published.tensors("wan").items()})
    given = published.inputs("wan", 1)
    x, t, words = given["noisy"], given["timestep"], given["words"]
    assert (network("wan", checkpoints)(x, t, words) - theirs(x, t, words).sample).abs().max() <= 1e-4


@pytest.mark.parametrize(("kind", "count"), [("wan", 825), ("echo", 1185), ("memorizon", 1005)])
def test_every_name_has_its_place_at_real_size(kind, count, tmp_path):
    shapes = published.shapes(kind, published.REAL[kind])
    names = {translated(name.removeprefix("model.")): name for name in shapes}
    told = {"model_type": "memorizon"} if kind == "memorizon" else {}
    checkpoint = Checkpoint(tmp_path, names, Shards(dict.fromkeys(shapes, tmp_path), shapes), {}, told)
    found = recognise(checkpoint)
    with torch.device("meta"):
        ours = shapes_of(NETWORKS[found.class_name][0](found.config))
    assert len(ours) == count
    assert checkpoint.shapes == ours


def test_original_names_are_translated_one_by_one():
    names = published.shapes("wan", published.REAL["wan"])
    assert {name: translated(name) for name in names} == {name: published.diffusers_name(name) for name in names}


@pytest.mark.parametrize("kind", published.CHANNELS)
def test_a_checkpoint_becomes_a_model_that_is_walked_in(kind, checkpoints, pipelines, tmp_path):
    changes = {"steps": 1, "chunk_latents": 1, "context": 2, "guidance": 1.0} | (
        {"camera": "none"} if kind == "wan" else {}
    )
    folder = adapted(kind, pipelines, checkpoints, tmp_path / "model", **changes)
    own = from_pretrained(folder / "transformer").state_dict()
    expected = network(kind, checkpoints).state_dict()
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    world = World.from_pretrained(folder, device="cpu")
    assert why_not(world.model.config) is not None
    width, height = world.config.width, world.config.height
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    cameras = tiny.walk(8).resized(width, height)
    world.reset(pictures, cameras[:2])
    one = world.step(cameras[2:6], commit=False).frames_u8
    assert one.shape == (4, height, width, 3)
    world.prompt = "a red room"
    assert not np.array_equal(world.step(cameras[2:6]).frames_u8, one)


def test_settings_are_those_of_the_makers(checkpoints, pipelines, tmp_path):
    told = read_settings(adapted("memorizon", pipelines, checkpoints, tmp_path / "m"))
    assert (told["width"], told["height"], told["chunk_latents"], told["num_steps"]) == (64, 64, 2, 20)
    assert (told["flow"]["shift"], told["guidance"], told["multistep"]) == (3.0, 4.0, False)
    assert told["retrieval"]["max_context"] == 7
    told = read_settings(adapted("echo", pipelines, checkpoints, tmp_path / "e", steps=4))
    assert (told["chunk_latents"], told["num_steps"], told["flow"]["shift"]) == (20, 4, 5.0)
    assert told["retrieval"]["max_context"] == 1


def test_a_merged_network_stands_alone_and_is_the_same_network(checkpoints, pipelines, tmp_path):
    folder = adapted("memorizon", pipelines, checkpoints, tmp_path / "model")
    adapt(Adapt(backbone=str(folder), out=tmp_path / "alone", merge=True))
    assert "backbone" not in read_settings(tmp_path / "alone")
    one, other = (from_pretrained(path / "transformer") for path in (folder, tmp_path / "alone"))
    assert type(one) is type(other)
    assert one.config == other.config
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", ["memorizon", "echo"])
def test_published_networks_can_be_trained_and_blocks_computed_again_give_the_same_gradients(kind, checkpoints):
    model, given = network(kind, checkpoints), published.inputs(kind, 3)
    gradients = []
    for model.checkpointing in (False, True):
        model.zero_grad()
        with torch.enable_grad():
            got = model.predict(given["noisy"], given["timestep"], given["context"], chunk(given), given["words"])
            got.square().mean().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    assert all(value is not None and value.abs().max() > 0 for value in gradients[0].values())
    assert all((gradients[1][name] - value).abs().max() <= 1e-6 for name, value in gradients[0].items())


def test_matrices_beside_a_published_network_need_it_whole_and_leave_its_class(checkpoints, pipelines, tmp_path):
    pytest.importorskip("peft")
    folder = adapted("memorizon", pipelines, checkpoints, tmp_path / "model")
    with pytest.raises(UserError, match="cam adapt --merge"):
        start_network(folder, Adaptation(rank=2), torch.float32)
    adapt(Adapt(backbone=str(folder), out=tmp_path / "alone", merge=True))
    model = start_network(tmp_path / "alone", Adaptation(rank=2), torch.float32)
    state = {name: value + 0.01 for name, value in model.named_parameters() if value.requires_grad}
    assert any("prope_attn" in name for name in state)
    export_adapted(model, state, {}, tmp_path / "alone", tmp_path / "trained")
    model.load_state_dict(state, strict=False)
    given = published.inputs("memorizon", 3)
    told = (given["noisy"], given["timestep"], given["context"], chunk(given), given["words"])
    trained = from_pretrained(tmp_path / "trained" / "transformer")
    assert (trained.predict(*told) - model.predict(*told)).abs().max() <= 1e-4
    assert (trained.predict(*told) - network("memorizon", checkpoints).predict(*told)).abs().max() > 1e-2


class Evil:
    def __reduce__(self):
        return print, ("run",)


def change(kind: str, folder: Path, **config) -> Path:
    published.save(folder, kind)
    if config:
        (folder / "config.json").write_text(json.dumps(published.MEMORIZON | config))
    return folder


def edit(folder: Path, kind: str, drop: str | None = None, add: dict | None = None) -> Path:
    tensors = published.tensors(kind) | (add or {})
    folder.mkdir()
    save_file({name: value for name, value in tensors.items() if name != drop}, folder / "x.safetensors")
    return folder / "x.safetensors"


BAD = {
    "lacks blocks.1.attn1.to_q.weight": lambda p: edit(p, "wan", drop="blocks.1.self_attn.q.weight"),
    "has block_wise_ssm.a": lambda p: edit(p, "echo", add={"block_wise_ssm.a": torch.zeros(2)}),
    "image-to-video": lambda p: edit(p, "wan", add={"img_emb.proj.0.weight": torch.zeros(2)}),
    "several networks": lambda p: edit(p, "wan", add={"ema.patch_embedding.weight": torch.zeros(1)}),
    "no network of Wan's kind": lambda p: edit(p, "wan", drop="patch_embedding.weight"),
    "no whole network": lambda p: edit(p, "wan", drop="head.head.weight"),
    "not finite": lambda p: edit(p, "wan", add={"head.head.bias": torch.full((64,), torch.nan)}),
    "takes 7 numbers a frame": lambda p: edit(
        p, "echo", add={"blocks.0.action_mlp.proj.weight": torch.zeros(published.WIDTH, 7)}
    ),
    "has a camera branch; put its config.json": lambda p: edit(p, "memorizon"),
    "model_type 'llama'": lambda p: change("memorizon", p, model_type="llama"),
    "no Memorizon checkpoint": lambda p: change("wan", p, camera_compress=2),
    "check camera_compress": lambda p: change("memorizon", p, camera_compress=4),
    "describes no Memorizon": lambda p: change("memorizon", p, chunk_size="four"),
    "is missing": lambda p: p / "no" / "such" / "file.safetensors",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_checkpoints_are_one_clear_sentence_and_leave_nothing(message, pipelines, tmp_path):
    checkpoint = BAD[message](tmp_path / "given")
    kind = "ti2v" if "emorizon" in message or "camera" in message or "llama" in message else "t2v"
    with pytest.raises(UserError, match=message):
        adapt(Adapt(backbone=str(pipelines[kind]), checkpoint=str(checkpoint), out=tmp_path / "out", size="64x64"))
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("given", "cache")] == []


def test_a_checkpoint_of_another_backbone_is_refused(checkpoints, pipelines, tmp_path):
    with pytest.raises(UserError, match="latents of 16 channels"):
        adapted("wan", pipelines, checkpoints, tmp_path / "out", backbone=str(pipelines["ti2v"]), size="64x64")


def test_pickles_are_never_run(pipelines, tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="more than tensors"):
        open_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x00" * 64)
    with pytest.raises(UserError, match="cannot be read as weights|more than tensors"):
        open_checkpoint(tmp_path / "noise.pt")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "config.json"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    if name == "config.json":
        edit(tmp_path / "part", "wan").rename(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no plain file"):
        open_checkpoint(tmp_path / name if name != "config.json" else tmp_path)


def test_a_config_that_is_no_json_is_named(tmp_path):
    file = edit(tmp_path / "given", "wan")
    (file.parent / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        open_checkpoint(file)
