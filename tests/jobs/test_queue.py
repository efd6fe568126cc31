"""The queue: whatever happens to one job, the others run in order, each with its own settings."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dreambooth.actions import queue
from dreambooth.errors import UserError
from dreambooth.jobs import Controls
from dreambooth.jobs.queue_files import CANCELLED, DONE, FAILED, RUNNING, UNREADABLE, WAITING
from dreambooth.settings import Folders, ModelFolder
from tests.cli.commands import run

QUICK = ["resolution=64", "bucket_step=32", "save_preview_every=0", "save_embedding_every=0", "use_lora=true",
         "gradient_checkpointing=false", "train_batch_size=2"]  # fmt: skip

# Stands for the training: writes down its settings, fails, hangs or kills itself as its epochs say.
STAND_IN = """
import json, os, signal, sys, time
folder, id = sys.argv[1], int(sys.argv[-1])
epochs = json.load(open(f"{folder}/.queue/{id:06d}.json"))["config"]["num_train_epochs"]
say = lambda **event: print(json.dumps(event), flush=True)
say(kind="phase", name="training")
if epochs == 103: say(kind="ended", state="failed", text="no images"); sys.exit(1)
if epochs == 105: os.kill(os.getpid(), signal.SIGKILL)
if epochs == 107: os.read(0, 1); say(kind="ended", state="cancelled", text=""); sys.exit(130)
if epochs == 109: time.sleep(600)
if epochs == 112 and not os.path.exists(f"{folder}/second"):
    open(f"{folder}/second", "w").close(); os.read(0, 1); sys.exit(1)
open(f"{folder}/trained.txt", "a").write(f"{id} {epochs}\\n")
say(kind="ended", state="done", text="")
"""

RUNNER = """
import sys
from dreambooth.actions import queue
from dreambooth.jobs import Controls
from dreambooth.settings import Folders
models, stand_in, folder = sys.argv[1:]
queue.run(Folders(models), Controls(), print, 1.0, [sys.executable, "-c", stand_in, folder])
"""


@pytest.fixture
def model(tmp_path):
    model = ModelFolder(Folders(tmp_path), "one")
    model.root.mkdir(parents=True)
    model.config_path.write_text("{}")
    return model


def add(model, epochs):
    model.config_path.write_text(json.dumps({"num_train_epochs": epochs}))
    return queue.add(model, model.load())


def run_queue(model, controls=None, hang_minutes=1.0):
    command = [sys.executable, "-c", STAND_IN, str(model.folders.dreambooth)]
    return queue.run(model.folders, controls or Controls(), lambda text: None, hang_minutes, command)


def states(model):
    return {job.id: job.state for job in queue.files_of(model.folders).jobs()}


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="uses SIGKILL")
def test_twenty_jobs_with_a_failed_a_killed_a_canceled_one_and_a_restart(model):
    for n in range(1, 21):
        add(model, 100 + n if n != 9 else 99)
    folder = model.folders.dreambooth
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(model.folders.models), STAND_IN, str(folder)])
    wait_for(lambda: states(model)[7] == RUNNING)
    with pytest.raises(UserError, match=rf"process {runner.pid} on .* since"):
        run_queue(model)
    queue.remove(model.folders, 7)
    wait_for(lambda: (folder / "second").exists())  # job 12 has been started
    runner.kill()
    runner.wait()
    run_queue(model)
    odd = {3: FAILED, 5: FAILED, 7: CANCELLED}
    assert {id: state for id, state in states(model).items() if state != DONE} == odd
    expected = [f"{n} {99 if n == 9 else 100 + n}" for n in range(1, 21) if n not in odd]
    assert (folder / "trained.txt").read_text().splitlines() == expected


def test_a_job_that_hangs_is_killed_and_the_next_runs(model):
    add(model, 109), add(model, 1)
    run_queue(model, hang_minutes=0.05)
    first, second = queue.files_of(model.folders).jobs()
    assert (first.state, second.state) == (FAILED, DONE) and "no event" in first.text


def test_damaged_files_and_jobs_of_a_dead_queue(model):
    add(model, 1), add(model, 2), add(model, 3)
    files = queue.files_of(model.folders)
    path = files.folder / "000001.json"
    path.write_text(path.read_text()[:40])
    values = json.loads((files.folder / "000002.json").read_text())
    (files.folder / "000002.json").write_text(json.dumps({"model": "one", "config": values["config"], "x": 1}))
    third = json.loads((files.folder / "000003.json").read_text()) | {"state": RUNNING, "starts": 1}
    (files.folder / "000003.json").write_text(json.dumps(third))
    run_queue(model)
    assert states(model) == {1: UNREADABLE, 2: DONE, 3: DONE} and path.exists()


def test_move_remove_and_the_same_job_twice(model):
    add(model, 1), add(model, 2), add(model, 3)
    with pytest.raises(UserError, match=r"Job 3 .* same settings"):
        add(model, 3)
    queue.move(model.folders, 3, 1)
    queue.move(model.folders, 1, 9)
    queue.remove(model.folders, 2)
    assert [*states(model)] == [3, 1] and set(states(model).values()) == {WAITING}


def test_a_full_disk_loses_no_job_and_stops_nothing(model, monkeypatch):
    add(model, 1), add(model, 2)
    values = model.load()

    def full(*args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match="space"):
            queue.add(ModelFolder(model.folders, "one"), dataclasses.replace(values, unknown={"x": 1}))
        assert [job.state for job in run_queue(model)] == [DONE, DONE]
    assert [*states(model)] == [1, 2]


def test_canceling_a_run_saves_it(mini, subject_concepts):
    settings = [*QUICK, "num_train_epochs=300", "save_state_cancel=true"]
    where = ["--models-dir", mini.folders.models]
    added = run("queue", "add", "mini", *where, "--concepts", subject_concepts, "--set", *settings)
    assert added.returncode == 0, added.stderr
    thread = threading.Thread(target=queue.run, args=(mini.folders, Controls(), print))
    thread.start()
    wait_for(lambda: any('"step": 2,' in log.read_text() for log in mini.logging.glob("run_*.jsonl")))
    queue.remove(mini.folders, 1)
    thread.join(60)
    assert states(mini) == {1: CANCELLED} and mini.snapshot_steps()


def test_the_command_trains_with_the_settings_of_the_job(mini, subject_concepts):
    settings = [*QUICK, "num_train_epochs=1"]
    where = ["--models-dir", mini.folders.models]
    gone = ModelFolder(mini.folders, "gone")
    shutil.copytree(mini.root, gone.root)
    queue.add(gone, gone.load())
    shutil.rmtree(gone.root)
    added = run("queue", "add", "mini", *where, "--concepts", subject_concepts, "--set", *settings)
    assert added.returncode == 0, added.stderr
    ran = run("queue", "run", *where, "--json")
    missing, job = json.loads(ran.stdout)["jobs"]
    assert missing["state"] == "failed" and "no model 'gone'" in missing["message"], missing
    assert job["state"] == "done", job
    assert mini.load().settings.num_train_epochs == 1 and mini.load().info.revision > 0
