"""import-toml and export-toml as a person and a program use them."""

from __future__ import annotations

import json

from tests.cli.commands import run, run_fork
from tests.interop import kohya_case


def test_from_a_dataset_to_a_plan_and_back(mini, tmp_path):
    folder = kohya_case.make(tmp_path / "例 case")
    (folder / "dataset.toml").write_text(kohya_case.toml() + "colour_aug = true\n", encoding="utf-8")
    models = ["--models-dir", mini.folders.models]
    took = run_fork("import-toml", folder / "dataset.toml", "mini", *models, "--json")
    assert took.returncode == 0, took.stderr
    said = json.loads(took.stdout)
    assert said["concepts"] == 2 and said["settings"]["bucket_rule"] == "kohya"
    assert "did you mean color_aug?" in said["without"][0]
    assert "\n  " in run("import-toml", folder / "dataset.toml", "mini", *models).stdout
    checked = json.loads(run("check", "mini", *models, "--json").stdout)
    assert (checked["steps_per_epoch"], checked["pictures"], checked["class_pictures"]) == (400, 10, 5)
    wrote = json.loads(run_fork("export-toml", "mini", tmp_path / "new.toml", *models, "--json").stdout)
    assert wrote["path"] == str(tmp_path / "new.toml") and (tmp_path / "new.toml").exists()
    refused = run("import-toml", tmp_path / "nowhere.toml", "mini", *models)
    assert refused.returncode == 1 and "nowhere.toml" in refused.stderr and "Traceback" not in refused.stderr
