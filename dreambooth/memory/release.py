"""Returning memory after a model was used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import traceback


def free_memory() -> None:
    """Collect garbage and return freed memory of GPU and CPU, so that other programs can use it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif hasattr(torch, "xpu") and torch.xpu.is_available():
        torch.xpu.empty_cache()
    elif hasattr(torch, "mps") and torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":  # glibc keeps freed blocks of up to 32 MB, as are most weights
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def release_after(error: BaseException) -> None:
    """Free what the failed attempt holds: the tensors in its frames, autocast's copies, cached memory."""
    import torch

    clear_frames(error)
    torch.clear_autocast_cache()
    free_memory()


def clear_frames(error: BaseException | None) -> None:
    """Clear the local variables in the tracebacks of ``error`` and its causes.

    Frames refer to modules and tensors. Callers may keep the error, and with it a whole model in memory.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
