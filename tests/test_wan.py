"""The Wan codec on tiny random models of both styles; the reference is diffusers' own encode and decode."""

import importlib.util
import json
import sys

import pytest
import torch

from context_as_memory.adapters import wan as codec_wan
from context_as_memory.adapters.wan import WanCodec
from context_as_memory.compute import fast
from context_as_memory.errors import UserError

pytest.importorskip("diffusers")

SPATIAL = {"2.1": 8, "2.2": 16}


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def style(request):
    return request.param


@pytest.fixture(scope="module")
def codec(style):
    return WanCodec.tiny(style)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def random_video(codec, frames, seed=0, batch=2):
    size = 2 * codec.spatial_factor
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, size, size + codec.spatial_factor, generator=generator) * 2 - 1


def random_latents(codec, n, seed=0, batch=2):
    return torch.randn(batch, codec.latent_channels, n, 2, 3, generator=torch.Generator().manual_seed(seed))


def stats(codec):
    config = codec.vae.config
    return (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))


def reference_decode(codec, latents):
    mean, std = stats(codec)
    return codec.vae.decode(latents * std + mean).sample


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_factors(codec, style):
    assert (codec.temporal_factor, codec.spatial_factor, codec.latent_channels) == (4, SPATIAL[style], 4)


def test_default_configuration_is_wan_2_1():
    with torch.device("meta"):
        codec = WanCodec.from_config({})
    assert (codec.temporal_factor, codec.spatial_factor, codec.latent_channels) == (4, 8, 16)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_frame_counts_and_shapes(codec, n):
    latents = codec.encode_clip(random_video(codec, 1 + 4 * n))
    assert latents.shape == (2, 4, 1 + n, 2, 3)
    video = codec.decode(latents)
    assert video.shape == random_video(codec, 1 + 4 * n).shape
    assert video.abs().max() <= 1 and video.std() > 1e-3
    assert codec.encode_frames(random_video(codec, 1 + n)).shape == latents.shape


def test_encode_clip_matches_diffusers_and_is_normalised(codec):
    video = random_video(codec, 9)
    mean, std = stats(codec)
    assert_close(codec.encode_clip(video), (codec.vae.encode(video).latent_dist.mode() - mean) / std)


def test_whole_decode_matches_diffusers(codec):
    latents = random_latents(codec, 3)
    assert_close(codec.decode(latents), reference_decode(codec, latents))


def test_first_latent_of_a_clip_is_its_first_frame_alone(codec):
    video = random_video(codec, 9)
    assert_close(codec.encode_clip(video)[:, :, :1], codec.encode_frames(video[:, :, :1]))


def test_frames_are_encoded_independently(codec, monkeypatch):
    video = random_video(codec, 5)
    together = codec.encode_frames(video)
    # More than one batch item: frames and items must not be mixed up.
    for t in range(5):
        assert_close(together[:, :, t : t + 1], codec.encode_clip(video[:, :, t : t + 1]))
    monkeypatch.setattr("context_as_memory.adapters.wan._FRAMES_AT_ONCE", 3)
    assert_close(codec.encode_frames(video), together)


@pytest.mark.parametrize("changed", [1, 4, 5, 8])
def test_encoding_is_causal(codec, changed):
    """Frame 0 is latent 0, frames 1-4 latent 1, frames 5-8 latent 2."""
    video = random_video(codec, 9)
    before = codec.encode_clip(video)
    video[:, :, changed] = -video[:, :, changed]
    difference = (codec.encode_clip(video) - before).abs().amax(dim=(0, 1, 3, 4))
    own = (changed + 3) // 4
    assert (difference[:own] <= 1e-6).all() and difference[own] > 1e-4


def test_decoding_is_causal(codec):
    latents = random_latents(codec, 3)
    before = codec.decode(latents)
    latents[:, :, 2] = -latents[:, :, 2]
    difference = (codec.decode(latents) - before).abs().amax(dim=(0, 1, 3, 4))
    assert (difference[:5] <= 1e-6).all() and (difference[5:] > 1e-4).all()


@pytest.mark.parametrize("split", [[1, 1, 1, 1], [1, 3], [2, 2], [3, 1], [4]])
def test_streaming_equals_whole(codec, split):
    latents = random_latents(codec, 4)
    cache, pieces = None, []
    for part in latents.split(split, dim=2):
        piece, cache = codec.decode_next(part, cache)
        pieces.append(piece)
    assert [piece.shape[2] for piece in pieces] == [4 * split[0] - 3, *(4 * n for n in split[1:])]
    assert_close(torch.cat(pieces, dim=2), reference_decode(codec, latents))


def test_interleaved_streams_do_not_disturb_each_other(codec):
    streams = [random_latents(codec, 3, seed=1), random_latents(codec, 3, seed=2, batch=1)]
    caches, pieces = [None, None], [[], []]
    for t in range(3):
        for s, latents in enumerate(streams):
            piece, caches[s] = codec.decode_next(latents[:, :, t : t + 1], caches[s])
            pieces[s].append(piece)
            codec.encode_clip(random_video(codec, 5))  # encoding in between must not matter either
    for latents, parts in zip(streams, pieces, strict=True):
        assert_close(torch.cat(parts, dim=2), reference_decode(codec, latents))


def test_a_cache_is_a_value(codec):
    """One stream branched twice from the same cache: the first branch leaves the second untouched."""
    past, one, other = (random_latents(codec, 2, seed=s) for s in range(3))
    _, cache = codec.decode_next(past, None)
    codec.decode_next(one, cache)
    piece, _ = codec.decode_next(other, cache)
    assert_close(piece, reference_decode(codec, torch.cat([past, other], dim=2))[:, :, 5:])


def test_save_and_load(codec, tmp_path):
    video = random_video(codec, 5)
    codec.save_pretrained(tmp_path / "pipeline" / "vae")
    for path in (tmp_path / "pipeline" / "vae", str(tmp_path / "pipeline")):
        loaded = WanCodec.from_pretrained(path)
        assert torch.equal(loaded.encode_clip(video), codec.encode_clip(video))
        assert torch.equal(loaded.decode(random_latents(codec, 2)), codec.decode(random_latents(codec, 2)))


def test_half_precision_casts_its_inputs(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    half = WanCodec.from_pretrained(tmp_path, dtype=torch.bfloat16)
    latents = half.encode_clip(random_video(codec, 5))
    assert latents.dtype == torch.bfloat16
    torch.testing.assert_close(latents.float(), codec.encode_clip(random_video(codec, 5)), rtol=0, atol=0.05)
    assert half.decode(random_latents(codec, 2)).dtype == torch.bfloat16


def test_fast_keeps_the_encoder_exact(codec, style):
    """What a GPU gets: the decoder in bf16, and an encoder that gives the very same latents."""
    video, latents = random_video(codec, 5), random_latents(codec, 2)
    quick = fast(WanCodec.tiny(style), torch.device("cpu"), torch.bfloat16)
    assert torch.equal(quick.encode_clip(video), codec.encode_clip(video))
    pictures = quick.decode(latents)
    assert pictures.dtype == torch.bfloat16
    torch.testing.assert_close(pictures.float(), codec.decode(latents), rtol=0, atol=0.05)


def test_tiny_is_seeded_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    weights = [WanCodec.tiny(seed=seed).vae.encoder.conv_in.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("frames", [2, 3, 4, 6, 8])
def test_wrong_clip_length(codec, frames):
    below = 1 if frames < 5 else 5
    with pytest.raises(UserError, match=f"clip of {frames} frames.* {below} or {below + 4}$"):
        codec.encode_clip(random_video(codec, frames))


def test_wrong_shapes(codec):
    video, latents = random_video(codec, 1), random_latents(codec, 1)
    for bad in (video[:, :2], video[0], video[:, :, :0]):
        with pytest.raises(UserError, match="video must be"):
            codec.encode_frames(bad)
    with pytest.raises(UserError, match="multiples of"):
        codec.encode_clip(video[..., :-4])
    for bad in (latents[:, :2], latents[0], latents[:, :, :0]):
        with pytest.raises(UserError, match="latents must be"):
            codec.decode_next(bad, None)
    _, cache = codec.decode_next(latents, None)
    with pytest.raises(UserError, match="start a new one"):
        codec.decode_next(latents[..., :-1], cache)


def test_bad_configurations(tmp_path):
    with pytest.raises(UserError, match="'base_dims'"):
        WanCodec.from_config({"base_dims": 8})
    with pytest.raises(UserError, match="latents_mean .*16 values but z_dim is 4"):
        WanCodec.from_config({"base_dim": 8, "z_dim": 4})
    with pytest.raises(UserError, match="style '3'"):
        WanCodec.tiny("3")


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match="no Wan VAE at"):
        WanCodec.from_pretrained(tmp_path / "nowhere")
    config_file = tmp_path / "config.json"
    config_file.write_text("{")
    with pytest.raises(UserError, match="cannot load"):
        WanCodec.from_pretrained(tmp_path)
    config_file.write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match="describes a model AutoencoderKL, not"):
        WanCodec.from_pretrained(tmp_path)
    WanCodec.tiny().save_pretrained(tmp_path)
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"num_res_blocks": 2}))
    with pytest.raises(UserError, match="lack"):
        WanCodec.from_pretrained(tmp_path)
    config_file.write_text(json.dumps(config | {"base_dim": 16}))
    with pytest.raises(UserError, match="cannot load"):
        WanCodec.from_pretrained(tmp_path)
    config_file.write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load"):
        WanCodec.from_pretrained(tmp_path)


def test_diffusers_is_imported_late_and_named_when_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    spec = importlib.util.spec_from_file_location("context_as_memory.adapters.wan", codec_wan.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # a fresh import, which must not need diffusers
    with pytest.raises(UserError, match=r"the Wan codec needs diffusers: pip install 'diffusers"):
        module.WanCodec.tiny()
