"""Prompt embeddings of a batch: cached while the text encoders are frozen, computed while they are trained."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from dreambooth.autocast import without_autocast
from dreambooth.checkpoints.modules import Modules
from dreambooth.dataset.cache import TextCache, store
from dreambooth.models.conditioning import Conditioning, TextConditioner, Tokens
from dreambooth.models.transfer import to_device

LRU_BYTES = 64 * 2**20  # of embeddings of prompts that were not known in advance, such as shuffled tags
MAX_TOKENIZED = 10_000  # prompts whose token ids are cached
_LENGTH = "length"  # of a prompt among the tensors of its cache file


class PromptEmbedder(Protocol):
    """Source of a batch's prompt embeddings."""

    def batch(self, prompts: Sequence[str]) -> Conditioning: ...


class CachedPromptEmbedder:
    """Embeds prompts as ``prompt_encoding`` says. Without ``pad``, a batch is only as long as its longest prompt."""

    def __init__(self, modules: Modules, prompt_encoding: Any, pad: bool, device: torch.device) -> None:
        self.modules, self.prompt_encoding, self.pad, self.device = modules, prompt_encoding, pad, device
        self.trainable = False  # whether embeddings are computed with gradients
        self._tokens: dict[str, Tokens] = {}
        self._cached: dict[str, Conditioning] = {}  # of one prompt each, in main memory
        self._lru: OrderedDict[str, Conditioning] = OrderedDict()  # on the device
        self._load: Callable[[], None] = lambda: None
        self._autocast: Callable[[], Any] = contextlib.nullcontext

    @property
    def conditioner(self) -> TextConditioner[Any]:
        """Not stored: text encoders are loaded when they are needed, and leave memory afterwards."""
        return self.modules.text_conditioner(self.prompt_encoding)

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
        self._autocast = autocast or functools.partial(without_autocast, self.device)
        self._tokens.clear()
        self._lru.clear()
        for prompt in {*prompts, *([""] if self.conditioner.pads_with_empty_prompt else [])}:
            saved = cache.get(prompt) if cache else None
            if saved is None:
                embedded = self._embed(prompt).to(torch.device("cpu"))
                if cache:
                    store(cache, prompt, _to_file(embedded))
            else:
                embedded = _from_file(saved)
            self._cached[prompt] = embedded

    def batch(self, prompts: Sequence[str]) -> Conditioning:
        """The embeddings of a batch, padded to one length; with gradients while the text encoders are trained."""
        conditioner = self.conditioner
        if self.trainable:
            embedding = self._encode(prompts)
        else:
            empty = self._on_device("") if "" in self._cached else None
            embedding = conditioner.collate([self._lookup(prompt) for prompt in prompts], empty)
        return embedding if self.pad else conditioner.trim(embedding)

    def _lookup(self, prompt: str) -> Conditioning:
        if prompt in self._cached:
            return self._on_device(prompt)
        embedded = self._lru.pop(prompt, None) or self._embed(prompt)
        self._lru[prompt] = embedded
        while len(self._lru) > 1 and len(self._lru) * embedded.nbytes > LRU_BYTES:
            self._lru.popitem(last=False)
        return embedded

    def _on_device(self, prompt: str) -> Conditioning:
        """Copied without waiting for the device."""
        tensors = {name: to_device(tensor, self.device) for name, tensor in self._cached[prompt].state().items()}
        return Conditioning.of_state(tensors, self._cached[prompt].lengths)

    @torch.no_grad()
    def _embed(self, prompt: str) -> Conditioning:
        """One prompt at a time: in a batch, its last bits would depend on the others, which differ in a resumed run."""
        self._load()
        with self._autocast():
            embedding = self._encode([prompt])
        return embedding.to(dtype=torch.float32)

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        tokens = self._tokenized(prompts).map(lambda tensor: to_device(tensor, self.device))
        return self.conditioner.encode(tokens)

    def _tokenized(self, prompts: Sequence[str]) -> Tokens:
        conditioner = self.conditioner
        if len(self._tokens) > MAX_TOKENIZED:
            self._tokens.clear()
        for prompt in prompts:
            if prompt not in self._tokens:
                self._tokens[prompt] = conditioner.tokenize([prompt])
        return conditioner.join([self._tokens[prompt] for prompt in prompts])


def _to_file(embedded: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors of one prompt, without the dimension of the batch, as the cache has them."""
    return {name: tensor[0] for name, tensor in embedded.state().items()} | {_LENGTH: torch.tensor(embedded.lengths[0])}


def _from_file(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    parts = dict(tensors)
    length = int(parts.pop(_LENGTH))
    return Conditioning.of_state({name: tensor[None] for name, tensor in parts.items()}, (length,))
