"""Prompts to tokens: what is read of them, in chunks of 75."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.checkpoints.emphasis import parse_emphasis, unescape_brackets

if TYPE_CHECKING:
    import torch

    from dreambooth.settings import Settings

CHUNK_LENGTH = 75  # what CLIP reads at a time, beside start and end
_HALF = "\ufffd"  # what is decoded of a character that was cut through
_SEPARATORS = re.compile(r"[,;.!?](?:\s+|$)")


@dataclass(frozen=True)
class PromptEncoding:
    """How prompts are read, in training and in drawing."""

    clip_skip: int = 1  # counts as the WebUI does: 1 is the last layer
    max_tokens: int = CHUNK_LENGTH  # a multiple of 75; what is beyond is lost
    weighted: bool = False  # brackets weigh words
    strict: bool = False  # each part between , ; . ! ? has start and end of its own

    @classmethod
    def of(cls, settings: Settings, training: bool = False) -> PromptEncoding:
        """``training``: captions, which alone are read strictly if that is asked; no WebUI reads a prompt so."""
        return cls(
            settings.clip_skip, settings.max_token_length, settings.weighted_captions,
            training and settings.strict_tokens,
        )  # fmt: skip


class Tokens(NamedTuple):
    """Prompts as the text encoders take them: B prompts, E encoders, C chunks of 77 with start, end and filling."""

    ids: torch.Tensor  # (B, E, C, 77) int64
    weights: torch.Tensor | None  # (B, C, 77) float32; None: all count alike
    lengths: tuple[int, ...]  # of C * 77 how many it takes to hold the last chunk's end, for each prompt

    def part(self, start: int, stop: int) -> Tokens:
        """The prompts from ``start`` to before ``stop``."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Tokens(self.ids[start:stop], weights, self.lengths[start:stop])


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str], prompt_encoding: PromptEncoding) -> Tokens:
    """All prompts in as many chunks as the longest of them needs; what is too long for ``prompt_encoding`` is cut off."""
    return collate_tokens([tokenize_prompt(tokenizers, prompt, prompt_encoding) for prompt in prompts], tokenizers)


def tokenize_prompt(tokenizers: Sequence[Any], prompt: str, prompt_encoding: PromptEncoding) -> Tokens:
    """One prompt, in as many chunks as it needs."""
    import torch  # here, for counting alone needs none

    read = [_read(tokenizer, prompt, prompt_encoding)[: prompt_encoding.max_tokens] for tokenizer in tokenizers]
    n_chunks = _chunks(len(read[0]))
    ids = [_fill(tokenizer, [id for id, _ in own], n_chunks) for tokenizer, own in zip(tokenizers, read, strict=True)]
    weights = [weight for _, weight in read[0]]
    weighed = torch.tensor([_fill_weights(weights, n_chunks)]) if any(weight != 1 for weight in weights) else None
    return Tokens(torch.tensor([ids]), weighed, (len(read[0]) + 2 * n_chunks,))


def collate_tokens(prompts: Sequence[Tokens], tokenizers: Sequence[Any]) -> Tokens:
    """Prompts in one batch; those of fewer chunks than others are filled up with empty ones."""
    import torch

    n_chunks = max(prompt.ids.shape[2] for prompt in prompts)
    empty = torch.tensor([[_fill(tokenizer, [], n_chunks) for tokenizer in tokenizers]])
    ids = [torch.cat([prompt.ids, empty[:, :, prompt.ids.shape[2] :]], dim=2) for prompt in prompts]
    weights = None
    if any(prompt.weights is not None for prompt in prompts):
        weights = torch.ones(len(prompts), n_chunks, CHUNK_LENGTH + 2)
        for row, prompt in zip(weights, prompts, strict=True):
            if prompt.weights is not None:
                row[: prompt.weights.shape[1]] = prompt.weights[0]
    return Tokens(torch.cat(ids), weights, tuple(length for prompt in prompts for length in prompt.lengths))


def count_tokens(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> int:
    """How many tokens a prompt has, before anything is cut off; starts and ends of chunks are not counted."""
    return len(_read(tokenizer, prompt, prompt_encoding))


def count_with_overflow(tokenizer: Any, prompts: Sequence[str], prompt_encoding: PromptEncoding) -> list[tuple[int, str]]:
    """Of each prompt what :func:`count_tokens` says, and the words that are cut off: its own end where that can be found
    again, else as they were read.
    """
    if prompt_encoding.weighted or prompt_encoding.strict:
        tokens = [[id for id, _ in _read(tokenizer, prompt, prompt_encoding)] for prompt in prompts]
    else:  # many at once are much faster
        texts = [unescape_brackets(prompt) for prompt in prompts]
        tokens = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids if texts else []
    return [
        (len(ids), _end(tokenizer, prompt, ids[prompt_encoding.max_tokens :]))
        for prompt, ids in zip(prompts, tokens, strict=True)
    ]


def count_chunks(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> int:
    """In how many chunks a prompt is read."""
    return 1 if prompt_encoding.max_tokens == CHUNK_LENGTH else _chunks(min(count_tokens(tokenizer, prompt, prompt_encoding), prompt_encoding.max_tokens))


def _end(tokenizer: Any, prompt: str, ids: Sequence[int]) -> str:
    """The end of ``prompt`` that ``ids`` are of; decoded, letters are small and spaces are others."""
    if not ids:
        return ""
    words = tokenizer.decode(ids, skip_special_tokens=True)
    whole = words.lstrip(_HALF)
    wanted = "".join(whole.split()).casefold()
    place, missing = len(prompt), len(wanted)
    while place and missing > 0:
        place -= 1
        missing -= 0 if prompt[place].isspace() else len(prompt[place].casefold())
    if "".join(prompt[place:].split()).casefold() != wanted:
        return words
    if whole != words:
        place = max(0, len(prompt[:place].rstrip()) - 1)
    return prompt[place:]


_Content = list[tuple[int, float]]  # token ids with their weights


def _read(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> _Content:
    parts = parse_emphasis(prompt) if prompt_encoding.weighted else [(unescape_brackets(prompt), 1.0)]
    if prompt_encoding.strict:
        return _strictly(tokenizer, parts)
    return [(id, weight) for text, weight in parts for id in _ids(tokenizer, text)]


def _strictly(tokenizer: Any, parts: Sequence[tuple[str, float]]) -> _Content:
    """Every separator closes with an end and opens with a start; the chunk's own are at the outer ends."""
    content: _Content = []
    between = [
        (tokenizer.eos_token_id, 1.0),
        *((id, 1.0) for id in _ids(tokenizer, ",")),
        (tokenizer.bos_token_id, 1.0),
    ]
    for text, weight in parts:
        pieces = _SEPARATORS.split(text)
        for number, piece in enumerate(pieces):
            if number and content and (number < len(pieces) - 1 or piece.strip()):
                content += between
            content += [(id, weight) for id in _ids(tokenizer, piece)]
    return content


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def _chunks(n_tokens: int) -> int:
    return max(1, -(-n_tokens // CHUNK_LENGTH))


def _fill(tokenizer: Any, ids: Sequence[int], n_chunks: int) -> list[list[int]]:
    chunks = []
    for chunk in range(n_chunks):
        own = list(ids[chunk * CHUNK_LENGTH : (chunk + 1) * CHUNK_LENGTH])
        filling = [tokenizer.pad_token_id] * (CHUNK_LENGTH - len(own))
        chunks.append([tokenizer.bos_token_id, *own, tokenizer.eos_token_id, *filling])
    return chunks


def _fill_weights(weights: Sequence[float], n_chunks: int) -> list[list[float]]:
    filled = [*weights, *[1.0] * (n_chunks * CHUNK_LENGTH)]
    return [[1.0, *filled[chunk * CHUNK_LENGTH : (chunk + 1) * CHUNK_LENGTH], 1.0] for chunk in range(n_chunks)]
