"""The Tools tab: files are created from the chosen ones, and the status shows the result."""

from __future__ import annotations

import html
import time

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.lora import WeightedLora, lora_name
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.jobs import jobs
from dreambooth.ui.tools_controller import ToolsController


@pytest.fixture(scope="session")
def created(created_embedded):
    return created_embedded


@pytest.fixture
def tools(page_controller, mini) -> ToolsController:
    return ToolsController(page_controller)


@pytest.fixture
def lora(mini):
    """``lora(name, rank)``: a LoRA in the host's folder."""

    def make(name: str, rank: int = 2, seed: int = 0):
        modules, weights = load_modules(mini.working), {}
        generator = torch.Generator().manual_seed(seed)
        for path, layer in modules.family.adapter_targets("unet", modules.denoiser).items():
            out, *inner = layer.weight.shape
            parts = {
                "lora_down.weight": torch.randn(rank, *inner, generator=generator),
                "lora_up.weight": 0.05 * torch.randn(out, rank, *[1] * len(inner[1:]), generator=generator),
            }
            weights[lora_name(modules.layout, "unet", path)] = Lora(parts, alpha=rank)
        path = mini.folders.loras / f"{name}.safetensors"
        write_lora(path, weights, {"ss_base_model_version": "sd_v1"}, torch.float32)
        return path

    return make


def test_a_merged_lora_is_extracted_again(tools, mini, lora, done):
    tuned = mini.folders.checkpoints / "tuned.safetensors"
    write_checkpoint(mini, tuned, loras=[WeightedLora(lora("one"))], dtype=torch.float32)
    assert {"mini (model)", "tuned.safetensors"} <= set(tools.file_choices.titles("sources"))
    for _ in range(2):
        done(tools.extract("mini", {"base": "mini (model)", "tuned": "tuned.safetensors", "energy": 0.999}))
    made = mini.folders.loras / "tuned-lora.safetensors"
    assert set(tools.file_choices.titles("loras")) == {"one.safetensors", made.name, "tuned-lora-2.safetensors"}
    found = read_lora(made)
    assert found.weights.keys() == read_lora(mini.folders.loras / "one.safetensors").weights.keys()
    state = tools.page_controller.page_state("mini")
    assert (
        "tuned-lora-2.safetensors" in state.status
        and "rank 2" in state.status
        and "% of the energy kept" in state.status
    )
    assert html.escape("<lora:tuned-lora-2:1>") in state.status and state.idle


def test_resized_and_merged(tools, mini, lora, done):
    lora("one"), lora("other", rank=3, seed=1)
    done(tools.resize("", {"lora": "one.safetensors", "rank": 1, "name": "small"}))
    assert {adapter.rank for adapter in read_lora(mini.folders.loras / "small.safetensors").weights.values()} == {1}
    rows = [{"lora": "one.safetensors", "weight": 0.5}, {"lora": ""}, {"lora": "other.safetensors", "weight": -1}]
    done(tools.merge(None, {}, rows))
    merged = read_lora(mini.folders.loras / "one+other.safetensors")
    assert {adapter.rank for adapter in merged.weights.values()} == {5}
    assert "rank 5" in tools.page_controller.page_state(None).status


def test_merged_into_a_checkpoint_each_at_its_weights(tools, mini, mini_checkpoint, lora, done):
    one, other = lora("one"), lora("other", seed=1)
    rows = [{"lora": "one.safetensors", "weight": 0.5}, {"lora": str(other), "weight": -1, "text_weight": 0}]
    done(tools.merge_into_checkpoint("mini", {}, rows))
    assert jobs.current.error is None
    [made] = mini.folders.checkpoints.rglob("*.safetensors")
    uses = [WeightedLora(one, 0.5, 1), WeightedLora(other, -1, 0)]
    wanted = write_checkpoint(mini, mini.folders.models / "wanted.safetensors", loras=uses)
    with open_tensors(made) as ours, open_tensors(wanted) as theirs, open_tensors(mini_checkpoint) as plain:
        assert all(torch.equal(ours.get(key), theirs.get(key)) for key in theirs)
        assert not all(torch.equal(ours.get(key), plain.get(key)) for key in plain)


def test_errors_are_shown(tools, mini, lora, done):
    lora("one")
    expected = {
        "Choose the base checkpoint": tools.extract("mini", {}),
        "Choose the fine-tuned checkpoint": tools.extract("mini", {"base": "mini (model)"}),
        "Choose the LoRA to resize": tools.resize("mini", {"lora": " "}),
        "rank (Rank): -1 is outside": tools.resize("mini", {"lora": "one.safetensors", "rank": -1}),
        "is not valid as the name of a file": tools.resize("mini", {"lora": "one.safetensors", "name": "../evil"}),
        "Choose the LoRAs to merge": tools.merge("mini", {}, [{"lora": ""}]),
        "LoRA 2: weight (Weight): a number is missing": tools.merge("mini", {}, [{}, {"lora": "x", "weight": None}]),
        "Choose a model, or enter a name": tools.merge_into_checkpoint(None, {}, [{"lora": "one.safetensors"}]),
    }
    for problem, message in expected.items():
        assert problem in message, message
    assert jobs.current is None or not jobs.current.running
    done(tools.extract("mini", {"base": "mini (model)", "tuned": "mini (model)"}))
    assert "have equal weights" in tools.page_controller.page_state("mini").status
    done(tools.resize("mini", {"lora": str(mini.folders.loras / "gone.safetensors")}))
    assert "gone.safetensors does not exist" in tools.page_controller.page_state("mini").status


def test_one_job_at_a_time_which_can_be_cancelled(tools, mini, monkeypatch):
    def endless(*_, progress, **__):
        while True:
            progress(1, 2, "modules")
            time.sleep(0.01)

    monkeypatch.setattr(actions.loras, "resize_lora", endless)
    assert tools.resize("mini", {"lora": "big.safetensors"}) == ""
    while "modules" not in tools.page_controller.page_state("mini").status:
        time.sleep(0.01)
    state = tools.page_controller.page_state("mini")
    assert not state.idle and not state.locked and not state.training
    assert (
        "Resizing to big-resized: modules 1 of 2" in state.status
        and "Resizing to big-resized is running" in state.disabled_reason
    )
    assert "Resizing to big-resized is still running." in tools.extract("mini", {"base": "a", "tuned": "b"})
    assert tools.page_controller.job_runner.request("cancel") == ""
    assert jobs.current.wait(30)
    state = tools.page_controller.page_state("mini")
    assert state.idle and "Canceled. No partial files remain." in state.status and not state.disabled_reason
    assert not mini.folders.loras.exists()


def test_an_unexpected_error_is_shown_with_its_type(tools, mini, monkeypatch, done):
    monkeypatch.setattr(actions.loras, "resize_lora", lambda *_, **__: {}["gone"])
    done(tools.resize("mini", {"lora": "big.safetensors"}))
    assert "KeyError: &#x27;gone&#x27;" in tools.page_controller.page_state("mini").status


def test_inspect_a_file(tools, mini, lora):
    path = lora("one")
    message = tools.inspect("mini", {"file": path.name, "against": ""})
    assert "LoRA, rank 2" in message and "sd_v1" in message and "<dd>none</dd>" in message
    tuned = mini.folders.checkpoints / "tuned.safetensors"
    write_checkpoint(mini, tuned, loras=[WeightedLora(path)])
    message = tools.inspect("mini", {"file": "tuned.safetensors", "against": "mini (model)"})
    assert "Stable Diffusion 1.x" in message and "Differences" in message and "unet" in message
    assert "Choose the file" in tools.inspect("mini", {"file": "", "against": ""})
    assert "does not exist" in tools.inspect("mini", {"file": "/nowhere/<b>x", "against": ""})
