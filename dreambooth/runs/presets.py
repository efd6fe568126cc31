"""The wizards: settings that suit this machine or this task, each with the reason for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.settings import Settings
from dreambooth.training.optimizer_kinds import unavailable_reason
from dreambooth.training.precision import resolve_precision
from dreambooth.memory.forecast import forecast_memory

SPARE = 0.85  # of the GPU's free memory: the rest is for fragments, previews and the desktop


@dataclass
class Recommendation:
    """Settings to change, and why, in the order they were decided."""

    changes: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def choose(self, why: str, **changes: Any) -> None:
        self.changes |= changes
        self.reasons.append(why)


def for_machine(
    settings: Settings, device: torch.device, n_unet: int, n_text: int, class_pictures: bool
) -> Recommendation:
    """The fastest way to train this model that fits into the memory of this device.

    Every candidate's memory is forecast by what the preflight uses. ``n_unet``, ``n_text``: parameters.
    """
    advice, base = Recommendation(), dataclasses.replace(settings, mixed_precision="auto")
    precision = resolve_precision(base, device)
    words = {"bf16": "this GPU computes it", "fp16": "this GPU has no bf16", "no": f"it suits a {device.type}"}
    advice.choose(f"Mixed precision auto ({precision}): {words[precision]}.", mixed_precision="auto")
    if device.type != "cuda":
        advice.choose(
            "LoRA, batch 1, no gradient checkpointing: without a GPU time is short and memory is not.",
            use_lora=True, train_batch_size=1, gradient_checkpointing=False, optimizer="Torch AdamW", use_ema=False,
        )  # fmt: skip
        return advice
    free = torch.cuda.mem_get_info(device)[0]
    candidates = list(_candidates(eight_bit=unavailable_reason("8bit AdamW", device) == ""))
    needs = [
        forecast_memory(dataclasses.replace(base, **changes), precision, n_unet, n_text, class_pictures)
        for changes, _ in candidates
    ]
    fitting = next((i for i, needed in enumerate(needs) if needed <= SPARE * free), len(needs) - 1)
    changes, what = candidates[fitting]
    advice.choose(f"{what}: needs about {needs[fitting] / 1e9:.1f} GB, {free / 1e9:.1f} GB are free.", **changes)
    return advice


def _candidates(eight_bit: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """From the most generous to the most frugal."""
    full = {"use_lora": False, "optimizer": "Torch AdamW"}
    for batch in (4, 2, 1):
        yield (
            {**full, "use_ema": True, "gradient_checkpointing": False, "train_batch_size": batch},
            f"Full training with EMA, batch {batch}",
        )
    for ema in (True, False):
        yield (
            {**full, "use_ema": ema, "gradient_checkpointing": True, "train_batch_size": 1},
            f"Full training{' with EMA' if ema else ''}, gradient checkpointing",
        )
    if eight_bit:
        yield {**full, "optimizer": "8bit AdamW", "use_ema": False, "gradient_checkpointing": True,
               "train_batch_size": 1}, "Full training with 8-bit AdamW, gradient checkpointing"  # fmt: skip
    lora = {"use_lora": True, "optimizer": "Torch AdamW", "use_ema": False}
    for batch, checkpointing in ((2, False), (1, False), (1, True)):
        yield (
            {**lora, "gradient_checkpointing": checkpointing, "train_batch_size": batch},
            f"LoRA, batch {batch}{', gradient checkpointing' if checkpointing else ''}",
        )


def for_person(class_pictures: bool) -> Recommendation:
    """A person is recognised by little things: more steps, and the text encoder along."""
    advice = Recommendation()
    advice.choose("150 epochs: a face takes more looks than a thing.", num_train_epochs=150)
    return _for_subject(advice, class_pictures, "people")


def for_object(class_pictures: bool) -> Recommendation:
    """A thing or a style is learnt sooner."""
    advice = Recommendation()
    advice.choose("100 epochs: an object or a style is learnt sooner than a face.", num_train_epochs=100)
    return _for_subject(advice, class_pictures, "its kind")


def _for_subject(advice: Recommendation, class_pictures: bool, of_what: str) -> Recommendation:
    advice.choose(
        "Text encoder trained in three quarters of the steps: it binds the name to the subject, then the unet refines.",
        train_unet=True, stop_text_encoder=0.75,
    )  # fmt: skip
    if class_pictures:
        advice.choose("Prior loss weight 0.75: the class pictures keep the rest whole.", prior_loss_weight=0.75)
    else:
        advice.reasons.append(f"No class pictures: a folder with pictures of {of_what} keeps it from forgetting them.")
    return advice
