"""Forecast of the memory that a run needs, and of the disk space of its results."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.settings import Settings
from dreambooth.settings.components import (
    is_fused_backward,
    is_pure_bf16,
    quantizes_base,
    trains_ema,
    trains_text_encoder,
)
from dreambooth.settings.lora_ranks import highest_rank
from dreambooth.settings.training import OPTIMIZERS

# Bytes of optimizer state per trained parameter.
OPTIMIZER_STATE_BYTES: dict[str, float] = {
    "Torch AdamW": 8, "8bit AdamW": 2, "Paged 8bit AdamW": 2, "Lion": 4, "8bit Lion": 1, "Paged 8bit Lion": 1,
    "Tiger": 4, "Adafactor": 0.1, "CAME": 4.2, "SGD Nesterov": 4, "8bit SGD": 1, "AdamW Dadaptation": 12,
    "Adan Dadaptation": 20, "Lion Dadaptation": 8, "SGD Dadaptation": 12, "Prodigy": 16, "Schedule-Free AdamW": 8,
}  # fmt: skip
assert tuple(OPTIMIZER_STATE_BYTES) == OPTIMIZERS
# Elements of the gradients that a fused backward pass collects before it updates their weights.
GRADIENT_BATCH = 1 << 24
# Of a denoiser's parameters, those in repeated blocks; parameters of the blocks that are on the GPU in turn: the one
# that computes, the next, and the previous.
_IN_BLOCKS, _MOVING = 0.97, 120e6
# Bytes per parameter of a quantized denoiser and of quantized text encoders, with the scales and what stays in 2 bytes:
# of text encoders, the token embeddings.
QUANTIZED_BYTES = {"int8": (1.01, 1.3), "fp8": (1.01, 1.3), "nf4": (0.57, 1.0)}


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters of the denoiser and of all text encoders together, and the family's rules of thumb."""

    denoiser: int
    text_encoders: int
    estimate: SizeEstimate


def forecast_memory(
    settings: Settings, precision: str, size: ModelSize, class_images: bool, prompts_vary: bool = True
) -> int:
    """Peak bytes of GPU memory in training, without previews.

    Weights: a frozen parameter takes 2 or 4 bytes, by the compute precision, or about 1 or 0.5 if quantized; text
    encoders that are not trained are there only where ``prompts_vary``. A trained parameter takes 4, its gradient 4,
    its optimizer state 8 (Adam), and autocast's copy in half precision 2; in pure bfloat16 each of weight, gradient and
    both moments takes 2. A fused backward pass keeps the gradients of one batch of weights only, and with checkpointing
    no copies. Copies and all activations are there at the end of the forward pass, gradients at the end of the backward
    pass: the peak is the larger of the two. Block offload keeps a part of the denoiser in main memory. Activations: the
    family's estimate, scaled by images, pixels and the denoiser's parameters.
    """
    half, copy = (2, 2) if precision != "no" else (4, 0)
    moments = OPTIMIZER_STATE_BYTES[settings.optimizer]
    weight = 4
    if is_pure_bf16(settings):
        weight, copy = 2, 0
        moments = moments / 2 if settings.optimizer == "Torch AdamW" else moments  # others keep them in float32
    fused = is_fused_backward(settings)
    gradient = 0 if fused else weight
    copy = 0 if fused and settings.gradient_checkpointing else copy
    rounding = 0  # bytes of float32 copies for each element of the batch
    if is_pure_bf16(settings):
        rounding = 16 if settings.optimizer == "Torch AdamW" else 8
    denoiser = _resident(size.denoiser, settings.offload_fraction)
    total = _gradient_batch(size) * (weight + rounding) if fused else 0
    trained_in_full = 0.0
    frozen = QUANTIZED_BYTES[settings.base_precision] if quantizes_base(settings) else (half, half)
    for parameters, trained, stays, of_frozen in (
        (denoiser, settings.train_unet, True, frozen[0]),
        (size.text_encoders, trains_text_encoder(settings), prompts_vary, frozen[1]),
    ):
        if trained and not settings.use_lora:
            trained_in_full += parameters
        elif trained or stays:
            total += parameters * of_frozen
    total += trained_in_full * (weight + moments)
    gradients, copies = trained_in_full * gradient, trained_in_full * copy
    if settings.use_lora:
        adapters = _adapter_parameters(settings, size)
        total += adapters * (4 + moments)
        gradients, copies = adapters * 4, 0 if settings.gradient_checkpointing else adapters * copy
        if not settings.gradient_checkpointing and (settings.lora_type != "LoRA" or settings.lora_dora):
            total += size.denoiser * half  # the weight updates, saved for the backward pass
    elif trains_ema(settings) and not settings.ema_on_cpu:
        total += denoiser * _ema_bytes(settings)  # that of a block in main memory is there too
    images = settings.train_batch_size * (2 if class_images else 1)
    estimate = size.estimate
    scale = (half / 2) * images * (settings.resolution / 512) ** 2 * size.denoiser / estimate.reference_parameters
    checkpointed = estimate.checkpointed_activation_bytes * scale
    activations = checkpointed if settings.gradient_checkpointing else estimate.activation_bytes * scale
    return int(total + max(gradients + checkpointed / 3, copies + activations))


def _resident(denoiser: int, fraction: float) -> float:
    """Parameters of the denoiser that are on the GPU at once, with this fraction of its blocks in main memory."""
    return denoiser * (1 - _IN_BLOCKS * fraction) + min(_MOVING, _IN_BLOCKS * fraction * denoiser)


def _gradient_batch(size: ModelSize) -> int:
    """Elements of the gradients that a fused backward pass keeps."""
    return min(GRADIENT_BATCH, size.denoiser + size.text_encoders)


def forecast_lora(settings: Settings, size: ModelSize) -> int:
    """Bytes on disk of a LoRA."""
    return 2 * _adapter_parameters(settings, size)


def forecast_working(settings: Settings, size: ModelSize) -> int:
    """Bytes on disk of the trained components and the EMA weights, in float32, while the old ones are still there."""
    return 4 * (_trained_parameters(settings, size) + (size.denoiser if trains_ema(settings) else 0))


def forecast_snapshot(settings: Settings, size: ModelSize) -> int:
    """Bytes on disk of a snapshot: float32 weights, the optimizer state and the EMA weights."""
    moments = OPTIMIZER_STATE_BYTES[settings.optimizer]
    if settings.use_lora:
        return int(_adapter_parameters(settings, size) * (4 + moments))
    ema = size.denoiser * _ema_bytes(settings) if trains_ema(settings) else 0
    return int(_trained_parameters(settings, size) * (4 + moments)) + ema


def _trained_parameters(settings: Settings, size: ModelSize) -> int:
    text_encoders = size.text_encoders if trains_text_encoder(settings) else 0
    return (size.denoiser if settings.train_unet else 0) + text_encoders


def _ema_bytes(settings: Settings) -> int:
    return 2 if settings.ema_precision == "bf16" else 4


def _adapter_parameters(settings: Settings, size: ModelSize) -> int:
    """Trainable parameters of the adapters, estimated. LoHa has twice as many, LoKr at most as many.

    With ranks by pattern the highest counts for all layers.
    """
    highest = highest_rank(settings.lora_ranks)
    estimate = size.estimate
    denoiser = size.denoiser * max(settings.lora_unet_rank, highest) // estimate.per_rank
    if settings.use_lora_extended and estimate.per_conv_rank:
        denoiser += size.denoiser * max(settings.lora_conv_rank, highest) // estimate.per_conv_rank
    text = size.text_encoders * max(settings.lora_txt_rank, highest) // estimate.per_text_rank
    trained = (denoiser if settings.train_unet else 0) + (text if trains_text_encoder(settings) else 0)
    return trained * (2 if settings.lora_type == "LoHa" else 1)
