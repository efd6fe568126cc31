"""The config of Chroma's transformer, from the shapes of its original tensors."""

from __future__ import annotations

from typing import Any

import torch

from dreambooth.models.flux.sizes import block_sizes, count_of
from dreambooth.models.layout import Shapes

MARKER = "distilled_guidance_layer.in_proj.weight"
_LAYER = "distilled_guidance_layer.layers"


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """KeyError if a tensor that determines a size is missing."""
    hidden, channels = shapes[MARKER]
    return {
        "_class_name": "ChromaTransformer2DModel",
        **block_sizes(shapes),
        "approximator_num_channels": channels,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count_of(shapes, _LAYER),
    }


def modulation_positions(buffer: torch.Tensor) -> torch.Tensor:
    """The sinusoidal embeddings of the modulations' numbers (N, D), which files don't have; ``buffer``: of that shape.

    As ChromaCombinedTimestepTextProjEmbeddings of diffusers.
    """
    from diffusers.models.embeddings import get_timestep_embedding

    count, width = buffer.shape
    return get_timestep_embedding(torch.arange(count) * 1000, width, flip_sin_to_cos=True, downscale_freq_shift=0)
