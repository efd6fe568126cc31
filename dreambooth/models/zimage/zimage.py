"""Z-Image and its variants (base, Turbo, De-Turbo)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

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
from dreambooth.models.flux.autoencoder import make_vae, vae_codec, vae_config, vae_names
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.original_names import PREFIX
from dreambooth.models.qwen.family import QwenFamily
from dreambooth.models.qwen.qwen3 import (
    is_qwen3_name,
    make_qwen3,
    qwen3_config,
    qwen3_names,
)
from dreambooth.models.same_names import SameNames
from dreambooth.models.sd.ldm_names import vae_names as vae_name_map
from dreambooth.models.sd.vae_spellings import current_vae_name
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.zimage import spellings
from dreambooth.models.zimage.conditioner import ZImageConditioner
from dreambooth.models.zimage.denoiser import ZImageDenoiser
from dreambooth.models.zimage.names import TransformerNames
from dreambooth.models.zimage.sizes import NORM, PATCH, transformer_config
from dreambooth.tensor_files import Tensors

CONFIG_KEY = "dreambooth.zimage"  # metadata: what the configs of a folder say that tensors don't show, as JSON
TRANSFORMER = Component("transformer", DENOISER, "transformer", PREFIX)
_LUMINA_WIDTH = 2304  # of Lumina 2, whose modules have the same names
_MODULE = re.compile(
    r"(^|_)(layers|noise_refiner|context_refiner)_\d+_(attention_(qkv|out|to_q|to_k|to_v)|feed_forward_w[123])"
)
_MAIN_BLOCKS = "layers."  # the others are refiners
# In adapter files modules have the names of diffusers, which reads "attention.out" without its alpha. WebUIs read both.
_SPELLING = replace(default_spelling(TRANSFORMER), naming=("modules", "original"), kohya_naming="modules")
_TURBO_STEPS = 8  # as published
_INSTEAD = (
    "Train on Z-Image or Z-Image-De-Turbo instead (the LoRA also works with Z-Image-Turbo, if need be at a higher "
    "weight), or choose a training adapter (training_adapter)."
)


class ZImage(QwenFamily):
    """See :class:`Family`. The defaults are those of musubi-tuner's documentation (docs/zimage.md: rank 32, learning
    rate 1e-4, timesteps shifted by 2); its targets and OneTrainer's are those of :meth:`adapter_targets`.
    """

    model_type, title, base_model_version = "zimage", "Z-Image", "z_image"
    config_key, shift, patch = CONFIG_KEY, 3.0, PATCH  # the sampler's shift as WebUIs have it
    distilled_title, distilled_steps_published, distilled_advice = "Z-Image-Turbo", _TURBO_STEPS, _INSTEAD
    usual_size = (6_150_000_000, 4_020_000_000, 1024)
    components = (
        TRANSFORMER,
        Component("text_encoder", TEXT_ENCODER, "text encoder (Qwen3 4B)", "text_encoders.qwen3_4b.transformer.model.",
                  "model.safetensors", "tokenizer", in_checkpoint=False),
        Component("vae", VAE, "VAE (FLUX.1)", "vae.", in_checkpoint=False),
    )  # fmt: skip
    capabilities = Capabilities(
        {**FLOW_MATCHING, **NO_CLIP, **NO_CONVOLUTIONS, **NO_OFFSET_NOISE, **NO_TEXT_ENCODER_TRAINING,
         **limited("its attention is that of torch alone", "attention")},
        {"pad_tokens": "pads prompts itself, to multiples of 32 tokens"},
    )  # fmt: skip
    defaults: ClassVar = {
        "resolution": 1024, "scheduler": "EulerDiscrete", "stop_text_encoder": 0.0, "timestep_sampling": "logit_normal",
        "timestep_shift": 2.0, "lora_unet_rank": 32, "lora_learning_rate": 1e-4,
    }  # fmt: skip
    layer_kinds = LayerKinds(("attention",), ("feed_forward",), ("adaLN_modulation",))
    required_libraries: ClassVar = {"diffusers": ">=0.36", "transformers": ">=4.51"}

    # -- components --------------------------------------------------------------------------------------------

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        if name == "text_encoder":
            return make_qwen3(config)
        if name == "vae":
            return make_vae(config)
        return make_transformer("ZImageTransformer2DModel", config)

    # -- recognizing --------------------------------------------------------------------------------------------

    def with_original_names(self, file: Tensors) -> Tensors:
        return spellings.with_original_names(file)

    def current_name(self, component: str, name: str) -> str:
        return current_vae_name(name) if component == "vae" else super().current_name(component, name)

    def names_in_files(self) -> Mapping[str, Callable[[Tensors], dict[str, str]]]:
        return {"text_encoder": qwen3_names, "vae": vae_names}

    def matches(self, shapes: Shapes) -> bool:
        return {PREFIX + name for name in (spellings.MARKER, NORM)} <= shapes.keys()

    def matches_folder(self, configs: Configs) -> bool:
        transformer = configs.get("transformer", {})
        is_omni = bool(transformer.get("siglip_feat_dim"))
        return transformer.get("_class_name") == "ZImageTransformer2DModel" and not is_omni

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        denoiser, text, vae = (strip_prefix(shapes, component.prefix) for component in self.components)
        configs = {}
        with self.requires_all():
            configs["transformer"] = transformer_config(denoiser)
            if text:
                configs["text_encoder"] = qwen3_config(text)
            if vae:
                configs["vae"] = vae_config(vae, self.declared_groups(metadata))
        self._require_fit(configs)
        return configs

    def _require_fit(self, configs: Configs) -> None:
        width = configs["transformer"]["cap_feat_dim"]
        if "text_encoder" in configs and (own := configs["text_encoder"]["hidden_size"]) != width:
            raise UserError(
                f"its transformer expects text embeddings of width {width}, its text encoder has width {own}: use the "
                "text encoder Qwen3 4B"
            )

    def layout(self, configs: Configs) -> Layout:
        transformer, text_encoder, vae = self.components
        levels = configs.get("vae") or {"block_out_channels": (), "layers_per_block": 0}
        return Layout(
            [
                ComponentLayout(transformer, TransformerNames(), _SPELLING),
                ComponentLayout(text_encoder, SameNames(is_qwen3_name)),
                ComponentLayout(vae, vae_name_map(levels)),
            ],
            self.ema_prefix,
        )

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """That of diffusers' ZImagePipeline."""
        return {
            "_class_name": "ZImagePipeline",
            **super().model_index(configs),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }

    # -- what it is made of -------------------------------------------------------------------------------------

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        return vae_codec(vae, PATCH)

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> ZImageConditioner:
        return ZImageConditioner(text_encoders, tokenizers)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        return n_tokens * configs["text_encoder"]["hidden_size"] * 4

    def make_denoiser(self, module: Any) -> ZImageDenoiser:
        return ZImageDenoiser(module)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(6.5e9, 0.6e9, 6.15e9, per_rank=2800)

    # -- adapters and exports -----------------------------------------------------------------------------------

    def adapter_targets(
        self, component: str, module: nn.Module, convolutions: bool = False
    ) -> dict[str, nn.Linear | nn.Conv2d]:
        """Attention and feed-forward layers of the main blocks; neither modulation nor refiners."""
        targets = super().adapter_targets(component, module, convolutions)
        return {path: layer for path, layer in targets.items() if path.startswith(_MAIN_BLOCKS)}

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """By its metadata, or the names of its modules, which Lumina has too, with another width."""
        if version:
            return super().made_adapter(version, sizes)
        own = [size for name, size in sizes.items() if _MODULE.search(name)]
        return bool(own) and not any(size and _LUMINA_WIDTH in size for size in own)


Z_IMAGE = ZImage()
