"""Metadata files of concepts and in image folders: which images they select, and what of them is not used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions import folder_metadata
from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.reading import CaptionSource
from dreambooth.errors import UserError
from dreambooth.images.listing import Listing, masks_of
from dreambooth.paths import clean_path
from dreambooth.text import count

if TYPE_CHECKING:
    from dreambooth.dataset.sources import Checks
    from dreambooth.settings import Concept


def select_listed(concept: Concept, folder: Path, listing: Listing, checks: Checks) -> Listing:
    """The images that a concept's metadata file lists, in the folder or elsewhere. UserError if there are none."""
    metadata = MetadataFile.from_concept(concept)
    others = metadata.not_among([*listing.images, *listing.unsupported])
    elsewhere, absent = [], []
    for path in others:
        (elsewhere if os.path.isfile(path) else absent).append(path)
    checks.add(absent, "absent", f"is listed in {concept.metadata_file.strip()} but does not exist.")
    checks.warnings += metadata.notes
    listed = metadata.listed(listing.images)
    masks = set(masks_of(listing.images).values())
    unlisted = set(listing.images) - set(listed) - masks
    if not listed and not elsewhere and listing.images:
        raise UserError(
            f"{metadata.path} lists none of the {count(len(listing.images), 'image')} in {folder}, but for example "
            f"{metadata.paths[0]}. Correct the file names in it, or choose their folder."
        )
    checks.add(sorted(unlisted), "unlisted", f"is not listed in {metadata.path}, so it is not used.", left_out=True)
    return Listing([*listed, *elsewhere], unreadable_folders=listing.unreadable_folders)


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
        elif path.is_relative_to(clean_path(concept.instance_data_dir)):
            checks.warnings.append(
                f"{path} is not used, as it lists none of the images (but {metadata.paths[0].name}, for example)."
            )


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
