"""Files of a single component of Stable Diffusion: a VAE or a text encoder, as WebUIs keep them in their folders."""

from __future__ import annotations

from dreambooth.models.components import VAE as VAE_ROLE
from dreambooth.models.components import Component
from dreambooth.models.sd.keys import VAE
from dreambooth.models.sd.vae_spellings import diffusers_vae_names, original_vae_name
from dreambooth.tensor_files import Tensors

_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_TRANSFORMERS_LAYER = "text_model.encoder.layers.0.self_attn.q_proj.weight"
_OPEN_CLIP_LAYER = "transformer.resblocks.0.attn.in_proj_weight"
_PROJECTIONS = ("text_projection", "text_projection.weight")


def component_keys(component: Component, file: Tensors, n_text_encoders: int) -> dict[str, str]:
    """Keys in the family's single file, with the file's names; {} if the file is not this component."""
    return _vae_keys(file) if component.role == VAE_ROLE else _text_encoder_keys(component, file, n_text_encoders)


def _vae_keys(file: Tensors) -> dict[str, str]:
    """{} also without the convolutions around the latents, which VAEs of newer families lack."""
    prefix = next((prefix for prefix in (VAE, "vae.") if any(key.startswith(prefix) for key in file)), "")
    if prefix + "encoder.conv_in.weight" not in file or prefix + "post_quant_conv.weight" not in file:
        return {}
    names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
    names = [name for name in names if prefix or name.startswith(_VAE_PARTS)]
    if any(".down_blocks." in name for name in names):
        return {VAE + original: prefix + name for name, original in diffusers_vae_names(names).items()}
    return {VAE + original_vae_name(name): prefix + name for name in names}


def _text_encoder_keys(component: Component, file: Tensors, n_text_encoders: int) -> dict[str, str]:
    """With the names of transformers or of open_clip, with or without a prefix.

    Of SDXL's two text encoders, the second is the one with a projection. A transformers file of an encoder that the
    single file has in open_clip's names is converted with all other spellings of this kind.
    """
    prefix, is_open_clip = _prefix_before(_TRANSFORMERS_LAYER, file), False
    if prefix is None:
        prefix, is_open_clip = _prefix_before(_OPEN_CLIP_LAYER, file), True
    if prefix is None:
        return {}
    names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
    has_projection = any(name in names for name in _PROJECTIONS)
    is_second = component.prefix.startswith("conditioner.embedders.1.")
    if n_text_encoders == 2 and is_second != (has_projection or is_open_clip):
        return {}
    takes_open_clip = component.prefix.endswith(".model.")
    if is_open_clip and not takes_open_clip:
        return {}
    is_converted = takes_open_clip and not is_open_clip
    own = component.prefix.removesuffix("model.") + "transformer." if is_converted else component.prefix
    wanted = [name for name in names if is_open_clip or takes_open_clip or name.startswith("text_model.")]
    return {own + name: prefix + name for name in wanted if name != "logit_scale" or is_open_clip}


def _prefix_before(name: str, file: Tensors) -> str | None:
    """What stands before ``name`` in the file; None if it has no such tensor."""
    return next((key.removesuffix(name) for key in file if key == name or key.endswith("." + name)), None)
