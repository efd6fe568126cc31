"""What each family of flow-matching models must pass: LoRAs with other names, and the tools for LoRAs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth import actions
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.cli import main
from dreambooth.models.adapter_layers import chosen_layers
from dreambooth.settings import ModelFolder
from dreambooth.settings.training import ALL_LINEAR, ATTENTION, ATTENTION_AND_MLP, DEFAULT_LAYERS
from dreambooth.training.lora_spelling import respelled
from tests.flow_models.files import Files, ModelFiles, random_lora, tensors_of


def check_spelling(own: Path, model: ModelFolder, spelling: str, names: Collection[str]) -> None:
    """The LoRA ``own`` gets these names of modules in another spelling."""
    file = read_lora(own)
    assert respelled({file.names[key]: adapter for key, adapter in file.weights.items()}, model, spelling).keys() == {
        *names
    }


def check_same_deltas(
    model: ModelFolder, own: Path, other: Path, weights: Mapping[str, Any], title: str, atol: float = 0.0
) -> None:
    """A LoRA with other names, written as ``other``, is one of the family, and changes the same weights by the same."""
    write_lora(other, dict(weights), {}, torch.float32)
    assert read_lora(other).made_for == title
    made = [tensors_of(actions.generate_checkpoint(model, loras=[path], precision="fp32")[0]) for path in (own, other)]
    assert made[0].keys() == made[1].keys()
    assert all(torch.allclose(made[0][key], made[1][key], rtol=0, atol=atol) for key in made[0])


def check_layer_presets(model: ModelFolder, attention: set[str], mlp: set[str], others: set[str]) -> None:
    """The layers of each choice of lora_layers, as paths in the modules without the numbers of blocks."""
    modules = load_modules(model.working, vae=False, text_encoder=False)
    expected = {
        DEFAULT_LAYERS: attention | mlp, ATTENTION: attention, ATTENTION_AND_MLP: attention | mlp,
        ALL_LINEAR: attention | mlp | others,
    }  # fmt: skip
    for layers, paths in expected.items():
        chosen = chosen_layers(modules.family, "transformer", modules.denoiser, layers)
        assert {re.sub(r"(?<=[.])\d+[.]", "", path, count=1) for path in chosen} == paths, layers
        assert all(layer is modules.denoiser.get_submodule(path) for path, layer in chosen.items())


def check_lora_tools(tmp_path: Path, model: ModelFolder, files: Files, family: ModelFiles, name: str, n: int) -> None:
    """LoRAs are extracted, resized, merged and inspected. ``name``: of one of its ``n`` modules, with underscores."""
    own = random_lora(tmp_path / "own.safetensors", model)
    tuned, _ = actions.generate_checkpoint(model, loras=[own], precision="fp32", out=tmp_path / "tuned.safetensors")
    lora, small, both = (tmp_path / f"{part}.safetensors" for part in ("lora", "small", "both"))
    precision = ["--precision", "fp32", "--out"]
    assert main(["lora-extract", "--base", str(files.transformer), "--tuned", str(tuned), "--rank", "2", *precision,
                 str(lora)]) == 0  # fmt: skip
    extracted, expected = read_lora(lora), read_lora(own)
    assert extracted.names == expected.names
    assert main(["lora-resize", str(lora), "--rank", "1", *precision, str(small)]) == 0
    assert main(["lora-merge", "--lora", str(lora), "--lora", str(small), "--lora-weight", "1", "--lora-weight", "-0.5",
                 *precision, str(both)]) == 0  # fmt: skip
    tensors = expected.weights[name].tensors
    zeros = torch.zeros(len(tensors["lora_up.weight"]), tensors["lora_down.weight"].shape[1])
    delta = [read_lora(path).weights[name].delta(zeros) for path in (own, lora, small, both)]
    assert torch.allclose(delta[0], delta[1], atol=2e-3)
    assert torch.allclose(delta[1] - 0.5 * delta[2], delta[3], atol=1e-4)
    assert inspect(both).family == family.title and inspect(both).adapters == {"LoRA, rank 3, alpha 3": n}
    assert inspect(tuned).recognized == f"{family.title}, by its tensors"
