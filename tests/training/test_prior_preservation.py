"""Prior preservation: with class images the class is preserved, without them it becomes the subject.

Beside diffusers' own trainer the same is measured by tools/compare_with_diffusers.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dreambooth import actions, embedded
from dreambooth.embedded.checker import Checker
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Concept, Folders, ModelFolder

pytestmark = pytest.mark.nightly(minutes=10)

SUBJECT = embedded.FOLDER / "subject"
TWELVE_EACH = {"num_class_images_per": 12, "class_infer_steps": 10, "class_guidance_scale": 4.0}
RECIPE = {
    "learning_rate": 4e-4, "txt_learning_rate": 4e-4, "lr_scheduler": "constant", "num_train_epochs": 50,
    "train_batch_size": 2, "prior_loss_weight": 1.0, "resolution": 128, "bucket_step": 32, "seed": 1,
    "mixed_precision": "no", "gradient_checkpointing": False, "save_preview_every": 0, "save_embedding_every": 0,
    "save_ckpt_after": False, "scheduler": "DPMSolverMultistep", "sample_batch_size": 8,
}  # fmt: skip
PICTURES = 40


def test_class_images_prevent_the_class_from_drifting(tmp_path: Path):
    _, untouched = _rates(_model(tmp_path / "untouched"), tmp_path / "samples")
    subject_rate, prior_rate = _rates(_trained(tmp_path / "with", **TWELVE_EACH), tmp_path / "drawn_with")
    sure, drifted = _rates(_trained(tmp_path / "without"), tmp_path / "drawn_without")
    assert prior_rate >= untouched - 0.05, (untouched, prior_rate)
    assert drifted <= untouched - 0.3, (untouched, drifted)
    assert min(subject_rate, sure) >= 0.7, (subject_rate, sure)


def _model(models: Path) -> ModelFolder:
    model = ModelFolder(Folders(models), "model")
    actions.create(model.folders, model.name, embedded.CHECKPOINT)
    model.save(actions.configure(model, {"scheduler": RECIPE["scheduler"]}))
    return model


def _trained(models: Path, **classes: float) -> ModelFolder:
    """Full training on "a zwx toy", with class images of "a toy" as in ``classes``."""
    model = _model(models)
    concept = Concept(
        instance_data_dir=str(SUBJECT), instance_prompt="a zwx toy", class_prompt="a toy", n_save_sample=0, **classes
    )
    actions.train(model, actions.configure(model, RECIPE, [concept]))
    return model


def _rates(model: ModelFolder, folder: Path) -> tuple[float, float]:
    """How often the subject's prompt brings the subject, and the class prompt a toy that is not the subject."""
    checker = Checker.load()
    references = [Image.open(path) for path in sorted(SUBJECT.glob("*.png"))]
    requests = [
        SampleRequest(prompt, seed=seed, steps=10, cfg=4.0, width=128, height=128)
        for prompt in ("a zwx toy", "a toy")
        for seed in range(PICTURES)
    ]
    images = [Image.open(path) for path in actions.sample(model, requests, folder, batch_size=8)]
    shows = checker.is_subject(images, references)
    toys = [attributes.kind == "toy" for attributes in checker.classify(images)]
    stays = [toy and not taken for toy, taken in zip(toys, shows, strict=True)]
    return sum(shows[:PICTURES]) / PICTURES, sum(stays[PICTURES:]) / PICTURES
