"""EMA weights: stored, extracted, included in a checkpoint or written as its UNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.lora import WeightedLora
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.modules import load_component, save_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.errors import UserError
from dreambooth.settings import ModelFolder

UNET = "model.diffusion_model."


def ema_name(key: str) -> str:
    return "model_ema." + key.removeprefix("model.").replace(".", "")


@pytest.fixture
def source(tmp_path: Path, mini_checkpoint: Path) -> Path:
    """The embedded model with EMA weights as the original code saves them: fp32, and two counters."""
    path = tmp_path / "with ema.safetensors"
    with open_tensors(mini_checkpoint) as file:
        tensors = {key: file.get(key) for key in file}
        ema_weights = {ema_name(key): value.float() * 0.5 for key, value in tensors.items() if key.startswith(UNET)}
        counters = {
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        }
        safetensors.torch.save_file({**tensors, **ema_weights, **counters}, path, file.metadata)
    return path


@pytest.mark.parametrize("extracted", [False, True])
def test_is_rebuilt_bit_for_bit(source, new, tmp_path, extracted, assert_same):
    facts = extract(source, new, extract_ema=extracted)
    assert facts.has_ema == extracted == (new.working / "ema_unet").is_dir()
    for ema in ("none", "include") if extracted else ("none",):
        out = write_checkpoint(new, tmp_path / f"{ema}.safetensors", ema=ema)
        assert_same(out, source)
        assert verify_checkpoint(out, new).ok


def test_is_dropped_when_the_unet_was_trained(source, new, tmp_path, read_all):
    """EMA weights that don't belong to the weights in the file would be misleading."""
    extract(source, new)
    _train(new)
    out = write_checkpoint(new, tmp_path / "out.safetensors")
    assert not any(key.startswith("model_ema.") for key in read_all(out))
    assert verify_checkpoint(out, new).ok


def test_trained_ema_weights_are_included_or_replace_the_unet(source, new, tmp_path, read_all):
    extract(source, new)
    _train(new)
    unet = load_component(new.working, "unet")
    average = {name: value * 0.25 for name, value in unet.state_dict().items()}
    save_component(new.working, "ema_unet", average)
    with_ema = read_all(write_checkpoint(new, tmp_path / "include.safetensors", ema="include"))
    replaced = read_all(write_checkpoint(new, tmp_path / "replace.safetensors", ema="replace"))
    assert all(verify_checkpoint(tmp_path / f"{ema}.safetensors", new).ok for ema in ("include", "replace"))
    key = UNET + "input_blocks.4.0.in_layers.2.weight"
    expected = average["down_blocks.1.resnets.0.conv1.weight"]
    assert with_ema.keys() == read_all(source).keys()
    assert torch.equal(with_ema[ema_name(key)], expected)
    assert not torch.equal(with_ema[key].float(), expected)
    assert torch.equal(replaced[key], expected.half())
    assert not any(key.startswith("model_ema.") for key in replaced)


def test_a_lora_is_merged_into_the_weights_written_as_the_unet(source, new, tmp_path, read_all):
    """Into the EMA weights when they replace the trained ones; never into those that are only included."""
    extract(source, new, extract_ema=True)
    lora, key = tmp_path / "lora.safetensors", UNET + "middle_block.1.proj_in.weight"
    width = len(read_all(source)[key])
    pair = {"lora_down.weight": torch.ones(1, width, 1, 1), "lora_up.weight": torch.ones(width, 1, 1, 1)}
    write_lora(lora, {"lora_unet_mid_block_attentions_0_proj_in": Lora(pair)}, {})
    for ema, written in (("replace", ema_name(key)), ("include", key)):
        out = read_all(write_checkpoint(new, tmp_path / f"{ema}.safetensors", ema=ema, loras=[WeightedLora(lora)]))
        assert torch.allclose(out[key].float(), read_all(source)[written].float() + 1, atol=2e-3)
    assert torch.equal(out[ema_name(key)], read_all(source)[ema_name(key)])


def test_ema_weights_are_added_to_a_model_whose_source_had_none(mini, tmp_path):
    save_component(mini.working, "ema_unet", load_component(mini.working, "unet"))
    out = write_checkpoint(mini, tmp_path / "out.safetensors", ema="include")
    with open_tensors(out) as file:
        weights = {ema_name(key) for key in file if key.startswith(UNET)}
        assert {key for key in file if key.startswith("model_ema.")} == weights
    assert verify_checkpoint(out, mini).ok


def test_missing_ema_weights_are_reported(mini, tmp_path):
    with pytest.raises(UserError, match="mini has no EMA weights"):
        write_checkpoint(mini, tmp_path / "out.safetensors", ema="include")


def _train(model: ModelFolder) -> None:
    unet = load_component(model.working, "unet")
    with torch.no_grad():
        next(unet.parameters()).add_(1)
    save_component(model.working, "unet", unet)
