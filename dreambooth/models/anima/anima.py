"""Anima and its variants."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import LayerKinds
from dreambooth.models.adapter_spelling import AdapterSpelling
from dreambooth.models.anima import spellings
from dreambooth.models.anima.conditioner import AnimaConditioner
from dreambooth.models.anima.denoiser import AnimaDenoiser
from dreambooth.models.anima.names import ADAPTER, TransformerNames, is_adapter_name
from dreambooth.models.anima.sizes import (
    PATCH,
    QUERY,
    adapter_config,
    make_adapter,
    make_transformer,
    transformer_config,
)
from dreambooth.models.capabilities import (
    FLOW_MATCHING,
    NO_CLIP,
    NO_CONVOLUTIONS,
    NO_OFFSET_NOISE,
    Capabilities,
    Limit,
    limited,
)
from dreambooth.models.components import DENOISER, TEXT_ENCODER, VAE, Component
from dreambooth.models.family import Configs
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.original_names import PREFIX
from dreambooth.models.qwen.autoencoder import (
    QwenVaeNames,
    make_qwen_vae,
    qwen_vae_codec,
    qwen_vae_config,
    qwen_vae_names,
)
from dreambooth.models.qwen.family import QwenFamily
from dreambooth.models.qwen.qwen3 import (
    is_qwen3_name,
    make_qwen3,
    qwen3_config,
    qwen3_names,
)
from dreambooth.models.same_names import SameNames
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.t5.tokenizer import t5_tokenizer, write_t5_tokenizer
from dreambooth.tensor_files import Tensors

CONFIG_KEY = "dreambooth.anima"  # metadata: what the configs of a folder say that tensors don't show, as JSON
_T5_FOLDER = "t5_tokenizer"
_TURBO_STEPS = 10
_INSTEAD = "Train on Anima instead, and use the LoRA with the distilled model, if need be at a higher weight."
# Names of its modules in adapter files: the original ones, and diffusers', which PixArt and LTX have too.
_MODULE = re.compile(
    r"(^|_)blocks_\d+_((self|cross)_attn_(q|k|v|output)_proj|mlp_layer[12])"
    r"|^(lora_unet_|lora_|lycoris_)?(transformer_)?transformer_blocks_\d+_attn[12]_to_"
)
# Of the text adapter's modules in adapter files; Forge Neo has it in the text encoder.
_ADAPTER_SPELLING = AdapterSpelling(
    ("diffusion_model.llm_adapter", "lora_unet_llm_adapter", "lora_te_llm_adapter",
     "text_encoders.qwen3_06b.llm_adapter", "text_conditioner", "net.llm_adapter"), keeps_dots=True,
)  # fmt: skip


class Anima(QwenFamily):
    """See :class:`Family`. The defaults are those of sd-scripts' documentation (docs/anima_train_network.md: rank 8,
    learning rate 1e-4, sigmoid timesteps without shift); its targets and OneTrainer's are those of
    :meth:`adapter_targets`. The text adapter is a component of its own, as in diffusers, and not trained.
    """

    model_type, title, base_model_version = "anima", "Anima", "anima"
    config_key, shift, patch = CONFIG_KEY, 3.0, PATCH  # the sampler's shift as WebUIs have it
    distilled_title, distilled_steps_published, distilled_advice = "distilled Anima", _TURBO_STEPS, _INSTEAD
    usual_size = (1_960_000_000, 740_000_000, 1024)
    components = (
        Component("text_conditioner", TEXT_ENCODER, "text adapter (LLM adapter)", PREFIX + ADAPTER,
                  tokenizer=_T5_FOLDER),
        Component("transformer", DENOISER, "transformer", PREFIX),
        Component("text_encoder", TEXT_ENCODER, "text encoder (Qwen3 0.6B)",
                  "text_encoders.qwen3_06b.transformer.model.", "model.safetensors", "tokenizer", in_checkpoint=False),
        Component("vae", VAE, "VAE (Qwen-Image)", "vae.", in_checkpoint=False),
    )  # fmt: skip
    capabilities = Capabilities(
        {**FLOW_MATCHING, **NO_CLIP, **NO_CONVOLUTIONS, **NO_OFFSET_NOISE,
         "stop_text_encoder": Limit("its text encoder is left as it was trained, by all trainers", (0.0,)),
         **limited("its attention is that of torch alone", "attention")},
        {"pad_tokens": "pads prompts itself, to 512 tokens"},
    )  # fmt: skip
    defaults: ClassVar = {
        "resolution": 1024, "scheduler": "EulerDiscrete", "stop_text_encoder": 0.0, "timestep_sampling": "sigmoid",
        "timestep_shift": 1.0, "lora_unet_rank": 8, "lora_learning_rate": 1e-4,
    }  # fmt: skip
    layer_kinds = LayerKinds(("attn1", "attn2"), ("ff",), ("norm1", "norm2", "norm3"))
    required_libraries: ClassVar = {"diffusers": ">=0.35", "transformers": ">=4.51", "torch": ">=2.4"}

    # -- components --------------------------------------------------------------------------------------------

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        makers = {"text_encoder": make_qwen3, "text_conditioner": make_adapter, "vae": make_qwen_vae}
        return makers.get(name, make_transformer)(config)

    def load_tokenizer(self, folder: Path) -> Any:
        return t5_tokenizer() if folder.name == _T5_FOLDER else super().load_tokenizer(folder)

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        super().write_tokenizers(working, configs)
        write_t5_tokenizer(working / _T5_FOLDER)

    # -- recognizing --------------------------------------------------------------------------------------------

    def with_original_names(self, file: Tensors) -> Tensors:
        return spellings.with_original_names(file)

    def names_in_files(self) -> Mapping[str, Callable[[Tensors], dict[str, str]]]:
        """The adapter has no file of its own."""
        return {"text_encoder": qwen3_names, "vae": qwen_vae_names}

    def matches(self, shapes: Shapes) -> bool:
        return {PREFIX + name for name in (spellings.MARKER, QUERY)} <= shapes.keys()

    def matches_folder(self, configs: Configs) -> bool:
        classes = {name: config.get("_class_name") for name, config in configs.items()}
        is_cosmos = classes.get("transformer") == "CosmosTransformer3DModel"
        return is_cosmos and classes.get("text_conditioner") == "AnimaTextConditioner"

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        adapter, denoiser, text, vae = (strip_prefix(shapes, component.prefix) for component in self.components)
        with self.requires_all():
            configs = {"text_conditioner": adapter_config(adapter), "transformer": transformer_config(denoiser)}
            if text:
                configs["text_encoder"] = qwen3_config(text)
            if vae:
                configs["vae"] = qwen_vae_config(vae)
        self._require_fit(configs)
        return configs

    def _require_fit(self, configs: Configs) -> None:
        width = configs["text_conditioner"]["source_dim"]
        if "text_encoder" in configs and (own := configs["text_encoder"]["hidden_size"]) != width:
            raise UserError(
                f"its text adapter expects hidden states of width {width}, its text encoder has width {own}: use the "
                "text encoder Qwen3 0.6B"
            )

    def layout(self, configs: Configs) -> Layout:
        adapter, transformer, text_encoder, vae = self.components
        return Layout(
            [
                ComponentLayout(adapter, SameNames(is_adapter_name), _ADAPTER_SPELLING),
                ComponentLayout(transformer, TransformerNames()),
                ComponentLayout(text_encoder, SameNames(is_qwen3_name)),
                ComponentLayout(vae, QwenVaeNames(configs.get("vae", {}).get("num_res_blocks", 2))),
            ],
            self.ema_prefix,
        )

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """The components of diffusers' AnimaModularPipeline."""
        return {
            "_class_name": "AnimaModularPipeline",
            **super().model_index(configs),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_conditioner": ["diffusers", "AnimaTextConditioner"],
            "text_encoder": ["transformers", "Qwen3Model"],
            _T5_FOLDER: ["transformers", "T5TokenizerFast"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "CosmosTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLQwenImage"],
        }

    # -- what it is made of -------------------------------------------------------------------------------------

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        return qwen_vae_codec(vae, PATCH)

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> AnimaConditioner:
        return AnimaConditioner(text_encoders, tokenizers)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        return n_tokens * configs["text_conditioner"]["target_dim"] * 4

    def make_denoiser(self, module: Any) -> AnimaDenoiser:
        return AnimaDenoiser(module)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(6.5e9, 0.6e9, 1.96e9, per_rank=1500)

    # -- adapters and exports -----------------------------------------------------------------------------------

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """By its metadata, or the names of its modules."""
        if version:
            return super().made_adapter(version, sizes)
        return any(_MODULE.search(name) for name in sizes)


ANIMA = Anima()
