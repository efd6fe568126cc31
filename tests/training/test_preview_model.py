"""Previews on another model: the LoRA on its weights, and nothing of it in what is trained."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import ModelFolder
from tests.mini_models import create
from tests.training.conftest import SMALL


@pytest.fixture
def other(mini: ModelFolder) -> ModelFolder:
    """Of the same family, with other weights."""
    model = ModelFolder(mini.folders, "other")
    shutil.copytree(mini.root, model.root)
    path = next((model.working / "unet").glob("*.safetensors"))
    weights = safetensors.torch.load_file(path)
    weights["conv_in.weight"] = weights["conv_in.weight"] * 1.5
    safetensors.torch.save_file(weights, path)
    return model


@pytest.mark.parametrize("kind", [{}, {"lora_type": "LoKr", "lora_dora": True}], ids=["LoRA", "LoKr with DoRA"])
def test_previews_are_those_of_the_chosen_model_with_the_lora(train, other, tmp_path, kind: dict[str, Any]) -> None:
    run = {**kind, "max_train_steps": 2, "sanity_prompt": "a red star", "sanity_seed": 3, "mixed_precision": "no",
           "lora_learning_rate": 0.02, "save_preview_every": 1}  # fmt: skip
    plain = train(**run, samples=0)
    trained = train(**run, samples=0, preview_model="other")
    assert trained.digest() == plain.digest() and trained.losses == plain.losses
    lora, folders = trained.result.files[-1], trained.model.folders
    request = SampleRequest("a red star", seed=3, width=64, height=64)

    def preview(outcome: Any) -> Any:
        return np.asarray(Image.open(outcome.of("preview")[-1]["path"]), dtype=int)

    def sample(name: str) -> Any:
        (path,) = actions.sample(ModelFolder(folders, name), [request], tmp_path / name, loras=[lora])
        return np.asarray(Image.open(path), dtype=int)

    assert np.abs(preview(trained) - sample("other")).max() <= 2
    assert np.abs(preview(plain) - sample("mini")).max() <= 2
    assert np.abs(preview(trained) - preview(plain)).max() > 20


def test_models_that_can_not_be_used_are_named_before_the_run(mini, concept, other) -> None:
    create(mini.folders, "xl", model_type="SDXL")

    def problem(name: str, **settings: Any) -> str:
        values = {**SMALL, "preview_model": name, **settings}
        try:
            preflight(mini, actions.configure(mini, values, [concept]))
        except UserError as error:
            return str(error)
        return ""

    assert problem("other") == problem("nowhere", use_lora=False) == ""
    assert problem("nowhere").startswith("preview_model: There is no model 'nowhere'")
    assert "preview_model: xl is a model of Stable Diffusion XL; choose one of Stable Diffusion 1" in problem("xl")
