"""LoRAs with the names of other programs have the same effect, and are read back."""

from __future__ import annotations

import shutil

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora import match_adapters
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_family, load_layout
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from tests.training.conftest import SMALL, tensors


def test_other_spellings_are_written_and_read_back(train, mini, models_dir, created, tmp_path):
    files = {}
    for spelling in ("default", "kohya", "diffusers"):
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
        outcome = train(lora_spelling=spelling, lora_unet_alpha=1, use_lora_extended=True, max_train_steps=1)
        assert outcome.error is None
        files[spelling] = shutil.copy(outcome.result.files[0], tmp_path / f"{spelling}.safetensors")
    shapes, layout = Manifest.load(mini.source).shapes(), load_layout(mini.working, load_family(mini.working))
    deltas = {
        spelling: {
            ref: adapter.delta(torch.zeros(shapes[ref]))
            for ref, adapter in match_adapters(read_lora(path), shapes, layout).items()
        }
        for spelling, path in files.items()
    }
    for spelling in ("kohya", "diffusers"):
        assert deltas[spelling].keys() == deltas["default"].keys()
        for ref, expected in deltas["default"].items():
            assert torch.allclose(deltas[spelling][ref], expected, atol=2e-3 * expected.abs().max().item())
    assert tensors(files["kohya"]).keys() == tensors(files["default"]).keys()
    names = tensors(files["diffusers"]).keys()
    assert not any("alpha" in name for name in names)
    assert "unet.down_blocks.0.resnets.0.conv1.lora_A.weight" in names
    assert "text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_B.weight" in names


@pytest.mark.parametrize("settings", [{"lora_type": "LoKr"}, {"lora_dora": True}])
def test_diffusers_spelling_is_that_of_plain_lora_alone(mini, concept, settings):
    config = actions.configure(mini, {**SMALL, **settings, "lora_spelling": "diffusers"}, [concept])
    with pytest.raises(UserError, match=r"lora_spelling .* diffusers reads plain LoRA alone"):
        preflight(mini, config)
