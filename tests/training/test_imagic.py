"""Imagic on one image: the optimized embedding, fine-tuning with it, interpolated edits; resumed exactly."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.modules import fingerprint, load_modules
from dreambooth.dataset.cache import LatentCache
from dreambooth.errors import Cancelled, UserError
from dreambooth.models.process import DDPM
from dreambooth.models.sd.unet_denoiser import UNetDenoiser
from dreambooth.runs.preflight import preflight
from dreambooth.sampling.generate import SampleRequest
from dreambooth.training.imagic import load_embeddings
from tests.training.conftest import SMALL

EDIT = {"train_imagic": True, "stop_text_encoder": 0, "imagic_steps": 6, "imagic_learning_rate": 0.01, "seed": 5,
        "num_train_epochs": 3, "train_batch_size": 1, "use_lora": True, "lora_learning_rate": 1e-3,
        "imagic_strength": 0.7}  # fmt: skip


@pytest.fixture
def concept(concept, images, tmp_path):
    """A single image."""
    folder = tmp_path / "one"
    folder.mkdir()
    for suffix in (".png", ".txt"):
        shutil.copy(images / "instance" / f"0{suffix}", folder)
    return dataclasses.replace(concept, instance_data_dir=str(folder), class_data_dir="")


@pytest.fixture
def afresh(models_dir, created):
    def put_back():
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)

    return put_back


def test_the_optimized_embedding_reconstructs_the_image_better(train, mini):
    """Measured with the untrained UNet and fixed noise."""
    outcome = train(**{**EDIT, "imagic_steps": 60, "max_train_steps": 1})
    assert outcome.error is None and "embedding" in [event["what"] for event in outcome.of("saved")]
    imagic, modules = load_embeddings(mini), load_modules(mini.working)
    plan = preflight(mini, outcome.result.config).plan
    moments = LatentCache(mini.cache / "latents", fingerprint(mini.working, "vae")).get(plan.examples[0])
    latents = moments.chunk(2)[0][None] * modules.vae.config.scaling_factor
    process, t = DDPM(modules.scheduler_config), torch.arange(20, 1000, 49)
    noise = torch.randn(len(t), *latents.shape[1:], generator=torch.Generator().manual_seed(0))
    noisy_latents = process.add_noise(latents.expand(len(t), -1, -1, -1), noise, t)

    @torch.no_grad()
    def loss(strength):
        embedding = imagic.interpolate(strength).expand(len(t))
        predicted = UNetDenoiser(modules.denoiser).predict(noisy_latents, t, embedding)
        return (predicted - noise).square().mean().item()

    assert imagic.text == plan.examples[0].caption
    assert loss(0.0) < 0.97 * loss(1.0)


def test_every_setting_of_it_has_an_effect(train, mini, afresh, tmp_path):
    ends = {}
    for name, changed in {
        "plain": {"train_imagic": False}, "imagic": {}, "longer": {"imagic_steps": 9},
        "faster": {"imagic_learning_rate": 0.1},
    }.items():  # fmt: skip
        ends[name] = train(**{**EDIT, **changed}).digest()
        if name != "faster":
            afresh()
    assert len(set(ends.values())) == 4
    drawn = {}
    for strength in (0.0, 0.7, 1.0):
        mini.save(actions.configure(mini, {"imagic_strength": strength}))
        requests = [
            SampleRequest(text, steps=4, width=64, height=64) for text in (load_embeddings(mini).text, "a red star")
        ]
        drawn[strength] = [p.read_bytes() for p in actions.sample(mini, requests, tmp_path / str(strength))]
    mini.save(actions.configure(mini, {"train_imagic": False}))
    plain = [p.read_bytes() for p in actions.sample(mini, requests, tmp_path / "plain")]
    edits = [edit for edit, _ in drawn.values()]
    assert len(set(edits)) == 3 and {other for _, other in drawn.values()} == {plain[1]}
    assert np.abs(_pixels(tmp_path / "1.0") - _pixels(tmp_path / "plain")).max() <= 1, "the text itself is at 1"


def _pixels(folder):
    return np.asarray(Image.open(min(folder.glob("*.png")))).astype(int)


def test_stopped_and_resumed_it_is_the_undisturbed_run(train, mini, afresh):
    alone = train(**EDIT)
    assert alone.of("preview") and alone.error is None
    afresh()

    def stop(event, controls):
        if event["kind"] == "step" and event["step"] == 2:
            controls.sample_now()
            controls.cancel()

    train(on=stop, **EDIT)
    resumed = train(resume="latest", **EDIT)
    assert "differs from the original" not in resumed.messages and not [
        e for e in resumed.of("phase") if e["name"] == "imagic"
    ]
    assert resumed.digest() == alone.digest()


def test_canceled_while_the_embedding_is_optimized_nothing_is_left(train, mini):
    def cancel(event, controls):
        if event["kind"] == "progress" and event["phase"] == "text embedding" and event["done"] == 2:
            controls.cancel()

    assert isinstance(train(on=cancel, **EDIT).error, Cancelled)
    assert not mini.snapshot_steps() and not mini.embeddings.exists()


def test_unsupported_settings_are_refused_with_reasons(mini, concept, images):
    several = dataclasses.replace(concept, instance_data_dir=str(images / "instance"))
    settings = {**SMALL, **EDIT, "train_unet": False, "stop_text_encoder": 0.5}
    with pytest.raises(UserError) as refused:
        preflight(mini, actions.configure(mini, settings, [several]))
    messages = [line for line in refused.value.problems if line.startswith("train_imagic")]
    several = dataclasses.replace(concept, num_class_images_per=2, class_prompt="a toy")
    with pytest.raises(UserError, match="class and validation images"):
        preflight(mini, actions.configure(mini, {**SMALL, **EDIT}, [several]))
    assert (
        len(messages) == 3
        and "train_unet" in messages[0]
        and "stop_text_encoder" in messages[1]
        and "there are 5" in messages[2]
    )
