"""How a training with kohya's sd-scripts is set up: network, rates, optimizer, schedule, length, samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dreambooth.dataset.kohya.otherwise import pictures_of
from dreambooth.dataset.kohya.takeover import Takeover

_OPTIMIZERS = {
    "adamw": "Torch AdamW", "adamw8bit": "8bit AdamW", "pagedadamw8bit": "Paged 8bit AdamW", "lion": "Lion",
    "lion8bit": "8bit Lion", "pagedlion8bit": "Paged 8bit Lion", "sgdnesterov": "SGD Nesterov",
    "sgdnesterov8bit": "8bit SGD", "dadaptation": "AdamW Dadaptation", "dadaptadam": "AdamW Dadaptation",
    "dadaptadampreprint": "AdamW Dadaptation", "dadaptadan": "Adan Dadaptation", "dadaptlion": "Lion Dadaptation",
    "dadaptsgd": "SGD Dadaptation", "prodigy": "Prodigy", "adafactor": "Adafactor", "came": "CAME",
    "adamwschedulefree": "Schedule-Free AdamW", "tiger": "Tiger",
}  # fmt: skip
_SCHEDULES = {
    "linear": "linear_with_warmup", "cosine": "cosine", "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial", "constant": "constant", "constant_with_warmup": "constant_with_warmup",
    "adafactor": "adafactor", "rex": "rex",
}  # fmt: skip
_STEPS = 1600  # where nobody says how long
_SAMPLERS = {
    "ddim": "DDIM", "pndm": "PNDM", "euler": "EulerDiscrete", "k_euler": "EulerDiscrete",
    "euler_a": "EulerAncestralDiscrete", "k_euler_a": "EulerAncestralDiscrete", "dpmsolver": "DPMSolverMultistep",
    "dpmsolver++": "DPMSolverMultistep", "dpmsingle": "DPMSolverMultistep",
}  # fmt: skip


def take_network(takeover: Takeover, values: Mapping[str, Any]) -> None:
    module = str(values.get("network_module", ""))
    if not module and "network_dim" not in values:
        return
    takeover.set("use_lora", True, f"network_module {module}".strip())
    rank, alpha = values.get("network_dim", 4), values.get("network_alpha", 1)
    for part in ("unet", "txt"):
        takeover.set(f"lora_{part}_rank", rank, "network_dim")
        takeover.set(f"lora_{part}_alpha", alpha, "network_alpha")
    arguments = _arguments(takeover, "network_args", values.get("network_args", []))
    kind = arguments.pop("algo", "lora").lower()
    kinds = {"lora": "LoRA", "locon": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
    if kind in kinds:
        takeover.set("lora_type", kinds[kind], "algo" if kind != "lora" else "")
    else:
        takeover.without.append(
            f"network_args algo={kind}: adapters of this kind can't be trained here; LoRA is taken."
        )
    if "conv_dim" in arguments:
        takeover.set("use_lora_extended", True)
        takeover.set("lora_conv_rank", arguments.pop("conv_dim"), "conv_dim")
        takeover.set("lora_conv_alpha", arguments.pop("conv_alpha", 1), "conv_alpha")
    if "factor" in arguments:
        takeover.set("lokr_factor", max(0, int(_number(arguments.pop("factor")))), "factor")
    if arguments.pop("dora_wd", "").lower() in ("true", "1"):
        takeover.set("lora_dora", True, "dora_wd")
    takeover.without += [f"network_args {key}={value}: is not known here." for key, value in arguments.items()]


def take_rates(takeover: Takeover, values: Mapping[str, Any]) -> None:
    lora = bool(takeover.settings.get("use_lora"))
    base = values.get("learning_rate")
    unet, text = values.get("unet_lr", base), values.get("text_encoder_lr", values.get("learning_rate_te", base))
    if isinstance(text, list):
        text = text[0] if text else base
    names = ("lora_learning_rate", "lora_txt_learning_rate") if lora else ("learning_rate", "txt_learning_rate")
    if unet is not None:
        takeover.set(names[0], unet, "unet_lr" if "unet_lr" in values else "learning_rate")
    if text is not None:
        takeover.set(names[1], text, "text_encoder_lr" if "text_encoder_lr" in values else "learning_rate")
    if values.get("network_train_unet_only") or text == 0:
        takeover.set("stop_text_encoder", 0, "the text encoder's rate, or network_train_unet_only")
    elif lora:
        takeover.set("stop_text_encoder", 1)
    if values.get("network_train_text_encoder_only") or unet == 0:
        takeover.set("train_unet", False, "the unet's rate, or network_train_text_encoder_only")


def take_optimizer(takeover: Takeover, values: Mapping[str, Any]) -> None:
    asked = str(values.get("optimizer_type", "")).split(".")[-1]
    if values.get("use_8bit_adam"):
        asked = asked or "AdamW8bit"
    if values.get("use_lion_optimizer"):
        asked = asked or "Lion"
    ours = _OPTIMIZERS.get((asked or "AdamW").lower())
    if ours:
        takeover.set("optimizer", ours, "optimizer_type" if asked else "")
    else:
        takeover.without.append(f"optimizer_type = {asked!r}: there is none of this name here; Torch AdamW is taken.")
        takeover.set("optimizer", "Torch AdamW")
    arguments = _arguments(takeover, "optimizer_args", values.get("optimizer_args", []))
    decay = arguments.pop("weight_decay", None)
    if decay is not None:
        takeover.set("weight_decay", decay, "weight_decay")
        takeover.set("tenc_weight_decay", decay)
    if arguments:
        takeover.set(
            "optimizer_args", ", ".join(f"{key}={value}" for key, value in arguments.items()), "optimizer_args"
        )


def take_schedule(takeover: Takeover, values: Mapping[str, Any]) -> None:
    asked = str(values.get("lr_scheduler", "constant"))
    if asked in _SCHEDULES:
        takeover.set("lr_scheduler", _SCHEDULES[asked], "lr_scheduler" if "lr_scheduler" in values else "")
    else:
        takeover.without.append(f"lr_scheduler = {asked!r}: there is none of this name here; constant is taken.")
        takeover.set("lr_scheduler", "constant")


def take_length(takeover: Takeover, values: Mapping[str, Any]) -> None:
    """max_train_steps, which max_train_epochs overrides, with epochs enough for them."""
    if "max_train_epochs" in values:
        takeover.set("max_train_steps", 0)
        return
    steps = values.get("max_train_steps", _STEPS)
    takeover.set("max_train_steps", steps, "max_train_steps" if "max_train_steps" in values else "no length said")
    if not isinstance(steps, int) or not takeover.concepts:
        return
    # Regularization pictures only add to them, and are not all shown; too many epochs do no harm.
    learned = [concept for concept in takeover.concepts if not concept.regularization]
    showings = sum(concept.num_repeats * len(pictures_of(concept)) for concept in learned)
    batches = max(1, showings // int(takeover.settings.get("train_batch_size", 1)))
    per_epoch = max(1, batches // int(takeover.settings.get("gradient_accumulation_steps", 1)))
    takeover.set("num_train_epochs", math.ceil(steps / per_epoch) + 1)


def take_samples(takeover: Takeover, values: Mapping[str, Any]) -> None:
    if "sample_sampler" in values:
        ours = _SAMPLERS.get(str(values["sample_sampler"]))
        if ours:
            takeover.set("scheduler", ours, "sample_sampler")
        else:
            takeover.without.append(f"sample_sampler = {values['sample_sampler']!r}: is not among the samplers here.")
    if "sample_prompts" not in values or not takeover.concepts:
        return
    path = takeover.path(str(values["sample_prompts"]))
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        takeover.without.append(f"sample_prompts: {path} can't be read ({error}).")
        return
    prompts = [line for line in lines if line and not line.startswith("#")]
    if prompts:
        first, said = takeover.concepts[0], _sample(prompts[0])
        values_of = {key: getattr(first, key) for key in first.__dataclass_fields__}
        takeover.concepts[0] = takeover.concept({**values_of, **said}, "sample_prompts")
        takeover.taken.append(f"sample_prompts -> concept 1, sample image prompt {said['save_sample_prompt']!r}")
    if len(prompts) > 1:
        takeover.without.append(f"sample_prompts: {len(prompts) - 1} more of them; a concept has one.")


def _sample(line: str) -> dict[str, Any]:
    """A line of a prompts file: the prompt, then --n negative, --d seed, --s steps, --l guidance."""
    prompt, *options = re.split(r"\s--(?=[a-z]{1,2}\s)", line)
    keys = {"n": "save_sample_negative_prompt", "d": "sample_seed", "s": "save_infer_steps", "l": "save_guidance_scale"}
    said = {"save_sample_prompt": prompt.strip()}
    for option in options:
        key, _, value = option.partition(" ")
        if key in keys:
            said[keys[key]] = value.strip()
    return said


def take_memory(takeover: Takeover, values: Mapping[str, Any]) -> None:
    if values.get("xformers"):
        takeover.set("attention", "xformers", "xformers")
    elif values.get("sdpa"):
        takeover.set("attention", "default", "sdpa")


def _arguments(takeover: Takeover, key: str, value: Any) -> dict[str, str]:
    """["conv_dim=4", "conv_alpha=1"] by name."""
    rows = value if isinstance(value, list) else [value]
    odd = [row for row in rows if "=" not in str(row)]
    takeover.without += [f'{key}: {row!r} is not of the form "name=value"; it is left out.' for row in odd]
    pairs = (str(row).partition("=") for row in rows if "=" in str(row))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
