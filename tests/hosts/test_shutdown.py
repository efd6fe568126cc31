"""A WebUI that ends while it trains: the run saves a snapshot first, and the WebUI keeps its own signal handlers.

The processes are those of WebUIs as far as signals go: how they handle them, which thread builds the tab, and what the
main thread does meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import ModelFolder
from dreambooth.training.snapshot_list import list_snapshots
from tests import fork_server
from tests.cli.commands import run, wait_for_step

pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
SET = {"resolution": 64, "bucket_step": 32, "train_batch_size": 2, "num_train_epochs": 300, "save_preview_every": 0,
       "save_embedding_every": 0, "use_lora": True, "gradient_checkpointing": False,
       "save_lora_cancel": True}  # fmt: skip

WEBUI = """
import atexit, json, os, signal, sys, threading, time
models, concepts, host, settings = sys.argv[1:5]

def ends_at_once(number, frame):  # as A1111, Forge and reForge handle SIGINT
    print("interrupted", flush=True)
    os._exit(0)

if host in ("a1111", "forge"):
    signal.signal(signal.SIGINT, ends_at_once)
handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

def serve():
    from dreambooth.hosts import StandaloneHost
    from dreambooth.ui.page_controller import PageController
    from pathlib import Path
    controller = PageController(StandaloneHost(Path(models)))
    concept = json.loads(Path(concepts).read_text())[0]
    concept["instance_data_dir"] = str(Path(concepts).parent / concept["instance_data_dir"])
    print(controller.train("mini", json.loads(settings), [concept]), flush=True)

server = threading.Thread(target=serve)
server.start()
if host == "returns":  # the main thread ends, as after the API's server-stop
    while not os.path.exists(models + "/stop"):
        time.sleep(0.05)
    sys.exit(0)
from dreambooth.jobs import jobs
try:
    while server.is_alive() or jobs.current.running:
        time.sleep(0.05)
except KeyboardInterrupt:  # as Gradio's own server handles it
    print("closing", flush=True)
    sys.exit(3)
time.sleep(0.2)
print({n: signal.getsignal(n) for n in handlers} == handlers, flush=True)
"""


def start(model: ModelFolder, concepts: Any, host: str, **settings: Any) -> Any:
    return fork_server.start(
        "-c", WEBUI, str(model.folders.models), str(concepts), host, json.dumps({**SET, **settings})
    )


@pytest.mark.parametrize(
    ("host", "number", "code", "printed"),
    [
        ("a1111", signal.SIGINT, 0, "interrupted"),
        ("a1111", signal.SIGTERM, -signal.SIGTERM, ""),
        ("a1111", signal.SIGHUP, -signal.SIGHUP, ""),
        ("standalone", signal.SIGINT, 3, "closing"),
    ],
)
def test_a_signal_saves_a_snapshot_and_then_does_what_it_did_before(
    mini, subject_concepts, host, number, code, printed
):
    process = start(mini, subject_concepts, host)
    wait_for_step(mini.root, 2, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert printed in out and "saving a snapshot of the run before the process ends" in err
    (entry,) = list_snapshots(mini).entries
    assert entry.automatic and entry.step >= 2 and not list(mini.folders.loras.glob("*"))
    found = interrupted_run(mini)
    assert found and found.step == entry.step
    args = ["--models-dir", mini.folders.models, "--resume", "--set", f"max_train_steps={entry.step + 1}"]
    resumed = run("train", "mini", *args)
    assert f"Resuming from step {entry.step}" in resumed.stderr and resumed.returncode == 0


def test_the_second_signal_ends_the_process_at_once(mini, subject_concepts):
    process = start(mini, subject_concepts, "a1111", save_state_cancel=True)
    wait_for_step(mini.root, 1, process)
    process.send_signal(signal.SIGSTOP)  # so that both arrive before the step ends
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=600)
    assert process.returncode in (0, -signal.SIGTERM)  # whichever came second


def test_the_handlers_are_the_hosts_own_again_after_the_run(mini, subject_concepts):
    process = start(mini, subject_concepts, "a1111", max_train_steps=2)
    out, err = process.communicate(timeout=600)
    assert out.split() == ["True"], err


def test_a_host_whose_main_thread_ends_saves_too(mini, subject_concepts):
    process = start(mini, subject_concepts, "returns")
    wait_for_step(mini.root, 2, process)
    (mini.folders.models / "stop").touch()
    process.communicate(timeout=600)
    assert process.returncode == 0 and list_snapshots(mini).newest


def test_before_the_first_step_nothing_is_waited_for(mini, subject_concepts):
    """Nothing is lost yet, and a run that waits for the WebUI's queue would never get there."""
    process = start(mini, subject_concepts, "a1111")
    while not list(mini.logging.glob("run_*.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 0
