"""The import-toml and export-toml commands, with readable and JSON output."""

from __future__ import annotations

import json

from tests.cli.commands import run, run_fork
from tests.interop import kohya_case


def test_import_check_and_export(mini, tmp_path):
    folder = kohya_case.make(tmp_path / "例 case")
    (folder / "dataset.toml").write_text(kohya_case.toml() + "colour_aug = true\n", encoding="utf-8")
    models = ["--models-dir", mini.folders.models]
    imported = run_fork("import-toml", folder / "dataset.toml", "mini", *models, "--json")
    assert imported.returncode == 0, imported.stderr
    report = json.loads(imported.stdout)
    assert report["concepts"] == 2 and report["settings"]["bucket_rule"] == "kohya"
    assert "did you mean color_aug?" in report["without"][0]
    assert "\n  " in run("import-toml", folder / "dataset.toml", "mini", *models).stdout
    checked = json.loads(run("check", "mini", *models, "--json").stdout)
    assert (checked["steps_per_epoch"], checked["pictures"], checked["class_pictures"]) == (400, 10, 5)
    exported = json.loads(run_fork("export-toml", "mini", tmp_path / "new.toml", *models, "--json").stdout)
    assert exported["path"] == str(tmp_path / "new.toml") and (tmp_path / "new.toml").exists()
    failed = run("import-toml", tmp_path / "nowhere.toml", "mini", *models)
    assert failed.returncode == 1 and "nowhere.toml" in failed.stderr and "Traceback" not in failed.stderr


def test_an_import_without_images_changes_nothing(mini, tmp_path):
    folder = kohya_case.make(tmp_path / "case")
    models = ["--models-dir", mini.folders.models]
    assert run_fork("import-toml", folder, "mini", *models).returncode == 0
    before = mini.config_path.read_bytes()
    (tmp_path / "leaf.toml").write_text(f"train_data_dir = '{folder / '10_sls 1girl'}'\nresolution = 768\n")
    (tmp_path / "list.json").write_text(json.dumps([{"instance_data_dir": "D:/gone"}, {"instance_data_dir": "log"}]))
    (tmp_path / "log").mkdir()
    for name, reason in (
        ("leaf.toml", f"Name its parent folder, {folder}."),
        ("list.json", "Concept 1, instance_data_dir: "),
        ("log", "contains no images"),
    ):
        failed = run_fork("import-toml", tmp_path / name, "mini", *models)
        assert failed.returncode == 1 and reason in failed.stderr, failed.stderr
        assert mini.config_path.read_bytes() == before
    (tmp_path / "list.json").write_text(json.dumps([{"instance_data_dir": "D:/gone"}, {"instance_data_dir": "case"}]))
    partly = run_fork("import-toml", tmp_path / "list.json", "mini", *models, "--json")
    assert partly.returncode == 0 and "Concept 1, instance_data_dir: " in json.loads(partly.stdout)["without"][0]
