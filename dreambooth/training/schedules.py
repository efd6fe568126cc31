"""How long a run is, and its learning rates over that, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dreambooth.settings import Settings

MOST_POINTS = 240  # of a curve that is drawn
BETA = 0.5  # of REX


def run_length(settings: Settings, epoch_lengths: Sequence[int], processes: int = 1) -> tuple[int, int]:
    """Optimizer steps of the whole run, and of its first epoch, where the last one may be over fewer batches.

    ``epoch_lengths``: batches in each epoch, see ``Plan.epoch_lengths``; they are shared out among ``processes``.
    """
    batches_per_step = settings.gradient_accumulation_steps * processes
    steps = [math.ceil(batches / batches_per_step) for batches in epoch_lengths]
    total, per_epoch = sum(steps), steps[0]
    return min(total, settings.max_train_steps) if settings.max_train_steps else total, per_epoch


def text_encoder_steps(settings: Settings, total: int) -> int:
    """Optimizer steps that the text encoder is trained in: where the unet does not learn, all of them."""
    if settings.stop_text_encoder <= 0:
        return 0
    return max(1, round(settings.stop_text_encoder * total)) if settings.train_unet else total


def base_rates(settings: Settings) -> dict[str, float]:
    """The set learning rate of each part that learns, "unet" first."""
    unet = settings.lora_learning_rate if settings.use_lora else settings.learning_rate
    text = settings.lora_txt_learning_rate if settings.use_lora else settings.txt_learning_rate
    learning = {"unet": unet} if settings.train_unet else {}
    return learning | ({"text_encoder": text} if settings.stop_text_encoder > 0 else {})


def learning_rate(settings: Settings, base: float, step: int, total: int) -> float:
    """The learning rate in optimizer step ``step`` (counted from 0) of ``total``; ``base``: the rate that was set."""
    name = settings.lr_scheduler
    if name == "adafactor":
        return min(1e-2, 1 / math.sqrt(step + 1))  # arXiv:1804.04235, algorithm 4; the optimizer scales it by weights
    if name in _ANNEALING:
        return _annealed(settings, base, step, total)
    return base * lr_factor(settings, step, total)


def lr_factor(settings: Settings, step: int, total: int) -> float:
    """The factor, in 0..1, on the set rate.

    A warm-up rises linearly and reaches the full rate in its last step plus one; what falls, falls over the rest.
    """
    name = settings.lr_scheduler
    if name in _STARTING:
        return _starting(settings, step, total) * (1.0 - step / total if name == "linear" else 1.0)
    warmup = min(warmup_steps(settings, total), total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _SHAPES[name](min(1.0, (step - warmup) / max(1, total - warmup)), settings)


def warmup_steps(settings: Settings, total: int) -> int:
    """Steps of the warm-up; below 1 the setting is a share of the run."""
    if not settings_with_warmup(settings.lr_scheduler):
        return 0
    asked = settings.lr_warmup_steps
    return round(asked * total) if asked < 1 else round(asked)


def settings_with_warmup(scheduler: str) -> bool:
    return scheduler in _SHAPES


def curve(settings: Settings, total: int, points: int = MOST_POINTS) -> dict[str, list[tuple[int, float]]]:
    """What will be trained with: for each part that learns, (step counted from 1, rate), at most about ``points``."""
    ends = {"unet": total, "text_encoder": text_encoder_steps(settings, total)}
    drawn = {}
    for part, base in base_rates(settings).items():
        steps = range(0, ends[part], max(1, math.ceil(total / points)))
        if ends[part] and steps[-1] != ends[part] - 1:
            steps = [*steps, ends[part] - 1]
        drawn[part] = [(step + 1, learning_rate(settings, base, step, total)) for step in steps]
    return drawn


def _starting(settings: Settings, step: int, total: int) -> float:
    """From ``lr_factor`` to 1 at ``lr_scale_pos``: at once for constant, evenly for linear."""
    reached = int(settings.lr_scale_pos * total)
    if step >= reached:
        return 1.0
    return settings.lr_factor + (settings.lr_scheduler == "linear") * (1 - settings.lr_factor) * step / reached


def _annealed(settings: Settings, base: float, step: int, total: int) -> float:
    """Cosine annealing (SGDR, arXiv:1608.03983, eq. 5) between the set rate and the smallest one."""
    length = max(1, int(settings.lr_scale_pos * total))
    if settings.lr_scheduler == "cosine_annealing_with_restarts":
        step %= length
    least = min(base, settings.learning_rate_min)
    return least + (base - least) * 0.5 * (1.0 + math.cos(math.pi * step / length))


def _constant(done: float, settings: Settings) -> float:
    return 1.0


def _linear(done: float, settings: Settings) -> float:
    return 1.0 - done


def _cosine(done: float, settings: Settings) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _restarting(done: float, settings: Settings) -> float:
    """Cosine that falls to zero ``lr_cycles`` times, and starts at the full rate again in between."""
    return 0.0 if done >= 1 else _cosine(settings.lr_cycles * done % 1.0, settings)


def _polynomial(done: float, settings: Settings) -> float:
    return (1.0 - done) ** settings.lr_power


def _rex(done: float, settings: Settings) -> float:
    """REX (arXiv:2107.04197): nearly the full rate for long, then a steep fall."""
    return (1.0 - done) / (BETA + (1.0 - BETA) * (1.0 - done))


_STARTING = ("constant", "linear")
_ANNEALING = ("cosine_annealing", "cosine_annealing_with_restarts")
# With a warm-up: the factor over the part after it, where ``done`` goes from 0 to 1.
_SHAPES: dict[str, Callable[[float, Settings], float]] = {
    "constant_with_warmup": _constant,
    "linear_with_warmup": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _restarting,
    "polynomial": _polynomial,
    "rex": _rex,
}
