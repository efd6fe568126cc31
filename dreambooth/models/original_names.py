"""Files of a family whose tensors have other names or prefixes, presented with those of WebUIs' checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from dreambooth.models.layout import NameMap
from dreambooth.models.prefixed import PrefixedTensors
from dreambooth.models.renamed import RenamedTensors
from dreambooth.models.transforms import Transform
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

PREFIX = "model.diffusion_model."  # of denoisers
VAE = "vae."
_OTHER_PARTS = (VAE, "first_stage_model.", "text_encoders.")  # of a file with all components


def with_names_of_checkpoints(
    file: Tensors,
    prefix: str,
    names: NameMap,
    is_diffusers: bool,
    renamed: Callable[[str], str] = lambda key: key,
) -> Tensors:
    """``file`` itself if it has these names, else a view of it that does.

    ``prefix``: of the denoiser's tensors in the file; ``is_diffusers``: whether they have the names of the module,
    which ``names`` translates. ``renamed``: the original name of a tensor in the file, with its prefix, without that of
    the denoiser.
    """
    sources: dict[str, tuple[str, ...]] = {}
    transforms: dict[str, Transform] = {}
    for key in file:
        is_denoiser = key.startswith(prefix) and (bool(prefix) or not key.startswith(_OTHER_PARTS))
        if not is_denoiser:
            sources[renamed(key)] = (key,)
            continue
        name = key.removeprefix(prefix)
        original = (names.to_original(name) or name) if is_diffusers else renamed(name)
        parts = [prefix + part for part in names.to_modules(original)]
        has_parts = is_diffusers and bool(parts) and all(part in file for part in parts)
        sources[PREFIX + original] = tuple(parts) if has_parts else (key,)
        if has_parts:
            transforms[PREFIX + original] = names.transform(original)
    n_renamed = sum(own != (new,) for new, own in sources.items())
    if not n_renamed:
        return file
    if all(new == PREFIX + own[0] for new, own in sources.items()) and not transforms:
        return PrefixedTensors(file, PREFIX)
    note = f"{count(n_renamed, 'tensor')} had other names. Checkpoints are written with the original names."
    return RenamedTensors(file, sources, transforms, (note,))
