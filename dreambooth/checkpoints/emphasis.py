"""Brackets in prompts as AUTOMATIC1111's WebUI reads them: which words count how much."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MORE, _LESS = 1.1, 1 / 1.1
_PIECES = re.compile(
    r"""
      \\(?P<literal>[()\[\]\\]?)          # an escaped bracket; a lone backslash is nothing
    | (?P<open>[(\[])
    | :(?P<weight>[+-]?[.\d]+)\)          # the end of (words:1.2)
    | (?P<close>[)\]])
    | (?P<text>[^\\()\[\]:]+ | :)
    """,
    re.VERBOSE,
)


def unescape_brackets(prompt: str) -> str:
    r"""The prompt as it is read: ``name_\(film\)`` says name_(film)."""
    return re.sub(r"\\([()\[\]\\]?)", r"\1", prompt)


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """The parts of a prompt and how much each counts, neighbours of equal weight put together.

    ``(word)`` counts 1.1 times as much, ``(word:1.3)`` 1.3 times, ``[word]`` 1 / 1.1 times; brackets in brackets
    multiply, one that is never closed reaches to the end, and ``\\(`` is a bracket. A part's weight is for all tokens
    of it.
    """
    parts: list[list] = []  # [text, weight]
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where in parts each begins

    def multiply(bracket: str, factor: float) -> None:
        for part in parts[opened[bracket].pop() :]:
            part[1] *= factor

    for found in _PIECES.finditer(prompt):
        kind = found.lastgroup
        if kind == "open":
            opened[found["open"]].append(len(parts))
        elif kind == "weight" and opened["("] and (factor := _number(found["weight"])) is not None:
            multiply("(", factor)
        elif kind == "close" and opened["(" if found["close"] == ")" else "["]:
            multiply(*(("(", _MORE) if found["close"] == ")" else ("[", _LESS)))
        else:
            parts.append([found["literal"] if kind == "literal" else found[0], 1.0])
    for bracket, factor in (("(", _MORE), ("[", _LESS)):
        while opened[bracket]:
            multiply(bracket, factor)
    return _merged(parts)


def apply_emphasis(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """States (B, 77, D) of chunks times their tokens' weights (B, 77), each chunk brought back to the mean it had.

    The WebUI takes that mean over all prompts of a batch; here it is each prompt's own, so that what is beside it
    doesn't matter.
    """
    weighed = states.float() * weights[..., None].to(states.device)
    mean = states.float().mean(dim=(1, 2), keepdim=True)
    return (weighed * (mean / weighed.mean(dim=(1, 2), keepdim=True))).to(states.dtype)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # (a:1.2.3)
        return None


def _merged(parts: list[list]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1] = merged[-1][0] + text, weight
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]
