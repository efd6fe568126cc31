"""Background jobs: one at a time, each in its own thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.jobs.controls import Controls

log = logging.getLogger("dreambooth.jobs")


class Job:
    """A function that runs in its own thread. Once it has ended, ``result`` or ``error`` is set."""

    def __init__(self, what: str, function: Callable[[Controls], Any]) -> None:
        self.what, self.controls = what, Controls()
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, name=f"dreambooth {what}", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds; True once the job has ended.

        The main thread waits with short timeouts, so that it can handle Ctrl-C.
        """
        self._thread.join(timeout)
        return not self.running

    def _run(self) -> None:
        try:
            self.result = self._function(self.controls)
        except (Cancelled, UserError) as error:
            self.error = error
        except BaseException as error:
            log.exception("%s failed", self.what)
            self.error = error
        finally:
            self._function = lambda controls: None  # releases models that the closure refers to


class Jobs:
    """Starts jobs, and refuses a second one while one is running, so that two never share the GPU."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.current: Job | None = None

    def start(self, what: str, function: Callable[[Controls], Any]) -> Job:
        with self._lock:
            if self.current and self.current.running:
                raise UserError(f"{self.current.what} is still running. Wait until it ends, or cancel it.")
            self.current = Job(what, function)
            self.current._thread.start()
            return self.current


jobs = Jobs()
