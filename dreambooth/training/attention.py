"""Attention implementations of the denoiser."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import nn

from dreambooth.errors import first_sentence


def use_attention(denoiser: Any, kind: str) -> None:
    """``kind``: "default" (torch's scaled_dot_product_attention, which diffusers uses), "xformers" or "sliced"."""
    if kind == "xformers":
        denoiser.enable_xformers_memory_efficient_attention()
    elif kind == "sliced":
        denoiser.set_attention_slice("auto")


def skip_signature_checks(module: nn.Module) -> None:
    """Call the processors of diffusers' attention directly.

    Its forward pass inspects the processor's signature each time, to find arguments that the processor does not take;
    that takes longer than to launch the kernels of attention.
    """
    from diffusers.models.attention_processor import Attention

    attentions: list[Any] = [part for part in module.modules() if type(part) is Attention]
    for attention in attentions:
        attention.__class__ = _direct(Attention)


@functools.cache
def _direct(attention: type[nn.Module]) -> type[nn.Module]:
    """A subclass of diffusers' class, since that itself belongs to the host too."""

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **more: Any,
    ) -> torch.Tensor:
        if more:
            return attention.forward(self, hidden_states, encoder_hidden_states, attention_mask, **more)
        return self.processor(
            self, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask
        )

    return type(attention.__name__, (attention,), {"forward": forward, "__module__": attention.__module__})


def missing_requirements(device: torch.device) -> dict[str, str]:
    """Kinds that can't be used on this machine, and what each of them needs. Nothing is imported."""
    if device.type != "cuda":
        return {"xformers": "a GPU"}
    installed = importlib.util.find_spec("xformers") is not None
    return {} if installed else {"xformers": "the package xformers (pip install xformers)"}


def unavailable_reason(kind: str, device: torch.device) -> str:
    """Why this kind of attention can't be trained with on ``device``; empty if it can."""
    if missing := missing_requirements(device).get(kind):
        return f"it needs {missing}."
    if kind != "xformers":
        return ""
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.ones(1, 64, 2, 40, device=device, dtype=torch.float16, requires_grad=True)
        memory_efficient_attention(probe, probe, probe).sum().backward()
        return ""
    except Exception as error:
        return f"it does not work with this GPU ({first_sentence(error)})."
