"""What a run tells people: the only way out. Every event goes to a log on disk as it happens.

A reloaded page, a second browser and the command line read the same log, also after a crash. One JSON object a
line: {"time": seconds since 1970, "kind": ..., ...}. Kinds and their fields:

    started   what, settings                     phase     name
    progress  phase, done, total                 step      step, total, epoch, epochs, loss, prior_loss, lr, seconds,
                                                           memory (bytes)
    validation step, loss, class_loss, losses and class_losses (by concept, from 1), best
    preview   path, prompt, seed, step           saved     what, path, summary
    message   text, level                        ended     state (done, cancelled, failed), text
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError

log = logging.getLogger("dreambooth.jobs")

Listener = Callable[[dict[str, Any]], None]


class Events:
    """Sends events to the log file (if any) and to listeners. A listener that fails never harms the run."""

    def __init__(self, folder: Path | None = None, *listeners: Listener) -> None:
        self.listeners = list(listeners)
        self.path = _new_log(folder) if folder else None
        self._file = self.path.open("a", encoding="utf-8") if self.path else None
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        with self._lock:
            self._write(event)
        for listener in list(self.listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed and hears no more")
                with contextlib.suppress(ValueError):  # two threads send: the other one may have been first
                    self.listeners.remove(listener)

    def message(self, text: str, level: str = "info") -> None:
        self.send("message", text=text, level=level)

    def phase(self, name: str) -> None:
        self.send("phase", name=name)

    def progress(self, done: int, total: int, what: str) -> None:
        self.send("progress", phase=what, done=done, total=total)

    def close(self) -> None:
        with self._lock:
            if self._file:
                self._file.close()
            self._file = None

    def _write(self, event: dict[str, Any]) -> None:
        if not self._file:
            return
        try:
            self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError:  # a full disk must not end a run that could still be saved elsewhere
            self._file = None


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """All whole events of a log; a half-written last line, as a crash leaves it, is passed over."""
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
        raise UserError(f"Could not make the folder {folder}: {error.strerror or error}.") from error
    stamp = time.strftime("%Y%m%d-%H%M%S")
    numbered = (folder / f"run_{stamp}_{n:03d}.jsonl" for n in itertools.count())
    return next(path for path in numbered if not path.exists())
