"""Masks in a folder of their own, with the names of the images: as sd-scripts have them for masked loss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.images.listing import MASK_SUFFIXES, list_files, masks_of
from dreambooth.paths import clean_path


def find_masks(mask_dir: str, folder: Path, images: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """The mask of each image that has one, and masks of no image.

    A mask has the name of its image, with any extension, in the same subfolder or directly in ``mask_dir``.
    UserError if there are no masks at all.
    """
    root = clean_path(mask_dir)
    masks = list_files(root).images
    if not masks:
        raise UserError(f"{root} contains no masks. Name the folder with a mask for each image, or leave it empty.")
    if root.resolve() == folder.resolve():
        return masks_of(images), []
    images = [path for path in images if not path.is_relative_to(root)]
    by_name = {_without_extension(mask, root): mask for mask in reversed(masks)}
    found = {}
    for image in images:
        mask = next((by_name[name] for name in _names(image, folder) if name in by_name), None)
        if mask is not None:
            found[image] = mask
    used = set(found.values())
    return found, [mask for mask in masks if mask not in used]


def _names(image: Path, folder: Path) -> Iterator[str]:
    below = _without_extension(image, folder) if image.is_relative_to(folder) else image.stem
    for name in (below, os.path.join(folder.name, below), image.stem):
        yield name
        yield from (name + suffix for suffix in MASK_SUFFIXES)


def _without_extension(path: Path, root: Path) -> str:
    return os.path.splitext(os.path.relpath(path, root))[0]
