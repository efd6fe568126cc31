"""Folder names that look like repeats in kohya's way (10_zwx toy), where the number has no effect."""

from __future__ import annotations

import re

_AS_KOHYA = re.compile(r"(?P<repeats>\d{1,3})_(?P<name>.*)", re.DOTALL)
_SIMILAR = (
    re.compile(r"(?P<repeats>\d{1,3})(?:\s*[-–.＿]\s*|\s+_?\s*)(?P<name>[^\W\d].*)", re.DOTALL),  # 10-zwx, 10 zwx
    re.compile(r"(?P<repeats>\d{1,3})\s?[xX×][-_ ]\s*(?P<name>.+)", re.DOTALL),  # 10x_zwx
    re.compile(r"[xX×]\s?(?P<repeats>\d{1,3})[-_ ]\s*(?P<name>.+)", re.DOTALL),  # x10_zwx
)


def repeats_hint(folder_name: str) -> str:
    """What to do if the number in the name is meant as repeats; "" for other names."""
    exact = _AS_KOHYA.fullmatch(folder_name)
    if exact and int(exact["repeats"]) > 1:
        n = int(exact["repeats"])
        return f"has {n} repeats in its name, which only an import of the folder reads. Set Repeats to {n} to use them."
    for pattern in _SIMILAR:
        match = pattern.fullmatch(folder_name.strip())
        if match and int(match["repeats"]) > 1:
            n, name = int(match["repeats"]), match["name"].strip()
            return f"sets no repeats: if {n} repeats are meant, rename the folder to {n}_{name}, or set Repeats to {n}."
    return ""
