"""Consistency of settings: conflicts are refused before a run, likely mistakes are warned of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from dreambooth.checkpoints.lora_tags import has_lora_tags
from dreambooth.errors import UserError
from dreambooth.memory.weight_formats import unavailable_reason as base_unavailable_reason
from dreambooth.models.family import Family
from dreambooth.settings import SETTINGS, Concept, Settings
from dreambooth.settings.components import (
    is_fused_backward,
    is_pure_bf16,
    keys_of,
    offloads_blocks,
    quantizes_base,
    trained_components,
    trains_ema,
    trains_text_encoder,
)
from dreambooth.settings.optimizer_arguments import own_weight_decay
from dreambooth.settings.training import DEFAULT_LAYERS, GLOBAL_OPTIMIZERS
from dreambooth.text import count
from dreambooth.training.attention import unavailable_reason as attention_unavailable_reason
from dreambooth.training.optimizer_kinds import OPTIMIZER_KINDS, require_available
from dreambooth.training.precision import supported_precisions
from dreambooth.training.schedules import base_learning_rates, warmup_steps

LARGE_RATE = 0.1  # an optimizer that estimates its learning rate is given about 1, any other far less
UNSCHEDULED = ("constant", "constant_with_warmup")


def conflicts(settings: Settings, device: torch.device) -> list[str]:
    """Settings that contradict each other."""
    problems = []
    try:
        require_available(settings.optimizer, device, settings.lr_scheduler, settings.optimizer_args)
    except UserError as error:
        problems += error.problems
    rates = base_learning_rates(settings)
    if settings.lr_scheduler == "adafactor" and settings.optimizer != "Adafactor":
        problems.append(
            f"lr_scheduler: the schedule adafactor needs the optimizer Adafactor, not {settings.optimizer}."
        )
    if OPTIMIZER_KINDS[settings.optimizer].estimates_lr and len(set(rates.values())) > 1:
        keys = [keys_of(role).rate(settings.use_lora) for role in rates]
        problems.append(
            f"{keys[1]}: {settings.optimizer} uses one learning rate for all components: set it to the value of "
            f"{keys[0]}."
        )
    if settings.base_precision != "full" and not settings.use_lora:
        problems.append(
            f"base_precision ({SETTINGS['base_precision'].label}): {settings.base_precision} is for the frozen base "
            "model of a LoRA; full training changes these weights. Choose full, or switch on use_lora."
        )
    if settings.min_timestep >= settings.max_timestep:
        problems.append(f"min_timestep ({settings.min_timestep}) must be below max_timestep ({settings.max_timestep}).")
    return problems


def refused_settings(family: Family, settings: Settings) -> list[str]:
    """Settings that the model's family can't have."""
    capabilities, values = family.capabilities, dataclasses.asdict(settings)
    refused = [capabilities.refusal(family.title, key, values[key]) for key in capabilities.refused(values)]
    return [*refused, *_text_encoder_without_file(family, settings), *_missing_layer_kinds(family, settings)]


def _missing_layer_kinds(family: Family, settings: Settings) -> list[str]:
    """Why there are no presets of layers."""
    if not settings.use_lora or settings.lora_layers == DEFAULT_LAYERS or family.layer_kinds.attention:
        return []
    return [
        f"lora_layers ({SETTINGS['lora_layers'].label}): which layers of {family.title} are attention or MLP is not "
        f"known. Set it to {DEFAULT_LAYERS}."
    ]


def _text_encoder_without_file(family: Family, settings: Settings) -> list[str]:
    """Why a text encoder can't be trained in full."""
    key = "stop_text_encoder"
    is_exported = all(component.in_checkpoint for component in family.text_encoders)
    if is_exported or settings.use_lora or not trains_text_encoder(settings) or key in family.capabilities.limits:
        return []
    return [
        f"{key} ({SETTINGS[key].label}): checkpoints of {family.title} don't contain the text encoder, so its training "
        "would be lost. Set it to 0, or train a LoRA."
    ]


def sampler_problems(sampler: str, available: Sequence[str]) -> list[str]:
    """Why this sampler can't generate previews. ``available``: those of the model's process."""
    if sampler in available:
        return []
    where = f"scheduler ({SETTINGS['scheduler'].label})"
    return [f"{where}: {sampler} needs a newer diffusers for this model. Choose {' or '.join(available)}."]


def precision_problems(settings: Settings, precision: str | None, device: torch.device) -> list[str]:
    """Settings that this device, or the resolved ``precision``, does not support."""
    problems = []
    if why := attention_unavailable_reason(settings.attention, device):
        problems.append(f"attention: {settings.attention} is not available: {why} Choose default.")
    kind = settings.base_precision
    if quantizes_base(settings) and (why := base_unavailable_reason(kind, device)):
        problems.append(f"base_precision: {kind} is not available: {why} Choose int8 or full.")
    if is_pure_bf16(settings) and precision not in (None, "bf16"):
        problems.append(
            f"full_mixed_precision needs mixed precision bf16, but this run uses {precision}: fp16 loses small "
            "gradients "
            "and updates. Choose bf16, or switch it off."
        )
    if is_pure_bf16(settings) and settings.optimizer in GLOBAL_OPTIMIZERS:
        problems.append(
            f"optimizer: {settings.optimizer} derives its updates from the gradients of all weights, which excludes "
            "full_mixed_precision. Choose Torch AdamW, 8bit AdamW or Adafactor, or switch it off."
        )
    if trains_ema(settings) and settings.ema_precision == "bf16" and "bf16" not in supported_precisions(device):
        problems.append(f"ema_precision: this {device.type} does not support bf16; choose fp32.")
    return problems


def offload_problems(settings: Settings, device: torch.device) -> list[str]:
    """What excludes offloading to main memory."""
    keys = {"offload_fraction": offloads_blocks(settings), "offload_activations": settings.offload_activations}
    problems = []
    for key in [key for key, is_on in keys.items() if is_on]:
        label, off = SETTINGS[key].label, "Set it to 0" if key == "offload_fraction" else "Switch it off"
        if device.type != "cuda":
            problems.append(
                f"{key} ({label}): it copies between main memory and an NVIDIA or AMD GPU, but this run uses "
                f"{device.type}. {off}."
            )
        elif not settings.gradient_checkpointing:
            problems.append(f"{key} ({label}): it needs gradient_checkpointing. Switch that on, or: {off.lower()}.")
    if offloads_blocks(settings) and settings.train_unet and not settings.use_lora and not settings.fused_backward:
        problems.append(
            f"offload_fraction ({SETTINGS['offload_fraction'].label}): full training updates each block before it "
            "leaves the GPU. Switch fused_backward on, set offload_fraction to 0, or train a LoRA."
        )
    return problems


def fused_backward_problems(settings: Settings, precision: str | None, world_size: int) -> list[str]:
    """What a fused backward pass excludes: everything that needs the gradients of all parameters at once."""
    if not is_fused_backward(settings):
        return []
    off = "or switch fused_backward off"
    problems = []
    if settings.gradient_accumulation_steps > 1:
        problems.append(
            "gradient_accumulation_steps: fused_backward keeps no gradients to add up. Set it to 1 (a larger "
            f"train_batch_size has the same effect), {off}."
        )
    if precision == "fp16":
        problems.append(
            "mixed_precision: fp16 checks all gradients for overflow before the first update, which fused_backward "
            f"can't. Choose bf16 or no, {off}."
        )
    norms = ["max_grad_norm", "tenc_grad_clip_norm"] if trains_text_encoder(settings) else ["max_grad_norm"]
    clipping = [key for key in norms if getattr(settings, key)]
    if clipping and not settings.clip_each_tensor:
        problems.append(
            f"{' and '.join(clipping)}: fused_backward can't clip all gradients together. Switch clip_each_tensor on, "
            f"set the norm to 0, {off}."
        )
    if world_size > 1:
        problems.append("fused_backward works on one GPU only. Switch it off, or train on a single GPU.")
    if settings.optimizer in GLOBAL_OPTIMIZERS:
        problems.append(
            f"optimizer: {settings.optimizer} derives its updates from the gradients of all weights, which "
            f"fused_backward does not keep. Choose Torch AdamW, {off}."
        )
    return problems


def too_short(settings: Settings, steps: int) -> list[str]:
    """Settings that a run of this many steps cannot fulfil."""
    warmup = warmup_steps(settings, steps)
    if warmup < steps or not warmup:
        return []
    return [
        f"lr_warmup_steps ({SETTINGS['lr_warmup_steps'].label}): the warm-up takes {warmup} of {count(steps, 'step')}, "
        "so the "
        "full learning rate would never be reached: lower it, or use a fraction of the run such as 0.1."
    ]


def likely_mistakes(settings: Settings) -> list[str]:
    """Settings that are allowed, but probably not intended."""
    warnings = []
    estimates_lr = OPTIMIZER_KINDS[settings.optimizer].estimates_lr
    for role, rate in base_learning_rates(settings).items():
        key = keys_of(role).rate(settings.use_lora)
        if estimates_lr and rate < LARGE_RATE:
            warnings.append(
                f"{key}: {settings.optimizer} estimates the learning rate itself and multiplies it by this value, "
                f"usually 1; {rate:g} slows training down accordingly."
            )
        annealing = SETTINGS["learning_rate_min"].applies_to({"lr_scheduler": settings.lr_scheduler})
        if annealing and rate <= settings.learning_rate_min:
            warnings.append(f"{key}: it is not above learning_rate_min, so it stays constant.")
    own_decay = own_weight_decay(settings.optimizer, settings.optimizer_args)
    for keys in trained_components(settings).values():
        decay = getattr(settings, keys.weight_decay)
        if own_decay not in (None, decay):
            warnings.append(f"{keys.weight_decay}: weight_decay={own_decay:g} in optimizer_args replaces {decay:g}.")
    if settings.optimizer == "Schedule-Free AdamW" and settings.lr_scheduler not in UNSCHEDULED:
        warnings.append(
            "lr_scheduler: Schedule-Free AdamW is designed for a constant learning rate, with or without warm-up."
        )
    return warnings


def prompts_with_loras(settings: Settings, concepts: Sequence[Concept]) -> list[str]:
    """Prompts of previews and class images that name LoRAs, which only ``sample`` uses."""
    prompts = {"sanity_prompt": settings.sanity_prompt}
    for number, concept in enumerate(concepts, 1):
        for key in ("save_sample_prompt", "save_sample_negative_prompt", "class_prompt", "class_negative_prompt"):
            prompts[f"concept {number}: {key}"] = getattr(concept, key)
    return [
        f"{where}: it names a LoRA, which is not used here, so the tag is read as text. Remove <lora:...>."
        for where, prompt in prompts.items()
        if has_lora_tags(prompt)
    ]
