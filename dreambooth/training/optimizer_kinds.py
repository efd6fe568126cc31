"""The optimizers there are, from whose library, and whether they work here: one row for each.

Chosen by upkeep and by what goes beside a WebUI's own pins: torch and transformers are there already;
pytorch-optimizer (Apache-2.0, needs only numpy and torch from 2.1 on) has one well-tested implementation of most
others; bitsandbytes (MIT) has the 8-bit ones.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings.training import OPTIMIZERS
from dreambooth.training.fused_adamw import FusedAdamW, has_fused

PACKAGES = {"bitsandbytes": "bitsandbytes", "pytorch_optimizer": "pytorch-optimizer"}  # module -> what pip installs
OURS = ("params", "lr", "weight_decay", "maximize")  # not for optimizer_args: settings of their own, or nonsense


@dataclass(frozen=True)
class Kind:
    """``library``: where the class is; ``fixed``: arguments that make it what its name says."""

    library: str
    cls: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    state_bytes: float = 8  # what it keeps for each parameter
    gpu: bool = False  # whether it makes sense only there
    finds_rate: bool = False  # estimates the step size itself: the set rate is a factor on that


def _bnb(cls: str, state_bytes: float, **fixed: Any) -> Kind:
    return Kind("bitsandbytes.optim", cls, fixed, state_bytes, gpu=True)


def _po(cls: str, state_bytes: float, finds_rate: bool = False, **fixed: Any) -> Kind:
    return Kind("pytorch_optimizer", cls, fixed, state_bytes, finds_rate=finds_rate)


KINDS = {
    "Torch AdamW": Kind("torch.optim", "AdamW"),  # arXiv:1711.05101
    "8bit AdamW": _bnb("AdamW8bit", 2),  # arXiv:2110.02861
    "Paged 8bit AdamW": _bnb("PagedAdamW8bit", 2),
    "Lion": _po("Lion", 4),  # arXiv:2302.06675
    "8bit Lion": _bnb("Lion8bit", 1),
    "Paged 8bit Lion": _bnb("PagedLion8bit", 1),
    "Tiger": _po("Tiger", 4),
    "Adafactor": Kind("transformers.optimization", "Adafactor", {"relative_step": False}, 0.1),  # arXiv:1804.04235
    "CAME": _po("CAME", 4.2),  # arXiv:2307.02047
    "SGD Nesterov": Kind("torch.optim", "SGD", {"momentum": 0.9, "nesterov": True}, 4),
    "8bit SGD": _bnb("SGD8bit", 1, momentum=0.9),  # bitsandbytes takes nesterov=True and does without
    "AdamW Dadaptation": _po("DAdaptAdam", 12, True, weight_decouple=True),  # arXiv:2301.07733
    "Adan Dadaptation": _po("DAdaptAdan", 20, True, weight_decouple=True),
    "Lion Dadaptation": _po("DAdaptLion", 8, True),
    "SGD Dadaptation": _po("DAdaptSGD", 12, True),
    "Prodigy": _po("Prodigy", 16, True, bias_correction=True, safeguard_warmup=True),  # arXiv:2306.06101
    "Schedule-Free AdamW": _po("ScheduleFreeAdamW", 8),  # arXiv:2405.15682
}
assert tuple(KINDS) == OPTIMIZERS


def build(
    name: str, groups: list[dict[str, Any]], scheduler: str = "constant", more: str = ""
) -> torch.optim.Optimizer:
    """The optimizer of that name over ``groups``. ``more``: the setting optimizer_args.

    ImportError, or whatever its library raises, where it cannot be made.
    """
    kind = KINDS[name]
    fixed = {"lr": groups[0].get("lr", 1e-3), **kind.fixed, **arguments(name, more)}  # some insist on a rate for all
    if name == "Torch AdamW" and has_fused(groups[0]["params"][0].device.type):
        return FusedAdamW(groups, **fixed)
    if name == "Adafactor":
        # Scaled by each weight's own size only where it also chooses the rate, as in its paper.
        fixed = {"scale_parameter": scheduler == "adafactor", **fixed}
    return _class(kind)(groups, **fixed)


def arguments(name: str, more: str) -> dict[str, Any]:
    """``more`` ("betas=(0.9, 0.99), eps=1e-6") as arguments of that optimizer; ValueError in words."""
    try:
        call = ast.parse(f"dict({more})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        given = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(f"{more!r} is not of the form betas=(0.9, 0.99), eps=1e-6") from None
    if not given:
        return {}
    cls = FusedAdamW if name == "Torch AdamW" else _class(KINDS[name])
    known = [p for p in inspect.signature(cls).parameters if p not in (*OURS, "args", "kwargs", *KINDS[name].fixed)]
    odd = [key for key in given if key not in known]
    if odd:
        raise ValueError(f"{name} takes no {odd[0]}; it takes {', '.join(known)}")
    return given


def listed(device: torch.device) -> list[str]:
    """Those to offer here: their library is there, and so is the kind of device. Nothing is imported."""
    return [name for name, kind in KINDS.items() if not _lacks(kind, device)]


@functools.cache
def why_not(name: str, device: torch.device, scheduler: str = "constant", more: str = "") -> str:
    """Empty where the optimizer really takes steps on ``device``, else the reason, as a sentence."""
    kind = KINDS[name]
    lacking = _lacks(kind, device)
    if lacking:
        return lacking
    try:
        arguments(name, more)
    except ValueError as error:
        return f"optimizer_args: {error}."
    except Exception:  # its library does not even import: the step below says so
        pass
    try:
        return "" if _steps(name, device, scheduler, more) else f"{kind.library} took steps that changed nothing."
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        blamed = f" with {more}" if more else ""
        return f"{kind.library}{blamed} does not work with this torch and {device.type} ({said.splitlines()[0]})."


def refuse(name: str, device: torch.device, scheduler: str, more: str) -> None:
    """UserError where that optimizer cannot be had: it is never replaced by another one."""
    why = why_not(name, device, scheduler, more)
    if why.startswith("optimizer_args"):
        raise UserError(why)
    if why:
        raise UserError(f"optimizer: {name} cannot run here: {why} Choose Torch AdamW.")


def _lacks(kind: Kind, device: torch.device) -> str:
    if kind.gpu and device.type != "cuda":
        return "it needs an NVIDIA GPU."
    module = kind.library.partition(".")[0]
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed (pip install {PACKAGES[module]})."
    return ""


def _steps(name: str, device: torch.device, scheduler: str, more: str) -> bool:
    """Whether a matrix and a vector move in three steps, and stay finite."""
    values = [torch.ones(64, 128), torch.ones(16)]
    parameters = [torch.nn.Parameter(value.to(device)) for value in values]
    rate = 1.0 if KINDS[name].finds_rate else 1e-3
    optimizer = build(name, [{"params": parameters, "lr": rate, "weight_decay": 0.01}], scheduler, more)
    for step in range(3):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.1 + step)
        optimizer.step()
    return all(bool(torch.isfinite(p).all() and (p != 1).all()) for p in parameters)


def _class(kind: Kind) -> Any:
    return getattr(importlib.import_module(kind.library), kind.cls)
