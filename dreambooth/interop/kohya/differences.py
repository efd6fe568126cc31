"""What lies in an imported folder that is trained otherwise here, on purpose; so that the import can say so."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.reading import CaptionSource
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.images.color import exif_orientation
from dreambooth.interop.kohya.folders import direct_images
from dreambooth.settings import Concept


def list_images(concept: Concept) -> list[Path]:
    """The pictures of an imported concept, as far as they can be listed."""
    if not concept.metadata_file:
        return direct_images(expand_user(concept.instance_data_dir))
    with contextlib.suppress(UserError):
        return [Path(key) for key in MetadataFile.from_concept(concept).captions]
    return []


def file_differences(concepts: Sequence[Concept]) -> list[str]:
    """A line for each concept and each thing that is otherwise about its files. Only their first bytes are read."""
    said = []
    for concept in concepts:
        pictures = list_images(concept)
        turned = sum(map(_is_turned, pictures))
        if turned:
            said.append(
                f"{concept.instance_data_dir}: {turned} pictures are turned upright, as their EXIF data says; "
                "sd-scripts train them as they are stored."
            )
        marked = _marked([] if concept.metadata_file else pictures, CaptionSource.from_concept(concept))
        if marked:
            said.append(
                f"{concept.instance_data_dir}: {marked} caption files begin with a byte order mark; sd-scripts train "
                "that sign too, it is left out here."
            )
    return said


def _is_turned(picture: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(picture, formats=("JPEG", "MPO", "PNG", "WEBP")) as image:
            # Pillow looks for a PNG's orientation behind its pixels too, which would decode all of it.
            return "exif" in image.info and (exif_orientation(image) or 1) != 1
    except Exception:  # whoever reads it completely says what is wrong with it
        return False


def _marked(pictures: Iterable[Path], source: CaptionSource) -> int:
    count = 0
    for path in filter(None, map(source.find, pictures)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            count += file.read(3) == codecs.BOM_UTF8
    return count
