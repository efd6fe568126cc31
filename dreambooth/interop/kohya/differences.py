"""Image and caption files that are deliberately trained differently than by sd-scripts, reported by the import."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.reading import CaptionSource
from dreambooth.errors import UserError
from dreambooth.images.color import exif_orientation
from dreambooth.interop.kohya.folders import list_direct_images
from dreambooth.paths import clean_path
from dreambooth.settings import Concept
from dreambooth.text import count

_EXTENSION = "caption_extension"


def list_images(concept: Concept) -> list[Path]:
    """Paths of an imported concept's images; empty if its folder or metadata file can't be read."""
    if not concept.metadata_file:
        return list_direct_images(clean_path(concept.instance_data_dir))
    with contextlib.suppress(UserError):
        return MetadataFile.from_concept(concept).paths
    return []


def find_file_differences(concepts: Sequence[Concept]) -> list[str]:
    """Messages on rotated images and on byte order marks, per concept. Only the first bytes of each file are read."""
    messages = []
    for concept in concepts:
        images = list_images(concept)
        rotated = sum(map(_is_rotated, images))
        if rotated:
            messages.append(
                f"{concept.instance_data_dir}: {count(rotated, 'image')} rotated upright by EXIF orientation, "
                "which sd-scripts ignore."
            )
        with_bom = _count_with_bom([] if concept.metadata_file else images, CaptionSource.from_concept(concept))
        if with_bom:
            messages.append(
                f"{concept.instance_data_dir}: byte order mark removed from the captions of "
                f"{count(with_bom, 'caption file')}; sd-scripts train it as a character."
            )
    return messages


def find_unread_captions(concepts: Sequence[Concept], extension_given: bool) -> list[str]:
    """Messages on captions in files with another extension than the configuration's, per concept."""
    messages = []
    for number, concept in enumerate(concepts, 1):
        source = CaptionSource.from_concept(concept)
        images = [] if concept.metadata_file else list_images(concept)
        unread = list(source.find_unread(images).values())
        if unread:
            other = unread[0].suffix
            reason = "" if extension_given else f", the default of sd-scripts, as the file has no {_EXTENSION}"
            messages.append(
                f"{concept.instance_data_dir}: the captions of {count(len(unread), 'image')} are in {other} files, "
                f"which are not read: {_EXTENSION} is {concept.caption_extension!r}{reason}. Write {_EXTENSION} = "
                f'"{other}" in the file and import it again, or set Caption file extension of concept {number} to '
                f"{other}."
            )
    return messages


def _is_rotated(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "MPO", "PNG", "WEBP")) as image:
            # Without this check, Pillow decodes a whole PNG to search for EXIF data after its pixels.
            return "exif" in image.info and (exif_orientation(image) or 1) != 1
    except Exception:  # the training plan reports unreadable images
        return False


def _count_with_bom(images: Iterable[Path], source: CaptionSource) -> int:
    with_bom = 0
    for path in filter(None, map(source.find, images)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            with_bom += file.read(3) == codecs.BOM_UTF8
    return with_bom
