"""What moves the weights: parameter groups, optimizers, clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.training.fused_adamw import FusedAdamW
from dreambooth.training.optimizer_kinds import parse_arguments, build_optimizer, require_available
from dreambooth.settings.components import is_pure_bf16
from dreambooth.training.schedules import base_learning_rates, learning_rate
from dreambooth.training.stochastic_rounding import StochasticRoundingAdamW

NOTHING_TO_TRAIN = "Nothing to train: switch on train_unet, or set stop_text_encoder above 0."


def parameter_groups(
    settings: Settings, unet: Sequence[torch.nn.Parameter], text_encoder: Sequence[torch.nn.Parameter]
) -> list[dict[str, Any]]:
    """One group for each module that learns, with its own rate and decay. ``base_lr`` is what schedules scale."""
    parts = {"unet": (unet, settings.weight_decay), "text_encoder": (text_encoder, settings.tenc_weight_decay)}
    rates = base_learning_rates(settings)
    groups: list[dict[str, Any]] = [
        {"name": name, "params": list(params), "lr": rates[name], "weight_decay": decay, "base_lr": rates[name]}
        for name, (params, decay) in parts.items()
        if params
    ]
    if not groups:
        raise UserError(NOTHING_TO_TRAIN)
    return groups


def make_optimizer(settings: Settings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that was asked for, never another one. UserError says why it cannot be had here."""
    name, scheduler, more = settings.optimizer, settings.lr_scheduler, settings.optimizer_args
    if name != "Torch AdamW" or more:
        require_available(name, groups[0]["params"][0].device, scheduler, more)
    if is_pure_bf16(settings):
        return StochasticRoundingAdamW(groups, settings.seed, **parse_arguments(name, more))
    return build_optimizer(name, groups, scheduler, more)


@contextlib.contextmanager
def inference_weights(optimizer: Any) -> Iterator[None]:
    """The weights as they are to be drawn with and saved; afterwards, bit for bit, those that training goes on with.

    They differ for schedule-free optimizers alone, which step beside the average that they are for. Those optimizers'
    own way back from it rounds, so the weights are set aside.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    aside = [(p, p.data) for group in optimizer.param_groups for p in group["params"]]
    try:
        for parameter, data in aside:
            parameter.data = data.clone()
        optimizer.eval()
        yield
    finally:
        optimizer.train()
        for parameter, data in aside:
            parameter.data = data


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state_dict; of the groups only what moved by itself: rates and the like are settings, and may change."""
    whole, start = optimizer.state_dict(), optimizer.defaults

    def moved(key: str, value: Any) -> bool:
        if key in _SET or key == "params":
            return False
        return isinstance(value, torch.Tensor) or key not in start or start[key] != value

    groups = [{key: value for key, value in group.items() if moved(key, value)} for group in whole["param_groups"]]
    return {"state": whole["state"], "param_groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Go on from :func:`optimizer_state`, with today's rates and decays."""
    groups = []
    for group, now in zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True):
        kept = {key: value for key, value in group.items() if key not in _SET and key != "params"}
        groups.append({**now, **kept})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for group in optimizer.param_groups:  # torch leaves these where they were saved: on the CPU
        device = group["params"][0].device
        group |= {key: value.to(device) for key, value in group.items() if isinstance(value, torch.Tensor)}


_SET = ("name", "lr", "base_lr", "weight_decay")  # of a group: what the settings say


class Stepper:
    """Clips and takes optimizer steps; a step whose gradients are not finite is skipped, so weights stay good."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings, scaler: Any = None) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.set_to_none = settings.gradient_set_to_none
        own = settings.tenc_grad_clip_norm
        shared = [g for g in optimizer.param_groups if not (own and g["name"] == "text_encoder")]
        apart = [g for g in optimizer.param_groups if own and g["name"] == "text_encoder"]
        limits = ((shared, settings.max_grad_norm), (apart, own))
        self._limits = [([p for g in groups for p in g["params"]], limit) for groups, limit in limits if groups]
        one_limit = scaler is None and len(self._limits) == 1
        self._in_kernel = optimizer if one_limit and isinstance(optimizer, FusedAdamW) else None

    def step(self) -> torch.Tensor:
        """Take a step and clear the gradients. Returns the gradient norm before clipping, a scalar on the device."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        grads = [[p.grad for p in parameters if p.grad is not None] for parameters, _ in self._limits]
        norms = [_norm(of_limit) if of_limit else None for of_limit in grads]
        there = [norm for norm in norms if norm is not None]
        total = there[0] if len(there) == 1 else torch.linalg.vector_norm(torch.stack(there))
        if self._in_kernel:
            self._step_in_kernel(self._in_kernel, total)
        else:
            self._step_plain(grads, norms, total)
        self._clear(grads)
        return total

    def _step_in_kernel(self, optimizer: FusedAdamW, norm: torch.Tensor) -> None:
        limit = self._limits[0][1]
        scale = (norm / limit).clamp(min=1.0) if limit else None
        optimizer.step(grad_scale=scale, found_inf=(~torch.isfinite(norm)).float())

    def _step_plain(self, grads: list[list[torch.Tensor]], norms: list[Any], total: torch.Tensor) -> None:
        for of_limit, norm, (_, limit) in zip(grads, norms, self._limits, strict=True):
            if limit and of_limit:
                torch._foreach_mul_(of_limit, (limit / norm).clamp(max=1.0))
        if self.scaler:
            self.scaler.step(self.optimizer)  # skips by itself what overflowed in fp16
            self.scaler.update()
        elif bool(torch.isfinite(total)):
            self.optimizer.step()

    def _clear(self, grads: list[list[torch.Tensor]]) -> None:
        if not self.set_to_none:
            torch._foreach_zero_([grad for of_limit in grads for grad in of_limit])
            return
        for parameters, _ in self._limits:
            for parameter in parameters:
                parameter.grad = None


def set_learning_rates(optimizer: torch.optim.Optimizer, settings: Settings, step: int, total: int) -> None:
    """The rates of optimizer step ``step`` (counted from 0) of ``total``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, group["base_lr"], step, total)


def _norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """Length of all gradients taken as one vector."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
