"""Signals to the command line: the first saves a snapshot and says how to continue, the second ends it at once."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from dreambooth.cli import in_job
from dreambooth.jobs import Job
from dreambooth.training.snapshot_list import list_snapshots
from tests.cli.commands import run, start, wait_for_step

pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
QUICK = ["resolution=64", "bucket_step=32", "save_preview_every=0", "save_embedding_every=0", "use_lora=true",
         "gradient_checkpointing=false", "train_batch_size=2", "num_train_epochs=300"]  # fmt: skip


@pytest.fixture
def training(mini, subject_concepts):
    """``training(*settings)``: a process that has trained two steps."""

    def begin(*settings: str):
        args = ["--concepts", subject_concepts, "--models-dir", mini.folders.models, "--set", *QUICK, *settings]
        process = start("train", "mini", *args)
        wait_for_step(mini.root, 2, process)
        return process

    return begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_a_snapshot_and_says_how_to_continue(training, mini, number):
    process = training()
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    (entry,) = list_snapshots(mini).entries
    assert process.returncode == 130 and "state: cancelled" in out, err
    assert not entry.automatic, "as the settings for canceled runs say"
    command = f'python -m dreambooth train "mini" --resume --models-dir "{mini.folders.models}"'
    assert f"To continue from step {entry.step} (snapshot {entry.name}): {command}" in err
    listed = run("snapshots", "mini", "--models-dir", mini.folders.models)
    assert listed.returncode == 0 and entry.name in listed.stdout and "was interrupted at step" in listed.stdout


def test_without_a_snapshot_it_says_so(training, mini):
    process = training("save_state_cancel=false")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert "No snapshot of this run was saved (see save_state_cancel)" in err and not list_snapshots(mini).entries


def test_a_second_signal_of_any_kind_stops_immediately(training, mini):
    process = training("use_lora=false")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    (log,) = mini.logging.glob("run_*.jsonl")
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
    assert kinds.count("step") < 100


def test_what_a_kill_leaves_is_offered(training, mini):
    """With automatic snapshots: killed, it loses only the steps since the last one."""
    process = training("autosave_minutes=0.00001")
    process.kill()
    process.communicate()
    (entry,) = list_snapshots(mini).usable
    assert entry.automatic
    listed = json.loads(run("snapshots", "mini", "--models-dir", mini.folders.models, "--json").stdout)
    assert listed["snapshots"][0]["automatic"] and listed["interrupted"]["snapshot"] == entry.name
    args = ["--models-dir", mini.folders.models, "--set", f"max_train_steps={entry.step + 1}"]
    again = run("train", "mini", *args, "--resume")
    assert f"Resuming from step {entry.step}" in again.stderr and again.returncode == 0
    assert not list_snapshots(mini).entries


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_launcher_that_repeats_the_terminals_signal_is_no_second_request(monkeypatch, world_size):
    """Ctrl-C reaches all processes of a terminal, and torchrun sends it to its own once more."""
    if world_size > 1:
        for key, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(key, value)
    monkeypatch.setattr(in_job.threading.Timer, "start", lambda self: None)  # it would end this process
    job = Job("train", lambda controls: None)
    handler = in_job._Interruption(job)
    handler(signal.SIGINT, None)
    assert job.controls.cancelled and not job.controls.stopped
    handler(signal.SIGTERM, None)
    assert job.controls.stopped == (world_size == 1)
    monkeypatch.setattr(in_job.time, "monotonic", lambda: 1e9)
    handler(signal.SIGTERM, None)
    assert job.controls.stopped
