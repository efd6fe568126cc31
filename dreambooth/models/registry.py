"""The model families, and the family of a file or folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dreambooth.errors import UserError
from dreambooth.models.anima.anima import ANIMA
from dreambooth.models.chroma.chroma import CHROMA
from dreambooth.models.components import TEXT_ENCODER, VAE, Component
from dreambooth.models.family import Family
from dreambooth.models.flux.flux1 import FLUX1
from dreambooth.models.flux2.klein import KLEIN_4B, KLEIN_9B
from dreambooth.models.layout import Shape, Shapes
from dreambooth.models.libraries import missing_libraries
from dreambooth.models.sd.adapter_names import FILE_PREFIXES, AdapterSizes, title_of
from dreambooth.models.sd.other_models import describe, unsupported_variant
from dreambooth.models.sd.other_models import describe_folder as _describe_folder_of_sd
from dreambooth.models.sd.other_models import describe_kind as _describe_kind_of_sd
from dreambooth.models.sd.sd1 import SD1
from dreambooth.models.sd.sd2 import SD2_512, SD2_768
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.models.sd.spellings import with_original_names as _with_original_names_of_sd
from dreambooth.models.sd.stable_diffusion import StableDiffusion
from dreambooth.models.zimage.zimage import Z_IMAGE
from dreambooth.settings.creation import add_model_type
from dreambooth.tensor_files import Tensors
from dreambooth.text import with_article

FAMILIES: list[Family] = [SD1, SD2_768, SD2_512, SDXL, Z_IMAGE, ANIMA, KLEIN_4B, KLEIN_9B, FLUX1, CHROMA]


class IncompleteSourceError(UserError):
    """A source of ``family``, with tensors of these ``shapes``, without some of its ``components``."""

    def __init__(self, message: str, family: Family, components: Sequence[Component], shapes: Shapes):
        super().__init__(message)
        self.family, self.components, self.shapes = family, components, shapes


def register(family: Family) -> None:
    """Make a family available everywhere: for create, training, export and in the tab."""
    FAMILIES.append(family)
    add_model_type(family.model_type, family.title)


def unavailable_families() -> dict[str, str]:
    """The model types whose libraries are missing or too old, with what they need, such as "diffusers>=0.36"."""
    return {family.model_type: " and ".join(needed) for family in FAMILIES if (needed := missing_libraries(family))}


def with_original_names(file: Tensors) -> Tensors:
    """A view of a single file with the names that its family knows; the file itself if it has them.

    A file that no family knows is presented as one of Stable Diffusion, which has the most spellings.
    """
    for family in FAMILIES:
        if not isinstance(family, StableDiffusion):
            view = family.with_original_names(file)
            if family.matches(_shapes(view)):
                return view
    return _with_original_names_of_sd(file)


def adapter_family(version: str, sizes: AdapterSizes) -> Family | None:
    """The family that an adapter file was made for, see :meth:`Family.made_adapter`; None if that is unknown."""
    return next((family for family in FAMILIES if family.made_adapter(version, sizes)), None)


def adapter_title(version: str, sizes: AdapterSizes) -> str:
    """The name of that family, or of one that is not supported; "" if it is unknown."""
    family = adapter_family(version, sizes)
    return family.title_of_adapter(version, sizes) if family else version or title_of(sizes)


def family_of(model_type: str) -> Family:
    """The family with this model_type (db_config.json). UserError for an unknown one."""
    if family := find_family(model_type):
        return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise UserError(f"model_type {model_type!r} is not supported (supported: {known}): create the model again.")


def find_family(model_type: str) -> Family | None:
    """As :func:`family_of`; None for an unknown model type."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)


def matching_families(shapes: Shapes) -> list[Family]:
    """The families of a file with these tensors, even if it is incomplete."""
    return [family for family in FAMILIES if family.matches(shapes)]


def describe_file(file: Tensors) -> str:
    """What a file is that can't be used as the source, and what to choose instead."""
    shapes = _shapes(file)
    if variant := unsupported_variant(shapes):
        return variant
    found = _components_of(file)
    if not found:
        return describe(shapes)
    denoisers = " or ".join(dict.fromkeys(family.denoiser.title for family, _ in found))
    return (
        f"{_component_titles(found)}: choose the file of its {denoisers} as the source, and this one under Text "
        "encoder or VAE (--text-encoder, --vae)"
    )


def describe_kind(file: Tensors) -> str:
    """What a file is that is no checkpoint, in a few words: "a VAE", "the VAE of FLUX"."""
    found = _components_of(file)
    return _component_titles(found) if found else _describe_kind_of_sd(_shapes(file))


def _component_titles(found: list[tuple[Family, Component]]) -> str:
    """Such as "the text encoder (Qwen3 4B) of Z-Image or FLUX.2 klein 4B": sizes are not looked at."""
    families: dict[str, list[str]] = {}
    for family, component in found:
        families.setdefault(component.title, []).append(family.title)
    return ", or ".join(f"the {title} of {' or '.join(titles)}" for title, titles in families.items())


def _components_of(file: Tensors) -> list[tuple[Family, Component]]:
    """The component that a file has alone, with each family that has it. Not of Stable Diffusion, whose components are
    described.
    """
    shapes, found = _shapes(with_original_names(file)), []
    for family in FAMILIES:
        if isinstance(family, StableDiffusion):
            continue
        if family.matches(shapes):
            return [(family, family.denoiser)]
        found += [(family, component) for component in family.components if family.component_keys(component, file)][:1]
    return found


def _shapes(file: Tensors) -> dict[str, Shape]:
    return {key: file.shape(key) for key in file}


def component_prefixes(family: Family | None) -> dict[str, str]:
    """The components that tensors belong to, by the prefixes of their names in single files of ``family``.

    None: in adapter files, and in files of a single component.
    """
    if family is None:
        return FILE_PREFIXES
    prefixes = {component.prefix: component.name for component in family.components}
    return prefixes | ({family.ema_prefix: family.denoiser.ema_name} if family.ema_prefix else {})


def candidate_families(file: Tensors, of_checkpoint: bool = False) -> list[Family]:
    """The families that match the tensors of a checkpoint; several when the tensors are ambiguous.

    UserError that describes what else the file is, or which components it lacks; ``of_checkpoint``: those that have
    files of their own may be missing.
    """
    shapes = _shapes(file)
    if not shapes:
        raise UserError(f"{file.path} has no tensors: download or copy it again.")
    if variant := unsupported_variant(shapes):
        raise UserError(f"{file.path} is {variant}.")
    found = matching_families(shapes)
    if not found:
        raise UserError(f"{file.path} is {describe_file(file)}.")
    if missing := found[0].missing_prefixes(shapes, of_checkpoint):
        message = f"{file.path} is {_incomplete(found[0], missing, shapes)}."
        raise IncompleteSourceError(message, found[0], _components(found[0], missing), shapes)
    return found


def _incomplete(family: Family, missing: Mapping[str, str], shapes: Shapes) -> str:
    """What a checkpoint is that lacks the parts ``missing`` (titles by prefix), and what to do."""
    lacking = _components(family, missing)
    others = tuple(component.prefix for component in family.other_files)
    is_alone = not any(key.startswith(others) for key in shapes)
    if is_alone:
        what = f"a {family.denoiser.title} without {' and '.join(missing.values())} ({family.title})"
    else:
        titles = " and ".join(f"{title} ({prefix}*)" for prefix, title in missing.items())
        what = f"{with_article(family.title)} checkpoint without {titles}"
    has_whole_files = all(component.in_checkpoint for component in lacking)
    if {component.role for component in lacking} == {VAE}:
        whole = ", or use a checkpoint with a VAE" if has_whole_files else ""
        return f"{what}: select a VAE too (option VAE, --vae){whole}"
    options = {"Text encoder": "--text-encoder", "VAE": "--vae"}
    if all(component.role == TEXT_ENCODER for component in lacking):
        del options["VAE"]
    whole = "use a checkpoint that has them all, or " if has_whole_files else ""
    its = "its file" if len(missing) == 1 else "their files"
    return f"{what}: {whole}add {its} ({' and '.join(options)} under Create; {', '.join(options.values())})"


def _components(family: Family, prefixes: Iterable[str]) -> list[Component]:
    """The components that tensors with these prefixes belong to."""
    return [c for c in family.components if any(prefix.startswith(c.prefix) for prefix in prefixes)]


def component_names() -> tuple[str, ...]:
    """The folders of components in diffusers folders of all families."""
    return tuple(dict.fromkeys(name for family in FAMILIES for name in family.component_names))


def describe_folder(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What a diffusers folder is that can't be used here; None when its configs don't say.

    ``index``: its model_index.json, {} without one.
    """
    family = family_of_folder(configs)
    return None if family and not isinstance(family, StableDiffusion) else _describe_folder_of_sd(index, configs)


def family_of_folder(configs: Mapping[str, Mapping[str, Any]]) -> Family | None:
    """The family of a diffusers folder with these configs; None when it is unknown."""
    return next((family for family in FAMILIES if family.matches_folder(configs)), None)
