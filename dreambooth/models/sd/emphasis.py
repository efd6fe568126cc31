"""Attention weights in prompts, ``(word:1.2)`` and ``[word]``, with the syntax of AUTOMATIC1111's WebUI."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_UP, _DOWN = 1.1, 1 / 1.1
_PIECES = re.compile(
    r"""
      \\(?P<literal>[()\[\]\\]?)          # an escaped bracket; a single backslash is dropped
    | (?P<open>[(\[])
    | :(?P<weight>[+-]?[.\d]+)\)          # the end of (words:1.2)
    | (?P<close>[)\]])
    | (?P<text>[^\\()\[\]:]+ | :)
    """,
    re.VERBOSE,
)


def unescape_brackets(prompt: str) -> str:
    r"""The prompt without backslashes before brackets: ``name_\(film\)`` becomes ``name_(film)``."""
    return re.sub(r"\\([()\[\]\\]?)", r"\1", prompt)


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into (text, weight) parts; neighbors of equal weight are merged.

    ``(word)`` has weight 1.1, ``(word:1.3)`` 1.3, ``[word]`` 1 / 1.1. Nested weights multiply, an unclosed bracket
    extends to the end, and ``\\(`` is a literal bracket. The weight applies to every token of the part.
    """
    parts: list[list] = []  # [text, weight]
    opened: dict[str, list[int]] = {"(": [], "[": []}  # index in parts at which each open bracket starts

    def multiply(bracket: str, factor: float) -> None:
        for part in parts[opened[bracket].pop() :]:
            part[1] *= factor

    for piece in _PIECES.finditer(prompt):
        kind = piece.lastgroup
        if kind == "open":
            opened[piece["open"]].append(len(parts))
        elif kind == "weight" and opened["("] and (factor := _number(piece["weight"])) is not None:
            multiply("(", factor)
        elif kind == "close" and opened["(" if piece["close"] == ")" else "["]:
            multiply(*(("(", _UP) if piece["close"] == ")" else ("[", _DOWN)))
        else:
            parts.append([piece["literal"] if kind == "literal" else piece[0], 1.0])
    for bracket, factor in (("(", _UP), ("[", _DOWN)):
        while opened[bracket]:
            multiply(bracket, factor)
    return _merged(parts)


def apply_emphasis(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply hidden states (B, 77, D) by token weights (B, 77), then restore the mean of each chunk.

    The WebUI restores the mean over the whole batch; here it is per chunk, so that the result does not depend on the
    other prompts of the batch.
    """
    weighted = states.float() * weights[..., None].to(states.device)
    mean = states.float().mean(dim=(1, 2), keepdim=True)
    return (weighted * (mean / weighted.mean(dim=(1, 2), keepdim=True))).to(states.dtype)


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
