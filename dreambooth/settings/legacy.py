"""Upgrade of older db_config.json files: renamed keys and choices, removed features, values that are invalid today."""

from __future__ import annotations

from typing import Any

from dreambooth.settings.old_extension import is_old_file, upgrade_old_file

# Renamed choices. A choice without a counterpart is left unchanged and reported as invalid later.
_CHOICES = {
    "optimizer": {"8Bit Adam": "8bit AdamW", "AdamW": "Torch AdamW"},
    "mixed_precision": {"": "no", "none": "no"},
    "lr_scheduler": {"dadapt_with_warmup": "constant_with_warmup"},
    "scheduler": {"ddim": "DDIM", "pndm": "PNDM"},
}
# Keys of removed features. Saving keeps the keys, so that the old extension can still read them.
REMOVED = {
    "tomesd": "token merging",
    "freeze_spectral_norm": "freezing spectral norms",
    "dynamic_img_norm": "dynamic image normalization",
}
_OFF = ("", "0", "0.0", "false", "no", "off", "none", "null")
_RANK_KEYS = {"lora_rank": ("lora_unet_rank", "lora_txt_rank")}


def upgrade(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of an older db_config.json under today's names, and a notice for each change."""
    notices = upgrade_old_file(values) if is_old_file(values) else []
    for old, new in _RANK_KEYS.items():
        if old in values:
            rank = values.pop(old)
            for key in new:
                values.setdefault(key, rank)
            notices.append(f"{old} is now {' and '.join(new)}")
    for key, renamed in _CHOICES.items():
        if isinstance(values.get(key), str) and values[key] in renamed:
            notices.append(f"{key} {values[key]!r} is now {renamed[values[key]]!r}")
            values[key] = renamed[values[key]]
    if values.get("full_mixed_precision") is True and values.get("mixed_precision") == "fp16":
        values["full_mixed_precision"] = False
        notices.append(
            "full_mixed_precision was turned off: it needs mixed_precision bf16, since fp16 weights lose small updates"
        )
    if values.get("num_train_epochs") == 0:
        values["num_train_epochs"] = 1
        notices.append("num_train_epochs 0 would train nothing and was changed to 1")
    removed = [key for key in REMOVED if str(values.get(key, "")).strip().lower() not in _OFF]
    if removed:
        named = ", ".join(f"{key} ({REMOVED[key]})" for key in removed)
        notices.append(
            f"these features were removed and no longer have an effect: {named}. Delete their keys from db_config.json "
            "to hide this notice."
        )
    return values, notices
