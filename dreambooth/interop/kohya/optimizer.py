"""Import of the optimizer of a training with sd-scripts, and of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.settings.arguments import format_arguments, parse_arguments
from dreambooth.settings.components import DENOISER, TEXT_ENCODER
from dreambooth.settings.optimizer_arguments import WEIGHT_DECAY, describe_unknown, resolve_arguments
from dreambooth.settings.training import GLOBAL_OPTIMIZERS, OPTIMIZER_ALIASES

# optimizer_type in lower case, without its module -> optimizer
_OPTIMIZERS = {
    **OPTIMIZER_ALIASES,
    "lion": "Lion", "sgdnesterov": "SGD Nesterov", "dadaptation": "AdamW Dadaptation",
    "dadaptadampreprint": "AdamW Dadaptation", "dadaptadan": "Adan Dadaptation", "prodigy": "Prodigy",
    "adafactor": "Adafactor", "came": "CAME", "schedulefreeadamw": "Schedule-Free AdamW", "tiger": "Tiger",
    "pagedadamw": "Torch AdamW", "pagedadamw32bit": "Torch AdamW",
}  # fmt: skip
# What is trained differently, although the optimizer has the same name.
_DIFFERENCES = {
    "dadaptation": "its successor DAdaptAdam is used, which estimates other learning rates",
    "dadaptadampreprint": "its successor DAdaptAdam is used, which estimates other learning rates",
    "dadaptadan": "the implementation of pytorch-optimizer is used, which estimates other learning rates",
    "pagedadamw": "Torch AdamW is used, which trains the same without paging",
    "pagedadamw32bit": "Torch AdamW is used, which trains the same without paging",
}
# Values of the optimizers in sd-scripts that differ from the defaults here.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Prodigy": {"use_bias_correction": False, "safeguard_warmup": False},
    "AdamW Dadaptation": {"decouple": False},
    "Adan Dadaptation": {"no_prox": False},
    "Lion Dadaptation": {"decouple": True, "betas": (0.9, 0.99)},
    "SGD Dadaptation": {"momentum": 0.0},
}
_DEFAULT_DECAY = {"Torch AdamW": 0.01, "8bit AdamW": 0.01, "Paged 8bit AdamW": 0.01, "Adan Dadaptation": 0.02,
                  "Tiger": 0.01}  # fmt: skip

_LARGE_RATE = 0.1
_HANDLED = {("Prodigy", "decouple"), ("Adafactor", "relative_step")}


def import_optimizer(report: ImportReport, values: Mapping[str, Any]) -> None:
    requested = _requested(values)
    kind = requested.split(".")[-1].lower()
    optimizer = _OPTIMIZERS.get(kind)
    if optimizer:
        report.set("optimizer", optimizer, "optimizer_type" if "optimizer_type" in values else "")
    else:
        advice = _advice(report)
        report.unsupported.append(f"optimizer_type = {requested!r} is not supported; Torch AdamW is used.{advice}")
        report.set("optimizer", optimizer := "Torch AdamW")
    if kind in _DIFFERENCES:
        report.unsupported.append(f"optimizer_type = {requested!r}: {_DIFFERENCES[kind]}.")
    _import_arguments(report, optimizer, values)
    _limit_bf16(report, optimizer)
    if values.get("fused_backward_pass"):
        import_fused_backward(report, "fused_backward_pass")
    if optimizer == "Prodigy" or optimizer.endswith("Dadaptation"):
        _use_one_rate(report, optimizer)


def _advice(report: ImportReport) -> str:
    """What to do about a learning rate that was meant for an optimizer that estimates it."""
    rate = report.settings.get(DENOISER.rate(bool(report.settings.get("use_lora"))), 0)
    return f" Lower its learning rate of {rate:g} to about 1e-4, or choose Prodigy." if rate >= _LARGE_RATE else ""


def _limit_bf16(report: ImportReport, optimizer: str) -> None:
    """full_bf16: weights in bf16 are trained with stochastic rounding here, which not all optimizers allow."""
    if not report.settings.get("full_mixed_precision"):
        return
    precision = report.settings.get("mixed_precision", "bf16")
    if report.settings.get("use_lora"):
        reason = "adapters are trained in fp32"
    elif optimizer in GLOBAL_OPTIMIZERS:
        reason = f"with {optimizer} weights are trained in fp32"
    elif precision not in ("auto", "bf16"):
        reason = f"weights in bf16 need mixed precision bf16, not {precision}; they are trained in fp32"
    else:
        return
    report.set("full_mixed_precision", False)
    report.unsupported.append(f"full_bf16: {reason}.")


def import_fused_backward(report: ImportReport, source: str) -> None:
    """A fused backward pass, which clips each tensor on its own in other programs. Weights are the same without it."""
    settings = report.settings
    is_accumulated = settings.get("gradient_accumulation_steps", 1) > 1
    is_global = settings.get("optimizer") in GLOBAL_OPTIMIZERS
    if is_accumulated or is_global or settings.get("use_lora") or settings.get("mixed_precision") == "fp16":
        return
    report.set("fused_backward", True, source)
    report.set("clip_each_tensor", True, source)


def _use_one_rate(report: ImportReport, optimizer: str) -> None:
    """Optimizers that estimate the learning rate have one factor on it; sd-scripts ignore the others or stop."""
    lora = bool(report.settings.get("use_lora"))
    rate, text_rate = (report.settings.get(keys.rate(lora)) for keys in (DENOISER, TEXT_ENCODER))
    both = report.settings.get("stop_text_encoder") != 0 and report.settings.get("train_unet", True)
    if both and None not in (rate, text_rate) and rate != text_rate:
        report.set(TEXT_ENCODER.rate(lora), rate)
        report.unsupported.append(
            f"Learning rates {rate:g} and {text_rate:g}: {optimizer} has one learning rate for all components; "
            f"{rate:g} is used."
        )


def own_schedule(values: Mapping[str, Any]) -> str:
    """The schedule that the optimizer determines in sd-scripts, whatever lr_scheduler says; "" for most optimizers."""
    kind = _requested(values).split(".")[-1].lower()
    if kind == "adafactor":
        arguments, _ = parse_arguments(values.get("optimizer_args"))
        return "adafactor" if arguments.get("relative_step", True) or arguments.get("warmup_init") else ""
    return "constant" if kind.endswith("schedulefree") else ""


def _requested(values: Mapping[str, Any]) -> str:
    if values.get("optimizer_type"):
        return str(values["optimizer_type"]).strip()
    if values.get("use_8bit_adam"):
        return "AdamW8bit"
    return "Lion" if values.get("use_lion_optimizer") else "AdamW"


def _import_arguments(report: ImportReport, optimizer: str, values: Mapping[str, Any]) -> None:
    given, invalid = parse_arguments(values.get("optimizer_args"))
    report.unsupported += [
        f"optimizer_args: {text!r} does not have the form name=value; ignored, the optimizer's default is used."
        for text in invalid
    ]
    if optimizer == "Adafactor" and not own_schedule(values):  # here, other schedules do not scale updates by default
        given = {"scale_parameter": True, **given}
    usable = {**_DEFAULTS.get(optimizer, {}), **_usable(report, optimizer, given)}
    if optimizer == "Prodigy" and given.get("decouple") == 0 and given.get(WEIGHT_DECAY, 0):
        report.unsupported.append(
            "optimizer_args: the weight decay of Prodigy is decoupled here, as with decouple=True."
        )
    decay = usable.pop(WEIGHT_DECAY, None)
    source = "default of the optimizer" if decay is None else "optimizer_args weight_decay"
    decay = _DEFAULT_DECAY.get(optimizer, 0.0) if decay is None else decay
    report.set("weight_decay", decay, source)
    report.set("tenc_weight_decay", decay)
    text = format_arguments(usable)
    report.set("optimizer_args", text, "optimizer_args" if text else "")


def _usable(report: ImportReport, optimizer: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the optimizer has here, under their given names. The others are reported."""
    usable = {}
    for name, value in given.items():
        if (optimizer, name) in _HANDLED:
            continue
        resolved, unknown, problems = resolve_arguments(optimizer, {name: value})
        problems += [describe_unknown(optimizer, key) for key in unknown]
        report.unsupported += [f"optimizer_args: {problem}; ignored." for problem in problems]
        if resolved:
            usable[name] = value
    return usable
