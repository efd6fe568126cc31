"""Files of text encoders and VAEs in the folders of the host, for a source that lacks them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.hosts.contract import COMPONENT_SUFFIXES
from dreambooth.hosts.folder_files import files_in
from dreambooth.models.components import VAE, Component
from dreambooth.models.family import Family
from dreambooth.models.layout import Shapes
from dreambooth.models.registry import IncompleteSourceError
from dreambooth.settings import Folders

_MAX_NAMED = 3  # files per component in a message
_MAX_OPENED = 300  # files per component, of which only the headers are read


def with_found_files(error: IncompleteSourceError, folders: Folders) -> UserError:
    """``error``, with the files in ``folders`` that could be the missing components."""
    found = [_found(error, component, folders) for component in error.components]
    return UserError(" ".join([str(error), *filter(None, found)]))


def _files(folders: Folders, component: Component) -> Iterator[Path]:
    """The files in the folders for this role, by name, and then the checkpoints, which may contain it."""
    own = folders.vaes if component.role == VAE else folders.text_encoders
    for folder in dict.fromkeys((*own, folders.checkpoints, *folders.more_checkpoints)):
        yield from (path for _, path in files_in([folder], COMPONENT_SUFFIXES))


def _found(error: IncompleteSourceError, component: Component, folders: Folders) -> str:
    """One sentence about the files that are this component and fit the source; "" if there are none."""
    opened = islice(_files(folders, component), _MAX_OPENED)
    matching = (_shown(path, folders) for path in opened if _fits(error.family, component, path, error.shapes))
    names = list(islice(matching, _MAX_NAMED + 1))
    if not names:
        return ""
    more = " and others" if len(names) > _MAX_NAMED else ""
    return f"Found for the {component.title}: {', '.join(names[:_MAX_NAMED])}{more}."


def _fits(family: Family, component: Component, path: Path, source: Shapes) -> bool:
    with contextlib.suppress(UserError, OSError), open_tensors(path) as file:
        shapes = {key: file.shape(name) for key, name in family.component_keys(component, file).items()}
        return bool(shapes) and (not _has_configs(family, source) or _has_configs(family, {**source, **shapes}))
    return False


def _has_configs(family: Family, shapes: Shapes) -> bool:
    """Whether the sizes fit each other; False also for Stable Diffusion without one of its components."""
    try:
        return bool(family.configs(shapes, {}))
    except (UserError, LookupError, ValueError):
        return False


def _shown(path: Path, folders: Folders) -> str:
    """The path without that of the models folder."""
    return os.path.relpath(path, folders.models) if path.is_relative_to(folders.models) else str(path)
