"""Import of OneTrainer's optimizer, learning rates, warm-up and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.optimizer import import_fused_backward
from dreambooth.interop.nested_values import NestedValues, as_number
from dreambooth.interop.onetrainer.config_file import is_sdxl
from dreambooth.settings.arguments import format_arguments
from dreambooth.settings.components import DENOISER, TEXT_ENCODER
from dreambooth.settings.optimizer_arguments import ARGUMENTS, describe_unknown, resolve_arguments


@dataclass(frozen=True)
class _Optimizer:
    """``arguments``: argument -> keys in OneTrainer; ``own``: its value here if it is not given."""

    name: str
    defaults: Mapping[str, Any]  # of OneTrainer
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    paged: str = ""  # its name if is_paged is set


_BETAS = {"betas": ("beta1", "beta2")}
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
_ADAM_ARGUMENTS, _ADAM_VALUES = {**_BETAS, "eps": ("eps",)}, {"betas": (0.9, 0.999), "eps": 1e-8}
_ADAPTED = {"d0": ("d0",), "growth_rate": ("growth_rate",)}
_ADAPTED_VALUES = {"d0": 1e-6, "growth_rate": None}
_CORRECTIONS = {"use_bias_correction": ("use_bias_correction",)}

_OPTIMIZERS = {
    "ADAMW": _Optimizer("Torch AdamW", {**_ADAM, "weight_decay": 0.01}, _ADAM_ARGUMENTS, _ADAM_VALUES),
    "ADAM": _Optimizer("Torch AdamW", {**_ADAM, "weight_decay": 0}, _ADAM_ARGUMENTS, _ADAM_VALUES),
    "ADAMW_8BIT": _Optimizer("8bit AdamW", {**_ADAM, "weight_decay": 0.01}, _ADAM_ARGUMENTS, _ADAM_VALUES,
                             "Paged 8bit AdamW"),
    "ADAM_8BIT": _Optimizer("8bit AdamW", {**_ADAM, "weight_decay": 0}, _ADAM_ARGUMENTS, _ADAM_VALUES,
                            "Paged 8bit AdamW"),
    "LION": _Optimizer("Lion", {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0}, _BETAS, {"betas": (0.9, 0.99)}),
    "LION_8BIT": _Optimizer("8bit Lion", {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0}, _BETAS,
                            {"betas": (0.9, 0.99)}, "Paged 8bit Lion"),
    "TIGER": _Optimizer("Tiger", {"beta1": 0.965, "weight_decay": 0.01}, {"beta": ("beta1",)}, {"beta": 0.965}),
    "ADAFACTOR": _Optimizer(
        "Adafactor",
        {"eps": 1e-30, "eps2": 1e-3, "clip_threshold": 1.0, "decay_rate": -0.8, "weight_decay": 0,
         "scale_parameter": False, "relative_step": False, "warmup_init": False},
        {"eps": ("eps", "eps2"), **{key: (key,) for key in (
            "clip_threshold", "decay_rate", "beta1", "scale_parameter", "relative_step", "warmup_init")}},
        {"eps": (1e-30, 1e-3), "clip_threshold": 1.0, "decay_rate": -0.8, "beta1": None, "scale_parameter": False,
         "relative_step": False, "warmup_init": False}),
    "CAME": _Optimizer(
        "CAME", {"beta1": 0.9, "beta2": 0.999, "beta3": 0.9999, "eps": 1e-30, "eps2": 1e-16, "weight_decay": 0.01},
        {"betas": ("beta1", "beta2", "beta3"), "eps1": ("eps",), "eps2": ("eps2",)},
        {"betas": (0.9, 0.999, 0.9999), "eps1": 1e-30, "eps2": 1e-16}),
    "SGD": _Optimizer("SGD Nesterov", {"momentum": 0, "weight_decay": 0, "nesterov": False, "dampening": 0},
                      {"momentum": ("momentum",), "nesterov": ("nesterov",), "dampening": ("dampening",)},
                      {"momentum": 0.9, "nesterov": True, "dampening": 0}),
    "SGD_8BIT": _Optimizer("8bit SGD", {"momentum": 0, "weight_decay": 0}, {"momentum": ("momentum",)},
                           {"momentum": 0.9}),
    "PRODIGY": _Optimizer(
        "Prodigy",
        {**_ADAM, "weight_decay": 0, "d0": 1e-6, "d_coef": 1.0, "decouple": True, "use_bias_correction": False,
         "safeguard_warmup": False},
        {**_ADAM_ARGUMENTS, **_ADAPTED, **_CORRECTIONS, **{key: (key,) for key in (
            "beta3", "d_coef", "decouple", "safeguard_warmup", "slice_p")}},
        {**_ADAM_VALUES, **_ADAPTED_VALUES, "beta3": None, "d_coef": 1.0, "decouple": True, "slice_p": None}),
    "DADAPT_ADAM": _Optimizer(
        "AdamW Dadaptation",
        {**_ADAM, "weight_decay": 0, "d0": 1e-6, "decouple": False, "use_bias_correction": False},
        {**_ADAM_ARGUMENTS, **_ADAPTED, **_CORRECTIONS, "decouple": ("decouple",)},
        {**_ADAM_VALUES, **_ADAPTED_VALUES, "use_bias_correction": False}),
    "DADAPT_ADAN": _Optimizer(
        "Adan Dadaptation",
        {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8, "weight_decay": 0.02, "d0": 1e-6, "no_prox": False},
        {"betas": ("beta1", "beta2", "beta3"), "eps": ("eps",), **_ADAPTED, "no_prox": ("no_prox",)},
        {"betas": (0.98, 0.92, 0.99), "eps": 1e-8, **_ADAPTED_VALUES}),
    "DADAPT_LION": _Optimizer(
        "Lion Dadaptation", {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0, "d0": 1e-6, "decouple": True},
        {**_BETAS, "d0": ("d0",), "decouple": ("decouple",)}, {"betas": (0.9, 0.999), "d0": 1e-6}),
    "DADAPT_SGD": _Optimizer(
        "SGD Dadaptation", {"momentum": 0.0, "weight_decay": 0, "d0": 1e-6},
        {"momentum": ("momentum",), **_ADAPTED}, {"momentum": 0.9, **_ADAPTED_VALUES}),
    "SCHEDULE_FREE_ADAMW": _Optimizer(
        "Schedule-Free AdamW", {**_ADAM, "weight_decay": 0.01, "r": 0.0, "weight_lr_power": 2.0},
        {**_ADAM_ARGUMENTS, "r": ("r",), "weight_lr_power": ("weight_lr_power",)},
        {**_ADAM_VALUES, "r": 0.0, "weight_lr_power": 2.0}),
}  # fmt: skip
# Optimizers that adapt Adam without decoupled weight decay: the same as AdamW if there is none.
_COUPLED = ("ADAM", "ADAM_8BIT")
# Without an effect on the weights, or only on those of other optimizers.
_IGNORED = ("fused", "fused_back_pass", "foreach", "stochastic_rounding", "is_paged", "optim_bits", "min_8bit_size",
            "percentile_clipping", "block_wise", "log_every", "fsdp_in_use", "capturable", "use_triton")  # fmt: skip
_SCHEDULES = {"CONSTANT": "constant_with_warmup", "LINEAR": "linear_with_warmup", "COSINE": "cosine",
              "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts", "REX": "rex",
              "ADAFACTOR": "adafactor"}  # fmt: skip


def import_optimizer(report: ImportReport, config: NestedValues) -> None:
    requested = config.word("optimizer.optimizer")
    source = config.source("optimizer.optimizer")
    optimizer = _OPTIMIZERS.get(requested)
    if optimizer is None:
        report.unsupported.append(f"optimizer = {requested}: not supported; Torch AdamW is used.")
        for key, value in (("optimizer", "Torch AdamW"), ("optimizer_args", ""), ("weight_decay", 0.01)):
            report.set(key, value)
        report.set("tenc_weight_decay", 0.01)
        config.skip(name for name in config.unread() if name.startswith("optimizer."))
        return
    paged = bool(optimizer.paged) and config.flag("optimizer.is_paged")
    report.set("optimizer", optimizer.paged if paged else optimizer.name, source)
    values = {key: _value(config, key, default) for key, default in optimizer.defaults.items()}
    decay = values.get("weight_decay", 0)
    report.set("weight_decay", decay, config.source("optimizer.weight_decay"))
    report.set("tenc_weight_decay", decay)
    if requested in _COUPLED and decay:
        report.unsupported.append(
            f"weight_decay = {decay}: {requested} adds it to the gradients; here it is decoupled (AdamW)."
        )
    arguments = {}
    for name, keys in optimizer.arguments.items():
        parts = [values.get(key, _value(config, key, None)) for key in keys]
        value = tuple(parts) if len(parts) > 1 else parts[0]
        if None not in parts and value != optimizer.own.get(name):
            arguments[name] = value
    if optimizer.name == "Schedule-Free AdamW":
        arguments["warmup_steps"] = int(config.number("learning_rate_warmup_steps"))
    usable, unknown, problems = resolve_arguments(optimizer.name, arguments)
    problems += [describe_unknown(optimizer.name, name) for name in unknown]
    report.unsupported += [f"optimizer: {problem}." for problem in problems]
    text = format_arguments({name: value for name, value in arguments.items() if _is_usable(optimizer, name, usable)})
    report.set("optimizer_args", text, "optimizer" if text else "")
    _report_other_arguments(report, config, optimizer)


def import_fused_back_pass(report: ImportReport, config: NestedValues) -> None:
    if config.flag("optimizer.fused_back_pass"):
        import_fused_backward(report, "optimizer.fused_back_pass")


def _is_usable(optimizer: _Optimizer, name: str, usable: Mapping[str, Any]) -> bool:
    return ARGUMENTS[optimizer.name].aliases.get(name, name) in usable


def _value(config: NestedValues, key: str, default: Any) -> Any:
    value = config.get(f"optimizer.{key}")
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    number = as_number(value)  # None for an infinite growth rate, the default
    if number is None:
        return default
    return value if isinstance(value, int) else number


def _report_other_arguments(report: ImportReport, config: NestedValues, optimizer: _Optimizer) -> None:
    """Arguments that are switched on and that nothing here has read; the others have no effect."""
    config.skip(f"optimizer.{key}" for key in _IGNORED)
    given = {name: value for name, value in config.unread().items() if name.startswith("optimizer.")}
    config.skip(given)
    active = [name for name, value in given.items() if value is True and name.partition(".")[2] in _SWITCHES]
    if active:
        report.unsupported.append(f"{', '.join(active)}: {optimizer.name} has no such argument here.")


# Switches of optimizers that are off by default and change the result.
_SWITCHES = frozenset({
    "amsgrad", "maximize", "centered", "cautious", "use_cautious", "cautious_wd", "use_grams", "use_adopt",
    "use_orthograd", "orthogonal_gradient", "use_atan2", "use_AdEMAMix", "Simplified_AdEMAMix", "kourkoutas_beta",
    "nnmf_factor", "use_speed", "no_prox", "fixed_decay", "ams_bound", "adanorm", "adam_debias", "warmup_init",
})  # fmt: skip


def import_rates(report: ImportReport, config: NestedValues) -> None:
    """Learning rates: those of the parts, or the common one, times the root of what the scaler says."""
    lora = bool(report.settings.get("use_lora"))
    scale = _rate_scale(report, config)
    for part, keys in (("unet", DENOISER), ("text_encoder", TEXT_ENCODER)):
        key = f"{part}.learning_rate"
        own = config.get(key) is not None
        rate = config.number(key if own else "learning_rate") * scale
        report.set(keys.rate(lora), rate, key if own else config.source("learning_rate"))
    if is_sdxl(config):
        first, second = (config.get(f"{part}.learning_rate") for part in ("text_encoder", "text_encoder_2"))
        if first != second:
            report.unsupported.append(
                f"text_encoder_2.learning_rate = {second}: both text encoders have the same learning rate, that of "
                "the first."
            )
    else:
        config.skip(["text_encoder_2.learning_rate"])


def _rate_scale(report: ImportReport, config: NestedValues) -> float:
    scaler = config.word("learning_rate_scaler")
    batch, accumulation = config.number("batch_size"), config.number("gradient_accumulation_steps")
    factors = {"NONE": 1.0, "BATCH": batch, "GLOBAL_BATCH": batch, "GRADIENT_ACCUMULATION": accumulation,
               "BOTH": batch * accumulation, "GLOBAL_BOTH": batch * accumulation}  # fmt: skip
    if scaler not in factors:
        report.unsupported.append(f"learning_rate_scaler = {scaler}: unknown; learning rates are not scaled.")
    return math.sqrt(max(1.0, factors.get(scaler, 1.0)))


def import_schedule(report: ImportReport, config: NestedValues) -> None:
    requested, source = config.word("learning_rate_scheduler"), config.source("learning_rate_scheduler")
    if str(report.settings.get("optimizer", "")).startswith("Schedule-Free"):
        report.set("lr_scheduler", "constant", source)
        config.skip(["learning_rate_warmup_steps", "learning_rate_min_factor", "learning_rate_cycles"])
        return
    fraction = min(1.0, max(0.0, config.number("learning_rate_min_factor")))
    warmup = _import_warmup(report, config)
    if requested == "COSINE_WITH_RESTARTS":
        cycles = max(1.0, config.number("learning_rate_cycles"))
        _import_annealing(report, config, 1 / (2 * cycles), fraction, warmup)
        return
    if requested == "COSINE" and fraction:
        _import_annealing(report, config, 1.0, fraction, warmup)
        return
    if requested not in _SCHEDULES:
        report.unsupported.append(f"learning_rate_scheduler = {requested}: not supported; the rate is constant.")
    report.set("lr_scheduler", _SCHEDULES.get(requested, "constant_with_warmup"), source)
    if requested == "COSINE_WITH_HARD_RESTARTS":
        cycles = config.number("learning_rate_cycles")
        report.set("lr_cycles", max(1, round(cycles)), config.source("learning_rate_cycles"))
        if cycles != round(cycles):
            report.unsupported.append(f"learning_rate_cycles = {cycles:g}: a whole number of cycles is used.")
    if requested == "REX":
        report.unsupported.append(
            "learning_rate_scheduler = REX: OneTrainer's curve (d = 0.9) stays high for longer than the one here (0.5)."
        )
    if fraction and requested != "CONSTANT":
        report.unsupported.append(
            f"learning_rate_min_factor = {fraction:g}: the {report.settings['lr_scheduler']} schedule decays to 0."
        )


def _import_annealing(
    report: ImportReport, config: NestedValues, position: float, fraction: float, warmup: float
) -> None:
    """A cosine between the learning rate and a fraction of it, whose minimum is at ``position`` of the run."""
    report.set("lr_scheduler", "cosine_annealing", config.source("learning_rate_scheduler"))
    report.set("lr_scale_pos", position)
    rate = report.settings.get(DENOISER.rate(bool(report.settings.get("use_lora"))), 0.0)
    report.set("learning_rate_min", fraction * rate, config.source("learning_rate_min_factor"))
    if warmup:
        report.unsupported.append(
            "learning_rate_warmup_steps: this schedule (cosine_annealing) does not support warmup."
        )


def _import_warmup(report: ImportReport, config: NestedValues) -> float:
    """Steps count batches if above 1, and are a fraction of the run up to 1."""
    given = max(0.0, config.number("learning_rate_warmup_steps"))
    steps = given
    if given > 1:
        steps = float(int(given / max(1.0, config.number("gradient_accumulation_steps"))))
    elif given == 1:  # the whole run; here 1 would be one step
        steps = 0.9999
    report.set("lr_warmup_steps", steps, config.source("learning_rate_warmup_steps"))
    return steps
