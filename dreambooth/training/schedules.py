"""Length of a run and its learning rate schedules, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dreambooth.settings import Settings
from dreambooth.settings.components import TrainedRole, trained_components

MAX_CURVE_POINTS = 240  # of a plotted learning rate curve
REX_BETA = 0.5


def run_length(settings: Settings, epoch_lengths: Sequence[int], processes: int = 1) -> tuple[int, int]:
    """Optimizer steps of the run, and of its first epoch. The last step of an epoch may have fewer batches.

    ``epoch_lengths``: batches of each epoch, see ``Plan.epoch_lengths``; they are distributed over ``processes``.
    """
    steps = steps_of_epochs(settings, epoch_lengths, processes)
    total, per_epoch = sum(steps), steps[0]
    return min(total, settings.max_train_steps) if settings.max_train_steps else total, per_epoch


def steps_of_epochs(settings: Settings, epoch_lengths: Sequence[int], processes: int = 1) -> list[int]:
    """Optimizer steps of each epoch; arguments as of :func:`run_length`."""
    batches_per_step = settings.gradient_accumulation_steps * processes
    return [math.ceil(batches / batches_per_step) for batches in epoch_lengths]


def epochs_trained(total: int, steps: Sequence[int], step: int = 0, epoch: int = 0, steps_in_epoch: int = 0) -> int:
    """Number of epochs that a run of ``total`` steps begins: fewer than are set if its steps are limited.

    ``steps``: of each epoch. The run is at optimizer step ``step``, in epoch ``epoch``, of which it has done
    ``steps_in_epoch``; a resumed run may have had other epochs before.
    """
    while step < total:
        of_epoch = steps[epoch] if epoch < len(steps) else max(1, steps[-1])
        step += max(0, of_epoch - steps_in_epoch)  # fewer than it has done, if it was resumed with larger batches
        epoch, steps_in_epoch = epoch + 1, 0
    return epoch + (steps_in_epoch > 0)


def text_encoder_steps(settings: Settings, total: int) -> int:
    """Optimizer steps in which the text encoder is trained. All of them if the denoiser is not trained."""
    if settings.stop_text_encoder <= 0:
        return 0
    return max(1, round(settings.stop_text_encoder * total)) if settings.train_unet else total


def base_learning_rates(settings: Settings) -> dict[TrainedRole, float]:
    """The learning rate setting of each trained role, the denoiser first."""
    lora = settings.use_lora
    return {role: getattr(settings, keys.rate(lora)) for role, keys in trained_components(settings).items()}


def learning_rate(settings: Settings, base: float, step: int, total: int) -> float:
    """The learning rate in optimizer step ``step`` (counted from 0) of ``total``. ``base``: that of the settings."""
    name = settings.lr_scheduler
    if name == "adafactor":
        return min(1e-2, 1 / math.sqrt(step + 1))  # arXiv:1804.04235, algorithm 4; scaled by the optimizer
    if name in _ANNEALING:
        return _annealed_rate(settings, base, step, total)
    return base * lr_factor(settings, step, total)


def lr_factor(settings: Settings, step: int, total: int) -> float:
    """The factor on the learning rate in the settings, from 0 to 1.

    A warm-up rises linearly and reaches the full rate in the step after it. Decay takes the remaining steps.
    """
    name = settings.lr_scheduler
    if name in _WITH_START_FACTOR:
        return _start_factor(settings, step, total) * (1.0 - step / total if name == "linear" else 1.0)
    warmup = min(warmup_steps(settings, total), total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _SHAPES[name](min(1.0, (step - warmup) / max(1, total - warmup)), settings)


def warmup_steps(settings: Settings, total: int) -> int:
    """Steps of the warm-up. A setting below 1 is a fraction of the run."""
    if not has_warmup(settings.lr_scheduler):
        return 0
    steps = settings.lr_warmup_steps
    return round(steps * total) if steps < 1 else round(steps)


def has_warmup(scheduler: str) -> bool:
    return scheduler in _SHAPES


def lr_curves(
    settings: Settings, total: int, points: int = MAX_CURVE_POINTS
) -> dict[TrainedRole, list[tuple[int, float]]]:
    """Points of the schedules for plots: (step counted from 1, learning rate) by trained role.

    At most about ``points`` of each.
    """
    ends = {"denoiser": total, "text_encoder": text_encoder_steps(settings, total)}
    curves: dict[TrainedRole, list[tuple[int, float]]] = {}
    for role, base in base_learning_rates(settings).items():
        steps = range(0, ends[role], max(1, math.ceil(total / points)))
        if ends[role] and steps[-1] != ends[role] - 1:
            steps = [*steps, ends[role] - 1]
        curves[role] = [(step + 1, learning_rate(settings, base, step, total)) for step in steps]
    return curves


def _start_factor(settings: Settings, step: int, total: int) -> float:
    """From ``lr_factor`` to 1 at ``lr_scale_pos``: a jump for constant, a ramp for linear."""
    end = int(settings.lr_scale_pos * total)
    if step >= end:
        return 1.0
    return settings.lr_factor + (settings.lr_scheduler == "linear") * (1 - settings.lr_factor) * step / end


def _annealed_rate(settings: Settings, base: float, step: int, total: int) -> float:
    """Cosine annealing (SGDR, arXiv:1608.03983, eq. 5) between the learning rate and the minimum."""
    length = max(1, int(settings.lr_scale_pos * total))
    if settings.lr_scheduler == "cosine_annealing_with_restarts":
        step %= length
    minimum = min(base, settings.learning_rate_min)
    return minimum + (base - minimum) * 0.5 * (1.0 + math.cos(math.pi * step / length))


def _constant(done: float, settings: Settings) -> float:
    return 1.0


def _linear(done: float, settings: Settings) -> float:
    return 1.0 - done


def _cosine(done: float, settings: Settings) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _cosine_with_restarts(done: float, settings: Settings) -> float:
    """Cosine that decays to zero ``lr_cycles`` times, restarting at the full rate."""
    return 0.0 if done >= 1 else _cosine(settings.lr_cycles * done % 1.0, settings)


def _polynomial(done: float, settings: Settings) -> float:
    return (1.0 - done) ** settings.lr_power


def _rex(done: float, settings: Settings) -> float:
    """REX (arXiv:2107.04197): close to the full rate for long, then a steep decay."""
    return (1.0 - done) / (REX_BETA + (1.0 - REX_BETA) * (1.0 - done))


_WITH_START_FACTOR = ("constant", "linear")
_ANNEALING = ("cosine_annealing", "cosine_annealing_with_restarts")
# Schedules with a warm-up: the factor after it, where ``done`` goes from 0 to 1.
_SHAPES: dict[str, Callable[[float, Settings], float]] = {
    "constant_with_warmup": _constant,
    "linear_with_warmup": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "rex": _rex,
}
