"""The adapter (LLM adapter) that turns T5 tokens and Qwen3's hidden states into the transformer's text embeddings.

A transformer on the embeddings of T5's tokens: each block has self-attention, cross-attention to the hidden states, and
a feed-forward part, with RMS norms before each. Heads are normalized and rotated by position, those of hidden states
by theirs. The formulas and names are those of diffusers' AnimaTextConditioner, which diffusers has from 0.39 on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

_EPS = 1e-6
_THETA = 10_000.0


class Rotation(NamedTuple):
    """Cosines and sines of the angles of positions, (L, head_dim)."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def of(cls, length: int, head_dim: int, like: torch.Tensor) -> Rotation:
        """For positions 0 to ``length`` - 1, in the dtype and on the device of ``like``; angles are float32."""
        positions = torch.arange(length, device=like.device, dtype=torch.float32)
        exponents = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32) / head_dim
        angles = torch.outer(positions, 1.0 / _THETA**exponents).repeat(1, 2)
        return cls(angles.cos().to(like.dtype), angles.sin().to(like.dtype))

    def apply(self, heads: torch.Tensor) -> torch.Tensor:
        """Heads (B, H, L, head_dim); channel i is rotated with channel i + head_dim / 2."""
        first, second = heads.chunk(2, dim=-1)
        return heads * self.cos + torch.cat([-second, first], dim=-1) * self.sin


class Attention(nn.Module):
    def __init__(self, dim: int, context_dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(context_dim, dim, bias=False)
        self.v_proj = nn.Linear(context_dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(dim // n_heads, eps=_EPS) for _ in range(2))

    def forward(
        self,
        states: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor,
        rotation: Rotation,
        context_rotation: Rotation,
    ) -> torch.Tensor:
        """``states`` (B, L, dim), ``context`` (B, S, context_dim); ``mask`` (B, S) bool, what is attended to."""
        query, key, value = (
            layer(inputs).unflatten(-1, (self.n_heads, -1))
            for layer, inputs in ((self.q_proj, states), (self.k_proj, context), (self.v_proj, context))
        )
        query = rotation.apply(self.q_norm(query).transpose(1, 2))
        key = context_rotation.apply(self.k_norm(key).transpose(1, 2))
        attended = F.scaled_dot_product_attention(query, key, value.transpose(1, 2), mask[:, None, None, :])
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim: int, source_dim: int, n_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm_self_attn, self.norm_cross_attn, self.norm_mlp = (nn.RMSNorm(dim, eps=_EPS) for _ in range(3))
        self.self_attn = Attention(dim, dim, n_heads)
        self.cross_attn = Attention(dim, source_dim, n_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(
        self,
        states: torch.Tensor,
        source: torch.Tensor,
        mask: torch.Tensor,
        source_mask: torch.Tensor,
        rotation: Rotation,
        source_rotation: Rotation,
    ) -> torch.Tensor:
        normed = self.norm_self_attn(states)
        states = states + self.self_attn(normed, normed, mask, rotation, rotation)
        normed = self.norm_cross_attn(states)
        states = states + self.cross_attn(normed, source, source_mask, rotation, source_rotation)
        return states + self.mlp(self.norm_mlp(states))


class TextAdapter(nn.Module):
    """``dim``: channels of tokens; ``source_dim``: of the text encoder; ``target_dim``: of the transformer's input."""

    def __init__(
        self, source_dim: int, target_dim: int, dim: int, n_layers: int, n_heads: int, mlp_ratio: float, n_tokens: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_tokens, target_dim)
        self.in_proj = nn.Linear(target_dim, dim) if dim != target_dim else nn.Identity()
        hidden_dim = round(dim * mlp_ratio)
        self.blocks = nn.ModuleList([Block(dim, source_dim, n_heads, hidden_dim) for _ in range(n_layers)])
        self.out_proj = nn.Linear(dim, target_dim)
        self.norm = nn.RMSNorm(target_dim, eps=_EPS)
        self.head_dim = dim // n_heads

    def forward(
        self, source: torch.Tensor, source_mask: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Text embeddings (B, L, target_dim), zero where ``mask`` (B, L) is False.

        ``ids`` (B, L): T5's tokens. ``source`` (B, S, source_dim): hidden states, which must be zero where
        ``source_mask`` (B, S) is False.
        """
        # Without a token, all are attended to: zeros have no value, and a softmax over nothing has none either.
        source_mask = source_mask | ~source_mask.any(dim=1, keepdim=True)
        states = self.in_proj(self.embed(ids).to(source.dtype))
        rotation, source_rotation = (
            Rotation.of(tokens.shape[1], self.head_dim, like=states) for tokens in (states, source)
        )
        for block in self.blocks:
            states = block(states, source, mask, source_mask, rotation, source_rotation)
        return self.norm(self.out_proj(states)) * mask.to(states.dtype).unsqueeze(-1)
