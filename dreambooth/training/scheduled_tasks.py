"""When periodic tasks are due: previews, saves, validation, pauses. Pure functions of the position in the run."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreambooth.settings import Settings
from dreambooth.training.snapshot import Position


def due_tasks(settings: Settings, position: Position, epoch_ended: bool) -> set[str]:
    """The tasks that are due after a step: any of "preview", "validate", "save", "pause".

    Each is due once, also where an interval in epochs and one in steps coincide.
    """
    by_step = {
        "preview": settings.preview_every_steps,
        "save": settings.save_every_steps,
        "validate": settings.validation_every,
    }
    by_epoch = {
        "preview": settings.save_preview_every,
        "save": settings.save_embedding_every,
        "pause": settings.epoch_pause_frequency if settings.epoch_pause_time else 0,
    }
    tasks = {task for task, interval in by_step.items() if _is_multiple(position.step, interval)}
    if epoch_ended:
        tasks |= {task for task, interval in by_epoch.items() if _is_multiple(position.epoch, interval)}
    return tasks


def outputs_to_save(settings: Settings, when: str) -> list[str]:
    """What is saved "during" the run, "after" it, on "cancel", "now" (a request), as "auto" save or on "shutdown".

    The order is that of saving.

    At the end results come first: a snapshot that does not fit on the disk must not cost them. During the run the
    snapshot comes first: a run that is killed after it resumes from there and writes the results again, which is
    impossible when it is killed with working/ changed and no snapshot yet.

    "now" is like "during", but always saves a LoRA. "auto" and "shutdown" (the process is told to end) are a snapshot
    alone.
    """

    def is_enabled(what: str) -> bool:
        return getattr(settings, f"save_{what}_{'during' if when == 'now' else when}")

    if when == "auto":
        return ["snapshot"]
    if when == "shutdown":
        return ["snapshot"] if settings.save_state_cancel or settings.autosave_minutes else []
    results = []
    if not settings.use_lora:
        results.append("working and checkpoint" if is_enabled("ckpt") else "working")
    elif is_enabled("lora") or when == "now":
        results.append("lora")
    snapshot = ["snapshot"] if is_enabled("state") else []
    return [*snapshot, *results] if when in ("during", "now") else [*results, *snapshot]


AUTOMATIC = ("auto", "shutdown")  # the occasions whose snapshots nobody asked for: only the last one is kept


def saves_final_results(settings: Settings, when: str) -> bool:
    """Whether this occasion saves all results that the end of the run saves."""
    final, saved = ({what for what in outputs_to_save(settings, w) if what != "snapshot"} for w in ("after", when))
    return final <= saved or saved == {"working and checkpoint"}


class Autosave:
    """Due once ``minutes`` have passed since the last snapshot of any kind, or the start; 0: never."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = 60 * minutes, clock
        self.restart()

    def restart(self) -> None:
        """Call it after a snapshot was saved, so that a slow disk is not written to all the time."""
        self._last = self._clock()

    def is_due(self) -> bool:
        return bool(self.seconds) and self._clock() - self._last >= self.seconds


def _is_multiple(count: int, interval: int) -> bool:
    return bool(interval) and count % interval == 0
