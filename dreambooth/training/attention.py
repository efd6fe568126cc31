"""Attention implementations of the unet."""

from __future__ import annotations

from typing import Any

import torch


def use_attention(unet: Any, kind: str) -> None:
    """``kind``: "default" (torch's scaled_dot_product_attention, which diffusers uses), "xformers" or "sliced"."""
    if kind == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    elif kind == "sliced":
        unet.set_attention_slice("auto")


def unavailable_reason(kind: str, device: torch.device) -> str:
    """Why this kind of attention can't be trained with on ``device``; empty if it can."""
    if kind != "xformers":
        return ""
    if device.type != "cuda":
        return "it needs a GPU."
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.ones(1, 64, 2, 40, device=device, dtype=torch.float16, requires_grad=True)
        memory_efficient_attention(probe, probe, probe).sum().backward()
        return ""
    except ImportError:
        return "it is not installed (pip install xformers)."
    except Exception as error:
        message = str(error).strip() or type(error).__name__
        return f"it does not work with this GPU ({message.splitlines()[0]})."
