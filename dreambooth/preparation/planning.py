"""Making pictures ready: the list of what becomes of each, after reading all of them.

A dry run is that list, and the work follows it: :mod:`dreambooth.preparation.output_folder` into a new folder,
:mod:`dreambooth.preparation.in_place_undo` in place. Here nothing is written.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth import files
from dreambooth.captions.reading import FILE_NAME, Caption, read_caption
from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size, bucket_sizes
from dreambooth.images.cropping import crop_to_bucket, resize_only, smart_crop
from dreambooth.images.decoding import decode_image, decode_to_rgb
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.issues import UnusableFile
from dreambooth.images.listing import list_files, masks_of, natural_order
from dreambooth.images.parallel import map_files
from dreambooth.preparation.changes import Change, Preparation
from dreambooth.preparation.names import Names, captions_of, filled_in, numbers_in_folders, problems_of
from dreambooth.preparation.transform import ENDINGS, Facts, Recipe, facts, recipe
from dreambooth.settings.preparation import ADD_MIRRORED, LONGEST_SIDE, MIRROR_ALL, NO_CROP, SMART, PrepareOptions
from dreambooth.types import ProgressCallback

MIRRORED = "-mirrored"


def plan(folder: Path, options: PrepareOptions, progress: ProgressCallback | None = None) -> Preparation:
    """Read every picture completely and say what becomes of it.

    UserError when the options or the destination can't be used, all at once, or when no picture is left. A picture
    that can't be read is skipped and named. ``progress`` may raise Cancelled.
    """
    listing = list_files(folder)
    found = sorted([*listing.images, *listing.unsupported], key=natural_order)
    if not found:
        raise UserError(f"{folder}: holds no picture.")
    buckets = _require_usable(folder, options)
    out = folder if options.in_place else _destination(folder, options)
    masks = masks_of(found)
    are_masks = set(masks.values())
    pictures = [path for path in found if path not in are_masks]

    def look(path: Path) -> _Look:
        if options.in_place and not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: lies behind a link, outside the folder. Prepare it where it is.")
        return _look(path, masks.get(path), options, buckets)

    looks, skipped = map_files(pictures, look, progress, "looking at pictures")
    if not looks:
        raise UserError.from_problems([f"{folder}: none of its pictures can be prepared.", *skipped])
    changes = _named(looks, folder, out, options, masks)
    return Preparation(folder, out, options, tuple(changes), tuple(skipped), tuple(_warnings(looks, changes)))


# -- options and destination ----------------------------------------------------------------------------------


def _require_usable(folder: Path, options: PrepareOptions) -> list[Size]:
    """The buckets to crop to; UserError for all that can't be done."""
    problems, buckets = problems_of(options.rename), []
    try:
        if options.crop != NO_CROP:
            buckets = _buckets(options)
    except UserError as error:
        problems += error.problems
    if options.flatten:
        problems += _problems_of_colour(options.flatten)
    if options.in_place and not os.access(folder, os.W_OK):
        problems.append(f"{folder}: can't be written, so nothing can be prepared in place. Choose a destination.")
    if problems:
        raise UserError.from_problems(problems)
    return buckets


def _buckets(options: PrepareOptions) -> list[Size]:
    if not options.fixed_size:
        return bucket_sizes(
            options.resolution, options.bucket_step, options.bucket_min_side, options.bucket_max_side
        )  # fmt: skip
    size = re.fullmatch(r"\s*(\d{1,5})\s*[x×*]\s*(\d{1,5})\s*", options.fixed_size)
    if not size or not all(0 < int(side) <= LONGEST_SIDE for side in size.groups()):
        raise UserError(
            f"fixed_size (Crop to one size): {options.fixed_size!r} is no size with sides of 1 to {LONGEST_SIDE} "
            "pixels. Write it as 512x768."
        )
    return [(int(size[1]), int(size[2]))]


def _problems_of_colour(colour: str) -> list[str]:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(colour)
    except ValueError:
        return [f"flatten (Background color): {colour!r} is not a color. Write a name or #rrggbb, as #ffffff."]
    return []


def _destination(folder: Path, options: PrepareOptions) -> Path:
    if not options.out.strip():
        whole = folder.resolve()
        names = (f"{whole.name}-prepared{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
        return next(path for path in map(whole.with_name, names) if not os.path.lexists(path))
    out = files.expand_user(options.out.strip())
    own, originals = out.resolve(), folder.resolve()
    if own == originals or own.is_relative_to(originals):
        raise UserError(
            f"out (Destination folder): {out} lies in the folder of the originals. Choose one beside it, or switch "
            "on in place."
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"out (Destination folder): {out} is a file. Choose a folder.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"out (Destination folder): {out} is not empty, and nothing is overwritten. Choose a new one.")
    return own


# -- the pictures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    path: Path
    content: str
    size: Size
    facts: Facts
    crop: Crop
    caption: Caption | None
    warning: str  # why there is none


def _look(path: Path, mask: Path | None, options: PrepareOptions, buckets: Sequence[Size]) -> _Look:
    data = read_bytes(path)
    seen = decode_image(data, path)
    image = seen.image
    if mask:
        decode_to_rgb(read_bytes(mask), mask)
    if options.crop == NO_CROP:
        crop = resize_only(image.size, options.long_side, options.enlarge)
    else:
        crop = crop_to_bucket(image.size, buckets, options.enlarge)
        crop = smart_crop(image, crop) if options.crop == SMART else crop
    found = facts(data, path, seen, options.strip_metadata)
    return _Look(path, hashlib.sha256(data).hexdigest(), image.size, found, crop, *_caption(path))


def _caption(path: Path) -> tuple[Caption | None, str]:
    try:
        return read_caption(path), ""
    except UnusableFile:  # the drive gives no answer: then it gives none for the copy either
        raise
    except UserError as error:
        return None, error.problems[0]


def _named(
    looks: Sequence[_Look], folder: Path, out: Path, options: PrepareOptions, masks: Mapping[Path, Path]
) -> list[Change]:
    """The changes, each with a name of its own; who can keep the name that it has comes first."""
    mirrors = {ADD_MIRRORED: (False, True), MIRROR_ALL: (True,)}.get(options.mirror, (False,))
    drafts = []
    for look, number in zip(looks, numbers_in_folders(look.path for look in looks), strict=True):
        stem = filled_in(options.rename, look.path, number) if options.rename else look.path.stem
        for mirrored in mirrors:
            made = recipe(look.facts, look.size, look.crop, mirrored, options)
            name = stem + (MIRRORED if options.mirror == ADD_MIRRORED and mirrored else "")
            drafts.append((look, made, name, _companions(look.path, masks.get(look.path), made)))

    def has_it_already(place: int) -> bool:
        look, _, name, [(_, ending), *_] = drafts[place]
        return look.path.name == name + ending

    names = Names(_others(looks, masks) if options.in_place else ())
    changes: dict[int, Change] = {}
    for place in sorted(range(len(drafts)), key=has_it_already, reverse=True):
        look, made, name, together = drafts[place]
        there = out / look.path.parent.relative_to(folder)
        stem = names.claim(there, name, together)
        (_, destination), *beside = [(source, there / (stem + ending)) for source, ending in together]
        mask = beside.pop() if look.path in masks else None
        changes[place] = Change(look.path, destination, look.content, look.size, made, tuple(beside), mask)
    return [changes[place] for place in range(len(drafts))]


def _companions(path: Path, mask: Path | None, made: Recipe) -> list[tuple[Path, str]]:
    """The picture, its captions, its mask: each with what stands behind the stem that they share."""
    kept = path.suffix if path.suffix.lower() in ENDINGS[made.kind] else ENDINGS[made.kind][0]
    together = [(path, kept), *((caption, caption.suffix) for caption in captions_of(path))]
    if mask:
        ending = mask.stem[len(path.stem) :]
        together.append((mask, ending + (".png" if made.anew else mask.suffix)))
    return together


def _others(looks: Sequence[_Look], masks: Mapping[Path, Path]) -> Iterator[Path]:
    """What lies in the pictures' folders and is not going to leave its name."""
    paths = [look.path for look in looks]
    leaving = {*paths, *(masks[path] for path in paths if path in masks), *itertools.chain(*map(captions_of, paths))}
    for folder in {path.parent for path in paths}:
        yield from (path for path in folder.iterdir() if path not in leaving)


def _warnings(looks: Sequence[_Look], changes: Sequence[Change]) -> Iterator[str]:
    counted: Counter[str] = Counter()
    captions = {look.path: look.caption for look in looks}
    yield from (look.warning for look in looks if look.warning)
    for change in changes:
        caption = captions[change.source]
        if caption is None:
            continue
        renamed = change.source.stem != change.destination.stem
        counted["named"] += renamed and caption.source == FILE_NAME
        counted["sides"] += change.recipe.mirrored and bool(re.search(r"\b(left|right)\b", caption.text, re.I))
    if counted["named"]:
        yield (f"{counted['named']} pictures without a caption file get new names, and names are what such pictures "
               "are trained with. Write captions first if theirs matter.")  # fmt: skip
    if counted["sides"]:
        yield f"{counted['sides']} mirrored pictures have captions that speak of left or right. Correct them."
