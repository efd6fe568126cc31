"""Settings that go against each other: refused where a run could not do what they say, else a warning."""

from __future__ import annotations

import torch

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Settings
from dreambooth.training.attention import why_not as why_not_attention
from dreambooth.training.optimizer_kinds import KINDS, refuse
from dreambooth.training.precision import is_pure_bf16, precisions_of
from dreambooth.training.schedules import base_rates, warmup_steps

LARGE_RATE = 0.1  # an optimizer that finds its rate is given about 1, any other far less
RATE_KEYS = {(False, "unet"): "learning_rate", (False, "text_encoder"): "txt_learning_rate",
             (True, "unet"): "lora_learning_rate", (True, "text_encoder"): "lora_txt_learning_rate"}  # fmt: skip
UNSCHEDULED = ("constant", "constant_with_warmup")


def conflicts(settings: Settings, device: torch.device) -> list[str]:
    """What could not be done as the settings say."""
    problems = []
    try:
        refuse(settings.optimizer, device, settings.lr_scheduler, settings.optimizer_args)
    except UserError as error:
        problems += error.problems
    rates = base_rates(settings)
    if settings.lr_scheduler == "adafactor" and settings.optimizer != "Adafactor":
        problems.append(f"lr_scheduler: adafactor goes with the optimizer Adafactor, not with {settings.optimizer}.")
    if KINDS[settings.optimizer].finds_rate and len(set(rates.values())) > 1:
        keys = [RATE_KEYS[settings.use_lora, part] for part in rates]
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
    if why := why_not_attention(settings.attention, device):
        problems.append(f"attention: {settings.attention} cannot be used here: {why} Choose default.")
    if is_pure_bf16(settings) and precision not in (None, "bf16"):
        problems.append(
            f"full_mixed_precision: it needs mixed precision bf16, and this run has {precision}: in fp16 small steps "
            "and gradients are lost."
        )
    if is_pure_bf16(settings) and settings.optimizer != "Torch AdamW":
        problems.append("full_mixed_precision: only Torch AdamW rounds as it needs; choose that, or switch it off.")
    averages = settings.use_ema and settings.train_unet and not settings.use_lora
    if averages and settings.ema_precision == "bf16" and "bf16" not in precisions_of(device):
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
    finds = KINDS[settings.optimizer].finds_rate
    for part, rate in base_rates(settings).items():
        key = RATE_KEYS[settings.use_lora, part]
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
