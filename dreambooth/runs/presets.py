"""The wizards: recommended settings for this machine or subject, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.memory.forecast import ModelSize, forecast_memory
from dreambooth.models.family import Family
from dreambooth.settings import Settings
from dreambooth.text import format_bytes
from dreambooth.training.optimizer_kinds import unavailable_reason
from dreambooth.training.precision import resolve_precision

SPARE = 0.85  # of the GPU's free memory; the remainder covers fragmentation, previews and the desktop


@dataclass
class Recommendation:
    """Settings to change and the reasons, in order of decision."""

    changes: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def choose(self, why: str, **changes: Any) -> None:
        self.changes |= changes
        self.reasons.append(why)


def for_machine(
    settings: Settings, device: torch.device, family: Family, size: ModelSize, has_class_images: bool
) -> Recommendation:
    """The fastest configuration that the family allows and that fits into the memory of this device, by the preflight's
    forecast. ``size``: of the model.
    """
    result, base = Recommendation(), dataclasses.replace(settings, mixed_precision="auto")
    precision = resolve_precision(base, device)
    why = {"bf16": "supported by this GPU", "fp16": "this GPU has no bf16", "no": f"full precision on {device.type}"}
    result.choose(f"Mixed precision auto ({precision}): {why[precision]}.", mixed_precision="auto")
    if device.type != "cuda":
        result.choose(
            "LoRA, batch size 1, no gradient checkpointing: without a GPU, time is the limit, not memory.",
            use_lora=True, train_batch_size=1, gradient_checkpointing=False, optimizer="Torch AdamW", use_ema=False,
        )  # fmt: skip
        return result
    free = torch.cuda.mem_get_info(device)[0]
    eight_bit = unavailable_reason("8bit AdamW", device) == ""
    candidates = [
        candidate
        for candidate in _candidates(eight_bit)
        if not any(family.capabilities.refuses(key, value) for key, value in candidate[0].items())
    ]
    needs = [
        forecast_memory(dataclasses.replace(base, **changes), precision, size, has_class_images)
        for changes, _ in candidates
    ]
    fitting = next((i for i, needed in enumerate(needs) if needed <= SPARE * free), len(needs) - 1)
    changes, what = candidates[fitting]
    result.choose(f"{what}: needs about {format_bytes(needs[fitting])}, {format_bytes(free)} are free.", **changes)
    return result


def _candidates(eight_bit: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """From the highest to the lowest memory use."""
    full = {"use_lora": False, "optimizer": "Torch AdamW", "base_precision": "full"}
    for batch in (4, 2, 1):
        yield (
            {**full, "use_ema": True, "gradient_checkpointing": False, "train_batch_size": batch},
            f"Full training with EMA, batch size {batch}",
        )
    for ema in (True, False):
        yield (
            {**full, "use_ema": ema, "gradient_checkpointing": True, "train_batch_size": 1},
            f"Full training{' with EMA' if ema else ''}, gradient checkpointing",
        )
    if eight_bit:
        yield {**full, "optimizer": "8bit AdamW", "use_ema": False, "gradient_checkpointing": True,
               "train_batch_size": 1}, "Full training with 8-bit AdamW, gradient checkpointing"  # fmt: skip
    lora = {"use_lora": True, "optimizer": "Torch AdamW", "base_precision": "full", "use_ema": False}
    for batch, checkpointing in ((2, False), (1, False), (1, True)):
        yield (
            {**lora, "gradient_checkpointing": checkpointing, "train_batch_size": batch},
            f"LoRA, batch size {batch}{', gradient checkpointing' if checkpointing else ''}",
        )
    yield (
        {**lora, "base_precision": "int8", "gradient_checkpointing": True, "train_batch_size": 1},
        ("LoRA on the base model in int8, gradient checkpointing"),
    )


def for_person(family: Family, has_class_images: bool) -> Recommendation:
    """Faces need many steps and a trained text encoder to be recognizable."""
    result = Recommendation()
    result.choose("150 epochs: faces need more epochs than objects.", num_train_epochs=150)
    return _for_subject(result, family, has_class_images, "other people")


def for_object(family: Family, has_class_images: bool) -> Recommendation:
    """Objects and styles need fewer steps than faces."""
    result = Recommendation()
    result.choose("100 epochs: objects and styles need fewer epochs than faces.", num_train_epochs=100)
    return _for_subject(result, family, has_class_images, "similar objects")


def _for_subject(result: Recommendation, family: Family, has_class_images: bool, of_what: str) -> Recommendation:
    if family.capabilities.refuses("stop_text_encoder", 0.75):
        reason = family.capabilities.limits["stop_text_encoder"].reason
        result.choose(f"Text encoder not trained: {reason}.", train_unet=True, stop_text_encoder=0.0)
    else:
        result.choose(
            "Text encoder trained for the first 75% of the steps: it binds the instance token to the subject.",
            train_unet=True, stop_text_encoder=0.75,
        )  # fmt: skip
    if has_class_images:
        result.choose(
            "Prior loss weight 0.75: the class images preserve what the model knows about the class.",
            prior_loss_weight=0.75,
        )
    else:
        result.reasons.append(
            f"No class images: add a folder with images of {of_what} to preserve what the model knows about the class."
        )
    return result
