"""Prompt embeddings of a batch: cached while the text encoders are frozen, computed while they are trained."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from dreambooth.checkpoints.modules import Modules
from dreambooth.dataset.cache import TextCache, store
from dreambooth.models.sd.text_encoding import PromptEmbedding, encode_prompts
from dreambooth.models.sd.tokens import CHUNK_LENGTH, PromptEncoding, Tokens, collate_tokens, tokenize_prompt
from dreambooth.training.precision import to_device

LRU_BYTES = 64 * 2**20  # of embeddings of prompts that were not known in advance, such as shuffled tags
MAX_TOKENIZED = 10_000  # prompts whose token ids are cached


class CachedEmbedding(NamedTuple):
    """One prompt's embedding, (1, 77 per chunk, D), and the length of it that its tokens take."""

    embedding: PromptEmbedding
    length: int


class PromptEmbedder(Protocol):
    """Source of a batch's prompt embeddings."""

    def batch(self, prompts: Sequence[str]) -> PromptEmbedding: ...


class CachedPromptEmbedder:
    """Embeds prompts as ``prompt_encoding`` says. Without ``pad``, a batch is only as long as its longest prompt."""

    def __init__(self, modules: Modules, prompt_encoding: PromptEncoding, pad: bool, device: torch.device) -> None:
        self.modules, self.prompt_encoding, self.pad, self.device = modules, prompt_encoding, pad, device
        self.trainable = False  # whether embeddings are computed with gradients
        self._tokens: dict[str, Tokens] = {}
        self._cached: dict[str, CachedEmbedding] = {}
        self._lru: OrderedDict[str, CachedEmbedding] = OrderedDict()
        self._load: Callable[[], None] = lambda: None
        self._autocast: Callable[[], Any] = contextlib.nullcontext

    def make_trainable(self) -> None:
        """Compute embeddings with gradients from now on."""
        self.trainable = True

    def freeze(
        self,
        prompts: Sequence[str],
        cache: TextCache | None,
        load: Callable[[], None],
        autocast: Callable[[], Any] | None = None,
    ) -> None:
        """Embed ``prompts`` once, without gradients. Other prompts are embedded when they are needed.

        ``load`` loads the text encoders; ``autocast``: the context that they run in, by default without autocast.
        """
        self.trainable, self._load = False, load
        self._autocast = autocast or self._without_autocast
        self._tokens.clear()
        self._lru.clear()
        # Prompts of fewer chunks are padded with chunks of the empty prompt.
        has_chunks = self.prompt_encoding.max_tokens > CHUNK_LENGTH
        for prompt in {*prompts, *([""] if has_chunks else [])}:
            saved = cache.get(prompt) if cache else None
            if saved is None:
                embedded = self._embed(prompt)
                if cache:
                    parts = zip(PromptEmbedding._fields, embedded.embedding, strict=True)
                    tensors = {name: part[0] for name, part in parts if part is not None}
                    store(cache, prompt, {**tensors, "length": torch.tensor(embedded.length)})
            else:
                length = int(saved.pop("length"))
                parts = {name: tensor[None] for name, tensor in saved.items()}
                embedded = CachedEmbedding(PromptEmbedding(**parts).to(self.device), length)
            self._cached[prompt] = embedded

    def batch(self, prompts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of a batch, padded to one length; with gradients while the text encoders are trained."""
        if self.trainable:
            tokens = self._tokenized(prompts)
            embedding, lengths = self._encode(tokens), tokens.lengths
        else:
            cached = [self._lookup(prompt) for prompt in prompts]
            embedding, lengths = self._stack([each.embedding for each in cached]), [each.length for each in cached]
        if self.pad:
            return embedding
        return PromptEmbedding(embedding.states[:, : max(lengths)], embedding.pooled)

    def _lookup(self, prompt: str) -> CachedEmbedding:
        embedded = self._cached.get(prompt) or self._lru.pop(prompt, None) or self._embed(prompt)
        if prompt not in self._cached:
            self._lru[prompt] = embedded
            while len(self._lru) > 1 and len(self._lru) * embedded.embedding.states.nbytes > LRU_BYTES:
                self._lru.popitem(last=False)
        return embedded

    @torch.no_grad()
    def _embed(self, prompt: str) -> CachedEmbedding:
        """One prompt at a time: in a batch, its last bits would depend on the others, which differ in a resumed run."""
        self._load()
        with self._autocast():
            tokens = self._tokenized([prompt])
            embedding = self._encode(tokens)
        return CachedEmbedding(embedding.map(torch.Tensor.float), tokens.lengths[0])

    def _without_autocast(self) -> Any:
        # torch before 2.5 rejects the device type mps in autocast, even if disabled.
        has_autocast = self.device.type != "mps"
        return torch.autocast(self.device.type, enabled=False) if has_autocast else contextlib.nullcontext()

    def _encode(self, tokens: Tokens) -> PromptEmbedding:
        ids = to_device(tokens.ids, self.device)
        weights = None if tokens.weights is None else to_device(tokens.weights, self.device)
        return encode_prompts(self.modules, tokens._replace(ids=ids, weights=weights), self.prompt_encoding.clip_skip)

    def _tokenized(self, prompts: Sequence[str]) -> Tokens:
        if len(self._tokens) > MAX_TOKENIZED:
            self._tokens.clear()
        tokenizers = list(self.modules.tokenizers.values())
        for prompt in prompts:
            if prompt not in self._tokens:
                self._tokens[prompt] = tokenize_prompt(tokenizers, prompt, self.prompt_encoding)
        return collate_tokens([self._tokens[prompt] for prompt in prompts], tokenizers)

    def _stack(self, embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
        """One batch; prompts of fewer chunks are padded with chunks of the empty prompt."""
        longest = max(embedding.states.shape[1] for embedding in embeddings)
        rows = []
        for embedding in embeddings:
            missing = (longest - embedding.states.shape[1]) // (CHUNK_LENGTH + 2)
            row = [embedding.states, *(self._cached[""].embedding.states for _ in range(missing))]
            rows.append(torch.cat(row, dim=1) if missing else embedding.states)
        pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
        return PromptEmbedding(torch.cat(rows), torch.cat(pooled) if pooled else None)
