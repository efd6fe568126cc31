"""The files that concepts name, and each picture of them read once with its caption; what can't be used is left out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dreambooth.captions.kohya_rules import is_picture
from dreambooth.captions.metadata_file import MetadataFile, caption_of
from dreambooth.captions.reading import Caption
from dreambooth.errors import UserError
from dreambooth.images.file_reader import Reader, read_all
from dreambooth.images.issues import FileIssue, UnusableFile, summarize
from dreambooth.images.listing import Listing, list_files, masks_of
from dreambooth.images.metadata_cache import ImageMetadataCache
from dreambooth.images.probe import ProbedImage, probe
from dreambooth.text import escape_unprintable
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept

T = TypeVar("T")

_SAME_SHAPE = 0.02  # by which shares of a mask's sides may differ from its picture's, as scaling leaves them
_NO_PICTURE = "holds no picture (png, jpg, webp, bmp, avif, gif, tiff)"


@dataclass(frozen=True, slots=True)
class Source:
    """A picture file of a concept."""

    path: Path
    concept: int  # from 0
    is_class_image: bool  # from class_data_dir
    is_regular: bool = False  # of a concept of regularization pictures
    mask: Path | None = None

    @property
    def is_class(self) -> bool:
        return self.is_class_image or self.is_regular

    @property
    def key(self) -> str:
        """The field of the concept that names its folder."""
        return "class_data_dir" if self.is_class_image else "instance_data_dir"


@dataclass(frozen=True, slots=True)
class Read:
    """A picture that can be used, as it was read."""

    source: Source
    picture: ProbedImage
    caption: Caption


@dataclass
class Checks:
    """Problems, warnings and notes as they are found."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[FileIssue] = field(default_factory=list)

    def collect(self, action: Callable[..., T], *args: object) -> T | None:
        """The action's result, or None and its complaints among the problems."""
        try:
            return action(*args)
        except UserError as error:
            self.problems += error.problems
            return None

    def note(self, paths: Iterable[Path], kind: str, text: str, left_out: bool = False) -> None:
        self.notes += [FileIssue(path, kind, text, left_out) for path in paths]

    def leave_out(self, error: UnusableFile) -> None:
        self.notes.append(FileIssue(error.path, error.kind, error.cause, left_out=True))

    def raise_problems(self) -> None:
        if self.problems:
            raise UserError.from_problems(self.problems)


def find_sources(concepts: Sequence[Concept], checks: Checks) -> list[Source]:
    """The pictures of all concepts, a concept's instances before its class pictures."""
    if not concepts:
        checks.problems.append("There is no concept: add one, with a folder of pictures (instance_data_dir).")
    elif all(concept.regularization for concept in concepts):
        checks.problems.append("There are only regularization pictures: add a concept with pictures to learn from.")
    sources: list[Source] = []
    for index, concept in enumerate(concepts):
        regular = concept.regularization
        for key, is_class_image in (("instance_data_dir", False), ("class_data_dir", True)):
            if is_class_image and (regular or not concept.class_data_dir.strip()):
                continue
            paths = checks.collect(_pictures_of, concept, key, f"Concept {index + 1}", checks) or []
            # Kohya's scripts know no masks beside pictures: there NAME_mask.png is learned.
            masks = {} if concept.reading_rule == "kohya" and not is_class_image else masks_of(paths)
            taken = set(masks.values())
            checks.note(masks.values(), "mask", "is the mask of the picture beside it, not trained as a picture.")
            pictures = [path for path in paths if path not in taken]
            sources += [Source(path, index, is_class_image, regular, masks.get(path)) for path in pictures]
    _require_not_both(sources, checks)
    return sources


def _require_not_both(sources: Sequence[Source], checks: Checks) -> None:
    learned = {source.path for source in sources if not source.is_class}
    both = [source.path for source in sources if source.is_regular and source.path in learned]
    if both:
        checks.problems.append(
            f"{len(both)} regularization pictures are learned as the subject too (such as {both[0]}): move their "
            "folder out of the other concept's, or turn off Include subfolders there."
        )


def read_sources(
    sources: Sequence[Source],
    concepts: Sequence[Concept],
    checks: Checks,
    progress: ProgressCallback | None,
    cache: Path | None,
) -> list[Read]:
    """Each picture that can be used; the others are noted as left out.

    ``cache``: a file that keeps what was read, so that what has not changed is not read again.
    """

    def done(number: int) -> None:
        if progress:
            progress(number, len(sources), "checking pictures")

    with ImageMetadataCache(cache) if cache else contextlib.nullcontext() as known:
        results = read_all(
            sources,
            lambda source, reader: _read(source, concepts[source.concept], known, reader),
            done,
            path_of=lambda source: source.path,
        )
    usable = [result for result in results if isinstance(result, Read)]
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, UserError):
            checks.leave_out(_unusable(source, result))
    return usable


def require_some(sources: Sequence[Source], kept: Iterable[Source], checks: Checks) -> None:
    """A problem for each folder that had pictures, of which none can be used: how many, and why."""
    left = {(source.concept, source.key) for source in kept}
    for concept, key in dict.fromkeys((source.concept, source.key) for source in sources):
        if (concept, key) in left:
            continue
        own = {source.path for source in sources if (source.concept, source.key) == (concept, key)}
        notes = [note for note in checks.notes if note.left_out and note.path in own]
        first = f"{escape_unprintable(notes[0].path)}: {notes[0].text}"
        checks.problems.append(
            f"Concept {concept + 1}, {key}: none of its {len(own)} pictures can be used ({summarize(notes)}). "
            f"The first: {first}"
        )


def require_apart(classes: Path, instance_dir: str) -> None:
    """UserError when one folder lies inside the other. A missing one is complained of elsewhere."""
    if not os.path.isdir(instance_dir):
        return
    own, instances = classes.resolve(), Path(instance_dir).resolve()
    if own.is_relative_to(instances):
        raise UserError(
            f"{classes} lies inside instance_data_dir, so its pictures would be learned as the subject. Move it beside."
        )
    if instances.is_relative_to(own):
        raise UserError(
            f"{classes} holds instance_data_dir, so the subject would count among its class. Move that beside."
        )


def _pictures_of(concept: Concept, key: str, name: str, checks: Checks) -> list[Path]:
    text = getattr(concept, key).strip()
    if not text:
        raise UserError(f"{name}: {key} is empty. Give the folder with the pictures to learn from.")
    folder = Path(os.path.expanduser(text))  # unlike Path's, it leaves a user that isn't there
    try:
        listing = list_files(folder)
        if key == "instance_data_dir":
            listing = _own(concept, folder, listing, checks)
        if key == "class_data_dir":
            require_apart(folder, os.path.expanduser(concept.instance_data_dir.strip()))
    except UserError as error:
        raise UserError.from_problems([f"{name}, {key}: {problem}" for problem in error.problems]) from error
    _note_others(listing, checks)
    if not listing.images:
        also = f", only of kinds that can't be used, such as {listing.unsupported[0].name}" if listing.unsupported else ""
        raise UserError(f"{name}, {key}: {folder} {_NO_PICTURE}{also}.")
    return listing.images


def _own(concept: Concept, folder: Path, listing: Listing, checks: Checks) -> Listing:
    """What is the concept's own of a folder: all of it, what a metadata file names, or what lies in no folder below."""
    if concept.metadata_file.strip():
        named_there = MetadataFile.of(concept)
        others = named_there.others([*listing.images, *listing.unsupported])
        elsewhere = [path for path in others if path.is_file()]
        absent = [path for path in others if path not in elsewhere]
        checks.note(absent, "absent", f"is named by {concept.metadata_file.strip()}, and is not there.")
        return Listing([*named_there.among(listing.images), *elsewhere], unreadable_folders=listing.unreadable_folders)
    if concept.reading_rule == "kohya":
        unread = [path for path in listing.images if not is_picture(path)]
        text = (
            "is of a kind that kohya's scripts don't read: convert it to PNG or JPEG, or choose the reading rule own."
        )
        checks.note(unread, "other-format", text, left_out=True)
        listing.images = [path for path in listing.images if is_picture(path)]
    if concept.subfolders:
        return listing
    below = [path for path in listing.images if path.parent != folder]
    checks.note(below, "elsewhere", "lies in a folder below the one that is to be taken alone.", left_out=True)

    def here(paths: list[Path]) -> list[Path]:
        return [path for path in paths if path.parent == folder]

    return Listing(here(listing.images), here(listing.unsupported), here(listing.hidden), here(listing.orphans))


def _note_others(listing: Listing, checks: Checks) -> None:
    cause = "is of a kind that can't be used here: convert it to PNG or JPEG."
    checks.note(listing.unsupported, "other-format", cause, left_out=True)
    checks.note(listing.hidden, "hidden", "is hidden, or a thumbnail, or made by a system.", left_out=True)
    checks.note(listing.orphans, "orphan", "is a caption whose picture is not there: is it called otherwise?")
    for error in listing.unreadable_folders:
        checks.leave_out(error)


def _read(source: Source, concept: Concept, known: ImageMetadataCache | None, reader: Reader) -> Read:
    picture = probe(source.path, known, reader)
    if source.mask:
        reader.heartbeat()
        picture = _masked(source, source.mask, picture, known, reader)
    reader.heartbeat()
    return Read(source, picture, caption_of(source.path, concept, source.is_class_image))


def _masked(
    source: Source, path: Path, picture: ProbedImage, known: ImageMetadataCache | None, reader: Reader
) -> ProbedImage:
    """The picture, with a word of its mask where that is of another shape. Unusable where it can't be read."""
    try:
        mask = probe(path, known, reader)
    except UnusableFile as error:
        raise UnusableFile(source.path, error.kind, f"its mask {escape_unprintable(path.name)} {error.cause}") from error
    (width, height), (own_width, own_height) = picture.size, mask.size
    if abs(width * own_height / (height * own_width) - 1) <= _SAME_SHAPE:
        return picture
    text = f"has a mask of another shape ({own_width}x{own_height} for {width}x{height}), which is stretched over it."
    return replace(picture, findings=(*picture.findings, ("mask-shape", text)))


def _unusable(source: Source, error: UserError) -> UnusableFile:
    """Why a picture is left out: itself, or what is beside it."""
    if isinstance(error, UnusableFile):
        return UnusableFile(source.path, error.kind, error.cause)
    return UnusableFile(source.path, "caption-unreadable", "; ".join(error.problems))
