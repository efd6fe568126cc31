"""The arguments of each optimizer: their names here and in the libraries that sd-scripts use, and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dreambooth.settings.arguments import parse_arguments

WEIGHT_DECAY = "weight_decay"  # replaces both settings of that name


@dataclass(frozen=True)
class Kind:
    """What the value of an argument may be."""

    text: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _several(count: int, accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and len(value) == count and all(map(accepts, value))


_FLAG = Kind("True or False", lambda value: value in (0, 1) and not isinstance(value, float))
_NUMBER = Kind("a number", _is_number)
_POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_FRACTION = Kind("a number from 0 to below 1", _is_fraction)
_BETA_OR_NONE = Kind("None or a number from 0 to below 1", lambda value: value is None or _is_fraction(value))
_TWO_BETAS = Kind("two numbers from 0 to below 1, such as (0.9, 0.99)", _several(2, _is_fraction))
_THREE_BETAS = Kind("three numbers from 0 to below 1, such as (0.9, 0.99, 0.999)", _several(3, _is_fraction))
_TWO_EPS = Kind("two small numbers, such as (1e-30, 1e-3)", _several(2, lambda value: _is_number(value) and value > 0))
_COUNT = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)
_DECAY = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)


@dataclass(frozen=True)
class OptimizerArguments:
    """``aliases``: names in other libraries. ``fixed``: arguments that are accepted with this value alone."""

    kinds: Mapping[str, Kind]
    aliases: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


_ADAPTED = {"d0": _POSITIVE, "weight_decouple": _FLAG}  # of all optimizers that estimate the learning rate
_8BIT = {"percentile_clipping": 100, "block_wise": True}
_DECOUPLE = {"decouple": "weight_decouple"}
# Arguments that do not change what is trained: they concern the implementation, logs, or training on several machines.
_WITHOUT_EFFECT = frozenset({
    "foreach", "fused", "capturable", "differentiable", "fsdp_in_use", "log_every", "use_triton", "optim_bits",
    "is_paged", "args",
})  # fmt: skip

ARGUMENTS: dict[str, OptimizerArguments] = {
    "Torch AdamW": OptimizerArguments({"betas": _TWO_BETAS, "eps": _POSITIVE}, fixed={"amsgrad": False}),
    **dict.fromkeys(
        ("8bit AdamW", "Paged 8bit AdamW"),
        OptimizerArguments(
            {"betas": _TWO_BETAS, "eps": _POSITIVE, "min_8bit_size": _COUNT}, fixed={"amsgrad": False, **_8BIT}
        ),
    ),
    "Lion": OptimizerArguments({"betas": _TWO_BETAS}, fixed={"decoupled_weight_decay": False, "weight_decouple": True}),
    **dict.fromkeys(
        ("8bit Lion", "Paged 8bit Lion"),
        OptimizerArguments({"betas": _TWO_BETAS, "min_8bit_size": _COUNT}, fixed=_8BIT),
    ),
    "Tiger": OptimizerArguments({"beta": _FRACTION}),
    "Adafactor": OptimizerArguments(
        {"eps": _TWO_EPS, "clip_threshold": _POSITIVE, "decay_rate": _NUMBER, "beta1": _BETA_OR_NONE,
         "scale_parameter": _FLAG}, fixed={"warmup_init": False},
    ),
    "CAME": OptimizerArguments(
        {"betas": _THREE_BETAS, "clip_threshold": _POSITIVE, "eps1": _POSITIVE, "eps2": _POSITIVE}
    ),
    "SGD Nesterov": OptimizerArguments({"momentum": _FRACTION}, fixed={"nesterov": True, "dampening": 0}),
    "8bit SGD": OptimizerArguments({"momentum": _FRACTION, "min_8bit_size": _COUNT}, fixed={"nesterov": True, **_8BIT}),
    "AdamW Dadaptation": OptimizerArguments(
        {**_ADAPTED, "betas": _TWO_BETAS, "growth_rate": _POSITIVE, "eps": _POSITIVE, "bias_correction": _FLAG},
        {**_DECOUPLE, "use_bias_correction": "bias_correction"},
    ),
    "Adan Dadaptation": OptimizerArguments(
        {**_ADAPTED, "betas": _THREE_BETAS, "growth_rate": _POSITIVE, "eps": _POSITIVE}, {"no_prox": "weight_decouple"}
    ),
    "Lion Dadaptation": OptimizerArguments({**_ADAPTED, "betas": _TWO_BETAS}, _DECOUPLE),
    "SGD Dadaptation": OptimizerArguments({**_ADAPTED, "growth_rate": _POSITIVE, "momentum": _FRACTION}, _DECOUPLE),
    "Prodigy": OptimizerArguments(
        {"betas": _TWO_BETAS, "beta3": _BETA_OR_NONE, "d0": _POSITIVE, "d_coef": _POSITIVE, "growth_rate": _POSITIVE,
         "bias_correction": _FLAG, "safeguard_warmup": _FLAG, "eps": _POSITIVE},
        {"use_bias_correction": "bias_correction", **_DECOUPLE}, {"weight_decouple": True, "slice_p": 1},
    ),
    "Schedule-Free AdamW": OptimizerArguments(
        {"betas": _TWO_BETAS, "eps": _POSITIVE, "r": _NUMBER, "weight_lr_power": _NUMBER, "warmup_steps": _COUNT}
    ),
}  # fmt: skip
# Arguments that are settings of their own -> what to do.
_ELSEWHERE = {
    "lr": "set the learning rate under Learning Rate instead",
    "params": "the weights to train are chosen by the other settings",
    "maximize": "the loss is always minimized",
    "relative_step": "choose the learning rate scheduler adafactor instead",
}


def resolve_arguments(optimizer: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Arguments under the names of this program's optimizers, unknown ones, and a problem for each unusable one."""
    table = ARGUMENTS[optimizer]
    resolved, unknown, problems = {}, {}, []
    for given, value in arguments.items():
        name = table.aliases.get(given, given)
        kind = _DECAY if name == WEIGHT_DECAY else table.kinds.get(name)
        if optimizer == "CAME" and name == "eps" and _TWO_EPS.accepts(value):
            resolved |= {"eps1": value[0], "eps2": value[1]}
        elif name in table.fixed or (name, value) in (("relative_step", False), ("maximize", False)):
            if value != table.fixed.get(name, False):
                problems.append(
                    f"{given}={value!r} is not supported for {optimizer}; it always has {given}={table.fixed[name]!r}"
                )
        elif name in _ELSEWHERE:
            problems.append(f"{given}={value!r}: {_ELSEWHERE[name]}")
        elif name in _WITHOUT_EFFECT:
            continue
        elif kind is None:
            unknown[name] = value
        elif kind.accepts(value):
            resolved[name] = bool(value) if kind is _FLAG else value
        else:
            problems.append(f"{given}={value!r} must be {kind.text}")
    return resolved, unknown, problems


def describe_unknown(optimizer: str, name: str) -> str:
    return f"{optimizer} does not support {name}; it supports {', '.join([*ARGUMENTS[optimizer].kinds, WEIGHT_DECAY])}"


def own_weight_decay(optimizer: str, optimizer_args: str) -> float | None:
    """The weight decay among the optimizer's arguments, which replaces the setting; None if there is none."""
    arguments, _ = parse_arguments(optimizer_args)
    return resolve_arguments(optimizer, arguments)[0].get(WEIGHT_DECAY)
