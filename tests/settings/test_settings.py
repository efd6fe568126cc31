"""Settings: declarations, validation with all problems at once, files of older versions."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Folders, ModelConfig, ModelFolder, Settings, parse, read_concepts
from dreambooth.settings.model_folder import config_from, values_of


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_every_default_is_valid_and_explained(setting):
    assert setting.parse(setting.default) == setting.default
    assert setting.label and setting.group
    assert setting.help


@pytest.mark.parametrize("setting", [s for s in SETTINGS.values() if s.applies], ids=lambda s: s.key)
def test_conditions_refer_to_existing_settings(setting):
    assert eval(setting.applies, {}, {key: s.default for key, s in SETTINGS.items()}) in (True, False)


def test_all_invalid_values_are_reported_at_once_with_the_nearest_name():
    with pytest.raises(UserError) as caught:
        parse(
            Settings, {"learning_rat": "1", "resolution": "9", "optimizer": "Adam", "seed": "nan", "use_ema": "maybe"}
        )
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "did you mean learning_rate?" in problems
    assert "9 is outside the range 64 to 2048" in problems
    assert "Torch AdamW" in problems


def test_text_is_converted_to_the_type_of_the_setting():
    settings = parse(
        Settings, {"learning_rate": "2e-4", "use_lora": "on", "train_batch_size": "4.0", "scheduler": "ddim"}
    )
    assert settings.learning_rate == 2e-4
    assert settings.use_lora is True
    assert settings.train_batch_size == 4 and isinstance(settings.train_batch_size, int)
    assert settings.scheduler == "DDIM"


def test_old_extensions_file_loads_and_reports_what_has_no_effect(caplog):
    old = {
        "model_name": "dog", "learning_rate": 5e-6, "optimizer": "8Bit Adam", "scheduler": "ddim", "lora_rank": 8,
        "weight_decay": 0.02, "revision": 700, "epoch": 100, "src": "C:/v1-5.safetensors", "disable_logging": 1,
        "lr_scheduler": "mystery",
        "concepts_list": [{"instance_data_dir": "", "instance_token": "sks", "max_steps": 3, "class_token": "dog",
                           "is_valid": True, "num_class_images_per": 3, "sample_seed": -1}],
    }  # fmt: skip
    with caplog.at_level(logging.WARNING, "dreambooth"):
        config = config_from("dog", old)
    assert config.settings.learning_rate == 5e-6
    assert config.settings.optimizer == "8bit AdamW"
    assert config.settings.lora_unet_rank == config.settings.lora_txt_rank == 8
    assert config.info.revision == 700
    assert config.concepts[0].instance_token == "sks" and config.concepts[0].num_class_images_per == 3
    assert config.unknown == {"disable_logging": 1}
    assert config.settings.lr_scheduler == Settings().lr_scheduler
    for name in ("disable_logging", "is_valid", "mystery"):
        assert name in caplog.text
    assert values_of(config)["disable_logging"] == 1, "saving keeps unknown keys"


REMOVED_AND_ON = {"tomesd": 0.5, "freeze_spectral_norm": True, "dynamic_img_norm": "true"}
REMOVED_AND_OFF = {"tomesd": 0.0, "freeze_spectral_norm": False, "dynamic_img_norm": False}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (REMOVED_AND_ON, ["token merging", "spectral norms", "dynamic image normalization"]),
        ({**REMOVED_AND_OFF, "tomesd": 0.3}, ["token merging"]),
        (REMOVED_AND_OFF, []),
    ],
    ids=["on", "one", "off"],
)
def test_removed_features_that_were_on_are_reported_once_and_their_keys_are_kept(tmp_path, caplog, keys, named):
    model = ModelFolder(Folders(tmp_path), f"removed {len(named)}")
    model.save(ModelConfig(model.name, unknown=keys))
    with caplog.at_level(logging.WARNING, "dreambooth"):
        config = model.load()
        model.save(dataclasses.replace(config, settings=parse(Settings, {"seed": 7})))
        assert model.load().settings.seed == 7
    assert len(caplog.messages) == bool(named)
    for key, feature in zip(keys, ["token merging", "spectral norms", "dynamic image normalization"], strict=True):
        assert (feature in caplog.text) == (key in caplog.text) == (feature in named)
    assert "db_config.json" in caplog.text or not named
    saved = json.loads(model.config_path.read_text())
    assert {key: saved[key] for key in keys} == keys


def test_saved_settings_load(tmp_path):
    model = ModelFolder(Folders(tmp_path), "猫 2")
    config = ModelConfig("猫 2", parse(Settings, {"use_lora": True, "seed": 7}))
    model.save(config)
    assert model.load() == config
    assert model.folders.model_names() == ["猫 2"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a:b"])
def test_names_outside_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError):
        ModelFolder(Folders(tmp_path), name)


def test_an_unknown_model_lists_the_existing_ones(tmp_path):
    ModelFolder(Folders(tmp_path), "my-dog").save(ModelConfig("my-dog"))
    with pytest.raises(UserError, match="did you mean my-dog"):
        ModelFolder(Folders(tmp_path), "my-dgo").require()


def test_folders_in_a_concepts_file_are_relative_to_it(tmp_path):
    (tmp_path / "concepts.json").write_text(json.dumps([{"instance_data_dir": "photos"}]))
    concepts, ignored = read_concepts(tmp_path / "concepts.json")
    assert concepts[0].instance_data_dir == str(tmp_path / "photos")
    assert ignored == []


@pytest.mark.parametrize("text", ["{}", "[1]", "[{", '[{"instance_dir": "x"}]'])
def test_invalid_concepts_are_refused(tmp_path, text):
    (tmp_path / "concepts.json").write_text(text)
    with pytest.raises(UserError):
        read_concepts(tmp_path / "concepts.json")
