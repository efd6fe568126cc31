"""FLUX.2 klein with 4 and with 9 billion parameters: base, and the distilled models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import LayerKinds
from dreambooth.models.adapter_spelling import default_spelling
from dreambooth.models.capabilities import (
    FLOW_MATCHING,
    NO_CLIP,
    NO_CONVOLUTIONS,
    NO_OFFSET_NOISE,
    NO_TEXT_ENCODER_TRAINING,
    Capabilities,
    limited,
)
from dreambooth.models.components import DENOISER, TEXT_ENCODER, VAE, Component
from dreambooth.models.family import Configs
from dreambooth.models.flow_family import make_transformer
from dreambooth.models.flux2 import spellings
from dreambooth.models.flux2.autoencoder import VaeNames, make_vae, vae_codec, vae_config, vae_names
from dreambooth.models.flux2.conditioner import LAYERS, N_LAYERS, KleinConditioner
from dreambooth.models.flux2.denoiser import Flux2Denoiser
from dreambooth.models.flux2.distilled import distilled_klein
from dreambooth.models.flux2.names import TransformerNames
from dreambooth.models.flux2.sizes import NORM, TEXT_INPUT, transformer_config
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.original_names import PREFIX
from dreambooth.models.process import RectifiedFlow
from dreambooth.models.qwen.chat import MAX_LENGTH
from dreambooth.models.qwen.family import QwenFamily
from dreambooth.models.qwen.qwen3 import (
    is_qwen3_name,
    make_qwen3,
    qwen3_config,
    qwen3_names,
)
from dreambooth.models.same_names import SameNames
from dreambooth.models.sd.vae_spellings import current_vae_name
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.timestep_shift import empirical_mu
from dreambooth.tensor_files import Tensors

_TRANSFORMER = Component("transformer", DENOISER, "transformer", PREFIX)
_VAE = Component("vae", VAE, "VAE (FLUX.2)", "vae.", in_checkpoint=False)
# Hosts read query, key and value of the double blocks apart with diffusers' names after "transformer." only.
_SPELLING = replace(default_spelling(_TRANSFORMER), part_prefix="transformer")
_LARGE_TEXT_WIDTH = 4096 * len(LAYERS)  # of the text embeddings that klein 9B takes
_LARGE_WIDTH, _DEV_WIDTH = 4096, 6144  # channels of tokens, of klein 9B and of FLUX.2 [dev]
# Modules in adapter files of which FLUX.1 has none with so many rows per column: gates double those of MLPs.
_ROWS = {
    re.compile(r"(^|_)(double_blocks_\d+_(img|txt)_mlp_0|transformer_blocks_\d+_ff(_context)?_linear_in)$"): 6,
    re.compile(r"(^|_)(single_blocks_\d+_linear1|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)$"): 9,
}
_STEPS = 4  # of the distilled models, as published


def _text_encoder(title: str, name: str) -> Component:
    prefix = f"text_encoders.{name}.transformer.model."
    return Component("text_encoder", TEXT_ENCODER, f"text encoder ({title})", prefix, "model.safetensors", "tokenizer",
                     in_checkpoint=False)  # fmt: skip


class _Klein(QwenFamily):
    """See :class:`Family`. The defaults are those of musubi-tuner's documentation (docs/flux_2.md: rank 32, learning
    rate 1e-4, flux2_shift, which is sigmoid timesteps with a shift that depends on the resolution). All linear layers
    of both kinds of blocks get an adapter, as there; modulation is outside of the blocks.

    ``text_encoder_title``: of the model that it takes; ``is_large``: whether it is klein 9B.
    """

    text_encoder_title: ClassVar[str]
    is_large: ClassVar[bool]
    shift, patch = 3.0, 1  # the shift of its scheduler's config, which has no effect: it depends on the resolution
    distilled_steps_published = _STEPS
    capabilities = Capabilities(
        {**FLOW_MATCHING, **NO_CLIP, **NO_CONVOLUTIONS, **NO_OFFSET_NOISE, **NO_TEXT_ENCODER_TRAINING,
         **limited("its attention is that of torch alone", "attention")},
        {"pad_tokens": f"pads prompts itself, to {MAX_LENGTH} tokens"},
    )  # fmt: skip
    defaults: ClassVar = {
        "resolution": 1024, "scheduler": "EulerDiscrete", "stop_text_encoder": 0.0, "timestep_sampling": "sigmoid",
        "resolution_shift": True, "lora_unet_rank": 32, "lora_learning_rate": 1e-4,
    }  # fmt: skip
    layer_kinds = LayerKinds(("attn",), ("ff", "ff_context"))  # modulation is not in the blocks
    required_libraries: ClassVar = {"diffusers": ">=0.37", "transformers": ">=4.51"}

    # -- components --------------------------------------------------------------------------------------------

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        if name == "text_encoder":
            return make_qwen3(config)
        if name == "vae":
            return make_vae(config)
        return make_transformer("Flux2Transformer2DModel", config)

    # -- recognizing --------------------------------------------------------------------------------------------

    def distilled_warning(self, file: Tensors) -> str:
        if place := distilled_klein(file):
            return (
                f"{place} says that it is klein distilled for {_STEPS} steps: training undoes that after a few hundred "
                f"steps. {self.distilled_advice}"
            )
        return super().distilled_warning(file)

    def with_original_names(self, file: Tensors) -> Tensors:
        return spellings.with_original_names(file)

    def current_name(self, component: str, name: str) -> str:
        return current_vae_name(name) if component == "vae" else super().current_name(component, name)

    def names_in_files(self) -> Mapping[str, Callable[[Tensors], dict[str, str]]]:
        return {"text_encoder": qwen3_names, "vae": vae_names}

    def matches(self, shapes: Shapes) -> bool:
        own = strip_prefix(shapes, PREFIX)
        is_klein = {spellings.MARKER, NORM, TEXT_INPUT} <= own.keys() and spellings.GUIDANCE not in own
        return is_klein and self.is_large == (own[TEXT_INPUT][-1] >= _LARGE_TEXT_WIDTH)

    def matches_folder(self, configs: Configs) -> bool:
        transformer = configs.get("transformer", {})
        is_flux2 = transformer.get("_class_name") == "Flux2Transformer2DModel"
        is_klein = is_flux2 and not transformer.get("guidance_embeds", True)
        return is_klein and self.is_large == (transformer["joint_attention_dim"] >= _LARGE_TEXT_WIDTH)

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        denoiser, text, vae = (strip_prefix(shapes, component.prefix) for component in self.components)
        configs = {}
        with self.requires_all():
            configs["transformer"] = transformer_config(denoiser)
            if text:
                configs["text_encoder"] = qwen3_config(text, N_LAYERS)
            if vae:
                configs["vae"] = vae_config(vae)
        self._require_fit(configs)
        return configs

    def _require_fit(self, configs: Configs) -> None:
        width = configs["transformer"]["joint_attention_dim"]
        text_encoder = configs.get("text_encoder")
        if text_encoder is None:
            return
        if (own := text_encoder["hidden_size"] * len(LAYERS)) != width:
            raise UserError(
                f"its transformer expects text embeddings of width {width}, those of its text encoder have width "
                f"{own}: use the text encoder {self.text_encoder_title}"
            )
        if (n_layers := text_encoder["num_hidden_layers"]) < N_LAYERS:
            raise UserError(
                f"its text encoder has {n_layers} layers, {N_LAYERS} are needed: use {self.text_encoder_title}"
            )

    def layout(self, configs: Configs) -> Layout:
        transformer, text_encoder, vae = self.components
        return Layout(
            [
                ComponentLayout(transformer, TransformerNames(), _SPELLING),
                ComponentLayout(text_encoder, SameNames(is_qwen3_name)),
                ComponentLayout(vae, VaeNames(configs.get("vae") or {"block_out_channels": (), "layers_per_block": 0})),
            ],
            self.ema_prefix,
        )

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """That of diffusers' Flux2KleinPipeline."""
        return {
            "_class_name": "Flux2KleinPipeline",
            **super().model_index(configs),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        }

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        """As published: FLUX.1's shift by the number of tokens, which trainers use; samplers have another formula."""
        return {
            **super().scheduler_config(prediction_type, shapes, metadata),
            "use_dynamic_shifting": True,
            "time_shift_type": "exponential",
            "base_image_seq_len": 256,
            "base_shift": 0.5,
            "max_image_seq_len": 4096,
            "max_shift": 1.15,
        }

    # -- what it is made of -------------------------------------------------------------------------------------

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> RectifiedFlow:
        return RectifiedFlow(scheduler, device, self.patch, empirical_mu)

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        return vae_codec(vae)

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> KleinConditioner:
        return KleinConditioner(text_encoders, tokenizers)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        return MAX_LENGTH * configs["transformer"]["joint_attention_dim"] * 4

    def make_denoiser(self, module: Any) -> Flux2Denoiser:
        return Flux2Denoiser(module)

    # -- adapters -----------------------------------------------------------------------------------------------

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """By its metadata, or the names and sizes of its modules: those of FLUX.1 have the same names."""
        if version:
            return super().made_adapter(version, sizes)
        widths = {
            size[1]
            for name, size in sizes.items()
            for pattern, rows in _ROWS.items()
            if size and pattern.search(name) and size[0] == rows * size[1]
        }
        return bool(widths) and _DEV_WIDTH not in widths and self.is_large == (_LARGE_WIDTH in widths)


class _Klein4B(_Klein):
    model_type, title, base_model_version = "flux2_klein_4b", "FLUX.2 klein 4B", "flux_2_klein_4b"
    text_encoder_title, is_large, config_key = "Qwen3 4B", False, "dreambooth.flux2_klein_4b"
    distilled_title = "distilled FLUX.2 klein 4B"
    distilled_advice = (
        "Train on FLUX.2 klein base 4B instead; the LoRA also works with the distilled model. If this model was made "
        'from klein base, add "base" to its name.'
    )
    usual_size = (3_880_000_000, 3_220_000_000, 1024)
    components = (_TRANSFORMER, _text_encoder("Qwen3 4B", "qwen3_4b"), _VAE)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(5.4e9, 0.55e9, 3.88e9, per_rank=2570)


class _Klein9B(_Klein):
    model_type, title, base_model_version = "flux2_klein_9b", "FLUX.2 klein 9B", "flux_2_klein_9b"
    text_encoder_title, is_large, config_key = "Qwen3 8B", True, "dreambooth.flux2_klein_9b"
    distilled_title = "distilled FLUX.2 klein 9B"
    distilled_advice = _Klein4B.distilled_advice.replace("4B", "9B")
    usual_size = (9_080_000_000, 6_030_000_000, 1024)
    components = (_TRANSFORMER, _text_encoder("Qwen3 8B", "qwen3_8b"), _VAE)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(9.1e9, 0.8e9, 9.08e9, per_rank=3340)


KLEIN_4B, KLEIN_9B = _Klein4B(), _Klein9B()
