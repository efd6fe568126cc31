"""Settings that go against each other: refused where a run could not do what they say, else a warning."""

from __future__ import annotations

import torch

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Settings
from dreambooth.training.attention import unavailable_reason as attention_unavailable_reason
from dreambooth.training.optimizer_kinds import OPTIMIZER_KINDS, require_available
from dreambooth.training.precision import supported_precisions
from dreambooth.settings.components import is_pure_bf16, keys_of, trains_ema
from dreambooth.training.schedules import base_learning_rates, warmup_steps

LARGE_RATE = 0.1  # an optimizer that finds its rate is given about 1, any other far less
UNSCHEDULED = ("constant", "constant_with_warmup")


def conflicts(settings: Settings, device: torch.device) -> list[str]:
    """What could not be done as the settings say."""
    problems = []
    try:
        require_available(settings.optimizer, device, settings.lr_scheduler, settings.optimizer_args)
    except UserError as error:
        problems += error.problems
    rates = base_learning_rates(settings)
    if settings.lr_scheduler == "adafactor" and settings.optimizer != "Adafactor":
        problems.append(f"lr_scheduler: adafactor goes with the optimizer Adafactor, not with {settings.optimizer}.")
    if OPTIMIZER_KINDS[settings.optimizer].estimates_lr and len(set(rates.values())) > 1:
        keys = [keys_of(part).rate(settings.use_lora) for part in rates]
        problems.append(f"{keys[1]}: {settings.optimizer} takes one rate for all: set it to that of {keys[0]}.")
    if settings.min_timestep >= settings.max_timestep:
        problems.append(
            f"min_timestep: {settings.min_timestep} is not below max_timestep, {settings.max_timestep}: "
            "no timestep is left."
        )
    return problems


def precision_problems(settings: Settings, precision: str | None, device: torch.device) -> list[str]:
    """What this device, in the precision that was settled on, could not do as the settings say."""
    problems = []
    if why := attention_unavailable_reason(settings.attention, device):
        problems.append(f"attention: {settings.attention} cannot be used here: {why} Choose default.")
    if is_pure_bf16(settings) and precision not in (None, "bf16"):
        problems.append(
            f"full_mixed_precision: it needs mixed precision bf16, and this run has {precision}: in fp16 small steps "
            "and gradients are lost."
        )
    if is_pure_bf16(settings) and settings.optimizer != "Torch AdamW":
        problems.append("full_mixed_precision: only Torch AdamW rounds as it needs; choose that, or switch it off.")
    if trains_ema(settings) and settings.ema_precision == "bf16" and "bf16" not in supported_precisions(device):
        problems.append(f"ema_precision: this {device.type} does not compute in bf16; choose fp32.")
    return problems


def too_short(settings: Settings, steps: int) -> list[str]:
    """What a run of so many steps could not do."""
    warmup = warmup_steps(settings, steps)
    if warmup < steps or not warmup:
        return []
    return [
        f"lr_warmup_steps ({SETTINGS['lr_warmup_steps'].label}): the warm-up takes {warmup} steps and the run only "
        f"{steps}, so the full rate would never be reached: lower it, or give a share of the run such as 0.1."
    ]


def likely_mistakes(settings: Settings) -> list[str]:
    """What is likely not meant."""
    said = []
    finds = OPTIMIZER_KINDS[settings.optimizer].estimates_lr
    for part, rate in base_learning_rates(settings).items():
        key = keys_of(part).rate(settings.use_lora)
        if finds and rate < LARGE_RATE:
            said.append(
                f"{key}: {settings.optimizer} finds the rate itself and is told a factor, usually 1; "
                f"{rate:g} makes it learn that much slower."
            )
        annealing = SETTINGS["learning_rate_min"].applies_to({"lr_scheduler": settings.lr_scheduler})
        if annealing and rate <= settings.learning_rate_min:
            said.append(f"{key}: it is not above learning_rate_min, so it stays as it is.")
    if settings.optimizer == "Schedule-Free AdamW" and settings.lr_scheduler not in UNSCHEDULED:
        said.append("lr_scheduler: Schedule-Free AdamW is made for a constant rate, with or without a warm-up.")
    return said
