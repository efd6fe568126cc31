"""What programs built on kohya's sd-scripts hand to them, imported with the functions for sd-scripts' own files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.parameters import to_number
from dreambooth.interop.kohya.toml_file import TomlFile
from dreambooth.interop.kohya.training_config import import_training
from dreambooth.interop.kohya.unsupported_keys import NO_EFFECT_KEYS

# End of the names of network modules -> model family.
_OTHER_FAMILIES = {
    "flux": "FLUX.1", "flux_2": "FLUX.2", "sd3": "Stable Diffusion 3", "lumina": "Lumina Image 2.0", "anima": "Anima",
    "hunyuan_image": "HunyuanImage", "hunyuan": "HunyuanVideo", "wan": "Wan", "qwen_image": "Qwen-Image",
    "framepack": "FramePack", "zimage": "Z-Image", "chroma": "Chroma",
}  # fmt: skip
_MODEL_KINDS = {"sdxl": "SDXL", "v2": "Stable Diffusion 2.x", "v_parameterization": "v-prediction"}
_NO_IMAGES = "The file lists no images"  # start of a message of import_training
_CHUNK = 75  # tokens that a text encoder reads at once
_LATENT_STEP = 8  # pixels
_NOT_NEEDED = {*NO_EFFECT_KEYS, "output_dir"}
_LIST_PARAMETERS = {"network_args", "optimizer_args", "lr_scheduler_args", "base_weights", "base_weights_multiplier"}
# Settings that the import of sd-scripts' own files leaves as they are if their parameter is missing -> the value that
# the programs mean then.
_VALUES_IF_MISSING: dict[str, Any] = {
    "gradient_checkpointing": False, "mixed_precision": "no", "masked_loss": False, "save_embedding_every": 0,
    "save_every_steps": 0, "save_preview_every": 0, "preview_every_steps": 0, "save_state_during": False,
    "save_state_after": False, "train_batch_size": 1, "attention": "default",
    "torch_compile": False,
}  # fmt: skip


@dataclass
class Translation:
    """The parameters that a program hands to sd-scripts, and messages on what is lost on the way."""

    program: str
    values: dict[str, Any] = field(default_factory=dict)  # parameters of sd-scripts
    datasets: list[dict[str, Any]] | None = None  # [[datasets]]; None: the values name the images
    unsupported: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # parameters that do not change what is trained
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)  # setting -> (value, its parameter)


def refuse_other_family(path: Path, values: Mapping[str, Any]) -> None:
    """UserError if these parameters of sd-scripts train a model of another family, such as FLUX.1."""
    module = str(values.get("network_module", "")).rpartition(".")[2]
    family = next((name for end, name in _OTHER_FAMILIES.items() if module.endswith(f"_{end}")), "")
    if not family and {"t5xxl", "ae"} & {key for key in values if values[key]}:
        family = "FLUX.1 or Stable Diffusion 3"
    if family:
        raise UserError(
            f"{path} is a configuration for {family}. Only Stable Diffusion 1.x, 2.x and XL are supported; choose a "
            "configuration for one of these."
        )


def import_translation(report: ImportReport, path: Path, translation: Translation) -> None:
    """Import the parameters and everything that they leave at its default in sd-scripts."""
    refuse_other_family(path, translation.values)
    ignored = [*translation.ignored]
    ignored += [key for key, value in translation.values.items() if key in _NOT_NEEDED - _MODEL_KINDS.keys() and value]
    values = {key: value for key, value in translation.values.items() if key not in _NOT_NEEDED}
    if "network_module" not in values and "save_precision" in translation.values:  # of a checkpoint
        values["save_precision"] = translation.values["save_precision"]
        ignored = [key for key in ignored if key != "save_precision"]
    _fit_to_settings(values, translation.unsupported)
    import_training(report, TomlFile(path, values, {}), translation.datasets)
    for key, (value, parameter) in translation.settings.items():
        report.set(key, value, parameter)
    for key, value in _VALUES_IF_MISSING.items():
        if key not in report.settings:
            report.set(key, value)
    messages = [line for line in report.unsupported if not line.startswith(_NO_IMAGES)]
    if len(messages) < len(report.unsupported):
        messages.append(f"{_NO_IMAGES}, so the concepts are unchanged. Choose the images under Concepts.")
    report.unsupported[:] = [*translation.unsupported, *_describe_model(translation.values), *messages]
    if ignored:
        report.unsupported.append(
            f"Not needed here: {', '.join(sorted(set(ignored)))}. They concern files, logs, memory or the pages of "
            f"{translation.program}."
        )


def _describe_model(values: Mapping[str, Any]) -> list[str]:
    """A message on the kind of model that the file is for, if it says so."""
    kinds = " ".join(name for key, name in _MODEL_KINDS.items() if values.get(key))
    return [f"The file is for {kinds} models. The kind of yours is detected from its checkpoint."] if kinds else []


def _fit_to_settings(values: dict[str, Any], unsupported: list[str]) -> None:
    """Values that sd-scripts accept and the settings don't, replaced by the nearest with the same effect."""
    tokens = to_whole(values.get("max_token_length"), _CHUNK) or _CHUNK
    values["max_token_length"] = max(_CHUNK, tokens // _CHUNK * _CHUNK)  # sd-scripts use complete chunks only
    step = to_whole(values.get("bucket_reso_steps"), _LATENT_STEP)
    if step < _LATENT_STEP:
        values["bucket_reso_steps"] = _LATENT_STEP
        unsupported.append(
            f"bucket_reso_steps = {step}: sides of buckets are multiples of {_LATENT_STEP}, as one value of the "
            f"latents covers {_LATENT_STEP} pixels."
        )


def flatten(data: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters, regardless of their section."""
    values: dict[str, Any] = {}
    for key, value in data.items():
        values |= value if isinstance(value, Mapping) else {key: value}
    return values


def parse_command_line(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """(parameters, words that belong to none) of a command line such as ``--max_grad_norm=0 --flip_aug``."""
    values: dict[str, Any] = {}
    stray, current = [], ""
    for word in words:
        if word.startswith("--"):
            current, has_value, value = word[2:].partition("=")
            current = current.replace("-", "_")
            values[current] = ([value] if current in _LIST_PARAMETERS else _plain(value)) if has_value else True
            if current in _LIST_PARAMETERS and not has_value:
                values[current] = []
            current = current if not has_value or current in _LIST_PARAMETERS else ""
        elif not current:
            stray.append(word)
        elif current in _LIST_PARAMETERS:
            values[current].append(word)
        else:
            values[current], current = _plain(word), ""
    return values, stray


def _plain(text: str) -> Any:
    """A number, boolean or text, as a configuration file would have it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def to_bool(value: Any) -> bool:
    """Check boxes are booleans in most files, and words or 0 and 1 in some."""
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)


def to_whole(value: Any, default: int = 0) -> int:
    """A whole number from 4, 4.0, "4" or "4.0"; the default for anything else."""
    number = to_number(value) if not isinstance(value, bool) else math.nan
    is_number = str(value).strip() != "" and math.isfinite(number) and (number or re.match(r"\s*[-+]?0", str(value)))
    return int(number) if is_number else default


def to_float(value: Any, default: float = 0.0) -> float:
    """A number from 0.5 or "5e-5"; the default for anything else."""
    number = to_number(value) if not isinstance(value, bool) else math.nan
    is_number = math.isfinite(number) and (number or re.match(r"\s*[-+]?\.?0", str(value)))
    return number if is_number else default
