"""Types and constants that all layers share: progress callbacks, dtype names, the multiple of image sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Progress of a task: items done, items in total (0: unknown), and the name of the phase.
ProgressCallback = Callable[[int, int, str], None]

# What width and height of images are multiples of where no model is chosen: the smallest that any family has.
DEFAULT_PIXEL_MULTIPLE = 8

# Names of dtypes in settings and on the command line, and in torch.
DTYPE_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def dtype_of(name: str) -> torch.dtype:
    """The dtype of one of DTYPE_NAMES."""
    import torch

    return getattr(torch, DTYPE_NAMES[name])
