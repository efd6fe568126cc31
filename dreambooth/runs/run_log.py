"""The log file of a run, and its outcome as the last event."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.errors import Cancelled, UserError, describe_unexpected
from dreambooth.files import as_user_error
from dreambooth.jobs import Ended, Events
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.text import count

if TYPE_CHECKING:
    from dreambooth.runs.run import RunResult

log = logging.getLogger("dreambooth")
LOG_NAME = "log.txt"  # next to the event logs


@contextmanager
def log_file(folder: Path | None) -> Iterator[None]:
    """Write our own loggers' records, with tracebacks, to ``folder/log.txt`` during a run; None: to no file."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / LOG_NAME, encoding="utf-8")
    except OSError as error:
        raise as_user_error(error, folder) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def report_outcome(events: Events) -> Iterator[None]:
    """Send how the block ended as the last event, then close the events."""
    try:
        yield
    except Cancelled:
        events.send(Ended("cancelled", text="Cancelled before the first step; nothing was changed."))
        raise
    except UserError as error:
        if error.__cause__:
            log.error("cause of the error that the user saw", exc_info=error)
        events.send(Ended("failed", text=str(error)))
        raise
    except BaseException as error:
        log.exception("the run failed")
        text = describe_unexpected(error, str(events.path.parent / LOG_NAME) if events.path else "the console")
        if is_out_of_memory(error):
            text = "Out of memory. Lower the batch size or resolution, use gradient checkpointing, or train a LoRA."
            events.send(Ended("failed", text=text))
            raise UserError(text) from error
        events.send(Ended("failed", text=text))
        raise
    finally:
        events.close()


def outcome_text(result: RunResult) -> str:
    files = f" Saved: {', '.join(path.name for path in result.files)}." if result.files else ""
    outcome = "Training finished" if result.state == "done" else "Training was canceled"
    return f"{outcome} after {count(result.steps, 'step')}.{files}"
