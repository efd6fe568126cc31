"""A run's events as what the page shows: one line, a bar, pictures, files. Plain values, no Gradio."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Status:
    """Where a run stands. ``share`` is the part done, 0 to 1, or None when that is not known."""

    line: str = ""
    share: float | None = None
    pictures: tuple[tuple[str, str], ...] = ()  # (path, caption), newest first
    files: tuple[str, ...] = ()
    ended: bool = False

    def as_html(self) -> str:
        value = "" if self.share is None else f' value="{self.share:.4f}"'
        bar = "" if self.ended or not self.line else f"<progress{value}></progress>"
        return f'<div class="db_run"><span>{html.escape(self.line)}</span>{bar}</div>'


def status_of(events: Iterable[dict[str, Any]], running: bool) -> Status:
    """The status after ``events``. A log that breaks off while nothing runs is a run that was interrupted."""
    line, share, ended = "", None, False
    pictures: list[tuple[str, str]] = []
    files: list[str] = []
    step: dict[str, Any] = {}
    for event in events:
        kind = event.get("kind")
        if kind == "started":
            line, ended = f"Starting: {event.get('what', '')}", False
        elif kind == "phase":
            line, share = f"{event.get('name', '')}…", None
        elif kind == "progress":
            line, share = _progress(event)
        elif kind == "step":
            step, line, share = event, _step(event), _share(event.get("step"), event.get("total"))
        elif kind == "preview":
            pictures.insert(0, (str(event.get("path")), _caption(event)))
        elif kind == "saved":
            files.append(str(event.get("path")))
        elif kind == "message" and event.get("level") in ("warning", "error"):
            line = str(event.get("text"))
        elif kind == "ended":
            line, ended = _end(event), True
    if line and not ended and not running:
        line, ended = f"A run was interrupted{_at(step)}.", True
    shown = tuple((path, caption) for path, caption in pictures if Path(path).is_file())
    return Status(line, share, shown, tuple(files), ended)


def _progress(event: dict[str, Any]) -> tuple[str, float | None]:
    done, total = event.get("done"), event.get("total")
    return f"{event.get('phase', '')}: {done} of {total}", _share(done, total)


def _step(event: dict[str, Any]) -> str:
    parts = [f"Step {event.get('step')} of {event.get('total')}", f"epoch {event.get('epoch')}"]
    if isinstance(event.get("loss"), (int, float)):
        parts.append(f"loss {event['loss']:.4f}")
    seconds = event.get("seconds")
    if isinstance(seconds, (int, float)):
        parts.append(f"{seconds:.2f} s per step")
    return " · ".join(parts)


def _caption(event: dict[str, Any]) -> str:
    return f"{event.get('prompt', '')} (seed {event.get('seed')}, step {event.get('step')})"


def _end(event: dict[str, Any]) -> str:
    state, text = str(event.get("state")).capitalize(), event.get("text")
    if text and state == "Failed":
        return f"Failed: {text}"
    return str(text or f"{state}.")


def _at(step: dict[str, Any]) -> str:
    return f" at step {step['step']} of {step.get('total')}" if "step" in step else ""


def _share(done: Any, total: Any) -> float | None:
    try:
        return min(1.0, max(0.0, done / total))
    except (TypeError, ZeroDivisionError):
        return None
