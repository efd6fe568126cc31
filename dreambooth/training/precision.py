"""Which device computes, in which precision, and what it will need of memory."""

from __future__ import annotations

import gc
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.training.optimizer_kinds import KINDS


def resolve_precision(settings: Settings, device: torch.device) -> str:
    """ "no", "fp16" or "bf16" for ``mixed_precision``; UserError where this device cannot do what was chosen."""
    chosen, possible = settings.mixed_precision, precisions_of(device)
    if chosen == "auto":
        return possible[0]
    if chosen not in possible:
        others = ", ".join(possible)
        raise UserError(f"mixed_precision: {chosen} does not train on this {device.type}; choose {others} or auto.")
    return chosen


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """What can train there, the best choice first."""
    if device.type != "cuda":
        return ("no", "bf16") if device.type == "cpu" else ("no",)
    # torch.cuda.is_bf16_supported also says yes to GPUs that emulate it, many times slower.
    in_hardware = bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    return ("bf16", "fp16", "no") if in_hardware else ("fp16", "no")


def compute_dtype(precision: str) -> torch.dtype:
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def is_pure_bf16(settings: Settings) -> bool:
    """Whether what learns is kept in bfloat16 too, see rounded_adamw.py."""
    return settings.full_mixed_precision and not settings.use_lora


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; to a GPU by way of pinned memory, else Python would wait for all work there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def make_accelerator(device: torch.device, precision: str) -> Any:
    """Accelerate's view of this run. Its state is a process-wide singleton: a run must not inherit the last one's."""
    from accelerate import Accelerator

    forget_accelerator()
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def forget_accelerator() -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def free_memory(device: torch.device) -> None:
    """What nobody refers to any more, back to the device, where other programs find it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_used(device: torch.device) -> int | None:
    """The most bytes that training took on the GPU so far; None where nobody counts them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def disk_forecast(settings: Settings, n_unet: int, n_text: int) -> int:
    """Bytes that the results of one save will take: snapshots hold weights in float32 and what the optimizer keeps."""
    asked = settings.save_state_during or settings.save_state_after or settings.save_state_cancel
    snapshot = asked or settings.autosave_minutes > 0
    moments = KINDS[settings.optimizer].state_bytes
    if settings.use_lora:
        return int(_adapter_parameters(settings, n_unet, n_text) * (2 + (4 + moments if snapshot else 0)))
    trained = (n_unet if settings.train_unet else 0) + (n_text if settings.stop_text_encoder > 0 else 0)
    checkpoint = settings.save_ckpt_during or settings.save_ckpt_after or settings.save_ckpt_cancel
    copies = 1 + (1 + moments / 4 if snapshot else 0) + (1 if checkpoint else 0)
    averages = 4 + (_ema_bytes(settings) if snapshot else 0) if settings.use_ema and settings.train_unet else 0
    return int(trained * 4 * copies + n_unet * averages)


def _ema_bytes(settings: Settings) -> int:
    return 2 if settings.ema_precision == "bf16" else 4


def forecast(settings: Settings, precision: str, n_unet: int, n_text: int, class_pictures: bool) -> int:
    """Bytes that training will need at most, before anything is loaded.

    Weights: a frozen parameter takes the compute precision's 2 or 4 bytes; a trained one 4 for itself, 4 for its
    gradient, what the optimizer keeps (8 for Adam's moments), 2 for autocast's copy in half precision; in bfloat16
    alone 2 for each of the four. Activations:
    1.24 GB for SD1.5's 860 M unet at 512 px in half precision, 0.24 with checkpointing (published figures of the
    attention-fused unet), in proportion to pictures, pixels and the unet's parameters.
    """
    half, copy = (2, 2) if precision != "no" else (4, 0)
    moments = KINDS[settings.optimizer].state_bytes
    trains_text = settings.stop_text_encoder > 0
    of_trained = 8 if is_pure_bf16(settings) else 4 + 4 + moments + copy
    total = 0
    for parameters, trained in ((n_unet, settings.train_unet), (n_text, trains_text)):
        full = trained and not settings.use_lora
        total += parameters * (of_trained if full else half)
    if settings.use_lora:
        total += _adapter_parameters(settings, n_unet, n_text) * (4 + 4 + moments + copy)
        if not settings.gradient_checkpointing and (settings.lora_type != "LoRA" or settings.lora_dora):
            total += n_unet * half  # the changes of the weights, kept for the backward pass
    elif settings.use_ema and settings.train_unet and not settings.ema_on_cpu:
        total += n_unet * _ema_bytes(settings)
    pictures = settings.train_batch_size * (2 if class_pictures else 1)
    activations = 0.24e9 if settings.gradient_checkpointing else 1.24e9
    pixels = (settings.resolution / 512) ** 2
    return int(total + activations * (half / 2) * pictures * pixels * n_unet / 860e6)


def _adapter_parameters(settings: Settings, n_unet: int, n_text: int) -> int:
    """At rank 1 SD1.5's unet has one for each 2000 of its own and, beside 3x3 convolutions, one for each 1580.

    SDXL's, mostly transformers, one for each 960 and each 7200; CLIP's text encoder one for each 740. LoHa has twice
    as many, LoKr at most as many.
    """
    per_rank, per_conv_rank = (2000, 1580) if n_unet < 1.5e9 else (960, 7200)
    conv_rank = settings.lora_conv_rank if settings.use_lora_extended else 0
    unet = n_unet * settings.lora_unet_rank // per_rank + n_unet * conv_rank // per_conv_rank
    text = n_text * settings.lora_txt_rank // 740
    learning = (unet if settings.train_unet else 0) + (text if settings.stop_text_encoder > 0 else 0)
    return learning * (2 if settings.lora_type == "LoHa" else 1)
