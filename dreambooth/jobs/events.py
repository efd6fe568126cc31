"""The events of a job. Each is appended to a log on disk as it happens, and passed to listeners.

A reloaded page, a second browser and the command line read the same log, also after a crash. One JSON object per
line: {"time": seconds since 1970, "kind": ..., and the fields of the event's dataclass below}.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dreambooth.errors import UserError

log = logging.getLogger("dreambooth.jobs")

# Listeners get an event as it stands in the log, so that reading a log and following a job is the same code.
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Event:
    """Base of all events. ``kind`` names the event in the log."""

    kind: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """The event as logged, without its time."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}}


@dataclass(frozen=True)
class Started(Event):
    """A job began. ``settings``: those of a training run, by their keys in db_config.json; ``resume``: the snapshot
    that it was asked to resume from.
    """

    kind = "started"
    what: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resume: str = ""


@dataclass(frozen=True)
class Phase(Event):
    """The job entered a phase, such as "latents" or "training"."""

    kind = "phase"
    name: str


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` items of a phase are finished; a ``total`` of 0 means it is unknown."""

    kind = "progress"
    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Step(Event):
    """An optimizer step.

    ``step`` counts from 1, ``epoch`` from 0; ``total`` and ``epochs`` are those that the run will have trained when it
    ends. ``seconds``: the step's duration. ``memory``: peak bytes allocated on the GPU by training so far, without
    those of previews. ``prior_loss`` is None without class images, ``memory`` without a GPU.
    """

    kind = "step"
    step: int
    total: int
    epoch: int
    epochs: int
    loss: float
    prior_loss: float | None
    lr: float
    seconds: float
    memory: int | None


@dataclass(frozen=True)
class ValidationMeasured(Event):
    """Validation losses after ``step``: means over all concepts, and ``losses`` and ``class_losses`` of each concept,
    counted from 1. ``best``: this loss is the lowest of the run so far.
    """

    kind = "validation"
    step: int
    loss: float
    class_loss: float | None
    losses: Mapping[int, float]
    class_losses: Mapping[int, float]
    best: bool


@dataclass(frozen=True)
class PreviewSaved(Event):
    """A preview image was written to ``path``."""

    kind = "preview"
    path: str
    prompt: str
    seed: int
    step: int


@dataclass(frozen=True)
class FileSaved(Event):
    """A result was written: a "lora", "checkpoint", "snapshot" or "embedding"."""

    kind = "saved"
    what: str
    path: str
    summary: str


@dataclass(frozen=True)
class Message(Event):
    """A line for the user. ``level``: "info", "warning" or "error"."""

    kind = "message"
    text: str
    level: str = "info"


@dataclass(frozen=True)
class Ended(Event):
    """The job ended. ``state``: "done", "cancelled" or "failed"."""

    kind = "ended"
    state: str
    text: str


class Events:
    """Sends events to the log file (if any) and to listeners. A listener that fails never harms the run."""

    def __init__(self, folder: Path | None = None, *listeners: Listener) -> None:
        self.listeners = list(listeners)
        self.path = _new_log(folder) if folder else None
        self._file = self.path.open("a", encoding="utf-8") if self.path else None
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        logged = {"time": round(time.time(), 3), **event.as_dict()}
        with self._lock:
            self._write(logged)
        for listener in list(self.listeners):
            try:
                listener(logged)
            except Exception:
                log.exception("a listener failed and is removed")
                with contextlib.suppress(ValueError):  # another thread that sends may have removed it first
                    self.listeners.remove(listener)

    def message(self, text: str, level: str = "info") -> None:
        self.send(Message(text, level))

    def phase(self, name: str) -> None:
        self.send(Phase(name))

    def progress(self, done: int, total: int, what: str) -> None:
        self.send(Progress(what, done, total))

    def close(self) -> None:
        with self._lock:
            if self._file:
                self._file.close()
            self._file = None

    def _write(self, logged: Mapping[str, Any]) -> None:
        if not self._file:
            return
        try:
            self._file.write(json.dumps(logged, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError:  # a full disk must not end a run whose results may fit on another one
            self._file = None


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """All complete events of a log. A truncated last line, as a crash leaves it, is skipped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def latest_log(folder: Path) -> Path | None:
    """The log of the newest run in a model's logging folder."""
    logs = sorted(folder.glob("run_*.jsonl"))
    return logs[-1] if logs else None


def _new_log(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Could not create the folder {folder}: {error.strerror or error}.") from error
    stamp = time.strftime("%Y%m%d-%H%M%S")
    numbered = (folder / f"run_{stamp}_{n:03d}.jsonl" for n in itertools.count())
    return next(path for path in numbered if not path.exists())
