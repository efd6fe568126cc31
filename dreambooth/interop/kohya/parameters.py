"""Import training parameters of kohya's sd-scripts: learning rates, length, saving, validation, samples."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.differences import list_images
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.settings.components import DENOISER, TEXT_ENCODER
from dreambooth.text import count

# In the order of priority in sd-scripts.
_ATTENTION = {"mem_eff_attn": "sliced", "xformers": "xformers", "diffusers_xformers": "xformers", "sdpa": "default"}
_DEFAULT_RATE, DEFAULT_STEPS = 2e-6, 1600  # defaults of sd-scripts
_SAMPLERS = {
    "ddim": "DDIM", "pndm": "PNDM", "euler": "EulerDiscrete", "k_euler": "EulerDiscrete",
    "euler_a": "EulerAncestralDiscrete", "k_euler_a": "EulerAncestralDiscrete", "dpmsolver": "DPMSolverMultistep",
    "dpmsolver++": "DPMSolverMultistep", "dpmsingle": "DPMSolverMultistep",
}  # fmt: skip


def import_rates(report: ImportReport, values: Mapping[str, Any]) -> None:
    lora = bool(report.settings.get("use_lora"))
    base = values.get("learning_rate", _DEFAULT_RATE)
    base_name = "learning_rate" if "learning_rate" in values else "default of sd-scripts"
    unet, text_rate = values.get("unet_lr", base), _text_encoder_rate(report, values, base)
    report.set(DENOISER.rate(lora), unet, "unet_lr" if "unet_lr" in values else base_name)
    text_name = next((key for key in _TEXT_ENCODER_RATES if key in values), base_name)
    report.set(TEXT_ENCODER.rate(lora), text_rate, text_name)
    if report.settings.get("stop_text_encoder") == 0:
        pass  # the network has no adapters there
    elif values.get("network_train_unet_only") or text_rate == 0:
        report.set("stop_text_encoder", 0, "text encoder learning rate 0 or network_train_unet_only")
    elif lora:
        report.set("stop_text_encoder", 1)
    elif "train_text_encoder" in values:
        report.set("stop_text_encoder", int(bool(values["train_text_encoder"])), "train_text_encoder")
    if values.get("network_train_text_encoder_only") or unet == 0:
        report.set("train_unet", False, "UNet learning rate 0 or network_train_text_encoder_only")
    else:
        report.set("train_unet", True)
    if report.settings.get("train_unet") is False and report.settings.get("stop_text_encoder") == 0:
        report.unsupported.append("Neither UNet nor text encoder has a learning rate above 0, so nothing is trained.")


_TEXT_ENCODER_RATES = ("text_encoder_lr", "learning_rate_te", "learning_rate_te1", "learning_rate_te2")


def _text_encoder_rate(report: ImportReport, values: Mapping[str, Any], base: Any) -> Any:
    """The learning rate of the text encoders: the first one that is not 0."""
    given = next((values[key] for key in _TEXT_ENCODER_RATES[:2] if key in values), None)
    rates = given if isinstance(given, list) else [given]
    if given is None:
        rates = [values[key] for key in _TEXT_ENCODER_RATES[2:] if key in values]
    if not rates:
        return base
    chosen = next((rate for rate in rates if rate), rates[0])
    if any(rate != chosen for rate in rates):
        report.unsupported.append(
            f"Learning rates of the text encoders {rates}: different rates are not supported, {chosen!r} is used."
        )
    return chosen


def _steps_per_epoch(report: ImportReport) -> int:
    """Optimizer steps per epoch, at least (incomplete batches of buckets add some); 0 without images."""
    # Regularization images would add steps. An estimate that is too low only gives more epochs than needed.
    instance_concepts = [concept for concept in report.concepts if not concept.regularization]
    if not instance_concepts:
        return 0
    samples = sum(concept.num_repeats * len(list_images(concept)) for concept in instance_concepts)
    batches = max(1, samples // int(report.settings.get("train_batch_size", 1)))
    return max(1, batches // int(report.settings.get("gradient_accumulation_steps", 1)))


def warn_long_warmup(report: ImportReport, values: Mapping[str, Any]) -> None:
    """Whether the learning rate would never be reached; the check refuses such a run."""
    steps = report.settings.get("max_train_steps", 0)
    if "max_train_epochs" in values:
        steps = _steps_per_epoch(report) * report.settings.get("num_train_epochs", 0)
    warmup = report.settings.get("lr_warmup_steps", 0)
    if warmup >= 1 and 0 < steps <= warmup and report.settings.get("lr_scheduler") not in ("constant", "adafactor"):
        report.unsupported.append(
            f"lr_warmup_steps = {warmup:g}: the run has only about {count(steps, 'step')}, so the learning rate is "
            "never reached. Set Learning rate warm-up steps to less, or to a fraction such as 0.1."
        )


def import_length(report: ImportReport, values: Mapping[str, Any]) -> None:
    """max_train_steps with enough epochs to reach them; max_train_epochs overrides it."""
    if "max_train_epochs" in values:
        report.set("max_train_steps", 0)
        return
    steps = values.get("max_train_steps", DEFAULT_STEPS)
    report.set("max_train_steps", steps, "max_train_steps" if "max_train_steps" in values else "default of sd-scripts")
    steps_per_epoch = _steps_per_epoch(report)
    if isinstance(steps, int) and steps_per_epoch:
        report.set("num_train_epochs", math.ceil(steps / steps_per_epoch) + 1)


def import_text_encoder_stop(report: ImportReport, values: Mapping[str, Any]) -> None:
    """stop_text_encoder_training: the step at which the text encoder is frozen, as a fraction of the run."""
    last = values.get("stop_text_encoder_training")
    if last is None or report.settings.get("use_lora"):
        return  # only for full fine-tuning
    steps = report.settings.get("max_train_steps", 0)
    if to_number(last) <= 0:
        report.set("stop_text_encoder", 0, "stop_text_encoder_training")
    elif steps:
        report.set("stop_text_encoder", min(1.0, to_number(last) / steps), "stop_text_encoder_training")
    else:
        report.unsupported.append(
            f"stop_text_encoder_training = {last!r}: the number of steps in the run is unknown. Set Step ratio of text "
            "encoder training to the matching fraction of all steps."
        )


def import_saving(report: ImportReport, values: Mapping[str, Any]) -> None:
    """How often files are saved, how many snapshots are kept, and the precision of checkpoints."""
    ratio = int(to_number(values.get("save_n_epoch_ratio", 0)))
    steps_per_epoch = _steps_per_epoch(report)
    epochs = to_number(values.get("max_train_epochs", 0))
    if not epochs and steps_per_epoch:
        epochs = math.ceil(report.settings.get("max_train_steps", 0) / steps_per_epoch)
    if ratio > 0 and epochs:
        report.set("save_embedding_every", max(1, int(epochs) // ratio), "save_n_epoch_ratio")
    elif ratio > 0:
        report.unsupported.append(
            f"save_n_epoch_ratio = {ratio}: the number of epochs is unknown; set Save model frequency (epochs)."
        )
    limit = _snapshot_limit(values)
    if limit:
        report.set("snapshots_to_keep", limit[1], limit[0])
    precision = values.get("save_precision")
    if precision and not report.settings.get("use_lora"):
        report.set("half_model", precision in ("fp16", "bf16"), "save_precision")
        if precision == "bf16":
            report.unsupported.append("save_precision = 'bf16': half-precision checkpoints are saved as fp16.")


def _snapshot_limit(values: Mapping[str, Any]) -> tuple[str, int] | None:
    """(parameter, number of snapshots to keep) if states are saved. The ..._state parameters override the others."""
    if not values.get("save_state"):
        return None
    for key in ("save_last_n_epochs_state", "save_last_n_epochs"):
        if to_number(values.get(key)) > 0:
            return key, int(values[key])
    interval = int(to_number(values.get("save_every_n_steps")))
    for key in ("save_last_n_steps_state", "save_last_n_steps"):  # all states of the last N steps are kept
        if interval > 0 and to_number(values.get(key)) > 0:
            return key, int(values[key]) // interval + 1
    return None


def import_validation(report: ImportReport, values: Mapping[str, Any]) -> None:
    """The validation interval: every N steps, every N epochs, or each epoch if there is a validation split."""
    interval = values.get("validate_every_n_steps")
    if interval:
        report.set("validation_every", interval, "validate_every_n_steps")
        return
    epochs = values.get("validate_every_n_epochs")
    if not epochs and not report.settings.get("validation_share"):
        return
    steps_per_epoch = _steps_per_epoch(report)
    if steps_per_epoch:
        name = "validate_every_n_epochs" if epochs else "validation_split, in each epoch"
        report.set("validation_every", steps_per_epoch * max(1, int(to_number(epochs))), name)
    else:
        report.unsupported.append(
            "validate_every_n_epochs: without images the number of steps per epoch is unknown; set Validation "
            "frequency (steps)."
        )


def import_samples(report: ImportReport, values: Mapping[str, Any]) -> None:
    if "sample_sampler" in values:
        mapped = _SAMPLERS.get(str(values["sample_sampler"]))
        if mapped:
            report.set("scheduler", mapped, "sample_sampler")
        else:
            report.unsupported.append(f"sample_sampler = {values['sample_sampler']!r} is not supported.")
    if "sample_prompts" not in values or not report.concepts:
        return
    lines = values["sample_prompts"]  # other programs have the prompts themselves in place of a file's name
    if not isinstance(lines, list):
        path = report.resolve_path(str(lines))
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            report.unsupported.append(f"sample_prompts: {path} can't be read ({error}).")
            return
    prompts = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if prompts:
        first, sample = report.concepts[0], _parse_sample(prompts[0])
        concept = {key: getattr(first, key) for key in first.__dataclass_fields__}
        report.concepts[0] = report.make_concept({**concept, **sample}, "sample_prompts")
        report.imported.append(f"sample_prompts -> concept 1, sample image prompt {sample['save_sample_prompt']!r}")
    if len(prompts) > 1:
        report.unsupported.append(
            f"sample_prompts: {count(len(prompts) - 1, 'more prompt')} ignored; a concept has only one."
        )


def _parse_sample(line: str) -> dict[str, Any]:
    """Concept values of a prompt line: the prompt, then --n negative, --d seed, --s steps, --l guidance scale."""
    prompt, *options = re.split(r"\s--(?=[a-z]{1,2}\s)", line)
    keys = {"n": "save_sample_negative_prompt", "d": "sample_seed", "s": "save_infer_steps", "l": "save_guidance_scale"}
    sample = {"save_sample_prompt": prompt.strip()}
    for option in options:
        key, _, value = option.partition(" ")
        if key in keys:
            sample[keys[key]] = value.strip()
    return sample


def import_attention(report: ImportReport, values: Mapping[str, Any]) -> None:
    for key, mapped in _ATTENTION.items():
        if not values.get(key):
            continue
        if mapped == "xformers" and not importlib.util.find_spec("xformers"):
            mapped, key = "default", f"{key} (not installed; PyTorch's attention computes the same)"
        report.set("attention", mapped, key)
        return


def import_base_precision(report: ImportReport, values: Mapping[str, Any]) -> None:
    """sd-scripts store the frozen model in fp8 as it is, or its UNet alone; here both are scaled by channel."""
    chosen = next((key for key in ("fp8_base", "fp8_base_unet") if values.get(key)), "")
    if chosen and not report.settings.get("use_lora"):
        report.unsupported.append(f"{chosen}: only the frozen model of a LoRA can be stored in fp8.")
        chosen = ""
    report.set("base_precision", "fp8" if chosen else "full", chosen)


def import_activation_offload(report: ImportReport, values: Mapping[str, Any]) -> None:
    key = "cpu_offload_checkpointing"
    if values.get(key) and values.get("gradient_checkpointing"):
        report.set("offload_activations", True, key)


def to_number(value: Any) -> float:
    """0 for what is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
