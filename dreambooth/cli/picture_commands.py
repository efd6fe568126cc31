"""The words of the command line that work on pictures and captions: their arguments, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dreambooth.cli.plan_word import add_plan


def add_words(words: Any, word: Callable[..., Any]) -> None:
    """``word(words, name, run, help)`` makes the parser of one; see arguments.py."""
    add_plan(words, word)
