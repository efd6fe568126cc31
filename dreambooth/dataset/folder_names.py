"""Folder names that look like repeats in kohya's way (10_zwx toy), where the number has no effect."""

from __future__ import annotations

import re
from typing import NamedTuple

_AS_KOHYA = re.compile(r"(?P<repeats>\d{1,3})_(?P<name>.*)", re.DOTALL)
_SIMILAR = (
    re.compile(r"(?P<repeats>\d{1,3})(?:\s*[-–.＿]\s*|\s+_?\s*)(?P<name>[^\W\d].*)", re.DOTALL),  # 10-zwx, 10 zwx
    re.compile(r"(?P<repeats>\d{1,3})\s?[xX×][-_ ]\s*(?P<name>.+)", re.DOTALL),  # 10x_zwx
    re.compile(r"[xX×]\s?(?P<repeats>\d{1,3})[-_ ]\s*(?P<name>.+)", re.DOTALL),  # x10_zwx
)


class RepeatsHint(NamedTuple):
    """What to do if the number in the name is meant as repeats."""

    text: str
    short: str


def repeats_hint(folder_name: str) -> RepeatsHint | None:
    """None for names without such a number."""
    exact = _AS_KOHYA.fullmatch(folder_name)
    if exact and int(exact["repeats"]) > 1:
        n = int(exact["repeats"])
        text = f"has {n} repeats in its name, which only an import of the folder reads. Set Repeats to {n} to use them."
        return RepeatsHint(text, f"set Repeats to {n} to use it")
    for pattern in _SIMILAR:
        match = pattern.fullmatch(folder_name.strip())
        if match and int(match["repeats"]) > 1:
            n, name = int(match["repeats"]), f"{int(match['repeats'])}_{match['name'].strip()}"
            text = f"sets no repeats: if {n} repeats are meant, rename the folder to {name}, or set Repeats to {n}."
            return RepeatsHint(text, f"rename it to {name} to use it")
    return None
