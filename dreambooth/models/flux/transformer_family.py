"""What FLUX.1 and Chroma have in common: transformer blocks, VAE, files, adapters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import LayerKinds
from dreambooth.models.adapter_spelling import AdapterSpelling, default_spelling
from dreambooth.models.capabilities import (
    FLOW_MATCHING,
    NO_CLIP,
    NO_CONVOLUTIONS,
    NO_OFFSET_NOISE,
    NO_TEXT_ENCODER_TRAINING,
    limited,
)
from dreambooth.models.components import DENOISER, VAE, Component
from dreambooth.models.family import Configs
from dreambooth.models.flow_family import FlowFamily, make_transformer
from dreambooth.models.flux import spellings
from dreambooth.models.flux.autoencoder import make_vae, vae_codec, vae_config, vae_names
from dreambooth.models.flux.names import TransformerNames
from dreambooth.models.flux.sizes import NORM, PATCH, PATCHES, width_of
from dreambooth.models.flux.text_encoders import TextEncoder
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.same_names import SameNames
from dreambooth.models.sd.ldm_names import vae_names as vae_name_map
from dreambooth.models.sd.vae_spellings import current_vae_name
from dreambooth.tensor_files import Tensors

TRANSFORMER = Component("transformer", DENOISER, "transformer", spellings.PREFIX)
FLUX_VAE = Component("vae", VAE, "VAE (FLUX.1)", "vae.", in_checkpoint=False)
LIMITS = {
    **FLOW_MATCHING, **NO_CLIP, **NO_CONVOLUTIONS, **NO_OFFSET_NOISE, **NO_TEXT_ENCODER_TRAINING,
    **limited("its text encoders are not trained", "freeze_clip_normalization"),
    **limited("its attention is that of torch alone", "attention"),
}  # fmt: skip
APPROXIMATOR = "distilled_guidance_layer"  # in place of the modulation, in Chroma alone
# Of modules in adapter files: the original names, and those of diffusers.
MODULE = re.compile(
    r"(^|_)(double_blocks_\d+_(img|txt)_(attn|mlp)_|single_blocks_\d+_linear[12]$)"
    r"|(^|_)single_transformer_blocks_\d+_(attn_to_[qkv]|proj_mlp|proj_out)$"
    r"|(^|_)transformer_blocks_\d+_(attn_to_add_out|ff_context_net_)"
)


def adapter_spelling() -> AdapterSpelling:
    """Query, key and value are one matrix in the original, with the MLP in single blocks. Adapters of parts have the
    names of diffusers, which WebUIs read behind "transformer." alone; then so have the others, for diffusers.
    """
    usual = default_spelling(TRANSFORMER)
    others = tuple(prefix for prefix in usual.prefixes if prefix != TRANSFORMER.name)
    return replace(usual, prefixes=(TRANSFORMER.name, *others), naming=("modules", "original"))


class FluxTransformerFamily(FlowFamily):
    """``markers``: a tensor of the transformer that no other family has, with its original name and that of diffusers;
    ``transformer_class``: of diffusers; ``text_formats``: of the text encoders, by component name; ``wide_encoder``:
    the one whose hidden states the transformer takes.
    """

    patch, shift = PATCH, 1.0
    markers: ClassVar[tuple[str, str]]
    transformer_class: ClassVar[str]
    text_formats: ClassVar[Mapping[str, TextEncoder]]
    wide_encoder: ClassVar[str]
    layer_kinds = LayerKinds(
        ("attn", "proj_out"), ("ff", "ff_context", "proj_mlp"),
        ("norm", "norm1", "norm1_context", "distilled_guidance_layer"),
    )  # fmt: skip
    checkpoint_implementation = "https://github.com/black-forest-labs/flux"

    def transformer_config(self, shapes: Shapes) -> dict[str, Any]:
        """From the shapes of the original tensors. KeyError if one is missing."""
        raise NotImplementedError

    # -- components --------------------------------------------------------------------------------------------

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        if name in self.text_formats:
            return self.text_formats[name].make({key: v for key, v in config.items() if not key.startswith("_")})
        if name == FLUX_VAE.name:
            return make_vae(config)
        return make_transformer(self.transformer_class, config)

    # -- recognizing --------------------------------------------------------------------------------------------

    def with_original_names(self, file: Tensors) -> Tensors:
        return spellings.with_original_names(file, *self.markers)

    def current_name(self, component: str, name: str) -> str:
        if component in self.text_formats:
            return self.text_formats[component].current_name(name)
        return current_vae_name(name) if component == FLUX_VAE.name else super().current_name(component, name)

    def names_in_files(self) -> Mapping[str, Callable[[Tensors], dict[str, str]]]:
        return {name: encoder.names for name, encoder in self.text_formats.items()} | {FLUX_VAE.name: vae_names}

    def matches(self, shapes: Shapes) -> bool:
        return {spellings.PREFIX + name for name in (self.markers[0], NORM, PATCHES)} <= shapes.keys()

    def matches_folder(self, configs: Configs) -> bool:
        transformer, vae = configs.get("transformer", {}), configs.get("vae", {})
        packed = vae.get("latent_channels", 0) * PATCH**2
        return transformer.get("_class_name") == self.transformer_class and transformer.get("in_channels") == packed

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        parts = {component.name: strip_prefix(shapes, component.prefix) for component in self.components}
        makers = {name: encoder.config for name, encoder in self.text_formats.items()} | {FLUX_VAE.name: vae_config}
        with self.requires_all():
            configs = {TRANSFORMER.name: self.transformer_config(parts[TRANSFORMER.name])}
            configs |= {name: make(parts[name]) for name, make in makers.items() if parts[name]}
        self._require_fit(configs)
        return configs

    def _require_fit(self, configs: Configs) -> None:
        width, encoder = configs[TRANSFORMER.name]["joint_attention_dim"], self.wide_encoder
        if encoder in configs and (own := configs[encoder]["d_model"]) != width:
            raise UserError(
                f"its transformer expects text embeddings of width {width}, its {self.component(encoder).title} has "
                f"width {own}: use T5 v1.1 XXL"
            )

    def layout(self, configs: Configs) -> Layout:
        levels = configs.get("vae") or {"block_out_channels": (), "layers_per_block": 0}
        encoders = [
            ComponentLayout(self.component(name), SameNames(encoder.is_known))
            for name, encoder in self.text_formats.items()
        ]
        transformer = TransformerNames(width_of(configs[TRANSFORMER.name]))
        return Layout(
            [
                ComponentLayout(TRANSFORMER, transformer, adapter_spelling()),
                *encoders,
                ComponentLayout(FLUX_VAE, vae_name_map(levels)),
            ],
            self.ema_prefix,
        )

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        return vae_codec(vae, PATCH)
