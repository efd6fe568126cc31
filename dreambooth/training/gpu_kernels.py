"""The kernels of a GPU where torch leaves the choice: TensorFloat-32, cuDNN's benchmark, channels last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dreambooth.settings import Settings


@contextlib.contextmanager
def gpu_kernels(settings: Settings, device: torch.device) -> Iterator[None]:
    """Choose them in the block as the settings say; afterwards the host's choice is restored. No effect on a CPU.

    ``allow_tf32`` is about matrix products alone: torch's own default lets convolutions use TensorFloat-32. It is set
    in both directions, so that a run does not depend on its host.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    benchmark, matmul = cudnn.benchmark, _matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if settings.allow_tf32 else "highest")
        cudnn.benchmark = settings.cudnn_benchmark
        yield
    finally:
        cudnn.benchmark = benchmark
        _restore(*matmul)


def _matmul_precision() -> tuple[str, list[tuple[Any, str]]]:
    """torch's global precision, and since torch 2.9 those of its backends, which may be set one by one."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the host has set that of a backend, and torch no longer says what it is for all
        precision = "highest"
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return precision, [(each, each.fp32_precision) for each in backends if hasattr(each, "fp32_precision")]


def _restore(precision: str, of_backends: list[tuple[Any, str]]) -> None:
    torch.set_float32_matmul_precision(precision)
    for backend, value in of_backends:
        backend.fp32_precision = value


def use_channels_last(module: nn.Module) -> None:
    """Store the weights of convolutions as (out, height, width, in), which tensor cores compute with.

    Shapes and values stay as they are; the outputs of these convolutions are stored in the same way.
    """
    for part in module.modules():
        weight = part._parameters.get("weight") if isinstance(part, nn.Conv2d) else None
        if weight is not None:  # a quantized layer has none
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
