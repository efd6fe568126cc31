"""One job at a time, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.jobs.controls import Controls

log = logging.getLogger("dreambooth.jobs")


class Job:
    """A piece of work that is running, or has ended: ``result`` or ``error`` tells how."""

    def __init__(self, what: str, work: Callable[[Controls], Any]) -> None:
        self.what, self.controls = what, Controls()
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"dreambooth {what}", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """True once the job has ended. Short timeouts let the main thread answer to Ctrl-C."""
        self._thread.join(timeout)
        return not self.running

    def _run(self) -> None:
        try:
            self.result = self._work(self.controls)
        except (Cancelled, UserError) as error:
            self.error = error
        except BaseException as error:
            log.exception("%s failed", self.what)
            self.error = error
        finally:
            self._work = lambda controls: None  # lets go of models that the work's closure holds


class Jobs:
    """The one place where jobs are started, so that two never share the GPU."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.current: Job | None = None

    def start(self, what: str, work: Callable[[Controls], Any]) -> Job:
        with self._lock:
            if self.current and self.current.running:
                raise UserError(f"{self.current.what} is still running: wait for it, or cancel it.")
            self.current = Job(what, work)
            self.current._thread.start()
            return self.current


jobs = Jobs()
