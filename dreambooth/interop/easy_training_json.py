"""The flat JSON that the first versions of LoRA_Easy_Training_Scripts saved, before its pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.translation import Translation, to_bool, to_float, to_whole

# Its name -> that of sd-scripts.
_NAMES = {
    "base_model": "pretrained_model_name_or_path", "img_folder": "train_data_dir", "reg_img_folder": "reg_data_dir",
    "output_folder": "output_dir", "change_output_name": "output_name", "shuffle_captions": "shuffle_caption",
    "train_resolution": "resolution", "buckets": "enable_bucket", "min_bucket_resolution": "min_bucket_reso",
    "max_bucket_resolution": "max_bucket_reso", "batch_size": "train_batch_size", "test_seed": "seed",
    "max_clip_token_length": "max_token_length", "max_steps": "max_train_steps", "num_epochs": "max_train_epochs",
    "num_workers": "max_data_loader_n_workers", "persistent_workers": "persistent_data_loader_workers",
    "gradient_acc_steps": "gradient_accumulation_steps", "log_dir": "logging_dir", "scheduler": "lr_scheduler",
    "cosine_restarts": "lr_scheduler_num_cycles", "scheduler_power": "lr_scheduler_power", "no_meta": "no_metadata",
    "save_as": "save_model_as", "use_lion": "use_lion_optimizer", "lora_model_for_resume": "network_weights",
    "net_dim": "network_dim", "alpha": "network_alpha", "unet_only": "network_train_unet_only",
    "text_only": "network_train_text_encoder_only",
}  # fmt: skip
_RECOGNIZED_BY = {"base_model", "img_folder", "net_dim", "train_resolution", "test_seed"}
_OWN_NAMES = {
    "save_json_folder", "save_json_name", "load_json_path", "multi_run_folder", "json_load_skip_list",
    "save_json_only", "tag_occurrence_txt_file", "sort_tag_occurrence_alphabetically", "list_of_json_to_run",
    "warmup_lr_ratio", "lyco", "locon", "locon_dim", "locon_alpha", "height_resolution",
}  # fmt: skip


def recognize_json(data: Mapping[str, Any]) -> bool:
    """Whether at least two keys are names of its own."""
    return (
        len((_OWN_NAMES | {"base_model", "img_folder", "net_dim", "train_resolution", "test_seed"}) & data.keys()) > 1
    )


def translate_json(data: Mapping[str, Any], report: ImportReport, program: str) -> Translation:
    """The parameters that it hands to sd-scripts. ``report`` resolves the image folder."""
    result = Translation(program)
    given = {_NAMES.get(key, key): value for key, value in data.items() if value not in (None, "", [], {}, 0)}
    values = {key: value for key, value in given.items() if key not in _OWN_NAMES and value is not False}
    values.setdefault("caption_extension", ".txt")
    width, height = given.get("resolution"), given.get("height_resolution")
    if width and height:
        values["resolution"] = f"{width},{height}"
    arguments = dict(given["network_args"]) if isinstance(given.get("network_args"), Mapping) else {}
    arguments |= {key: given[old] for key, old in (("conv_dim", "locon_dim"), ("conv_alpha", "locon_alpha"))
                  if given.get(old)}  # fmt: skip
    is_lycoris = to_bool(given.get("lyco"))
    plain = "networks.dylora" if "unit" in arguments else "networks.lora"
    values["network_module"] = "lycoris.kohya" if is_lycoris else plain
    values["network_args"] = arguments
    if values.get("optimizer_type") == "DAdaptation":
        values["optimizer_args"] = [values.get("optimizer_args", {}), "decouple=True"]
    _add_length(values, given)
    if "resolution" in values:
        values["resolution"] = str(values["resolution"])
    result.values = values
    return result


def _add_length(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """A number of steps overrides that of epochs. The warm-up is a fraction of the run."""
    steps = to_whole(given.get("max_train_steps"))
    if steps:
        values.pop("max_train_epochs", None)
    ratio = to_float(given.get("warmup_lr_ratio"))
    if ratio:
        values["lr_warmup_steps"] = int(ratio * steps) if steps else min(ratio, 0.999)
