"""Runs of imported sd-scripts parameters: ranks as the LoRA has them, dropout and padding as the file says."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dreambooth import actions
from dreambooth.settings import Settings, parse
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.prompts import CachedPromptEmbedder
from tests.training.conftest import SMALL, tensors

NETWORK = """
network_module = "networks.lora"
network_dim = 8
network_alpha = 8
learning_rate = 1e-3
max_train_epochs = 1
"""
ONE_STEP = {"num_train_epochs": 1, "max_train_steps": 1}
UNCHANGED = {"lora_learning_rate": 0, "lora_txt_learning_rate": 0, "weight_decay": 0, "tenc_weight_decay": 0}


@pytest.fixture
def imported(mini, concept, tmp_path):
    """The result of the import action for the text of a file, applied to the default settings."""

    def take(text: str) -> dict[str, Any]:
        (tmp_path / "train.toml").write_text(text)
        config = actions.configure(mini, {}, [concept])
        config = dataclasses.replace(config, settings=parse(Settings, SMALL))
        return actions.images.import_configuration(mini, tmp_path / "train.toml", config)

    return take


def made(train, folder: Path, **settings: Any) -> Path:
    """A LoRA of these settings, in a file of its own."""
    (path,) = train(**settings, max_train_steps=2).result.files
    return Path(shutil.copy(path, folder / "start.safetensors"))


KINDS = {
    "lora": {"lora_unet_rank": 3, "lora_txt_rank": 5, "lora_unet_alpha": 2.0, "lora_txt_alpha": 1.5},
    "locon with dora": {"use_lora_extended": True, "lora_conv_rank": 2, "lora_conv_alpha": 1.0, "lora_dora": True},
    "loha": {"lora_type": "LoHa", "lora_unet_rank": 3},
    "the unet alone": {"stop_text_encoder": 0, "lora_unet_rank": 3},
    "the text encoder alone": {"train_unet": False, "lora_txt_rank": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_dim_from_weights_takes_all_sizes_from_the_file(imported, train, mini, tmp_path, kind):
    start = made(train, tmp_path, **KINDS[kind])
    messages = imported(NETWORK + "network_weights = 'start.safetensors'\ndim_from_weights = true\n")
    assert [line for line in messages["without"] if "weights" in line] == []
    saved = dataclasses.asdict(mini.load().settings)
    assert {key: saved[key] for key in KINDS[kind]} == KINDS[kind]
    assert any(line.startswith("dim_from_weights -> lora_") for line in messages["taken"])
    run = train(**{**saved, **ONE_STEP, **UNCHANGED})
    assert run.error is None and "Starting from start.safetensors" in run.messages
    before, after = tensors(start), run.weights()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_without_dim_from_weights_the_files_sizes_have_to_be_set(imported, train, tmp_path):
    made(train, tmp_path, lora_unet_rank=3)
    messages = imported(NETWORK + "network_weights = 'start.safetensors'\n")
    assert messages["settings"]["lora_unet_rank"] == 8
    refused = train(**{**messages["settings"], **ONE_STEP}).error
    assert "lora_unet_rank" in str(refused) and "must be 3" in str(refused)


def test_dim_from_weights_of_what_is_no_lora_or_of_several_ranks(imported, train, tmp_path):
    text = NETWORK + "network_weights = 'start.safetensors'\ndim_from_weights = true\n"
    start = made(train, tmp_path, lora_unet_rank=4, lora_txt_rank=3)
    uneven = tensors(start)
    down = next(key for key in uneven if key.startswith("lora_unet") and key.endswith("lora_down.weight"))
    up = down.replace("lora_down", "lora_up")
    uneven[down], uneven[up] = uneven[down][:1].clone(), uneven[up][:, :1].clone()
    uneven[down.replace("lora_down.weight", "alpha")] = torch.tensor(1.0)
    save_file(uneven, start)
    messages = imported(text)
    (line,) = [line for line in messages["without"] if line.startswith("dim_from_weights: lora_unet_rank")]
    assert "has several values (1, 4)" in line
    assert messages["settings"]["lora_txt_rank"] == 3, "what is the same everywhere is taken"
    start.write_bytes(b"no tensors")
    messages = imported(text)
    assert any(line.startswith("dim_from_weights: ") and "start.safetensors" in line for line in messages["without"])
    assert messages["settings"]["lora_unet_rank"] == 8


def test_network_dropout_drops_between_the_factors_of_lora(imported, train, monkeypatch):
    dropped: list[tuple[torch.Tensor, torch.Tensor]] = []
    drop = AdapterDropout.apply

    def recorded(self, x, *args, **kwargs):
        dropped.append((x.detach(), drop(self, x, *args, **kwargs)))
        return dropped[-1][1]

    monkeypatch.setattr(AdapterDropout, "apply", recorded)
    messages = imported(NETWORK + "network_dropout = 0.25\n")
    assert train(**{**messages["settings"], **ONE_STEP}).error is None
    assert all(8 in (x.shape[-1], x.shape[1]) for x, _ in dropped), "lora_down's output, of the rank's size"
    zeros = torch.cat([(y == 0)[x != 0] for x, y in dropped]).float().mean().item()
    assert zeros == pytest.approx(0.25, abs=0.01)
    x, y = max(dropped, key=lambda pair: pair[0].numel())
    torch.testing.assert_close(y[y != 0], x[y != 0] / 0.75)
    dropped.clear()
    assert train(**{**imported(NETWORK)["settings"], **ONE_STEP}).error is None and not dropped


def test_no_token_padding_ends_a_batch_with_its_longest_caption(imported, train, monkeypatch):
    lengths: list[int] = []
    batch = CachedPromptEmbedder.batch

    def recorded(self, prompts):
        embedding = batch(self, prompts)
        lengths.append(embedding["states"].shape[1])
        return embedding

    monkeypatch.setattr(CachedPromptEmbedder, "batch", recorded)
    padded = train(**{**imported(NETWORK)["settings"], **ONE_STEP})
    assert padded.error is None and lengths and set(lengths) == {77}
    lengths.clear()
    cut = train(**{**imported(NETWORK + "no_token_padding = true\n")["settings"], **ONE_STEP})
    assert cut.error is None and lengths and 2 < max(lengths) < 77
    assert cut.losses != padded.losses
