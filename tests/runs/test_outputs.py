"""What a run writes is checked before it starts: names, folders, the manifest, disk space."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from dreambooth.checkpoints.modules import weights_path
from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.runs.outputs import planned_outputs, space_problems, writing_problems
from dreambooth.runs.preflight import preflight, size_of
from dreambooth.settings import ModelFolder, Settings, parse
from dreambooth.tensor_files import write_tensors
from tests.cli.commands import run

Usage = namedtuple("Usage", "total used free")
GB = 10**9


def problems(model: ModelFolder, **changed: object) -> str:
    config = model.load()
    config = dataclasses.replace(config, settings=parse(Settings, changed, base=config.settings))
    return "\n".join(writing_problems(model, config, steps=5))


def without(model: ModelFolder, part: str) -> None:
    shutil.rmtree(getattr(model, part))


def with_other_weights(model: ModelFolder) -> None:
    write_tensors(weights_path(model.working, "unet"), {"conv_in.weight": torch.zeros(2)}, {})


def with_other_family(model: ModelFolder) -> None:
    path = model.source / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), "family": "SDXL"})


def with_damaged_manifest(model: ModelFolder) -> None:
    (model.source / "manifest.json").write_text("{")


def with_damaged_rest(model: ModelFolder) -> None:
    (model.source / "rest.safetensors").write_bytes(b"no")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda model: without(model, "source"), "manifest.json does not exist"),
        (with_other_weights, "does not match"),
        (with_other_family, "of the type SDXL"),
        (with_damaged_manifest, "is not valid JSON"),
        (with_damaged_rest, "rest.safetensors"),
    ],
    ids=["no source", "other weights", "other family", "damaged manifest", "damaged rest"],
)
def test_a_model_that_cannot_be_exported_is_not_trained(mini, damage, expected):
    assert problems(mini) == ""
    damage(mini)
    assert expected in problems(mini)


@pytest.mark.parametrize(
    ("settings", "blocked"),
    [
        ({"use_lora": True}, "Lora"),
        ({"use_lora": False}, "Stable-diffusion"),
        ({"use_lora": False, "use_subdir": True, "custom_model_name": "sub"}, "Stable-diffusion/sub"),
        ({"use_lora": True}, "dreambooth/mini/snapshots"),
        ({"use_lora": True}, "dreambooth/mini/samples"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(mini, models_dir, settings, blocked):
    place = models_dir / blocked
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    assert f"{place} is a file" in problems(mini, **settings)


def test_a_folder_in_the_place_of_a_result_is_named(mini, models_dir):
    place = models_dir / "Lora" / "ann_5.safetensors"
    place.mkdir(parents=True)
    assert f"{place} is a folder" in problems(mini, use_lora=True, custom_model_name="ann")
    assert problems(mini, use_lora=True, custom_model_name="bob") == ""


def test_a_link_to_a_missing_drive_is_named(mini, models_dir, tmp_path):
    (models_dir / "Lora").symlink_to(tmp_path / "missing drive")
    assert "is a link to a place that does not exist" in problems(mini, use_lora=True)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_a_read_only_folder_is_named(mini, models_dir):
    (models_dir / "Lora").mkdir()
    (models_dir / "Lora").chmod(0o500)
    assert "No permission to write" in problems(mini, use_lora=True)


def outputs(model: ModelFolder, steps: int = 100, steps_per_epoch: int = 10, **changed: object) -> dict[str, int]:
    config = model.load()
    config = dataclasses.replace(config, settings=parse(Settings, changed, base=config.settings))
    planned = planned_outputs(model, config, size_of(model), steps, steps_per_epoch)
    return {output.what: output.number for output in planned}


def test_every_file_of_the_run_is_counted(mini):
    lora = {"use_lora": True, "save_state_cancel": False}
    assert outputs(mini, **lora, save_embedding_every=3)["LoRA"] == 4, "epochs 3, 6, 9 and the end"
    assert outputs(mini, **lora, save_embedding_every=0, save_every_steps=20)["LoRA"] == 5
    assert outputs(mini, **lora, save_embedding_every=3, save_lora_during=False)["LoRA"] == 1
    full = {"use_lora": False, "save_embedding_every": 2, "save_state_cancel": False}
    assert outputs(mini, **full)["checkpoint"] == 1
    assert outputs(mini, **full, save_ckpt_during=True)["checkpoint"] == 5
    assert outputs(mini, **full, save_state_during=True, snapshots_to_keep=2)["snapshot"] == 3
    assert outputs(mini, **full, save_state_during=True, snapshots_to_keep=0)["snapshot"] == 4
    assert "snapshot" not in outputs(mini, **full)


def test_a_full_drive_stops_the_run_before_it_starts_with_figures(mini, models_dir, monkeypatch, subject_concepts):
    config = mini.load()
    planned = planned_outputs(mini, config, size_of(mini), 100, 10)
    assert space_problems(planned) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GB, GB, 10_000))
    (problem,) = space_problems(planned)
    assert "checkpoint" in problem and "weights in working" in problem and "10 kB is free" in problem
    result = run("check", "mini", "--concepts", subject_concepts, "--models-dir", models_dir)
    assert result.returncode == 1 and "This run needs" in result.stderr


def test_each_drive_is_reported(mini, models_dir, monkeypatch):
    """The LoRA folder may be on another drive than the models."""
    (models_dir / "Lora").mkdir()
    real, other = os.stat, models_dir / "Lora"

    def stat(path, *args, **kwargs):
        found = real(path, *args, **kwargs)
        return os.stat_result([*found[:2], 99, *found[3:]]) if Path(path) == other else found

    config = mini.load()
    config = dataclasses.replace(config, settings=parse(Settings, {"use_lora": True}, base=config.settings))
    planned = planned_outputs(mini, config, size_of(mini), 100, 10)
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GB, 0, 0 if Path(path) == other else GB))
    (problem,) = space_problems(planned)
    assert str(other) in problem and "LoRA" in problem and "snapshot" not in problem


@pytest.mark.parametrize("name", ["sub/ann", "C:\\loras\\ann", "a:b?", "con", "LPT¹.x", "ann.", "x" * 101, "猫" * 40,
                                  "a\nb", "..", "ann.safetensors"])  # fmt: skip
def test_output_names_are_refused_as_model_names_are(mini, models_dir, subject_concepts, name):
    arguments = ("--concepts", subject_concepts, "--set", f"custom_model_name={name}", "--models-dir", models_dir)
    result = run("check", "mini", *arguments)
    assert result.returncode == 1
    assert "custom_model_name (Custom model name): '" in result.stderr


def test_a_name_in_a_file_written_by_hand_is_checked_too(mini, caplog):
    values = json.loads(mini.config_path.read_text())
    write_json(mini.config_path, {**values, "custom_model_name": "../../evil"})
    assert mini.load().settings.custom_model_name == "" and "'../../evil' is not valid" in caplog.text


def test_all_reasons_are_given_at_once(mini, models_dir):
    shutil.rmtree(mini.source)
    with pytest.raises(UserError) as caught:
        preflight(mini, mini.load())
    assert len(caught.value.problems) == 2  # no images, no manifest
