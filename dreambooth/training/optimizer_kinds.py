"""The table of optimizers: their library, their arguments, and whether they work on this machine.

The libraries were chosen by maintenance and by compatibility with the versions that WebUIs pin: torch and transformers
are installed anyway; pytorch-optimizer (Apache-2.0, requires only numpy and torch from 2.1 on) has one well-tested
implementation of most others; bitsandbytes (MIT) has the 8-bit ones, in newer versions also for the CPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.errors import UserError, first_sentence
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.settings.arguments import parse_arguments as arguments_of_text
from dreambooth.settings.optimizer_arguments import WEIGHT_DECAY, describe_unknown, resolve_arguments
from dreambooth.settings.training import OPTIMIZERS
from dreambooth.training.fused_adamw import FusedAdamW, has_fused_adamw

log = logging.getLogger("dreambooth.training")

PACKAGES = {"bitsandbytes": "bitsandbytes", "pytorch_optimizer": "pytorch-optimizer"}  # module -> package on PyPI
_NO_MEMORY = "no memory is left on the device to try it. Close other programs, then try again."


@dataclass(frozen=True)
class OptimizerKind:
    """``library``: the module of the class; ``fixed``: arguments that the name implies, unless others are given."""

    library: str
    cls: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    estimates_lr: bool = False  # estimates the learning rate itself; the setting is a factor on the estimate


def _bnb(cls: str, **fixed: Any) -> OptimizerKind:
    return OptimizerKind("bitsandbytes.optim", cls, fixed)


def _po(cls: str, estimates_lr: bool = False, **fixed: Any) -> OptimizerKind:
    return OptimizerKind("pytorch_optimizer", cls, fixed, estimates_lr=estimates_lr)


OPTIMIZER_KINDS = {
    "Torch AdamW": OptimizerKind("torch.optim", "AdamW"),  # arXiv:1711.05101
    "8bit AdamW": _bnb("AdamW8bit"),  # arXiv:2110.02861
    "Paged 8bit AdamW": _bnb("PagedAdamW8bit"),
    "Lion": _po("Lion"),  # arXiv:2302.06675
    "8bit Lion": _bnb("Lion8bit"),
    "Paged 8bit Lion": _bnb("PagedLion8bit"),
    "Tiger": _po("Tiger"),
    "Adafactor": OptimizerKind("transformers.optimization", "Adafactor", {"relative_step": False}),  # arXiv:1804.04235
    "CAME": _po("CAME"),  # arXiv:2307.02047
    "SGD Nesterov": OptimizerKind("torch.optim", "SGD", {"momentum": 0.9, "nesterov": True}),
    "8bit SGD": _bnb("SGD8bit", momentum=0.9),  # bitsandbytes accepts nesterov=True and ignores it
    "AdamW Dadaptation": _po("DAdaptAdam", True, weight_decouple=True),  # arXiv:2301.07733
    "Adan Dadaptation": _po("DAdaptAdan", True, weight_decouple=True),
    "Lion Dadaptation": _po("DAdaptLion", True),
    "SGD Dadaptation": _po("DAdaptSGD", True),
    "Prodigy": _po("Prodigy", True, bias_correction=True, safeguard_warmup=True),  # arXiv:2306.06101
    "Schedule-Free AdamW": _po("ScheduleFreeAdamW"),  # arXiv:2405.15682
}
assert tuple(OPTIMIZER_KINDS) == OPTIMIZERS


def build_optimizer(
    name: str, groups: list[dict[str, Any]], scheduler: str = "constant", more: str = ""
) -> torch.optim.Optimizer:
    """The optimizer of that name over ``groups``. ``more``: the setting optimizer_args.

    Raises ImportError, or an error of its library, if it can't be created.
    """
    kind = OPTIMIZER_KINDS[name]
    fixed = {
        "lr": groups[0].get("lr", 1e-3),
        **kind.fixed,
        **parse_arguments(name, more),
    }  # some require a default learning rate
    if name == "Torch AdamW" and has_fused_adamw(groups[0]["params"][0].device.type):
        return FusedAdamW(groups, **fixed)
    if name == "Adafactor":
        # Updates are scaled by the size of each weight only with its own schedule, as in its paper.
        fixed = {"scale_parameter": scheduler == "adafactor", **fixed}
    return _optimizer_class(kind)(groups, **fixed)


def parse_arguments(name: str, more: str) -> dict[str, Any]:
    """``more`` ("betas=(0.9, 0.99), eps=1e-6") as arguments of that optimizer. ValueError says what is wrong.

    A weight decay among them is left out: it belongs to the parameter groups.
    """
    arguments, invalid = arguments_of_text(more)
    if invalid:
        raise ValueError(f"{invalid[0]!r} does not have the form name=value, as in betas=(0.9, 0.99), eps=1e-6")
    given, unknown, problems = resolve_arguments(name, arguments)
    if problems:
        raise ValueError(problems[0])
    if unknown:
        supported = inspect.signature(_optimizer_class(OPTIMIZER_KINDS[name])).parameters
        unsupported = [key for key in unknown if key not in supported or key == "kwargs"]
        if unsupported or name == "Torch AdamW":
            raise ValueError(describe_unknown(name, (unsupported or list(unknown))[0]))
    return {key: value for key, value in {**given, **unknown}.items() if key != WEIGHT_DECAY}


def missing_requirements() -> dict[str, str]:
    """Optimizers that can't be used on this machine, and what each of them needs. Nothing is imported."""
    missing = {name: _missing_requirement(kind) for name, kind in OPTIMIZER_KINDS.items()}
    return {name: needed for name, needed in missing.items() if needed}


def unavailable_reason(name: str, device: torch.device, scheduler: str = "constant", more: str = "") -> str:
    """Why the optimizer can't take steps on ``device``, as a sentence; empty if it can. It is tried.

    A failure is tried again the next time, since memory may have been full, or a package may have been installed.
    """
    kind = OPTIMIZER_KINDS[name]
    missing = _missing_requirement(kind)
    if missing:
        return f"it needs {missing}."
    try:
        parse_arguments(name, more)
    except ValueError as error:
        return f"optimizer_args: {error}."
    except Exception:  # its library can't be imported: the trial below reports that
        pass
    try:
        _take_steps(name, device, scheduler, more)
        return ""
    except Exception as error:
        if is_out_of_memory(error):
            return _NO_MEMORY
        log.info("optimizer %s on %s", name, device, exc_info=error)
        with_arguments = f" with {more}" if more else ""
        return (
            f"{kind.library}{with_arguments} does not work with this torch and {device.type} ({first_sentence(error)})."
        )


def require_available(name: str, device: torch.device, scheduler: str, more: str) -> None:
    """UserError if the optimizer can't be used. It is never replaced by another one."""
    reason = unavailable_reason(name, device, scheduler, more)
    if reason.startswith("optimizer_args"):
        raise UserError(reason)
    if reason:
        advice = "" if reason == _NO_MEMORY or name == "Torch AdamW" else " Choose Torch AdamW."
        raise UserError(f"optimizer: {name} can't be used: {reason}{advice}")


def _missing_requirement(kind: OptimizerKind) -> str:
    """What the optimizer needs and this machine lacks, as a noun; "" if nothing."""
    module = kind.library.partition(".")[0]
    if importlib.util.find_spec(module) is None:
        return f"{PACKAGES[module]} (pip install {PACKAGES[module]})"
    return ""


@functools.cache
def _take_steps(name: str, device: torch.device, scheduler: str, more: str) -> None:
    """Take three steps with a matrix, a vector and a 1 x 1 convolution. RuntimeError if they don't change or don't
    stay finite. The convolution's gradient has the strides that convolutions give to theirs.

    Once it works it is not tried again; exceptions are not cached.
    """
    values = [torch.ones(64, 128), torch.ones(16), torch.ones(64, 32, 1, 1)]
    parameters = [torch.nn.Parameter(value.to(device)) for value in values]
    rate = 1.0 if OPTIMIZER_KINDS[name].estimates_lr else 1e-3
    optimizer = build_optimizer(name, [{"params": parameters, "lr": rate, "weight_decay": 0.01}], scheduler, more)
    for step in range(3):
        for parameter in parameters:
            gradient = torch.full_like(parameter, 0.1 + step)
            parameter.grad = gradient.to(memory_format=torch.channels_last) if gradient.dim() == 4 else gradient
        optimizer.step()
    if not all(bool(torch.isfinite(p).all() and (p != 1).all()) for p in parameters):
        raise RuntimeError("its steps change no weights")


def _optimizer_class(kind: OptimizerKind) -> Any:
    return getattr(importlib.import_module(kind.library), kind.cls)
