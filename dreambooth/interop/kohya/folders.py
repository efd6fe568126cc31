"""Folders with repeats and class tokens in their names, as in kohya's guides: ``10_sls 1girl``, ``1_1girl``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.captions.kohya_rules import is_image
from dreambooth.images.listing import find_images
from dreambooth.settings import Concept
from dreambooth.text import count

_NAME_WITH_REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
_YEAR_DIGITS = 4  # 2023_summer: a year, not repeats
_REGULARIZATION_NAME = re.compile(
    r"(my_?)?(reg(s|ular|ulari[sz]ation)?|class(es|ification)?|prior)([ _-]?(ima?ge?s?|data|pictures|dir|folder))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class NamedFolder:
    """Repeats and class tokens from a folder's name."""

    path: Path
    repeats: int
    class_tokens: str


def parse_folder_name(folder: Path) -> NamedFolder | None:
    """None for a folder without repeats in its name. Folders with 0 repeats are not trained."""
    match = _NAME_WITH_REPEATS.fullmatch(folder.name)
    return NamedFolder(folder, int(match[1]), match[2].strip()) if match and len(match[1]) < _YEAR_DIGITS else None


def parse_as_sd_scripts(folder: Path) -> NamedFolder | None:
    """Parse as sd-scripts do: repeats are the number before the first _, even if it is a year."""
    number, _, class_tokens = folder.name.partition("_")
    try:
        return NamedFolder(folder, int(number), class_tokens)
    except ValueError:
        return None


def find_named_folders(
    root: Path, parse: Callable[[Path], NamedFolder | None] = parse_folder_name
) -> list[NamedFolder]:
    """The direct subfolders of ``root`` with repeats in their names, sorted."""
    return [found for folder in _list_subfolders(root) if (found := parse(folder))]


def is_regularization_folder(root: Path) -> bool:
    """Whether the folder has a usual name for regularization images: reg, regularization images, class..."""
    return bool(_REGULARIZATION_NAME.fullmatch(root.name.strip()))


def find_concepts(root: Path) -> tuple[list[Concept], list[str]]:
    """The concepts below ``root``, and messages on images outside of them; ([], []) for a plain folder of images.

    ``root`` is a folder with repeats in its name, contains such folders, or contains folders that do (img, reg).
    Images below a folder named reg or similar are regularization images.
    """
    own = parse_folder_name(root)
    if own and not find_named_folders(root):
        return _make_concepts([own], is_regularization_folder(root.parent))
    concepts, unsupported, used_folders = [], [], []
    for folder in (root, *(f for f in _list_subfolders(root) if not parse_folder_name(f))):
        named_folders = find_named_folders(folder)
        found, messages = _make_concepts(named_folders, is_regularization_folder(folder))
        concepts += found
        unsupported += messages
        used_folders += [named.path for named in named_folders]
    if not used_folders:
        return [], []
    concepts.sort(key=lambda concept: concept.regularization)
    return concepts, [*unsupported, *_find_unused_images(root, used_folders)]


def _make_concepts(folders: Sequence[NamedFolder], regularization: bool) -> tuple[list[Concept], list[str]]:
    concepts, unsupported = [], []
    for named in folders:
        if named.repeats < 1:
            unsupported.append(f"{named.path}: skipped, as its name sets 0 repeats.")
        elif not any(path.parent == named.path for path in find_images(named.path)):
            unsupported.append(f"{named.path}: skipped, as it contains no images.")
        else:
            concepts.append(_make_concept(named, regularization))
    return concepts, unsupported


def _make_concept(folder: NamedFolder, regularization: bool) -> Concept:
    """The name is the caption of images without one. As in sd-scripts, other captions stay as they are."""
    return Concept(
        instance_data_dir=str(folder.path),
        subfolders=False,
        regularization=regularization,
        num_repeats=folder.repeats,
        default_caption=folder.class_tokens,
    )


def _find_unused_images(root: Path, used_folders: Sequence[Path]) -> list[str]:
    """Messages on images below ``root`` that are not directly in one of the folders, one for each of their folders."""
    counts: dict[Path, int] = {}
    for path in find_images(root):
        if path.parent not in used_folders:
            counts[path.parent] = counts.get(path.parent, 0) + 1
    return [
        f"{parent}: {count(n, 'image')} skipped, as the folder name sets no repeats. Rename the folder, as in "
        "10_sls 1girl."
        for parent, n in counts.items()
    ]


def list_direct_images(folder: Path, accepts: Callable[[Path], bool] = is_image) -> list[Path]:
    """The images directly in a folder, by default those that sd-scripts read; empty if it can't be listed."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except (OSError, ValueError):
        return []
    return [path for path in map(folder.joinpath, sorted(names)) if accepts(path)]


def _list_subfolders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            found = [root / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except (OSError, ValueError):  # reported when its images are listed
        return []
    return sorted(found)
