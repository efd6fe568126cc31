"""Tensor names of the original Stable Diffusion code (LDM) and of diffusers.

The original numbers blocks consecutively (``input_blocks.7``), diffusers by level and layer
(``down_blocks.2.resnets.0``). The tables are built from a component's config, for any number of levels and layers, as
dicts from original module prefixes to those of diffusers; :class:`PrefixNameMap` translates whole names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dreambooth.models.transforms import IDENTITY, RESHAPE, Transform

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


class PrefixNameMap:
    """Translates tensor names by their longest mapped module prefix; the remainder of the name is unchanged.

    ``convolutions``: original prefixes of 1x1 convolutions that are linear layers in diffusers.
    """

    def __init__(self, modules: Mapping[str, str], convolutions: Collection[str] = ()):
        self._convolutions = frozenset(f"{prefix}.weight" for prefix in convolutions)
        self._to_diffusers = dict(modules)
        self._to_original = {target: original for original, target in modules.items()}

    def to_modules(self, name: str) -> tuple[str, ...]:
        """The name in diffusers' module of an original tensor, as a tuple; () when it has none."""
        translated = _translate(name, self._to_diffusers)
        return () if translated is None else (translated,)

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or module of diffusers; None when it has none."""
        return _translate(name, self._to_original)

    def transform(self, name: str) -> Transform:
        return RESHAPE if name in self._convolutions else IDENTITY


def _prefix(name: str, modules: Mapping[str, str]) -> str | None:
    head = name
    while head:
        if head in modules:
            return head
        head = head.rpartition(".")[0]
    return None


def _translate(name: str, modules: Mapping[str, str]) -> str | None:
    prefix = _prefix(name, modules)
    return None if prefix is None else modules[prefix] + name[len(prefix) :]


def unet_names(config: Mapping[str, Any]) -> PrefixNameMap:
    """Names of a unet with diffusers' ``config``, without the original prefix ``model.diffusion_model.``."""
    return PrefixNameMap(unet_prefixes(config))


def unet_prefixes(config: Mapping[str, Any]) -> dict[str, str]:
    """The prefixes of :func:`unet_names`: those of diffusers by those of the original."""
    n_levels, n_layers = len(config["block_out_channels"]), config["layers_per_block"]
    down_attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
    up_attends = ["CrossAttn" in kind for kind in config["up_block_types"]]
    modules = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "label_emb.0.0": "add_embedding.linear_1",  # SDXL: pooled text embedding and size conditioning
        "label_emb.0.2": "add_embedding.linear_2",
    }
    for level in range(n_levels):
        first = 1 + level * (n_layers + 1)
        for layer in range(n_layers):
            modules |= _resnet(f"input_blocks.{first + layer}.0", f"down_blocks.{level}.resnets.{layer}")
            if down_attends[level]:
                modules[f"input_blocks.{first + layer}.1"] = f"down_blocks.{level}.attentions.{layer}"
        if level < n_levels - 1:
            modules[f"input_blocks.{first + n_layers}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
    modules |= _resnet("middle_block.0", "mid_block.resnets.0")
    modules["middle_block.1"] = "mid_block.attentions.0"
    modules |= _resnet("middle_block.2", "mid_block.resnets.1")
    for level in range(n_levels):
        first = level * (n_layers + 1)
        for layer in range(n_layers + 1):
            modules |= _resnet(f"output_blocks.{first + layer}.0", f"up_blocks.{level}.resnets.{layer}")
            if up_attends[level]:
                modules[f"output_blocks.{first + layer}.1"] = f"up_blocks.{level}.attentions.{layer}"
        if level < n_levels - 1:
            index = 2 if up_attends[level] else 1
            modules[f"output_blocks.{first + n_layers}.{index}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return modules | {"out.0": "conv_norm_out", "out.2": "conv_out"}


def vae_names(config: Mapping[str, Any]) -> PrefixNameMap:
    """Names of an AutoencoderKL with diffusers' ``config``, without the original prefix ``first_stage_model.``.

    Attention projections are 1x1 convolutions in the original and linear layers in diffusers: same values, other shape.
    """
    n_levels, n_layers = len(config["block_out_channels"]), config["layers_per_block"]
    modules = {"encoder.conv_in": "encoder.conv_in"}
    for level in range(n_levels):
        original, target = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(n_layers):
            modules |= _vae_resnet(f"{original}.block.{layer}", f"{target}.resnets.{layer}")
        modules[f"{original}.downsample.conv"] = f"{target}.downsamplers.0.conv"
    modules |= _vae_middle_and_out("encoder")
    modules["decoder.conv_in"] = "decoder.conv_in"
    for level in range(n_levels):
        # The original numbers the decoder's levels from the image, diffusers from the latents.
        original, target = f"decoder.up.{level}", f"decoder.up_blocks.{n_levels - 1 - level}"
        for layer in range(n_layers + 1):
            modules |= _vae_resnet(f"{original}.block.{layer}", f"{target}.resnets.{layer}")
        modules[f"{original}.upsample.conv"] = f"{target}.upsamplers.0.conv"
    modules |= _vae_middle_and_out("decoder")
    convolutions = [
        f"{side}.mid.attn_1.{name}" for side in ("encoder", "decoder") for name in _VAE_ATTENTION if name != "norm"
    ]
    return PrefixNameMap(modules | {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}, convolutions)


def _vae_middle_and_out(side: str) -> dict[str, str]:
    modules = _vae_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
    for original, target in _VAE_ATTENTION.items():
        modules[f"{side}.mid.attn_1.{original}"] = f"{side}.mid_block.attentions.0.{target}"
    modules |= _vae_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
    return modules | {f"{side}.norm_out": f"{side}.conv_norm_out", f"{side}.conv_out": f"{side}.conv_out"}


def _resnet(original: str, target: str) -> dict[str, str]:
    return {f"{original}.{a}": f"{target}.{b}" for a, b in _RESNET.items()}


def _vae_resnet(original: str, target: str) -> dict[str, str]:
    names = ("norm1", "conv1", "norm2", "conv2")
    return {f"{original}.{name}": f"{target}.{name}" for name in names} | {
        f"{original}.nin_shortcut": f"{target}.conv_shortcut"
    }
