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


class Autosave:
    """Due whenever ``minutes`` have passed since the last autosave; 0: never."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = 60 * minutes, clock
        self._last = clock()

    def is_due(self) -> bool:
        """True restarts the interval."""
        if not self.seconds or self._clock() - self._last < self.seconds:
            return False
        self._last = self._clock()
        return True


def _is_multiple(count: int, interval: int) -> bool:
    return bool(interval) and count % interval == 0
