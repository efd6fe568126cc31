"""train_data_dir and reg_data_dir of a training with sd-scripts: their subfolders with repeats in their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from dreambooth.errors import UserError
from dreambooth.images.listing import find_images
from dreambooth.interop.kohya import folders
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.toml_file import Table
from dreambooth.text import count, escape_unprintable

_KEYS = {"train_data_dir": False, "reg_data_dir": True}  # parameter -> whether its images are regularization images


def subsets_of_folders(report: ImportReport, table: Table, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A subset for each folder in train_data_dir and reg_data_dir with repeats in its name. The others are reported."""
    if "in_json" in values:
        return [{"image_dir": str(values.get("train_data_dir", "")), "metadata_file": str(values["in_json"])}]
    subsets: list[dict[str, Any]] = []
    for key, regularization in _KEYS.items():
        if key not in values:
            continue
        name = f"{table.location(key)}{key}"
        root = report.resolve_path(str(values[key]))
        problem = describe_missing(root)
        if problem:
            report.unsupported.append(f"{name}: {problem}")
            continue
        named_folders = folders.find_named_folders(root, folders.parse_as_sd_scripts)
        report.unsupported += [f"{name}: {text}" for text in _describe_unused(root, named_folders)]
        subsets += [
            {
                "image_dir": str(named.path),
                "num_repeats": named.repeats,
                "class_tokens": named.class_tokens,
                "is_reg": regularization,
            }
            for named in named_folders
        ]
    return subsets


def describe_missing(folder: Path) -> str:
    """Why a path is not a folder, and what to do; "" for a folder."""
    if os.path.isdir(folder):  # Path.is_dir raises for some invalid names
        return ""
    shown = escape_unprintable(folder)
    if os.path.isfile(folder):
        return f"{shown} is a file. Name the folder that contains the images."
    if isinstance(folder, Path) and not folder.is_absolute() and PureWindowsPath(str(folder)).is_absolute():
        return f"{shown} is a folder of a Windows computer. Replace it with the path on this machine."
    return f"the folder {shown} does not exist on this machine. Correct the path."


def _describe_unused(root: Path, named_folders: Sequence[folders.NamedFolder]) -> list[str]:
    """Messages on images that sd-scripts would not find, with the folder to name instead."""
    used = {named.path for named in named_folders}
    try:
        unused = [path for path in find_images(root) if path.parent not in used]
    except UserError as error:
        return list(error.problems)
    if not unused and not used:
        return [f"{escape_unprintable(root)} contains no images and no folders with repeats in their names."]
    direct = [path for path in unused if path.parent == root]
    own = folders.parse_as_sd_scripts(root)
    shown = escape_unprintable(root)
    if direct and own and not used:
        return [
            f"{shown} contains the images itself; sd-scripts search the subfolders and would find none. Name its "
            f"parent folder, {escape_unprintable(root.parent)}."
        ]
    below = {path.parent.parent for path in unused if folders.parse_as_sd_scripts(path.parent)} - {root}
    if below and not used:
        return [
            f"{shown} contains no folders with repeats in their names, but {escape_unprintable(min(below))} does. Name "
            "that folder."
        ]
    if not unused:
        return []
    place = shown if len(direct) == len(unused) else f"{shown} and its subfolders"
    return [
        f"{count(len(unused), 'image')} in {place} skipped, as sd-scripts only train folders with repeats in their "
        "names. Move them into a folder such as 10_sls 1girl."
    ]
