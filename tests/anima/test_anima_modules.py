"""Anima's names, sizes and the text adapter, against diffusers' conversion and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.anima.sizes import adapter_config, make_transformer, transformer_config
from dreambooth.models.qwen.autoencoder import QwenVaeNames, qwen_vae_codec, qwen_vae_config, qwen_vae_names
from dreambooth.sampling import decoding
from dreambooth.tensor_files import write_tensors
from tests.anima import files as anima
from tests.anima.files import ANIMA


def test_names_are_those_of_diffusers_conversion():
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    modules = ANIMA.make_modules()
    native = {k: v for k, v in ANIMA.native_transformer().items() if not k.startswith("llm_adapter.")}
    converted = single_file.convert_cosmos_transformer_checkpoint_to_diffusers(
        {f"net.{key}": value for key, value in native.items()}
    )
    assert converted.keys() == modules["transformer"].state_dict().keys()
    assert all(torch.equal(converted[k], v.half()) for k, v in modules["transformer"].state_dict().items())
    converted = single_file.convert_wan_vae_to_diffusers(ANIMA.native_vae())
    assert converted.keys() == modules["vae"].state_dict().keys()
    assert all(torch.equal(converted[k], v.half()) for k, v in modules["vae"].state_dict().items())
    for name in modules["vae"].state_dict():
        original = QwenVaeNames(2).to_original(name)
        assert original and QwenVaeNames(2).to_modules(original) == (name,)


def test_configs_are_those_of_the_modules():
    shapes = {key: tuple(value.shape) for key, value in ANIMA.native_transformer().items()}
    config = transformer_config(shapes)
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in anima.TRANSFORMER.items()}
    assert {key: config[key] for key in expected} == expected
    adapter = adapter_config({k.removeprefix("llm_adapter."): v for k, v in shapes.items() if "llm_adapter." in k})
    assert {key: adapter[key] for key in anima.ADAPTER} == anima.ADAPTER
    vae = qwen_vae_config({key: tuple(value.shape) for key, value in ANIMA.native_vae().items()})
    assert {key: vae[key] for key in anima.VAE} == anima.VAE


def test_adapter_is_that_of_diffusers():
    """In float64; prompts of several lengths in one batch, one of them empty."""
    conditioner = pytest.importorskip("diffusers", minversion="0.39").AnimaTextConditioner(**anima.ADAPTER)
    adapter = nn.Module.double(ANIMA.make_modules()["text_conditioner"])
    conditioner.load_state_dict(adapter.state_dict())
    conditioner.double()
    generator = torch.Generator().manual_seed(0)
    lengths, t5_lengths = torch.tensor([7, 3, 0]), torch.tensor([5, 9, 1])
    mask = torch.arange(7) < lengths[:, None]
    source = torch.randn(3, 7, 16, generator=generator, dtype=torch.float64) * mask[:, :, None]
    ids = torch.randint(0, 32100, (3, 9), generator=generator)
    t5_mask = torch.arange(9) < t5_lengths[:, None]
    own = adapter(source, mask, ids, t5_mask)
    expected = conditioner(source, ids, t5_mask, mask)
    assert expected.shape == (3, 512, 20) and not expected[:, 9:].any()
    assert own.abs().max() > 0.5 and torch.allclose(own, expected[:, :9], rtol=1e-6, atol=1e-7)
    assert torch.allclose(own[1:2, :9], adapter(source[1:2, :3], mask[1:2, :3], ids[1:2], t5_mask[1:2]), atol=1e-12)


def test_transformer_takes_the_padding_mask_as_a_channel(monkeypatch):
    """Also of images above 2048 pixels, where the module's default cuts positions off."""
    anima.resize_zeros_without_torchvision(monkeypatch)
    reference = ANIMA.make_modules()["transformer"]
    own = make_transformer(anima.TRANSFORMER).to_empty(device="cpu")
    own.load_state_dict(reference.state_dict())
    latents, states = torch.randn(2, 16, 1, 12, 8), torch.randn(2, 512, 20)
    t = torch.tensor([0.2, 0.9])
    padded = torch.cat([latents, torch.zeros(2, 1, 1, 12, 8)], dim=1)
    mask = torch.zeros(1, 1, 96, 64)
    with torch.no_grad():
        expected = reference(latents, t, states, padding_mask=mask).sample
        assert torch.equal(own(padded, t, states).sample, expected)
        assert own(torch.zeros(1, 17, 1, 260, 2), t[:1], states[:1]).sample.shape == (1, 16, 1, 260, 2)


def test_vae_is_that_of_diffusers_with_statistics_per_channel(tmp_path):
    vae = ANIMA.make_modules()["vae"]
    codec = qwen_vae_codec(dict(vae.config), patch=2)
    assert (codec.channels, codec.pixel_multiple, codec.size(64, 48)) == (16, 16, (8, 6))
    pixels = torch.rand(2, 3, 48, 64) * 2 - 1
    mean, std = (torch.tensor(vae.config[key]).view(16, 1, 1) for key in ("latents_mean", "latents_std"))
    with torch.no_grad():
        posterior = vae.encode(pixels.unsqueeze(2)).latent_dist
        own_mean, own_std = codec.moments(vae, pixels)
        latents = codec.normalize(own_mean)
        decoded = vae.decode(latents.unsqueeze(2) * std[:, None] + mean[:, None]).sample
        assert torch.equal(own_mean, posterior.mean.squeeze(2)) and torch.equal(own_std, posterior.std.squeeze(2))
        assert torch.allclose(latents, (own_mean - mean) / std, atol=1e-6)
        assert torch.allclose(codec.decode(vae, latents), decoded.squeeze(2), atol=1e-5)
    for prefix in ("", "vae."):
        for tensors in (ANIMA.native_vae(), dict(vae.state_dict())):
            write_tensors(tmp_path / "vae.safetensors", {prefix + key: value for key, value in tensors.items()})
            with open_tensors(tmp_path / "vae.safetensors") as file:
                assert qwen_vae_names(file).keys() == ANIMA.native_vae().keys()


def test_images_are_decoded_in_tiles_where_memory_is_short(monkeypatch):
    vae = ANIMA.make_modules()["vae"]
    codec = qwen_vae_codec(dict(vae.config), patch=2)
    latents = torch.randn(1, 16, 48, 36, generator=torch.Generator().manual_seed(0))
    (whole,) = decoding.decode_images(codec, vae, latents)
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 0)
    (tiled,) = decoding.decode_images(codec, vae, latents)
    assert tiled.size == whole.size == (288, 384) and not vae.use_tiling
    difference = np.abs(np.asarray(tiled, dtype=int) - np.asarray(whole, dtype=int))
    assert 0 < difference.mean() < 3
