"""Folders whose names say how often and as what their pictures are trained: ``10_sls 1girl``, ``1_1girl``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.captions.kohya_rules import is_image
from dreambooth.images.listing import IMAGE_EXTENSIONS, find_images
from dreambooth.settings import Concept

_NAME = re.compile(r"(\d+)_(.*)", re.DOTALL)
_DIGITS_OF_A_YEAR = 4  # 2023_summer says when, not how often
_REGULAR = re.compile(
    r"(my_?)?(reg(s|ular|ulari[sz]ation)?|class(es|ification)?|prior)([ _-]?(ima?ge?s?|data|pictures|dir|folder))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Named:
    """What a folder's name says."""

    path: Path
    repeats: int
    words: str


def named(folder: Path) -> Named | None:
    """None for a folder whose name says no repeats; 0 repeats leave its pictures out."""
    match = _NAME.fullmatch(folder.name)
    return Named(folder, int(match[1]), match[2].strip()) if match and len(match[1]) < _DIGITS_OF_A_YEAR else None


def named_as_theirs(folder: Path) -> Named | None:
    """What sd-scripts take a folder's name for: repeats is any number before the first _, and a year is one too."""
    number, _, words = folder.name.partition("_")
    try:
        return Named(folder, int(number), words)
    except ValueError:
        return None


def named_below(root: Path, read: Callable[[Path], Named | None] = named) -> list[Named]:
    """The folders right in ``root`` whose names say repeats, in order."""
    return [found for folder in _folders(root) if (found := read(folder))]


def is_regular(root: Path) -> bool:
    """Whether a folder is called as those with regularization pictures are: reg, regularization images, class..."""
    return bool(_REGULAR.fullmatch(root.name.strip()))


def concepts_in(root: Path) -> tuple[list[Concept], list[str]]:
    """The concepts of ``root``, and a line for whatever pictures are in none of them; ([], []) for a plain folder.

    ``root`` is such a folder itself, holds some, or holds folders that do (img, reg); those of a folder called reg or
    the like are regularization pictures.
    """
    own = named(root)
    if own and not named_below(root):
        return _concepts([own], is_regular(root.parent))
    concepts, without, used = [], [], []
    for folder in (root, *(f for f in _folders(root) if not named(f))):
        there = named_below(folder)
        found, said = _concepts(there, is_regular(folder))
        concepts, without, used = concepts + found, without + said, used + [each.path for each in there]
    if not used:
        return [], []
    concepts.sort(key=lambda concept: concept.regularization)
    return concepts, [*without, *_elsewhere(root, used)]


def _concepts(folders: Sequence[Named], regular: bool) -> tuple[list[Concept], list[str]]:
    concepts, without = [], []
    for each in folders:
        if each.repeats < 1:
            without.append(f"{each.path}: 0 repeats leave it out, as its name says.")
        elif not right_in(each.path, lambda path: path.suffix.lower() in IMAGE_EXTENSIONS):
            without.append(f"{each.path}: holds no picture.")
        else:
            concepts.append(_concept(each, regular))
    return concepts, without


def _concept(folder: Named, regular: bool) -> Concept:
    """With the token, the first of two or more words, where a caption lacks it."""
    token, _, noun = folder.words.partition(" ")
    has_token = bool(noun) and not regular
    return Concept(
        instance_data_dir=str(folder.path),
        subfolders=False,
        regularization=regular,
        num_repeats=folder.repeats,
        default_caption=folder.words,
        instance_token=token if has_token else "",
        class_token=noun.strip() if has_token else "",
    )


def _elsewhere(root: Path, used: Sequence[Path]) -> list[str]:
    """Pictures below ``root`` that lie right in none of the folders, a line for each place."""
    places: dict[Path, int] = {}
    for path in find_images(root):
        if path.parent not in used:
            places[path.parent] = places.get(path.parent, 0) + 1
    return [
        f"{place}: {count} pictures are left out, for no folder name says how often they are shown "
        f"(such as 10_sls 1girl)."
        for place, count in places.items()
    ]


def right_in(folder: Path, counts: Callable[[Path], bool] = is_image) -> list[Path]:
    """The pictures right in a folder, of the kinds that sd-scripts read; none for one that can't be listed."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return []
    return [path for path in map(folder.joinpath, sorted(names)) if counts(path)]


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            found = [root / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:  # whoever looks for its pictures says so
        return []
    return sorted(found)
