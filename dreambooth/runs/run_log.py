"""How a run is told: what goes into the model's log folder beside the events, and how its end is put in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.errors import Cancelled, UserError
from dreambooth.files import explain
from dreambooth.jobs import Events

if TYPE_CHECKING:
    from dreambooth.runs.run import RunResult

log = logging.getLogger("dreambooth")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


@contextmanager
def log_file(folder: Path | None) -> Iterator[None]:
    """What our own loggers say during a run, tracebacks and all, also goes to ``folder/log.txt`` (None: nowhere)."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    except OSError as error:
        raise explain(error, folder) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def told(events: Events) -> Iterator[None]:
    """However the block ends, the log says so in words, and is closed."""
    try:
        yield
    except Cancelled:
        events.send("ended", state="cancelled", text="Cancelled before the first step; nothing was changed.")
        raise
    except UserError as error:
        if error.__cause__:
            log.error("the cause of what was said", exc_info=error)
        events.send("ended", state="failed", text=str(error))
        raise
    except BaseException as error:
        log.exception("the run failed")
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            text = "Out of memory. Lower the batch size or resolution, use gradient checkpointing, or train a LoRA."
            events.send("ended", state="failed", text=text)
            raise UserError(text) from error
        events.send("ended", state="failed", text=text)
        raise
    finally:
        events.close()


def ending(result: RunResult) -> str:
    made = f" Made: {', '.join(path.name for path in result.files)}." if result.files else ""
    how = "Training is done" if result.state == "done" else "Training was cancelled"
    return f"{how} after {result.steps} steps.{made}"
