"""Qwen-Image's VAE (that of Wan 2.1, for images): 16 channels with statistics of their own; files, config, module.

Its convolutions are over time as well, causal: an image is one frame, before which there are zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import Shapes
from dreambooth.models.transforms import IDENTITY, Transform
from dreambooth.tensor_files import Tensors

# Of the latents of Wan 2.1, per channel, as published with Qwen-Image.
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip
_PREFIXES = ("", "vae.", "first_stage_model.")
_FIRST, _FIRST_OF_DIFFUSERS = "encoder.conv1.weight", "encoder.conv_in.weight"
_PARTS = ("encoder.", "decoder.", "conv1.", "conv2.")
_TOP = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}  # of encoder and decoder
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
             "shortcut": "conv_shortcut"}  # fmt: skip


class QwenVaeNames:
    """Names of Wan's code, which files have, and of diffusers' module. ``n_blocks``: residual blocks per level.

    Wan has the decoder's levels in one list, diffusers has a list for each. Otherwise modules are named differently.
    """

    def __init__(self, n_blocks: int) -> None:
        self._per_level = n_blocks + 2  # in the decoder, where a level has one more, and is upsampled

    def to_modules(self, name: str) -> tuple[str, ...]:
        module, _, leaf = name.rpartition(".")
        path = self._module(module) if name.startswith(_PARTS) else None
        return (f"{path}.{leaf}",) if path else ()

    def to_original(self, name: str) -> str | None:
        module, _, leaf = name.rpartition(".")
        path = self._original(module)
        return f"{path}.{leaf}" if path else None

    def transform(self, name: str) -> Transform:
        return IDENTITY

    def _module(self, path: str) -> str | None:
        if path in _TOP:
            return _TOP[path]
        part, _, rest = path.partition(".")
        if rest in _ENDS:
            return f"{part}.{_ENDS[rest]}"
        blocks, _, rest = rest.partition(".")
        number, _, rest = rest.partition(".")
        inner = _RESIDUAL.get(rest, rest)
        if blocks == "middle" and number in _MIDDLE:
            return f"{part}.mid_block.{_MIDDLE[number]}.{inner}"
        if blocks == "downsamples":
            return f"{part}.down_blocks.{number}.{inner}"
        if blocks == "upsamples" and number.isdigit():
            level, block = divmod(int(number), self._per_level)
            kind = "upsamplers.0" if block == self._per_level - 1 else f"resnets.{block}"
            return f"{part}.up_blocks.{level}.{kind}.{inner}"
        return None

    def _original(self, path: str) -> str | None:
        if path in _TOP.values():
            return _inverse(_TOP)[path]
        part, _, rest = path.partition(".")
        if rest in _ENDS.values():
            return f"{part}.{_inverse(_ENDS)[rest]}"
        if match := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", rest):
            return f"{part}.middle.{_inverse(_MIDDLE)[match[1]]}.{_original_inner(match[2])}"
        if match := re.fullmatch(r"down_blocks\.(\d+)\.(.+)", rest):
            return f"{part}.downsamples.{match[1]}.{_original_inner(match[2])}"
        if match := re.fullmatch(r"up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.(.+)", rest):
            block = self._per_level - 1 if match[2] is None else int(match[2])
            return f"{part}.upsamples.{int(match[1]) * self._per_level + block}.{_original_inner(match[3])}"
        return None


def qwen_vae_names(file: Tensors) -> dict[str, str]:
    """Original names of the tensors of a VAE's file, with those in the file; {} if it is another one.

    It may have the names of diffusers, and a prefix.
    """
    for prefix in _PREFIXES:
        for first in (_FIRST, _FIRST_OF_DIFFUSERS):
            if prefix + first in file and len(file.shape(prefix + first)) == 5:
                names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
                return _originals(names, prefix, first == _FIRST_OF_DIFFUSERS)
    return {}


def _originals(names: list[str], prefix: str, is_diffusers: bool) -> dict[str, str]:
    if not is_diffusers:
        return {name: prefix + name for name in names if name.startswith(_PARTS)}
    blocks = {match[1] for name in names if (match := re.match(r"decoder\.up_blocks\.0\.resnets\.(\d+)\.", name))}
    own = QwenVaeNames(len(blocks) - 1)
    return {original: prefix + name for name in names if (original := own.to_original(name))}


def qwen_vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of AutoencoderKLQwenImage, from the shapes of its original tensors. KeyError if one is missing.

    ValueError for a number of channels whose statistics are not known.
    """
    base, channels = shapes[_FIRST][0], shapes["conv2.weight"][0]
    if channels != len(MEAN):
        raise ValueError(f"a VAE of {len(MEAN)} channels")
    levels: list[int] = []
    n_blocks, in_time, is_new = 0, list[bool](), True
    numbers = {int(match[1]) for key in shapes if (match := re.match(r"encoder\.downsamples\.(\d+)\.", key))}
    for number in sorted(numbers):
        block = f"encoder.downsamples.{number}"
        if f"{block}.resample.1.weight" in shapes:
            in_time.append(f"{block}.time_conv.weight" in shapes)
            is_new = True
            continue
        if is_new:
            levels.append(shapes[f"{block}.residual.2.weight"][0] // base)
        n_blocks += len(levels) == 1
        is_new = False
    return {
        "_class_name": "AutoencoderKLQwenImage",
        "base_dim": base,
        "z_dim": channels,
        "dim_mult": levels,
        "num_res_blocks": n_blocks,
        "attn_scales": [],
        "temperal_downsample": in_time,  # as the class spells it
        "dropout": 0.0,
        "latents_mean": list(MEAN),
        "latents_std": list(STD),
    }


def make_qwen_vae(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    from diffusers import AutoencoderKLQwenImage

    with torch.device("meta"):
        return AutoencoderKLQwenImage(**{key: value for key, value in config.items() if not key.startswith("_")})


def qwen_vae_codec(vae: Mapping[str, Any], patch: int) -> LatentCodec:
    """``vae``: its config; ``patch``: see :class:`LatentCodec`."""
    downscale = 2 ** (len(vae["dim_mult"]) - 1)
    return QwenImageCodec(
        vae["z_dim"], downscale, patch, mean=tuple(vae["latents_mean"]), std=tuple(vae["latents_std"])
    )


class QwenImageCodec(LatentCodec):
    """Images as single frames, which need none of the frames that the module keeps for the next ones of a video."""

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        frames = pixels.to(vae.device, vae.dtype).unsqueeze(2)
        posterior = DiagonalGaussianDistribution(vae.quant_conv(vae.encoder(frames)))
        return posterior.mean.squeeze(2), posterior.std.squeeze(2)

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        frames = self.denormalize(latents).to(vae.dtype).unsqueeze(2)
        if vae.use_tiling:
            return vae.decode(frames, return_dict=False)[0].squeeze(2).float()
        return vae.decoder(vae.post_quant_conv(frames)).clamp(-1, 1).squeeze(2).float()


def _original_inner(inner: str) -> str:
    return _inverse(_RESIDUAL).get(inner, inner)


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {module: original for original, module in names.items()}
