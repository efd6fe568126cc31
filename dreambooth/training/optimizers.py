"""What moves the weights: parameter groups, optimizers, clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.training.fused_adamw import FusedAdamW


def parameter_groups(
    settings: Settings, unet: Sequence[torch.nn.Parameter], text_encoder: Sequence[torch.nn.Parameter]
) -> list[dict[str, Any]]:
    """One group for each module that learns, with its own rate and decay. ``base_lr`` is what schedules scale."""
    unet_lr = settings.lora_learning_rate if settings.use_lora else settings.learning_rate
    text_lr = settings.lora_txt_learning_rate if settings.use_lora else settings.txt_learning_rate
    groups = [
        {"name": "unet", "params": list(unet), "lr": unet_lr, "weight_decay": settings.weight_decay},
        {"name": "text_encoder", "params": list(text_encoder), "lr": text_lr,
         "weight_decay": settings.tenc_weight_decay},
    ]  # fmt: skip
    return [{**group, "base_lr": group["lr"]} for group in groups if group["params"]]


def make_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that was asked for, never another one. UserError says why it cannot be had here."""
    if name == "8bit AdamW":
        why = why_not_8bit(groups[0]["params"][0].device)
        if why:
            raise UserError(f"optimizer: 8bit AdamW cannot run here: {why} Choose Torch AdamW.")
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups)
    if has_fused(groups[0]["params"][0].device.type):
        return FusedAdamW(groups)
    return torch.optim.AdamW(groups)


def why_not_8bit(device: torch.device) -> str:
    """Empty where bitsandbytes' 8-bit AdamW really takes a step on ``device``, else the reason."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU."
    try:
        import bitsandbytes

        probe = torch.nn.Parameter(torch.ones(4096 * 2, device=device))
        probe.grad = torch.ones_like(probe)
        bitsandbytes.optim.AdamW8bit([probe], lr=1e-3).step()
        return "" if (probe != 1).all() else "bitsandbytes took a step that changed nothing."
    except ImportError:
        return "bitsandbytes is not installed (pip install bitsandbytes)."
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        return f"bitsandbytes does not work with this GPU ({said.splitlines()[0]})."


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
        self._in_kernel = scaler is None and len(self._limits) == 1 and isinstance(optimizer, FusedAdamW)

    def step(self) -> torch.Tensor:
        """Take a step and clear the gradients. Returns the gradient norm before clipping, a scalar on the device."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        grads = [[p.grad for p in parameters if p.grad is not None] for parameters, _ in self._limits]
        norms = [_norm(of_limit) if of_limit else None for of_limit in grads]
        there = [norm for norm in norms if norm is not None]
        total = there[0] if len(there) == 1 else torch.linalg.vector_norm(torch.stack(there))
        if self._in_kernel:
            self._step_in_kernel(total)
        else:
            self._step_plain(grads, norms, total)
        self._clear(grads)
        return total

    def _step_in_kernel(self, norm: torch.Tensor) -> None:
        limit = self._limits[0][1]
        scale = (norm / limit).clamp(min=1.0) if limit else None
        self.optimizer.step(grad_scale=scale, found_inf=(~torch.isfinite(norm)).float())

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


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _norm(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Length of all gradients taken as one vector."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def has_fused(device: str) -> bool:
    """Fused AdamW: on CUDA since torch 2.0, on the CPU since 2.4."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return device == "cuda" or (device == "cpu" and (major, minor) >= (2, 4))
