"""Parameter groups, optimizers and gradient clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.settings.components import TrainedRole, is_fused_backward, is_pure_bf16, keys_of
from dreambooth.settings.optimizer_arguments import own_weight_decay
from dreambooth.training.fused_adamw import FusedAdamW
from dreambooth.training.fused_backward import FusedBackwardStepper
from dreambooth.training.gradient_clipping import clip_each
from dreambooth.training.optimizer_kinds import build_optimizer, parse_arguments, require_available
from dreambooth.training.rounded_adafactor import StochasticRoundingAdafactor
from dreambooth.training.rounded_optimizer import StochasticRounding
from dreambooth.training.schedules import base_learning_rates, learning_rate
from dreambooth.training.step_in_parts import StepInParts
from dreambooth.training.stochastic_rounding import StochasticRoundingAdamW

NOTHING_TO_TRAIN = "Nothing to train: switch on train_unet, or set stop_text_encoder above 0."


def parameter_groups(
    settings: Settings, denoiser: Sequence[torch.nn.Parameter], text_encoder: Sequence[torch.nn.Parameter]
) -> list[dict[str, Any]]:
    """One group per trained role, with its learning rate and weight decay. Schedules scale ``base_lr``."""
    parameters: dict[TrainedRole, Sequence[torch.nn.Parameter]] = {"denoiser": denoiser, "text_encoder": text_encoder}
    rates = base_learning_rates(settings)
    own_decay = own_weight_decay(settings.optimizer, settings.optimizer_args)
    groups: list[dict[str, Any]] = [
        {
            "name": role,
            "params": list(params),
            "lr": rates[role],
            "weight_decay": getattr(settings, keys_of(role).weight_decay) if own_decay is None else own_decay,
            "base_lr": rates[role],
        }
        for role, params in parameters.items()
        if params
    ]
    if not groups:
        raise UserError(NOTHING_TO_TRAIN)
    return groups


def make_optimizer(settings: Settings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of the settings, never another one. UserError if it can't be used."""
    name, scheduler, more = settings.optimizer, settings.lr_scheduler, settings.optimizer_args
    if name != "Torch AdamW" or more:
        require_available(name, groups[0]["params"][0].device, scheduler, more)
    if is_pure_bf16(settings):
        if name != "Torch AdamW":
            rounded = StochasticRoundingAdafactor if name == "Adafactor" else StochasticRounding
            return rounded(build_optimizer(name, groups, scheduler, more), settings.seed)
        return StochasticRoundingAdamW(groups, settings.seed, **parse_arguments(name, more))
    return build_optimizer(name, groups, scheduler, more)


def make_stepper(optimizer: torch.optim.Optimizer, settings: Settings, scaler: Any) -> Stepper | FusedBackwardStepper:
    """``scaler``: that of the loss in fp16, or None."""
    if is_fused_backward(settings):
        return FusedBackwardStepper(optimizer, settings)
    return Stepper(optimizer, settings, scaler)


@contextlib.contextmanager
def inference_weights(optimizer: Any) -> Iterator[None]:
    """In the block, parameters hold the weights for inference and saving; afterwards, bit for bit, those of training.

    They differ for schedule-free optimizers alone, which train on an interpolation of the averaged weights. Their own
    conversion back rounds, so the training weights are kept, in main memory.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    training_weights = [p.detach().to("cpu", copy=True) for p in parameters]
    try:
        optimizer.eval()
        yield
    finally:
        optimizer.train()
        for parameter, weights in zip(parameters, training_weights, strict=True):
            parameter.data.copy_(weights)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state_dict, without values in the groups that are settings and may be changed, such as learning rates."""
    state_dict, defaults = optimizer.state_dict(), optimizer.defaults

    def is_state(key: str, value: Any) -> bool:
        if key in _SETTINGS or key == "params":
            return False
        return isinstance(value, torch.Tensor) or key not in defaults or defaults[key] != value

    groups = [
        {key: value for key, value in group.items() if is_state(key, value)} for group in state_dict["param_groups"]
    ]
    return {"state": state_dict["state"], "param_groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load what :func:`optimizer_state` returned; learning rates and weight decays stay those of the settings."""
    groups = []
    for group, current in zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True):
        loaded = {key: value for key, value in group.items() if key not in _SETTINGS and key != "params"}
        groups.append({**current, **loaded})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for group in optimizer.param_groups:  # torch loads these onto the CPU
        device = group["params"][0].device
        group |= {key: value.to(device) for key, value in group.items() if isinstance(value, torch.Tensor)}


_SETTINGS = ("name", "lr", "base_lr", "weight_decay")  # keys of a group that the settings determine


class Stepper:
    """Clips gradients and takes optimizer steps. A step with NaN or infinite gradients is skipped."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings, scaler: Any = None) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.is_updating = False  # whether the optimizer is changing the weights
        self.set_to_none, self.clips_each = settings.gradient_set_to_none, settings.clip_each_tensor
        self._limits = _parameters_by_norm(optimizer, settings)
        one_limit = scaler is None and len(self._limits) == 1 and not self.clips_each
        self._in_kernel = optimizer if one_limit and isinstance(optimizer, FusedAdamW) else None

    def step(self) -> torch.Tensor:
        """Step, then clear the gradients. Returns the gradient norm before clipping, a scalar on the device."""
        self.is_updating = True
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        grads = [[p.grad for p in parameters if p.grad is not None] for parameters, _ in self._limits]
        norms = [torch.stack(torch._foreach_norm(clipped)) if clipped else None for clipped in grads]
        parts = [torch.linalg.vector_norm(norm) for norm in norms if norm is not None]
        total = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))
        if self._in_kernel:
            self._step_in_kernel(self._in_kernel, total)
        else:
            self._clip(grads, norms)
            self._step_plain(total)
        self._clear(grads)
        self.is_updating = False
        return total

    def discard(self) -> None:
        """Drop the gradients of a failed backward pass."""
        for parameters, _ in self._limits:
            for parameter in parameters:
                parameter.grad = None

    def _step_in_kernel(self, optimizer: FusedAdamW, norm: torch.Tensor) -> None:
        max_norm = self._limits[0][1]
        scale = (norm / max_norm).clamp(min=1.0) if max_norm else None
        optimizer.step(~torch.isfinite(norm), grad_scale=scale)

    def _clip(self, grads: list[list[torch.Tensor]], norms: list[torch.Tensor | None]) -> None:
        """``norms``: of each gradient."""
        for clipped, norm, (_, max_norm) in zip(grads, norms, self._limits, strict=True):
            if not max_norm or norm is None:
                continue
            if self.clips_each:
                clip_each(clipped, norm, max_norm)
            else:
                torch._foreach_mul_(clipped, (max_norm / torch.linalg.vector_norm(norm)).clamp(max=1.0))

    def _step_plain(self, norm: torch.Tensor) -> None:
        if self.scaler:
            self.scaler.step(self.optimizer)  # skips steps that overflowed in fp16
            self.scaler.update()
        elif isinstance(self.optimizer, StepInParts):  # without waiting for the GPU
            self.optimizer.step(found_inf=~torch.isfinite(norm))
        elif bool(torch.isfinite(norm)):
            self.optimizer.step()

    def _clear(self, grads: list[list[torch.Tensor]]) -> None:
        if self.set_to_none:
            self.discard()
        else:
            torch._foreach_zero_([grad for clipped in grads for grad in clipped])


def _parameters_by_norm(
    optimizer: torch.optim.Optimizer, settings: Settings
) -> list[tuple[list[torch.nn.Parameter], float]]:
    """The parameters that are clipped together, and their maximum norm; 0: no clipping."""
    text_norm = settings.tenc_grad_clip_norm
    separate = [g for g in optimizer.param_groups if text_norm and g["name"] == "text_encoder"]
    shared = [g for g in optimizer.param_groups if not (text_norm and g["name"] == "text_encoder")]
    norms = ((shared, settings.max_grad_norm), (separate, text_norm))
    return [([p for g in groups for p in g["params"]], max_norm) for groups, max_norm in norms if groups]


def set_learning_rates(optimizer: torch.optim.Optimizer, settings: Settings, step: int, total: int) -> None:
    """Set the learning rates of optimizer step ``step`` (counted from 0) of ``total``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, group["base_lr"], step, total)
