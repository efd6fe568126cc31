"""The settings of each role of components, and conditions on the settings that several packages need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dreambooth.settings.run import Settings


TrainedRole = Literal["denoiser", "text_encoder"]  # of models.components.Role


@dataclass(frozen=True)
class ComponentKeys:
    """Keys of the settings that hold the hyperparameters of the components with one role."""

    learning_rate: str
    lora_learning_rate: str
    weight_decay: str
    rank: str
    alpha: str
    dropout: str

    def rate(self, use_lora: bool) -> str:
        """The key of the learning rate that a run uses."""
        return self.lora_learning_rate if use_lora else self.learning_rate


DENOISER = ComponentKeys("learning_rate", "lora_learning_rate", "weight_decay", "lora_unet_rank", "lora_unet_alpha",
                         "lora_unet_dropout")  # fmt: skip
TEXT_ENCODER = ComponentKeys("txt_learning_rate", "lora_txt_learning_rate", "tenc_weight_decay", "lora_txt_rank",
                             "lora_txt_alpha", "lora_txt_dropout")  # fmt: skip
CONV_RANK, CONV_ALPHA = "lora_conv_rank", "lora_conv_alpha"  # of adapters of k x k convolutions, in the denoiser


def keys_of(role: TrainedRole) -> ComponentKeys:
    """All text encoders of a model share their settings."""
    return DENOISER if role == "denoiser" else TEXT_ENCODER


def trains_text_encoder(settings: Settings) -> bool:
    return settings.stop_text_encoder > 0


def trained_components(settings: Settings) -> dict[TrainedRole, ComponentKeys]:
    """The roles that a run trains, the denoiser first."""
    roles: dict[TrainedRole, ComponentKeys] = {"denoiser": DENOISER} if settings.train_unet else {}
    if trains_text_encoder(settings):
        roles["text_encoder"] = TEXT_ENCODER
    return roles


def trains_ema(settings: Settings) -> bool:
    """Whether a run keeps an exponential moving average: of the denoiser alone, and in full training alone."""
    return settings.use_ema and settings.train_unet and not settings.use_lora


def quantizes_base(settings: Settings) -> bool:
    """Whether the frozen base model of a LoRA is quantized, see memory/quantized.py."""
    return settings.use_lora and settings.base_precision != "full"


def is_pure_bf16(settings: Settings) -> bool:
    """Whether trainable weights are bfloat16 too, see training/stochastic_rounding.py."""
    return settings.full_mixed_precision and not settings.use_lora


def offloads_blocks(settings: Settings) -> bool:
    """Whether blocks of the denoiser wait in main memory, see memory/offload.py."""
    return settings.offload_fraction > 0


def is_fused_backward(settings: Settings) -> bool:
    """Whether weights are updated in the backward pass, see training/fused_backward.py."""
    return settings.fused_backward and not settings.use_lora
