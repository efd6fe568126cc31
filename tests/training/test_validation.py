"""Validation: the same images, noise and timesteps each time, without influence on training."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from dreambooth import actions
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.validation_split import with_validation_split
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Settings
from dreambooth.training import snapshot, validation
from dreambooth.ui.chart import loss_chart
from dreambooth.ui.run_view import RunView
from tests.training.conftest import SMALL

LORA = {"use_lora": True, "seed": 5, "num_train_epochs": 2}
FULL = {"use_lora": False, "use_ema": True, "infer_ema": True, "save_ckpt_after": False, "stop_text_encoder": 0.5,
        "seed": 5, "num_train_epochs": 2, "mixed_precision": "bf16", "learning_rate": 1e-5}  # fmt: skip


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "full with ema, half the text encoder"])
def test_measuring_changes_nothing(train, models_dir, created, settings):
    alone = train(**settings)
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    measured = train(validation_every=1, **settings)
    assert measured.digest() == alone.digest() and measured.losses == alone.losses
    events = measured.of("validation")
    assert [e["step"] for e in events] == [0, 1, 2, 3, 4, 5, 6]
    assert len({e["loss"] for e in events}) > 4 and len({e["class_loss"] for e in events}) > 4
    view = RunView().feed_all(measured.events)
    assert loss_chart(view).count("<circle") == 14


def test_the_same_weights_always_measure_the_same(train, models_dir, created):
    first = train(validation_every=100, max_train_steps=1)
    assert [(step["epochs"], step["total"]) for step in first.of("step")] == [(1, 1)]  # that are trained, of more
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    again = train(validation_every=100, max_train_steps=1, seed=77, train_batch_size=5, offset_noise=0.1)
    assert first.of("validation")[0]["losses"] == again.of("validation")[0]["losses"]
    assert first.of("validation")[-1]["losses"] != again.of("validation")[-1]["losses"]


def test_a_folder_of_its_own_is_measured_and_not_trained(train, concept, mini, tmp_path):
    Image.new("RGB", (80, 80), (9, 99, 199)).save(tmp_path / "a toy.png")
    held = dataclasses.replace(concept, validation_data_dir=str(tmp_path))
    config = actions.configure(mini, {**SMALL, "validation_every": 1, "validation_share": 0.4}, [held, concept])
    plan = preflight(mini, config).plan
    assert [(e.path.name, e.concept) for e in plan.validation if e.concept == 0] == [("a toy.png", 0)]
    assert len([e for e in plan.validation if e.concept == 1]) == 2  # 0.4 of its 5
    assert len(plan.examples) == 5 + 3
    rows = preflight(mini, config).as_dict()
    assert rows["pictures"] == 8 and [row["kind"] for row in rows["table"]].count("validation") == 3
    wrong = dataclasses.replace(concept, validation_data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="Concept 2, validation_data_dir"):
        preflight(mini, actions.configure(mini, {**SMALL, "validation_every": 1}, [concept, wrong]))


def test_the_validation_fraction_depends_on_the_images_alone(concept):
    settings = Settings(resolution=64, bucket_step=32, validation_every=1, validation_share=0.4)
    plan = make_plan([concept], settings)
    taken = with_validation_split(plan, [concept], settings).validation
    other = dataclasses.replace(settings, seed=1, train_batch_size=3)
    assert len(taken) == 2 and with_validation_split(plan, [concept], other).validation == taken
    assert with_validation_split(plan, [concept], dataclasses.replace(settings, validation_every=0)) is plan


def test_validation_images_that_are_also_trained_are_reported(concept, images):
    both = dataclasses.replace(concept, validation_data_dir=str(images / "instance"))
    settings = Settings(resolution=64, bucket_step=32, validation_every=1)
    plan = with_validation_split(make_plan([both], settings), [both], settings)
    assert "5 validation images also in the training data" in " ".join(plan.warnings)


def test_the_best_snapshot_is_never_deleted_and_can_be_resumed(train, mini, monkeypatch):
    losses = iter([0.9, 0.8, 0.2, 0.5, 0.6, 0.7, 0.75])
    monkeypatch.setattr(validation.Validation, "_mean_loss", lambda self, examples: next(losses))
    monkeypatch.setattr(validation.Validation, "_image_sets", lambda self: ({0: []}, {}))
    outcome = train(validation_every=1, save_every_steps=1, save_state_during=True, snapshots_to_keep=2)
    assert [e["step"] for e in outcome.of("validation") if e["best"]] == [1, 2]
    assert mini.snapshot_steps() == [2, 4, 5] and snapshot.best_snapshot(mini) == 2
    facts = json.loads((mini.snapshots / "2" / "snapshot.json").read_text())["facts"]
    assert facts["validation_loss"] == 0.2
    assert snapshot.read_snapshot(mini, "best").position.step == 2
