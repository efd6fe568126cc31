"""Files of Z-Image whose tensors have other names or prefixes, presented with those of WebUIs' checkpoints."""

from __future__ import annotations

from dreambooth.models.dequantized import dequantized
from dreambooth.models.original_names import VAE, with_names_of_checkpoints
from dreambooth.models.zimage.names import TransformerNames
from dreambooth.tensor_files import Tensors

MARKER = "cap_pad_token"  # Lumina, whose other tensors have the same names, has none
_OTHER_VAE = "first_stage_model."


def with_original_names(file: Tensors) -> Tensors:
    """``file`` itself if it has the names of checkpoints or is none of Z-Image, else a view of it that does.

    The denoiser may have no prefix or another one, and the names of diffusers' module; the VAE that of other families.
    Weights with scales are dequantized.
    """
    prefix = next((key.removesuffix(MARKER) for key in file if key.endswith(MARKER)), None)
    if prefix is None:
        return file
    is_diffusers = f"{prefix}layers.0.attention.to_q.weight" in file
    return with_names_of_checkpoints(dequantized(file), prefix, TransformerNames(), is_diffusers, _renamed)


def _renamed(key: str) -> str:
    return key.replace(_OTHER_VAE, VAE, 1) if key.startswith(_OTHER_VAE) else key
