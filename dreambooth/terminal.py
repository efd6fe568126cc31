"""Progress on standard error: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from dreambooth.text import format_duration


class ProgressBar:
    """A progress bar that overwrites its line, or plain lines if standard error is not a terminal."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._shown, self._what, self._open = 0.0, "", False

    def show(self, done: int, total: int, what: str, more: str = "") -> None:
        now = time.monotonic()
        last = done >= total
        if what == self._what and not last and now - self._shown < (0.1 if self._tty else 10):
            return
        self._shown, self._what = now, what
        if not self._tty:
            print(f"{what}: {done}/{total} {more}".rstrip(), file=sys.stderr, flush=True)
            return
        filled = int(24 * done / max(1, total))
        print(
            f"\r\033[K{what} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total} {more}",
            end="",
            file=sys.stderr,
            flush=True,
        )
        self._open = True
        if last:
            self.end()

    def line(self, text: str) -> None:
        self.end()
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line of the progress bar."""
        if self._open:
            print(file=sys.stderr, flush=True)
        self._open = False

    def listen(self, event: dict[str, Any]) -> None:
        """Print an event of a run (see :mod:`dreambooth.jobs.events`)."""
        kind = event["kind"]
        if kind == "step":
            left = (event["total"] - event["step"]) * event["seconds"]
            prior = f" prior {event['prior_loss']:.4f}" if event["prior_loss"] is not None else ""
            epoch = f"epoch {event['epoch'] + 1} of {event['epochs']}"
            more = f"{epoch}, loss {event['loss']:.4f}{prior} lr {event['lr']:.1e}, {format_duration(left)} left"
            self.show(event["step"], event["total"], "training", more)
        elif kind == "validation":
            drift = "" if event["class_loss"] is None else f", on class images {event['class_loss']:.4f}"
            best = " (lowest so far)" if event["best"] else ""
            self.line(f"validation after step {event['step']}: loss {event['loss']:.4f}{best}{drift}")
        elif kind == "progress":
            self.show(event["done"], event["total"], event["phase"])
        elif kind == "saved":
            self.line(f"saved {event['what']}: {event['path']} ({event['summary']})")
        elif kind == "preview":
            self.line(f"preview: {event['path']}")
        elif kind == "message":
            self.line(event["text"])
