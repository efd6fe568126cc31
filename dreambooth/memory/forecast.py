"""Forecast of the memory that a run needs, and of the disk space of its results."""

from __future__ import annotations

from dreambooth.settings import Settings
from dreambooth.settings.components import is_pure_bf16, trains_ema, trains_text_encoder
from dreambooth.settings.training import OPTIMIZERS

# Bytes of optimizer state per trained parameter.
OPTIMIZER_STATE_BYTES: dict[str, float] = {
    "Torch AdamW": 8, "8bit AdamW": 2, "Paged 8bit AdamW": 2, "Lion": 4, "8bit Lion": 1, "Paged 8bit Lion": 1,
    "Tiger": 4, "Adafactor": 0.1, "CAME": 4.2, "SGD Nesterov": 4, "8bit SGD": 1, "AdamW Dadaptation": 12,
    "Adan Dadaptation": 20, "Lion Dadaptation": 8, "SGD Dadaptation": 12, "Prodigy": 16, "Schedule-Free AdamW": 8,
}  # fmt: skip
assert tuple(OPTIMIZER_STATE_BYTES) == OPTIMIZERS


def forecast_memory(settings: Settings, precision: str, n_unet: int, n_text: int, class_images: bool) -> int:
    """Peak bytes of GPU memory in training. ``n_unet``, ``n_text``: parameters of the components.

    Weights: a frozen parameter takes 2 or 4 bytes, by the compute precision. A trained one takes 4, its gradient 4, its
    optimizer state 8 (Adam), and autocast's copy in half precision 2; in pure bfloat16 each of weight, gradient and
    both moments takes 2. Activations: 1.24 GB per image for SD1.5's 860 M unet at 512 px in half precision, 0.24 GB
    with gradient checkpointing (published figures of the unet with fused attention), scaled by images, pixels and the
    unet's parameters.
    """
    half, copy = (2, 2) if precision != "no" else (4, 0)
    moments = OPTIMIZER_STATE_BYTES[settings.optimizer]
    of_trained = 8 if is_pure_bf16(settings) else 4 + 4 + moments + copy
    total = 0
    for parameters, trained in ((n_unet, settings.train_unet), (n_text, trains_text_encoder(settings))):
        full = trained and not settings.use_lora
        total += parameters * (of_trained if full else half)
    if settings.use_lora:
        total += _adapter_parameters(settings, n_unet, n_text) * (4 + 4 + moments + copy)
        if not settings.gradient_checkpointing and (settings.lora_type != "LoRA" or settings.lora_dora):
            total += n_unet * half  # the weight updates, saved for the backward pass
    elif trains_ema(settings) and not settings.ema_on_cpu:
        total += n_unet * _ema_bytes(settings)
    images = settings.train_batch_size * (2 if class_images else 1)
    activations = 0.24e9 if settings.gradient_checkpointing else 1.24e9
    pixels = (settings.resolution / 512) ** 2
    return int(total + activations * (half / 2) * images * pixels * n_unet / 860e6)


def forecast_lora(settings: Settings, n_unet: int, n_text: int) -> int:
    """Bytes on disk of a LoRA."""
    return 2 * _adapter_parameters(settings, n_unet, n_text)


def forecast_working(settings: Settings, n_unet: int, n_text: int) -> int:
    """Bytes on disk of the trained components and the EMA weights, in float32, while the old ones are still there."""
    return 4 * (_trained_parameters(settings, n_unet, n_text) + (n_unet if trains_ema(settings) else 0))


def forecast_snapshot(settings: Settings, n_unet: int, n_text: int) -> int:
    """Bytes on disk of a snapshot: float32 weights, the optimizer state and the EMA weights."""
    moments = OPTIMIZER_STATE_BYTES[settings.optimizer]
    if settings.use_lora:
        return int(_adapter_parameters(settings, n_unet, n_text) * (4 + moments))
    ema = n_unet * _ema_bytes(settings) if trains_ema(settings) else 0
    return int(_trained_parameters(settings, n_unet, n_text) * (4 + moments)) + ema


def _trained_parameters(settings: Settings, n_unet: int, n_text: int) -> int:
    return (n_unet if settings.train_unet else 0) + (n_text if trains_text_encoder(settings) else 0)


def _ema_bytes(settings: Settings) -> int:
    return 2 if settings.ema_precision == "bf16" else 4


def _adapter_parameters(settings: Settings, n_unet: int, n_text: int) -> int:
    """Trainable parameters of the adapters, estimated from those of the components.

    Per rank, SD1.5's unet has one for each 2000 of its own parameters and, with convolutions, one for each 1580; SDXL's
    unet, mostly transformer blocks, one for each 960 and each 7200; CLIP's text encoder one for each 740. LoHa has
    twice as many, LoKr at most as many.
    """
    per_rank, per_conv_rank = (2000, 1580) if n_unet < 1.5e9 else (960, 7200)
    conv_rank = settings.lora_conv_rank if settings.use_lora_extended else 0
    unet = n_unet * settings.lora_unet_rank // per_rank + n_unet * conv_rank // per_conv_rank
    text = n_text * settings.lora_txt_rank // 740
    trained = (unet if settings.train_unet else 0) + (text if trains_text_encoder(settings) else 0)
    return trained * (2 if settings.lora_type == "LoHa" else 1)
