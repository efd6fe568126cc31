"""How long a run is, and its learning rate over that, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dreambooth.settings import Settings


def run_length(settings: Settings, epoch_lengths: Sequence[int], processes: int = 1) -> tuple[int, int]:
    """Optimizer steps of the whole run, and of its first epoch, where the last one may be over fewer batches.

    ``epoch_lengths``: batches in each epoch, see ``Plan.epoch_lengths``; they are shared out among ``processes``.
    """
    batches_per_step = settings.gradient_accumulation_steps * processes
    steps = [math.ceil(batches / batches_per_step) for batches in epoch_lengths]
    total, per_epoch = sum(steps), steps[0]
    return min(total, settings.max_train_steps) if settings.max_train_steps else total, per_epoch


def lr_factor(name: str, step: int, total: int, warmup: int = 0) -> float:
    """The factor, in 0..1, on the set rate in optimizer step ``step`` (counted from 0) of ``total``.

    Warm-up rises linearly and reaches the full rate in step ``warmup``; linear and cosine fall to zero over the rest.
    """
    shape, warms_up = _SHAPES[name]
    if not warms_up:
        warmup = 0
    warmup = min(warmup, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return shape(min(1.0, (step - warmup) / max(1, total - warmup)))


def _constant(_: float) -> float:
    return 1.0


def _linear(done: float) -> float:
    return 1.0 - done


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


# name -> (factor over the part after the warm-up, whether there is a warm-up)
_SHAPES: dict[str, tuple[Callable[[float], float], bool]] = {
    "constant": (_constant, False),
    "constant_with_warmup": (_constant, True),
    "linear": (_linear, False),
    "linear_with_warmup": (_linear, True),
    "cosine": (_cosine, True),
}
