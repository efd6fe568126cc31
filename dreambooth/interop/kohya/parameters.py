"""How a training with kohya's sd-scripts is set up: network, rates, optimizer, schedule, length, samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.differences import pictures_of
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.unsupported_keys import NETWORK_ARGUMENTS
from dreambooth.settings.components import TEXT_ENCODER, UNET

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
# In the order in which sd-scripts look at them.
_ATTENTION = {"mem_eff_attn": "sliced", "xformers": "xformers", "diffusers_xformers": "xformers", "sdpa": "default"}
_STEPS = 1600  # where nobody says how long
_SAMPLERS = {
    "ddim": "DDIM", "pndm": "PNDM", "euler": "EulerDiscrete", "k_euler": "EulerDiscrete",
    "euler_a": "EulerAncestralDiscrete", "k_euler_a": "EulerAncestralDiscrete", "dpmsolver": "DPMSolverMultistep",
    "dpmsolver++": "DPMSolverMultistep", "dpmsingle": "DPMSolverMultistep",
}  # fmt: skip


# Custom schedulers of torch.optim.lr_scheduler -> ours, and their argument that says the length of a cycle.
_TORCH_SCHEDULES = {
    "CosineAnnealingLR": ("cosine_annealing", "T_max"),
    "CosineAnnealingWarmRestarts": ("cosine_annealing_with_restarts", "T_0"),
}
_OF_A_NETWORK = ("network_module", "network_dim", "network_weights", "network_dropout")


def take_network(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    module = str(values.get("network_module", ""))
    if not any(values.get(key) for key in _OF_A_NETWORK):
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
    if arguments.get("wd_on_output", "").lower() in ("false", "0"):
        arguments.pop("wd_on_output")  # that is how DoRA is trained here
    _take_start(takeover, values)
    _take_dropout(takeover, values, arguments)
    for key, value in arguments.items():
        takeover.without.append(f"network_args {key}={value}: {NETWORK_ARGUMENTS.get(key, 'is not known here')}.")


def _take_start(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """The LoRA that training starts from; without one, adapters start from nothing."""
    text = str(values.get("network_weights", "")).strip()
    wants_ranks = bool(values.get("dim_from_weights"))
    if not text:
        takeover.set("lora_start", "")
        if wants_ranks:
            takeover.without.append("dim_from_weights: network_weights is missing, so the ranks stay as they are.")
        return
    path = takeover.path(text)
    found = path.is_file()
    takeover.set("lora_start", str(path) if found else text, "network_weights")
    if not found:
        takeover.without.append(
            f"network_weights: there is no file {path}. The run looks for this name in the LoRA folder; if it is not "
            "there either, choose the file under Start from LoRA."
        )
    takeover.dim_from_weights = wants_ranks


def _take_dropout(takeover: ImportReport, values: Mapping[str, Any], arguments: dict[str, str]) -> None:
    """network_dropout, or LyCORIS' network argument that overrides it: the same probability for both components."""
    name, dropout = "network_dropout", values.get("network_dropout", 0)
    if "lycoris" in str(values.get("network_module", "")).lower() and "dropout" in arguments:
        name, dropout = "network_args dropout", arguments.pop("dropout")
    takeover.set("lora_unet_dropout", dropout, name if _number(dropout) else "")
    takeover.set("lora_txt_dropout", dropout, name if _number(dropout) else "")
    if not _number(dropout):
        return
    kind = "DoRA" if takeover.settings.get("lora_dora") else takeover.settings.get("lora_type", "LoRA")
    if kind != "LoRA":
        takeover.without.append(
            f"{name} = {dropout!r}: LyCORIS trains {kind} without dropout; here it drops inputs of the adapters. Set "
            "both LoRA dropouts to 0 to train as LyCORIS does."
        )
    if values.get("dim_from_weights"):
        takeover.without.append(
            f"{name} = {dropout!r}: sd-scripts ignore it beside dim_from_weights; here it has an effect. Set both LoRA "
            "dropouts to 0 to train as sd-scripts do."
        )


def take_rates(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    lora = bool(takeover.settings.get("use_lora"))
    base = values.get("learning_rate")
    unet, text = values.get("unet_lr", base), _text_rate(takeover, values)
    names = UNET.rate(lora), TEXT_ENCODER.rate(lora)
    if unet is not None:
        takeover.set(names[0], unet, "unet_lr" if "unet_lr" in values else "learning_rate")
    if text is not None:
        said = next((key for key in _TEXT_RATES if key in values), "learning_rate")
        takeover.set(names[1], text, said)
    if values.get("network_train_unet_only") or text == 0:
        takeover.set("stop_text_encoder", 0, "the text encoder's rate, or network_train_unet_only")
    elif lora:
        takeover.set("stop_text_encoder", 1)
    elif "train_text_encoder" in values:
        takeover.set("stop_text_encoder", int(bool(values["train_text_encoder"])), "train_text_encoder")
    if values.get("network_train_text_encoder_only") or unet == 0:
        takeover.set("train_unet", False, "the unet's rate, or network_train_text_encoder_only")


_TEXT_RATES = ("text_encoder_lr", "learning_rate_te", "learning_rate_te1", "learning_rate_te2")


def _text_rate(takeover: ImportReport, values: Mapping[str, Any]) -> Any:
    """The rate of the text encoders; several rates become the first one that is not 0."""
    given = next((values[key] for key in _TEXT_RATES[:2] if key in values), None)
    rates = given if isinstance(given, list) else [given]
    if given is None:
        rates = [values[key] for key in _TEXT_RATES[2:] if key in values]
    if not rates:
        return values.get("learning_rate")
    chosen = next((rate for rate in rates if rate), rates[0])
    if any(rate != chosen for rate in rates):
        takeover.without.append(
            f"Learning rates of the text encoders {rates}: both have the same rate here, {chosen!r} is used."
        )
    return chosen


def take_optimizer(takeover: ImportReport, values: Mapping[str, Any]) -> None:
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


def take_schedule(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    asked = str(values.get("lr_scheduler", "constant"))
    arguments = _arguments(takeover, "lr_scheduler_args", values.get("lr_scheduler_args", []))
    if _take_torch_schedule(takeover, values, arguments):
        return
    _say_unsupported(takeover, arguments)
    if asked == "cosine_with_min_lr":
        _take_annealing(takeover, values)
    elif asked in _SCHEDULES:
        takeover.set("lr_scheduler", _SCHEDULES[asked], "lr_scheduler" if "lr_scheduler" in values else "")
    else:
        takeover.without.append(f"lr_scheduler = {asked!r}: there is none of this name here; constant is taken.")
        takeover.set("lr_scheduler", "constant")


def _take_annealing(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """cosine_with_min_lr: the rate falls to a fraction of itself over the whole run."""
    takeover.set("lr_scheduler", "cosine_annealing", "lr_scheduler")
    takeover.set("lr_scale_pos", 1)
    lora = bool(takeover.settings.get("use_lora"))
    rate = takeover.settings.get(UNET.rate(lora))
    text_rate = takeover.settings.get(TEXT_ENCODER.rate(lora), rate)
    fraction = _number(values.get("lr_scheduler_min_lr_ratio", 0))
    if rate is None:
        takeover.without.append(
            "lr_scheduler_min_lr_ratio: learning_rate is missing; set Minimum learning rate to this fraction of yours."
        )
        return
    takeover.set("learning_rate_min", fraction * rate, "lr_scheduler_min_lr_ratio")
    if text_rate != rate and takeover.settings.get("stop_text_encoder") != 0:
        takeover.without.append(
            "lr_scheduler_min_lr_ratio: the unet's minimum learning rate is used for the text encoder too."
        )
    if values.get("lr_warmup_steps"):
        takeover.without.append("lr_warmup_steps: the annealing schedules have no warm-up here.")


def _take_torch_schedule(takeover: ImportReport, values: Mapping[str, Any], arguments: dict[str, str]) -> bool:
    """lr_scheduler_type, a class of torch's, in place of lr_scheduler; False where there is none."""
    name = str(values.get("lr_scheduler_type", "")).split(".")[-1]
    if not name:
        return False
    ours, cycle = _TORCH_SCHEDULES.get(name, ("", ""))
    length = int(_number(arguments.pop(cycle, 0)))
    # The number of steps is unknown where the length is given in epochs.
    steps = 0 if "max_train_epochs" in values else int(_number(values.get("max_train_steps", _STEPS)))
    if not ours or not length or not steps or length > steps:
        takeover.without.append(
            f"lr_scheduler_type = {values['lr_scheduler_type']!r}: only CosineAnnealingLR and "
            "CosineAnnealingWarmRestarts are supported, with a cycle no longer than max_train_steps; lr_scheduler is "
            "used."
        )
        return False
    takeover.set("lr_scheduler", ours, "lr_scheduler_type")
    takeover.set("lr_scale_pos", (length + 0.5) / steps if length < steps else 1, f"lr_scheduler_args {cycle}")
    takeover.set("learning_rate_min", arguments.pop("eta_min", 0), "lr_scheduler_args eta_min")
    _say_unsupported(takeover, arguments)
    return True


def _say_unsupported(takeover: ImportReport, arguments: Mapping[str, str]) -> None:
    for key, value in arguments.items():
        takeover.without.append(f"lr_scheduler_args {key}={value}: has no counterpart here.")


def _steps_per_epoch(takeover: ImportReport) -> int:
    """About how many optimizer steps an epoch has (buckets that are not full add some); 0 where no images are named."""
    # Regularization pictures only add to them, and are not all shown; too many epochs do no harm.
    learned = [concept for concept in takeover.concepts if not concept.regularization]
    if not learned:
        return 0
    showings = sum(concept.num_repeats * len(pictures_of(concept)) for concept in learned)
    batches = max(1, showings // int(takeover.settings.get("train_batch_size", 1)))
    return max(1, batches // int(takeover.settings.get("gradient_accumulation_steps", 1)))


def take_length(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """max_train_steps, which max_train_epochs overrides, with epochs enough for them."""
    if "max_train_epochs" in values:
        takeover.set("max_train_steps", 0)
        return
    steps = values.get("max_train_steps", _STEPS)
    takeover.set("max_train_steps", steps, "max_train_steps" if "max_train_steps" in values else "no length said")
    per_epoch = _steps_per_epoch(takeover)
    if isinstance(steps, int) and per_epoch:
        takeover.set("num_train_epochs", math.ceil(steps / per_epoch) + 1)


def take_text_encoder_stop(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """stop_text_encoder_training: after how many steps the text encoder is frozen, here a fraction of the run."""
    last = values.get("stop_text_encoder_training")
    if last is None or takeover.settings.get("use_lora"):
        return  # a parameter of full training alone
    steps = takeover.settings.get("max_train_steps", 0)
    if _number(last) <= 0:
        takeover.set("stop_text_encoder", 0, "stop_text_encoder_training")
    elif steps:
        takeover.set("stop_text_encoder", min(1.0, _number(last) / steps), "stop_text_encoder_training")
    else:
        takeover.without.append(
            f"stop_text_encoder_training = {last!r}: the length of the run is given in epochs. Set Step ratio of text "
            "encoder training to the fraction of all steps that this is."
        )


def take_saving(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """How many files are saved and kept, and in what precision."""
    ratio = int(_number(values.get("save_n_epoch_ratio", 0)))
    per_epoch = _steps_per_epoch(takeover)
    epochs = _number(values.get("max_train_epochs", 0))
    if not epochs and per_epoch:
        epochs = math.ceil(takeover.settings.get("max_train_steps", 0) / per_epoch)
    if ratio > 0 and epochs:
        takeover.set("save_embedding_every", max(1, int(epochs) // ratio), "save_n_epoch_ratio")
    elif ratio > 0:
        takeover.without.append(
            f"save_n_epoch_ratio = {ratio}: the number of epochs is unknown; set Save model frequency (epochs)."
        )
    kept = _snapshots_to_keep(values)
    if kept:
        takeover.set("snapshots_to_keep", kept[1], kept[0])
    precision = values.get("save_precision")
    if precision and not takeover.settings.get("use_lora"):
        takeover.set("half_model", precision in ("fp16", "bf16"), "save_precision")
        if precision == "bf16":
            takeover.without.append("save_precision = 'bf16': half-precision checkpoints are saved as fp16.")


def _snapshots_to_keep(values: Mapping[str, Any]) -> tuple[str, int] | None:
    """(the parameter, how many) of a training that saves its state; that of states goes before that of all files."""
    if not values.get("save_state"):
        return None
    for key in ("save_last_n_epochs_state", "save_last_n_epochs"):
        if _number(values.get(key)) > 0:
            return key, int(values[key])
    every = int(_number(values.get("save_every_n_steps")))
    for key in ("save_last_n_steps_state", "save_last_n_steps"):  # counted in steps: those up to so long ago
        if every > 0 and _number(values.get(key)) > 0:
            return key, int(values[key]) // every + 1
    return None


def take_validation(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    """How often the validation loss is measured: every N steps, else every N epochs, else (with a split) each epoch."""
    every = values.get("validate_every_n_steps")
    if every:
        takeover.set("validation_every", every, "validate_every_n_steps")
        return
    said = values.get("validate_every_n_epochs")
    if not said and not takeover.settings.get("validation_share"):
        return
    per_epoch = _steps_per_epoch(takeover)
    if per_epoch:
        name = "validate_every_n_epochs" if said else "validation_split, in each epoch"
        takeover.set("validation_every", per_epoch * max(1, int(_number(said))), name)
    else:
        takeover.without.append(
            "validate_every_n_epochs: without images the steps of an epoch are unknown; set Validation frequency."
        )


def take_samples(takeover: ImportReport, values: Mapping[str, Any]) -> None:
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


def take_memory(takeover: ImportReport, values: Mapping[str, Any]) -> None:
    for key, ours in _ATTENTION.items():
        if values.get(key):
            takeover.set("attention", ours, key)
            return


def _arguments(takeover: ImportReport, key: str, value: Any) -> dict[str, str]:
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
