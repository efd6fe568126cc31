"""Presets and saved settings (JSON) of kohya_ss, the GUI of sd-scripts: LoRA, DreamBooth and finetuning.

The file holds the fields of a page, most of them empty or 0 where they are not used. They are translated into what the
GUI hands to sd-scripts. Names that older versions of the GUI used are known too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya_gui_images import add_images, add_length, is_finetuning
from dreambooth.interop.kohya_gui_network import is_lora, network_values
from dreambooth.interop.script_text import split_words
from dreambooth.interop.translation import (
    Translation,
    import_translation,
    parse_command_line,
    to_bool,
    to_float,
    to_whole,
)

NAME = "kohya_ss GUI"
# Fields that sd-scripts' own files don't have. Two of them identify a file of the GUI.
_GUI_FIELDS = {
    "LoRA_type", "max_resolution", "lr_warmup", "epoch", "optimizer", "additional_parameters", "noise_offset_type",
    "stop_text_encoder_training_pct", "num_cpu_threads_per_process", "model_list", "lora_network_weights",
    "sdxl_cache_text_encoder_outputs", "sdxl_no_half_vae", "cache_latent", "caption_metadata_filename",
    "latent_metadata_filename", "image_folder", "use_latent_files", "use_wandb", "save_as_bool", "sdxl_checkbox",
    "LyCORIS_preset", "flux1_checkbox", "sd3_checkbox",
}  # fmt: skip
_SCRIPT_PARAMETERS = frozenset({"network_module", "optimizer_type"})  # LoRA_type and optimizer on the page
_OTHER_FAMILIES = {
    "flux1_checkbox": "FLUX.1", "sd3_checkbox": "Stable Diffusion 3", "hunyuan_image_checkbox": "HunyuanImage",
    "anima_checkbox": "Anima", "lumina_checkbox": "Lumina Image 2.0",
}  # fmt: skip
_OLD_NAMES = {
    "cache_latent": "cache_latents", "caption_extention": "caption_extension", "sdxl_checkbox": "sdxl",
    "lora_network_weights": "network_weights", "stop_text_encoder_training_pct": "stop_text_encoder_training",
    "unet": "unet_lr", "text_encoder": "text_encoder_lr", "enable_buckets": "enable_bucket",
    "create_buckets": "enable_bucket",
}  # fmt: skip
# Value of a field that a file lacks, as on a new page.
_PAGE_DEFAULTS: dict[str, Any] = {
    "max_resolution": "512,512", "train_batch_size": 1, "epoch": 1, "enable_bucket": True, "min_bucket_reso": 256,
    "max_bucket_reso": 2048, "bucket_reso_steps": 64, "lr_scheduler": "cosine", "learning_rate": 1e-4,
    "save_every_n_epochs": 1, "caption_extension": ".txt",
    "mixed_precision": "fp16",
}  # fmt: skip
_WHOLE_FIELDS = (
    "gradient_accumulation_steps", "keep_tokens", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso",
    "train_batch_size", "clip_skip", "max_timestep", "min_timestep", "save_every_n_epochs", "save_every_n_steps",
    "save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps", "save_last_n_steps_state",
    "sample_every_n_epochs", "sample_every_n_steps", "caption_dropout_every_n_epochs", "dataset_repeats",
    "vae_batch_size", "fused_optimizer_groups",
)  # fmt: skip
_NUMBER_FIELDS = (
    "learning_rate", "max_grad_norm", "prior_loss_weight", "caption_dropout_rate", "ip_noise_gamma", "huber_c",
    "huber_scale", "min_snr_gamma", "v_pred_like_loss", "lr_scheduler_power", "noise_offset", "adaptive_noise_scale",
)  # fmt: skip
_CHECK_BOXES = (
    "bucket_no_upscale", "cache_latents", "cache_latents_to_disk", "color_aug", "debiased_estimation_loss",
    "enable_bucket", "flip_aug", "fp8_base", "full_bf16", "full_fp16", "gradient_checkpointing", "highvram",
    "ip_noise_gamma_random_strength", "masked_loss", "mem_eff_attn", "no_token_padding", "noise_offset_random_strength",
    "persistent_data_loader_workers", "random_crop", "save_state", "save_state_on_train_end",
    "scale_v_pred_loss_like_noise_pred", "shuffle_caption", "skip_cache_check", "weighted_captions", "v2",
    "v_parameterization", "sdxl", "async_upload", "fused_backward_pass",
)  # fmt: skip
_TEXT_FIELDS = (
    "caption_extension", "dataset_config", "huber_schedule", "loss_type", "lr_scheduler", "lr_scheduler_type",
    "mixed_precision", "output_name", "pretrained_model_name_or_path", "reg_data_dir", "resume", "sample_sampler",
    "save_precision", "train_data_dir", "vae", "block_lr",
)  # fmt: skip
# Text fields that concern only the GUI, files and logs.
_OTHER_TEXT_FIELDS = (
    "output_dir", "logging_dir", "log_with", "save_model_as", "training_comment", "wandb_api_key", "wandb_run_name",
    "log_tracker_name", "log_tracker_config", "metadata_author", "metadata_description", "metadata_license",
    "metadata_tags", "metadata_title", "huggingface_repo_id", "huggingface_token", "gpu_ids",
    "extra_accelerate_launch_args",
)  # fmt: skip
# sd-scripts' default of fields whose 0 the LoRA page does not hand over.
_DEFAULT_FOR_0 = {"max_grad_norm": 1.0, "prior_loss_weight": 1.0, "network_alpha": 1, "huber_c": 0.1}


def recognize(data: Any) -> bool:
    """Whether these are the fields of a training page, not what it hands to sd-scripts when a training starts."""
    if not isinstance(data, Mapping) or not _SCRIPT_PARAMETERS.isdisjoint(data):
        return False
    return "LoRA_type" in data or len(_GUI_FIELDS & data.keys()) >= 2


def import_file(report: ImportReport, file: DataFile) -> None:
    """Import the fields of a page. UserError names a kind of training or model family that is not supported."""
    fields = rename_old_fields(file.data)
    _refuse_unsupported(file.path, fields)
    import_translation(report, file.path, translate(fields, report))
    if not is_lora(fields):
        report.set("use_lora", False, "DreamBooth or finetuning page")


def rename_old_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their present names, without those that are null."""
    return {_OLD_NAMES.get(key, key): value for key, value in data.items() if value is not None}


def _refuse_unsupported(path: Path, fields: Mapping[str, Any]) -> None:
    lora_type = str(fields.get("LoRA_type", ""))
    families = [name for key, name in _OTHER_FAMILIES.items() if to_bool(fields.get(key))]
    if lora_type.startswith(("Flux1", "HunyuanImage", "Anima", "Lumina")) and not families:
        families = [lora_type]
    if families:
        raise UserError(
            f"{path} is a {NAME} preset for {families[0]}. Only Stable Diffusion 1.x, 2.x and XL are supported; choose "
            "a preset for one of these."
        )
    if {"token_string", "init_word", "num_vectors_per_token"} & fields.keys():
        raise UserError(
            f"{path} is a {NAME} preset for textual inversion, which is not supported. Choose a preset for LoRA, "
            "DreamBooth or finetuning."
        )


def translate(fields: Mapping[str, Any], report: ImportReport) -> Translation:
    """The parameters that the GUI hands to sd-scripts. ``report`` resolves the image folders, to count steps."""
    fields = {**_PAGE_DEFAULTS, **fields}
    result = Translation(NAME)
    values = result.values
    values |= {key: to_whole(fields[key]) for key in _WHOLE_FIELDS if key in fields}
    values |= {key: to_float(fields[key]) for key in _NUMBER_FIELDS if key in fields and fields[key] != ""}
    values |= {key: True for key in _CHECK_BOXES if to_bool(fields.get(key))}
    values |= {key: str(fields[key]).strip() for key in _TEXT_FIELDS if str(fields.get(key, "")).strip()}
    values["resolution"] = str(fields["max_resolution"])
    values["max_token_length"] = to_whole(fields.get("max_token_length"), 75) or 75
    values["lr_scheduler_num_cycles"] = to_whole(fields.get("lr_scheduler_num_cycles"), 1)
    values["seed"] = to_whole(fields.get("seed")) or -1  # 0 is a random seed
    _add_optimizer(values, fields)
    _add_attention(values, fields)
    _add_samples(values, fields)
    if is_lora(fields):
        values |= network_values(fields, result)
        _add_noise(values, fields)
        _replace_0(result)
    else:
        _add_full_training(values, fields)
    _drop_unused(values)
    further = _additional_parameters(result, fields)
    values |= further
    add_images(result, fields, report)
    add_length(result, fields, report)
    values |= further  # they override all others
    if "max_train_steps" in further and not to_whole(fields.get("max_train_epochs")):
        values.pop("max_train_epochs", None)
    _add_warnings(result, fields)
    return result


def _add_optimizer(values: dict[str, Any], fields: Mapping[str, Any]) -> None:
    default = "AdamW8bit" if to_bool(fields.get("use_8bit_adam")) else "AdamW"
    values["optimizer_type"] = str(fields.get("optimizer") or default)
    for key in ("optimizer_args", "lr_scheduler_args"):
        if fields.get(key):
            values[key] = fields[key]


def _add_attention(values: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """A choice of xformers and sdpa; once a check box."""
    choice = fields.get("xformers", "xformers")
    name = choice if isinstance(choice, str) and choice.lower() not in ("true", "false") else ""
    if name in ("xformers", "sdpa") or (not name and to_bool(choice)):
        values[name or "xformers"] = True


def _add_samples(values: dict[str, Any], fields: Mapping[str, Any]) -> None:
    prompts = str(fields.get("sample_prompts", "")).splitlines()
    if any(line.strip() for line in prompts):
        values["sample_prompts"] = prompts
    else:
        values.pop("sample_sampler", None)


def _add_noise(values: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Of the two kinds of noise offset, the LoRA page hands over the chosen one."""
    multires = fields.get("noise_offset_type", "Original") == "Multires"
    if multires:
        for key in ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"):
            values.pop(key, None)
    iterations = to_whole(fields.get("multires_noise_iterations")) if multires else 0
    if iterations:
        values["multires_noise_iterations"] = iterations
        values["multires_noise_discount"] = to_float(fields.get("multires_noise_discount"))


def _add_full_training(values: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Parameters of the DreamBooth and finetuning pages."""
    if to_whole(fields.get("multires_noise_iterations")):
        values["multires_noise_iterations"] = to_whole(fields["multires_noise_iterations"])
        values["multires_noise_discount"] = to_float(fields.get("multires_noise_discount"))
    sdxl = to_bool(fields.get("sdxl"))
    for key in ("learning_rate_te1", "learning_rate_te2") if sdxl else ("learning_rate_te",):
        if str(fields.get(key, "")) != "":
            values[key] = to_float(fields[key])
    rates = [to_float(fields.get(key, 1)) for key in ("learning_rate_te1", "learning_rate_te2")]
    values["train_text_encoder"] = not sdxl or any(rates)
    if is_finetuning(fields):
        values["train_text_encoder"] = to_bool(fields.get("train_text_encoder", True))
        values["enable_bucket"] = True


def _replace_0(result: Translation) -> None:
    for key, default in _DEFAULT_FOR_0.items():
        if result.values.get(key) == 0:
            result.values[key] = default
            result.unsupported.append(
                f"{key} = 0: the LoRA page of {NAME} does not hand 0 to sd-scripts, so their default {default} is used."
            )


def _drop_unused(values: dict[str, Any]) -> None:
    """0 means "not set" in these fields; what they would do is also what a missing parameter does."""
    for key in ("clip_skip", "max_timestep", "vae_batch_size", "fused_optimizer_groups", "v_pred_like_loss",
                "adaptive_noise_scale", "save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps",
                "save_last_n_steps_state", "caption_dropout_every_n_epochs", "scale_weight_norms"):  # fmt: skip
        if not values.get(key):
            values.pop(key, None)
    if values.get("huber_scale") == 1:
        del values["huber_scale"]


def _additional_parameters(result: Translation, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The field for further command line arguments."""
    given, stray = parse_command_line(split_words(str(fields.get("additional_parameters", "") or "")))
    if stray:
        result.unsupported.append(f"additional_parameters: {' '.join(stray)!r} belongs to no --parameter; ignored.")
    return given


def _add_warnings(result: Translation, fields: Mapping[str, Any]) -> None:
    result.ignored += [key for key in _OTHER_TEXT_FIELDS if str(fields.get(key, "")).strip() not in ("", "False")]
    if to_bool(fields.get("train_inpainting")):
        result.unsupported.append("train_inpainting: inpainting models are not trained.")
    cycles_missing = str(fields.get("lr_scheduler_num_cycles", "1")).strip() == ""
    if cycles_missing and result.values.get("lr_scheduler") == "cosine_with_restarts":
        result.unsupported.append(
            "lr_scheduler_num_cycles is empty, which the GUI reads as 1. Versions before 24 restarted in each epoch; "
            "set Number of hard resets to do the same."
        )
