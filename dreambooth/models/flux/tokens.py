"""What the transformers of FLUX.1 and Chroma take besides embeddings: positions of tokens, and time."""

from __future__ import annotations

import torch

from dreambooth.models.flux.sizes import PATCH
from dreambooth.models.latents import LatentCodec

TOKENS = LatentCodec(channels=16, downscale=8, patch=PATCH)  # packs latents


def image_positions(latents: torch.Tensor) -> torch.Tensor:
    """(h * w / 4, 3): 0, row and column of each token of latents (B, C, h, w)."""
    rows, columns = (side // PATCH for side in latents.shape[-2:])
    row, column = (torch.arange(n, device=latents.device, dtype=torch.float32) for n in (rows, columns))
    grid = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


def text_positions(states: torch.Tensor) -> torch.Tensor:
    """(L, 3): all 0, for hidden states (B, L, D)."""
    return torch.zeros(states.shape[1], 3, device=states.device)


def time_of(t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Sigmas (B,) from timesteps of the process, not in half precision: the modules multiply them by 1000 again."""
    dtype = torch.promote_types(t.dtype, latents.dtype)
    return (t.to(latents.device, dtype) / 1000).expand(len(latents))
