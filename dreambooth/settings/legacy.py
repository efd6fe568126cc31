"""Reading what the old extension wrote: renamed keys, renamed choices, values that it allowed and we refuse."""

from __future__ import annotations

from typing import Any

# Choices that have another name here. What has no counterpart stays as it is and is refused by name.
_CHOICES = {
    "optimizer": {"8Bit Adam": "8bit AdamW", "AdamW": "Torch AdamW"},
    "mixed_precision": {"": "no", "none": "no"},
    "lr_scheduler": {"dadapt_with_warmup": "constant_with_warmup"},
    "scheduler": {"ddim": "DDIM", "pndm": "PNDM"},
}
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
    return values, notes
