"""Which device computes, in which precision, and what it will need of memory."""

from __future__ import annotations

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(settings: Settings, device: torch.device) -> str:
    """ "no", "fp16" or "bf16" for ``mixed_precision``; UserError where this device cannot do what was chosen."""
    chosen = settings.mixed_precision
    if chosen == "auto":
        if device.type != "cuda":
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if chosen == "fp16" and device.type == "cpu":
        raise UserError("mixed_precision: fp16 does not train on a CPU; choose bf16, no or auto.")
    if chosen == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("mixed_precision: this GPU does not compute bf16; choose fp16, no or auto.")
    return chosen


def compute_dtype(precision: str) -> torch.dtype:
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def disk_forecast(settings: Settings, n_unet: int, n_text: int) -> int:
    """Bytes that the results of one save will take: snapshots hold weights and both of Adam's moments in float32."""
    trained = (n_unet if settings.train_unet else 0) + (n_text if settings.stop_text_encoder > 0 else 0)
    if settings.use_lora:
        trained = trained * max(settings.lora_unet_rank, settings.lora_txt_rank) // 256  # 0.4 % at rank 1, roughly
        return trained * 4
    snapshot = settings.save_state_during or settings.save_state_after or settings.save_state_cancel
    checkpoint = settings.save_ckpt_during or settings.save_ckpt_after or settings.save_ckpt_cancel
    copies = 1 + (1 if settings.use_ema else 0) + (3 if snapshot else 0) + (1 if checkpoint else 0)
    return trained * 4 * copies


def forecast(settings: Settings, precision: str, n_unet: int, n_text: int, class_pictures: bool) -> int:
    """Bytes that training will need at most, before anything is loaded.

    Weights: a frozen parameter takes the compute precision's 2 or 4 bytes; a trained one 4 for itself, 4 for its
    gradient and 8 (2 with the 8-bit optimizer) for Adam's moments. Activations: 1.24 GB for SD1.5's 860 M unet at
    512 px in half precision, 0.24 with checkpointing (published figures of the attention-fused unet), in proportion
    to pictures, pixels and the unet's parameters.
    """
    half = 2 if precision != "no" else 4
    adam = 2 if settings.optimizer == "8bit AdamW" else 8
    trains_text = settings.stop_text_encoder > 0
    total = 0
    for parameters, trained in ((n_unet, settings.train_unet), (n_text, trains_text)):
        full = trained and not settings.use_lora
        total += parameters * (4 + 4 + adam if full else half)
    if settings.use_ema and settings.train_unet and not settings.use_lora:
        total += n_unet * 4
    pictures = settings.train_batch_size * (2 if class_pictures else 1)
    activations = 0.24e9 if settings.gradient_checkpointing else 1.24e9
    pixels = (settings.resolution / 512) ** 2
    return int(total + activations * (half / 2) * pictures * pixels * n_unet / 860e6)
