"""Choices of settings that can't be used on this machine, and what each of them needs."""

from __future__ import annotations

import torch

from dreambooth.memory import weight_formats
from dreambooth.training import attention, optimizer_kinds, precision


def missing_requirements(device: torch.device) -> dict[str, dict[str, str]]:
    """By setting and choice: a noun, such as "an NVIDIA GPU". Cheap, since a WebUI's start waits for it.

    A choice that is not listed may still fail when it is tried, which the preflight does.
    """
    precisions = precision.missing_requirements(device)
    return {
        "optimizer": optimizer_kinds.missing_requirements(),
        "mixed_precision": precisions,
        "ema_precision": {name: needed for name, needed in precisions.items() if name == "bf16"},
        "base_precision": weight_formats.missing_requirements(device),
        "attention": attention.missing_requirements(device),
    }
