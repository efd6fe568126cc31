"""The parameters of a training with kohya's sd-scripts (--config_file), as settings; and the pictures that it names.

Sections have no meaning in such a file. What is a matter of our own settings' form stands in _SAME; what needs a
thought has a function; what has no counterpart is named with what that means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.images.listing import find_images
from dreambooth.interop.kohya import folders
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.keys import BUCKET_SETTINGS, GENERAL_KEYS, RUN_SETTINGS
from dreambooth.interop.kohya.parameters import (
    import_length,
    import_attention,
    import_network,
    import_optimizer,
    import_rates,
    import_samples,
    import_saving,
    import_schedule,
    import_text_encoder_stop,
    import_validation,
)
from dreambooth.interop.kohya.subsets import parse_resolution, import_datasets
from dreambooth.interop.kohya.toml_file import Table, TomlFile, read_toml
from dreambooth.interop.kohya.unsupported_keys import NO_EFFECT_KEYS, UNSUPPORTED_TRAINING_KEYS

# Theirs -> ours, where a value means the same in both.
_DIRECT_SETTINGS = {
    "seed": "seed",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "max_grad_norm": "max_grad_norm",
    "prior_loss_weight": "prior_loss_weight",
    "clip_skip": "clip_skip",
    "max_token_length": "max_token_length",
    "weighted_captions": "weighted_captions",
    "mixed_precision": "mixed_precision",
    "full_bf16": "full_mixed_precision",
    "noise_offset": "offset_noise",
    "multires_noise_iterations": "multires_noise_iterations",
    "multires_noise_discount": "multires_noise_discount",
    "ip_noise_gamma": "input_perturbation",
    "min_snr_gamma": "min_snr_gamma",
    "debiased_estimation": "debiased_estimation",  # of older versions
    "debiased_estimation_loss": "debiased_estimation",
    "zero_terminal_snr": "zero_terminal_snr",
    "min_timestep": "min_timestep",
    "max_timestep": "max_timestep",
    "loss_type": "loss_type",
    "huber_schedule": "huber_schedule",
    "huber_c": "huber_c",
    "masked_loss": "masked_loss",
    "lr_warmup_steps": "lr_warmup_steps",
    "lr_scheduler_num_cycles": "lr_cycles",
    "lr_scheduler_power": "lr_power",
    "max_train_epochs": "num_train_epochs",
    "save_every_n_epochs": "save_embedding_every",
    "save_every_n_steps": "save_every_steps",
    "sample_every_n_epochs": "save_preview_every",
    "sample_every_n_steps": "preview_every_steps",
    "save_state": "save_state_during",
    "save_state_on_train_end": "save_state_after",
    "output_name": "custom_model_name",
}
# What sd-scripts do where nobody says, and we would not.
_SD_SCRIPTS_DEFAULTS = {"prior_loss_weight": 1.0, "max_token_length": 75, "min_snr_gamma": 0.0, "clip_skip": 1}
_DATASET_PARAMETERS = ("train_data_dir", "reg_data_dir", "dataset_config", "in_json", "dataset_repeats", "caption_extention")


def import_training(report: ImportReport, file: TomlFile) -> None:
    """All of a training's parameters. What can't be used is named; UserError where nothing of it could."""
    given = file.flat()
    values = {key: value for key, value in given.values.items() if value is not None and value != ""}
    _import_images(report, file, given, values)
    for key, ours in _DIRECT_SETTINGS.items():
        if key in values:
            report.set(ours, _setting_value(values[key]), key, given.location(key))
    for key, value in _SD_SCRIPTS_DEFAULTS.items():
        if key not in values:
            report.set(_DIRECT_SETTINGS[key], value)
    if "network_weights" in values and report.lost_backslashes(given, "network_weights"):
        values.pop("network_weights")
    report.set("pad_tokens", not values.get("no_token_padding"), _name_if_given(values, "no_token_padding"))
    for take in _IMPORTERS:
        take(report, values)
    supported = _SUPPORTED | ({"save_precision"} if "half_model" in report.settings else set())
    for key in values:
        if key not in supported and key not in GENERAL_KEYS:
            report.unsupported.append(_unsupported_message(given, key, values[key]))
    report.unsupported = [line for line in report.unsupported if line]
    if values.keys().isdisjoint(supported | GENERAL_KEYS.keys()):
        raise UserError.from_problems([f"{file.path}: holds no parameter that is known.", *report.unsupported])


def _unsupported_message(given: Table, key: str, value: Any) -> str:
    said = UNSUPPORTED_TRAINING_KEYS.get(key)
    if said is None and key in NO_EFFECT_KEYS:
        said = NO_EFFECT_KEYS[key]
    if said is None:
        return f"{given.location(key)}{key} = {value!r}: is not known here; it is left out."
    return f"{key} = {value!r}: {said}." if value not in (False, 0, [], {}) else ""


def _name_if_given(values: Mapping[str, Any], key: str) -> str:
    return key if key in values else ""


def _setting_value(value: Any) -> Any:
    return "no" if value == "none" else value


# -- pictures -------------------------------------------------------------------------------------------------------


def _import_images(report: ImportReport, file: TomlFile, given: Table, values: Mapping[str, Any]) -> None:
    arguments = {key: value for key, value in values.items() if key in GENERAL_KEYS}
    for theirs, key in (("train_batch_size", "batch_size"), ("dataset_repeats", "num_repeats")):
        if isinstance(values.get(theirs), int):
            arguments[key] = values[theirs]
    if "caption_extention" in values:  # their own slip of the pen, which they still read
        arguments["caption_extension"] = values["caption_extention"]
    if any(report.lost_backslashes(given, key) for key in ("train_data_dir", "reg_data_dir", "dataset_config", "in_json")):
        return
    if "dataset_config" in values:
        path = report.resolve_path(str(values["dataset_config"]))
        try:
            dataset_file = read_toml(path)
        except UserError as error:
            report.unsupported += [f"dataset_config: {problem}" for problem in error.problems]
            return
        report.search_dirs.insert(0, path.resolve().parent)
        import_datasets(report, dataset_file, dataset_file.values, arguments)
        report.search_dirs.pop(0)
        return
    if "train_data_dir" in values or "in_json" in values:
        subsets = _subsets_by_folder(report, given, values)
        import_datasets(report, file, {"datasets": [{"subsets": subsets}]}, arguments)
        return
    _import_image_settings(report, arguments)


def _import_image_settings(report: ImportReport, arguments: Mapping[str, Any]) -> None:
    """Of the dataset only what is said: the rest is in a file of its own."""
    size = parse_resolution(report, arguments.get("resolution"))
    if size:
        report.set("resolution", size[0], "resolution")
        report.set("resolution_height", size[1] if size[1] != size[0] else 0)
    if "enable_bucket" in arguments:
        report.set("bucket_rule", "kohya" if arguments["enable_bucket"] else "one size", "enable_bucket")
    ours = {**BUCKET_SETTINGS, **RUN_SETTINGS, "batch_size": "train_batch_size", "bucket_no_upscale": "bucket_no_upscale"}
    for key in arguments.keys() & ours.keys():
        report.set(ours[key], arguments[key], key)
    report.unsupported.append(
        "It names no pictures (train_data_dir, dataset_config): the concepts stay as they are. Take over the "
        "dataset.toml too."
    )


def _subsets_by_folder(report: ImportReport, given: Table, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The folders of train_data_dir and reg_data_dir whose names say repeats."""
    if "in_json" in values:
        return [{"image_dir": str(values.get("train_data_dir", "")), "metadata_file": str(values["in_json"])}]
    subsets: list[dict[str, Any]] = []
    for key, regularization in (("train_data_dir", False), ("reg_data_dir", True)):
        if key not in values:
            continue
        root = report.resolve_path(str(values[key]))
        if not root.is_dir():
            report.unsupported.append(f"{given.location(key)}{key}: there is no folder {root}, so it is left out.")
            continue
        named_folders = folders.find_named_folders(root, folders.parse_as_sd_scripts)
        subsets += [
            {"image_dir": str(each.path), "num_repeats": each.repeats, "class_tokens": each.class_tokens, "is_reg": regularization}
            for each in named_folders
        ]
        unused = len([path for path in find_images(root) if path.parent not in [each.path for each in named_folders]])
        if unused:
            report.unsupported.append(
                f"{key}: {unused} pictures in {root} are right in no folder whose name says repeats (10_sls 1girl), and "
                "are left out."
            )
    return subsets


# Later ones look at what earlier ones have set: the length at the batch size, a fraction of it at the length.
_IMPORTERS = (
    import_network, import_rates, import_optimizer, import_schedule, import_length, import_text_encoder_stop, import_saving,
    import_validation, import_samples, import_attention,
)  # fmt: skip
_SUPPORTED = {
    *_DIRECT_SETTINGS, *_DATASET_PARAMETERS, "train_batch_size", "network_module", "network_dim", "network_alpha", "network_args",
    "learning_rate", "unet_lr", "text_encoder_lr", "learning_rate_te", "network_train_unet_only",
    "network_train_text_encoder_only", "optimizer_type", "optimizer_args", "use_8bit_adam", "use_lion_optimizer",
    "lr_scheduler", "max_train_steps", "sample_sampler", "sample_prompts", "xformers", "sdpa", "mem_eff_attn",
    "diffusers_xformers", "network_weights", "dim_from_weights", "network_dropout", "no_token_padding",
    "learning_rate_te1", "learning_rate_te2", "train_text_encoder", "stop_text_encoder_training", "lr_scheduler_type",
    "lr_scheduler_args", "lr_scheduler_min_lr_ratio", "save_n_epoch_ratio", "save_last_n_epochs_state",
    "save_last_n_steps_state", "validate_every_n_steps", "validate_every_n_epochs",
}  # fmt: skip
