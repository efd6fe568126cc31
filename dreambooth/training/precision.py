"""Compute precision, and accelerate's state."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.settings.components import is_fused_backward, is_pure_bf16
from dreambooth.types import dtype_of

# gcnArchName of Polaris, Vega, RDNA1 and RDNA2. MI100 (gfx908) and newer Instinct, and RDNA3 on (gfx11), have bf16.
_ROCM_WITHOUT_BF16 = ("gfx8", "gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c", "gfx10")


def resolve_precision(settings: Settings, device: torch.device) -> str:
    """ "no", "fp16" or "bf16" for ``mixed_precision``. UserError if this device does not support the choice."""
    precision, supported = settings.mixed_precision, supported_precisions(device)
    if precision == "auto":
        return supported[0]
    if precision not in supported:
        raise UserError(
            f"mixed_precision: {precision} is not supported on this {device.type}. "
            f"Choose {', '.join(supported)} or auto."
        )
    return precision


def supported_precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions that training on ``device`` supports, the best choice first."""
    if device.type != "cuda":
        return ("no", "bf16") if device.type == "cpu" else ("no",)
    if _has_bf16(device):
        return ("bf16", "fp16", "no")
    return ("no", "fp16") if _has_faulty_fp16(device) else ("fp16", "no")


def _has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16. torch.cuda.is_bf16_supported is also true of emulation, many times slower.

    AMD's capability numbers say nothing about it; their architectures do (LLVM's AMDGPU guide).
    """
    if torch.version.hip:
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return not architecture.startswith(_ROCM_WITHOUT_BF16)
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _has_faulty_fp16(device: torch.device) -> bool:
    """Whether fp16 may give NaN: GTX 16 cards, in cuDNN's convolutions. A1111 doesn't use autocast on them either."""
    return not torch.version.hip and "GTX 16" in torch.cuda.get_device_name(device)


def kernel_problems(device: torch.device) -> list[str]:
    """Why the installed torch can't run on this NVIDIA GPU: its build has no kernels for it.

    Without this, the first operation fails with "no kernel image is available". Kernels run on GPUs of the same major
    capability and the same or a later minor one (sm_80); intermediate code (compute_90) on all later ones.
    """
    if device.type != "cuda" or torch.version.hip:
        return []
    capability, architectures = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if not architectures or any(_runs_on(architecture, capability) for architecture in architectures):
        return []
    version = ".".join(map(str, capability))
    return [
        f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (compute capability "
        f"{version}). Install a build that has: for cards older than the RTX 20 series, one whose name ends in +cu126."
    ]


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """``architecture``: as torch.cuda.get_arch_list names it, such as sm_86, sm_90a, compute_120."""
    kind, _, number = architecture.partition("_")
    digits = number.rstrip("af")
    if not digits.isdecimal():
        return True  # unknown
    major, minor = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def missing_requirements(device: torch.device) -> dict[str, str]:
    """Precisions that training on ``device`` does not support, and what each of them needs."""
    needed = {"fp16": "an NVIDIA or AMD GPU", "bf16": "a GPU of the RTX 30 or RX 7000 series or newer"}
    supported = supported_precisions(device)
    return {precision: gpu for precision, gpu in needed.items() if precision not in supported}


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of a value of ``mixed_precision``."""
    return torch.float32 if precision == "no" else dtype_of(precision)


def uses_autocast(settings: Settings, precision: str) -> bool:
    """Whether the passes of training need autocast; not where all weights are in half precision.

    Operations then have the dtype of their inputs, and the kernels of norms and softmax compute in float32 inside.
    """
    return precision != "no" and not (settings.use_lora or is_pure_bf16(settings))


def caches_casts(settings: Settings) -> bool:
    """Whether autocast keeps its low-precision copies of weights during the forward pass.

    With checkpointing nothing else keeps them. Where gradients take no memory, the copies would be the peak.
    """
    return not (is_fused_backward(settings) and settings.gradient_checkpointing)


def make_accelerator(device: torch.device, precision: str, caches_casts: bool = True) -> Any:
    """The accelerator of a run. Its state is a process-wide singleton, which a run must not inherit from the last."""
    from accelerate import Accelerator

    reset_accelerator()
    handlers = [] if caches_casts else _without_cache()
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers)


def _without_cache() -> list[Any]:
    """Accelerate 0.21 has no such argument: there the copies stay until the end of the forward pass."""
    with contextlib.suppress(ImportError):
        from accelerate.utils import AutocastKwargs

        return [AutocastKwargs(cache_enabled=False)]
    return []


def reset_accelerator() -> None:
    """Reset accelerate's singletons."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def reset_memory_peak(device: torch.device) -> None:
    """Count :func:`memory_peak` from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_peak(device: torch.device) -> int | None:
    """Peak bytes allocated on the GPU since :func:`reset_memory_peak`; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
