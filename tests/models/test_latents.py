"""Latents: normalization and packing are invertible."""

from __future__ import annotations

import pytest
import torch

from dreambooth.models.latents import LatentCodec
from dreambooth.models.registry import FAMILIES
from dreambooth.models.sd.stable_diffusion import StableDiffusion

CODECS = [
    LatentCodec(4, 8, scale=0.18215),
    LatentCodec(16, 8, patch=2, scale=0.3611, shift=0.1159),
    LatentCodec(4, 8, patch=2, mean=(-0.7, 0.2, 0.0, 1.5), std=(2.8, 1.1, 0.5, 3.0)),
    LatentCodec(2, 4, scale=0.5, shift=-0.3, mean=(0.1, -2.0), std=(0.2, 4.0)),
]


@pytest.mark.parametrize("codec", CODECS)
def test_normalization_is_invertible(codec: LatentCodec) -> None:
    latents = torch.randn(2, codec.channels, 6, 4, generator=torch.Generator().manual_seed(0))
    normalized = codec.normalize(latents)
    torch.testing.assert_close(codec.denormalize(normalized), latents)
    expected = (latents.double() - codec.shift) * codec.scale
    for channel, (mean, std) in enumerate(zip(codec.mean, codec.std, strict=True)):
        expected[:, channel] = (expected[:, channel] - mean) / std
    torch.testing.assert_close(normalized.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("codec", CODECS)
def test_packing_is_invertible(codec: LatentCodec) -> None:
    latents = torch.arange(2.0 * codec.channels * 6 * 4).view(2, codec.channels, 6, 4)
    tokens, p = codec.pack(latents), codec.patch
    assert tokens.shape == (2, 24 // p**2, codec.channels * p**2)
    assert torch.equal(codec.unpack(tokens, 6, 4), latents)
    # Row by row, each token a patch with its channels outermost, as FLUX has it.
    assert torch.equal(tokens[:, 4 // p], latents[:, :, p : 2 * p, :p].flatten(1))


def test_stable_diffusion_has_one_scale() -> None:
    config = {"block_out_channels": (8, 8, 16, 16), "latent_channels": 4, "scaling_factor": 0.13025}
    for family in (family for family in FAMILIES if isinstance(family, StableDiffusion)):
        codec = family.latent_codec(config)
        assert (codec.channels, codec.pixel_multiple, codec.size(512, 768)) == (4, 8, (64, 96))
        latents = torch.randn(1, 4, 8, 8)
        assert torch.equal(codec.normalize(latents), latents * 0.13025)
        assert torch.equal(codec.denormalize(latents), latents / 0.13025)
