"""Configurations from the best results to the least memory: what the wizard chooses from.

Full training comes first as long as its weights or its optimizer state are exact: with float32 weights, or in bf16 with
AdamW's own moments. Weights in bf16 and moments that are quantized or factored are not offered: each update is then
rounded and approximated at once, which takes long runs over many images to average out, while a LoRA in bf16 has
float32 parameters and moments, learns a subject from a few images, and needs less memory still. Whoever wants such a
full training sets it by hand.

Those of LoRAs are in presets/data/memory.json, with their reasons, because presets choose among them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dreambooth.presets.shipped import configurations, wizard_configurations

_PLAIN = {
    "optimizer": "Torch AdamW", "base_precision": "full", "full_mixed_precision": False, "fused_backward": False,
    "use_ema": False, "ema_on_cpu": False, "train_batch_size": 1, "offload_fraction": 0.0, "offload_activations": False,
}  # fmt: skip
_FUSED = {
    "use_lora": False, **_PLAIN, "fused_backward": True, "clip_each_tensor": True, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
}  # fmt: skip
_FULL = {"use_lora": False, **_PLAIN, "gradient_checkpointing": False}
_LORA = {"use_lora": True, **_PLAIN}
LEAST = {**_LORA, **configurations()["least"].values()}


@dataclass(frozen=True)
class Candidate:
    title: str
    changes: dict[str, Any]


def candidates_for(precision: str, eight_bit: bool) -> Iterator[Candidate]:
    """In the order of preference, where the device computes in ``precision``. ``eight_bit``: 8-bit
    optimizers can be used.
    """
    for batch in (4, 2, 1):
        changes = {**_FULL, "use_ema": True, "train_batch_size": batch}
        yield Candidate(f"Full training with EMA, batch size {batch}", changes)
    yield Candidate("Full training, EMA on the CPU", {**_FULL, "use_ema": True, "ema_on_cpu": True})
    yield Candidate("Full training", _FULL)
    if precision != "fp16":  # which checks all gradients before the first update
        yield Candidate("Full training, fused backward pass, gradient checkpointing", _FUSED)
        if eight_bit:
            changes = {**_FUSED, "optimizer": "8bit AdamW"}
            yield Candidate("Full training with 8-bit AdamW, fused backward pass, gradient checkpointing", changes)
    elif eight_bit:
        changes = {**_FULL, "optimizer": "8bit AdamW", "gradient_checkpointing": True}
        yield Candidate("Full training with 8-bit AdamW, gradient checkpointing", changes)
    if precision == "bf16":
        changes = {**_FUSED, "full_mixed_precision": True}
        yield Candidate("Full training in bf16, fused backward pass, gradient checkpointing", changes)
    for configuration in wizard_configurations():
        yield Candidate(configuration.title, {**_LORA, **configuration.values()})
