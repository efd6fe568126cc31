"""Runs of other processes, read from their event logs as these grow."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from dreambooth.jobs import latest_log
from dreambooth.ui.run_view import RunView

ALIVE_SECONDS = 60  # a run is taken to be alive while its log was written to this recently


class LogReader:
    """Reads the newest log of each model incrementally: only the bytes added since the last call."""

    def __init__(self) -> None:
        self._runs: dict[Path, tuple[RunView, int]] = {}  # log file -> (its run so far, bytes read)

    def run(self, name: str, folder: Path) -> RunView:
        """The run in the newest log of ``folder``; empty if there is none. ``name``: of the model."""
        log = latest_log(folder)
        if log is None:
            return RunView(name=name)
        run, position = self._runs.get(log, (RunView(name=name), 0))
        try:
            with log.open("rb") as file:
                file.seek(position)
                new = file.read()
        except OSError:  # not a file, or not ours to read
            return run
        complete = new.rfind(b"\n") + 1  # a half-written last line is read next time
        for line in new[:complete].splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # a damaged line
                run.feed(json.loads(line))
        self._runs[log] = run, position + complete
        return run

    @staticmethod
    def is_alive(folder: Path | None) -> bool:
        """Whether another process is still writing to the newest log in ``folder``."""
        log = latest_log(folder) if folder else None
        return bool(log) and time.time() - log.stat().st_mtime < ALIVE_SECONDS
