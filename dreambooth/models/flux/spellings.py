"""Files of FLUX.1 and Chroma whose tensors have other names or prefixes, presented with those of checkpoints."""

from __future__ import annotations

from dreambooth.models.dequantized import dequantized
from dreambooth.models.flux.names import TransformerNames
from dreambooth.models.prefixed import PrefixedTensors
from dreambooth.models.renamed import RenamedTensors
from dreambooth.models.transforms import Transform
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

PREFIX = "model.diffusion_model."
_VAE, _OTHER_VAE = "vae.", "first_stage_model."
_OTHER_PARTS = (_VAE, _OTHER_VAE, "text_encoders.")  # of a file with all components


def with_original_names(file: Tensors, marker: str, module_marker: str) -> Tensors:
    """``file`` itself if it has the names of checkpoints or is none of the family, else a view of it that does.

    The denoiser may have no prefix or another one, and the names of diffusers' module; the VAE that of other families.
    Weights with scales are dequantized. ``marker``, ``module_marker``: a tensor that no other family has, with its
    original name and with that of the module.
    """
    for own, is_diffusers in ((marker, False), (module_marker, True)):
        prefix = next((key.removesuffix(own) for key in file if key.endswith(own)), None)
        if prefix is not None:
            return _presented(dequantized(file), prefix, is_diffusers)
    return file


def _presented(file: Tensors, prefix: str, is_diffusers: bool) -> Tensors:
    is_usual = not is_diffusers and not any(key.startswith(_OTHER_VAE) for key in file)
    if is_usual and prefix == PREFIX:
        return file
    if is_usual and not prefix and not any(key.startswith(_OTHER_PARTS) for key in file):
        return PrefixedTensors(file, PREFIX)
    names = TransformerNames(_width(file, prefix))
    sources: dict[str, tuple[str, ...]] = {}
    transforms: dict[str, Transform] = {}
    for key in file:
        new = key.replace(_OTHER_VAE, _VAE, 1) if key.startswith(_OTHER_VAE) else key
        if key.startswith(prefix) and (prefix or not key.startswith(_OTHER_PARTS)):
            name = key.removeprefix(prefix)
            original = names.to_original(name) if is_diffusers else name
            new = PREFIX + (original or name)
            if is_diffusers and original:
                transforms[new] = names.transform(original)
                parts = tuple(prefix + part for part in names.to_modules(original))
                sources[new] = parts if all(part in file for part in parts) else (key,)
                continue
        sources[new] = (key,)
    n_renamed = sum(own != (new,) for new, own in sources.items())
    note = f"{count(n_renamed, 'tensor')} had other names. Checkpoints are written with the original names."
    return RenamedTensors(file, sources, transforms, (note,))


def _width(file: Tensors, prefix: str) -> int:
    """Channels of a token; 0 if the file does not show them."""
    first = next((f"{prefix}{name}" for name in ("x_embedder.weight", "img_in.weight") if prefix + name in file), None)
    return file.shape(first)[0] if first else 0
