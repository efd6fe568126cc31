"""Sources of Create: a single file or a diffusers folder, optionally with text encoders and a VAE from other files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.checkpoints.folder_source import FolderSource
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.source_files import WHOLE
from dreambooth.checkpoints.source_set import with_component_files
from dreambooth.models.registry import family_of, with_original_names
from dreambooth.tensor_files import Tensors


@dataclass(frozen=True)
class Source:
    """An open source. ``main_paths``: the weight files of a folder by component, or the single file, as WHOLE.
    ``part_paths``: those of components that replace its own.
    """

    tensors: Tensors
    main_paths: Mapping[str, tuple[Path, ...]]
    part_paths: Mapping[str, tuple[Path, ...]]

    @property
    def paths(self) -> dict[str, tuple[Path, ...]]:
        """All files that are used."""
        return {**self.main_paths, **self.part_paths}

    def paths_of(self, component: str) -> tuple[Path, ...]:
        """The files that have a component's tensors."""
        return self.paths.get(component) or self.paths.get(WHOLE, ())

    def is_diffusers(self, component: str) -> bool:
        """Whether a component's files have the names of the modules, as in a diffusers folder."""
        return WHOLE not in self.main_paths and component not in self.part_paths


def open_source_set(path: Path, vae: Path | None = None, text_encoders: Sequence[Path] = ()) -> Source:
    """Open a single file or a diffusers folder. ``vae`` and ``text_encoders`` (files or folders) replace its own.

    UserError when it is neither, a folder of an unsupported family, or when the other files don't fit.
    """
    path = Path(path)
    if os.path.isdir(path):
        folder = FolderSource(path)
        main, paths = folder, folder.paths
    else:
        main, paths = with_original_names(open_tensors(path)), {WHOLE: (path,)}
    parts = [Path(file) for file in text_encoders], Path(vae) if vae else None
    tensors, part_paths = with_component_files(main, *parts)
    return Source(tensors, paths, part_paths)


def open_source(path: Path) -> Tensors:
    """The tensors of :func:`open_source_set`."""
    return open_source_set(path).tensors


def reopen_source(manifest: Manifest) -> Tensors:
    """The source that a model was created from, with its text encoders and VAE from other files. UserError if gone."""
    main = Path(os.path.abspath(manifest.source))
    parts: dict[str, Path] = {
        file.component: Path(file.path) for file in manifest.files if not Path(file.path).is_relative_to(main)
    }
    if not parts:
        return open_source(main)
    family = family_of(manifest.family)
    encoders = [parts[component.name] for component in family.text_encoders if component.name in parts]
    return open_source_set(main, parts.get(family.vae.name), encoders).tensors
