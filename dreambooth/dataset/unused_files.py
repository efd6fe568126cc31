"""Issues of the files in an image folder that are not trained: other formats, hidden files, files of programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions.folder_metadata import is_metadata_name
from dreambooth.captions.reading import CaptionSource
from dreambooth.images.file_kinds import advice
from dreambooth.images.issues import FileIssue
from dreambooth.images.listing import Listing
from dreambooth.paths import clean_path
from dreambooth.text import count

if TYPE_CHECKING:
    from dreambooth.settings import Concept


def unused_file_issues(listing: Listing, concept: Concept) -> Iterator[FileIssue]:
    """An issue for each file that is not used, or for all of one kind."""
    for kind, paths in (("other-format", listing.unsupported), ("not-image", listing.not_images)):
        yield from (FileIssue(path, kind, advice(path.name), left_out=True) for path in paths)
    yield from _side_files(listing.side_files, concept)
    for path in listing.hidden:
        yield FileIssue(path, "hidden", "is a hidden or system file, or a thumbnail.", left_out=True)
    for path in listing.orphans:
        yield FileIssue(path, "orphan", "is a caption without an image: check the file name.")
    for error in listing.unreadable_folders:
        yield FileIssue(error.path, error.kind, error.cause, left_out=True)


def _side_files(paths: Iterable[Path], concept: Concept) -> Iterator[FileIssue]:
    """One issue per file extension, as there may be as many of these files as images."""
    captions = tuple(extension.lower() for extension in CaptionSource.from_concept(concept).extensions)
    metadata_file = clean_path(concept.metadata_file)
    by_extension: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if not (path.name.lower().endswith(captions) or is_metadata_name(path.name) or path == metadata_file):
            by_extension[path.suffix.lower()].append(path)
    for extension, (first, *others) in by_extension.items():
        same = f"other {extension} file" if extension else "other file without an extension"
        plural = f"other {extension} files" if extension else "other files without an extension"
        more = f", as {'is' if len(others) == 1 else 'are'} {count(len(others), same, plural)}" if others else ""
        yield FileIssue(first, "side-file", f"is not an image and is ignored{more}.")
