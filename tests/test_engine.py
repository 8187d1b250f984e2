"""The fast engines against the plain network: equal within stated tolerances, and as steady as a world file needs."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from context_as_memory import engine, machine
from context_as_memory.codec import ImageAutoencoder, ImageAutoencoderConfig
from context_as_memory.compute import attention_kernel, blocked_attention, free_bytes, fused_attention
from context_as_memory.engine import ContextCache, context_cache, differences, open_engine
from context_as_memory.engine.folded import Linear
from context_as_memory.errors import UserError
from context_as_memory.retrieval import Retrieval
from context_as_memory.storage import create_world, file_of, open_world
from context_as_memory.tokens import ModelInputs, TokenLayout, build_model_inputs

CPU = torch.device("cpu")
FAST = ["torch", pytest.param("openvino", marks=pytest.mark.skipif(not engine._installed(), reason="needs openvino"))]
needs_openvino = pytest.mark.skipif(not engine._installed(), reason="needs openvino")


@pytest.fixture(autouse=True)
def _says_everything_again():
    engine._say.cache_clear()


def _inputs(context: list[int], slots: int | None = None) -> ModelInputs:
    cameras = tiny.walk(40)
    found = Retrieval(np.array(context), np.zeros(len(context)), np.arange(20))
    layout = TokenLayout(num_targets=2, max_context=8)
    built = build_model_inputs(layout, cameras, cameras[20:22], found, slots)
    return replace(built, context_index=torch.arange(len(built.context_positions)).view(1, 1, -1))


def _asked(name, model, latents, inputs, noisy, timesteps=(1000.0, 400.0)):
    """Outputs of an engine, or of the plain network, for one chunk."""
    denoiser = open_engine(model, tiny.codec(), name, CPU).denoiser
    with torch.inference_mode():
        network = denoiser.place(latents, inputs, denoiser.read(latents))
        return [network(noisy, timestep) for timestep in timesteps]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("context", "slots"), [([3], None), ([3, 7, 12, 15, 19], None), ([3, 7, 12], 6)])
def test_a_fast_engine_equals_the_plain_network(name, context, slots):
    """With one, many and empty context slots, in fp32: rounding alone, 1e-5 of values of about 1."""
    model, inputs = tiny.model(num_layers=3), _inputs(context, slots)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4, slots or len(context), 4, 8, generator=generator)
    noisy = torch.randn(1, 4, 2, 4, 8, generator=generator)
    expected = _asked("plain", model, latents, inputs, noisy)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    for found, wanted in zip(_asked(name, model, latents, inputs, noisy), expected, strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", FAST)
def test_in_bf16_a_fast_engine_is_as_near_to_fp32_as_the_plain_network(name):
    inputs, latents, noisy = _inputs([3, 7, 12]), torch.randn(4, 3, 4, 8), torch.randn(1, 4, 2, 4, 8)
    exact = _asked("plain", tiny.model(), latents, inputs, noisy)[0]
    found = _asked(name, tiny.model().bfloat16(), latents, inputs, noisy)[0]
    assert (found - exact).norm() <= 0.05 * exact.norm()


@pytest.mark.parametrize("name", FAST)
def test_what_a_context_frame_gives_depends_on_no_other_frame(name):
    """Bit for bit: alone, in a batch, and in another place of it."""
    denoiser = open_engine(tiny.model(), tiny.codec(), name, CPU).denoiser
    latents = torch.randn(4, 5, 4, 8)
    with torch.inference_mode():
        together = denoiser.read(latents)
        turned = denoiser.read(latents.flip(1))
        for frame in range(5):
            alone = denoiser.read(latents[:, [frame]])[0]
            np.testing.assert_array_equal(np.asarray(together[frame]), np.asarray(alone))
            np.testing.assert_array_equal(np.asarray(turned[4 - frame]), np.asarray(alone))


@needs_openvino
def test_openvino_gives_the_same_bits_with_one_and_two_threads():
    found, before = [], torch.get_num_threads()
    inputs, latents, noisy = _inputs([3, 7, 12]), torch.randn(4, 3, 4, 8), torch.randn(1, 4, 2, 4, 8)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(_asked("openvino", tiny.model(), latents, inputs, noisy)[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@needs_openvino
@pytest.mark.parametrize(("sizes", "changes"), [((4, 6), {}), ((4, 8, 8), {"shortcuts": True, "stem": 4})])
def test_pictures_in_graphs_equal_the_codec(sizes, changes):
    """Latents to 1e-5, colours to the one step of 255 that rounding can make, for any number of levels."""
    torch.manual_seed(0)
    blocks = (1,) * len(sizes)
    config = ImageAutoencoderConfig(
        latent_channels=4, encoder_widths=sizes, decoder_widths=sizes, encoder_blocks=blocks, decoder_blocks=blocks,
        **changes,
    )  # fmt: skip
    codec = ImageAutoencoder(config).eval()
    for weight in codec.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    codec.latent_mean.normal_()
    codec.latent_std.uniform_(0.5, 2)
    plain, graphs = (open_engine(tiny.model(), codec, name, CPU).pictures for name in ("plain", "openvino"))
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        latents = plain.encode(frames)
        assert (graphs.encode(frames) - latents).abs().max() <= 1e-5 * latents.abs().max()
        shown = plain.decode(latents[:, :1], latents.unsqueeze(0))
        again = graphs.decode(latents[:, :1], latents.unsqueeze(0))
    assert np.ptp(shown) > 20 and shown.shape == again.shape == frames.shape
    assert np.abs(shown.astype(int) - again).max() <= 1


@pytest.mark.parametrize("activated", [False, True])
def test_packed_weights_give_the_same_product(activated):
    from context_as_memory.engine.eager import Product, can_pack

    if not can_pack():
        pytest.skip("this torch has no packed products")
    layer, x = Linear(torch.randn(48, 32), torch.randn(48)), torch.randn(2, 7, 32)
    with torch.inference_mode():
        packed, plain = (Product(layer, torch.float32, activated, packed)(x) for packed in (True, False))
    assert (packed - plain).abs().max() <= 1e-4


# -- which engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"context_mode": "joint"}, "joint"),
        ({"context_mode": "cached"}, "cached"),
        ({"camera": "prope"}, "prope"),
        ({"camera": "additive", "context_mode": "cached"}, "additive"),
        ({"text_dim": 8}, "text"),
    ],
)
def test_other_weights_run_in_the_plain_network_and_that_is_said_once(changes, what, caplog):
    model = tiny.model(**changes)
    for _ in range(2):
        assert open_engine(model, tiny.codec(), "auto", CPU).name == "plain"
    assert len(caplog.messages) == 1 and what in caplog.messages[0]


def test_a_missing_engine_is_replaced_and_an_unknown_one_refused(monkeypatch, caplog):
    monkeypatch.setattr(engine, "_installed", lambda: False)
    model, codec = tiny.model(), tiny.codec()
    assert open_engine(model, codec, "auto", CPU).name == "torch"
    assert not caplog.messages
    assert open_engine(model, codec, "openvino", CPU).name == "torch"
    assert "not installed" in caplog.messages[0]
    with pytest.raises(UserError, match="'onnx' is not one of auto, plain"):
        open_engine(model, codec, "onnx", CPU)


def test_networks_are_shared_until_their_weights_change():
    model, codec = tiny.model(), tiny.codec()
    one = open_engine(model, codec, "torch", CPU)
    assert open_engine(model, codec, "torch", CPU).denoiser is one.denoiser
    inputs, latents, noisy = _inputs([3, 7]), torch.randn(4, 2, 4, 8), torch.randn(1, 4, 2, 4, 8)
    before = _asked("torch", model, latents, inputs, noisy)[0]
    with torch.no_grad():
        model.proj_out.weight.mul_(2)
    after = _asked("torch", model, latents, inputs, noisy)[0]
    assert (before - after).abs().max() > 0.01


def test_the_attention_kernel_follows_from_the_instruction_sets_alone(monkeypatch):
    for features, wanted in (({"avx2"}, fused_attention), ({"asimd"}, blocked_attention)):
        monkeypatch.setattr(machine, "features", lambda features=features: frozenset(features))
        attention_kernel.cache_clear()
        assert attention_kernel("cpu") is wanted
    attention_kernel.cache_clear()


# -- worlds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAST)
def test_a_walk_in_a_fast_engine_shows_what_the_plain_network_shows(name):
    cameras = tiny.walk(13)
    shown = []
    for kind in ("plain", name):
        world = tiny.world(engine=kind, memory_noise=0.2)
        world.reset(tiny.pictures(1), cameras[:1])
        shown.append(np.concatenate([chunk.frames_u8 for chunk in world.rollout(cameras[1:])]).astype(int))
    assert np.abs(shown[0] - shown[1]).max() <= 2, "twelve frames on, rounding has hardly grown"


def test_a_world_file_knows_what_it_was_made_with_and_says_what_has_changed(tmp_path, weights, caplog, monkeypatch):
    settings = json.loads((weights / "model.json").read_text()) | {"engine": "torch"}
    (weights / "model.json").write_text(json.dumps(settings))
    size = (settings["width"], settings["height"])
    cameras = tiny.walk(9).resized(*size)
    world = create_world(tmp_path / "world", weights, device="cpu")
    world.reset(np.zeros((1, size[1], size[0], 3), np.uint8), cameras[:1])
    world.step(cameras[1:3])
    file = file_of(world)
    assert file is not None
    made = file.settings["made_with"]
    assert made["engine"] == file.settings["config"]["engine"] == "torch"
    assert {"version", "numbers", "attention", "processor", "threads"} <= set(made)
    assert world.bank.store.notes()[-1][1]["made_with"] == made
    world.close()
    open_world(tmp_path / "world", device="cpu").close()
    assert not caplog.messages
    monkeypatch.setattr(machine, "processor", lambda: "another kind")
    open_world(tmp_path / "world", device="cpu").close()
    assert len(caplog.messages) == 1
    assert "processor another kind" in caplog.messages[0] and "last bits" in caplog.messages[0]


def test_what_is_not_known_makes_no_difference():
    assert differences({}, {"engine": "torch"}) is None
    assert differences({"engine": "torch", "gone": 1}, {"engine": "torch", "numbers": "float32"}) is None
    assert "engine plain and goes on with engine torch" in str(differences({"engine": "plain"}, {"engine": "torch"}))


def test_the_cache_keeps_what_was_used_last_of_one_memory():
    cache, asked, memory = ContextCache(3), [], object()

    def read(entries):
        asked.append(entries)
        return [f"frame {entry}" for entry in entries]

    assert cache.read(memory, [0, 1, 2], read) == ["frame 0", "frame 1", "frame 2"]
    assert cache.read(memory, [1, 3], read) == ["frame 1", "frame 3"]  # 0 goes
    assert cache.read(memory, [0, 4, 5, 6], read) == [
        "frame 0",
        "frame 4",
        "frame 5",
        "frame 6",
    ]  # more than are cached
    assert asked == [[0, 1, 2], [3], [0, 4, 5, 6]] and len(cache) == 3
    cache.read(object(), [6], read)
    assert asked[-1] == [6], "another memory's entries are other frames"
    assert cache.read(memory, [6], lambda entries: None) is None


# -- threads -----------------------------------------------------------------------------------------------------------


def _environment(program: str, **changes: str) -> list[str]:
    held = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    source = os.path.dirname(os.path.dirname(machine.__file__))
    run = subprocess.run(
        [sys.executable, "-c", program], env=held | {"PYTHONPATH": source} | changes, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_the_cache_keeps_less_where_memory_is_short(monkeypatch):
    """Half of what nobody uses, what the cache itself holds counted in."""
    cache, asked, memory = ContextCache(8), [], object()

    def read(entries):
        asked.extend(entries)
        return [[(torch.zeros(25), torch.zeros(25))] for _ in entries]  # 200 bytes a frame

    free = {"bytes": 10**6}
    monkeypatch.setattr(context_cache, "free_bytes", lambda device: free["bytes"])
    cache.read(memory, [0, 1, 2, 3, 4, 5], read)
    assert len(cache) == 6
    free["bytes"] = 100
    found = cache.read(memory, [4, 5, 6], read)  # seven frames of 200 bytes, and 100 bytes: room for three
    assert len(found) == 3 and len(cache) == 3 and asked == [0, 1, 2, 3, 4, 5, 6]
    free["bytes"] = None
    cache.read(memory, list(range(8)), read)
    assert len(cache) == 8


def test_free_memory_is_told():
    assert 10**6 < free_bytes(CPU) < 10**14


def test_threads_wait_asleep_unless_the_user_says_otherwise():
    told = "import os, sys, context_as_memory; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    assert _environment(told) == ["PASSIVE", "False"]
    assert _environment(told, OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "False"]
    assert _environment(told, GOMP_SPINCOUNT="1000") == ["None", "False"]
    late = "import sys; sys.modules['torch'] = sys; " + told  # torch has read its environment already
    assert _environment(late) == ["None", "True"]


def test_help_says_how_threads_wait(capsys):
    from context_as_memory.cli.main import main

    with pytest.raises(SystemExit):
        main(["--help"])
    assert "OMP_WAIT_POLICY=PASSIVE" in capsys.readouterr().out


def test_bf16_can_be_hidden(monkeypatch):
    monkeypatch.setattr(machine, "features", lambda: frozenset({"amx_bf16"}))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert machine.has_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not machine.has_bf16()
