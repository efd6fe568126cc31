"""Import of ai-toolkit's optimizer, learning rate, schedule and number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.interop.ai_toolkit.datasets import Dataset
from dreambooth.interop.kohya import optimizer as sd_scripts
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues, as_number
from dreambooth.settings.components import DENOISER, TEXT_ENCODER

# Optimizer -> (name in sd-scripts, its arguments in ai-toolkit, difference).
_OPTIMIZERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "adam": ("AdamW", {"eps": 1e-6, "weight_decay": 0.0}, ""),
    "adamw": ("AdamW", {"eps": 1e-6}, ""),
    "adam8bit": ("AdamW8bit", {"eps": 1e-6, "weight_decay": 0.0}, ""),
    "adamw8bit": ("AdamW8bit", {"eps": 1e-6}, ""),
    "adam8": ("AdamW8bit", {"eps": 1e-6, "weight_decay": 0.0}, "the 8-bit AdamW of bitsandbytes is used"),
    "adamw8": ("AdamW8bit", {"eps": 1e-6}, "the 8-bit AdamW of bitsandbytes is used"),
    "lion": ("Lion", {}, ""),
    "lion8bit": ("Lion8bit", {}, ""),
    "adafactor": ("Adafactor", {"relative_step": False, "scale_parameter": False, "warmup_init": False}, ""),
    "prodigy": ("Prodigy", {"eps": 1e-6}, ""),
    "prodigy8bit": ("Prodigy", {"eps": 1e-6}, "Prodigy is used, whose state is not quantized"),
    "dadaptation": ("DAdaptAdam", {"eps": 1e-6}, ""),
    "dadaptationadam": ("DAdaptLion", {}, "ai-toolkit trains with DAdaptLion"),
    "dadaptationlion": ("DAdaptLion", {}, ""),
}
_ESTIMATING = ("prodigy", "dadaptation")
_LEAST_RATE = 0.1  # of optimizers that estimate the learning rate: ai-toolkit replaces smaller ones by 1


def import_components(report: ImportReport, values: NestedValues) -> None:
    """The trained parts and their learning rate; ai-toolkit has one rate for all of them."""
    report.set("train_unet", values.flag("train.train_unet"), values.source("train.train_unet"))
    trains_text = values.flag("train.train_text_encoder")
    report.set("stop_text_encoder", int(trains_text), values.source("train.train_text_encoder"))
    rate = values.number("train.lr")
    kind = values.text("train.optimizer").lower()
    if kind.startswith(_ESTIMATING) and rate < _LEAST_RATE:
        report.unsupported.append(f"train.lr = {rate:g}: {kind} is trained with 1, as in ai-toolkit.")
        rate = 1.0
    lora = bool(report.settings.get("use_lora"))
    report.set(DENOISER.rate(lora), rate, values.source("train.lr"))
    report.set(TEXT_ENCODER.rate(lora), rate)
    for key in ("train.unet_lr", "train.text_encoder_lr"):
        if key in values and values.number(key) != rate:
            report.unsupported.append(f"{key} = {values.get(key)}: not used, as ai-toolkit trains all parts with lr.")
        values.skip([key])


def import_optimizer(report: ImportReport, values: NestedValues) -> None:
    kind = values.text("train.optimizer").lower()
    arguments = values.get("train.optimizer_params")
    given = dict(arguments) if isinstance(arguments, Mapping) else {}
    if kind not in _OPTIMIZERS:
        report.unsupported.append(f"train.optimizer = {kind}: not supported; Torch AdamW is used.")
        given = {key: value for key, value in given.items() if key == "weight_decay"}
    name, own, difference = _OPTIMIZERS.get(kind, _OPTIMIZERS["adamw"])
    if difference:
        report.unsupported.append(f"train.optimizer = {kind}: {difference}.")
    own_report = ImportReport(Path())
    own_report.settings = report.settings
    sd_scripts.import_optimizer(own_report, {"optimizer_type": name, "optimizer_args": {**own, **given}})
    report.imported += [_renamed(line) for line in own_report.imported]
    report.unsupported += [_renamed(line) for line in own_report.unsupported]


def _renamed(message: str) -> str:
    """A message on parameters of sd-scripts with their names in ai-toolkit."""
    return message.replace("optimizer_type", "train.optimizer").replace("optimizer_args", "train.optimizer_params", 1)


def import_length(report: ImportReport, values: NestedValues, datasets: Sequence[Dataset]) -> None:
    """Steps are batches with gradient_accumulation_steps, and steps of the optimizer with gradient_accumulation."""
    per_step = values.number("train.gradient_accumulation_steps")
    if per_step < 1:
        report.unsupported.append(
            "train.gradient_accumulation_steps = -1: gradients of a whole epoch can't be accumulated; set Gradient "
            "accumulation steps."
        )
    per_step = max(1, int(per_step))
    whole = max(1, int(values.number("train.gradient_accumulation")))
    given = max(1, int(values.number("train.steps")))
    accumulation, steps = (per_step, max(1, given // per_step)) if per_step > 1 else (whole, given)
    source = "train.gradient_accumulation_steps" if per_step > 1 else values.source("train.gradient_accumulation")
    report.set("gradient_accumulation_steps", accumulation, source)
    report.set("max_train_steps", steps, "train.steps" if "train.steps" in values else "default of ai-toolkit")
    samples = sum(len(dataset.images) * dataset.repeats for dataset in datasets if not dataset.is_regularization)
    if not samples:
        return
    batches = max(1, samples // max(1, int(report.settings.get("train_batch_size", 1))))
    steps_per_epoch = max(1, batches // accumulation)
    report.set("num_train_epochs", math.ceil(steps / steps_per_epoch) + 1)


def import_schedule(report: ImportReport, values: NestedValues) -> None:
    name = values.text("train.lr_scheduler").lower()
    given = values.get("train.lr_scheduler_params")
    parameters = dict(given) if isinstance(given, Mapping) else {}
    source = values.source("train.lr_scheduler")
    report.set("lr_warmup_steps", 0)
    lora = bool(report.settings.get("use_lora"))
    if name == "constant":
        factor = as_number(parameters.pop("factor", 1))
        report.set("lr_scheduler", "constant", source)
        report.set("lr_factor", 1.0)
        if factor not in (None, 1.0):
            for keys in (DENOISER, TEXT_ENCODER):
                report.set(
                    keys.rate(lora), report.settings[keys.rate(lora)] * (factor or 1.0), "factor of lr_scheduler"
                )
    elif name in ("cosine", "cosine_with_restarts"):
        annealing = "cosine_annealing" if name == "cosine" else "cosine_annealing_with_restarts"
        report.set("lr_scheduler", annealing, source)
        length = as_number(parameters.pop("T_max" if name == "cosine" else "T_0", None))
        total = max(1.0, values.number("train.steps"))
        report.set("lr_scale_pos", min(1.0, length / total) if length else 1.0)
        report.set("learning_rate_min", as_number(parameters.pop("eta_min", None)) or 0.0)
    elif name == "constant_with_warmup":
        report.set("lr_scheduler", name, source)
        report.set("lr_warmup_steps", as_number(parameters.pop("num_warmup_steps", None)) or 1000, "num_warmup_steps")
    else:
        report.set("lr_scheduler", "constant", source)
        report.set("lr_factor", 1.0)
        report.unsupported.append(f"train.lr_scheduler = {name}: not supported; the learning rate is constant.")
    parameters.pop("total_iters", None)
    if parameters:
        report.unsupported.append(f"train.lr_scheduler_params: {', '.join(map(str, parameters))} not supported.")
