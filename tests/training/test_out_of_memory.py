"""Out of memory at any moment: one line, no progress lost, nothing left in memory, and the next run works."""

from __future__ import annotations

import dataclasses
import gc
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from dreambooth.errors import UserError
from dreambooth.runs import previews
from dreambooth.settings import Folders, ModelFolder
from dreambooth.training import results, session, step
from dreambooth.training.ema import EMA
from dreambooth.training.prompts import CachedPromptEmbedder
from dreambooth.training.step_in_parts import StepInParts
from dreambooth.training.validation import Validation
from tests.training.conftest import short_run

REPORT = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB"


@pytest.fixture
def train(created, tmp_path, concept):
    """``train(name, **settings)``: a run of the model in the folder ``name``, copied at its first run."""

    def train(name, class_images=False, **settings):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(created, folder)
        own = concept if class_images else dataclasses.replace(concept, class_data_dir="")
        samples = settings.pop("samples", 0)
        return short_run(ModelFolder(Folders(folder), "mini"), own, samples=samples, **settings)

    return train


@pytest.fixture
def exhaust(monkeypatch):
    """``exhaust(owner, name, calls)``: those calls of a function, counted from 1, raise out of memory."""

    def exhaust(owner, name, calls):
        original, count = getattr(owner, name), 0

        def patched(*arguments, **more):
            nonlocal count
            count += 1
            if count in calls if isinstance(calls, (set, range)) else calls(*arguments):
                held = torch.zeros(1000)  # noqa: F841 (what the frame of the failure holds)
                raise torch.cuda.OutOfMemoryError(REPORT)
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, patched)

    return exhaust


FROM_THE_FIFTH = range(5, 10_000)


@pytest.mark.parametrize("settings", [{}, {"use_lora": False, "gradient_accumulation_steps": 2}], ids=["LoRA", "full"])
@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_is_computed_again(train, exhaust, place, settings):
    undisturbed = train("undisturbed", **settings)
    owner, name = (UNet2DConditionModel, "forward") if place == "forward" else (torch.Tensor, "backward")
    exhaust(owner, name, {2})
    outcome = train("again", **settings)
    assert outcome.error is None and "ut of memory" not in outcome.messages
    assert outcome.losses == undisturbed.losses and outcome.digest() == undisturbed.digest()


@pytest.mark.parametrize("settings", [
    {"prior_loss_weight": 0.6}, {"split_loss": False, "min_snr_gamma": 5.0}, {"use_dream": True, "masked_loss": True},
    {"stop_text_encoder": 1.0, "use_lora": False},
], ids=["class images", "one loss", "DREAM and masks", "text encoder"])  # fmt: skip
def test_a_batch_is_computed_in_parts(train, exhaust, settings):
    undisturbed = train("undisturbed", class_images=True, mixed_precision="no", **settings)
    exhaust(UNet2DConditionModel, "forward", lambda module, latents, *_: len(latents) > 2)
    outcome = train("parts", class_images=True, mixed_precision="no", **settings)
    assert "in step 1: from now on each batch is computed in 2 parts" in outcome.messages
    assert outcome.messages.count("ut of memory") == 1
    assert outcome.losses == pytest.approx(undisturbed.losses, rel=1e-4)
    ours, theirs = outcome.weights(), undisturbed.weights()
    assert all(torch.allclose(ours[key].float(), theirs[key].float(), atol=2e-3) for key in theirs)


@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_progress_is_in_a_snapshot_when_nothing_helps(train, exhaust, monkeypatch, use_lora):
    undisturbed = train("undisturbed", use_lora=use_lora)
    with monkeypatch.context():
        exhaust(UNet2DConditionModel, "forward", FROM_THE_FIFTH)
        outcome = train("failed", use_lora=use_lora)
    monkeypatch.undo()
    assert isinstance(outcome.error, UserError) and str(outcome.error).startswith("Out of memory.")
    assert "Your progress is in a snapshot" in outcome.messages
    resumed = train("failed", use_lora=use_lora, resume="latest")
    assert resumed.error is None and resumed.digest() == undisturbed.digest()


@pytest.mark.parametrize("place", ["optimizer", "EMA"])
def test_progress_is_saved_when_an_update_fails(train, exhaust, monkeypatch, place):
    owner, name = (StepInParts, "step") if place == "optimizer" else (EMA, "update")
    exhaust(owner, name, {3})
    outcome = train("update", use_lora=False, use_ema=True)
    monkeypatch.undo()
    assert str(outcome.error).startswith("Out of memory.") and "Your progress is in a snapshot" in outcome.messages
    assert ("one step more than the others" in outcome.messages) == (place == "optimizer")
    assert train("update", use_lora=False, use_ema=True, resume="latest").error is None


@pytest.mark.parametrize(
    ("owner", "name", "says", "settings"),
    [
        (previews, "generate_images", "The preview failed; training continues: out of memory.", {"samples": 1}),
        (results, "write_lora", "Saving failed; training continues. Out of memory.", {"save_lora_during": True}),
        (Validation, "_mean_loss", "could not be measured (out of memory)", {"validation_every": 2}),
    ],
    ids=["preview", "saving", "validation"],
)
def test_tasks_beside_training_do_not_end_it(train, exhaust, owner, name, says, settings):
    during = {"save_embedding_every": 1, "save_preview_every": 1}
    undisturbed = train("undisturbed", **{**during, **settings})
    exhaust(owner, name, {1})
    outcome = train("beside", **{**during, **settings})
    assert outcome.error is None and says in outcome.messages and REPORT not in outcome.messages
    assert outcome.digest() == undisturbed.digest()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(session.LatentStore, "prepare"), (CachedPromptEmbedder, "_embed"), (session.Session, "_load_denoiser"),
     (session, "make_optimizer"), (step.StepRunner, "_accumulate")],
    ids=["latents", "text embeddings", "denoiser", "optimizer", "first step"],
)  # fmt: skip
def test_nothing_stays_in_memory_and_the_next_run_works(train, exhaust, monkeypatch, owner, name):
    exhaust(owner, name, {1})
    outcome = train("loading", stop_text_encoder=0.0, shuffle_tags=False)
    monkeypatch.undo()
    assert str(outcome.error).startswith("Out of memory.") and not list(outcome.model.folders.loras.glob("*"))
    gc.collect()
    assert not [module for module in gc.get_objects() if isinstance(module, UNet2DConditionModel)]
    assert train("loading", stop_text_encoder=0.0, shuffle_tags=False).error is None


def test_saving_at_the_end_leaves_a_snapshot(train, exhaust, monkeypatch):
    exhaust(results, "write_lora", {1})
    outcome = train("after")
    monkeypatch.undo()
    assert str(outcome.error) == "Out of memory." and "Your progress is in a snapshot" in outcome.messages
    assert train("after", resume="latest").error is None
