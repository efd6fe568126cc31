"""Files of LoRA_Easy_Training_Scripts: TOML with [X_args.args] and [[subsets]], and the JSON of its first versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.easy_training_json import recognize_json, translate_json
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.translation import Translation, import_translation, to_bool, to_float, to_whole
from dreambooth.settings.arguments import split_arguments

NAME = "LoRA_Easy_Training_Scripts"
# Section of a model family that is not supported -> its name.
_OTHER_FAMILIES = {
    "flux_args": "FLUX.1", "sd3_args": "Stable Diffusion 3", "anima_args": "Anima", "lumina_args": "Lumina Image 2.0",
    "chroma_args": "Chroma", "hunyuan_image_args": "HunyuanImage",
}  # fmt: skip
# Parameters of the program itself.
_OWN_PARAMETERS = (
    "easy_name", "tag_occurrence", "tag_file_location", "save_toml", "save_toml_location", "fa",
)  # fmt: skip
# Its own schedules: class -> schedule of the settings.
_OWN_SCHEDULES = {"CosineAnnealingWarmRestarts": "cosine_with_restarts", "RexAnnealingWarmRestarts": "rex"}
# What sd-scripts use in place of parameters that are 0.
_IF_0 = {
    "unet_lr": "learning_rate", "text_encoder_lr": "learning_rate", "max_grad_norm": "1.0", "prior_loss_weight": "1.0",
    "network_alpha": "1",
}  # fmt: skip
_REX_SHAPE = 0.5  # its parameter d that gives the curve of the rex schedule here


def recognize(data: Any) -> bool:
    """Whether these are the sections of its pages, or the flat JSON of its first versions."""
    return isinstance(data, Mapping) and (any(_sections(data)) or recognize_json(data))


def import_file(report: ImportReport, file: DataFile) -> None:
    """Import the file. UserError names a kind of training or model family that is not supported."""
    if recognize_json(file.data):
        import_translation(report, file.path, translate_json(file.data, report, NAME))
        return
    _refuse_unsupported(file.path, file.data)
    import_translation(report, file.path, translate(file.data))


def _sections(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(section, training parameters, dataset parameters). What it sends to its backend groups them the other way."""
    groups = data.get("args"), data.get("dataset")
    if isinstance(groups[0], Mapping) and isinstance(groups[1], Mapping):
        for name in dict.fromkeys((*groups[0], *groups[1])):
            if name != "subsets":
                yield name, _table(groups[0].get(name)), _table(groups[1].get(name))
        return
    is_own = "warmup_ratio" in data or isinstance(data.get("train_mode"), str)
    if is_own and not {"network_dim", "network_args", "unet_lr"}.isdisjoint(data):  # without sections
        own = ("train_mode", "subsets", "datasets")
        yield "args", {key: value for key, value in data.items() if key not in own}, {}
    for name, section in data.items():
        if name.endswith("_args") and isinstance(section, Mapping):
            args, dataset_args = section.get("args"), section.get("dataset_args")
            if isinstance(args, Mapping) or isinstance(dataset_args, Mapping):
                yield name, _table(args), _table(dataset_args)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _refuse_unsupported(path: Path, data: Mapping[str, Any]) -> None:
    sections = {name: args for name, args, _ in _sections(data)}
    family = next((title for name, title in _OTHER_FAMILIES.items() if sections.get(name)), "")
    if not family and any("guidance_scale" in args for args in sections.values()):
        family = "FLUX.1"
    if family:
        raise UserError(
            f"{path} is a {NAME} configuration for {family}. Only Stable Diffusion 1.x, 2.x and XL are supported; "
            "choose a configuration for one of these."
        )
    mode = _table(data.get("train_mode")).get("train_mode", data.get("train_mode", "lora"))
    if mode != "lora":
        raise UserError(
            f"{path} is a {NAME} configuration for {str(mode).replace('_', ' ')}, which is not supported. Choose a "
            "configuration for LoRA."
        )


def translate(data: Mapping[str, Any]) -> Translation:
    """The parameters that its backend writes for sd-scripts: 0, empty and false ones are left out."""
    result = Translation(NAME)
    dataset: dict[str, Any] = {}
    for _, args, dataset_args in _sections(data):
        given = {key: value for key, value in args.items() if _is_set(value)}
        result.values |= {key: True if _is_word(value, "true") else value for key, value in given.items()}
        dataset |= {key: value for key, value in dataset_args.items() if value}
        result.unsupported += [
            f"{key} = 0: {_IF_0[key]} is used, as {NAME} does not hand 0 to sd-scripts."
            for key in args.keys() & _IF_0.keys()
            if args[key] == 0
        ]
    _replace_name(result.values)
    is_fa = to_bool(result.values.get("fa"))
    for key in _OWN_PARAMETERS:
        if result.values.pop(key, None):
            result.ignored.append(key)
    _add_network(result.values, is_fa)
    _add_schedule(result)
    if result.values.get("max_train_steps") and result.values.get("max_train_epochs"):
        del result.values["max_train_steps"]
    result.datasets = _datasets(data, dataset)
    if result.datasets is None:  # a preset without images
        result.values |= {key: value for key, value in dataset.items() if key != "batch_size"}
        result.values |= {"train_batch_size": dataset["batch_size"]} if "batch_size" in dataset else {}
    return result


def _is_set(value: Any) -> bool:
    return bool(value) and not _is_word(value, "false")


def _is_word(value: Any, word: str) -> bool:
    return isinstance(value, str) and value.lower() == word


def _datasets(data: Mapping[str, Any], general: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Its subsets, or datasets with several resolutions. None if no folder is given."""
    tables = data.get("datasets") or [{"subsets": data.get("subsets", _table(data.get("dataset")).get("subsets"))}]
    datasets = []
    for table in tables if isinstance(tables, list) else []:
        rows = _table(table).get("subsets") or []
        rows = rows if isinstance(rows, list) else [rows]
        subsets = [_subset(row) for row in rows if isinstance(row, Mapping) and row.get("image_dir")]
        datasets += [{**general, **table, "subsets": subsets}] if subsets else []
    return datasets or None


def _subset(row: Mapping[str, Any]) -> dict[str, Any]:
    """A subset without its name in the list of the page. A range of cropping is a text there."""
    subset = {key: value for key, value in row.items() if value and key != "name"}
    crop = subset.get("face_crop_aug_range")
    if isinstance(crop, str):
        subset["face_crop_aug_range"] = [to_float(side) for side in crop.split(",")]
    return subset


def _replace_name(values: dict[str, Any]) -> None:
    """Names and paths may contain a placeholder for the name of the configuration."""
    name = str(values.get("easy_name", ""))
    for key in ("output_name", "output_dir", "resume", "log_prefix"):
        if isinstance(values.get(key), str):
            values[key] = values[key].replace("${replace}", name)


def _add_network(values: dict[str, Any], is_fa: bool) -> None:
    arguments, _ = split_arguments(values.get("network_args"))
    module = "networks.lora"
    if "algo" in arguments:
        module = "lycoris.kohya"
    elif "unit" in arguments:
        module = "networks.dylora"
    elif is_fa:
        module = "networks.lora_fa"
    values.setdefault("network_module", module)
    if isinstance(values.get("dim_from_weights"), str):  # the page has a file there
        values.setdefault("network_weights", values["dim_from_weights"])
        values["dim_from_weights"] = True


def _add_schedule(result: Translation) -> None:
    """The warm-up is a fraction of the run. Two schedules are the program's own."""
    values = result.values
    ratio, steps = to_float(values.pop("warmup_ratio", 0)), to_whole(values.get("max_train_steps"))
    if ratio:
        values["lr_warmup_steps"] = round(ratio * steps) if steps else min(ratio, 0.999)
    own = re.sub(r"^.*\.", "", str(values.get("lr_scheduler_type", "")))
    if own in _OWN_SCHEDULES and "LoraEasyCustomOptimizer" in str(values["lr_scheduler_type"]):
        _replace_own_schedule(result, own, ratio)


def _replace_own_schedule(result: Translation, own: str, warmup: float) -> None:
    values = result.values
    arguments, _ = split_arguments(values.pop("lr_scheduler_args", None))
    cycles = max(1, to_whole(values.pop("lr_scheduler_num_cycles", 1), 1))
    minimum = to_float(arguments.get("min_lr", 1e-6))
    del values["lr_scheduler_type"]
    values["lr_scheduler"] = _OWN_SCHEDULES[own]
    if own == "CosineAnnealingWarmRestarts" and not warmup:
        kind = "cosine_annealing_with_restarts" if cycles > 1 else "cosine_annealing"
        result.settings |= {
            "lr_scheduler": (kind, "lr_scheduler_type"),
            "lr_scale_pos": (1 / cycles, "lr_scheduler_num_cycles"),
            "learning_rate_min": (minimum, "min_lr"),
        }
    else:
        values["lr_scheduler_num_cycles"] = cycles
        result.unsupported.append(f"lr_scheduler_args min_lr={minimum:g}: the learning rate decays to 0 here.")
        if cycles > 1 and (warmup or own == "RexAnnealingWarmRestarts"):
            effect = "the warm-up is only at the start" if own != "RexAnnealingWarmRestarts" else "rex has no restarts"
            result.unsupported.append(f"lr_scheduler_num_cycles = {cycles} with {own}: {effect} here.")
    shape = to_float(arguments.get("d", 0.9))
    if own == "RexAnnealingWarmRestarts" and shape != _REX_SHAPE:
        result.unsupported.append(
            f"lr_scheduler_args d={shape:g}: the rex schedule here has d={_REX_SHAPE:g}, which decays "
            f"{'earlier' if shape > _REX_SHAPE else 'later'}."
        )
    if cycles > 1 and own == "CosineAnnealingWarmRestarts" and to_float(arguments.get("gamma", 1), 1) != 1:
        result.unsupported.append(
            f"lr_scheduler_args gamma={arguments['gamma']}: each cycle starts at the full learning rate here."
        )
