"""Results of commands as text for a terminal: labels for JSON keys, values with units."""

from __future__ import annotations

from typing import Any

from dreambooth.text import format_bytes, format_duration

_LABELS = {
    "cache_bytes": "cache on disk",
    "class_images_to_draw": "class images to generate",
    "drawn": "generated",
    "memory_bytes": "memory",
    "memory_gb": "memory",
    "seconds": "time",
    "seconds_per_step": "time per step",
    "showings_per_epoch": "samples per epoch",
    "taken": "imported",
    "told": "messages",
    "without": "not supported",
}


def label(key: str) -> str:
    """The name of a JSON key for people."""
    return _LABELS.get(key) or key.replace("pictures", "images").replace("_", " ")


def with_unit(key: str, value: Any) -> str:
    """The value of a JSON key with its unit."""
    if value is None:
        return "unknown"
    if key.endswith("_bytes"):
        return format_bytes(value)
    if key == "memory_gb":
        return f"{value} GB"
    if key == "seconds":
        return format_duration(value)
    return f"{value:.3g} s" if key == "seconds_per_step" else str(value)
