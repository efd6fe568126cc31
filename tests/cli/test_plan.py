"""The ``plan`` command: images, buckets and steps of a run, without a model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import run, run_fork


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "小狗 dogs"
    folder.mkdir()
    for number, size in enumerate([(640, 480), (300, 300), (480, 640)]):
        Image.new("RGB", size, (number * 90, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("sks dog, " + "a very long tag, " * (30 if number == 1 else 1))
    return folder


def test_plan_of_a_folder(folder):
    done = run_fork("plan", folder, "--json", "--set", "num_train_epochs=7", "train_batch_size=2")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["settings"]["num_train_epochs"] == 7
    assert (plan["totals"]["pictures"], plan["totals"]["steps_per_epoch"], plan["totals"]["steps"]) == (3, 3, 21)
    assert [row["bucket"] for row in plan["pictures"]] == [[576, 448], [512, 512], [448, 576]]
    assert plan["pictures"][0]["crop"] == pytest.approx([11.43, 0, 628.57, 480], abs=1.5)
    assert plan["pictures"][1]["cut_off"] and "token" in plan["pictures"][1]["warnings"][0]
    assert {"path", "repeats", "captions", "tokens"} <= plan["pictures"][0].keys()
    assert plan["taken"] == plan["without"] == plan["other_files"] == []

    readable = run("plan", folder)
    assert readable.returncode == 0 and "576x448" in readable.stdout and "steps: 300" in readable.stdout
    assert "! " in readable.stdout and not readable.stdout.startswith("{")


def test_plan_of_a_concepts_list_with_a_model(folder, mini):
    concepts = folder.parent / "concepts.json"
    concept = {"instance_data_dir": folder.name, "instance_token": "sks", "class_token": "dog", "num_repeats": 5}
    concepts.write_text(json.dumps([concept]))
    settings = ["--set", "resolution=64", "bucket_step=32"]
    plan = json.loads(run("plan", concepts, "--json", *settings).stdout)
    assert [row["repeats"] for row in plan["pictures"]] == [5, 5, 5]
    assert "memory_bytes" not in plan["totals"]
    models = ["--models-dir", mini.folders.models]
    with_model = json.loads(run("plan", concepts, "--json", "--model", "mini", *models, *settings).stdout)
    assert with_model["totals"]["memory_bytes"] > 0 and with_model["totals"]["seconds"] is None
    assert with_model["pictures"] == plan["pictures"]
    checked = run("check", "mini", "--json", "--concepts", concepts, *models, *settings)
    assert json.loads(checked.stdout)["table"] == plan["pictures"]
    assert "sks dog" in run("check", "mini", "--concepts", concepts, *models, *settings).stdout

    settings += ["flow_loss_weighting=cosmap"]
    refused = json.loads(run("check", "mini", "--json", "--concepts", concepts, *models, *settings).stdout)["problems"]
    planned = run("plan", concepts, "--json", "--model", "mini", *models, *settings)
    assert planned.returncode == 0 and json.loads(planned.stdout)["warnings"][-1:] == refused
    assert f"warning: {refused[0]}" in run("plan", concepts, "--model", "mini", *models, *settings).stdout


def test_all_problems_are_reported_at_once(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "null.json").write_text(r'[{"instance_data_dir": "a\u0000b", "instance_token": ["x"]}]')
    (tmp_path / "huge.toml").write_text("#" * 1000)
    os.truncate(tmp_path / "huge.toml", 2**40)
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe.json")
    expected = {
        tmp_path / "null.json": "contains an invalid character",
        tmp_path / "huge.toml": "expected at most",
        tmp_path / ("x" * 300): "there is no such folder",
        tmp_path / "nowhere": "there is no such folder",
        tmp_path / "nowhere.json": "there is no such folder",
        empty: "contains no images",
        folder / "0.png": "is an image",
    }
    if os.name != "nt":
        expected[tmp_path / "pipe.json"] = "is a pipe"
    for path, message in expected.items():
        done = run("plan", path, "--json")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert message in "\n".join(json.loads(done.stdout)["problems"])
    done = run(
        "plan",
        tmp_path / "nowhere.json",
        "--json",
        "--set",
        "resolutoin=3",
        "oops",
        "--model",
        "none",
        "--models-dir",
        empty,
    )
    problems = "\n".join(json.loads(done.stdout)["problems"])
    assert all(part in problems for part in ("resolution?", "oops", "nowhere.json", "There is no model"))


@pytest.mark.skipif(sys.platform == "win32", reason="file names that Windows doesn't allow")
def test_readable_output_is_shortened_and_has_no_control_characters(tmp_path):
    """File names and captions can contain escape sequences and line breaks, which must not reach the terminal."""
    odd = tmp_path / "0 \x1b[31m\nred.png"
    Image.new("RGB", (64, 64), "red").save(odd)
    odd.with_suffix(".txt").write_text("a \x1b[31m toy, " + "very " * 9999 + "long")
    for number in range(260):
        (tmp_path / f"{number}.png").symlink_to(odd.name)
        (tmp_path / f"none {number}.png").touch()
    done = run("plan", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "… and 61 more images (--json has all)" in lines and "… and 60 more other files (--json has all)" in lines
    assert "Left out: empty files (260)" in done.stdout and len(done.stdout) < 300_000
    assert "\x1b" not in done.stdout and sum(r"0 \x1b[31m\nred.png  " in line for line in lines) == 1
    assert len(json.loads(run("plan", tmp_path, "--json").stdout)["pictures"]) == 261

    for command in ("captions", tmp_path, "--add", "x", "--dry-run"), ("prepare", tmp_path, "--dry-run"):
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout and len(done.stdout.splitlines()) < 450
        assert "more (--json has all)" in done.stdout
