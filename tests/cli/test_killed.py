"""SIGKILL at any moment: files stay intact, and the resumed run ends bit for bit like an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import time

import pytest
import torch
from PIL import Image

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import Folders, ModelFolder
from tests.cli.commands import run, run_fork, start
from tests.training.conftest import tensors

pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
EACH = ["resolution=64", "bucket_step=32", "train_batch_size=2", "num_train_epochs=3", "save_every_steps=2",
        "save_state_during=true", "save_state_after=true", "preview_every_steps=3", "save_preview_every=0",
        "hflip=true", "shuffle_tags=true", "gradient_checkpointing=false"]  # fmt: skip
KINDS = {
    "lora, with class images": ["use_lora=true", "stop_text_encoder=0.5", "lora_type=LoKr"],
    "full, with EMA and text encoder": ["use_lora=false", "use_ema=true", "infer_ema=true",
                                             "save_ckpt_during=true", "learning_rate=1e-4"],
    "lora of a flow model, with class images": ["use_lora=true"],
}  # fmt: skip


@pytest.fixture(scope="module")
def concepts(tmp_path_factory, subject_concepts):
    """The embedded subject's images, with class images to generate."""
    (concept,) = json.loads(subject_concepts.read_text())
    concept |= {"instance_data_dir": str(subject_concepts.parent / concept["instance_data_dir"]), "class_data_dir": "",
                "num_class_images_per": 1, "class_infer_steps": 2, "class_prompt": "a toy",
                "save_infer_steps": 2}  # fmt: skip
    path = tmp_path_factory.mktemp("concepts") / "concepts.json"
    path.write_text(json.dumps([concept]))
    return path


@pytest.fixture(scope="module", params=KINDS, ids=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def untrained(kind, request):
    """A models folder with the model to train, which must not be changed."""
    return request.getfixturevalue("created_flow" if "flow" in kind else "created")


@pytest.fixture
def model(untrained, models_dir):
    """A copy of the model, to be trained."""
    shutil.copytree(untrained, models_dir)
    return ModelFolder(Folders(models_dir), "mini")


@pytest.fixture(scope="module")
def undisturbed(kind, untrained, tmp_path_factory, concepts):
    """(arguments, final state, seconds from the first line of the log to the end)."""
    folder = tmp_path_factory.mktemp("undisturbed") / "models"
    shutil.copytree(untrained, folder)
    model = ModelFolder(Folders(folder), "mini")
    args = ["--concepts", concepts, "--set", *EACH, *KINDS[kind]]
    finished = run("train", "mini", "--models-dir", folder, *args)
    assert finished.returncode == 0, finished.stderr
    (log,) = model.logging.glob("run_*.jsonl")
    times = [json.loads(line)["time"] for line in log.read_text().splitlines()]
    return args, final_state(model), times[-1] - times[0]


def final_state(model: ModelFolder) -> dict[str, torch.Tensor]:
    """Weights, EMA and optimizer state at the end."""
    last = model.snapshots / str(model.snapshot_steps()[-1])
    return {**tensors(last / "weights.safetensors"), **tensors(last / "optimizer.safetensors")}


def require_intact_files(model: ModelFolder) -> None:
    """Every file that is not temporary can be read completely."""
    models = model.folders.models
    files = [
        p for p in models.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.relative_to(models).parts)
    ]
    for path in files:
        if path.suffix == ".safetensors":
            with open_tensors(path) as file:
                for key in file:
                    file.get(key)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).load()
            assert path.with_suffix(".txt").exists() or path.parent.name == "samples"


def kill_and_resume(model: ModelFolder, args: list, seconds: float, times: int = 1) -> None:
    """Start, kill ``seconds`` after the first line of the log, check the files, and resume to the end."""
    for _ in range(times):
        resume = ["--resume"] if interrupted_run(model) or model.snapshot_steps() else []
        logs = set(model.logging.glob("run_*.jsonl"))
        process = start("train", "mini", "--models-dir", model.folders.models, *args, *resume)
        while process.poll() is None and not set(model.logging.glob("run_*.jsonl")) - logs:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        require_intact_files(model)
    resume = ["--resume"] if model.snapshot_steps() else []
    again = run_fork("train", "mini", "--models-dir", model.folders.models, *args, *resume)
    assert again.returncode == 0, again.stderr
    assert "differs from the original" not in again.stderr


def _require_same_end(model: ModelFolder, undisturbed, fraction: float, times: int = 1) -> None:
    args, expected, seconds = undisturbed
    kill_and_resume(model, args, fraction * seconds, times)
    result = final_state(model)
    assert result.keys() == expected.keys()
    different = [key for key in expected if not torch.equal(result[key], expected[key])]
    assert not different, f"killed after {fraction:.3f} of the run: {len(different)} tensors differ, {different[:3]}"
    require_intact_files(model)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.6])
def test_a_killed_run_resumes_as_if_undisturbed(model, undisturbed, fraction):
    _require_same_end(model, undisturbed, fraction)


@pytest.mark.nightly
@pytest.mark.parametrize("fraction", [round(random.Random(i).random(), 4) for i in range(30)])
def test_killed_at_thirty_random_moments(model, undisturbed, fraction):
    _require_same_end(model, undisturbed, fraction, times=2 if fraction < 0.5 else 1)
