"""When something is due beside training: pictures, weights, a measurement, a rest. Pure functions of the position."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreambooth.settings import Settings
from dreambooth.training.snapshot import Position


def due(settings: Settings, position: Position, epoch_ended: bool) -> set[str]:
    """What is to be done now, after a step: any of "preview", "validate", "save", "rest".

    Each once, also where an interval in epochs and one in steps meet.
    """
    by_step = {
        "preview": settings.preview_every_steps,
        "save": settings.save_every_steps,
        "validate": settings.validation_every,
    }
    by_epoch = {
        "preview": settings.save_preview_every,
        "save": settings.save_embedding_every,
        "rest": settings.epoch_pause_frequency if settings.epoch_pause_time else 0,
    }
    wanted = {what for what, every in by_step.items() if _is_time(position.step, every)}
    if epoch_ended:
        wanted |= {what for what, every in by_epoch.items() if _is_time(position.epoch, every)}
    return wanted


class Autosave:
    """Says when ``minutes`` have gone by since it last did; 0: never. The time is all that it goes by."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = 60 * minutes, clock
        self._last = clock()

    def due(self) -> bool:
        if not self.seconds or self._clock() - self._last < self.seconds:
            return False
        self.saved()
        return True

    def saved(self) -> None:
        """A snapshot was made: the time counts from here."""
        self._last = self._clock()


def _is_time(count: int, every: int) -> bool:
    return bool(every) and count % every == 0
