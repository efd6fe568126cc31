"""CLIP's text encoder as a module of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_PREFIX, _PROJECTION = "text_model.", "text_projection."


def make_clip(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device; with a projection, if the config's ``architectures`` say so."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    has_projection = "CLIPTextModelWithProjection" in config.get("architectures", ())
    with torch.device("meta"):
        return (CLIPTextModelWithProjection if has_projection else CLIPTextModel)(CLIPTextConfig(**config))


def clip_name_on_disk(name: str) -> str:
    """transformers 5 dropped the prefix ``text_model.``, files still have it."""
    return name if name.startswith((_PREFIX, _PROJECTION)) else _PREFIX + name


def position_ids(buffer: torch.Tensor) -> torch.Tensor:
    """The values of CLIP's position ids, which files may lack."""
    return torch.arange(buffer.shape[-1]).expand(buffer.shape)
