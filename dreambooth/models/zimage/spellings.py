"""Files of Z-Image whose tensors have other names or prefixes, presented with those of WebUIs' checkpoints."""

from __future__ import annotations

from dreambooth.models.dequantized import dequantized
from dreambooth.models.prefixed import PrefixedTensors
from dreambooth.models.renamed import RenamedTensors
from dreambooth.models.transforms import Transform
from dreambooth.models.zimage.names import TransformerNames
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

PREFIX = "model.diffusion_model."
MARKER = "cap_pad_token"  # Lumina, whose other tensors have the same names, has none
_VAE, _OTHER_VAE = "vae.", "first_stage_model."
_OTHER_PARTS = (_VAE, _OTHER_VAE, "text_encoders.")  # of a file with all components


def with_original_names(file: Tensors) -> Tensors:
    """``file`` itself if it has the names of checkpoints or is none of Z-Image, else a view of it that does.

    The denoiser may have no prefix or another one, and the names of diffusers' module; the VAE that of other families.
    Weights with scales are dequantized.
    """
    prefix = next((key.removesuffix(MARKER) for key in file if key.endswith(MARKER)), None)
    if prefix is None:
        return file
    file, names = dequantized(file), TransformerNames()
    is_diffusers = f"{prefix}layers.0.attention.to_q.weight" in file
    is_usual = not is_diffusers and not any(key.startswith(_OTHER_VAE) for key in file)
    if is_usual and prefix == PREFIX:
        return file
    if is_usual and not prefix and not any(key.startswith(_OTHER_PARTS) for key in file):
        return PrefixedTensors(file, PREFIX)
    sources: dict[str, tuple[str, ...]] = {}
    transforms: dict[str, Transform] = {}
    for key in file:
        new = key.replace(_OTHER_VAE, _VAE, 1) if key.startswith(_OTHER_VAE) else key
        if key.startswith(prefix) and (prefix or not key.startswith(_OTHER_PARTS)):
            original = key.removeprefix(prefix)
            new = PREFIX + ((names.to_original(original) or original) if is_diffusers else original)
            transforms[new] = names.transform(new)
        parts = [prefix + part for part in names.to_modules(new.removeprefix(PREFIX))]
        is_fused = is_diffusers and len(parts) > 1 and all(part in file for part in parts)
        sources[new] = tuple(parts) if is_fused else (key,)
    n_renamed = sum(own != (new,) for new, own in sources.items())
    note = f"{count(n_renamed, 'tensor')} had other names. Checkpoints are written with the original names."
    return RenamedTensors(file, sources, transforms, (note,))
