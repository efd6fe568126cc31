"""Import training parameters of kohya's sd-scripts (--config_file) as settings, and the dataset that they name.

Sections have no meaning in such a file. Parameters that only need another name are listed in _DIRECT_SETTINGS,
others have a function in parameters.py, and unsupported ones are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.data_dirs import subsets_of_folders
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.keys import BUCKET_SETTINGS, GENERAL_KEYS, RUN_SETTINGS
from dreambooth.interop.kohya.masks import import_masked_loss
from dreambooth.interop.kohya.network import import_network
from dreambooth.interop.kohya.optimizer import import_optimizer
from dreambooth.interop.kohya.parameters import (
    import_activation_offload,
    import_attention,
    import_base_precision,
    import_length,
    import_rates,
    import_samples,
    import_saving,
    import_text_encoder_stop,
    import_validation,
    to_number,
    warn_long_warmup,
)
from dreambooth.interop.kohya.schedule import import_schedule
from dreambooth.interop.kohya.sizes import make_trainable, parse_resolution, usable_step
from dreambooth.interop.kohya.subsets import import_datasets
from dreambooth.interop.kohya.timesteps import TIMESTEP_KEYS, import_timesteps
from dreambooth.interop.kohya.toml_file import Table, TomlFile, read_toml
from dreambooth.interop.kohya.unsupported_keys import NO_EFFECT_KEYS, UNSUPPORTED_TRAINING_KEYS

# sd-scripts parameter -> setting with the same meaning and values.
_DIRECT_SETTINGS = {
    "seed": "seed",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "torch_compile": "torch_compile",
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
# Defaults of sd-scripts, for parameters that are not in the file.
_SD_SCRIPTS_DEFAULTS: dict[str, Any] = {
    "prior_loss_weight": 1.0, "max_token_length": 75, "min_snr_gamma": 0.0, "clip_skip": 1,
    "gradient_accumulation_steps": 1, "max_grad_norm": 1.0, "weighted_captions": False, "full_bf16": False,
    "noise_offset": 0.0, "multires_noise_iterations": 0, "multires_noise_discount": 0.3, "ip_noise_gamma": 0.0,
    "zero_terminal_snr": False, "min_timestep": 0, "max_timestep": 1000, "loss_type": "l2", "huber_schedule": "snr",
    "huber_c": 0.1, "lr_warmup_steps": 0, "lr_scheduler_num_cycles": 1, "lr_scheduler_power": 1.0,
}  # fmt: skip
_UNSET_IF_ZERO = ("max_train_epochs", "clip_skip", "lr_scheduler_num_cycles")  # as interfaces write what is not set
_IMAGE_PARAMETERS = frozenset({"train_data_dir", "reg_data_dir", "dataset_config", "in_json"})
_DATASET_PARAMETERS = _IMAGE_PARAMETERS | {"dataset_repeats", "caption_extention"}


def has_training_parameters(file: TomlFile) -> bool:
    """Whether a file with [[datasets]] also holds training parameters, in whatever section."""
    return not file.flat().values.keys().isdisjoint(_SUPPORTED - GENERAL_KEYS.keys() - _DATASET_PARAMETERS)


def import_training(report: ImportReport, file: TomlFile, datasets: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Import all training parameters. Unsupported ones are reported; UserError if none is supported.

    ``datasets``: the [[datasets]] of programs that have parameters and datasets in one file.
    """
    table = file.flat()
    values = {key: value for key, value in table.values.items() if value is not None and value != ""}
    values = {key: value for key, value in values.items() if value != 0 or key not in _UNSET_IF_ZERO}
    if datasets is None and "datasets" in values:
        given: Any = values["datasets"]
        datasets = given if isinstance(given, list) else [given]
        report.unsupported.append(
            "sd-scripts do not read training parameters and [[datasets]] from one file; here both are imported."
        )
    values.pop("datasets", None)
    _import_images(report, file, table, values, datasets)
    if datasets is not None or not _IMAGE_PARAMETERS.isdisjoint(values):
        report.find_missing_images(file.path, _IMAGE_PARAMETERS.intersection(values))
    for key, setting in _DIRECT_SETTINGS.items():
        if key in values:
            report.set(setting, _setting_value(values[key]), key, table.location(key))
    for key, value in _SD_SCRIPTS_DEFAULTS.items():
        if key not in values:
            report.set(_DIRECT_SETTINGS[key], value)
    if "debiased_estimation_loss" not in values and "debiased_estimation" not in values:
        report.set("debiased_estimation", False)
    _require_timesteps(report)
    if "network_weights" in values and report.has_lost_backslashes(table, "network_weights"):
        values.pop("network_weights")
    report.set("pad_tokens", not values.get("no_token_padding"), _name_if_given(values, "no_token_padding"))
    for import_group in _IMPORTERS:
        import_group(report, values)
    supported = _SUPPORTED | ({"save_precision"} if "half_model" in report.settings else set())
    if values.get("masked_loss") and any(concept.mask_data_dir for concept in report.concepts):
        supported |= {"conditioning_data_dir"}
    for key in values:
        if key not in supported and key not in GENERAL_KEYS:
            report.unsupported.append(_describe_unsupported(table, key, values[key]))
    report.unsupported = [line for line in report.unsupported if line]
    if values.keys().isdisjoint(supported | GENERAL_KEYS.keys()):
        raise UserError.from_problems([f"{file.path} contains no known parameter.", *report.unsupported])


def _require_timesteps(report: ImportReport) -> None:
    first, last = report.settings.get("min_timestep", 0), report.settings.get("max_timestep", 1000)
    if first >= last:
        report.unsupported.append(f"min_timestep = {first} is not below max_timestep = {last}; 0 and 1000 are used.")
        report.set("min_timestep", 0)
        report.set("max_timestep", 1000)


def _describe_unsupported(table: Table, key: str, value: Any) -> str:
    explanation = UNSUPPORTED_TRAINING_KEYS.get(key) or NO_EFFECT_KEYS.get(key)
    if explanation is None:
        return f"{table.location(key)}{key} = {value!r}: unknown parameter, ignored."
    return f"{key} = {value!r}: {explanation}." if value not in (False, 0, [], {}) else ""


def _name_if_given(values: Mapping[str, Any], key: str) -> str:
    return key if key in values else ""


def _setting_value(value: Any) -> Any:
    return "no" if value == "none" else value


# -- images ---------------------------------------------------------------------------------------------------------


def _import_images(
    report: ImportReport,
    file: TomlFile,
    table: Table,
    values: Mapping[str, Any],
    datasets: Sequence[Mapping[str, Any]] | None,
) -> None:
    arguments = {key: value for key, value in values.items() if key in GENERAL_KEYS}
    for parameter, key in (("train_batch_size", "batch_size"), ("dataset_repeats", "num_repeats")):
        if isinstance(values.get(parameter), int):
            arguments[key] = values[parameter]
    if "caption_extention" in values:  # a misspelling that sd-scripts accept
        arguments["caption_extension"] = values["caption_extention"]
    if datasets is not None:
        import_datasets(report, file, {"datasets": list(datasets)}, arguments)
        return
    if any(report.has_lost_backslashes(table, key) for key in sorted(_IMAGE_PARAMETERS)):
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
        subsets = subsets_of_folders(report, table, values)
        if values.get("masked_loss") and "conditioning_data_dir" in values:
            masks = {"conditioning_data_dir": str(values["conditioning_data_dir"])}
            subsets = [subset if subset.get("is_reg") else subset | masks for subset in subsets]
        import_datasets(report, file, {"datasets": [{"subsets": subsets}]}, arguments)
        return
    _import_image_settings(report, arguments)


def _import_image_settings(report: ImportReport, arguments: Mapping[str, Any]) -> None:
    """Dataset settings of a configuration without images, whose dataset is in another file."""
    size = parse_resolution(report, arguments.get("resolution"))
    if size:
        report.set("resolution", size[0], "resolution")
        report.set("resolution_height", size[1] if size[1] != size[0] else 0)
    if "enable_bucket" in arguments:
        report.set("bucket_rule", "kohya" if arguments["enable_bucket"] else "one size", "enable_bucket")
    if "bucket_reso_steps" in arguments:
        step = usable_step(report, int(to_number(arguments["bucket_reso_steps"])))
        arguments = {**arguments, "bucket_reso_steps": step}
    settings = {**BUCKET_SETTINGS, **RUN_SETTINGS}
    settings |= {"batch_size": "train_batch_size", "bucket_no_upscale": "bucket_no_upscale"}
    for key in sorted(arguments.keys() & settings.keys()):
        report.set(settings[key], arguments[key], key)
    make_trainable(report)
    report.unsupported.append(
        "The file lists no images (train_data_dir, dataset_config), so the concepts are unchanged. Import the "
        "dataset.toml too."
    )


# The order matters: the length depends on the batch size, and fractions of the run on its length.
_IMPORTERS = (
    import_masked_loss, import_network, import_rates, import_optimizer, import_schedule, import_length,
    warn_long_warmup, import_text_encoder_stop, import_saving, import_validation, import_samples, import_attention,
    import_base_precision, import_activation_offload, import_timesteps,
)  # fmt: skip
_SUPPORTED = {
    *_DIRECT_SETTINGS, *_DATASET_PARAMETERS, *TIMESTEP_KEYS,
    "train_batch_size", "network_module", "network_dim", "network_alpha",
    "network_args", "learning_rate", "unet_lr", "text_encoder_lr", "learning_rate_te", "network_train_unet_only",
    "network_train_text_encoder_only", "optimizer_type", "optimizer_args", "use_8bit_adam", "use_lion_optimizer",
    "lr_scheduler", "max_train_steps", "sample_sampler", "sample_prompts", "xformers", "sdpa", "mem_eff_attn",
    "diffusers_xformers", "network_weights", "dim_from_weights", "network_dropout", "no_token_padding",
    "learning_rate_te1", "learning_rate_te2", "train_text_encoder", "stop_text_encoder_training", "lr_scheduler_type",
    "lr_scheduler_args", "lr_scheduler_min_lr_ratio", "save_n_epoch_ratio", "save_last_n_epochs_state",
    "save_last_n_steps_state", "validate_every_n_steps", "validate_every_n_epochs", "masked_loss",
    "fp8_base", "fp8_base_unet", "fused_backward_pass",
    "cpu_offload_checkpointing",
}  # fmt: skip
KNOWN_PARAMETERS = {*_SUPPORTED, *GENERAL_KEYS, *UNSUPPORTED_TRAINING_KEYS, *NO_EFFECT_KEYS}
