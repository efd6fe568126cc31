"""FLUX.1 and its variants (dev, Krea-dev, schnell)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from dreambooth.errors import UserError
from dreambooth.models.capabilities import Capabilities
from dreambooth.models.components import TEXT_ENCODER, Component
from dreambooth.models.family import Configs, Family
from dreambooth.models.flow_family import GUIDANCE_SCALE
from dreambooth.models.flux import spellings
from dreambooth.models.flux.conditioner import CLIP, T5, FluxConditioner
from dreambooth.models.flux.denoiser import FluxDenoiser
from dreambooth.models.flux.sizes import GUIDANCE, POOLED, transformer_config
from dreambooth.models.flux.text_encoders import CLIP_L, T5_XXL
from dreambooth.models.flux.transformer_family import (
    APPROXIMATOR,
    FLUX_VAE,
    LIMITS,
    MODULE,
    TRANSFORMER,
    FluxTransformerFamily,
)
from dreambooth.models.flux.variants import is_krea, is_undistilled, kontext_problem
from dreambooth.models.layout import Shapes
from dreambooth.models.recognition import Recognition
from dreambooth.models.sd.clip_module import clip_name_on_disk, position_ids
from dreambooth.models.sd.tokenizer import load_tokenizer, write_tokenizer
from dreambooth.models.sd.tokens import CONTEXT_LENGTH
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.t5.prompts import MAX_LENGTH
from dreambooth.models.t5.tokenizer import t5_tokenizer, write_t5_tokenizer
from dreambooth.models.turbo import STEPS
from dreambooth.tensor_files import Tensors

CONFIG_KEY = "dreambooth.flux1"  # metadata: what the configs of a folder say that tensors don't show, as JSON
_GUIDANCE_OF_SAMPLES = 3.5  # as published for dev, in FluxPipeline and in WebUIs
# Of dev's sampler. That of schnell is not shifted.
_SCHEDULE = {
    "use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}  # fmt: skip
_SCHNELL_STEPS = 4  # as published
_SCHNELL_SCHEDULE = {"use_dynamic_shifting": False, "shift": 1.0, STEPS: _SCHNELL_STEPS}
_TURBO_STEPS = 8
_INSTEAD = (
    "Train on FLUX.1 dev or FLUX.1 Krea-dev instead; the LoRA also works with distilled models, if need be at a higher "
    "weight."
)
_SCHNELL = (
    "It has no guidance input, so it is probably FLUX.1 schnell, which is distilled for 4 steps: training undoes that "
    f"after a few hundred steps. {_INSTEAD} Or train on a model that undoes it (OpenFLUX.1, LibreFLUX)."
)
# Of modules in adapter files that Chroma doesn't have: modulation, embedded guidance and time, CLIP.
_ONLY_FLUX1 = re.compile(
    r"_mod_lin$|modulation_lin$|norm1(_context)?_linear$|_norm_linear$|(guidance|vector|time)_in_|time_text_embed"
    r"|^(lora_te1|text_encoders?_clip_l|text_encoder)_text_model"
)
_FLUX2_ROWS = {"_mlp_0": 6, "_linear1": 9}  # of FLUX.2's modules with FLUX.1's names: rows per column


class Flux1(FluxTransformerFamily):
    """See :class:`Family`. The defaults are those of sd-scripts' documentation (docs/flux_train_network.md: rank 16,
    learning rate 1e-4, timesteps of flux_shift, a guidance of 1 while training, see :class:`FluxDenoiser`); its targets
    and OneTrainer's are those of :attr:`layer_kinds`.
    """

    model_type, title, base_model_version = "flux1", "FLUX.1", "flux1"
    config_key = CONFIG_KEY
    distilled_title, distilled_steps_published, distilled_advice = "distilled FLUX.1", _TURBO_STEPS, _INSTEAD
    markers = POOLED, "time_text_embed.text_embedder.linear_1.weight"
    transformer_class = "FluxTransformer2DModel"
    text_formats: ClassVar = {CLIP: CLIP_L, T5: T5_XXL}
    wide_encoder = T5
    usual_size = (11_900_000_000, 4_890_000_000, 1024)
    components = (
        TRANSFORMER,
        Component(CLIP, TEXT_ENCODER, "text encoder (CLIP-L)", "text_encoders.clip_l.transformer.", "model.safetensors",
                  "tokenizer", in_checkpoint=False, disk_name=clip_name_on_disk),
        Component(T5, TEXT_ENCODER, "text encoder (T5 XXL)", "text_encoders.t5xxl.transformer.", "model.safetensors",
                  "tokenizer_2", in_checkpoint=False),
        FLUX_VAE,
    )  # fmt: skip
    capabilities = Capabilities(LIMITS, {"pad_tokens": f"pads prompts itself, to {MAX_LENGTH} tokens"})
    defaults: ClassVar = {
        "resolution": 1024, "scheduler": "EulerDiscrete", "stop_text_encoder": 0.0, "timestep_sampling": "sigmoid",
        "resolution_shift": True, "lora_unet_rank": 16, "lora_learning_rate": 1e-4,
    }  # fmt: skip
    required_libraries: ClassVar = {"diffusers": ">=0.32", "transformers": ">=4.45"}

    # -- components --------------------------------------------------------------------------------------------

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        return position_ids(buffer) if name.endswith("position_ids") else super().rebuild_buffer(name, buffer)

    def load_tokenizer(self, folder: Path) -> Any:
        """All models have T5's; the files in its folder are for other programs."""
        return t5_tokenizer() if folder.name == "tokenizer_2" else load_tokenizer(folder)

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        write_tokenizer(working / "tokenizer", CONTEXT_LENGTH)
        write_t5_tokenizer(working / "tokenizer_2")

    # -- recognizing --------------------------------------------------------------------------------------------

    def recognize(self, file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
        if problem := kontext_problem(file):
            raise UserError(problem)
        recognition = super().recognize(file, families, prediction)
        if spellings.PREFIX + GUIDANCE in file:
            if is_krea(file) and not recognition.warnings:
                return replace(recognition, reason="FLUX.1 Krea-dev, by its tensors and its name")
            return recognition
        if is_undistilled(file):
            return recognition
        reason = "FLUX.1 schnell, by its tensors"
        return replace(recognition, reason=reason, warnings=(_SCHNELL,), schedule=_SCHNELL_SCHEDULE)

    # -- configs ------------------------------------------------------------------------------------------------

    def transformer_config(self, shapes: Shapes) -> dict[str, Any]:
        return transformer_config(shapes)

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        scheduler = configs.get("scheduler", {})
        return {CONFIG_KEY: json.dumps({key: scheduler[key] for key in _SCHEDULE if key in scheduler})}

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        """With the shift of dev, and, if the model has a guidance input, the scale of samples."""
        has_guidance = spellings.PREFIX + GUIDANCE in shapes
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            **_SCHEDULE,
            **json.loads(metadata.get(CONFIG_KEY, "{}")),
            **({GUIDANCE_SCALE: _GUIDANCE_OF_SAMPLES} if has_guidance else {}),
        }

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """That of diffusers' FluxPipeline."""
        return {
            "_class_name": "FluxPipeline",
            **super().model_index(configs),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }

    # -- what it is made of -------------------------------------------------------------------------------------

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> FluxConditioner:
        return FluxConditioner(text_encoders, tokenizers)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        return (MAX_LENGTH * configs[T5]["d_model"] + configs[CLIP]["hidden_size"]) * 4

    def make_denoiser(self, module: Any) -> FluxDenoiser:
        return FluxDenoiser(module)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(12e9, 0.9e9, 11.9e9, per_rank=2900)

    # -- adapters and exports -----------------------------------------------------------------------------------

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """By its metadata, or the names of its modules, which FLUX.2 has too, with other sizes."""
        if version:
            return super().made_adapter(version, sizes)
        if not any(MODULE.search(name) for name in sizes) or any(APPROXIMATOR in name for name in sizes):
            return False
        return not any(
            name.endswith(end) and size and size[0] == ratio * size[1]
            for name, size in sizes.items()
            for end, ratio in _FLUX2_ROWS.items()
        )

    def title_of_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> str:
        """Chroma's blocks have the same modules and sizes, but for the modulation."""
        is_certain = bool(version) or any(_ONLY_FLUX1.search(name) for name in sizes)
        return self.title if is_certain else "FLUX.1 or Chroma"

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        """As sd-scripts writes it."""
        return "flux-1-dev" if denoiser.get("guidance_embeds") else "flux-1-schnell"


FLUX1 = Flux1()
