"""A run that starts from a LoRA has exactly its values, or is refused with all reasons before it starts."""

from __future__ import annotations

import shutil

import pytest
import torch

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from tests.training.conftest import SMALL, tensors

LOCON = {"use_lora_extended": True, "lora_unet_alpha": 2}


@pytest.mark.parametrize("kind", [{}, {**LOCON, "lora_dora": True}, {"lora_type": "LoHa"}, {"lora_type": "LoKr"}],
                         ids=["lora", "locon with dora", "loha", "lokr"])  # fmt: skip
def test_it_starts_with_the_files_values(train, mini, models_dir, created, kind, tmp_path):
    first = train(**kind, max_train_steps=3)
    (made,) = first.result.files
    copied = tmp_path / "kept.safetensors"
    shutil.copy(made, copied)
    untouched = {"learning_rate": 0, "lora_learning_rate": 0, "lora_txt_learning_rate": 0, "weight_decay": 0}
    again = train(**kind, **untouched, lora_start=str(copied), max_train_steps=1)
    assert again.error is None and "Starting from kept.safetensors" in again.messages
    assert again.losses and any(p != made for p in again.result.files)
    before, after = tensors(copied), again.weights()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_by_its_name_and_with_parts_that_are_new(train, mini):
    (made,) = train(stop_text_encoder=0, max_train_steps=1).result.files
    more = train(lora_start=made.stem, max_train_steps=1, lora_learning_rate=0, weight_decay=0, stop_text_encoder=1)
    before, after = tensors(made), more.weights()
    assert len(after) > len(before) and all(torch.equal(after[key], before[key]) for key in before)


def test_mismatches_are_reported_together_before_the_run(train, mini, concept):
    (made,) = train(**LOCON, max_train_steps=1).result.files

    def refused(**settings):
        values = {**SMALL, **LOCON, "lora_start": str(made), **settings}
        try:
            preflight(mini, actions.configure(mini, values, [concept]))
        except UserError as error:
            return sorted(error.problems)
        return []

    assert refused() == []
    messages = refused(lora_unet_rank=8, lora_txt_rank=2, lora_unet_alpha=0, use_lora_extended=False)
    keys = ["lora_txt_rank", "lora_unet_alpha", "lora_unet_rank", "use_lora_extended"]
    assert [line.split(" ")[0] for line in messages] == keys
    assert f"to start from {made}, it must be 4" in messages[0] and "must be 2.0" in messages[1]
    assert "must be LoRA" in refused(lora_type="LoKr")[0]
    assert "must be more than 0" in refused(stop_text_encoder=0)[0]
    assert "there is no file" in refused(lora_start="nowhere")[0]
    assert "is not a LoRA" in refused(lora_start=str(next((mini.working / "vae").glob("*.safetensors"))))[0]
    assert refused(use_lora=False, lora_start="nowhere") == []
