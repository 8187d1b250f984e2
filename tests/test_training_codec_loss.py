"""The autoencoder's coarser shape, and what it is asked for besides the picture itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import tiny
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.errors import UserError
from context_as_memory.training import recipes
from context_as_memory.training.codec_loss import CodecLossConfig, _moved, codec_loss, eight_bit, went_round


def test_codec_with_a_coarser_stem_and_shortcuts():
    config = replace(recipes.codec_light().model, encoder_widths=(8, 16, 16), decoder_widths=(8, 16, 32))
    codec = ImageAutoencoder(replace(config, latent_channels=8))
    assert codec.spatial_factor == 16
    latents = codec.encode_images(torch.randn(2, 3, 32, 48))
    assert latents.shape == (2, 8, 2, 3) and codec.decode_images(latents).shape == (2, 3, 32, 48)
    for body in (part for part in codec.modules() if isinstance(part, nn.Conv2d)):
        nn.init.zeros_(body.weight)
    grey = codec.encode_images(torch.zeros(1, 3, 32, 32))
    ramp = codec.encoder[-1](torch.arange(16.0).view(1, 16, 1, 1).expand(1, 16, 2, 2))
    assert ramp.flatten(1).unique().tolist() == pytest.approx([0.5 + 2 * i for i in range(8)], abs=0.2), (
        "means of pairs"
    )
    assert grey.isfinite().all()
    with pytest.raises(UserError, match="divide each other"):
        ImageAutoencoder(replace(config, latent_channels=10))


def test_moved_latents_are_compared_with_the_picture_moved_alike():
    """An autoencoder that only averages and interpolates has latents that move with the picture, where it is smooth."""

    class Blocks(nn.Module):
        spatial_factor = 8

        def encode_images(self, images):
            return nn.functional.avg_pool2d(images, 8)

        def decode_images(self, latents):
            return nn.functional.interpolate(latents, scale_factor=8, mode="bilinear", align_corners=False)

    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
    smooth = nn.functional.interpolate(images[..., :3, :3], (96, 96), mode="bilinear", align_corners=True)
    kinds = set()
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        latents, goal = _moved(Blocks().encode_images(smooth), smooth, 8, generator)
        output = Blocks().decode_images(latents)
        assert output.shape == goal.shape
        kinds.add(goal.shape[-1])
        inside = (..., slice(8, -8), slice(8, -8))
        error = (output - goal)[inside].abs().mean()
        unmoved = (output - smooth[..., : goal.shape[-2], : goal.shape[-1]])[inside].abs().mean()
        assert error < 0.06 and (unmoved < 0.06 or error < 0.5 * unmoved)
    assert 96 in kinds and len(kinds) > 2


def test_the_second_round_is_measured_in_steps_of_eight_bits():
    half = torch.tensor([0.0, 0.3 / 127.5, 5.0], requires_grad=True)
    stored = eight_bit(half)
    assert torch.allclose((stored + 1) * 127.5, ((stored + 1) * 127.5).round(), atol=1e-4) and stored.max() == 1
    stored.sum().backward()
    assert half.grad.tolist() == [1, 1, 0]
    codec, images = tiny.codec(), torch.rand(2, 3, 48, 48).mul(2).sub(1)
    config = CodecLossConfig(rounds=1.0)
    loss, figures = codec_loss(codec, images, config, torch.Generator().manual_seed(0))
    once, _ = codec_loss(codec, images, replace(config, rounds=0.0), torch.Generator().manual_seed(0))
    extra = config.round_latent * figures["round_latent"] + config.round_picture * figures["round_picture"]
    assert loss.item() == pytest.approx(once.item() + extra, rel=1e-5)


@torch.no_grad()
def test_a_step_may_begin_with_a_picture_that_went_round_before():
    codec, images = tiny.codec(), torch.rand(2, 3, 48, 48).mul(2).sub(1)
    rounds = [went_round(codec, images, count) for count in range(4)]
    assert torch.equal(rounds[0], images)
    assert torch.equal(rounds[3], eight_bit(codec.decode_images(codec.encode_images(rounds[2]))))
    config = CodecLossConfig(rounds=1.0, earlier_rounds=2, latent_noise=0.0)
    outputs = [codec.decode_images(codec.encode_images(shown)).clamp(-1, 1) for shown in rounds[:3]]
    expected = [float(10 * torch.log10(4 / (output - images).square().mean())) for output in outputs]
    found = set()
    for seed in range(8):
        _, figures = codec_loss(codec, images, config, torch.Generator().manual_seed(seed))
        found |= {count for count in range(3) if figures["psnr_db"] == pytest.approx(expected[count], abs=1e-4)}
    assert found == {0, 1, 2}
