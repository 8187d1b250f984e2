"""LoRA: files that diffusers reads and writes, merged or not, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tiny_wan
from context_as_memory.adapters import lora
from context_as_memory.errors import UserError
from context_as_memory.weights import from_pretrained

pytest.importorskip("peft")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def base(pipelines):
    return pipelines["t2v"]


def changed(folder, rank=4, alpha=12.0):
    """The network of a folder with random matrices beside its products."""
    model = from_pretrained(folder / "transformer")
    lora.inject(model, rank, alpha)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def predicted(model):
    generator = torch.Generator().manual_seed(1)
    x, words = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 5, 32, generator=generator)
    found = model(x, torch.tensor([500.0]), words)
    return found if isinstance(found, torch.Tensor) else found.sample


def test_it_begins_as_nothing_and_only_it_and_what_is_added_are_trained(base, tmp_path):
    folder = tiny_wan.adapted(base, tmp_path / "model", "t2v")
    model = from_pretrained(folder / "transformer")
    before = predicted(model)
    lora.inject(model, 4, 8.0)
    assert torch.equal(predicted(model), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or lora.is_added(name) for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 10  # two blocks of q, k, v, o twice, and two of the ffn
    assert not any("lora_" in name and "camera_heads" in name for name in trained)
    assert any("camera_heads.to_q" in name for name in trained) and "pixel_embedding.weight" in trained


def test_diffusers_reads_our_file(base, tmp_path):
    from diffusers import WanPipeline

    ours = changed(base)
    file = lora.save(ours, tmp_path)
    pipeline = WanPipeline.from_pretrained(base)
    stock = predicted(pipeline.transformer)
    pipeline.load_lora_weights(tmp_path)
    assert (predicted(ours) - stock).abs().max() > 1e-2
    assert (predicted(pipeline.transformer) - predicted(ours)).abs().max() <= 1e-4
    with safe_open(file, "pt") as found:
        told = json.loads(found.metadata()["lora_adapter_metadata"])
    assert (told["transformer.r"], told["transformer.lora_alpha"]) == (4, 12.0)


def test_we_read_the_file_of_diffusers(base, tmp_path):
    from diffusers import WanPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = WanPipeline.from_pretrained(base)
    config = LoraConfig(r=2, lora_alpha=5, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config)
    told = {key: list(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    WanPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
        transformer_lora_adapter_metadata=told,
    )
    model = from_pretrained(base / "transformer")
    before = predicted(model)
    lora.merge(model, lora.read(tmp_path))
    assert (predicted(model) - before).abs().max() > 1e-3
    assert (predicted(model) - predicted(pipeline.transformer)).abs().max() <= 1e-4


def test_merged_equals_unmerged_and_goes_on_as_it_was(base, tmp_path):
    ours = changed(base)
    lora.save(ours, tmp_path)
    merged, again = (from_pretrained(base / "transformer") for _ in range(2))
    lora.merge(merged, lora.read(tmp_path))
    assert (predicted(merged) - predicted(ours)).abs().max() <= 1e-4
    lora.load(again, tmp_path)
    assert torch.equal(predicted(again), predicted(ours))


def test_a_model_folder_with_its_file_is_changed_by_it(base, tmp_path):
    folder = tiny_wan.adapted(base, tmp_path / "model", "t2v")
    ours = changed(folder)
    expected = predicted(ours)
    assert (expected - predicted(from_pretrained(folder / "transformer"))).abs().max() > 1e-2
    lora.save(ours, folder / "transformer")
    assert (predicted(from_pretrained(folder / "transformer")) - expected).abs().max() <= 1e-4


def rewritten(file, state=lambda state: state, header=lambda header: header):
    with safe_open(file, "pt") as found:
        metadata = found.metadata()
    save_file(state(load_file(file)), file, header(metadata))


BROKEN = {
    "no alpha": (lambda f: rewritten(f, header=lambda h: {"format": "pt"}), "does not say its rank and alpha"),
    "one half": (lambda f: rewritten(f, lambda s: {k: v for k, v in s.items() if "to_q.lora_B" not in k}), "without"),
    "another kind": (lambda f: rewritten(f, lambda s: s | {"blocks.0.dora": torch.ones(1)}), "only lora_A and lora_B"),
    "damaged": (lambda f: f.write_bytes(f.read_bytes()[:200]), "cannot be read"),
    "other layers": (
        lambda f: rewritten(f, lambda s: {k.replace("blocks.1", "blocks.7"): v for k, v in s.items()}),
        "blocks.7.* which this network does not have",
    ),
    "other sizes": (
        lambda f: rewritten(f, lambda s: {k: v[:, :7].contiguous() if "lora_A" in k else v for k, v in s.items()}),
        "of another network",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_refused(base, tmp_path, name):
    break_it, match = BROKEN[name]
    break_it(lora.save(changed(base), tmp_path))
    with pytest.raises(UserError, match=match):
        lora.merge(from_pretrained(base / "transformer"), lora.read(tmp_path))
