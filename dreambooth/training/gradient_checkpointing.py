"""Gradient checkpointing: activations of a block are dropped and computed again in the backward pass.

The libraries' default stores the state of the random number generators and has hooks for each tensor that is saved, in
both passes: Python then takes more time than the blocks themselves. Reentrant checkpointing has neither; it computes a
block without a graph, and in the backward pass again with one, which it goes through at once. The gradients are the
same up to the order of their sums.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dreambooth.autocast import current_autocast
from dreambooth.memory.offload import repeated_blocks

BEFORE = "before_checkpoint"  # attribute of a block: called before the block is computed, in both passes


def checkpoint_gradients(module: Any) -> None:
    """Enable it for the blocks of ``module``, where the module supports it."""
    if hasattr(module, "enable_gradient_checkpointing"):  # diffusers
        module.enable_gradient_checkpointing()
    elif hasattr(module, "activation_checkpointing_enable"):  # transformers from 5.20 on
        module.activation_checkpointing_enable()
    elif hasattr(module, "gradient_checkpointing_enable"):
        # transformers before 4.35 has only a reentrant kind, which loses adapters' gradients: better none
        with contextlib.suppress(TypeError):
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not _uses_generator(module) and not _shares_parameters(module):
        for block in module.modules():
            if hasattr(block, "_gradient_checkpointing_func"):  # not in diffusers before 0.31
                block._gradient_checkpointing_func = reentrant_checkpoint
        _checkpoint_between_blocks(module)


def checkpointed_stages(module: nn.Module) -> list[list[nn.Module]]:
    """The blocks of ``module`` that :func:`reentrant_checkpoint` computes, by the stages that they are in.

    A stage is a member of an outermost list of modules, such as the blocks of one resolution, or all members of a list
    that are blocks themselves.
    """
    if not any(vars(part).get("_gradient_checkpointing_func") is reentrant_checkpoint for part in module.modules()):
        return []
    blocks = {id(block) for block in repeated_blocks(module)} - {id(block) for block in _not_checkpointed(module)}
    stages = []
    for members in _outermost_lists(module):
        parts = [members] if any(id(member) in blocks for member in members) else members
        stages += [[block for block in part.modules() if id(block) in blocks] for part in parts]
    return [stage for stage in stages if stage]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


def _checkpoint_between_blocks(module: nn.Module) -> None:
    """Checkpoint what diffusers computes between the blocks that it checkpoints.

    The backward pass needs an interpolated image, a normalized input, and autocast's copies of trained weights there.
    Where nothing is trained, outputs are computed once only.
    """
    for part in list(module.modules()):
        trains = any(parameter.requires_grad for parameter in part.parameters())
        if hasattr(part, "_operate_on_continuous_inputs"):  # norm and projection before transformer blocks
            _checkpoint_calls(part, "_operate_on_continuous_inputs")
            if trains:
                _checkpoint_calls(part, "_get_output_for_continuous_inputs")
        for name in ("upsamplers", *(["downsamplers"] if trains else [])):
            for sampler in getattr(part, name, None) or ():
                _checkpoint_calls(sampler, "forward")
    for block in _not_checkpointed(module):
        if any(parameter.requires_grad for parameter in block.parameters()):
            # Its input is a skip connection too, whose gradients would be summed in another order.
            _checkpoint_calls(block, "forward", only_in_autocast=True)


def _not_checkpointed(module: nn.Module) -> list[nn.Module]:
    """The only blocks that diffusers does not checkpoint: the first of the middle."""
    middles: list[Any] = [getattr(part, "mid_block", None) for part in module.modules()]
    return [middle.resnets[0] for middle in middles if hasattr(middle, "resnets")]


def _checkpoint_calls(module: nn.Module, method: str, only_in_autocast: bool = False) -> None:
    """Checkpoint the calls of a method of ``module``, whose class becomes a subclass of the same name."""
    cls = type(module)
    original = getattr(cls, method)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args = signature.bind(self, *args, **kwargs).args
        if only_in_autocast and isinstance(current_autocast(args[1].device), contextlib.nullcontext):
            return original(*args)
        return reentrant_checkpoint(functools.partial(original, self), *args[1:])

    module.__class__ = type(cls.__name__, (cls,), {method: call, "__module__": cls.__module__})


def _uses_generator(module: nn.Module) -> bool:
    """Whether it has dropout, which draws from the process's generator: the state of that has to be stored then."""
    return any(
        isinstance(value, float) and value > 0
        for part in module.modules()
        for name, value in vars(part).items()
        if "drop" in f"{type(part).__name__}.{name}".lower()
    )


def _shares_parameters(module: nn.Module) -> bool:
    """Whether a parameter is in several places: its gradient would come in parts, one from each block."""
    return len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.parameters()))


def reentrant_checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, computed again in the backward pass. Must not draw from the process's generator.

    A parameter in ``function`` gets its whole gradient at once, so that it may be used and dropped in the backward
    pass. Arguments that are not tensors may hold tensors, as do those that are bound by functools.partial.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    bound = (function.args, function.keywords) if isinstance(function, functools.partial) else ()
    nested = [arg for arg in args if not isinstance(arg, torch.Tensor)]
    if any(tensor.requires_grad for tensor in _tensors_in((nested, bound))):
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    if any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args):
        return _Checkpoint.apply(None, function, *args)
    if not _trains(function):
        with torch.no_grad():  # as block offload is told by this, nothing is computed again
            return function(*args)
    # Without an input that requires a gradient there would be no backward pass for the block's parameters.
    return _Checkpoint.apply(torch.empty(0, requires_grad=True), function, *args)


class _Checkpoint(torch.autograd.Function):
    """The function's result, from ``forward`` without a graph. ``backward`` computes it with one, and uses it up."""

    @staticmethod
    def forward(ctx: Any, requires_grad: torch.Tensor | None, function: Callable[..., Any], *args: Any) -> Any:
        _call_before(function)
        tensors = [arg if isinstance(arg, torch.Tensor) else None for arg in args]
        ctx.function = function
        ctx.others = [None if isinstance(arg, torch.Tensor) else arg for arg in args]
        ctx.autocast = current_autocast(next(x.device for x in (*args, requires_grad) if isinstance(x, torch.Tensor)))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return function(*args)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        inputs = [None if x is None else x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        args = [other if x is None else x for x, other in zip(inputs, ctx.others, strict=True)]
        _call_before(ctx.function)
        with torch.enable_grad(), ctx.autocast:
            results = ctx.function(*args)
        results = results if isinstance(results, tuple) else (results,)
        used = [number for number, grad in enumerate(grads) if grad is not None and results[number].requires_grad]
        if used:
            torch.autograd.backward([results[number] for number in used], [grads[number] for number in used])
        return None, None, *(None if x is None else x.grad for x in inputs)


def _call_before(function: Callable[..., Any]) -> None:
    if before := getattr(_module_of(function), BEFORE, None):
        before()


def _module_of(function: Any) -> Any:
    """The module that a function calls, whether itself, by one of its methods or as the first argument; else itself."""
    if isinstance(function, functools.partial):
        return function.args[0] if function.args else _module_of(function.func)
    return getattr(function, "__self__", function)


def _trains(function: Callable[..., Any]) -> bool:
    """Whether a module that is called has trainable parameters; of other functions True."""
    module = _module_of(function)
    return not isinstance(module, nn.Module) or any(p.requires_grad for p in module.parameters())


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
