"""What metadata.jsonl and metadata.csv files in image folders are used for, and what in them is not used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions import folder_metadata
from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.reading import CaptionSource
from dreambooth.errors import UserError
from dreambooth.text import count

if TYPE_CHECKING:
    from dreambooth.dataset.sources import Checks
    from dreambooth.settings import Concept


def report_folder_metadata(concept: Concept, images: Sequence[Path], checks: Checks) -> None:
    """Report the metadata files among a concept's images: images and captions that the other side lacks."""
    source = CaptionSource.from_concept(concept)
    if concept.metadata_file.strip() or source.verbatim or not source.extensions:
        return
    for path in folder_metadata.files_near(images):
        try:
            metadata = folder_metadata.read(path)
        except (UserError, OSError) as error:
            problems = error.problems if isinstance(error, UserError) else [f"{path}: {error.strerror or error}."]
            checks.warnings += [f"Not used for captions: {problem}" for problem in problems]
            continue
        below = [image for image in images if image.is_relative_to(path.parent)]
        if any(metadata.lists(image) for image in below):
            _report(metadata, source, below, checks)


def _report(metadata: MetadataFile, source: CaptionSource, images: Sequence[Path], checks: Checks) -> None:
    path = metadata.path
    checks.warnings += metadata.notes
    own, unlisted, n_listed = [], [], 0
    for image in images:
        has_file = source.find(image) is not None
        if not metadata.lists(image):
            unlisted += [] if has_file else [image]
        elif has_file:
            own.append(image)
        else:
            n_listed += 1
    absent = [listed for listed in metadata.not_among(images) if not os.path.isfile(listed)]
    checks.add(absent, "absent", f"is listed in {path} but does not exist.")
    checks.add(unlisted, "unlisted", f"has no caption file and is not listed in {path}.")
    if own:
        checks.warnings.append(
            f"{path}: {count(len(own), 'image')} listed in it also have a caption file, which is used (such as "
            f"{own[0].name}). To use the captions of {path.name} instead, enter it as Metadata file (metadata_file)."
        )
