"""The queue of training runs: add, move, remove, and run one after the other, each in a process of its own.

A process can be killed when it stops responding, which a thread can't. It exits by itself when its standard input is
closed, so that it never outlives the process that runs the queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreambooth.actions.training import train
from dreambooth.errors import Cancelled, UserError, describe_unexpected
from dreambooth.jobs import Controls, Events
from dreambooth.jobs.queue_files import CANCELLED, DONE, FAILED, RUNNING, WAITING, QueuedJob, QueueFiles
from dreambooth.settings import Folders, ModelConfig, ModelFolder
from dreambooth.settings.model_folder import config_from, values_of

HANG_MINUTES = 60.0  # without an event
STOP_SECONDS = 300.0  # for a step and saving after a cancel
MAX_STARTS = 3  # of a job whose queue ended while it ran
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
Report = Callable[[str], None]


def files_of(folders: Folders) -> QueueFiles:
    return QueueFiles(folders.queue)


def add(model: ModelFolder, config: ModelConfig) -> QueuedJob:
    """Add a run of ``model`` with these settings, which later changes of the model's settings don't affect."""
    model.require()
    queue, values = files_of(model.folders), json.loads(json.dumps(values_of(config)))
    with queue.changing():
        jobs = queue.jobs()
        for job in jobs:
            if job.state == WAITING and job.model == model.name and job.config == values:
                raise UserError(f"Job {job.id} in the queue already trains {model.name} with the same settings.")
        id = max((job.id for job in jobs), default=0) + 1
        job = QueuedJob(id, model.name, values, max((job.position for job in jobs), default=0.0) + 1)
        queue.write(job)
    return job


def move(folders: Folders, id: int, place: int) -> None:
    """Move a waiting job to ``place`` among the waiting ones, counted from 1."""
    queue = files_of(folders)
    with queue.changing():
        job = queue.job(id)
        if job.state != WAITING:
            raise UserError(f"Job {id} is {job.state}: only waiting jobs can be moved.")
        others = [other.position for other in queue.jobs() if other.state == WAITING and other.id != id]
        index = min(max(place - 1, 0), len(others))
        before = others[index - 1] if index else (others[0] - 2 if others else 0.0)
        after = others[index] if index < len(others) else before + 2
        queue.write(dataclasses.replace(job, position=(before + after) / 2))


def remove(folders: Folders, id: int) -> str:
    """Remove a job; one that is running is canceled instead. Returns what was done."""
    queue = files_of(folders)
    with queue.changing():
        if queue.job(id).state == RUNNING and queue.is_run():
            queue.request_cancel(id)
            return f"Job {id} is being canceled. Its run saves as set under Saving."
        queue.delete(id)
    return f"Job {id} was removed."


def run(
    folders: Folders, controls: Controls, report: Report, hang_minutes: float = HANG_MINUTES,
    command: Sequence[str] = (),
) -> list[QueuedJob]:  # fmt: skip
    """Run all waiting jobs. A cancel ends the running job and leaves the others waiting. Returns the jobs that ended.

    ``command``: how to start the process of a job, whose number is appended.
    """
    command = command or [sys.executable, "-m", "dreambooth", "queue", "run", "--models-dir", str(folders.models)]
    queue, ended = files_of(folders), {}
    with queue.running():
        for job in queue.jobs():
            if job.state == RUNNING:  # the process that ran the queue was killed
                gone = job.starts >= MAX_STARTS
                text = f"The queue ended {job.starts} times while this job ran." if gone else ""
                _save(queue, dataclasses.replace(job, state=FAILED if gone else WAITING, text=text), report)
        while not controls.cancelled:
            job = next((job for job in queue.jobs() if job.state == WAITING and job.id not in ended), None)
            if job is None:
                break
            ended[job.id] = _run_job(queue, job, [*command, "--job", str(job.id)], controls, report, hang_minutes)
    return list(ended.values())


def run_job(folders: Folders, id: int) -> None:
    """Train as job ``id`` says; called in the process of the job. Events go to standard output, a line each."""
    job, controls = files_of(folders).job(id), Controls()
    threading.Thread(target=_obey_input, args=(controls,), daemon=True).start()
    output = sys.stdout

    def send(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=output, flush=True)

    model = ModelFolder(folders, job.model).require()
    frozen = config_from(job.model, dict(job.config))
    config = dataclasses.replace(model.load(), settings=frozen.settings, concepts=frozen.concepts)
    train(model, config, controls=controls, events=Events(model.logging, send))


def _obey_input(controls: Controls) -> None:
    while os.read(0, 1):
        controls.cancel()
    os._exit(1)  # files are replaced by atomic renames, so all of them stay intact


def _run_job(
    queue: QueueFiles, job: QueuedJob, command: list[str], controls: Controls, report: Report, hang_minutes: float
) -> QueuedJob:
    job = dataclasses.replace(job, state=RUNNING, text="", starts=job.starts + 1)
    if not _save(queue, job, report, expected=WAITING):
        return dataclasses.replace(job, state=CANCELLED, text="It was removed.")
    report(f"Job {job.id} ({job.model}) started.")
    try:
        state, text = _Process(command).wait(
            lambda: controls.cancelled or queue.cancel_requested(job.id), hang_minutes * 60
        )
    except (OSError, UserError, Cancelled) as error:
        state, text = FAILED, describe_unexpected(error, "the console")
    job = dataclasses.replace(job, state=state, text=text)
    _save(queue, job, report)
    with contextlib.suppress(OSError):
        queue.clear_cancel(job.id)
    report(f"Job {job.id} ({job.model}): {state}. {text}".rstrip())
    return job


def _save(queue: QueueFiles, job: QueuedJob, report: Report, expected: str = "") -> bool:
    """Save the state of a job; False if it was no longer in the ``expected`` one. A full disk stops nothing."""
    try:
        with queue.changing():
            if expected and all((other.id, other.state) != (job.id, expected) for other in queue.jobs()):
                return False
            queue.write(job)
    except (OSError, UserError) as error:
        report(f"The state of job {job.id} was not saved: {error}")
    return True


class _Process:
    """The process of a job: its last event, and when that came."""

    def __init__(self, command: list[str]) -> None:
        self._event = time.monotonic()  # not the clock, which may be set
        self._ended: dict[str, Any] = {}
        self._errors = ""
        path = filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")])  # the current folder may be another one
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # Ctrl-C in the terminal is for the queue alone
        )  # fmt: skip
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def wait(self, cancelled: Callable[[], bool], hang_seconds: float) -> tuple[str, str]:
        """(state, message) when the process has ended, by itself or not."""
        stop_at = None
        hung = False
        while self._process.poll() is None:
            now = time.monotonic()
            if stop_at is None and cancelled():
                stop_at = now + STOP_SECONDS
                with contextlib.suppress(OSError):
                    self._stdin.write(b"c")
            hung = now - self._event > hang_seconds
            if hung or (stop_at is not None and now > stop_at):
                self._process.kill()
                self._process.wait()
            time.sleep(0.1)
        for reader in self._readers:
            reader.join(5)
        self._stdin.close()
        if self._ended and not hung:
            return {"done": DONE, "cancelled": CANCELLED}.get(self._ended["state"], FAILED), self._ended["text"]
        if stop_at is not None:
            return CANCELLED, "It was canceled."
        if hung:
            return FAILED, f"It was killed: no event for {hang_seconds / 60:g} minutes."
        return FAILED, self._errors or f"Its process ended with exit code {self._process.returncode}."

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                event = json.loads(line)
                self._ended = event if event["kind"] == "ended" else self._ended
                self._event = time.monotonic()

    def _read_errors(self) -> None:
        """The last line that the process printed; reading all keeps it from waiting for us."""
        assert self._process.stderr
        for line in self._process.stderr:
            text = line.decode("utf-8", "replace").strip()
            if text.startswith("dreambooth: "):
                self._errors = text[len("dreambooth: ") :]
