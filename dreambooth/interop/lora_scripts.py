"""Files of lora-scripts (SD-Trainer): TOML that it runs, saves or offers as a preset, and the history of its page.

Most parameters are those of sd-scripts. The page has some of its own, which it translates before a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.folders import find_named_folders, list_direct_images, parse_as_sd_scripts
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.translation import (
    Translation,
    flatten,
    import_translation,
    to_bool,
    to_float,
    to_whole,
)
from dreambooth.text import count

NAME = "lora-scripts"
# Parameters of the page that no other program has.
_OWN_PARAMETERS = {
    "model_train_type", "lycoris_algo", "network_args_custom", "optimizer_args_custom", "enable_preview",
    "enable_block_weights", "enable_base_weight", "prodigy_d0", "prodigy_d_coef", "ui_custom_params", "dylora_unit",
    "lokr_factor", "randomly_choice_prompt", "positive_prompts", "lr_restart_cycles",
}  # fmt: skip
_PAGE_PARAMETERS = _OWN_PARAMETERS | {
    "negative_prompts", "prompt_file", "sample_cfg", "sample_width", "sample_height", "sample_seed", "sample_steps",
    "gpu_ids", "dropout",
}  # fmt: skip
_COMMON_PARAMETERS = {
    "pretrained_model_name_or_path", "train_data_dir", "resolution", "network_module", "network_dim", "unet_lr",
    "learning_rate", "optimizer_type", "max_train_epochs",
}  # fmt: skip
_TRAIN_TYPES = {"sd-lora": True, "sdxl-lora": True, "sd-dreambooth": False, "sdxl-finetune": False}  # -> is LoRA
_CONTRASTIVE = ("negative_sampling_method", "noise_strength", "contrastive_weight", "contrastive_warmup_steps")
_ONLY_SD = ("v2", "v_parameterization", "clip_skip", "learning_rate_te", "stop_text_encoder_training")
# What a page that was not changed has, of what its presets and its history leave out.
_PAGE_DEFAULTS: dict[str, Any] = {
    "resolution": "512,512", "enable_bucket": True, "min_bucket_reso": 256, "max_bucket_reso": 1024,
    "bucket_reso_steps": 64, "bucket_no_upscale": True, "save_every_n_epochs": 2, "max_train_epochs": 10,
    "train_batch_size": 1, "lr_scheduler": "cosine_with_restarts", "optimizer_type": "AdamW8bit",
    "caption_extension": ".txt", "max_token_length": 255, "seed": 1337, "clip_skip": 2, "mixed_precision": "bf16",
    "prior_loss_weight": 1.0, "xformers": True,
}  # fmt: skip
_LORA_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 1e-5, "network_module": "networks.lora",
    "network_dim": 32, "network_alpha": 32,
}  # fmt: skip
_FULL_DEFAULTS: dict[str, Any] = {"learning_rate": 1e-6, "shuffle_caption": True, "mixed_precision": "fp16"}


def recognize(data: Any) -> bool:
    """Whether this is a run, preset or history with a parameter of the page. Sections have no meaning."""
    if _history(data):
        return True
    if not isinstance(data, Mapping):
        return False
    names = flatten(data).keys()
    is_run = not _OWN_PARAMETERS.isdisjoint(names) and not _COMMON_PARAMETERS.isdisjoint(names)
    return is_run or "model_train_type" in names or _is_preset(data)


def _is_preset(data: Mapping[str, Any]) -> bool:
    metadata, values = data.get("metadata"), data.get("data")
    if not isinstance(metadata, Mapping) or not isinstance(values, Mapping):
        return False
    return "train_type" in metadata or not _COMMON_PARAMETERS.isdisjoint(values)


def _history(data: Any) -> list[Mapping[str, Any]]:
    """The entries of an exported history: when, which name, and the changed parameters of each."""
    if not isinstance(data, list) or not data:
        return []
    is_history = all(isinstance(row, Mapping) and isinstance(row.get("value"), Mapping) for row in data)
    return data if is_history and all("time" in row for row in data) else []


def import_file(report: ImportReport, file: DataFile) -> None:
    """Import a run, preset or the last entry of a history. UserError names what kind of training is not supported."""
    entries = _history(file.data)
    values = flatten(entries[-1]["value"]) if entries else flatten(file.data)
    is_preset = not entries and _is_preset(file.data)
    if is_preset:
        values = dict(file.data["data"])
        values.setdefault("model_train_type", file.data["metadata"].get("train_type", ""))
    _refuse_unsupported(file.path, values)
    translation = translate(values, report, is_partial=bool(entries) or is_preset)
    if len(entries) > 1:
        translation.unsupported.append(
            f"The history has {count(len(entries), 'entry', 'entries')}; the last one, "
            f"{entries[-1].get('name') or entries[-1].get('time')}, was imported."
        )
    if is_preset:
        translation.unsupported.append("A preset has only some parameters; the others are those of a new page.")
    is_lora = _is_lora(values)
    import_translation(report, file.path, translation)
    if not is_lora:
        report.set("use_lora", False, f"model_train_type {values['model_train_type']}")


def _is_lora(values: Mapping[str, Any]) -> bool:
    return _TRAIN_TYPES.get(str(values.get("model_train_type", "")), True)


def _refuse_unsupported(path: Path, values: Mapping[str, Any]) -> None:
    kind = str(values.get("model_train_type") or "")
    if kind in ("", "lora-basic", "lora-master", *_TRAIN_TYPES):
        return
    raise UserError(
        f"{path} is a {NAME} configuration for {kind}, which is not supported. Choose one for "
        f"{', '.join(_TRAIN_TYPES)}."
    )


def translate(values: Mapping[str, Any], report: ImportReport, is_partial: bool = False) -> Translation:
    """The parameters that a run hands to sd-scripts. ``is_partial``: those that are missing are the page's defaults."""
    result = Translation(NAME)
    given = {key: value for key, value in values.items() if value is not None}
    if is_partial:
        given = {**_PAGE_DEFAULTS, **(_LORA_DEFAULTS if _is_lora(given) else _FULL_DEFAULTS), **given}
    _add_custom_parameters(result, given)
    kind = str(given.pop("model_train_type", ""))
    is_sdxl = kind.startswith("sdxl")
    given |= {"sdxl": True} if is_sdxl else {}
    if kind == "sd-dreambooth":  # train_db.py trains the text encoder too
        given.setdefault("train_text_encoder", True)
    for key in _ONLY_SD if is_sdxl else ("learning_rate_te1", "learning_rate_te2"):
        if given.pop(key, None) and is_sdxl and key == "clip_skip":
            result.ignored.append(key)
    if is_sdxl and (given.get("learning_rate_te1") or given.get("learning_rate_te2")):
        given["train_text_encoder"] = True
    restarts = to_whole(given.pop("lr_restart_cycles", 1), 1)
    if restarts > 1 and "lr_scheduler_num_cycles" not in given:
        result.unsupported.append(
            f"lr_restart_cycles = {restarts}: sd-scripts ignore this name and train one cycle, and so does the import. "
            f"Set Number of hard resets to {restarts} to train with restarts."
        )
    for key in _CONTRASTIVE:
        given.pop(key, None)
    if to_bool(given.pop("enable_contrastive", False)):
        result.unsupported.append("enable_contrastive: contrastive learning is not supported.")
    _add_network_arguments(given)
    _add_optimizer_arguments(given)
    _add_samples(result, given, report)
    _fix_numbers(result, given)
    for key in _PAGE_PARAMETERS:
        given.pop(key, None)
    result.values = {key: value for key, value in given.items() if value not in ("", [])}
    _add_flat_folder(result, report)
    return result


def _add_custom_parameters(result: Translation, given: dict[str, Any]) -> None:
    """A field of the page for TOML that overrides the other parameters."""
    text = str(given.pop("ui_custom_params", "") or "")
    if not text.strip():
        return
    from dreambooth.interop.kohya.toml_file import parse_toml

    try:
        given |= flatten(parse_toml(text, Path("ui_custom_params")))
    except UserError as error:
        result.unsupported += error.problems


def _add_network_arguments(given: dict[str, Any]) -> None:
    module = str(given.get("network_module", ""))
    arguments: list[str] = []
    if module == "lycoris.kohya" and "lycoris_algo" in given:
        arguments += [f"conv_dim={given.get('conv_dim', 4)}", f"conv_alpha={given.get('conv_alpha', 1)}"]
        arguments += [f"dropout={given.get('dropout', 0)}", f"algo={given['lycoris_algo']}"]
        arguments += [f"factor={given['lokr_factor']}"] if given.get("lokr_factor") else []
        arguments += ["train_norm=True"] if to_bool(given.get("train_norm")) else []
    elif module == "networks.dylora" and "dylora_unit" in given:
        arguments += [f"unit={given['dylora_unit']}"]
    if to_bool(given.get("enable_block_weights")):
        for key in ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"):
            arguments += [f"{key}={given[key]}"] if key in given else []
    for key in ("conv_dim", "conv_alpha", "train_norm", "down_lr_weight", "mid_lr_weight", "up_lr_weight",
                "block_lr_zero_threshold"):  # fmt: skip
        given.pop(key, None)
    if "enable_base_weight" in given and not to_bool(given["enable_base_weight"]):
        given.pop("base_weights", None)
        given.pop("base_weights_multiplier", None)
    given["network_args"] = [*arguments, given.get("network_args"), given.get("network_args_custom")]


def _add_optimizer_arguments(given: dict[str, Any]) -> None:
    """The page's own arguments of adaptive optimizers, if the file is from the page and not what it runs."""
    kind = str(given.get("optimizer_type", "")).lower()
    own: list[str] = []
    is_page = not given.get("optimizer_args") and not _PAGE_PARAMETERS.isdisjoint(
        given.keys() - {"model_train_type", "gpu_ids"}
    )
    if is_page and kind.startswith("dada"):
        own = ["decouple=True", "weight_decay=0.01"] if kind in ("dadaptation", "dadaptadam") else []
        given |= {"learning_rate": 1.0, "unet_lr": 1.0, "text_encoder_lr": 1.0}
    elif is_page and kind == "prodigy":
        own = ["decouple=True", "weight_decay=0.01", "use_bias_correction=True"]
        own += [f"d_coef={given.get('prodigy_d_coef', '2.0')}"]
        own += ["safeguard_warmup=True"] if to_whole(given.get("lr_warmup_steps")) else []
        own += [f"d0={given['prodigy_d0']}"] if given.get("prodigy_d0") else []
    given["optimizer_args"] = [*own, given.get("optimizer_args"), given.get("optimizer_args_custom")]


def _add_samples(result: Translation, given: dict[str, Any], report: ImportReport) -> None:
    """Prompts in a file, in one text, or in a field for each of their parts."""
    if "enable_preview" in given and not to_bool(given["enable_preview"]):
        for key in ("sample_prompts", "sample_sampler", "sample_every_n_epochs"):
            given.pop(key, None)
        return
    if str(given.get("prompt_file", "")).strip():
        given["sample_prompts"] = str(given["prompt_file"]).strip()
    elif str(given.get("positive_prompts", "")).strip():
        line = " ".join(str(given["positive_prompts"]).split())
        for option, key in (("n", "negative_prompts"), ("w", "sample_width"), ("h", "sample_height"),
                            ("l", "sample_cfg"), ("s", "sample_steps"), ("d", "sample_seed")):  # fmt: skip
            line += f" --{option} {' '.join(str(given[key]).split())}" if str(given.get(key, "")).strip() else ""
        given["sample_prompts"] = [line]
    else:
        prompts = str(given.get("sample_prompts", ""))
        is_text = "\n" in prompts or " --" in prompts or "," in prompts
        if is_text and not report.resolve_path(prompts.replace("\n", " ")).is_file():
            given["sample_prompts"] = prompts.splitlines()
    if to_bool(given.get("randomly_choice_prompt")):
        result.unsupported.append("randomly_choice_prompt: samples use a fixed prompt; set Sample image prompt.")


def _fix_numbers(result: Translation, given: dict[str, Any]) -> None:
    """Learning rates are texts on the page; 0 or nothing means "not set" in some fields."""
    for key in ("learning_rate", "unet_lr", "text_encoder_lr", "learning_rate_te", "learning_rate_te1",
                "learning_rate_te2"):  # fmt: skip
        if key in given and not isinstance(given[key], list):
            given[key] = to_float(given[key])
    for key in ("vae", "reg_data_dir", "network_weights", "noise_offset", "multires_noise_iterations",
                "multires_noise_discount", "caption_dropout_rate", "network_dropout", "scale_weight_norms",
                "stop_text_encoder_training"):  # fmt: skip
        if given.get(key) in (0, "", []):
            del given[key]


def _add_flat_folder(result: Translation, report: ImportReport) -> None:
    """A folder of images without subfolders for the repeats: the program chooses them by the number of images."""
    values = result.values
    folder = report.resolve_path(str(values["train_data_dir"])) if values.get("train_data_dir") else None
    if folder is None or values.get("dataset_config") or find_named_folders(folder, parse_as_sd_scripts):
        return
    images = list_direct_images(folder)
    if not images:
        return
    repeats = next((repeats for limit, repeats in ((10, 7), (50, 5), (100, 3)) if len(images) <= limit), 1)
    result.datasets = [{"subsets": [{"image_dir": str(folder), "num_repeats": repeats, "class_tokens": "zkz"}]}]
    result.unsupported.append(
        f"train_data_dir: {folder} has no folders with repeats in their names. As {NAME} does, {repeats} repeats are "
        f"used for its {count(len(images), 'image')}, and zkz as the caption of images without one."
    )
    regularization = report.resolve_path(str(values["reg_data_dir"])) if values.get("reg_data_dir") else None
    for named in find_named_folders(regularization, parse_as_sd_scripts) if regularization else []:
        subset = {"image_dir": str(named.path), "num_repeats": named.repeats, "class_tokens": named.class_tokens}
        result.datasets[0]["subsets"].append({**subset, "is_reg": True})
