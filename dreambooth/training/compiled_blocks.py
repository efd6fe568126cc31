"""torch.compile of a denoiser's repeated blocks (regional compilation), which takes less time than that of the whole.

The blocks are compiled in place, so that names of parameters stay as they are. Previews and validation compute without
it: they have other modes and batches, each of which would be compiled as well.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from dreambooth.memory.offload import repeated_blocks
from dreambooth.settings import Settings
from dreambooth.settings.components import is_fused_backward, offloads_blocks

BACKEND = "inductor"
MINIMUM = (2, 6)  # before, tensors that a module holds were constants: each step would be compiled
_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
# Versions of a compiled function: blocks of each width, with and without gradients. More are not compiled; torch has 8.
_RECOMPILE_LIMIT = 256
# Folders of compiled code, which torch sets for the whole process.
_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def unavailable_reason(settings: Settings, device: torch.device) -> str:
    """Why the blocks can't be compiled, as the end of a sentence; empty if they can."""
    if _VERSION < MINIMUM:
        return f"it needs PyTorch {'.'.join(map(str, MINIMUM))} or newer, and this is {torch.__version__}"
    if device.type not in ("cuda", "cpu"):
        return f"it is not available on {device.type}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        package = "triton-windows" if sys.platform == "win32" else "triton"
        return f"it needs the package Triton (pip install {package})"
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl")):
        return "on a CPU it needs a C++ compiler"
    excluded = {
        "offload_fraction": offloads_blocks(settings),
        "offload_activations": settings.offload_activations,
        "fused_backward": is_fused_backward(settings),
        "lora_unet_dropout": settings.use_lora and settings.lora_unet_dropout > 0,
        "base_precision": settings.use_lora and settings.base_precision != "full",
        "lora_type": settings.use_lora and settings.lora_type != "LoRA",
        "lora_dora": settings.use_lora and settings.lora_dora,
    }
    keys = [key for key, is_used in excluded.items() if is_used]
    return f"it can't be combined with {' and '.join(keys)}" if keys else ""


@contextlib.contextmanager
def compiled_blocks(module: nn.Module) -> Iterator[None]:
    """In the block, the repeated blocks of ``module`` are compiled when they are first used.

    Afterwards torch's state, with all compiled code of the process, is as before anything was compiled.
    """
    import torch._dynamo as dynamo

    config: Any = dynamo.config
    folders = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        with config.patch(recompile_limit=_RECOMPILE_LIMIT):
            for block in repeated_blocks(module):
                block.compile(backend=BACKEND)
            yield
    finally:
        stop_compiling(module)
        dynamo.reset()
        if inductor := sys.modules.get("torch._inductor.async_compile"):
            inductor.shutdown_compile_workers()
        for name, folder in folders.items():
            os.environ.pop(name, None) if folder is None else os.environ.update({name: folder})


def is_compiled(module: nn.Module) -> bool:
    return any(part._compiled_call_impl is not None for part in module.modules())


def stop_compiling(module: nn.Module) -> None:
    """Compute without compiled code from now on."""
    for part in module.modules():
        if part._compiled_call_impl is not None:
            part._compiled_call_impl = None


@contextlib.contextmanager
def without_compiled_code(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In the block, nothing is compiled and no compiled code is used."""
    parts = [part for module in modules for part in module.modules()]
    compiled = {part: part._compiled_call_impl for part in parts if part._compiled_call_impl is not None}
    try:
        for part in compiled:
            part._compiled_call_impl = None
        yield
    finally:
        for part, code in compiled.items():
            part._compiled_call_impl = code
