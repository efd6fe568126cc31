"""Import of the learning rate schedule of a training with sd-scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.optimizer import own_schedule
from dreambooth.interop.kohya.parameters import DEFAULT_STEPS, to_number
from dreambooth.settings.arguments import split_arguments
from dreambooth.settings.components import DENOISER, TEXT_ENCODER

_SCHEDULES = {
    "linear": "linear_with_warmup", "cosine": "cosine", "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial", "constant": "constant", "constant_with_warmup": "constant_with_warmup", "rex": "rex",
}  # fmt: skip
# Class of torch.optim.lr_scheduler -> (schedule, argument with the length of a cycle).
_TORCH_SCHEDULES = {
    "CosineAnnealingLR": ("cosine_annealing", "T_max"),
    "CosineAnnealingWarmRestarts": ("cosine_annealing_with_restarts", "T_0"),
}


def import_schedule(report: ImportReport, values: Mapping[str, Any]) -> None:
    _choose_schedule(report, values)
    _warn_warmup(report, str(report.settings.get("lr_scheduler")), values.get("lr_warmup_steps"))


def _choose_schedule(report: ImportReport, values: Mapping[str, Any]) -> None:
    arguments, invalid = split_arguments(values.get("lr_scheduler_args"))
    report.unsupported += [f"lr_scheduler_args: {text!r} is not of the form name=value; ignored." for text in invalid]
    if own := own_schedule(values):
        report.set("lr_scheduler", own, "the optimizer")
        for key in ("lr_scheduler", "lr_scheduler_type"):
            if str(values.get(key) or own) != own:
                report.unsupported.append(
                    f"{key} = {values[key]!r}: ignored as in sd-scripts, as the optimizer determines its schedule."
                )
        return
    if _import_torch_schedule(report, values, arguments):
        return
    _warn_unsupported_arguments(report, arguments)
    requested = str(values.get("lr_scheduler") or "constant").strip().lower()
    if requested == "cosine_with_min_lr":
        _import_annealing(report, values)
    elif requested in _SCHEDULES:
        report.set("lr_scheduler", _SCHEDULES[requested], "lr_scheduler" if values.get("lr_scheduler") else "")
    else:
        used = "constant_with_warmup" if to_number(values.get("lr_warmup_steps")) else "constant"
        reason = "needs the optimizer Adafactor" if requested == "adafactor" else "is not supported"
        report.unsupported.append(f"lr_scheduler = {requested!r} {reason}; {used} is used.")
        report.set("lr_scheduler", used)


def _warn_warmup(report: ImportReport, schedule: str, warmup: Any) -> None:
    if not to_number(warmup):
        return
    if schedule in ("constant", "adafactor") or schedule.startswith("cosine_annealing"):
        report.unsupported.append(
            f"lr_warmup_steps = {warmup!r}: the schedule {schedule} has no warm-up. Choose another one, such as "
            "constant_with_warmup, to use it."
        )
    elif isinstance(warmup, float) and warmup >= 1:
        report.unsupported.append(
            f"lr_warmup_steps = {warmup!r}: used as a number of steps; sd-scripts take a decimal number as a fraction "
            "of the run."
        )


def _import_annealing(report: ImportReport, values: Mapping[str, Any]) -> None:
    """cosine_with_min_lr: the learning rate decays to a fraction of itself over the whole run."""
    report.set("lr_scheduler", "cosine_annealing", "lr_scheduler")
    report.set("lr_scale_pos", 1)
    lora = bool(report.settings.get("use_lora"))
    rate = report.settings.get(DENOISER.rate(lora))
    text_rate = report.settings.get(TEXT_ENCODER.rate(lora), rate)
    fraction = to_number(values.get("lr_scheduler_min_lr_ratio", 0))
    if rate is None:
        report.unsupported.append(
            "lr_scheduler_min_lr_ratio: learning_rate is missing; set Minimum learning rate to this fraction "
            "of your learning rate."
        )
        return
    report.set("learning_rate_min", fraction * rate, "lr_scheduler_min_lr_ratio")
    if text_rate != rate and report.settings.get("stop_text_encoder") != 0:
        report.unsupported.append("lr_scheduler_min_lr_ratio: the text encoder uses the UNet's minimum learning rate.")


def _import_torch_schedule(report: ImportReport, values: Mapping[str, Any], arguments: dict[str, str]) -> bool:
    """lr_scheduler_type, a torch class that overrides lr_scheduler; False if there is none or it is not supported."""
    name = str(values.get("lr_scheduler_type", "")).split(".")[-1]
    if not name:
        return False
    mapped, cycle = _TORCH_SCHEDULES.get(name, ("", ""))
    length = int(to_number(arguments.pop(cycle, 0)))
    # The number of steps is unknown if the length is given in epochs.
    steps = 0 if "max_train_epochs" in values else int(to_number(values.get("max_train_steps", DEFAULT_STEPS)))
    if not mapped or not length or not steps or length > steps:
        report.unsupported.append(
            f"lr_scheduler_type = {values['lr_scheduler_type']!r}: only CosineAnnealingLR and "
            "CosineAnnealingWarmRestarts are supported, with a cycle no longer than max_train_steps; lr_scheduler is "
            "used."
        )
        return False
    report.set("lr_scheduler", mapped, "lr_scheduler_type")
    report.set("lr_scale_pos", (length + 0.5) / steps if length < steps else 1, f"lr_scheduler_args {cycle}")
    report.set("learning_rate_min", arguments.pop("eta_min", 0), "lr_scheduler_args eta_min")
    _warn_unsupported_arguments(report, arguments)
    return True


def _warn_unsupported_arguments(report: ImportReport, arguments: Mapping[str, str]) -> None:
    for key, value in arguments.items():
        report.unsupported.append(f"lr_scheduler_args {key}={value} is not supported.")
