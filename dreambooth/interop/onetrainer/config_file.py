"""A configuration of OneTrainer of any version, under today's names and with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.nested_values import NestedValues

_METHODS = {"FINE_TUNE": "full training", "LORA": "LoRA training"}
_MODEL_TYPES = {
    "STABLE_DIFFUSION_15": "Stable Diffusion 1.5",
    "STABLE_DIFFUSION_15_INPAINTING": "Stable Diffusion 1.5 inpainting",
    "STABLE_DIFFUSION_20": "Stable Diffusion 2.0",
    "STABLE_DIFFUSION_20_BASE": "Stable Diffusion 2.0 base",
    "STABLE_DIFFUSION_20_INPAINTING": "Stable Diffusion 2.0 inpainting",
    "STABLE_DIFFUSION_21": "Stable Diffusion 2.1",
    "STABLE_DIFFUSION_21_BASE": "Stable Diffusion 2.1 base",
    "STABLE_DIFFUSION_XL_10_BASE": "Stable Diffusion XL 1.0",
}
_PARTS = ("unet", "prior", "text_encoder", "text_encoder_2", "vae", "effnet_encoder", "decoder")
_RENAMED = {
    "save_after": "save_every",
    "save_after_unit": "save_every_unit",
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
}

# What OneTrainer trains with where a configuration does not say otherwise.
DEFAULTS: dict[str, Any] = {
    "training_method": "FINE_TUNE", "model_type": "STABLE_DIFFUSION_15", "epochs": 100, "batch_size": 1,
    "gradient_accumulation_steps": 1, "learning_rate": 3e-6, "learning_rate_scheduler": "CONSTANT",
    "learning_rate_warmup_steps": 200, "learning_rate_cycles": 1, "learning_rate_min_factor": 0,
    "learning_rate_scaler": "NONE", "unet.train": True, "unet.stop_training_after_unit": "NEVER",
    "unet.weight_dtype": "FLOAT_32", "unet.gradient_checkpointing": True, "text_encoder.train": True,
    "text_encoder.stop_training_after": 30, "text_encoder.stop_training_after_unit": "EPOCH",
    "text_encoder.dropout_probability": 0, "text_encoder_2.train": True, "text_encoder_2.stop_training_after": 30,
    "text_encoder_2.stop_training_after_unit": "EPOCH", "text_encoder_2.dropout_probability": 0,
    "text_encoder_layer_skip": 0, "text_encoder_2_layer_skip": 0, "train_dtype": "FLOAT_16", "output_dtype": "FLOAT_32",
    "ema": "OFF", "ema_decay": 0.999, "ema_update_step_interval": 5, "resolution": "512",
    "aspect_ratio_bucketing": True, "clip_grad_norm": 1.0, "mse_strength": 1, "mae_strength": 0,
    "log_cosh_strength": 0, "huber_strength": 0, "huber_delta": 1, "loss_weight_fn": "CONSTANT",
    "loss_weight_strength": 5, "loss_scaler": "NONE", "dropout_probability": 0, "offset_noise_weight": 0,
    "generalized_offset_noise": False, "perturbation_noise_weight": 0,
    "rescale_noise_scheduler_to_zero_terminal_snr": False, "force_v_prediction": False,
    "force_epsilon_prediction": False, "min_noising_strength": 0, "max_noising_strength": 1,
    "timestep_distribution": "UNIFORM", "timestep_shift": 1, "masked_training": False, "unmasked_probability": 0.1,
    "unmasked_weight": 0.1, "normalize_masked_area_loss": False, "masked_prior_preservation_weight": 0,
    "custom_conditioning_image": False, "layer_filter": "", "layer_filter_preset": "full",
    "layer_filter_regex": False, "peft_type": "LORA", "lora_model_name": "", "lora_rank": 16, "lora_alpha": 1,
    "lora_decompose": False, "lora_decompose_output_axis": False, "lora_weight_dtype": "FLOAT_32", "lokr_dim": 16,
    "lokr_decompose_both": False, "lokr_decompose_factor": -1, "lokr_use_tucker": False,
    "lokr_weight_decompose": False, "lokr_dora_on_output": True, "lokr_full_matrix": False,
    "layer_offload_fraction": 0, "unet.offload_fraction": 0,
    "optimizer.optimizer": "ADAMW", "validation": False, "validate_after": 1, "validate_after_unit": "EPOCH",
    "sample_after": 10, "sample_after_unit": "MINUTE", "backup_after": 30, "backup_after_unit": "MINUTE",
    "rolling_backup": False, "rolling_backup_count": 3, "save_every": 0, "save_every_unit": "NEVER",
    "preserve_embedding_norm": False, "force_circular_padding": False, "multi_gpu": False,
    "compile": False,
}  # fmt: skip


def is_config(data: Any) -> bool:
    """Whether these are the values of a configuration of OneTrainer, of any version."""
    if not isinstance(data, Mapping):
        return False
    names = {"concept_file_name", "base_model_name", "output_model_destination", "optimizer_defaults", "workspace_dir"}
    return {"training_method", "model_type"} <= data.keys() or len(names & data.keys()) > 1 or _has_concepts(data)


def _has_concepts(data: Mapping[str, Any]) -> bool:
    rows = data.get("concepts")
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, Mapping) and "path" in row for row in rows)


def read_config(path: Path, values: Mapping[str, Any]) -> NestedValues:
    """The values of a configuration. UserError for methods and models that can't be trained here."""
    config = NestedValues(_upgrade(values), DEFAULTS)
    method, model_type = config.word("training_method"), config.word("model_type")
    problems = []
    if method not in _METHODS:
        problems.append(
            f"{path}: training_method = {method}: this OneTrainer configuration can't be imported, as only full "
            "training (FINE_TUNE) and LoRA training (LORA) are supported."
        )
    if model_type not in _MODEL_TYPES:
        problems.append(
            f"{path}: model_type = {model_type}: this OneTrainer configuration can't be imported, as only Stable "
            "Diffusion 1.5, 2.0, 2.1 and XL are supported."
        )
    if problems:
        raise UserError.from_problems(problems)
    return config


def describe_model(config: NestedValues) -> str:
    return _MODEL_TYPES[config.word("model_type")]


def is_stable_diffusion(config: NestedValues) -> bool:
    return config.word("model_type") in _MODEL_TYPES


def is_sdxl(config: NestedValues) -> bool:
    return "_XL_" in config.word("model_type")


def _upgrade(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an older version under today's names."""
    values = {_RENAMED.get(key, key): value for key, value in given.items()}
    if isinstance(values.get("optimizer"), str):
        nested = [key for key in values if key.startswith("optimizer_") and key != "optimizer_defaults"]
        values["optimizer"] = {
            "optimizer": values["optimizer"],
            **{key.removeprefix("optimizer_"): values.pop(key) for key in nested},
        }
    for part in _PARTS:
        old = {
            f"train_{part}": "train",
            f"train_{part}_epochs": "stop_training_after",
            f"{part}_learning_rate": "learning_rate",
            f"{part}_weight_dtype": "weight_dtype",
            f"{part}_model_name": "model_name",
        }
        moved = {new: values.pop(key) for key, new in old.items() if key in values}
        if "stop_training_after" in moved:
            moved["stop_training_after_unit"] = "EPOCH"
        if moved:
            values[part] = {**moved, **_table(values.get(part))}
    gamma = values.pop("min_snr_gamma", None)
    if gamma:
        values |= {"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": gamma}
    if values.get("noising_weight") and "timestep_distribution" not in values:
        values["timestep_distribution"] = "SIGMOID"
    checkpointing = values.pop("gradient_checkpointing", None)
    if checkpointing is not None:
        enabled = str(checkpointing).upper() not in ("OFF", "FALSE")
        values["unet"] = {"gradient_checkpointing": enabled, **_table(values.get("unet"))}
    weight_dtype = values.get("weight_dtype")
    for part in _PARTS:
        own = values.get(part)
        if weight_dtype and isinstance(own, Mapping) and own.get("weight_dtype") == "NONE":
            values[part] = {**own, "weight_dtype": weight_dtype}
    values.pop("weight_dtype", None)
    return values


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
