"""Memory and the one generation loop, with tiny real components."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.data.dataset import LatentStore, SamplingConfig, collate, sample_segment
from context_as_memory.diffusion import TIMESTEPS, FlowMatching, add_noise, clean_from_velocity, sample_flow, velocity
from context_as_memory.errors import UserError
from context_as_memory.memory import MemoryBank
from context_as_memory.retrieval import Retrieval, RetrievalConfig
from context_as_memory.server.forgetful import forgetful
from context_as_memory.tokens import TokenLayout, build_model_inputs
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import fingerprint, from_pretrained, save_pretrained
from context_as_memory.world import World, WorldConfig


def _rolled(world: World, cameras, start: int = 1):
    world.reset(tiny.pictures(start), cameras[:start])
    return list(world.rollout(cameras[start:]))


def test_rollout_gives_one_frame_per_camera_and_remembers_all():
    cameras = tiny.walk(12)
    world = tiny.world()
    chunks = _rolled(world, cameras)
    assert [len(chunk.frames_u8) for chunk in chunks] == [2, 2, 2, 2, 2, 1]
    assert len(world.bank) == 12
    np.testing.assert_array_equal(world.bank.cameras.c2w, cameras.c2w)
    generated = np.concatenate([chunk.frames_u8 for chunk in chunks])
    np.testing.assert_array_equal(world.bank.frames_u8(slice(1, None)), generated)
    for chunk in chunks:
        assert set(chunk.seconds) == {"retrieve", "encode", "denoise", "decode"}
    for number, chunk in enumerate(chunks):
        assert chunk.retrieval.frame_ids[-1] == 2 * number, "the most recent frame is always in the context, last"
        assert len(set(chunk.retrieval.frame_ids)) == len(chunk.retrieval.frame_ids) <= 4


def test_same_seed_same_world_and_another_seed_another():
    cameras = tiny.walk(9)
    one, same, other = (_rolled(tiny.world(seed=seed), cameras) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a.frames_u8, b.frames_u8)
    assert any((a.frames_u8 != b.frames_u8).any() for a, b in zip(one, other, strict=True))


def test_reset_leaves_a_fresh_world():
    cameras = tiny.walk(9)
    used = tiny.world()
    _rolled(used, tiny.walk(15, seed=5))
    for a, b in zip(_rolled(used, cameras), _rolled(tiny.world(), cameras), strict=True):
        np.testing.assert_array_equal(a.frames_u8, b.frames_u8)


@pytest.mark.parametrize("cached_frames", [0, 3, 32])
def test_keeping_keys_and_values_changes_nothing_but_time(cached_frames):
    """A long walk that keeps few or many frames' keys and values equals one that computes all in every chunk."""
    cameras = tiny.walk(31)
    rule = RetrievalConfig(max_context=3)
    world, plain = (tiny.world(cached_frames=frames, retrieval=rule) for frames in (cached_frames, 0))
    encoded = []
    encode = world.model.encode_context
    world.model.encode_context = lambda latents, *rest, **more: (
        encoded.append(latents.shape[2]) or encode(latents, *rest, **more)
    )
    used = 0
    for chunk, reference in zip(_rolled(world, cameras), _rolled(plain, cameras), strict=True):
        used += len(chunk.retrieval.frame_ids)
        np.testing.assert_array_equal(chunk.retrieval.frame_ids, reference.retrieval.frame_ids)
        difference = chunk.frames_u8.astype(int) - reference.frames_u8
        assert np.abs(difference).max() <= 1, "equal up to rounding"
        assert len(world._read) <= cached_frames
    assert sum(encoded) == used if cached_frames == 0 else sum(encoded) < used


def test_memory_is_read():
    """Another picture in the memory, another next frame."""
    cameras = tiny.walk(9)
    changed = tiny.pictures(5)
    changed[1] = 255 - changed[1]
    frames = []
    for start in (tiny.pictures(5), changed):
        world = tiny.world(retrieval=RetrievalConfig(strategy="first", max_context=4))
        world.reset(start, cameras[:5])
        frames.append(world.step(cameras[5:7]).frames_u8)
    assert (frames[0] != frames[1]).any()


def test_a_video_codec_with_temporal_factor_four_walks_too():
    """Wan's codec: a chunk of 2 latents is 8 frames, decoded as the continuation of the recent frame."""
    pytest.importorskip("diffusers")
    from context_as_memory.adapters.wan import WanCodec

    codec = WanCodec.tiny().eval()
    channels = codec.latent_channels
    settings = WorldConfig(width=32, height=16, chunk_latents=2, num_steps=1, retrieval=RetrievalConfig(max_context=4))
    world = World(tiny.model(in_channels=channels, out_channels=channels), codec, settings, device="cpu")
    cameras = tiny.walk(14)
    world.reset(tiny.pictures(1), cameras[:1])
    assert [len(chunk.frames_u8) for chunk in world.rollout(cameras[1:])] == [8, 5]
    assert len(world.bank) == 14
    np.testing.assert_array_equal(world.bank.cameras.c2w, cameras.c2w)


def test_a_step_without_commit_leaves_the_memory_alone():
    cameras = tiny.walk(9)
    world = tiny.world()
    world.reset(tiny.pictures(5), cameras[:5])
    first = world.step(cameras[5:7], commit=False)
    for strategy in ("recent", "random", "first", "paper"):
        rule = RetrievalConfig(strategy=strategy, max_context=4)
        assert len(world.step(cameras[5:7], retrieval=rule, commit=False).frames_u8) == 2
    assert len(world.bank) == 5
    np.testing.assert_array_equal(world.step(cameras[5:7]).frames_u8, first.frames_u8)


def test_a_step_takes_the_context_it_is_given():
    """As a retrieval, instead of a rule: the same choice gives the same frames, another one others."""
    cameras = tiny.walk(9)
    world = tiny.world()
    world.reset(tiny.pictures(5), cameras[:5])
    chosen = world.step(cameras[5:7], commit=False)
    given = world.step(cameras[5:7], retrieval=chosen.retrieval, commit=False)
    np.testing.assert_array_equal(given.frames_u8, chosen.frames_u8)
    other = Retrieval(np.array([0, 1, 2, 4]), np.zeros(4), np.arange(5))
    wrong = world.step(cameras[5:7], retrieval=other, commit=False)
    np.testing.assert_array_equal(wrong.retrieval.frame_ids, [0, 1, 2, 4])


def test_bad_input_is_one_clear_error():
    cameras = tiny.walk(9)
    world = tiny.world()
    with pytest.raises(UserError, match="empty"):
        world.step(cameras[:1])
    with pytest.raises(UserError, match="no start frame"):
        world.reset(tiny.pictures(0), cameras[:0])
    world.reset(tiny.pictures(1), cameras[:1])
    with pytest.raises(UserError, match="32x16"):
        world.reset(np.zeros((1, 8, 8, 3), np.uint8), cameras[:1])
    assert len(world.bank) == 1, "a refused reset leaves the world as it was"
    with pytest.raises(UserError, match="1 to 2 cameras"):
        world.step(cameras[:3])


def test_bank_refuses_what_does_not_belong_together():
    cameras = tiny.walk(4)
    bank = MemoryBank()
    latents = torch.zeros(4, 3, 2, 4)
    with pytest.raises(UserError, match="one of each"):
        bank.append(tiny.pictures(3), cameras, latents)
    with pytest.raises(UserError, match="pictures"):
        bank.append(tiny.pictures(3)[:, :8], cameras[:3], latents)
    assert len(bank) == 0
    bank.append(tiny.pictures(3), cameras[:3], latents + 7)
    bank.append(tiny.pictures(1), cameras[3:], latents[:, :1])
    np.testing.assert_array_equal(bank.cameras.c2w, cameras.c2w)
    assert bank.latents(np.array([3, 0]))[:, :, 0, 0].tolist() == [[0.0, 7.0]] * 4
    np.testing.assert_array_equal(bank.frames_u8(1), tiny.pictures(3)[1:2])


def test_dataset_and_world_build_identical_inputs():
    """The training sample of a chunk and the world's step on the same memory see the same tensors."""
    cameras = tiny.walk(60)
    layout, rule = TokenLayout(num_targets=2, max_context=4), RetrievalConfig(max_context=4)
    config = SamplingConfig(
        chunks=1, max_stride=1, pool_frames=(60, 60), radius_m=50.0, hidden_frames=(1, 1), causal=1.0, recent_only=0.0,
        random_context=0.0, jump=0.0,
    )  # fmt: skip
    latents = np.random.default_rng(1).normal(size=(60, 4, 2, 4)).astype(np.float16)
    store = LatentStore([latents], torch.device("cpu"))
    compared = 0
    for seed in range(40):
        segment = sample_segment(cameras, layout, rule, config, np.random.default_rng(seed))
        targets = segment.target_index[0]
        if targets[1] < targets[0]:
            continue  # drawn backwards in time; the world below walks forwards
        batch = collate([segment], [0])
        world = tiny.world()
        bank_size = int(targets[0])
        world.bank = MemoryBank()
        world.bank.append(
            tiny.pictures(bank_size), cameras[:bank_size], torch.from_numpy(latents[:bank_size]).float().swapaxes(0, 1)
        )
        seen = {}
        original = world.model.prepare

        def spy(pool, inputs, seen=seen, original=original, **more):
            seen.update(pool=pool, inputs=inputs)
            return original(pool, inputs, **more)

        world.model.prepare = spy
        world.step(cameras[targets])
        slots = seen["inputs"].context_mask.shape[2]
        mask = batch.inputs.context_mask[0, 0]
        assert int(mask.sum()) == slots
        pool = store.read(batch.pool_frames)[:, :, batch.inputs.context_index[0, 0][mask]]
        np.testing.assert_array_equal(pool.numpy(), seen["pool"].numpy())
        for mine, theirs in zip(batch.inputs.context_cameras, seen["inputs"].context_cameras, strict=True):
            np.testing.assert_array_equal(mine[:, :, :slots].numpy(), theirs.numpy())
        for mine, theirs in zip(batch.inputs.target_cameras, seen["inputs"].target_cameras, strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
        assert batch.inputs.context_positions[:slots] == seen["inputs"].context_positions
        assert batch.inputs.target_positions == seen["inputs"].target_positions
        compared += 1
    assert compared >= 10


def test_the_most_recent_frame_has_slot_0_and_retrieved_ones_share_a_position():
    cameras = tiny.walk(30)
    layout = TokenLayout(num_targets=2, max_context=5)
    from context_as_memory.retrieval import retrieve

    found = retrieve(cameras[:20], cameras[20:22], RetrievalConfig(max_context=5), recent=19)
    inputs = build_model_inputs(layout, cameras[:20], cameras[20:22], found, slots=5)
    count = len(found.frame_ids)
    assert int(inputs.context_index[0, 0, 0]) == 19
    assert inputs.context_index[0, 0, 1:count].tolist() == found.frame_ids[:-1].tolist()
    assert inputs.context_mask[0, 0].tolist() == [True] * count + [False] * (5 - count)
    assert inputs.context_positions == (0, 3, 3, 3, 3)
    assert inputs.target_positions == (1, 2)
    assert torch.allclose(inputs.target_cameras.c2w[0, 0, 0], torch.eye(4), atol=1e-6), "relative to the first target"


def test_model_folder_round_trip_and_foreign_weights(tmp_path):
    from context_as_memory.training import recipes
    from context_as_memory.training.denoiser import save_model

    recipe = recipes.denoiser_tiny()
    model, codec = tiny.model(), tiny.codec()
    save_model(recipe, model.state_dict(), codec, (tiny.WIDTH, tiny.HEIGHT), tmp_path / "model")
    world = World.from_pretrained(tmp_path / "model", device="cpu", seed=5)
    assert world.config == WorldConfig(
        width=tiny.WIDTH,
        height=tiny.HEIGHT,
        chunk_latents=2,
        num_steps=2,
        seed=5,
        retrieval=recipe.retrieval,
        flow=recipe.sampling_flow,
        memory_noise=recipe.memory_noise,
    )
    for (name, mine), theirs in zip(model.state_dict().items(), world.model.state_dict().values(), strict=True):
        assert (mine - theirs.float()).abs().max() <= 2e-3 * max(1.0, float(mine.abs().max())), name

    with pytest.raises(UserError, match="not a WorldTransformer"):
        from_pretrained(tmp_path / "model" / "vae", expect=WorldTransformer)
    config = tmp_path / "model" / "transformer" / "config.json"
    original = config.read_text()
    config.write_text(original.replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(UserError, match="lacks blocks.2"):
        World.from_pretrained(tmp_path / "model")
    config.write_text(original.replace('"num_layers"', '"layers"'))
    with pytest.raises(UserError, match="unknown key 'layers'"):
        World.from_pretrained(tmp_path / "model")
    config.write_text(original)
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        World.from_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="no folder"):
        World.from_pretrained(tmp_path / "nothing")


def test_a_model_folder_may_hold_wans_autoencoder(tmp_path):
    pytest.importorskip("diffusers")
    from context_as_memory.adapters.wan import WanCodec

    codec = WanCodec.tiny()
    codec.save_pretrained(tmp_path / "vae")
    channels = codec.latent_channels
    save_pretrained(tiny.model(in_channels=channels, out_channels=channels), tmp_path / "transformer")
    (tmp_path / "model.json").write_text('{"width": 32, "height": 16, "chunk_latents": 2, "num_steps": 1}')
    world = World.from_pretrained(tmp_path, device="cpu")
    cameras = tiny.walk(9)
    assert [len(chunk.frames_u8) for chunk in _rolled(world, cameras)] == [8]


def test_a_model_folder_with_the_former_file_name_asks_for_a_new_one(tmp_path):
    tiny.save_model(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / "model.json").rename(tmp_path / "world.json")
    with pytest.raises(UserError, match=r"world\.json is called model\.json now; rename the file"):
        World.from_pretrained(tmp_path, device="cpu")
    assert fingerprint(tmp_path) == before, "a new name is no other model"


@pytest.mark.parametrize("values", [{"given_bonus": 0.3}, {"coverage": {"given_bonus": 0.3}}])
def test_former_names_of_settings_are_read(tmp_path, values):
    tiny.save_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"kept_frames": 7, "retrieval": values}))
    config = World.from_pretrained(tmp_path, device="cpu").config
    assert config.cached_frames == 7 and config.retrieval.coverage.recorded_bonus == 0.3


def test_saving_keeps_sixteen_bit_floats(tmp_path):
    codec = tiny.codec()
    save_pretrained(codec, tmp_path)
    back = from_pretrained(tmp_path)
    for mine, theirs in zip(codec.state_dict().values(), back.state_dict().values(), strict=True):
        assert torch.equal(mine.half().float(), theirs)


# -- flow matching -----------------------------------------------------------------------------------------------------


def test_looking_back_a_step_is_of_second_order():
    """The flow to a Gaussian of deviation s around 0 ends at s times the noise: errors against the number of steps."""
    deviation, noise = 0.5, torch.full((1, 1), 1.0, dtype=torch.float64)

    def predict(x, timestep):
        sigma = timestep[:, None] / TIMESTEPS
        variance = (1 - sigma) ** 2 * deviation**2 + sigma**2
        return (sigma - (1 - sigma) * deviation**2) / variance * x

    def error(steps, multistep):
        sigmas = FlowMatching().sampling_sigmas(steps).double()
        return abs(float(sample_flow(predict, noise, sigmas, multistep)) - deviation)

    assert error(64, True) < error(64, False) / 10
    assert error(8, True) / error(64, True) > 20 > error(8, False) / error(64, False)


def test_noise_on_memory_belongs_to_the_frame_and_spares_given_ones():
    plain, noisy = tiny.world(), tiny.world(memory_noise=0.3)
    for world in (plain, noisy):
        world.reset(tiny.pictures(2), tiny.walk(2))
        world.step(tiny.walk(4)[2:])
    given, made = noisy._context_latents([0, 1]), noisy._context_latents([2, 3])
    assert torch.equal(given, noisy.bank.latents(np.array([0, 1])))
    assert 0.1 < (made - noisy.bank.latents(np.array([2, 3]))).std() < 0.5
    assert torch.equal(made, noisy._context_latents([2, 3])) and torch.equal(made[:, 1:], noisy._context_latents([3]))
    assert torch.equal(plain._context_latents([2, 3]), plain.bank.latents(np.array([2, 3])))
    assert torch.equal(forgetful(noisy, 2)._context_latents([1]), noisy._context_latents([3]))


def test_the_true_velocity_leads_from_noise_to_the_sample():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    for steps in (1, 2, 7):
        sigmas = FlowMatching(shift=3.0).sampling_sigmas(steps)
        for multistep in (False, True):
            found = sample_flow(lambda _, t: velocity(x, noise), noise, sigmas, multistep)
            assert (found - x).abs().max() < 1e-5
    sigma = torch.tensor([0.2, 0.5, 0.9])
    assert (clean_from_velocity(add_noise(x, noise, sigma), velocity(x, noise), sigma) - x).abs().max() < 1e-5


def test_preconditioned_outputs_have_unit_variance_and_give_the_velocity():
    """The exact residual, fed back, is the exact velocity; it has about unit variance at every noise level."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(5, 4000, generator=generator), torch.randn(5, 4000, generator=generator)
    sigma = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    noisy, flow = add_noise(x, noise, sigma), FlowMatching(preconditioned=True)
    given = flow.velocity_of(torch.zeros_like(x), noisy, sigma)
    scale = flow.velocity_of(torch.ones_like(x), noisy, sigma) - given
    residual = (velocity(x, noise) - given) / scale
    assert (flow.velocity_of(residual, noisy, sigma) - velocity(x, noise)).abs().max() < 1e-5
    assert (residual.std(dim=1) - 1).abs().max() < 0.05
    assert (residual[4] + x[4]).abs().max() < 1e-5, "at pure noise: minus the sample"
    assert (residual[0] - noise[0]).abs().max() < 1e-5, "without noise: the noise"
    assert FlowMatching().velocity_of(x, noisy, sigma) is x


def test_noise_levels():
    flow = FlowMatching(shift=3.0)
    sigmas = flow.sampling_sigmas(4)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert abs(float(sigmas[2]) - 0.75) < 1e-6, "shift 3 moves 1/2 to 3/4"
    drawn = flow.training_sigmas(4000, torch.Generator().manual_seed(0))
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert abs(float(drawn.median()) - 0.75) < 0.02
    with pytest.raises(UserError):
        replace(flow, shift=0.0)
    with pytest.raises(UserError):
        flow.sampling_sigmas(0)
