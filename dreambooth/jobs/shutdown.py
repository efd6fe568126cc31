"""Saving a run before its process ends: Ctrl-C in a WebUI's console, SIGTERM, a closed console.

A WebUI ends its process in its own handler of SIGINT (os._exit) or by the default action of SIGTERM, so that no code of
ours would run. While a run trains, these signals come here first: the run finishes its step and saves a snapshot, then
the host's handler is called as if nothing had happened. A second signal reaches it at once. Before and after a run the
host's handlers are in place.

Python sets signal handlers in the main thread only, and a run has a thread of its own; Py_AddPendingCall has the main
thread set them, between two of its instructions.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from dreambooth.jobs.controls import Controls
from dreambooth.jobs.events import Events

log = logging.getLogger("dreambooth.jobs")

SIGNALS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if (number := getattr(signal, name, None))
)
MAX_SECONDS = 300.0  # for a step and a snapshot; then the process ends without it
_CONSOLE_SECONDS = 4.5  # Windows ends a process five seconds after its console was closed
_CONSOLE_CLOSED = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT


@contextlib.contextmanager
def saved_at_shutdown(controls: Controls, events: Events) -> Iterator[None]:
    """During the block, in which a run trains, have it save a snapshot before the process ends.

    ``events``: those of the run. Only a run that has started to train is waited for.
    """
    guard = _Guard(controls)
    events.listeners.append(guard.listen)
    run_in_main_thread(guard.install)
    atexit.register(guard.save)
    try:
        with console_closing(lambda: guard.save(_CONSOLE_SECONDS)):
            yield
    finally:
        guard.ended.set()
        atexit.unregister(guard.save)
        run_in_main_thread(guard.restore)


class _Guard:
    """The signal handlers of one run, and those of the host that they replace."""

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.ended = threading.Event()
        self._training = False
        self._signaled = 0
        self._previous: dict[int, Any] = {}
        self._handler = self._handle

    def listen(self, event: dict[str, Any]) -> None:
        """A listener of the run's events."""
        if event["kind"] == "phase" and event["name"] == "training":
            self._training = True
        elif event["kind"] == "ended":
            self.ended.set()

    def install(self) -> None:
        if self.ended.is_set():
            return
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous not in (None, signal.SIG_IGN):  # None: not set by Python, so it could not be restored
                self._previous[number] = previous
                signal.signal(number, self._handler)

    def restore(self) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handler:  # else the host has set another one meanwhile
                signal.signal(number, previous)

    def save(self, seconds: float = MAX_SECONDS) -> None:
        """Have the run save a snapshot and stop; return when it has, after ``seconds`` or at the next signal."""
        if not self._training or self.ended.is_set():
            return
        self.controls.shut_down()
        signaled, end = self._signaled, time.monotonic() + seconds
        while not self.ended.wait(0.1) and self._signaled == signaled and time.monotonic() < end:
            pass

    def _handle(self, number: int, frame: Any) -> None:
        self._signaled += 1
        if self._signaled == 1 and self._training and not self.ended.is_set():
            _say("Dreambooth: saving a snapshot of the run before the process ends. Repeat to end it at once.")
            self.save()
        self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: Any) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, previous)
            signal.raise_signal(number)


def run_in_main_thread(function: Callable[[], None]) -> None:
    """Call ``function`` in the main thread: now if this is it, else as soon as it runs Python code."""
    if threading.current_thread() is threading.main_thread():
        function()
        return
    try:
        import ctypes
    except ImportError:
        return
    callback_type = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)

    def call(_: Any) -> int:
        try:
            function()
        except Exception:  # an exception would reach whatever the main thread is doing
            log.exception("signal handlers could not be changed")
        return 0

    callback = callback_type(call)
    _callbacks.append(callback)
    # A library object of our own: the argument types of ctypes.pythonapi's functions would be set for everyone.
    python = ctypes.PyDLL("python", handle=ctypes.pythonapi._handle)
    python.Py_AddPendingCall.argtypes = [callback_type, ctypes.c_void_p]
    python.Py_AddPendingCall(callback, None)


_callbacks: list[Any] = []  # of the whole process: it is not known when the main thread has called them


@contextlib.contextmanager
def console_closing(save: Callable[[], None]) -> Iterator[None]:
    """On Windows, call ``save`` when the console is closed or the user logs off. It has less than five seconds."""
    if os.name != "nt":
        yield
        return
    import ctypes

    handler_type = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)  # type: ignore[attr-defined]

    def handle(event: int) -> int:
        if event in _CONSOLE_CLOSED:
            save()
        return 0  # and let the other handlers see it

    handler = handler_type(handle)
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.SetConsoleCtrlHandler(handler, 1)
    try:
        yield
    finally:
        kernel.SetConsoleCtrlHandler(handler, 0)


def _say(text: str) -> None:
    """Print from a signal handler, which may have interrupted another print."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
