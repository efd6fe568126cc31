"""The images that a page of kohya_ss names, and the number of steps that the GUI computes from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.interop.kohya.folders import find_named_folders, list_direct_images, parse_as_sd_scripts
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya_gui_network import is_lora
from dreambooth.interop.translation import Translation, to_bool, to_float, to_whole

_FINETUNING_FIELDS = {"image_folder", "caption_metadata_filename", "latent_metadata_filename", "dataset_repeats"}


def is_finetuning(fields: Mapping[str, Any]) -> bool:
    return bool(_FINETUNING_FIELDS & fields.keys())


def add_images(result: Translation, fields: Mapping[str, Any], report: ImportReport) -> None:
    """The finetuning page has a folder and a metadata file in place of folders with repeats in their names."""
    if not is_finetuning(fields) or result.values.get("dataset_config"):
        return
    folder = str(fields.get("image_folder", "")).strip()
    if not folder:
        return
    subset: dict[str, Any] = {"image_dir": folder, "num_repeats": to_whole(fields.get("dataset_repeats"), 1)}
    uses_latents = str(fields.get("use_latent_files", "No")) == "Yes"
    name = str(fields.get("latent_metadata_filename" if uses_latents else "caption_metadata_filename", ""))
    metadata = report.resolve_path(str(Path(str(fields.get("train_dir", "")), name))) if name else Path()
    if not to_bool(fields.get("generate_caption_database")) and metadata.is_file():
        subset["metadata_file"] = str(metadata)
    result.values.pop("dataset_repeats", None)
    result.datasets = [{"subsets": [subset]}]


def add_length(result: Translation, fields: Mapping[str, Any], report: ImportReport) -> None:
    """The number of steps, which the GUI computes from the images if it is not given, and the warm-up."""
    values = result.values
    epochs, steps = to_whole(fields.get("max_train_epochs")), to_whole(fields.get("max_train_steps"))
    if epochs:
        values["max_train_epochs"] = epochs
    elif not steps and not values.get("dataset_config"):
        steps = _steps_of_gui(values, fields, report)
        if not steps:
            values["max_train_epochs"] = max(1, to_whole(fields["epoch"], 1))
    if steps and not epochs:
        values["max_train_steps"] = steps
    fraction = to_float(fields.get("lr_warmup")) / 100
    warmup = to_whole(fields.get("lr_warmup_steps"))
    if not warmup and fraction:
        warmup = int(fraction * steps) if steps and not epochs else min(fraction, 0.999)
    values["lr_warmup_steps"] = warmup
    percent = to_float(fields.get("stop_text_encoder_training"))
    if not percent:
        return
    if is_lora(fields):
        result.unsupported.append("stop_text_encoder_training: kohya_ss ignores it for LoRA, and so does the import.")
    elif percent > 0:
        result.settings["stop_text_encoder"] = (min(1.0, percent / 100), "stop_text_encoder_training")
    else:
        result.settings["stop_text_encoder"] = (0, "stop_text_encoder_training")


def _steps_of_gui(values: Mapping[str, Any], fields: Mapping[str, Any], report: ImportReport) -> int:
    """Images x repeats x epochs / batch size, twice that with regularization images; 0 without images."""
    if is_finetuning(fields):
        folder, repeats = str(fields.get("image_folder", "")).strip(), to_whole(fields.get("dataset_repeats"), 1)
        samples = repeats * _count_images(report.resolve_path(folder)) if folder else 0
    else:
        folder = str(values.get("train_data_dir", ""))
        folders = find_named_folders(report.resolve_path(folder), parse_as_sd_scripts) if folder else []
        samples = sum(named.repeats * _count_images(named.path) for named in folders)
    per_step = max(1, values["train_batch_size"]) * max(1, values.get("gradient_accumulation_steps", 1))
    factor = 2 if values.get("reg_data_dir") else 1
    return math.ceil(samples / per_step * max(1, to_whole(fields["epoch"], 1)) * factor)


def _count_images(folder: Path) -> int:
    return len(list_direct_images(folder, lambda path: path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")))
