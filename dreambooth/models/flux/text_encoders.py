"""The text encoders of FLUX.1 and Chroma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dreambooth.models.flux.clip import clip_names, flux_clip_config, is_clip_name
from dreambooth.models.layout import Shapes
from dreambooth.models.sd.clip_module import make_clip
from dreambooth.models.t5.encoder import current_t5_name, is_t5_name, make_t5, t5_config, t5_names
from dreambooth.tensor_files import Tensors


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class TextEncoder:
    """The files and the module of a text encoder.

    ``names``: its tensors' names with those in a file, {} if that is another one; ``is_known``: whether it has a tensor
    of this name; ``current_name``: the name of a tensor in a folder of transformers.
    """

    names: Callable[[Tensors], dict[str, str]]
    is_known: Callable[[str], bool]
    config: Callable[[Shapes], dict[str, Any]]
    make: Callable[[Mapping[str, Any]], nn.Module]
    current_name: Callable[[str], str] = _same


CLIP_L = TextEncoder(clip_names, is_clip_name, flux_clip_config, make_clip)
T5_XXL = TextEncoder(t5_names, is_t5_name, t5_config, make_t5, current_t5_name)
