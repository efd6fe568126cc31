"""Conditioning of batches, and an encoder with a mask behind the interface that CLIP has too."""

from __future__ import annotations

import json
from typing import NamedTuple, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth.checkpoints.modules import Modules, load_modules
from dreambooth.dataset.cache import TextCache
from dreambooth.models.conditioning import Conditioning, TextConditioner, concatenate, pad
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout
from dreambooth.models.sd.tokens import PromptEncoding
from dreambooth.settings import Folders
from dreambooth.training import prompts as prompts_of
from dreambooth.training.prompts import CachedPromptEmbedder
from tests.mini_models import create

CPU = torch.device("cpu")
TEXTS = ["a red star", "star", "a very long text about a star", ""]


def _random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_operations_keep_tensors_mask_and_lengths_together():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    both = Conditioning({"states": _random(2, 3, 4), "ids": torch.tensor([[5], [6]])}, mask, (2, 1))
    first, second = both.select(slice(0, 1)), both.select(slice(1, 2))
    assert len(both) == 2 and len(second) == 1 and second.lengths == (1,) and second["ids"].tolist() == [[6]]
    again = concatenate([first, second])
    assert torch.equal(again["states"], both["states"]) and torch.equal(again.mask, mask) and again.lengths == (2, 1)
    half = both.to(dtype=torch.bfloat16)
    assert half["states"].dtype == torch.bfloat16 and half["ids"].dtype == torch.int64
    assert half.mask.dtype == torch.bool
    three = second.expand(3)
    assert len(three) == 3 and three.mask.shape == (3, 3) and three.lengths == (1, 1, 1)
    assert both.replace(more=_random(2, 1)).shapes == {"states": (3, 4), "ids": (1,), "more": (1,)}
    assert both.map(torch.zeros_like)["states"].eq(0).all() and both["states"].ne(0).any()
    restored = Conditioning.of_state(both.state(), both.lengths)
    assert torch.equal(restored.mask, mask) and restored.tensors.keys() == both.tensors.keys()
    longer = pad(second, 5, ["states"])
    assert longer.mask.tolist() == [[True, False, False, False, False]] and longer["states"].shape == (1, 5, 4)
    assert longer["states"][:, 3:].eq(0).all() and longer["ids"].shape == (1, 1)


class Words(NamedTuple):
    """Ids (B, L) of words and their mask."""

    ids: torch.Tensor
    mask: torch.Tensor

    def map(self, function):
        return Words(function(self.ids), function(self.mask))


class MaskedConditioner(TextConditioner[Words]):
    """A word is its length. The encoder is attention over the words that the mask leaves."""

    sequences = ("states",)
    max_tokens = 6

    def __init__(self, encoder):
        self.encoder = encoder

    def tokenize(self, prompts):
        return self.join([self._single(prompt) for prompt in prompts])

    def _single(self, prompt):
        ids = [len(word) for word in prompt.split()[: self.max_tokens - 1]] + [0]
        return Words(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))

    def join(self, batches):
        longest = max(words.ids.shape[1] for words in batches)
        ids, masks = zip(*(_zero_padded(words, longest) for words in batches), strict=True)
        return Words(torch.cat(ids), torch.cat(masks))

    def part(self, tokens, start, stop):
        return Words(tokens.ids[start:stop], tokens.mask[start:stop])

    def encode(self, tokens):
        states = self.encoder.embedding(tokens.ids)
        scores = (states @ states.mT).masked_fill(~tokens.mask[:, None], -torch.inf)
        states = (scores.softmax(dim=-1) @ states) * tokens.mask[..., None]
        return Conditioning({"states": states}, tokens.mask, tuple(tokens.mask.sum(dim=1).tolist()))

    def count_with_overflow(self, prompts):
        words = [prompt.split() for prompt in prompts]
        return [(len(own), " ".join(own[self.max_tokens - 1 :])) for own in words]


def _zero_padded(words, length):
    return [torch.cat([part, part.new_zeros(1, length - part.shape[1])], dim=1) for part in words]


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.calls = 0
        self.embedding.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1


class MaskedFamily(Family):
    components = ()

    def text_conditioner(self, text_encoders, tokenizers, prompt_encoding):
        return MaskedConditioner(tokenizers["encoder"])


def test_an_encoder_with_a_mask_is_cached_and_padded(tmp_path):
    encoder = Encoder().requires_grad_(False)
    modules = Modules(MaskedFamily(), cast(Layout, None), {}, tokenizers={"encoder": encoder})
    cache = TextCache(tmp_path, "encoder", "options")
    conditioner = modules.text_conditioner(None)
    direct = conditioner.encode(conditioner.tokenize(TEXTS))
    for expected_calls in (len(TEXTS), 0):  # encoded once, then read from the disk
        encoder.calls = 0
        prompts = CachedPromptEmbedder(modules, None, True, CPU)
        prompts.freeze(TEXTS, cache, lambda: None)
        batch = prompts.batch(TEXTS)
        assert encoder.calls == expected_calls
        assert torch.equal(batch.mask, direct.mask) and batch.lengths == direct.lengths == (4, 2, 6, 1)
        torch.testing.assert_close(batch["states"], direct["states"])
        short = prompts.batch(["star", ""])
        assert short["states"].shape == (2, 2, 8) and short.mask.tolist() == [[True, True], [True, False]]
    (file,) = [path for path in tmp_path.glob("*.safetensors") if len(load_file(path)["states"]) == 2]
    assert {name: tuple(part.shape) for name, part in load_file(file).items()} == {
        "states": (2, 8), "mask": (2,), "length": (),
    }  # fmt: skip
    encoder.requires_grad_(True)
    prompts = CachedPromptEmbedder(modules, None, False, CPU)
    prompts.make_trainable()
    computed = prompts.batch(TEXTS)
    torch.testing.assert_close(computed["states"], direct["states"])
    computed["states"].sum().backward()
    assert encoder.embedding.weight.grad.any()
    assert conditioner.count_with_overflow(TEXTS[2:3]) == [(7, "a star")]
    assert conditioner.count(TEXTS[2]) == 7 and conditioner.batch_length(TEXTS[2]) == 6


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    model = create(Folders(tmp_path_factory.mktemp("sdxl")), "m", "SDXL", dtype=torch.float32)
    return load_modules(model.working, denoiser=False, vae=False)


def test_cache_files_of_stable_diffusion_stay_valid(sdxl, tmp_path):
    """Their key and contents, as they were written by hand here."""
    import hashlib

    encoding = PromptEncoding(max_tokens=150)
    key = ["embedding", "weights", "Reading(clip_skip=1, max_tokens=150, weighted=False, strict=False)", "a star"]
    width = sum(encoder.config.hidden_size for encoder in sdxl.text_encoders.values())
    tensors = {"states": _random(77, width), "pooled": _random(32), "length": torch.tensor(4)}
    save_file(tensors, tmp_path / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors")
    prompts = CachedPromptEmbedder(sdxl, encoding, True, CPU)
    prompts.freeze(["a star"], TextCache(tmp_path, "weights", encoding), lambda: None)
    batch = prompts.batch(["a star"])
    assert torch.equal(batch["states"][0], tensors["states"]) and torch.equal(batch["pooled"][0], tensors["pooled"])
    assert batch.lengths == (4,) and batch.mask is None
    written = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    assert len(written) == 2 and all(file.keys() == tensors.keys() for file in written), "the empty prompt too"


def test_sdxl_was_trained_with_zeros_for_an_empty_negative_prompt(sdxl):
    conditioner = sdxl.text_conditioner(PromptEncoding())
    texts = ["", "blurry"]
    negative = conditioner.unconditional(conditioner.encode(conditioner.tokenize(texts)), texts)
    assert all(part[0].eq(0).all() and part[1].ne(0).any() for part in negative.tensors.values())


def test_the_memory_for_unknown_prompts_is_bounded_by_all_tensors(sdxl, monkeypatch):
    prompts = CachedPromptEmbedder(sdxl, PromptEncoding(), True, CPU)
    prompts.freeze([], None, lambda: None)
    monkeypatch.setattr(prompts_of, "LRU_BYTES", 2 * prompts.batch(["a"]).nbytes)
    prompts.batch(["a", "b", "c"])
    assert list(prompts._lru) == ["b", "c"]
