"""Runs that this process did not start, read from their logs: only what was written since the last look."""

from __future__ import annotations

import json
import time
from pathlib import Path

from dreambooth.jobs import latest_log
from dreambooth.ui.run_view import RunView

ALIVE_SECONDS = 60  # a log that grew this recently belongs to a run that goes on elsewhere


class LogReader:
    """Follows the newest log of each model that is looked at."""

    def __init__(self) -> None:
        self._followed: dict[Path, tuple[RunView, int]] = {}

    def run(self, name: str, folder: Path) -> RunView:
        """What the newest log in ``folder`` adds up to."""
        log = latest_log(folder)
        if log is None:
            return RunView(name=name)
        run, position = self._followed.get(log, (RunView(name=name), 0))
        with log.open("rb") as file:
            file.seek(position)
            new = file.read()
        whole = new.rfind(b"\n") + 1  # a half-written line waits for its end
        for line in new[:whole].splitlines():
            try:
                run.feed(json.loads(line))
            except ValueError:
                continue
        self._followed[log] = run, position + whole
        return run

    @staticmethod
    def grows(folder: Path | None) -> bool:
        """Whether a run elsewhere still writes to the newest log in ``folder``."""
        log = latest_log(folder) if folder else None
        return bool(log) and time.time() - log.stat().st_mtime < ALIVE_SECONDS
