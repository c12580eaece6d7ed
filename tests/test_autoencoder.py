"""Pictures to latents and back: our patches, and the autoencoders of `diffusers`."""

import pytest
import torch

from rapid_diffusion.autoencoder import (
    DiffusersAutoencoder,
    PatchAutoencoder,
    PatchConfig,
    load_autoencoder,
)
from rapid_diffusion.model_folder import stored


def pictures(count=4, side=16):
    """Smooth random pictures in [-1, 1]."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def fitted(channels, patch=4):
    autoencoder = PatchAutoencoder(PatchConfig(patch, channels))
    return autoencoder, autoencoder.fit(pictures())


def test_all_components_give_the_picture_back():
    autoencoder, decibels = fitted(48)
    latents = autoencoder.encode(pictures())
    assert latents.shape == (4, 48, 4, 4)
    assert torch.allclose(autoencoder.decode(latents), pictures(), atol=1e-3)
    assert decibels > 60


def test_more_components_lose_less():
    losses = [fitted(channels)[1] for channels in (3, 6, 12, 24)]
    assert losses == sorted(losses)


def test_latents_have_unit_variance_overall_and_no_mean():
    autoencoder, _ = fitted(8)
    latents = autoencoder.encode(pictures())
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert latents.square().mean() == pytest.approx(1, abs=1e-3)


def test_fine_channels_are_lifted_but_not_to_the_height_of_coarse_ones():
    autoencoder, _ = fitted(8)
    variances = autoencoder.encode(pictures()).square().mean(dim=(0, 2, 3))
    assert (variances.diff() <= 1e-6).all()
    plain = variances / autoencoder.scale**2
    assert variances[0] / variances[-1] < plain[0] / plain[-1]


def test_decoding_undoes_encoding_for_any_latents():
    autoencoder, _ = fitted(8)
    latents = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(autoencoder.encode(autoencoder.decode(latents)), latents, atol=1e-4)


def test_white_only_pictures_can_be_fitted():
    autoencoder = PatchAutoencoder(PatchConfig(2, 4))
    autoencoder.fit(torch.ones(2, 3, 4, 4))
    assert torch.allclose(autoencoder.decode(torch.zeros(1, 4, 2, 2)), torch.ones(1, 3, 4, 4))


def test_a_saved_patch_autoencoder_comes_back_to_the_bit(tmp_path):
    autoencoder, _ = fitted(8)
    autoencoder.save(tmp_path)
    again = load_autoencoder(tmp_path)
    assert torch.equal(again.encode(pictures()), autoencoder.encode(pictures()))
    assert (again.channels, again.factor) == (8, 4)


SHRUNK = PatchConfig(2, 12, shrink=2, decoder_width=8, decoder_layers=1)


def test_a_decoder_that_has_learned_nothing_enlarges_to_the_nearest_pixel():
    autoencoder = PatchAutoencoder(SHRUNK)
    autoencoder.fit(pictures())
    latents = autoencoder.encode(pictures())
    assert latents.shape == (4, 12, 4, 4)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == (4, 3, 16, 16)
    small = torch.nn.functional.interpolate(pictures(), size=(8, 8), mode="bicubic", antialias=True)
    doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(decoded, doubled.clamp(-1, 1), atol=1e-3)


@pytest.mark.parametrize(("storage", "apart"), [("float32", 0.0), ("float16", 1e-3)])
def test_a_saved_decoder_comes_back_as_near_as_its_storage(tmp_path, storage, apart):
    autoencoder = PatchAutoencoder(SHRUNK)
    torch.nn.init.normal_(autoencoder.network.body[-1].weight, std=0.05)
    autoencoder.save(tmp_path, lambda weights: stored(weights, storage))
    again = load_autoencoder(tmp_path)
    assert (again.config, again.factor) == (SHRUNK, 4)
    latents = torch.randn(2, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    difference = (again.decode(latents) - autoencoder.decode(latents)).abs().max()
    assert difference <= apart
    assert torch.equal(again.basis, autoencoder.basis)


def test_a_shrink_below_one_is_refused():
    with pytest.raises(ValueError, match="shrink is 0"):
        PatchConfig(shrink=0)


def tiny_kl():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=3,
        scaling_factor=0.5,
        shift_factor=0.25,
    )


def tiny_taesd():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=3,
        scaling_factor=2.0,
    )


@pytest.mark.parametrize("build", [tiny_kl, tiny_taesd])
@torch.no_grad()
def test_scale_and_shift_of_diffusers_autoencoders_live_inside(build):
    torch.manual_seed(0)
    network = build().eval()
    wrapped = DiffusersAutoencoder(network)
    assert (wrapped.channels, wrapped.factor) == (3, 2)
    encoded = network.encode(pictures())
    raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    latents = wrapped.encode(pictures())
    assert latents.shape == (4, 3, 8, 8)
    assert torch.allclose(latents, (raw - wrapped.shift) * wrapped.scale)
    assert torch.allclose(wrapped.decode(latents), network.decode(raw).sample, atol=1e-5)


@pytest.mark.parametrize("build", [tiny_kl, tiny_taesd])
@torch.no_grad()
def test_a_saved_diffusers_autoencoder_comes_back_to_the_bit(build, tmp_path):
    torch.manual_seed(0)
    wrapped = DiffusersAutoencoder(build().eval())
    wrapped.save(tmp_path)
    again = load_autoencoder(tmp_path).eval()
    assert torch.equal(again.encode(pictures()), wrapped.encode(pictures()))
    assert again.scale == wrapped.scale
