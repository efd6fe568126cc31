"""The wizards: recommended settings for this machine or subject, each with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.memory.forecast import ModelSize
from dreambooth.memory.planner import OVERHEAD, MemoryPlan
from dreambooth.models.capabilities import repr_of
from dreambooth.models.family import Family
from dreambooth.models.registry import FAMILIES
from dreambooth.presets.changes import choices_for
from dreambooth.presets.shipped import subject_preset
from dreambooth.runs.memory_need import GpuMemory, estimate, gpu_memory
from dreambooth.runs.memory_plan import MemoryRequest, Scenario, plan_memory
from dreambooth.runs.memory_rungs import LEAST, candidates_for
from dreambooth.settings import SETTINGS, ModelFolder, Settings
from dreambooth.text import format_bytes
from dreambooth.training.optimizer_kinds import unavailable_reason
from dreambooth.training.precision import resolve_precision

_OF_SUBJECT = ("num_train_epochs", "train_unet", "stop_text_encoder", "prior_loss_weight")  # in full training too


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


def for_person(family: Family, has_class_images: bool, settings: Settings | None = None) -> Recommendation:
    """Faces need many steps and a trained text encoder to be recognizable."""
    return _for_subject("person", family, has_class_images, settings or Settings(), "other people")


def for_object(family: Family, has_class_images: bool, settings: Settings | None = None) -> Recommendation:
    """Objects and styles need fewer steps than faces."""
    return _for_subject("object", family, has_class_images, settings or Settings(), "similar objects")


def _for_subject(
    subject: str, family: Family, has_class_images: bool, settings: Settings, of_what: str
) -> Recommendation:
    """The preset of the subject, without the choice between LoRA and full training, which stays as it is."""
    result, use_lora = Recommendation(), settings.use_lora
    chosen = choices_for(subject_preset(subject), family, settings)
    values = dataclasses.asdict(settings) | {key: choice.value for key, choice in chosen.items()}
    for key, choice in chosen.items():
        of_lora = not SETTINGS[key].applies_to({**values, "use_lora": False})
        if key == "use_lora" or (key not in _OF_SUBJECT and not (use_lora and of_lora)):
            continue
        if key == "prior_loss_weight" and not has_class_images:
            continue
        result.choose(f"{SETTINGS[key].label} {repr_of(choice.value)}: {choice.reason}", **{key: choice.value})
    if not has_class_images:
        result.reasons.append(
            f"No class images: add a folder with images of {of_what} to preserve what the model knows about the class."
        )
    return result
