"""The wizards: recommended settings for this machine or subject, each with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.memory.forecast import ModelSize
from dreambooth.memory.planner import OVERHEAD, MemoryPlan
from dreambooth.models.family import Family
from dreambooth.models.registry import FAMILIES
from dreambooth.runs.memory_need import GpuMemory, estimate, gpu_memory
from dreambooth.runs.memory_plan import MemoryRequest, Scenario, plan_memory
from dreambooth.runs.memory_rungs import LEAST, candidates_for
from dreambooth.settings import ModelFolder, Settings
from dreambooth.text import format_bytes
from dreambooth.training.optimizer_kinds import unavailable_reason
from dreambooth.training.precision import resolve_precision


@dataclass
class Recommendation:
    """Settings to change and the reasons, in order of decision."""

    changes: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def choose(self, why: str, **changes: Any) -> None:
        self.changes |= changes
        self.reasons.append(why)


def for_machine(
    settings: Settings,
    device: torch.device,
    family: Family,
    size: ModelSize,
    has_class_images: bool,
    model: ModelFolder | None = None,
) -> Recommendation:
    """The best configuration that the family allows and that fits into the memory of this device.

    The formula ranks the configurations; the memory of the chosen one is planned if a ``model`` is given, whose
    ``size`` is given. Where none fits, nothing but the precision is changed.
    """
    result, base = Recommendation(), dataclasses.replace(settings, mixed_precision="auto")
    precision = resolve_precision(base, device)
    why = {"bf16": "supported by this GPU", "fp16": "this GPU has no bf16", "no": f"full precision on {device.type}"}
    result.choose(f"Mixed precision auto ({precision}): {why[precision]}.", mixed_precision="auto")
    gpu = gpu_memory(device)
    if gpu is None:
        result.choose(
            "LoRA, batch size 1, no gradient checkpointing: without a GPU, time is the limit, not memory.",
            use_lora=True, train_batch_size=1, gradient_checkpointing=False, optimizer="Torch AdamW", use_ema=False,
        )  # fmt: skip
        return result
    eight_bit = unavailable_reason("8bit AdamW", device) == ""
    candidates = [
        candidate
        for candidate in candidates_for(precision, eight_bit)
        if not any(family.capabilities.refuses(key, value) for key, value in candidate.changes.items())
    ]
    least = None
    for candidate in candidates:
        changed = dataclasses.replace(base, **candidate.changes)
        plan = estimate(changed, precision, size, has_class_images, prompts_vary=False)
        if plan.needed <= gpu.free and model:
            plan = _planned(model, changed, precision, has_class_images, gpu) or plan
        if plan.needed <= gpu.free:
            text = f"{candidate.title}: needs {plan.summary()}, {format_bytes(gpu.free)} are free."
            result.choose(text, **candidate.changes)
            return result
        least = plan if least is None or plan.bytes < least.bytes else least
    result.reasons.append(_nothing_fits(base, precision, family, gpu, least))
    return result


def _planned(
    model: ModelFolder, settings: Settings, precision: str, has_class_images: bool, gpu: GpuMemory
) -> MemoryPlan | None:
    """With previews, at the resolution of the settings."""
    scenario = Scenario(precision, (settings.resolution, settings.resolution), has_class_images)
    return plan_memory(MemoryRequest(model, settings, scenario, max(gpu.free - OVERHEAD, OVERHEAD)))


def _nothing_fits(base: Settings, precision: str, family: Family, gpu: GpuMemory, least: MemoryPlan | None) -> str:
    """What the least would need, and which families would fit."""
    needed = f"needs at least {format_bytes(least.needed)}" if least else "can't be trained on a GPU"
    smallest = dataclasses.replace(base, **LEAST)
    fitting = []
    for other in FAMILIES:
        denoiser, text_encoders, side = other.usual_size
        if other is family or not denoiser:
            continue
        size = ModelSize(denoiser, text_encoders, other.size_estimate(denoiser))
        usual = dataclasses.replace(smallest, resolution=side)
        if estimate(usual, precision, size, False, False).needed <= gpu.free:
            fitting.append(f"{other.title} (LoRA at {side} px)")
    advice = f"What would fit: {', '.join(fitting)}" if fitting else "Train on another GPU, or free its memory"
    return (
        f"Nothing fits: {family.title} at {base.resolution} px {needed}, {format_bytes(gpu.free)} of "
        f"{format_bytes(gpu.total)} are free. {advice}. The settings stay as they are."
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
