"""FLUX.1's VAE: an AutoencoderKL of 16 channels without convolutions around the latents; files, config, module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dreambooth.models.flow_family import USUAL_GROUPS
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import Shapes
from dreambooth.models.sd.vae_spellings import diffusers_vae_names, original_vae_name
from dreambooth.tensor_files import Tensors

SCALE, SHIFT = 0.3611, 0.1159
_PREFIXES = ("", "vae.", "first_stage_model.")
_FIRST, _PARTS = "encoder.conv_in.weight", ("encoder.", "decoder.")
_CHANNELS = 16


def vae_names(file: Tensors) -> dict[str, str]:
    """Original names of the tensors of a VAE's file, with those in the file; {} if it is another one.

    It may have the names of diffusers, and a prefix.
    """
    prefix = next((prefix for prefix in _PREFIXES if prefix + _FIRST in file), None)
    first = f"{prefix}decoder.conv_in.weight"
    if prefix is None or prefix + "post_quant_conv.weight" in file or first not in file:
        return {}
    if file.shape(first)[1] != _CHANNELS or len(file.shape(first)) != 4:
        return {}
    names = [key.removeprefix(prefix) for key in file if key.startswith(tuple(prefix + part for part in _PARTS))]
    if any(".down_blocks." in name for name in names):
        return {original: prefix + name for name, original in diffusers_vae_names(names).items()}
    return {original_vae_name(name): prefix + name for name in names}


def vae_config(shapes: Shapes, n_groups: int = USUAL_GROUPS) -> dict[str, Any]:
    """The config of AutoencoderKL, from the shapes of its original tensors. KeyError if one is missing.

    ``n_groups``: of its norms. ValueError if it has other numbers of channels.
    """
    n_levels = len({match[1] for key in shapes if (match := re.match(r"encoder\.down\.(\d+)\.", key))})
    layers = {match[1] for key in shapes if (match := re.match(r"encoder\.down\.0\.block\.(\d+)\.", key))}
    channels = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(n_levels)]
    if any(width % n_groups for width in channels):
        raise ValueError(f"a VAE with norms of {n_groups} groups")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes[_FIRST][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": len(layers),
        "down_block_types": ["DownEncoderBlock2D"] * n_levels,
        "up_block_types": ["UpDecoderBlock2D"] * n_levels,
        "norm_num_groups": n_groups,
        "act_fn": "silu",
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": SCALE,
        "shift_factor": SHIFT,
    }


def make_vae(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(**{key: value for key, value in config.items() if not key.startswith("_")})


def vae_codec(vae: Mapping[str, Any], patch: int) -> LatentCodec:
    """``vae``: its config; ``patch``: see :class:`LatentCodec`."""
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    return LatentCodec(vae["latent_channels"], downscale, patch, vae["scaling_factor"], vae["shift_factor"])
