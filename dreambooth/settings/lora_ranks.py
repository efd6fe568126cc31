"""Ranks of adapters by pattern: ``*.attn1.* = 8, layers.0-7.* = 4, *.ff.* = 0``.

Entries are separated by commas or line breaks. A pattern is compared with the whole path of a module, with or without
its component (``unet.down_blocks.0...``). ``*`` is any text, ``?`` any character, and a range such as ``0-7`` between
dots any of its numbers. As with sd-scripts' network_reg_dims the first pattern that matches counts. Rank 0: no adapter.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dreambooth.errors import UserError

KEY = "lora_ranks"
HIGHEST = 1024  # rank, and number in a range
_ENTRY = re.compile(r"(?P<pattern>[\w.*?-]+)\s*=\s*(?P<rank>\d+)")
_RANGE = re.compile(r"(?<![^.])(\d+)-(\d+)(?![^.])")


@dataclass(frozen=True)
class RankPattern:
    pattern: str
    rank: int

    def matches(self, component: str, path: str) -> bool:
        return any(self._expression.fullmatch(name) for name in (path, f"{component}.{path}"))

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        texts = _RANGE.split(self.pattern)
        parts = [_glob(texts[0])]
        for low, high, text in zip(texts[1::3], texts[2::3], texts[3::3], strict=True):
            parts += [f"(?:{'|'.join(map(str, range(int(low), int(high) + 1)))})", _glob(text)]
        return re.compile("".join(parts))


def parse_ranks(text: str) -> tuple[RankPattern, ...]:
    """The patterns in order. UserError with one line for each entry that is malformed."""
    entries = [entry for entry in (part.strip() for part in re.split(r"[,\n]", text)) if entry]
    found = {entry: _ENTRY.fullmatch(entry) for entry in entries}
    problems = [f"{KEY}: {entry!r}: {problem}." for entry in found if (problem := _problem(found[entry]))]
    if problems:
        raise UserError.from_problems(problems)
    return tuple(RankPattern(match["pattern"], int(match["rank"])) for match in found.values() if match)


def pattern_of(patterns: Sequence[RankPattern], component: str, path: str) -> RankPattern | None:
    """The pattern that gives a module its rank; None: the other settings do."""
    return next((pattern for pattern in patterns if pattern.matches(component, path)), None)


def highest_rank(text: str) -> int:
    """Of all patterns; 0 without one, or if the text is malformed."""
    with contextlib.suppress(UserError):
        return max((pattern.rank for pattern in parse_ranks(text)), default=0)
    return 0


def _problem(match: re.Match[str] | None) -> str:
    if match is None:
        return "write a pattern and its rank, such as *.attn1.* = 8"
    if int(match["rank"]) > HIGHEST:
        return f"ranks are 0 to {HIGHEST:,}"
    ranges = [(int(low), int(high)) for low, high in _RANGE.findall(match["pattern"])]
    if any(not low <= high <= HIGHEST for low, high in ranges):
        return f"write ranges from the lower to the higher number, at most {HIGHEST:,}"
    return ""


def _glob(text: str) -> str:
    return re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
