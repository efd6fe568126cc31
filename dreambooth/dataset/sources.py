"""The image files of concepts, each read once with its caption. Unusable ones are left out and reported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dreambooth.captions.kohya_rules import is_image
from dreambooth.captions.metadata_file import caption_of
from dreambooth.captions.reading import Caption
from dreambooth.dataset.folder_captions import report_folder_metadata, select_listed
from dreambooth.dataset.mask_folder import find_masks
from dreambooth.dataset.unused_files import unused_file_issues
from dreambooth.errors import UserError
from dreambooth.images.file_kinds import advice
from dreambooth.images.file_reader import Reader, read_all
from dreambooth.images.issues import FileIssue, UnusableFile, summarize
from dreambooth.images.listing import Listing, list_files, masks_of
from dreambooth.images.metadata_cache import ImageMetadataCache
from dreambooth.images.probe import ProbedImage, probe
from dreambooth.paths import clean_path
from dreambooth.text import count, escape_unprintable
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept

T = TypeVar("T")

_SAME_SHAPE = 0.02  # tolerated relative difference between the aspect ratios of a mask and its image
_NO_IMAGES = "contains no images (png, jpg, webp, bmp, avif, gif, tiff)"


@dataclass(frozen=True, slots=True)
class Source:
    """An image file of a concept."""

    path: Path
    concept: int  # from 0
    is_class_image: bool  # from class_data_dir
    is_regular: bool = False  # of a concept of regularization images
    mask: Path | None = None
    has_soft_mask: bool = False  # from mask_data_dir: its gray is a weight

    @property
    def is_class(self) -> bool:
        return self.is_class_image or self.is_regular

    @property
    def key(self) -> str:
        """The field of the concept that names its folder."""
        return "class_data_dir" if self.is_class_image else "instance_data_dir"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A usable image with its caption."""

    source: Source
    image: ProbedImage
    caption: Caption


@dataclass
class Checks:
    """Collects problems, warnings and issues of files."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    issues: list[FileIssue] = field(default_factory=list)

    def collect(self, action: Callable[..., T], *args: object) -> T | None:
        """The action's result, or None after adding its problems."""
        try:
            return action(*args)
        except UserError as error:
            self.problems += error.problems
            return None

    def add(self, paths: Iterable[Path], kind: str, text: str, left_out: bool = False) -> None:
        self.issues += [FileIssue(path, kind, text, left_out) for path in paths]

    def leave_out(self, error: UnusableFile) -> None:
        self.issues.append(FileIssue(error.path, error.kind, error.cause, left_out=True))

    def raise_problems(self) -> None:
        if self.problems:
            raise UserError.from_problems(self.problems)


def find_sources(concepts: Sequence[Concept], checks: Checks) -> list[Source]:
    """The images of all concepts, a concept's instance images before its class images."""
    if not concepts:
        checks.problems.append("There is no concept: add one with an image folder (instance_data_dir).")
    elif all(concept.regularization for concept in concepts):
        checks.problems.append("There are only regularization images: add a concept with images to train on.")
    sources: list[Source] = []
    for index, concept in enumerate(concepts):
        regular = concept.regularization
        for key, is_class_image in (("instance_data_dir", False), ("class_data_dir", True)):
            if is_class_image and (regular or not concept.class_data_dir.strip()):
                continue
            paths = checks.collect(_image_files, concept, key, f"Concept {index + 1}", checks) or []
            masks, taken = _masks(concept, index, paths, is_class_image, checks)
            checks.add([path for path in paths if path in taken], "mask", "is used as a mask and not trained.")
            images = [path for path in paths if path not in taken]
            if not is_class_image:
                report_folder_metadata(concept, images, checks)
            own_masks = bool(concept.mask_data_dir.strip()) and not is_class_image
            sources += [Source(path, index, is_class_image, regular, masks.get(path), own_masks) for path in images]
    _require_no_overlap(sources, checks)
    return sources


def _masks(
    concept: Concept, index: int, images: Sequence[Path], is_class_image: bool, checks: Checks
) -> tuple[dict[Path, Path], set[Path]]:
    """The masks of images (of the concept's mask folder, or next to them), and all paths that are masks."""
    if not concept.mask_data_dir.strip() or is_class_image:
        # sd-scripts have no masks next to images: they train NAME_mask.png as an image.
        masks = {} if concept.reading_rule == "kohya" and not is_class_image else masks_of(images)
        return masks, set(masks.values())
    try:
        masks, unused = find_masks(concept.mask_data_dir, clean_path(concept.instance_data_dir), images)
    except UserError as error:
        checks.problems += [f"Concept {index + 1}, mask_data_dir: {problem}" for problem in error.problems]
        return {}, set()
    without = [path for path in images if path not in masks and path not in unused]
    checks.add(without, "mask-missing", f"has no mask in {concept.mask_data_dir}, so all of it is trained.")
    checks.add(unused, "mask-unused", "is a mask without an image.")
    return masks, {*masks.values(), *unused}


def _require_no_overlap(sources: Sequence[Source], checks: Checks) -> None:
    trained = {source.path for source in sources if not source.is_class}
    both = [source.path for source in sources if source.is_regular and source.path in trained]
    if both:
        checks.problems.append(
            f"{count(len(both), 'regularization image')} would also be trained as the subject (such as {both[0]}): "
            "move "
            "the folder out of the other concept's folder, or turn off Include subfolders there."
        )


def read_sources(
    sources: Sequence[Source],
    concepts: Sequence[Concept],
    checks: Checks,
    progress: ProgressCallback | None,
    cache: Path | None,
) -> list[SourceImage]:
    """All usable images; the others are reported as left out.

    ``cache``: the file of the image metadata cache; unchanged files are not read again.
    """

    def done(number: int) -> None:
        if progress:
            progress(number, len(sources), "checking images")

    with ImageMetadataCache(cache) if cache else contextlib.nullcontext() as metadata_cache:
        results = read_all(
            sources,
            lambda source, reader: _read(source, concepts[source.concept], metadata_cache, reader),
            done,
            path_of=lambda source: source.path,
        )
    usable = [result for result in results if isinstance(result, SourceImage)]
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, UserError):
            checks.leave_out(_unusable(source, result))
    return usable


def require_some(sources: Sequence[Source], usable: Iterable[Source], checks: Checks) -> None:
    """A problem for each folder none of whose images can be used, with the causes."""
    left = {(source.concept, source.key) for source in usable}
    for concept, key in dict.fromkeys((source.concept, source.key) for source in sources):
        if (concept, key) in left:
            continue
        own = {source.path for source in sources if (source.concept, source.key) == (concept, key)}
        issues = [issue for issue in checks.issues if issue.left_out and issue.path in own]
        first = f"{escape_unprintable(issues[0].path)}: {issues[0].text}"
        checks.problems.append(
            f"Concept {concept + 1}, {key}: no usable image among {len(own)} ({summarize(issues)}). First file: {first}"
        )


def require_apart(classes: Path, instance_dir: str) -> None:
    """UserError if one folder is inside the other. Missing folders are reported elsewhere."""
    instances = clean_path(instance_dir)
    if not instance_dir.strip() or not os.path.isdir(instances):
        return
    own, instances = classes.resolve(), instances.resolve()
    if own.is_relative_to(instances):
        raise UserError(
            f"{classes} is inside instance_data_dir, so its images would be trained as the subject. Move it elsewhere."
        )
    if instances.is_relative_to(own):
        raise UserError(
            f"{classes} contains instance_data_dir, so the subject would be used as class images. Move that elsewhere."
        )


def _image_files(concept: Concept, key: str, name: str, checks: Checks) -> list[Path]:
    text = getattr(concept, key)
    if not text.strip():
        raise UserError(f"{name}: {key} is empty. Enter the folder with the images to train on.")
    try:
        folder = clean_path(text)
        listing = list_files(folder)
        if key == "instance_data_dir":
            listing = _own(concept, folder, listing, checks)
        if key == "class_data_dir":
            require_apart(folder, concept.instance_data_dir)
    except UserError as error:
        raise UserError.from_problems([f"{name}, {key}: {problem}" for problem in error.problems]) from error
    checks.issues += unused_file_issues(listing, concept)
    if not listing.images:
        only = [f", only unsupported formats such as {path.name}" for path in listing.unsupported]
        only += [f", but {path.name}, which {advice(path.name).rstrip('.')}" for path in listing.not_images]
        raise UserError(f"{name}, {key}: {folder} {_NO_IMAGES}{''.join(only[:1])}.")
    return listing.images


def _own(concept: Concept, folder: Path, listing: Listing, checks: Checks) -> Listing:
    """The files of a folder that belong to the concept: all, those of its metadata file, or none of its subfolders."""
    if concept.metadata_file.strip():
        return select_listed(concept, folder, listing, checks)
    if concept.reading_rule == "kohya":
        unread = [path for path in listing.images if not is_image(path)]
        text = "is in a format that sd-scripts do not read: convert it to PNG or JPEG, or set Caption parsing to own."
        checks.add(unread, "other-format", text, left_out=True)
        listing.images = [path for path in listing.images if is_image(path)]
    if concept.subfolders:
        return listing
    below = [path for path in listing.images if path.parent != folder]
    checks.add(below, "elsewhere", "is in a subfolder, and Include subfolders is off.", left_out=True)

    def here(paths: list[Path]) -> list[Path]:
        return [path for path in paths if path.parent == folder]

    return Listing(
        images=here(listing.images),
        unsupported=here(listing.unsupported),
        not_images=here(listing.not_images),
        side_files=here(listing.side_files),
        hidden=here(listing.hidden),
        orphans=here(listing.orphans),
    )


def _read(source: Source, concept: Concept, metadata_cache: ImageMetadataCache | None, reader: Reader) -> SourceImage:
    image = probe(source.path, metadata_cache, reader)
    if source.mask:
        reader.heartbeat()
        image = _masked(source, source.mask, image, metadata_cache, reader)
    reader.heartbeat()
    return SourceImage(source, image, caption_of(source.path, concept, source.is_class_image))


def _masked(
    source: Source, path: Path, image: ProbedImage, metadata_cache: ImageMetadataCache | None, reader: Reader
) -> ProbedImage:
    """The image, with an issue if its mask has another aspect ratio. UnusableFile if the mask cannot be read."""
    try:
        mask = probe(path, metadata_cache, reader)
    except UnusableFile as error:
        raise UnusableFile(
            source.path, error.kind, f"its mask {escape_unprintable(path.name)} {error.cause}"
        ) from error
    (width, height), (own_width, own_height) = image.size, mask.size
    if abs(width * own_height / (height * own_width) - 1) <= _SAME_SHAPE:
        if not source.has_soft_mask or mask.size == image.size:
            return image
        text = f"has a mask of another size ({own_width}x{own_height} for {width}x{height}), which is resized."
        return replace(image, findings=(*image.findings, ("mask-size", text)))
    text = f"has a mask with another aspect ratio ({own_width}x{own_height} for {width}x{height}), which is stretched."
    return replace(image, findings=(*image.findings, ("mask-shape", text)))


def _unusable(source: Source, error: UserError) -> UnusableFile:
    """Why an image is left out: the image itself, its mask or its caption."""
    if isinstance(error, UnusableFile):
        return UnusableFile(source.path, error.kind, error.cause)
    return UnusableFile(source.path, "caption-unreadable", "; ".join(error.problems))
