"""Prompts to token ids in chunks of 75, with attention weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.models.sd.emphasis import parse_emphasis, unescape_brackets

if TYPE_CHECKING:
    import torch

    from dreambooth.settings import Settings

CONTEXT_LENGTH = 77  # tokens that CLIP takes at once
CHUNK_LENGTH = CONTEXT_LENGTH - 2  # without the start and end tokens
_REPLACEMENT = "\ufffd"  # decoded from the remaining bytes of a character that was cut in two
_SEPARATORS = re.compile(r"[,;.!?](?:\s+|$)")


@dataclass(frozen=True, repr=False)
class PromptEncoding:
    """Options of tokenizing and encoding prompts, the same for training and sampling."""

    clip_skip: int = 1  # as in the WebUI: 1 is the last layer
    max_tokens: int = CHUNK_LENGTH  # a multiple of 75; longer prompts are truncated
    weighted: bool = False  # parse (word:1.2) as attention weights
    strict: bool = False  # separate start and end tokens for each part between , ; . ! ?

    def __repr__(self) -> str:
        # Part of the key of cached text embeddings: keep it as it is, or all caches become invalid.
        return (
            f"Reading(clip_skip={self.clip_skip!r}, max_tokens={self.max_tokens!r}, "
            f"weighted={self.weighted!r}, strict={self.strict!r})"
        )

    @classmethod
    def of(cls, settings: Settings, training: bool = False) -> PromptEncoding:
        """``training``: for captions. Only these use strict tokens; no WebUI encodes prompts like that."""
        return cls(
            settings.clip_skip, settings.max_token_length, settings.weighted_captions,
            training and settings.strict_tokens,
        )  # fmt: skip


class Tokens(NamedTuple):
    """Tokenized prompts: B prompts, E text encoders, C chunks of 77 tokens with start, end and padding."""

    ids: torch.Tensor  # (B, E, C, 77) int64
    weights: torch.Tensor | None  # (B, C, 77) float32; None: all 1
    lengths: tuple[int, ...]  # for each prompt the number of its C * 77 tokens up to the last chunk's end token

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Tokens:
        """``function`` of each tensor."""
        return Tokens(function(self.ids), None if self.weights is None else function(self.weights), self.lengths)

    def part(self, start: int, stop: int) -> Tokens:
        """The prompts from ``start`` up to ``stop`` (exclusive)."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Tokens(self.ids[start:stop], weights, self.lengths[start:stop])


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str], prompt_encoding: PromptEncoding) -> Tokens:
    """Tokenize a batch of prompts, padded to the number of chunks of the longest one."""
    return collate_tokens([tokenize_prompt(tokenizers, prompt, prompt_encoding) for prompt in prompts], tokenizers)


def tokenize_prompt(tokenizers: Sequence[Any], prompt: str, prompt_encoding: PromptEncoding) -> Tokens:
    """Tokenize one prompt into as many chunks as it needs, truncated to ``prompt_encoding.max_tokens``."""
    import torch  # not at the top: counting tokens does not need it

    token_lists = [
        _tokenize(tokenizer, prompt, prompt_encoding)[: prompt_encoding.max_tokens] for tokenizer in tokenizers
    ]
    n_chunks = n_chunks_of(len(token_lists[0]))
    ids = [
        _pad(tokenizer, [id for id, _ in tokens], n_chunks)
        for tokenizer, tokens in zip(tokenizers, token_lists, strict=True)
    ]
    weights = [weight for _, weight in token_lists[0]]
    has_weights = any(weight != 1 for weight in weights)
    padded_weights = torch.tensor([_pad_weights(weights, n_chunks)]) if has_weights else None
    return Tokens(torch.tensor([ids]), padded_weights, (len(token_lists[0]) + 2 * n_chunks,))


def collate_tokens(prompts: Sequence[Tokens], tokenizers: Sequence[Any]) -> Tokens:
    """Combine prompts into one batch; shorter ones are padded with empty chunks."""
    import torch

    n_chunks = max(prompt.ids.shape[2] for prompt in prompts)
    empty = torch.tensor([[_pad(tokenizer, [], n_chunks) for tokenizer in tokenizers]])
    ids = [torch.cat([prompt.ids, empty[:, :, prompt.ids.shape[2] :]], dim=2) for prompt in prompts]
    weights = None
    if any(prompt.weights is not None for prompt in prompts):
        weights = torch.ones(len(prompts), n_chunks, CONTEXT_LENGTH)
        for row, prompt in zip(weights, prompts, strict=True):
            if prompt.weights is not None:
                row[: prompt.weights.shape[1]] = prompt.weights[0]
    return Tokens(torch.cat(ids), weights, tuple(length for prompt in prompts for length in prompt.lengths))


def count_tokens(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> int:
    """The number of tokens of a prompt before truncation, without the start and end tokens of chunks."""
    return len(_tokenize(tokenizer, prompt, prompt_encoding))


def count_with_overflow(
    tokenizer: Any, prompts: Sequence[str], prompt_encoding: PromptEncoding
) -> list[tuple[int, str]]:
    """For each prompt the number of tokens (:func:`count_tokens`) and the text that truncation removes.

    That text is the end of the prompt as it was written where it can be located, else the decoded tokens.
    """
    if prompt_encoding.weighted or prompt_encoding.strict:
        token_lists = [[id for id, _ in _tokenize(tokenizer, prompt, prompt_encoding)] for prompt in prompts]
    else:  # one call for all prompts is much faster
        texts = [unescape_brackets(prompt) for prompt in prompts]
        token_lists = (
            tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False).input_ids if texts else []
        )
    return [
        (len(ids), _overflow(tokenizer, prompt, ids[prompt_encoding.max_tokens :]))
        for prompt, ids in zip(prompts, token_lists, strict=True)
    ]


def count_chunks(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> int:
    """The number of chunks of a prompt after truncation."""
    if prompt_encoding.max_tokens == CHUNK_LENGTH:
        return 1
    return n_chunks_of(min(count_tokens(tokenizer, prompt, prompt_encoding), prompt_encoding.max_tokens))


def _overflow(tokenizer: Any, prompt: str, ids: Sequence[int]) -> str:
    """The end of ``prompt`` that ``ids`` stand for. Decoding loses case and spacing, so the text is matched without."""
    if not ids:
        return ""
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    whole_characters = decoded.lstrip(_REPLACEMENT)
    target = "".join(whole_characters.split()).casefold()
    start, missing = len(prompt), len(target)
    while start and missing > 0:
        start -= 1
        missing -= 0 if prompt[start].isspace() else len(prompt[start].casefold())
    if "".join(prompt[start:].split()).casefold() != target:
        return decoded
    if whole_characters != decoded:
        start = max(0, len(prompt[:start].rstrip()) - 1)
    return prompt[start:]


_WeightedIds = list[tuple[int, float]]  # token ids with their attention weights


def _tokenize(tokenizer: Any, prompt: str, prompt_encoding: PromptEncoding) -> _WeightedIds:
    parts = parse_emphasis(prompt) if prompt_encoding.weighted else [(unescape_brackets(prompt), 1.0)]
    if prompt_encoding.strict:
        return _tokenize_strictly(tokenizer, parts)
    return [(id, weight) for text, weight in parts for id in _ids(tokenizer, text)]


def _tokenize_strictly(tokenizer: Any, parts: Sequence[tuple[str, float]]) -> _WeightedIds:
    """Each separator becomes end token, comma, start token; the outer ones of a chunk are added by the padding."""
    tokens: _WeightedIds = []
    separator = [
        (tokenizer.eos_token_id, 1.0),
        *((id, 1.0) for id in _ids(tokenizer, ",")),
        (tokenizer.bos_token_id, 1.0),
    ]
    for text, weight in parts:
        pieces = _SEPARATORS.split(text)
        for number, piece in enumerate(pieces):
            if number and tokens and (number < len(pieces) - 1 or piece.strip()):
                tokens += separator
            tokens += [(id, weight) for id in _ids(tokenizer, piece)]
    return tokens


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def n_chunks_of(n_tokens: int) -> int:
    """The number of chunks of a prompt with so many tokens."""
    return max(1, -(-n_tokens // CHUNK_LENGTH))


def _pad(tokenizer: Any, ids: Sequence[int], n_chunks: int) -> list[list[int]]:
    """Split ids into chunks of 77 with start, end and padding tokens."""
    chunks = []
    for chunk in range(n_chunks):
        own = list(ids[chunk * CHUNK_LENGTH : (chunk + 1) * CHUNK_LENGTH])
        padding = [tokenizer.pad_token_id] * (CHUNK_LENGTH - len(own))
        chunks.append([tokenizer.bos_token_id, *own, tokenizer.eos_token_id, *padding])
    return chunks


def _pad_weights(weights: Sequence[float], n_chunks: int) -> list[list[float]]:
    padded = [*weights, *[1.0] * (n_chunks * CHUNK_LENGTH)]
    return [[1.0, *padded[chunk * CHUNK_LENGTH : (chunk + 1) * CHUNK_LENGTH], 1.0] for chunk in range(n_chunks)]
