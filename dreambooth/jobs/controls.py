"""Requests of users to a running job: the only way to influence it."""

from __future__ import annotations

import threading
import time

from dreambooth.errors import Cancelled
from dreambooth.types import ProgressCallback


class Controls:
    """Thread-safe requests to a run. The training loop handles them between steps.

    ``sample_now`` and ``save_now`` are handled once; a pause lasts until ``resume``; ``cancel`` is final.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pause_end: float | None = None  # on the monotonic clock; None: the pause has no time limit
        self._paused = self._cancelled = self._stopped = self._sample = self._save = False
        self._shutting_down = False

    def pause(self, seconds: float | None = None) -> None:
        """Pause until resumed, or for ``seconds`` at most."""
        with self._changed:
            self._pause_end = None if seconds is None else time.monotonic() + seconds
        self._set(_paused=True)

    def resume(self) -> None:
        self._set(_paused=False)

    def cancel(self) -> None:
        """Finish the current step, save as the settings for canceled runs say, and stop."""
        self._set(_cancelled=True, _paused=False)

    def shut_down(self) -> None:
        """Finish the current step, save a snapshot and nothing else, and stop: the process is about to end."""
        self._set(_cancelled=True, _shutting_down=True, _paused=False)

    def stop_now(self) -> None:
        """Stop after the current step without saving."""
        self._set(_cancelled=True, _stopped=True, _paused=False)

    def sample_now(self) -> None:
        self._set(_sample=True)

    def save_now(self) -> None:
        self._set(_save=True)

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def pause_remaining(self) -> float | None:
        """Seconds until the pause ends by itself; None if it has no time limit, or if nothing is paused."""
        end = self._pause_end
        return None if end is None or not self._paused else max(0.0, end - time.monotonic())

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def shutting_down(self) -> bool:
        return self._shutting_down

    @property
    def sample_requested(self) -> bool:
        return self._sample

    @property
    def save_requested(self) -> bool:
        return self._save

    def consume_sample_request(self) -> bool:
        """Whether samples were requested since the last call."""
        with self._changed:
            requested, self._sample = self._sample, False
        return requested

    def consume_save_request(self) -> bool:
        """Whether saving was requested since the last call."""
        with self._changed:
            requested, self._save = self._save, False
        return requested

    def wait_while_paused(self) -> None:
        """Block until the run is resumed or canceled, the pause's time is over, or a request can be handled.

        Samples and saves are handled while the run stays paused.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._sample or self._save, self.pause_remaining)
            if self.pause_remaining == 0:
                self._paused = False

    def check(self) -> None:
        """Raise Cancelled if the job was canceled. For long work that can be abandoned at any point."""
        if self._cancelled:
            raise Cancelled("cancelled")

    def cancellable(self, show: ProgressCallback) -> ProgressCallback:
        """A progress callback that forwards to ``show`` and raises Cancelled once the job was canceled."""

        def progress(done: int, total: int, what: str) -> None:
            self.check()
            show(done, total, what)

        return progress

    def _set(self, **flags: bool) -> None:
        with self._changed:
            for name, value in flags.items():
                setattr(self, name, value)
            self._changed.notify_all()
