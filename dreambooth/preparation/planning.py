"""Planning a preparation: read all images and list the changes, without writing anything.

A dry run shows this list; :mod:`dreambooth.preparation.output_folder` (new folder) and
:mod:`dreambooth.preparation.in_place_undo` (in place) follow it.
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

from dreambooth.captions.folder_metadata import is_metadata_name
from dreambooth.captions.reading import FROM_FILE_NAME, Caption, read_caption
from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size, bucket_sizes
from dreambooth.images.cropping import crop_to_bucket, resize_only, smart_crop
from dreambooth.images.decoding import decode_image, decode_to_rgb
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.issues import UnusableFile
from dreambooth.images.listing import Listing, list_files, masks_of, natural_order
from dreambooth.images.parallel import map_files
from dreambooth.paths import clean_path
from dreambooth.preparation.changes import ImageChange, Preparation
from dreambooth.preparation.names import (
    UniqueNames,
    caption_files_of,
    fill_pattern,
    numbers_in_folders,
    pattern_problems,
)
from dreambooth.preparation.transform import (
    EXTENSIONS,
    ImageProperties,
    ImageTransform,
    image_properties,
    plan_transform,
)
from dreambooth.settings.preparation import ADD_MIRRORED, LONGEST_SIDE, MIRROR_ALL, NO_CROP, SMART, PrepareOptions
from dreambooth.text import count
from dreambooth.types import ProgressCallback

MIRRORED_SUFFIX = "-mirrored"


def plan_preparation(folder: Path, options: PrepareOptions, progress: ProgressCallback | None = None) -> Preparation:
    """Read every image completely and plan its change.

    UserError with all problems of the options and the destination, or when no image can be prepared. An image that
    can't be read is skipped and reported. ``progress`` may raise Cancelled.
    """
    listing = list_files(folder)
    found = sorted([*listing.images, *listing.unsupported], key=natural_order)
    if not found:
        raise UserError(f"{folder} contains no images. Choose a folder with images.")
    buckets = _require_valid_options(folder, options)
    out = folder if options.in_place else _destination(folder, options)
    masks = masks_of(found)
    mask_paths = set(masks.values())
    images = [path for path in found if path not in mask_paths]

    def read(path: Path) -> _SourceImage:
        if options.in_place and not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: is behind a link, outside the folder. Prepare its own folder.")
        return _read(path, masks.get(path), options, buckets)

    sources, skipped = map_files(images, read, progress, "reading images")
    if not sources:
        raise UserError.from_problems([f"{folder}: none of its images can be prepared.", *skipped])
    changes = _changes(sources, folder, out, options, masks)
    warnings = [*_warnings(sources, changes), *([] if options.in_place else _not_copied(listing))]
    return Preparation(folder, out, options, tuple(changes), tuple(skipped), tuple(warnings))


# -- options and destination ----------------------------------------------------------------------------------


def _require_valid_options(folder: Path, options: PrepareOptions) -> list[Size]:
    """The buckets to crop to. UserError with all problems."""
    problems, buckets = pattern_problems(options.rename), []
    try:
        if options.crop != NO_CROP:
            buckets = _buckets(options)
    except UserError as error:
        problems += error.problems
    if options.flatten:
        problems += _color_problems(options.flatten)
    if options.in_place and not os.access(folder, os.W_OK):
        problems.append(f"{folder} is not writable, so it can't be prepared in place. Choose a destination folder.")
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
            f"fixed_size (Crop to one size): {options.fixed_size!r} is not a size with sides of 1 to {LONGEST_SIDE} "
            "pixels. Use the form 512x768."
        )
    return [(int(size[1]), int(size[2]))]


def _color_problems(color: str) -> list[str]:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(color)
    except ValueError:
        return [f"flatten (Background color): {color!r} is not a color. Use a name or #rrggbb, such as #ffffff."]
    return []


def _destination(folder: Path, options: PrepareOptions) -> Path:
    if not options.out.strip():
        resolved = folder.resolve()
        names = (f"{resolved.name}-prepared{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
        return next(path for path in map(resolved.with_name, names) if not os.path.lexists(path))
    out = clean_path(options.out)
    resolved, originals = out.resolve(), folder.resolve()
    if resolved == originals or resolved.is_relative_to(originals):
        raise UserError(
            f"out (Destination folder): {out} is inside the folder of the originals. Choose a folder outside it, or "
            "turn on in_place."
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"out (Destination folder): {out} is a file. Choose a folder.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"out (Destination folder): {out} is not empty, and nothing is overwritten. Choose a new one.")
    return resolved


# -- images ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SourceImage:
    path: Path
    content: str  # sha256, hex
    size: Size
    properties: ImageProperties
    crop: Crop
    caption: Caption | None
    caption_problem: str  # why there is no caption


def _read(path: Path, mask: Path | None, options: PrepareOptions, buckets: Sequence[Size]) -> _SourceImage:
    data = read_bytes(path)
    decoded = decode_image(data, path)
    image = decoded.image
    if mask:
        decode_to_rgb(read_bytes(mask), mask)
    if options.crop == NO_CROP:
        crop = resize_only(image.size, options.long_side, options.enlarge)
    else:
        crop = crop_to_bucket(image.size, buckets, options.enlarge)
        crop = smart_crop(image, crop) if options.crop == SMART else crop
    properties = image_properties(data, path, decoded, options.strip_metadata)
    content = hashlib.sha256(data).hexdigest()
    return _SourceImage(path, content, image.size, properties, crop, *_read_caption(path))


def _read_caption(path: Path) -> tuple[Caption | None, str]:
    try:
        return read_caption(path), ""
    except UnusableFile:  # the drive does not respond, so the caption could not be copied either
        raise
    except UserError as error:
        return None, error.problems[0]


def _changes(
    sources: Sequence[_SourceImage], folder: Path, out: Path, options: PrepareOptions, masks: Mapping[Path, Path]
) -> list[ImageChange]:
    """The changes with unique names; an image that can keep its name has precedence."""
    mirror_options = {ADD_MIRRORED: (False, True), MIRROR_ALL: (True,)}.get(options.mirror, (False,))
    drafts = []
    for source, number in zip(sources, numbers_in_folders(source.path for source in sources), strict=True):
        stem = fill_pattern(options.rename, source.path, number) if options.rename else source.path.stem
        for mirrored in mirror_options:
            transform = plan_transform(source.properties, source.size, source.crop, mirrored, options)
            name = stem + (MIRRORED_SUFFIX if options.mirror == ADD_MIRRORED and mirrored else "")
            drafts.append((source, transform, name, _file_group(source.path, masks.get(source.path), transform)))

    def keeps_its_name(index: int) -> bool:
        source, _, name, [(_, suffix), *_] = drafts[index]
        return source.path.name == name + suffix

    names = UniqueNames(_other_files(sources, masks) if options.in_place else ())
    changes: dict[int, ImageChange] = {}
    for index in sorted(range(len(drafts)), key=keeps_its_name, reverse=True):
        source, transform, name, group = drafts[index]
        destination_folder = out / source.path.parent.relative_to(folder)
        stem = names.claim(destination_folder, name, group)
        (_, destination), *others = [(path, destination_folder / (stem + suffix)) for path, suffix in group]
        mask = others.pop() if source.path in masks else None
        changes[index] = ImageChange(
            source.path, destination, source.content, source.size, transform, tuple(others), mask
        )
    return [changes[index] for index in range(len(drafts))]


def _file_group(path: Path, mask: Path | None, transform: ImageTransform) -> list[tuple[Path, str]]:
    """The image, its captions and its mask, each with the suffix after their common stem."""
    extensions = EXTENSIONS[transform.format]
    extension = path.suffix if path.suffix.lower() in extensions else extensions[0]
    group = [(path, extension), *((caption, caption.suffix) for caption in caption_files_of(path))]
    if mask:
        mask_suffix = mask.stem[len(path.stem) :]
        group.append((mask, mask_suffix + (".png" if transform.reencode else mask.suffix)))
    return group


def _other_files(sources: Sequence[_SourceImage], masks: Mapping[Path, Path]) -> Iterator[Path]:
    """The files in the images' folders that keep their names."""
    paths = [source.path for source in sources]
    captions = itertools.chain.from_iterable(map(caption_files_of, paths))
    replaced = {*paths, *(masks[path] for path in paths if path in masks), *captions}
    for folder in {path.parent for path in paths}:
        yield from (path for path in folder.iterdir() if path not in replaced)


def _not_copied(listing: Listing) -> Iterator[str]:
    if others := [*listing.not_images, *listing.side_files]:
        yield f"{count(len(others), 'other file')} not copied, such as {others[0].name}: only images are prepared."


def _warnings(sources: Sequence[_SourceImage], changes: Sequence[ImageChange]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    captions = {source.path: source.caption for source in sources}
    yield from (source.caption_problem for source in sources if source.caption_problem)
    for change in changes:
        caption = captions[change.source]
        if caption is None:
            continue
        is_renamed = change.source.stem != change.destination.stem
        counts["renamed"] += is_renamed and caption.source == FROM_FILE_NAME
        counts["listed"] += is_metadata_name(caption.source) and change.source != change.destination
        counts["sides"] += change.transform.mirrored and bool(re.search(r"\b(left|right)\b", caption.text, re.I))
    if n := counts["renamed"]:
        images = count(n, "image without a caption file is", "images without a caption file are")
        yield f"{images} renamed, but training uses the file name as the caption. Write caption files first to keep it."
    if n := counts["listed"]:
        images = count(n, "image has its caption", "images have their captions")
        yield (
            f"{images} in a metadata.jsonl or .csv, which does not list the new files. Write caption files first, or "
            "copy it and correct the names."
        )
    if n := counts["sides"]:
        captions_mention = count(n, "mirrored image has a caption", "mirrored images have captions")
        yield f"{captions_mention} with the word left or right. Correct the caption files."
