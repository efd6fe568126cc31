"""A dataset.toml is imported as concepts and settings, and exported again, with every Gradio."""

from __future__ import annotations

from tests.interop import kohya_case


def test_a_dataset_is_imported_and_exported(served, visitor, tmp_path):
    folder = kohya_case.make(tmp_path / "case")
    toml = kohya_case.toml(batch_size=3, resolution=448) + "color_aug = true\n"
    (folder / "dataset.toml").write_text(toml)
    visitor.create("with a dataset")
    visitor.sees_value("model_name", "with a dataset")
    visitor.tab("Concepts")
    visitor.open_accordion("db_concepts_list")
    visitor.fill(concepts_path=folder / "nothing.toml")
    visitor.press("take_concepts")
    visitor.sees("message", "nothing.toml")
    visitor.fill(concepts_path=folder / "dataset.toml")
    visitor.press("take_concepts")
    visitor.sees("message", "Imported 2 concepts.")
    visitor.sees("message", "color_aug")
    visitor.sees_value("c1_instance_data_dir", str(folder / "10_sls 1girl"))
    visitor.fill(concepts_written=tmp_path / "written.toml")
    visitor.press("write_concepts")
    visitor.sees("message", "Wrote")
    assert "num_repeats = 20" in (tmp_path / "written.toml").read_text()
    visitor.tab("Settings")
    visitor.open_accordions()  # some Gradios render an accordion when it is opened
    visitor.sees_value("train_batch_size", "3")
    visitor.sees_value("resolution", "448")
    assert not visitor.problems
