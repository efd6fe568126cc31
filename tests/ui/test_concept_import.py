"""Under Concepts list: what lies at a path becomes concepts and settings, and the other way round."""

from __future__ import annotations

import dataclasses

import pytest

from dreambooth.settings import Settings, concept_values
from dreambooth.ui.concept_import import ConceptImport
from tests.interop import kohya_case


@pytest.fixture
def files(page_controller, mini) -> ConceptImport:
    return ConceptImport(page_controller)


def test_a_dataset_is_taken_over_and_written_again(files, mini, tmp_path):
    folder = kohya_case.make(tmp_path / "case")
    (folder / "dataset.toml").write_text(kohya_case.toml(batch_size=3) + "color_aug = true\n")
    on_the_page = {**dataclasses.asdict(Settings()), "seed": 7}
    before = mini.config_path.read_text()
    said = files.take("mini", f" {folder / 'dataset.toml'} ", on_the_page)
    assert "Took over 2 concepts." in said and "batch_size" in said and "color_aug" in said
    config = mini.load()
    assert (config.settings.train_batch_size, config.settings.seed) == (3, 7), "what the page showed is kept"
    assert (mini.backups / "db_config_0.json").read_text() == before
    concepts = [concept_values(concept) for concept in config.concepts]
    for name in ("new.toml", "new-2.toml"):
        said = files.write("mini", str(tmp_path / "new.toml"), dataclasses.asdict(config.settings), concepts)
        assert f"Wrote {tmp_path / name}." in said
    said = files.take("mini", str(tmp_path / "new-2.toml"), on_the_page)
    assert [concept_values(concept) for concept in mini.load().concepts] == concepts
    assert "Took over 2 concepts." in files.take("mini", str(folder), on_the_page)


def test_what_can_not_be_taken_over_changes_nothing(files, mini, tmp_path):
    before = mini.config_path.read_bytes()
    (tmp_path / "broken.toml").write_text("image_dir = \n")
    settings = dataclasses.asdict(Settings())
    refused = {
        "": "Paste a concepts list",
        "[{": "not valid JSON",
        '[{"num_repeats": 0}]': "num_repeats",
        str(tmp_path / "x"): "no such folder",
        str(tmp_path / "broken.toml"): "line 1",
    }
    for source, said in refused.items():
        assert said in files.take("mini", source, settings)
    assert "Give the path" in files.write("mini", " ", settings, [])
    assert "no concept" in files.write("mini", str(tmp_path / "x.toml"), settings, [])
    assert mini.config_path.read_bytes() == before and not (tmp_path / "x.toml").exists()
