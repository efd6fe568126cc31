"""torch's memory allocator for GPUs, in our own processes. Never called in a WebUI, whose process is not ours."""

from __future__ import annotations

import os
import sys

# torch's names of the variable: since 2.9, for NVIDIA, for AMD.
VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def use_expandable_segments() -> None:
    """Let blocks of GPU memory grow, so that a preview's large buffers leave no fragments; on Linux, where CUDA can.

    Not if the user has set the allocator. Call it before torch is imported.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in VARIABLES):
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
