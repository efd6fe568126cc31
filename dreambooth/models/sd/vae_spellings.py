"""The names of a VAE's tensors in files of diffusers, and of converters that mixed them with the original names."""

from __future__ import annotations

from collections.abc import Iterable

from dreambooth.models.sd.ldm_names import PrefixNameMap, vae_names

# The VAE's attention as each version of diffusers names it, in the original names.
_VAE_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
                  "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}  # fmt: skip
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def original_vae_name(name: str) -> str:
    """The original name of a tensor in the VAE's attention; other names are unchanged."""
    head, attention, tail = name.partition(".mid.attn_1.")
    for other, original in _VAE_ATTENTION.items():
        if attention and tail.startswith(other + "."):
            return head + attention + original + tail.removeprefix(other)
    return name


def current_vae_name(name: str) -> str:
    """The tensor's name in current versions of diffusers."""
    if ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def diffusers_vae_names(names: Iterable[str]) -> dict[str, str]:
    """Original names of the tensors of a VAE that has the names of diffusers."""
    mapped = _vae_names_for(list(names))
    return {name: mapped.to_original(current_vae_name(name)) or name for name in names}


def _vae_names_for(names: list[str]) -> PrefixNameMap:
    """The name map of a VAE, whose numbers of levels and layers are taken from ``names``."""
    levels = {name.split(".")[2] for name in names if name.startswith("encoder.down_blocks.")}
    layers = {name.split(".")[4] for name in names if name.startswith("encoder.down_blocks.0.resnets.")}
    return vae_names({"block_out_channels": [0] * len(levels), "layers_per_block": len(layers)})
