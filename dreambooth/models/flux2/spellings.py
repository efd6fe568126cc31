"""Files of FLUX.2 klein whose tensors have other names or prefixes, presented with those of WebUIs' checkpoints."""

from __future__ import annotations

from dreambooth.models.dequantized import dequantized
from dreambooth.models.flux2.autoencoder import with_outer_convolutions
from dreambooth.models.flux2.names import TransformerNames
from dreambooth.models.original_names import VAE, with_names_of_checkpoints
from dreambooth.tensor_files import Tensors

MARKER = "double_stream_modulation_img.lin.weight"  # FLUX.1 has modulation of its own in each block
GUIDANCE = "guidance_in.in_layer.weight"  # only of FLUX.2 [dev]
_MARKER_OF_DIFFUSERS = "double_stream_modulation_img.linear.weight"
_SCALE, _WEIGHT = "_norm.scale", "_norm.weight"  # of norms, as published and as newer ComfyUI saves them


def with_original_names(file: Tensors) -> Tensors:
    """``file`` itself if it has the names of checkpoints or is none of FLUX.2, else a view of it that does.

    The denoiser may have no prefix or another one, and the names of diffusers' module. Weights with scales are
    dequantized.
    """
    markers = (MARKER, _MARKER_OF_DIFFUSERS)
    found = next(((key, marker) for key in file for marker in markers if key.endswith(marker)), None)
    if found is None:
        return file
    key, marker = found
    is_diffusers = marker == _MARKER_OF_DIFFUSERS
    prefix = key.removesuffix(marker)
    return with_names_of_checkpoints(dequantized(file), prefix, TransformerNames(), is_diffusers, _renamed)


def _renamed(name: str) -> str:
    if name.startswith(VAE):
        return VAE + with_outer_convolutions(name.removeprefix(VAE))
    is_norm = name.startswith(("double_blocks.", "single_blocks.")) and name.endswith(_WEIGHT)
    return name.removesuffix(_WEIGHT) + _SCALE if is_norm else name
