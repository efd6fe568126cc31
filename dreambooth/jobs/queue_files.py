"""The queue of training runs on disk: one file per job, so that a damaged file never affects the other jobs.

models/dreambooth/.queue/
  000012.json     a job: its model, the settings that it was added with, its state
  000012.cancel   the running job is to be canceled
  lock, owner.json   held by the process that runs the queue, and who that is
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth import files
from dreambooth.errors import UserError

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class QueuedJob:
    """``config``: the object of db_config.json when the job was added. ``starts``: how often it was started."""

    id: int
    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    position: float = 0.0
    state: str = WAITING
    text: str = ""
    starts: int = 0

    def summary(self) -> dict[str, Any]:
        return {"id": self.id, "model": self.model, "state": self.state, "message": self.text}


class QueueFiles:
    """Reads and writes the jobs in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def jobs(self) -> list[QueuedJob]:
        """All jobs in their order. A file that can't be read is a job in the state "unreadable"; the file stays."""
        paths = [path for path in self.folder.glob("*.json") if path.stem.isdigit()]
        return sorted((self._read(path) for path in paths), key=lambda job: (job.position, job.id))

    def job(self, id: int) -> QueuedJob:
        for job in self.jobs():
            if job.id == id:
                return job
        raise UserError(f"There is no job {id} in the queue. See the list for the numbers of the jobs.")

    def write(self, job: QueuedJob) -> None:
        files.write_json(self._path(job.id), dataclasses.asdict(job))

    def delete(self, id: int) -> None:
        self._path(id).unlink(missing_ok=True)
        self.clear_cancel(id)

    def request_cancel(self, id: int) -> None:
        self._cancel_path(id).touch()

    def cancel_requested(self, id: int) -> bool:
        return self._cancel_path(id).exists()

    def clear_cancel(self, id: int) -> None:
        self._cancel_path(id).unlink(missing_ok=True)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Exclude other threads and processes that change the queue."""
        with files.locked(
            self.folder / "changes.lock", 10.0, lambda: f"The queue in {self.folder} is in use. Try again."
        ):
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Exclude other processes that run the queue. The system releases the lock of a process that died."""
        owner = self.folder / "owner.json"
        with files.locked(
            self.folder / "lock", 0.0, lambda: f"The queue is already being run by {self._owner(owner)}."
        ):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            with contextlib.suppress(OSError, UserError):  # a full disk: it only lacks the name of the owner
                files.write_json(owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
            yield

    def is_run(self) -> bool:
        """Whether a process runs the queue now."""
        try:
            with files.locked(self.folder / "lock", 0.0, lambda: ""):
                return False
        except UserError:
            return True

    @staticmethod
    def _owner(path: Path) -> str:
        try:
            owner = files.read_json(path)
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (UserError, KeyError, TypeError):
            return "another process"

    def _read(self, path: Path) -> QueuedJob:
        known = {item.name: item for item in dataclasses.fields(QueuedJob)}
        id = int(path.stem)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            job = QueuedJob(**{"position": float(id), **{k: v for k, v in values.items() if k in known}, "id": id})
            if not (isinstance(job.model, str) and isinstance(job.config, dict) and isinstance(job.state, str)):
                raise TypeError
            return dataclasses.replace(job, position=float(job.position), starts=int(job.starts), text=str(job.text))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return QueuedJob(id, "", {}, float(id), UNREADABLE, f"{path} is damaged. Remove this job and add it again.")

    def _path(self, id: int) -> Path:
        return self.folder / f"{id:06d}.json"

    def _cancel_path(self, id: int) -> Path:
        return self.folder / f"{id:06d}.cancel"
