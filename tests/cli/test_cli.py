"""The command line in real processes: exit codes, Ctrl-C, kill."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.writing import is_finite
from tests.cli.commands import run, run_fork, run_process, start, wait_for_step

QUICK = ["resolution=64", "bucket_step=32", "train_batch_size=2", "use_lora=true", "save_preview_every=0"]


def described(path: Path) -> dict[str, tuple[object, ...]]:
    """Shape and finiteness of each tensor. Reading all of them shows that the file is complete."""
    with open_tensors(path) as file:
        return {key: (file.shape(key), is_finite(file.get(key))) for key in file}


def test_create_train_sample_and_generate_ckpt(tmp_path, mini_checkpoint, subject_concepts):
    models = ["--models-dir", tmp_path / "模型 folder", "--json"]
    created = run_fork("create", "my toy", "--source", mini_checkpoint, *models)
    assert created.returncode == 0, created.stderr
    args = ("--concepts", subject_concepts, "--set", *QUICK, "max_train_steps=2", *models)
    trained = run_process("train", "my toy", *args)
    assert trained.returncode == 0, trained.stderr
    lora = json.loads(trained.stdout)["files"][0]
    sampled = run_fork("sample", "my toy", "--prompt", "a zwx toy", "--steps", 2, "--width", 64, "--height", 64,
                       "--count", 2, "--lora", lora, "--out", tmp_path / "out", *models)  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    assert all(Path(path).exists() for path in json.loads(sampled.stdout)["samples"])
    generated = run_fork("generate-ckpt", "my toy", "--lora", lora, *models)
    assert generated.returncode == 0, generated.stderr
    with open_tensors(json.loads(generated.stdout)["checkpoint"]) as made, open_tensors(mini_checkpoint) as source:
        assert set(made.keys()) == set(source.keys())


def test_create_leaves_an_existing_model_alone(mini, mini_checkpoint):
    before = mini.config_path.read_bytes()
    refused = run("create", "mini", "--source", mini_checkpoint, "--models-dir", mini.folders.models)
    assert refused.returncode == 1
    assert "already exists" in refused.stderr
    assert mini.config_path.read_bytes() == before


def test_all_problems_at_once_and_no_traceback(mini, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.json").write_text(json.dumps([{"instance_data_dir": "empty", "sample_steps": 3}]))
    checked = run("check", "mini", "--models-dir", mini.folders.models, "--concepts", tmp_path / "c.json",
                  "--set", "learning_rat=1", "resolution=7", "oops", "--json")  # fmt: skip
    assert checked.returncode == 1
    problems = json.loads(checked.stdout)["problems"]
    for name in ("learning_rat", "learning_rate?", "resolution", "oops", "sample_steps"):
        assert name in "\n".join(problems)
    assert "Traceback" not in checked.stderr


def test_check_shows_what_training_will_do(mini, subject_concepts):
    checked = run_fork("check", "mini", "--models-dir", mini.folders.models, "--concepts", subject_concepts, "--json",
                       "--set", "train_batch_size=4", "num_train_epochs=10")  # fmt: skip
    report = json.loads(checked.stdout)
    assert (report["pictures"], report["steps_per_epoch"], report["steps"]) == (6, 2, 20)
    assert all("zwx toy" in row["caption"] for row in report["table"])


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
def test_ctrl_c_once_saves_and_the_run_can_be_resumed(mini, subject_concepts):
    args = ["--models-dir", mini.folders.models, "--json", "--set", *QUICK, "num_train_epochs=300"]
    process = start("train", "mini", "--concepts", subject_concepts, *args)
    wait_for_step(mini.root, 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out)["state"] == "cancelled"
    assert list(mini.snapshots.glob("*/snapshot.json"))
    resumed = run("train", "mini", "--resume", *args[:-1], "num_train_epochs=3")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step" in resumed.stderr


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
def test_ctrl_c_twice_stops_immediately_and_files_stay_intact(mini, subject_concepts):
    before = {p: (p.read_bytes(), described(p)) for p in mini.working.rglob("*.safetensors")}
    process = start("train", "mini", "--concepts", subject_concepts, "--models-dir", mini.folders.models,
                    "--set", *QUICK, "use_lora=false", "num_train_epochs=300")  # fmt: skip
    wait_for_step(mini.root, 2, process)
    process.send_signal(signal.SIGINT)
    while "to stop immediately" not in process.stderr.readline():  # two signals at once would be one
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert {p for p in mini.working.rglob("*.safetensors") if not p.name.startswith(".")} == set(before)
    for path, (content, tensors) in before.items():  # the old file byte for byte, or a complete new one
        assert path.read_bytes() == content or described(path) == tensors
    (log,) = mini.logging.glob("run_*.jsonl")
    assert 2 <= log.read_text().count('"kind": "step"') < 100, "it stopped long before its 900 steps"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
@pytest.mark.parametrize("after_ms", [60, *(pytest.param(ms, marks=pytest.mark.nightly) for ms in (0, 200))])
def test_killed_while_it_saves_everything_is_whole(mini, subject_concepts, after_ms):
    """SIGKILL at several moments after a save has started: every file can be read."""
    process = start("train", "mini", "--concepts", subject_concepts, "--models-dir", mini.folders.models,
                    "--set", *QUICK, "use_lora=false", "save_embedding_every=1", "save_ckpt_during=true",
                    "save_state_during=true", "use_ema=true", "num_train_epochs=300")  # fmt: skip
    wait_for_step(mini.root, 6, process)
    time.sleep(after_ms / 1000)
    process.kill()
    process.communicate()
    for path in [p for p in mini.folders.models.rglob("*.safetensors") if not p.name.startswith(".")]:
        if any(part.startswith(".") for part in path.relative_to(mini.folders.models).parts):
            continue  # a temporary file, never mistaken for a result
        with open_tensors(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                file.get(key)
    again = run("train", "mini", "--concepts", subject_concepts, "--models-dir", mini.folders.models,
                "--set", *QUICK, "max_train_steps=1")  # fmt: skip
    assert again.returncode == 0, again.stderr


def test_unknown_model_lists_the_existing_ones(mini):
    refused = run("train", "mni", "--models-dir", mini.folders.models)
    assert refused.returncode == 1
    assert "did you mean mini?" in refused.stderr
