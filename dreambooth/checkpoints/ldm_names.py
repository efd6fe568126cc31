"""How the original Stable Diffusion code and diffusers name the same weights.

Both name modules by where they sit; the original counts blocks straight through (``input_blocks.7``), diffusers by
level and layer (``down_blocks.2.resnets.0``). So the tables are made from a component's config, for any number of
levels and layers. A map is a dict of module prefixes, original to diffusers; :class:`PrefixNameMap` translates whole names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


class TensorRef(NamedTuple):
    """A tensor in a diffusers folder: the component's folder and the name inside it."""

    component: str
    name: str


class PrefixNameMap:
    """Translates tensor names by their longest known module prefix; what follows the prefix stays as it is."""

    def __init__(self, modules: Mapping[str, str]):
        self._to_diffusers = dict(modules)
        self._to_original = {theirs: ours for ours, theirs in modules.items()}

    def to_modules(self, name: str) -> tuple[str, ...]:
        """The tensors of diffusers' module that an original one is made of: one here, none when it is not known."""
        translated = _translate(name, self._to_diffusers)
        return () if translated is None else (translated,)

    def to_original(self, name: str) -> str | None:
        """The original tensor that holds diffusers' one; for a module's path the original path."""
        return _translate(name, self._to_original)


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
    """Names of a unet with diffusers' ``config``, without the original's ``model.diffusion_model.``."""
    n_levels, n_layers = len(config["block_out_channels"]), config["layers_per_block"]
    down_attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
    up_attends = ["CrossAttn" in kind for kind in config["up_block_types"]]
    modules = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "label_emb.0.0": "add_embedding.linear_1",  # SDXL: pooled text embedding and picture sizes
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
            place = 2 if up_attends[level] else 1
            modules[f"output_blocks.{first + n_layers}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return PrefixNameMap(modules | {"out.0": "conv_norm_out", "out.2": "conv_out"})


def vae_names(config: Mapping[str, Any]) -> PrefixNameMap:
    """Names of an AutoencoderKL with diffusers' ``config``, without the original's ``first_stage_model.``.

    The original's attention projections are 1x1 convolutions, diffusers' are linear: same values, other shape.
    """
    n_levels, n_layers = len(config["block_out_channels"]), config["layers_per_block"]
    modules = {"encoder.conv_in": "encoder.conv_in"}
    for level in range(n_levels):
        ours, theirs = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(n_layers):
            modules |= _vae_resnet(f"{ours}.block.{layer}", f"{theirs}.resnets.{layer}")
        modules[f"{ours}.downsample.conv"] = f"{theirs}.downsamplers.0.conv"
    modules |= _vae_middle_and_out("encoder")
    modules["decoder.conv_in"] = "decoder.conv_in"
    for level in range(n_levels):
        # The original counts the decoder's levels from the picture's side, diffusers from the latent's.
        ours, theirs = f"decoder.up.{level}", f"decoder.up_blocks.{n_levels - 1 - level}"
        for layer in range(n_layers + 1):
            modules |= _vae_resnet(f"{ours}.block.{layer}", f"{theirs}.resnets.{layer}")
        modules[f"{ours}.upsample.conv"] = f"{theirs}.upsamplers.0.conv"
    modules |= _vae_middle_and_out("decoder")
    return PrefixNameMap(modules | {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"})


def _vae_middle_and_out(side: str) -> dict[str, str]:
    modules = _vae_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
    for ours, theirs in _VAE_ATTENTION.items():
        modules[f"{side}.mid.attn_1.{ours}"] = f"{side}.mid_block.attentions.0.{theirs}"
    modules |= _vae_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
    return modules | {f"{side}.norm_out": f"{side}.conv_norm_out", f"{side}.conv_out": f"{side}.conv_out"}


def _resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _RESNET.items()}


def _vae_resnet(ours: str, theirs: str) -> dict[str, str]:
    names = ("norm1", "conv1", "norm2", "conv2")
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in names} | {
        f"{ours}.nin_shortcut": f"{theirs}.conv_shortcut"
    }
