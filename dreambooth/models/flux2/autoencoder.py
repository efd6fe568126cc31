"""FLUX.2's VAE: 32 channels, packed 2 x 2 to 128 that are normalized with statistics in its file; config, module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dreambooth.models.flux.autoencoder import vae_config as flux_vae_config
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import Shapes
from dreambooth.models.sd.ldm_names import vae_names as ldm_vae_names
from dreambooth.models.sd.vae_spellings import diffusers_vae_names, original_vae_name
from dreambooth.models.transforms import Transform
from dreambooth.tensor_files import Tensors

PACKING = 2  # pixels of the VAE's latents per pixel of the denoiser's, along each side
STATISTICS = ("bn.running_mean", "bn.running_var")
# In Black Forest Labs' code, encoder and decoder contain the convolutions around the latents.
_INNER = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
_PREFIXES = ("", "vae.", "first_stage_model.")


class VaeNames:
    """Names as in other VAEs, and those of the statistics, which are the same everywhere. ``config``: of the VAE."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._names = ldm_vae_names(config)

    def to_modules(self, name: str) -> tuple[str, ...]:
        return (name,) if name in STATISTICS else self._names.to_modules(name)

    def to_original(self, name: str) -> str | None:
        return name if name in STATISTICS else self._names.to_original(name)

    def transform(self, name: str) -> Transform:
        return self._names.transform(name)


def with_outer_convolutions(name: str) -> str:
    """The original name, without a prefix, of a tensor of the convolutions around the latents; others are unchanged."""
    inner = next((part for part in _INNER if name.startswith(part)), "")
    return _INNER[inner] + name.removeprefix(inner) if inner else name


def vae_names(file: Tensors) -> dict[str, str]:
    """Original names of the tensors of a VAE's file, with those in the file; {} if it is another one.

    It may have the names of diffusers, and a prefix.
    """
    prefix = next((prefix for prefix in _PREFIXES if all(prefix + name in file for name in STATISTICS)), None)
    if prefix is None or f"{prefix}decoder.conv_in.weight" not in file:
        return {}
    parts = tuple(prefix + part for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    names = [key.removeprefix(prefix) for key in file if key.startswith(parts)]
    if any(".down_blocks." in name for name in names):
        originals = diffusers_vae_names(names)
    else:
        originals = {name: original_vae_name(with_outer_convolutions(name)) for name in names}
    return {original: prefix + name for name, original in originals.items()} | {n: prefix + n for n in STATISTICS}


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of AutoencoderKLFlux2, from the shapes of its original tensors. KeyError if one is missing."""
    config = flux_vae_config(shapes)
    del config["scaling_factor"], config["shift_factor"]
    return {
        **config,
        "_class_name": "AutoencoderKLFlux2",
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "patch_size": [math.isqrt(shapes[STATISTICS[0]][0] // config["latent_channels"])] * 2,
        "batch_norm_eps": 1e-4,
    }


class _Statistics(nn.Module):
    """Mean and variance of the latents per packed channel, as parameters: they are loaded like all weights."""

    def __init__(self, n_channels: int, eps: float) -> None:
        super().__init__()
        self.running_mean, self.running_var = (
            nn.Parameter(torch.empty(n_channels), requires_grad=False) for _ in STATISTICS
        )
        self.eps = eps

    def mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(C, 1, 1) each, float32."""
        mean, variance = (values.float().view(-1, 1, 1) for values in (self.running_mean, self.running_var))
        return mean, (variance + self.eps).sqrt()


def make_vae(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    from diffusers import AutoencoderKLFlux2

    with torch.device("meta"):
        vae: Any = AutoencoderKLFlux2(**{key: value for key, value in config.items() if not key.startswith("_")})
        vae.bn = _Statistics(config["latent_channels"] * PACKING**2, config["batch_norm_eps"])
    return vae


def vae_codec(vae: Mapping[str, Any]) -> LatentCodec:
    """``vae``: its config."""
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    return Flux2Codec(vae["latent_channels"] * PACKING**2, downscale * PACKING, packing=PACKING)


class Flux2Codec(LatentCodec):
    """Packed latents, normalized already. Encoding gives the mean of the posterior, as all trainers take it."""

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = F.pixel_unshuffle(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float(), PACKING)
        mean, std = vae.bn.mean_and_std()
        normalized = ((latents - mean) / std).to(vae.dtype)
        return normalized, torch.zeros_like(normalized)

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, std = vae.bn.mean_and_std()
        unpacked = F.pixel_shuffle(latents * std + mean, PACKING)
        return vae.decode(unpacked.to(vae.dtype), return_dict=False)[0].float()
