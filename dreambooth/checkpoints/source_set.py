"""A source in several files: the denoiser's, with text encoders and a VAE that have files of their own."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.checkpoints.folder_source import names_in, preferred_weights
from dreambooth.checkpoints.joined_files import open_joined
from dreambooth.errors import UserError
from dreambooth.models.components import TEXT_ENCODER, Component
from dreambooth.models.family import Family
from dreambooth.models.registry import describe_file, describe_kind, matching_families, with_original_names
from dreambooth.tensor_files import Tensors
from dreambooth.text import count


@dataclass(frozen=True)
class ComponentFile:
    """The open file of one component, and its tensors' names by their keys in the family's single file."""

    component: Component
    file: Tensors
    names: Mapping[str, str]


class SourceSet(Tensors):
    """The files presented as one, with the keys of the family's single file. ``parts`` replace its own components."""

    def __init__(self, main: Tensors, parts: Sequence[ComponentFile]) -> None:
        self.path, self.metadata, self.notes = main.path, main.metadata, main.notes
        self.added_prefix, self.own_prefix, self._main, self._parts = main.added_prefix, main.own_prefix, main, parts
        self._owners = {key: part for part in parts for key in part.names}
        self._keys = [*main.keys(), *(key for key in self._owners if key not in main)]

    def path_of(self, key: str) -> Path:
        part = self._owners.get(key) or next((p for p in self._parts if key.startswith(p.component.prefix)), None)
        return part.file.path if part else self.path

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for file in (self._main, *(part.file for part in self._parts)):
                stack.callback(file.close)

    def keys(self) -> list[str]:
        return self._keys

    def __contains__(self, key: str) -> bool:
        return key in self._owners or key in self._main

    def shape(self, key: str) -> tuple[int, ...]:
        file, name = self._locate(key)
        return file.shape(name)

    def dtype(self, key: str) -> torch.dtype:
        file, name = self._locate(key)
        return file.dtype(name)

    def get(self, key: str) -> torch.Tensor:
        file, name = self._locate(key)
        return file.get(name)

    def _locate(self, key: str) -> tuple[Tensors, str]:
        part = self._owners.get(key)
        return (part.file, part.names[key]) if part else (self._main, key)


def with_component_files(
    main: Tensors, text_encoders: Sequence[Path], vae: Path | None
) -> tuple[Tensors, dict[str, tuple[Path, ...]]]:
    """``main`` with text encoders and VAE from other files, and these files by component. Closes all files on errors.

    UserError for a file that is no such component of the family of ``main``, or that does not fit it.
    """
    if not text_encoders and not vae:
        return main, {}
    with contextlib.ExitStack() as stack:
        stack.callback(main.close)
        shapes = {key: main.shape(key) for key in main}
        families = matching_families(shapes)
        if not families:
            raise UserError(f"{main.path} is {describe_file(main)}.")
        encoder_paths = _text_encoder_files(text_encoders)
        encoders = [stack.enter_context(open_joined(paths)) for paths in encoder_paths]
        vae_paths = _weight_files(vae, "vae", "VAE") if vae else ()
        vae_file = stack.enter_context(open_joined(vae_paths)) if vae_paths else None
        parts = _assigned(main, families, encoders, vae_file)
        source = with_original_names(SourceSet(main, parts))
        stack.pop_all()
        paths = [*encoder_paths, *([vae_paths] if vae_paths else [])]
        return source, {part.component.name: own for part, own in zip(parts, paths, strict=True)}


def _assigned(
    main: Tensors, families: Sequence[Family], encoders: Sequence[Tensors], vae: Tensors | None
) -> list[ComponentFile]:
    """The component that each file is, in the first of ``families`` that has them all."""
    problems: list[UserError] = []
    for family in families:
        parts: list[ComponentFile] = []
        try:
            for file in encoders:
                parts.append(_text_encoder(family, file, parts))
            if vae is not None:
                parts.append(_vae(family, vae))
                _require_fit(main, parts[-1])
        except UserError as error:
            problems.append(error)
        else:
            return parts
    raise problems[0]


def _vae(family: Family, file: Tensors) -> ComponentFile:
    names = family.component_keys(family.vae, file)
    if not names:
        raise UserError(
            f"{file.path} is not a VAE of {family.title}: choose the file of one, or a checkpoint that includes it."
        )
    return ComponentFile(family.vae, file, names)


def _text_encoder(family: Family, file: Tensors, parts: Sequence[ComponentFile]) -> ComponentFile:
    """The first text encoder that the file can be."""
    for component in family.text_encoders:
        if names := family.component_keys(component, file):
            taken = next((part for part in parts if part.component == component), None)
            if taken:
                both = f"{file.path} and {taken.file.path}"
                raise UserError(f"{both} are both the {component.title} of {family.title}: choose one of them.")
            return ComponentFile(component, file, names)
    kind = describe_kind(file)
    encoders = [component for component in family.other_files if component.role == TEXT_ENCODER]
    needed = " and ".join(component.title for component in encoders)
    raise UserError(f"{file.path} is no text encoder of {family.title} (it is {kind}). It needs: {needed}.")


def _require_fit(main: Tensors, part: ComponentFile) -> None:
    """UserError unless the VAE has the tensors of the one that it replaces, if there is one."""
    prefix = part.component.prefix
    expected = {key for key in main if key.startswith(prefix)}
    if not expected:
        return
    sections = {_section(key, prefix) for key in expected}  # a checkpoint may have a VAE without encoder
    differing = sorted(expected ^ {key for key in part.names if _section(key, prefix) in sections})
    if differing:
        n_tensors = count(len(differing), "tensor")
        raise UserError(
            f"{part.file.path} does not fit {main.path}: {n_tensors} not in both, first {differing[0]}. "
            f"Choose another {part.component.title}."
        )


def _section(key: str, prefix: str) -> str:
    """The part of a component that a tensor belongs to, such as the encoder of a VAE."""
    return key.removeprefix(prefix).partition(".")[0]


def _text_encoder_files(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """The files of each text encoder. A whole model's folder that is given again stands for its next text encoder."""
    found, times_given = [], Counter[Path]()
    for path in paths:
        times_given[path] += 1
        number = times_given[path]
        found.append(_weight_files(path, f"text_encoder_{number}" if number > 1 else "text_encoder", "text encoder"))
    return found


def _weight_files(path: Path, component: str, what: str) -> tuple[Path, ...]:
    """The file itself, or the weights in the diffusers folder of a component or of a whole model."""
    if not os.path.isdir(path):
        return (path,)
    for folder in (path / component, path):
        if names := preferred_weights(names_in(folder), component):
            return tuple(folder / name for name in names)
    raise UserError(f"{path} has no {what} ({component}): choose the file of a {what}.")
