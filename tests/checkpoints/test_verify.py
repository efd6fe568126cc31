"""Verification of exported files finds the problems of files with known ones."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.modules import load_component, save_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint, verify_lora
from dreambooth.tensor_files import write_tensors

KEY = "model.diffusion_model.out.2.weight"
NAME = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def exported(mini, tmp_path):
    return write_checkpoint(mini, tmp_path / "out.safetensors")


def changed(path, change) -> None:
    with open_tensors(path) as file:
        tensors = {key: file.get(key) for key in file}
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_an_untouched_model(mini, exported):
    found = verify_checkpoint(exported, mini)
    assert found.ok and found.n_changed == 0 and found.max_change == 0
    assert found.summary() == f"out.safetensors: {found.n_tensors} tensors, none changed, verified"
    assert json.loads(json.dumps(found.as_dict()))["ok"] is True


def test_changes_are_counted_and_measured(mini, exported):
    changed(exported, lambda t: t[KEY].view(-1)[0].add_(0.5))
    found = verify_checkpoint(exported, mini)
    assert found.ok and found.n_changed == 1
    assert found.max_change == pytest.approx(0.5, abs=1e-3)
    with open_tensors(exported) as file:
        assert found.mean_change == pytest.approx(0.5 / file.get(KEY).numel(), rel=1e-2)


def test_changes_are_counted_when_the_source_is_gone(mini, exported):
    path = mini.source / "manifest.json"
    path.write_text(path.read_text().replace("mini-sd.safetensors", "gone.safetensors"))
    changed(exported, lambda t: t[KEY].add_(1))
    found = verify_checkpoint(exported, mini)
    assert found.ok and found.n_changed == 1 and found.max_change is None


def test_only_the_change_of_training_is_counted_in_full_precision(mini, tmp_path):
    unet = load_component(mini.working, "unet")
    with torch.no_grad():
        unet.conv_out.weight.add_(0.25)
    save_component(mini.working, "unet", unet)
    found = verify_checkpoint(write_checkpoint(mini, tmp_path / "a.safetensors"), mini)
    assert found.ok and found.n_changed == 1 and found.max_change == pytest.approx(0.25, abs=1e-2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop(KEY), "1 missing"),
        (lambda t: t.update({"model.diffusion_model.extra": torch.ones(1)}), "1 unexpected"),
        (lambda t: t[KEY].view(-1)[0].fill_(float("nan")), "1 with NaN or infinite values"),
        (lambda t: t.update({KEY: t[KEY][:2].clone()}), "has the shape"),
    ],
    ids=["missing", "left over", "NaN", "shape"],
)
def test_problems_are_reported(mini, exported, change, expected):
    changed(exported, change)
    found = verify_checkpoint(exported, mini)
    assert not found.ok and expected in found.summary() and KEY.rpartition(".")[0].split(".")[0] in found.summary()


def write(path, up: torch.Tensor, width: int):
    parts = {"lora_down.weight": torch.ones(2, width, 1, 1), "lora_up.weight": up}
    write_tensors(path, {f"{NAME}.{part}": tensor for part, tensor in parts.items()})
    return path


def test_loras(mini, tmp_path):
    width = load_component(mini.working, "unet").mid_block.attentions[0].proj_in.weight.shape[0]
    up = torch.zeros(width, 2, 1, 1)
    idle = verify_lora(write(tmp_path / "idle.safetensors", up, width), mini)
    assert not idle.ok and "changes nothing" in idle.summary()
    up[0, 0] = 0.5
    found = verify_lora(write(tmp_path / "good.safetensors", up, width), mini)
    assert found.ok and found.n_changed == 1 and found.max_change == pytest.approx(0.5)
    up[0, 1] = float("nan")
    broken = verify_lora(write(tmp_path / "nan.safetensors", up, width), mini)
    assert not broken.ok and "NaN or infinite values in 1 of 1 module" in broken.summary()
