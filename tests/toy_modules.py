"""The modules of the toy family: a transformer for flow matching, and a text encoder whose padding is masked."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.utils.checkpoint import checkpoint

HEADS, START = 4, 256


class Attention(nn.Module):
    """Grouped-query attention over image and text tokens."""

    def __init__(self, width: int, kv_heads: int) -> None:
        super().__init__()
        self.kv_heads, size = kv_heads, width // HEADS
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, kv_heads * size, bias=False)
        self.to_v = nn.Linear(width, kv_heads * size, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (n, -1)).transpose(1, 2)
            for layer, n in ((self.to_q, HEADS), (self.to_k, self.kv_heads), (self.to_v, self.kv_heads))
        )
        k, v = (part.repeat_interleave(HEADS // self.kv_heads, 1) for part in (k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, modulated by the timestep: shift and scale."""

    def __init__(self, width: int, kv_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, kv_heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(F.silu(time))[:, None].chunk(2, dim=-1)
        x = x + self.attention(self.norm(x) * (1 + scale) + shift, mask)
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ToyTransformer(ModelMixin, ConfigMixin):
    """Predicts the negative velocity of image tokens; ``time`` runs from 0 (noise) to 1 (image)."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, channels: int, width: int, layers: int, text_width: int, kv_heads: int) -> None:
        super().__init__()
        self.image_in, self.text_in = nn.Linear(channels, width), nn.Linear(text_width, width)
        self.time_in = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width, kv_heads) for _ in range(layers))
        self.out = nn.Linear(width, channels)
        self.gradient_checkpointing = False

    def enable_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        self.gradient_checkpointing = True

    def forward(
        self, image: torch.Tensor, time: torch.Tensor, positions: torch.Tensor, text: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """(B, N, channels) of ``image`` (B, N, channels), time (B,), positions (N, 2), text (B, L, W), mask (B, L)."""
        x = self.image_in(image)
        x = x + _waves(positions[:, 0], x.shape[-1]).to(x) + _waves(positions[:, 1] + 0.5, x.shape[-1]).to(x)
        present = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)[:, None, None]
        x = torch.cat([self.text_in(text), x], dim=1)
        embedded = self.time_in(_waves(time * 1000, 16).to(x.dtype))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, embedded, present, use_reentrant=False)
            else:
                x = block(x, embedded, present)
        return self.out(x[:, text.shape[1] :])


def _waves(values: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoidal embedding, (n, width)."""
    rates = torch.exp(-math.log(1000) * torch.arange(width // 2, device=values.device) / (width // 2))
    angles = values[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ToyTextEncoder(nn.Module):
    """Hidden states (B, L, width) of bytes; padding is masked. Files don't have its buffer."""

    decay: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(START + 1, width)
        self.layers, self.norm = nn.ModuleList(nn.Linear(width, width) for _ in range(2)), nn.LayerNorm(width)
        self.register_buffer("decay", torch.empty(64), persistent=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.embed(ids)
        for layer in self.layers:
            present = states * mask[..., None]
            context = (present * self.decay[: ids.shape[1], None].to(states.dtype)).sum(dim=1, keepdim=True)
            states = states + torch.tanh(layer(states + context))
        return self.norm(states)
