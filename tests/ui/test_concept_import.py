"""Concepts list: concepts and settings are imported from files, and exported again."""

from __future__ import annotations

import dataclasses

import pytest

from dreambooth.settings import Settings, concept_values
from dreambooth.ui.concept_import import ConceptImport
from tests.interop import kohya_case


@pytest.fixture
def concept_import(page_controller, mini) -> ConceptImport:
    return ConceptImport(page_controller)


def test_a_dataset_is_imported_and_exported_again(concept_import, mini, tmp_path):
    folder = kohya_case.make(tmp_path / "case")
    (folder / "dataset.toml").write_text(kohya_case.toml(batch_size=3) + "color_aug = true\n")
    on_the_page = {**dataclasses.asdict(Settings()), "seed": 7}
    before = mini.config_path.read_text()
    message = concept_import.import_from("mini", f" {folder / 'dataset.toml'} ", on_the_page)
    assert "Imported 2 concepts." in message and "batch_size" in message and "color_aug" in message
    config = mini.load()
    assert (config.settings.train_batch_size, config.settings.seed) == (3, 7), "settings of the page stay"
    assert (mini.backups / "db_config_0.json").read_text() == before
    concepts = [concept_values(concept) for concept in config.concepts]
    for name in ("new.toml", "new-2.toml"):
        message = concept_import.export_to(
            "mini", str(tmp_path / "new.toml"), dataclasses.asdict(config.settings), concepts
        )
        assert f"Wrote {tmp_path / name}." in message
    message = concept_import.import_from("mini", str(tmp_path / "new-2.toml"), on_the_page)
    assert [concept_values(concept) for concept in mini.load().concepts] == concepts
    assert "Imported 2 concepts." in concept_import.import_from("mini", str(folder), on_the_page)


def test_a_failed_import_changes_nothing(concept_import, mini, tmp_path):
    before = mini.config_path.read_bytes()
    (tmp_path / "broken.toml").write_text("image_dir = \n")
    (tmp_path / "gone.toml").write_text("train_data_dir = 'D:/gone'\nresolution = 512\n")
    settings = dataclasses.asdict(Settings())
    expected = {
        "": "Paste a concepts list",
        "[{": "not valid JSON",
        '[{"num_repeats": 0}]': "num_repeats",
        str(tmp_path / "x"): "no such folder",
        str(tmp_path / "broken.toml"): "line 1",
        '[{"instance_data_dir": "D:/gone"}]': "There are no images to train, so nothing was imported",
        str(tmp_path / "gone.toml"): "D:/gone is a folder of a Windows computer",
    }
    for source, problem in expected.items():
        assert problem in concept_import.import_from("mini", source, settings)
    assert "Enter the path" in concept_import.export_to("mini", " ", settings, [])
    assert "no concept" in concept_import.export_to("mini", str(tmp_path / "x.toml"), settings, [])
    assert mini.config_path.read_bytes() == before and not (tmp_path / "x.toml").exists()
