"""What people can tell a run: the only way in."""

from __future__ import annotations

import threading
import time

from dreambooth.errors import Cancelled
from dreambooth.types import ProgressCallback


class Controls:
    """Wishes for a run, set from any thread, looked at by the loop between steps.

    ``sample_now`` and ``save_now`` are taken once; pause holds until resume; cancel is for good.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until: float | None = None  # when a pause ends by itself, on the monotonic clock
        self._paused = self._cancelled = self._stopped = self._sample = self._save = False

    def pause(self, seconds: float | None = None) -> None:
        """Stand still until told to go on, or for ``seconds`` at most."""
        with self._changed:
            self._until = None if seconds is None else time.monotonic() + seconds
        self._set(_paused=True)

    def resume(self) -> None:
        self._set(_paused=False)

    def cancel(self) -> None:
        """Finish the step, save as the cancel settings say, stop."""
        self._set(_cancelled=True, _paused=False)

    def stop_now(self) -> None:
        """Stop without saving anything more."""
        self._set(_cancelled=True, _stopped=True, _paused=False)

    def sample_now(self) -> None:
        self._set(_sample=True)

    def save_now(self) -> None:
        self._set(_save=True)

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def rest(self) -> float | None:
        """Seconds until the pause ends by itself; None: it does not."""
        until = self._until
        return None if until is None or not self._paused else max(0.0, until - time.monotonic())

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def sample_requested(self) -> bool:
        return self._sample

    @property
    def save_requested(self) -> bool:
        return self._save

    def consume_sample_request(self) -> bool:
        """Whether pictures were asked for since the last look."""
        with self._changed:
            taken, self._sample = self._sample, False
        return taken

    def consume_save_request(self) -> bool:
        with self._changed:
            taken, self._save = self._save, False
        return taken

    def wait_while_paused(self) -> None:
        """Return on resume, cancel, or a wish that can be granted while the run stands still.

        Also when the pause's own time is over: then it is no pause any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._sample or self._save, self.rest)
            if self.rest == 0:
                self._paused = False

    def check(self) -> None:
        """Raise Cancelled where long work before or after training can be left at once."""
        if self._cancelled:
            raise Cancelled("cancelled")

    def cancellable(self, show: ProgressCallback) -> ProgressCallback:
        """A progress callback that passes on to ``show``, and ends the work when it was cancelled."""

        def progress(done: int, total: int, what: str) -> None:
            self.check()
            show(done, total, what)

        return progress

    def _set(self, **wishes: bool) -> None:
        with self._changed:
            for name, value in wishes.items():
                setattr(self, name, value)
            self._changed.notify_all()
