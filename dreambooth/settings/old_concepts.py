"""Concepts of the old extension: its keys that have another name or meaning here."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from typing import Any

from dreambooth.text import count

# Keys that only the old extension wrote, and keys that only we write.
_OLD_KEYS = {"is_valid", "save_sample_template", "file_prompt_contents", "num_class_images"}
_OWN_KEYS = {"subfolders", "caption_extension", "regularization", "num_repeats"}
# Spellings of the scripts that the first versions were made from.
_RENAMED = {"sample_prompt": "save_sample_prompt", "negative_prompt": "save_sample_negative_prompt"}
_WITHOUT_EFFECT = {
    "is_valid": "it is determined from the dataset directory",
    "save_sample_template": "previews use the sample image prompt (save_sample_prompt)",
}
_OFF = ("", None, False, 0)


def upgrade_concept(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str], int]:
    """(the values under today's names, notices, number of class images in total or 0)."""
    upgraded = {key: value for key, value in values.items() if value is not None}
    notices = [
        f"{where}{key} has no effect: {reason}."
        for key, reason in _WITHOUT_EFFECT.items()
        if upgraded.pop(key, None) not in _OFF
    ]
    for old, new in _RENAMED.items():
        if old in upgraded:
            upgraded.setdefault(new, upgraded.pop(old))
    contents = str(upgraded.pop("file_prompt_contents", "")).lower()
    if "instance" in contents and "class" not in contents:
        notices.append(
            f"{where}file_prompt_contents has no effect: the class token is not added to captions that already contain "
            "the instance token. Add it to the captions, or to instance_prompt."
        )
    total = _whole_number(upgraded.pop("num_class_images", 0))
    per_image = _whole_number(upgraded.get("num_class_images_per", 0))
    total = 0 if per_image else total
    states_number = _is_old(values) and ("num_class_images" in values or "num_class_images_per" in values)
    folder = str(upgraded.get("class_data_dir") or "").strip()
    if states_number and folder and not total and not per_image:
        upgraded["class_data_dir"] = ""
        notices.append(
            f"{where}class_data_dir ({folder}) is not used, since the number of class images is 0, as in the old "
            "extension. To use its images, choose it as the classification dataset directory again."
        )
    return upgraded, notices, total


def images_per_instance(total: int, folder: str, where: str) -> tuple[int, str]:
    """(class images per instance image, notice) for a total number of class images, which the old extension counted."""
    n_images = _count_images(os.path.expanduser(folder.strip()))
    if not n_images:
        return 0, (
            f"{where}num_class_images: {total} class images in total were not taken over, because {folder or 'the '}"
            f"{'' if folder else 'dataset directory'} has no images to divide them by. Set num_class_images_per, the "
            "number per instance image."
        )
    per_image = max(1, -(-total // n_images))
    return per_image, (
        f"{where}num_class_images: {count(total, 'class image')} in total for {count(n_images, 'image')} became "
        f"num_class_images_per {per_image}, the number per instance image."
    )


def _is_old(values: Mapping[str, Any]) -> bool:
    return bool(_OLD_KEYS & values.keys()) and not _OWN_KEYS & values.keys()


def _whole_number(value: Any) -> int:
    """0 for anything else; what is invalid under its own name is reported by parsing."""
    try:
        return max(0, int(float(value)))
    except (TypeError, ValueError, OverflowError):
        return 0


def _count_images(folder: str) -> int:
    names = (name for _, _, files in os.walk(folder) for name in files) if folder else ()
    return sum((mimetypes.guess_type(name, strict=False)[0] or "").startswith("image/") for name in names)
