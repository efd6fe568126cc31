"""Cached and computed embeddings are equal, and long captions are trained to their end."""

from __future__ import annotations

import dataclasses
import shutil
import weakref

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints import modules as modules_of
from dreambooth.checkpoints.modules import load_modules
from dreambooth.dataset.cache import TextCache
from dreambooth.models.sd.tokens import PromptEncoding
from dreambooth.runs.preflight import preflight
from dreambooth.sampling.generate import SampleRequest, generate_images
from dreambooth.training import prompts as prompts_of
from dreambooth.training.prompts import CachedPromptEmbedder
from dreambooth.training.session import Session
from tests.training.conftest import tensors

LONG = "a zwx toy, " + ", ".join(f"{color} star" for color in ("red", "blue", "green", "gold") * 8)
CPU = torch.device("cpu")


@pytest.fixture
def modules(mini):
    return load_modules(mini.working, denoiser=False, vae=False)


@pytest.mark.parametrize(
    "prompt_encoding", [PromptEncoding(), PromptEncoding(max_tokens=150, clip_skip=2)], ids=["75", "150"]
)
@pytest.mark.parametrize("pad", [True, False])
def test_cached_embeddings_equal_computed_ones(modules, tmp_path, prompt_encoding, pad):
    texts = [LONG, "a star", ""]
    trained = CachedPromptEmbedder(modules, prompt_encoding, pad, CPU)
    trained.make_trainable()
    modules.parts["text_encoder"].requires_grad_(True)
    computed = trained.batch(texts)["states"]
    computed.sum().backward()
    assert modules.parts["text_encoder"].get_input_embeddings().weight.grad.any(), "what is computed has gradients"
    computed = computed.detach()
    cache = TextCache(tmp_path, "encoder", prompt_encoding)
    for fixed in (texts, ["a star"], []):  # from the encoder, then some and all of them from the cache
        frozen = CachedPromptEmbedder(modules, prompt_encoding, pad, CPU)
        frozen.freeze(fixed, cache, lambda: None)
        found = frozen.batch(texts)["states"]
        assert torch.allclose(found, computed, atol=1e-5) and not found.requires_grad
    n_short = frozen.batch(["a star", ""])["states"].shape[1]
    assert n_short == (77 if pad else 4), "as long as what is in it needs"


def test_the_cache_of_passing_prompts_is_bounded(modules, monkeypatch):
    monkeypatch.setattr(prompts_of, "LRU_BYTES", 3 * 77 * modules.parts["text_encoder"].config.hidden_size * 4)
    prompts = CachedPromptEmbedder(modules, PromptEncoding(), True, CPU)
    prompts.freeze(["fixed"], None, lambda: None)
    first = prompts.batch(["star 0", "fixed"])["states"]
    for n in range(1, 8):
        prompts.batch([f"star {n}", "fixed"])
    assert list(prompts._lru) == ["star 5", "star 6", "star 7"] and list(prompts._cached) == ["fixed"]
    assert torch.equal(prompts.batch(["star 0", "fixed"])["states"], first)


@pytest.fixture
def long_captions(concept, tmp_path):
    """The test images with a caption of more than 75 tokens and a tail."""

    def make(tail: str):
        folder = tmp_path / f"long {tail}"
        shutil.copytree(concept.instance_data_dir, folder)
        for path in folder.glob("*.txt"):
            path.write_text(f"{LONG}, {tail}")
        return dataclasses.replace(concept, instance_data_dir=str(folder), class_data_dir="")

    return make


def test_tokens_beyond_the_limit_are_not_trained(train, mini, models_dir, created, long_captions, monkeypatch):
    def digest(tail: str, allowed: int) -> str:
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
        config = actions.configure
        with monkeypatch.context() as patch:
            patch.setattr(actions, "configure", lambda m, o, _: config(m, o, [long_captions(tail)]))
            outcome = train(max_train_steps=2, max_token_length=allowed, shuffle_tags=False, seed=5)
        shutil.rmtree(long_captions_folder(outcome))
        assert ("the limit of 75 tokens" in outcome.messages) == (allowed == 75)
        return outcome.digest()

    def long_captions_folder(outcome):
        return outcome.model.load().concepts[0].instance_data_dir

    assert digest("cat", 75) == digest("moon", 75)
    assert len({digest("cat", 75), digest("cat", 150), digest("moon", 150)}) == 3


def test_captions_that_are_too_long_are_named(mini, long_captions):
    config = actions.configure(mini, {"resolution": 64, "bucket_step": 32}, [long_captions("cat")])
    checked = preflight(mini, config).as_dict()
    rows = checked["table"]
    assert {row["tokens"] for row in rows} == {102}
    (warning,) = [text for text in checked["warnings"] if "tokens" in text]
    n = rows[0]["tokens"] - 75
    assert warning.startswith("5 captions exceed the limit of 75 tokens") and f"0.png by {n}" in warning
    assert warning.endswith("Raise max_token_length to 150, or shorten them.")
    fits = dataclasses.replace(config, settings=dataclasses.replace(config.settings, max_token_length=150))
    assert not [text for text in preflight(mini, fits).warnings if "tokens" in text]


def test_samples_use_the_whole_prompt(mini):
    modules = load_modules(mini.working)
    requests = [
        SampleRequest(f"{LONG}, cat", steps=2, width=64, height=64),
        SampleRequest("a star", steps=2, width=64, height=64),
    ]

    def images(n_tokens: int, batch_size: int = 1) -> list[bytes]:
        prompt_encoding = PromptEncoding(max_tokens=n_tokens)
        return [
            image.tobytes()
            for image in generate_images(modules, requests, prompt_encoding=prompt_encoding, batch_size=batch_size)
        ]

    short, long = images(75), images(150)
    assert short[0] != long[0] and short[1] == long[1]
    assert images(150, 2) == long, "other images in the batch have no influence"


def test_normalization_layers_are_not_trained(train, mini):
    def changed() -> set[str]:
        after = tensors(next((mini.working / "text_encoder").glob("*.safetensors")))
        return {name for name in before if not torch.equal(before[name], after[name])}

    before = tensors(next((mini.working / "text_encoder").glob("*.safetensors")))
    full = {"use_lora": False, "save_ckpt_after": False, "max_train_steps": 2, "txt_learning_rate": 1e-3}
    train(**full, freeze_clip_normalization=True)
    assert changed() and not any("norm" in name for name in changed())
    train(**full, freeze_clip_normalization=False)
    assert any("norm" in name for name in changed())


@pytest.mark.parametrize("trains", [False, True], ids=["not trained", "trained"])
def test_a_text_encoder_that_is_not_trained_leaves_memory(train, mini, monkeypatch, trains):
    """Between previews, which load it again and are the same as with one that stays."""
    loaded, in_memory, load_component = [], {"step": set(), "preview": set()}, modules_of.load_component

    def recorded(working, name, *rest):
        module = load_component(working, name, *rest)
        if name == "text_encoder":
            loaded.append(weakref.ref(module))
        return module

    def count(event, controls):
        if event["kind"] in in_memory:
            in_memory[event["kind"]].add(sum(module() is not None for module in loaded))

    def previews():
        settings = {"stop_text_encoder": float(trains), "shuffle_tags": False, "seed": 1, "save_preview_every": 1}
        outcome = train(on=count, use_lora=False, save_ckpt_after=False, **settings)
        assert not outcome.error and len(outcome.of("preview")) == 2
        return [Image.open(event["path"]).tobytes() for event in outcome.of("preview")]

    monkeypatch.setattr(modules_of, "load_component", recorded)
    before = shutil.copytree(mini.working, mini.working.with_name("before"))
    images = previews()
    assert in_memory == {"step": {int(trains)}, "preview": {1}}
    shutil.rmtree(mini.working)
    shutil.copytree(before, mini.working)
    monkeypatch.setattr(Session, "_release_text_encoders", lambda session: None)
    assert previews() == images
