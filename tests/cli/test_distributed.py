"""Distributed training with several processes, as started by accelerate launch and torchrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch

from dreambooth.distributed import ProcessGroup
from dreambooth.settings import Folders, ModelFolder
from tests.cli.commands import RUN, start, wait_for_step
from tests.training.conftest import tensors

dist = pytest.importorskip("torch.distributed")
NIGHTLY = pytest.mark.nightly
SET = ["resolution=64", "bucket_step=32", "train_batch_size=1", "save_preview_every=0", "num_train_epochs=2",
       "mixed_precision=no", "gradient_checkpointing=false", "save_state_after=true"]  # fmt: skip
LORA = ["use_lora=true", "stop_text_encoder=0.5", "lora_learning_rate=1e-3"]
FULL = ["use_lora=false", "use_ema=true", "save_ckpt_after=false", "learning_rate=1e-5"]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip


def start_together(size: int, *args) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(*args, env=environment(rank, size, port)) for rank in range(size)]


def train(model: ModelFolder, concepts, size: int, *settings: str) -> list[tuple[int, str, str]]:
    args = ("train", model.name, "--concepts", concepts, "--models-dir", model.folders.models, "--json", "--set")
    processes = start_together(size, *args, *SET, *settings)
    outputs = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


def trained_weights(model: ModelFolder):
    """Trained weights in float32, from the snapshot at the end."""
    (folder,) = model.snapshots.iterdir()
    return tensors(folder / "weights.safetensors")


def steps(model: ModelFolder) -> list[dict]:
    (log,) = model.logging.glob("run_*.jsonl")
    return [event for event in map(json.loads, log.read_text().splitlines()) if event["kind"] == "step"]


@pytest.fixture
def twin(mini, tmp_path):
    """A copy of the model."""
    shutil.copytree(mini.folders.models, tmp_path / "twin")
    return ModelFolder(Folders(tmp_path / "twin"), mini.name)


@pytest.mark.parametrize("settings", [pytest.param(LORA, id="lora"), pytest.param(FULL, id="full", marks=NIGHTLY)])
def test_two_processes_equal_one_with_twice_the_accumulation(mini, twin, subject_concepts, settings):
    """Up to rounding, even if a rank has no batch in the last step of an epoch. Only the main process prints."""
    (code, out, err), (other, *silent) = train(mini, subject_concepts, 2, *settings, "gradient_accumulation_steps=2")
    assert (code, other) == (0, 0), err
    assert silent == ["", ""] and json.loads(out)["steps"] == 4  # 6 images: 4 and 2, twice
    ((code, _, err),) = train(twin, subject_concepts, 1, *settings, "gradient_accumulation_steps=4")
    assert code == 0, err
    ours, theirs = trained_weights(mini), trained_weights(twin)
    assert ours.keys() == theirs.keys()
    worst = max((ours[key].float() - theirs[key].float()).abs().max().item() for key in ours)
    assert worst < 1e-5
    pairs = zip(steps(mini), steps(twin), strict=True)
    assert all(abs(a["loss"] - b["loss"]) < 1e-5 and a["lr"] == b["lr"] for a, b in pairs)


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=NIGHTLY), 1])
def test_canceling_one_rank_cancels_all(mini, subject_concepts, rank):
    args = ("train", "mini", "--concepts", subject_concepts, "--models-dir", mini.folders.models, "--json", "--set")
    processes = start_together(2, *args, *SET, *LORA, "num_train_epochs=1000")
    wait_for_step(mini.root, 3, processes[0])
    processes[rank].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [130, 130], outputs
    assert json.loads(outputs[0][0])["state"] == "cancelled" and len(mini.snapshot_steps()) == 1


def test_all_ranks_are_refused(mini, subject_concepts):
    ended = train(mini, subject_concepts, 2, "max_train_steps=1", "bucket_step=128")
    assert [code for code, *_ in ended] == [1, 1]
    assert "bucket_step" in ended[0][1] and ended[1][1:] == ("", "")


def test_other_commands_run_once(mini):
    processes = start_together(2, "settings", "--json")
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert json.loads(outputs[0]) and outputs[1] == ""


def test_launchers_that_shard_the_model_are_refused():
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    process_group = ProcessGroup.from_environment(launched)
    assert (process_group.rank, process_group.world_size, process_group.is_main_process) == (1, 2, False)
    assert "FSDP" in process_group.problems({"ACCELERATE_USE_FSDP": "true"})[0] and not process_group.problems({})
    assert not ProcessGroup.from_environment({"ACCELERATE_USE_FSDP": "true"}).problems()
    assert ProcessGroup.from_environment({"WORLD_SIZE": "8"}).world_size == 1, "set by a cluster, without a launcher"


@pytest.mark.parametrize(("has_nccl", "backend"), [(True, "nccl"), (False, "gloo")])
def test_gpus_use_gloo_where_there_is_no_nccl(has_nccl, backend, monkeypatch):
    """As in torch for Windows."""
    started = []
    monkeypatch.setattr(dist, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **kwargs: started.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda **kwargs: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(ProcessGroup, "barrier", lambda self: None)
    launched = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with ProcessGroup.from_environment(launched).initialized(torch.device("cuda")):
        assert started == [backend]


@NIGHTLY
def test_torchrun(mini, subject_concepts):
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *RUN, "train", "mini",
         "--concepts", subject_concepts, "--models-dir", mini.folders.models, "--json", "--set", *SET, *LORA,
         "max_train_steps=2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert json.loads(launched.stdout)["steps"] == 2
