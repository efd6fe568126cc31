"""Embeddings of the prompts of a batch: looked up while the text encoders are frozen, computed while they learn."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from dreambooth.checkpoints.modules import Modules
from dreambooth.checkpoints.text_encoding import Embedding, encode
from dreambooth.checkpoints.tokens import CHUNK, Reading, Tokens, together, tokenize_one
from dreambooth.dataset.cache import TextCache, keep
from dreambooth.training.precision import to_device

# Of prompts that come and go, as tags are shuffled, so many bytes of embeddings are kept for when they come again.
KEPT_BYTES = 64 * 2**20
MOST_TOKENIZED = 10_000  # prompts, of which token ids are kept


class Embedded(NamedTuple):
    """One prompt: its embedding, (1, 77 for each chunk, D), and how much of that its tokens take."""

    embedding: Embedding
    length: int


class PromptEmbedder(Protocol):
    """Where a batch gets the embeddings of its prompts."""

    def batch(self, prompts: Sequence[str]) -> Embedding: ...


class Prompts:
    """Embeds prompts as ``reading`` says. ``pad`` off: a batch is only as long as its longest prompt."""

    def __init__(self, modules: Modules, reading: Reading, pad: bool, device: torch.device) -> None:
        self.modules, self.reading, self.pad, self.device = modules, reading, pad, device
        self.learning = False  # whether embeddings are computed with gradients now
        self._tokens: dict[str, Tokens] = {}
        self._fixed: dict[str, Embedded] = {}
        self._passing: OrderedDict[str, Embedded] = OrderedDict()
        self._load: Callable[[], None] = lambda: None
        self._within: Callable[[], Any] = contextlib.nullcontext

    def learn(self) -> None:
        """The text encoders are going to be trained."""
        self.learning = True

    def freeze(
        self,
        prompts: Sequence[str],
        cache: TextCache | None,
        load: Callable[[], None],
        within: Callable[[], Any] | None = None,
    ) -> None:
        """Embed ``prompts`` once; others are embedded when they come.

        ``load`` brings the text encoders in; ``within``: the autocast that they compute in, none at all by default.
        """
        self.learning, self._load = False, load
        self._within = within or self._without_autocast
        self._tokens.clear()
        self._passing.clear()
        several_chunks = self.reading.max_tokens > CHUNK  # then shorter ones are filled up with the empty prompt
        for prompt in {*prompts, *([""] if several_chunks else [])}:
            known = cache.get(prompt) if cache else None
            if known is None:
                embedded = self._embed(prompt)
                if cache:
                    parts = zip(Embedding._fields, embedded.embedding, strict=True)
                    tensors = {name: part[0] for name, part in parts if part is not None}
                    keep(cache, prompt, {**tensors, "length": torch.tensor(embedded.length)})
            else:
                length = int(known.pop("length"))
                parts = {name: tensor[None] for name, tensor in known.items()}
                embedded = Embedded(Embedding(**parts).to(self.device), length)
            self._fixed[prompt] = embedded

    def batch(self, prompts: Sequence[str]) -> Embedding:
        """Those of a batch, all of one length; with a graph behind them while the text encoders learn."""
        if self.learning:
            tokens = self._tokenized(prompts)
            embedding, lengths = self._encode(tokens), tokens.lengths
        else:
            found = [self._find(prompt) for prompt in prompts]
            embedding, lengths = self._side_by_side([each.embedding for each in found]), [e.length for e in found]
        if self.pad:
            return embedding
        return Embedding(embedding.states[:, : max(lengths)], embedding.pooled)

    def _find(self, prompt: str) -> Embedded:
        known = self._fixed.get(prompt) or self._passing.pop(prompt, None) or self._embed(prompt)
        if prompt not in self._fixed:
            self._passing[prompt] = known
            while len(self._passing) > 1 and len(self._passing) * known.embedding.states.nbytes > KEPT_BYTES:
                self._passing.popitem(last=False)
        return known

    @torch.no_grad()
    def _embed(self, prompt: str) -> Embedded:
        """One by one: in a batch the last bits would depend on what is beside it, and so on where a run was resumed."""
        self._load()
        with self._within():
            tokens = self._tokenized([prompt])
            embedding = self._encode(tokens)
        return Embedded(embedding.map(torch.Tensor.float), tokens.lengths[0])

    def _without_autocast(self) -> Any:
        # torch before 2.5 refuses to name autocast on a Mac, even switched off.
        named = self.device.type != "mps"
        return torch.autocast(self.device.type, enabled=False) if named else contextlib.nullcontext()

    def _encode(self, tokens: Tokens) -> Embedding:
        ids = to_device(tokens.ids, self.device)
        weights = None if tokens.weights is None else to_device(tokens.weights, self.device)
        return encode(self.modules, tokens._replace(ids=ids, weights=weights), self.reading.clip_skip)

    def _tokenized(self, prompts: Sequence[str]) -> Tokens:
        if len(self._tokens) > MOST_TOKENIZED:
            self._tokens.clear()
        for prompt in prompts:
            if prompt not in self._tokens:
                self._tokens[prompt] = tokenize_one(self.modules.tokenizers, prompt, self.reading)
        return together([self._tokens[prompt] for prompt in prompts], self.modules.tokenizers)

    def _side_by_side(self, embeddings: Sequence[Embedding]) -> Embedding:
        """One batch; prompts of fewer chunks are filled up with the empty prompt's."""
        longest = max(embedding.states.shape[1] for embedding in embeddings)
        rows = []
        for embedding in embeddings:
            missing = (longest - embedding.states.shape[1]) // (CHUNK + 2)
            row = [embedding.states, *(self._fixed[""].embedding.states for _ in range(missing))]
            rows.append(torch.cat(row, dim=1) if missing else embedding.states)
        pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
        return Embedding(torch.cat(rows), torch.cat(pooled) if pooled else None)
