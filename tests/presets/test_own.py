"""Presets of users: saved, applied, exported, imported; bad files get one clear line for each problem."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from dreambooth import actions
from dreambooth.actions import presets
from dreambooth.errors import UserError
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.presets.changes import changes
from dreambooth.presets.own import (
    delete_preset,
    export_preset,
    find_preset,
    import_preset,
    own_presets,
    save_preset,
)
from dreambooth.presets.preset_file import parse_preset, read_preset
from dreambooth.settings import Folders, ModelFolder, Settings, read_concepts
from tests.cli.commands import run


def _file(path, **values):
    path.write_text(json.dumps({"dreambooth_preset": 1, "title": "Mine", **values}), encoding="utf-8")
    return path


def test_a_saved_preset_brings_a_model_back_and_touches_nothing_personal(mini):
    config = mini.load()
    mine = dataclasses.replace(
        config.settings, use_lora=True, lora_unet_rank=12, custom_model_name="secret name", sanity_prompt="a zwx dog"
    )
    saved = presets.save(mini, dataclasses.replace(config, settings=mine), "my recipe")
    assert {"custom_model_name", "sanity_prompt", "seed", "lora_start"}.isdisjoint(saved.settings)
    other = dataclasses.replace(config, settings=dataclasses.replace(Settings(), sanity_prompt="mine", seed=5))
    mini.save(other)
    changed = presets.apply_preset(mini, "my recipe")
    after = mini.load().settings
    assert (after.use_lora, after.lora_unet_rank) == (True, 12)
    assert (after.sanity_prompt, after.seed, after.custom_model_name) == ("mine", 5, "")
    same = {change.key for change in changed}
    assert all(
        getattr(after, key) == getattr(other.settings, key) for key in dataclasses.asdict(after) if key not in same
    )


def test_exported_and_imported_it_is_the_same(tmp_path, mini):
    folders = mini.folders
    path = tmp_path / "elsewhere" / "shared.json"
    export_preset(presets.described(folders, "person-8gb", mini), path)
    imported = import_preset(folders, path)
    assert imported.name == "shared" and imported.families == ("v1x",) and not imported.overrides
    shipped, settings = find_preset(folders, "person-8gb"), mini.load().settings
    family = presets.family_of(mini)
    assert changes(imported, family, settings) == changes(shipped, family, settings)
    with pytest.raises(UserError, match="A preset named shared exists"):
        import_preset(folders, path)
    assert [preset.name for preset in own_presets(folders)[0]] == ["shared"] and not folders.model_names()[1:]
    delete_preset(folders, "shared")
    assert own_presets(folders) == ([], [])


def test_a_bad_file_gets_one_line_for_each_problem(tmp_path):
    path = _file(
        tmp_path / "bad.json", families=["SDXXL"], subject="cat", gpu_memory_gb="much", setings={},
        settings={"lora_unet_rank": {"value": 99999}, "optimizer": "Adamm", "custom_model_name": "x", "use_lora": "?"},
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        read_preset(path, "bad")
    problems = caught.value.problems
    parts = (
        "'SDXXL'",
        "'cat'",
        "gpu_memory_gb",
        "setings",
        "lora_unet_rank",
        "optimizer",
        "custom_model_name",
        "use_lora",
    )
    assert len(problems) == len(parts)
    for part in parts:
        assert [line for line in problems if part in line and line.startswith("bad.json: ")], part


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"dreambooth_preset": 2}, "it has version 2, and this release reads up to 1. Update the extension."),
        ({"dreambooth_preset": 1}, "settings: it has none."),
        ({"a": 1}, "this is no preset"),
        ([], "this is no preset"),
        ({"dreambooth_preset": 1, "settings": [1]}, "settings: it must be an object"),
        ({"dreambooth_preset": 1, "overrides": 3}, "overrides: it must be a list"),
        ({"dreambooth_preset": True}, "True is no version"),
        ({"dreambooth_preset": 1, "settings": {"resolution": None}}, "a number is missing"),
    ],
)
def test_what_is_no_preset_is_refused(values, text):
    with pytest.raises(UserError) as caught:
        parse_preset(values, "x")
    assert text in str(caught.value)


def test_unknown_settings_are_reported_and_kept(tmp_path, models_dir):
    path = _file(
        tmp_path / "next.json", settings={"use_lora": True, "lora_of_tomorrow": {"value": 3, "reason": "New."}}
    )
    folders = Folders(models_dir)
    preset = import_preset(folders, path)
    assert preset.notes() == ["lora_of_tomorrow: there is no such setting. It is ignored."]
    kept = json.loads((folders.presets / "next.json").read_text(encoding="utf-8"))
    assert kept["settings"]["lora_of_tomorrow"] == {"value": 3, "reason": "New."}


def test_a_preset_of_another_family_is_refused_with_one_line(models_dir):
    preset = save_preset(Folders(models_dir), "mine", Settings(), "zimage")
    with pytest.raises(UserError) as caught:
        changes(preset, SDXL, Settings())
    assert str(caught.value) == (
        "mine is a preset for Z-Image, and the model is Stable Diffusion XL. Choose another preset."
    )


@pytest.mark.parametrize("name", ["person-8gb", "LoRA, person", "", "a/b", "CON"])
def test_names_that_can_not_be_used_are_refused(models_dir, name):
    folders = Folders(models_dir)
    with pytest.raises(UserError):
        save_preset(folders, name, Settings(), "v1x")
    assert not folders.presets.exists()


def test_commands(mini, tmp_path, models_dir):
    at = ("--models-dir", str(models_dir))
    shown = run("preset", "show", "person-8gb", "--model", "mini", *at).stdout
    assert "num_train_epochs: 100 -> 150. Faces need more epochs than objects." in shown
    assert mini.load().settings.num_train_epochs == 100
    assert "person-8gb changed" in run("preset", "apply", "mini", "person-8gb", *at).stdout
    assert mini.load().settings.num_train_epochs == 150 and mini.load().settings.use_lora
    assert "preset: mine" in run("preset", "save", "mini", "mine", *at).stdout.lower()
    out = tmp_path / "mine.json"
    run("preset", "export", "mine", str(out), *at)
    run("preset", "delete", "mine", *at)
    run("preset", "import", str(out), "--name", "again", *at)
    listed = run("preset", "list", "mini", *at).stdout.splitlines()
    assert listed[0].split()[0] == "again" and any(line.startswith("style-24gb") for line in listed)
    assert "did you mean person-8gb?" in run("preset", "apply", "mini", "person8gb", *at).stderr


def test_a_model_trains_with_a_preset(created_embedded, models_dir, subject_concepts):
    """With a few steps in place of its epochs."""
    shutil.copytree(created_embedded, models_dir)
    embedded = ModelFolder(Folders(models_dir), "mini")
    presets.apply_preset(embedded, "object-8gb")
    config = dataclasses.replace(embedded.load(), concepts=read_concepts(subject_concepts)[0])
    settings = dataclasses.replace(
        config.settings, max_train_steps=2, save_preview_every=0, save_embedding_every=0, train_batch_size=1
    )
    result = actions.train(embedded, dataclasses.replace(config, settings=settings))
    assert result.state == "done" and list(embedded.folders.loras.glob("*.safetensors"))
