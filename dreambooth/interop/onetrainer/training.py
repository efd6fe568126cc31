"""Import of a OneTrainer configuration, with the concepts in it or in the file that it names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues, as_number, describe_ignored
from dreambooth.interop.onetrainer.concepts import import_concepts
from dreambooth.interop.onetrainer.config_file import describe_model, is_sdxl, read_config
from dreambooth.interop.onetrainer.intervals import Length, import_intervals, import_parts, import_validation
from dreambooth.interop.onetrainer.keys import NO_EFFECT_KEYS, NO_EFFECT_PARTS, UNSUPPORTED_KEYS
from dreambooth.interop.onetrainer.network import import_network
from dreambooth.interop.onetrainer.objective import (
    import_ema,
    import_loss,
    import_masks,
    import_noise,
    import_precision,
    import_prompts,
)
from dreambooth.interop.onetrainer.optimizer import (
    import_fused_back_pass,
    import_optimizer,
    import_rates,
    import_schedule,
)
from dreambooth.interop.onetrainer.samples import import_samples
from dreambooth.interop.onetrainer.timesteps import import_timesteps
from dreambooth.settings.concept import MAX_BYTES
from dreambooth.text import count


def import_config(report: ImportReport, file: DataFile) -> None:
    """A config.json or preset, with the concepts in it or in the file that it names."""
    config = read_config(file.path, file.data)
    base = file.path.resolve().parent
    report.search_dirs = [base, base.parent]  # paths are relative to OneTrainer's folder, which contains those of files
    report.set("use_lora", config.word("training_method") == "LORA", "training_method")
    report.set("train_batch_size", config.number("batch_size"), config.source("batch_size"))
    accumulation = config.number("gradient_accumulation_steps")
    report.set("gradient_accumulation_steps", accumulation, config.source("gradient_accumulation_steps"))
    length = _import_images(report, config, file)
    for import_group in (
        _import_resolution, import_network, import_optimizer, import_rates, import_schedule, import_precision,
        import_fused_back_pass, import_loss, import_noise, import_timesteps, import_masks, import_prompts, import_ema,
    ):  # fmt: skip
        import_group(report, config)
    import_parts(report, config, length)
    import_intervals(report, config, length)
    import_validation(report, config, length)
    import_samples(report, config)
    _import_names(report, config)
    _report_the_rest(report, config)


def import_concepts_file(report: ImportReport, file: DataFile) -> None:
    """A concepts.json: a list of concepts."""
    base = file.path.resolve().parent
    report.search_dirs = [base, base.parent]
    import_concepts(report, file.data)
    report.require_concepts(file.path)


# -- images ---------------------------------------------------------------------------------------------------------


def _import_images(report: ImportReport, config: NestedValues, file: DataFile) -> Length:
    epochs = max(1, int(config.number("epochs")))
    rows, factor, n_samples = _concept_rows(report, config, file.path), 1, 0
    if rows is None:
        report.unsupported.append(
            "The file lists no images (concepts, concept_file_name), so the concepts are unchanged. Import the "
            "concepts.json too."
        )
    else:
        factor, n_samples = import_concepts(report, rows, epochs)
        report.require_concepts(file.path)
    report.set("num_train_epochs", math.ceil(epochs / factor), config.source("epochs"))
    report.set("max_train_steps", 0)
    batch = max(1, report.settings.get("train_batch_size", 1))
    accumulation = max(1, report.settings.get("gradient_accumulation_steps", 1))
    if batch > 1 or accumulation > 1:
        report.unsupported.append(
            "batch_size, gradient_accumulation_steps: OneTrainer skips incomplete batches and continues accumulation "
            "into the next epoch; here the last batch and step of an epoch may be smaller, so there may be more steps."
        )
    return Length(epochs, factor, int(n_samples * epochs / batch / accumulation))


def _concept_rows(report: ImportReport, config: NestedValues, path: Path) -> Sequence[Any] | None:
    """The concepts in the configuration, or in the file that it names; None if it names none."""
    rows, name = config.get("concepts"), config.text("concept_file_name")
    if isinstance(rows, list):
        return rows
    if not name:
        return None
    try:
        rows = read_json(report.resolve_path(name), MAX_BYTES)
    except UserError as error:
        hint = "Put the file there, or remove concept_file_name to import the settings only."
        raise UserError.from_problems(f"{path}, concept_file_name: {line} {hint}" for line in error.problems) from error
    if not isinstance(rows, list):
        raise UserError(f"{path}, concept_file_name: {name} is not a list of concepts. Choose OneTrainer's concepts.")
    return rows


def _import_resolution(report: ImportReport, config: NestedValues) -> None:
    text, source = config.text("resolution"), config.source("resolution")
    bucketed = config.flag("aspect_ratio_bucketing")
    report.set("bucket_rule", "area" if bucketed else "one size", config.source("aspect_ratio_bucketing"))
    fixed = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if fixed:
        step = 64 if is_sdxl(config) else 8
        width, height = (max(step, round(int(side) / step) * step) for side in fixed.groups())
        report.set("bucket_rule", "one size")
        report.set("resolution", width, source)
        report.set("resolution_height", height if height != width else 0)
        return
    sides = [int(side) for side in re.findall(r"\d+", text)]
    if not sides:
        report.unsupported.append(f"resolution = {text!r}: contains no number; the current value is kept.")
        return
    report.set("resolution", max(sides), source)
    report.set("resolution_height", 0)
    if len(set(sides)) > 1:
        report.unsupported.append(
            f"resolution = {text}: OneTrainer picks one of these for each image; here all are trained at {max(sides)}."
        )
    if bucketed:
        for key, value in (("bucket_step", 64), ("bucket_min_side", 0), ("bucket_max_side", 0)):
            report.set(key, value)
        report.set("bucket_no_upscale", False)
        report.unsupported.append(
            "aspect_ratio_bucketing: bucket sizes differ. OneTrainer has fixed shapes up to 4:1, here they are all "
            "multiples of 64 pixels up to 2:1, so that some images are cropped differently."
        )


def _import_names(report: ImportReport, config: NestedValues) -> None:
    base = config.text("base_model_name")
    report.unsupported.append(
        f"model_type = {describe_model(config)}{f', base_model_name = {base}' if base else ''}: the model is chosen "
        "when it is created (create NAME --source ...)."
    )
    name = Path(config.text("output_model_destination").replace("\\", "/")).name
    stem = re.sub(r"\.(safetensors|ckpt|pt)$", "", name)
    if stem and stem.lower() not in ("model", "lora", "embedding"):  # the names in OneTrainer's presets
        report.set("custom_model_name", stem, "output_model_destination")


def _report_the_rest(report: ImportReport, config: NestedValues) -> None:
    """Whatever has not been imported: what it would do, that it does nothing, or that it is unknown."""
    rest = config.unread()
    ignored, unknown = [], []
    for name, value in rest.items():
        part, _, key = name.partition(".")
        if name in UNSUPPORTED_KEYS:
            if value not in (False, 0, "", [], "NONE"):
                shown = f" = {value}" if isinstance(value, (str, int, float)) else ""
                report.unsupported.append(f"{name}{shown}: {UNSUPPORTED_KEYS[name]}.")
        elif name in NO_EFFECT_KEYS or part in NO_EFFECT_PARTS or key in _IGNORED_IN_PARTS:
            ignored.append(part if part in NO_EFFECT_PARTS else name)
        elif as_number(value) != 0 and value not in (False, "", []):
            unknown.append(name)
    ignored = [name for name in ignored if not name.endswith("__version")]
    if ignored:
        report.unsupported.append(describe_ignored(ignored))
    if unknown:
        report.unsupported.append(f"{count(len(unknown), 'unknown key')} ignored: {', '.join(unknown)}.")


_IGNORED_IN_PARTS = frozenset({
    "model_name", "include", "weight_dtype", "train_embedding", "attention_mask", "guidance_scale",
    "gradient_checkpointing", "offload_fraction", "activation_offloading", "__version", "stop_training_after",
    "stop_training_after_unit", "dropout_probability",
})  # fmt: skip
