"""The settings of each trained component, and conditions on the settings that several packages need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth.settings.run import Settings


@dataclass(frozen=True)
class ComponentKeys:
    """Keys of the settings that hold a component's hyperparameters."""

    learning_rate: str
    lora_learning_rate: str
    weight_decay: str
    rank: str
    alpha: str
    dropout: str

    def rate(self, use_lora: bool) -> str:
        """The key of the learning rate that a run uses."""
        return self.lora_learning_rate if use_lora else self.learning_rate


UNET = ComponentKeys("learning_rate", "lora_learning_rate", "weight_decay", "lora_unet_rank", "lora_unet_alpha",
                     "lora_unet_dropout")  # fmt: skip
TEXT_ENCODER = ComponentKeys("txt_learning_rate", "lora_txt_learning_rate", "tenc_weight_decay", "lora_txt_rank",
                             "lora_txt_alpha", "lora_txt_dropout")  # fmt: skip
CONV_RANK, CONV_ALPHA = "lora_conv_rank", "lora_conv_alpha"  # of adapters of k x k convolutions, in the unet


def keys_of(component: str) -> ComponentKeys:
    """SDXL's two text encoders share their settings."""
    return UNET if component == "unet" else TEXT_ENCODER


def trains_text_encoder(settings: Settings) -> bool:
    return settings.stop_text_encoder > 0


def trained_components(settings: Settings) -> dict[str, ComponentKeys]:
    """The components that a run trains, "unet" first; "text_encoder" stands for all text encoders."""
    components = {"unet": UNET} if settings.train_unet else {}
    return components | ({"text_encoder": TEXT_ENCODER} if trains_text_encoder(settings) else {})


def trains_ema(settings: Settings) -> bool:
    """Whether a run keeps an exponential moving average: of the unet alone, and in full training alone."""
    return settings.use_ema and settings.train_unet and not settings.use_lora


def is_pure_bf16(settings: Settings) -> bool:
    """Whether trainable weights are bfloat16 too, see training/stochastic_rounding.py."""
    return settings.full_mixed_precision and not settings.use_lora
