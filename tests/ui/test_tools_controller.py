"""The Tools tab makes what it says, of what was chosen, and says what came of it."""

from __future__ import annotations

import html
import time

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.lora import WeightedLora, lora_name, read_lora, target_modules, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.jobs import jobs
from dreambooth.ui.tools_controller import Tools


@pytest.fixture(scope="session")
def created(created_embedded):
    return created_embedded


@pytest.fixture
def tools(page_controller, mini) -> Tools:
    return Tools(page_controller)


@pytest.fixture
def lora(mini):
    """``lora(name, rank)``: a LoRA in the host's folder."""

    def make(name: str, rank: int = 2, seed: int = 0):
        modules, weights = load_modules(mini.working), {}
        generator = torch.Generator().manual_seed(seed)
        for path, layer in target_modules(modules.unet, "unet").items():
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


def test_a_lora_that_was_merged_in_is_extracted_again(tools, mini, lora, done):
    tuned = mini.folders.checkpoints / "tuned.safetensors"
    write_checkpoint(mini, tuned, loras=[WeightedLora(lora("one"))], dtype=torch.float32)
    assert {"mini (model)", "tuned.safetensors"} <= set(tools.file_choices.titles("sources"))
    for _ in range(2):
        done(tools.extract("mini", {"base": "mini (model)", "tuned": "tuned.safetensors", "energy": 0.999}))
    made = mini.folders.loras / "tuned-lora.safetensors"
    assert set(tools.file_choices.titles("loras")) == {"one.safetensors", made.name, "tuned-lora-2.safetensors"}
    found = read_lora(made)
    assert found.weights.keys() == read_lora(mini.folders.loras / "one.safetensors").weights.keys()
    view = tools.page_controller.look("mini")
    assert (
        "tuned-lora-2.safetensors" in view.status and "rank 2" in view.status and "% of the change kept" in view.status
    )
    assert html.escape("<lora:tuned-lora-2:1>") in view.files and view.idle


def test_resized_and_merged(tools, mini, lora, done):
    lora("one"), lora("other", rank=3, seed=1)
    done(tools.resize("", {"lora": "one.safetensors", "rank": 1, "name": "small"}))
    assert {adapter.rank for adapter in read_lora(mini.folders.loras / "small.safetensors").weights.values()} == {1}
    rows = [{"lora": "one.safetensors", "weight": 0.5}, {"lora": ""}, {"lora": "other.safetensors", "weight": -1}]
    done(tools.merge(None, {}, rows))
    merged = read_lora(mini.folders.loras / "one+other.safetensors")
    assert {adapter.rank for adapter in merged.weights.values()} == {5}
    assert "rank 5" in tools.page_controller.look(None).status


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


def test_what_cannot_be_done_is_a_line(tools, mini, lora, done):
    lora("one")
    refused = {
        "Choose the base checkpoint": tools.extract("mini", {}),
        "Choose the tuned checkpoint": tools.extract("mini", {"base": "mini (model)"}),
        "Choose the LoRA to resize": tools.resize("mini", {"lora": " "}),
        "rank (Rank): -1 is outside": tools.resize("mini", {"lora": "one.safetensors", "rank": -1}),
        "cannot be the name of a file": tools.resize("mini", {"lora": "one.safetensors", "name": "../evil"}),
        "Choose the LoRAs to merge": tools.merge("mini", {}, [{"lora": ""}]),
        "LoRA 2: weight (Weight): a number is missing": tools.merge("mini", {}, [{}, {"lora": "x", "weight": None}]),
        "Choose a model first": tools.merge_into_checkpoint(None, {}, [{"lora": "one.safetensors"}]),
    }
    for said, answer in refused.items():
        assert said in answer, answer
    assert jobs.current is None or not jobs.current.running
    done(tools.extract("mini", {"base": "mini (model)", "tuned": "mini (model)"}))
    assert "nothing to extract" in tools.page_controller.look("mini").status
    done(tools.resize("mini", {"lora": str(mini.folders.loras / "gone.safetensors")}))
    assert "gone.safetensors does not exist" in tools.page_controller.look("mini").status


def test_one_thing_at_a_time_and_it_can_be_cancelled(tools, mini, monkeypatch):
    def endless(*_, progress, **__):
        while True:
            progress(1, 2, "modules")
            time.sleep(0.01)

    monkeypatch.setattr(actions.loras, "resize_lora", endless)
    assert tools.resize("mini", {"lora": "big.safetensors"}) == ""
    while "modules" not in tools.page_controller.look("mini").status:
        time.sleep(0.01)
    view = tools.page_controller.look("mini")
    assert not view.idle and not view.locked and not view.training
    assert (
        "Resizing to big-resized: modules 1 of 2" in view.status and "Resizing to big-resized is going on" in view.why
    )
    assert "still running: wait for it, or cancel it" in tools.extract("mini", {"base": "a", "tuned": "b"})
    assert tools.page_controller.job_runner.tell("cancel") == ""
    assert jobs.current.wait(30)
    view = tools.page_controller.look("mini")
    assert view.idle and "Canceled. No partial files remain." in view.status and not view.why
    assert not mini.folders.loras.exists()


def test_what_nobody_expected_is_named(tools, mini, monkeypatch, done):
    monkeypatch.setattr(actions.loras, "resize_lora", lambda *_, **__: {}["gone"])
    done(tools.resize("mini", {"lora": "big.safetensors"}))
    assert "KeyError: &#x27;gone&#x27;" in tools.page_controller.look("mini").status


def test_a_look_at_a_file(tools, mini, lora):
    path = lora("one")
    said = tools.inspect("mini", {"file": path.name, "against": ""})
    assert "LoRA, rank 2" in said and "sd_v1" in said and "<dd>nothing</dd>" in said
    tuned = mini.folders.checkpoints / "tuned.safetensors"
    write_checkpoint(mini, tuned, loras=[WeightedLora(path)])
    said = tools.inspect("mini", {"file": "tuned.safetensors", "against": "mini (model)"})
    assert "Stable Diffusion 1.x" in said and "moved" in said and "unet" in said
    assert "Choose the file" in tools.inspect("mini", {"file": "", "against": ""})
    assert "does not exist" in tools.inspect("mini", {"file": "/nowhere/<b>x", "against": ""})
