"""Commands as jobs that signals can end: Ctrl-C, SIGTERM (``kill``, cluster schedulers), SIGHUP (a closed terminal)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from dreambooth.distributed import ProcessGroup
from dreambooth.jobs import Controls, Job, jobs
from dreambooth.jobs.shutdown import SIGNALS, console_closing

CANCELLED = 130  # exit code
_ECHO_SECONDS = 5.0  # a launcher passes on a signal that its processes have already received from the terminal
_CONSOLE_SECONDS = 4.5  # Windows ends a process five seconds after its console was closed


def in_job(what: str, work: Callable[[Controls], Any]) -> Any:
    """Run ``work`` in the job thread while this thread handles signals: one cancels, a second one stops immediately."""
    job = jobs.start(what, work)

    def close() -> None:
        job.controls.cancel()
        job.wait(_CONSOLE_SECONDS)

    with _handled(_Interruption(job)), console_closing(close):
        while not job.wait(0.2):
            pass
    if job.error:
        raise job.error
    return job.result


class _Interruption:
    """The signal handler of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._first: float | None = None
        self._is_distributed = ProcessGroup.from_environment().world_size > 1

    def __call__(self, number: int, frame: Any) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _detach_from_terminal()
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self.job.controls.cancel()
            how = "Stopping after this step and saving." if self.job.what == "train" else "Stopping."
            again = "Press Ctrl-C" if number == signal.SIGINT else "Send the signal"
            self._say(f"\n{how} {again} again to stop immediately.")
        elif not self._is_distributed or now - self._first > _ECHO_SECONDS:
            self._stop_immediately()

    def _stop_immediately(self) -> None:
        self.job.controls.stop_now()
        # Files are replaced by atomic renames, so exiting at any point leaves all of them intact.
        exit_timer = threading.Timer(2.0, os._exit, (CANCELLED,))
        exit_timer.daemon = True
        exit_timer.start()

    @staticmethod
    def _say(text: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: another print was interrupted
            print(text, file=sys.stderr)


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Set the handler of all signals that end a process, except SIGHUP where it is ignored, as nohup does."""
    previous = {}
    for number in SIGNALS:
        if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
            continue
        previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _detach_from_terminal() -> None:
    """Print to nowhere what would be printed to the terminal, which is gone: writing to it is an error."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(OSError, ValueError):
            if getattr(sys, name).isatty():
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process exits)
