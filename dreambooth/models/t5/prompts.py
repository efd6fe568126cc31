"""Prompts as tokens of T5, up to a length at which they are cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreambooth.models.t5.tokenizer import END_ID

MAX_LENGTH = 512  # with the end token, as in diffusers' pipelines of FLUX.1 and Chroma


def t5_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of each prompt, with the end token."""
    encodings = tokenizer.encode_batch(list(prompts))
    return [[*own.ids[: MAX_LENGTH - 1], END_ID] if len(own.ids) > MAX_LENGTH else own.ids for own in encodings]


def count_with_overflow(tokenizer: Any, prompts: Sequence[str]) -> list[tuple[int, str]]:
    """For each prompt the number of tokens without the end token, and the text that is cut off ("" if none)."""
    encodings = tokenizer.encode_batch(list(prompts))
    return [
        (len(own.ids) - 1, prompt[own.offsets[MAX_LENGTH - 1][0] :] if len(own.ids) > MAX_LENGTH else "")
        for prompt, own in zip(prompts, encodings, strict=True)
    ]
