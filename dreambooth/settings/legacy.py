"""Reading older db_config.json files: renamed keys and choices, removed features, values that are refused today."""

from __future__ import annotations

from typing import Any

# Choices that have another name here. What has no counterpart stays as it is and is refused by name.
_CHOICES = {
    "optimizer": {"8Bit Adam": "8bit AdamW", "AdamW": "Torch AdamW"},
    "mixed_precision": {"": "no", "none": "no"},
    "lr_scheduler": {"dadapt_with_warmup": "constant_with_warmup"},
    "scheduler": {"ddim": "DDIM", "pndm": "PNDM"},
}
# Features that no longer exist, by their keys. Saving keeps the keys, so that the old extension finds them again.
REMOVED = {
    "tomesd": "token merging",
    "freeze_spectral_norm": "freezing spectral norms",
    "dynamic_img_norm": "dynamic image normalization",
}
_OFF = ("", "0", "0.0", "false", "no", "off", "none", "null")
_RANK_KEYS = {"lora_rank": ("lora_unet_rank", "lora_txt_rank")}


def upgrade(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Bring an older db_config.json's values to today's names; the notes say what was changed and why."""
    notes = []
    for old, new in _RANK_KEYS.items():
        if old in values:
            rank = values.pop(old)
            for key in new:
                values.setdefault(key, rank)
            notes.append(f"{old} is now {' and '.join(new)}")
    for key, renamed in _CHOICES.items():
        if values.get(key) in renamed:
            notes.append(f"{key} {values[key]!r} is read as {renamed[values[key]]!r}")
            values[key] = renamed[values[key]]
    if values.get("full_mixed_precision") is True and values.get("mixed_precision") == "fp16":
        values["full_mixed_precision"] = False
        notes.append("full_mixed_precision needs bf16 here and is switched off: with fp16 it loses what is learnt")
    if values.get("num_train_epochs") == 0:
        values["num_train_epochs"] = 1
        notes.append("num_train_epochs 0 would train nothing and is read as 1")
    removed = [key for key in REMOVED if str(values.get(key, "")).strip().lower() not in _OFF]
    if removed:
        named = ", ".join(f"{key} ({REMOVED[key]})" for key in removed)
        notes.append(
            f"these features were removed and no longer have an effect: {named}. Delete their keys from db_config.json "
            "to hide this notice."
        )
    return values, notes
