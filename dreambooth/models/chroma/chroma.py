"""Chroma (Chroma1-HD, Chroma1-Base and their fine-tunes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from dreambooth.models.capabilities import Capabilities
from dreambooth.models.chroma.conditioner import T5, ChromaConditioner
from dreambooth.models.chroma.denoiser import ChromaDenoiser
from dreambooth.models.chroma.sizes import MARKER, modulation_positions, transformer_config
from dreambooth.models.components import TEXT_ENCODER, Component
from dreambooth.models.family import Configs, Family
from dreambooth.models.flux.text_encoders import T5_XXL
from dreambooth.models.flux.transformer_family import (
    APPROXIMATOR,
    FLUX_VAE,
    LIMITS,
    TRANSFORMER,
    FluxTransformerFamily,
)
from dreambooth.models.layout import Shapes
from dreambooth.models.recognition import Recognition
from dreambooth.models.sd.distilled import descriptions
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.t5.prompts import MAX_LENGTH
from dreambooth.models.t5.tokenizer import t5_tokenizer, write_t5_tokenizer
from dreambooth.models.turbo import STEPS
from dreambooth.tensor_files import Tensors

CONFIG_KEY = "dreambooth.chroma"  # metadata: what the configs of a folder say that tensors don't show, as JSON
_FLASH_STEPS = 8
_INSTEAD = "Train on Chroma1-HD or Chroma1-Base instead, and use the LoRA with the distilled model."


class Chroma(FluxTransformerFamily):
    """See :class:`Family`. The defaults are those of sd-scripts' documentation (docs/flux_train_network.md: rank 16,
    learning rate 1e-4, sigmoid timesteps without shift, T5's mask, no guidance input).
    """

    model_type, title, base_model_version = "chroma", "Chroma", "chroma"
    config_key = CONFIG_KEY
    distilled_title, distilled_steps_published, distilled_advice = "distilled Chroma", _FLASH_STEPS, _INSTEAD
    markers = MARKER, "distilled_guidance_layer.layers.0.linear_1.weight"
    transformer_class = "ChromaTransformer2DModel"
    text_formats: ClassVar = {T5: T5_XXL}
    wide_encoder = T5
    usual_size = (8_900_000_000, 4_760_000_000, 1024)
    components = (
        TRANSFORMER,
        Component(T5, TEXT_ENCODER, "text encoder (T5 XXL)", "text_encoders.t5xxl.transformer.", "model.safetensors",
                  "tokenizer", in_checkpoint=False),
        FLUX_VAE,
    )  # fmt: skip
    capabilities = Capabilities(LIMITS, {"pad_tokens": "masks padding, all but one token"})
    defaults: ClassVar = {
        "resolution": 1024, "scheduler": "EulerDiscrete", "stop_text_encoder": 0.0, "timestep_sampling": "sigmoid",
        "lora_unet_rank": 16, "lora_learning_rate": 1e-4,
    }  # fmt: skip
    # Older torch gives NaN where a row of attention is masked as a whole, as that of padding is.
    required_libraries: ClassVar = {"diffusers": ">=0.35", "transformers": ">=4.45", "torch": ">=2.5"}

    # -- components --------------------------------------------------------------------------------------------

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        return modulation_positions(buffer) if name.endswith("mod_proj") else super().rebuild_buffer(name, buffer)

    def load_tokenizer(self, folder: Path) -> Any:
        """All models have the same; the files in the folder are for other programs."""
        return t5_tokenizer()

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        write_t5_tokenizer(working / "tokenizer")

    # -- recognizing --------------------------------------------------------------------------------------------

    def recognize(self, file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
        """Chroma1-Flash, which is distilled, by its name."""
        recognition = super().recognize(file, families, prediction)
        place = next((place for place, text in descriptions(file) if "flash" in text.lower()), "")
        if recognition.warnings or not place:
            return recognition
        warning = (
            f"{place} says that it is distilled for few steps (Flash): training undoes that after a few hundred steps. "
            f"{_INSTEAD}"
        )
        reason = "Chroma1-Flash, by its tensors and its name"
        return replace(recognition, reason=reason, warnings=(warning,), schedule={STEPS: _FLASH_STEPS})

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """By its metadata, or modules of the approximator; the others are FLUX.1's too."""
        return super().made_adapter(version, sizes) if version else any(APPROXIMATOR in name for name in sizes)

    # -- configs ------------------------------------------------------------------------------------------------

    def transformer_config(self, shapes: Shapes) -> dict[str, Any]:
        return transformer_config(shapes)

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """That of diffusers' ChromaPipeline."""
        return {
            "_class_name": "ChromaPipeline",
            **super().model_index(configs),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "ChromaTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }

    # -- what it is made of -------------------------------------------------------------------------------------

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> ChromaConditioner:
        return ChromaConditioner(text_encoders, tokenizers)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        return min(n_tokens + 2, MAX_LENGTH) * configs[T5]["d_model"] * 4

    def make_denoiser(self, module: Any) -> ChromaDenoiser:
        return ChromaDenoiser(module)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(12e9, 0.9e9, 8.9e9, per_rank=2200)

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        """As sd-scripts writes it."""
        return "chroma"


CHROMA = Chroma()
