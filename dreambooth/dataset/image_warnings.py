"""Issues of the images of a plan, file by file (images.issues)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions.literal_syntax import damaged_text, webui_syntax
from dreambooth.captions.prompts import FILEWORDS, contains_token, fill_filewords, has_filewords
from dreambooth.captions.reading import FROM_DEFAULT, FROM_FILE_NAME, CaptionSource
from dreambooth.dataset.folder_names import repeats_hint
from dreambooth.dataset.plan import Example
from dreambooth.dataset.sources import SourceImage
from dreambooth.images.issues import FileIssue
from dreambooth.images.near_duplicates import find_near_duplicates
from dreambooth.text import escape_unprintable

if TYPE_CHECKING:
    from dreambooth.settings import Concept

# Above this scale factor the model learns blur.
_ENLARGED_TOO_MUCH = 2.0
_KEPT_TOO_LITTLE = 0.75  # fraction of an image's area


def image_issues(
    read: Sequence[SourceImage], examples: Sequence[Example], concepts: Sequence[Concept], weighted: bool = False
) -> list[FileIssue]:
    """All issues of the images; ``examples`` are those of ``read``, in the same order.

    ``weighted``: whether weights in captions, as in (word:1.2), have an effect.
    """
    found: list[FileIssue] = []
    for image, example in zip(read, examples, strict=True):
        found += [FileIssue(example.path, kind, text) for kind, text in image.image.findings]
        found += _crop_issues(example)
        found += _caption_issues(image, example, concepts[example.concept])
        found += _text_issues(image, concepts[example.concept], weighted)
    found += [*_unread_captions(read, concepts), *_shared_captions(read), *_duplicates(read), *_near_duplicates(read)]
    return [*found, *_token_issues(concepts), *_folder_issues(read, concepts)]


def _crop_issues(example: Example) -> Iterator[FileIssue]:
    width, height = example.original_size
    if example.enlarged > _ENLARGED_TOO_MUCH:
        text = (
            f"is small ({width}x{height}) and upscaled {example.enlarged:.1f} times, so the model learns blur: "
            "replace it, or lower the resolution."
        )
        yield FileIssue(example.path, "enlarged", text)
    if example.crop.kept_fraction < _KEPT_TOO_LITTLE:
        text = (
            f"{1 - example.crop.kept_fraction:.0%} of it is cut off to fit {example.bucket[0]}x{example.bucket[1]} "
            f"(it is {width}x{height}): crop it to the subject."
        )
        yield FileIssue(example.path, "cropped", text)


def _caption_issues(read: SourceImage, example: Example, concept: Concept) -> Iterator[FileIssue]:
    caption, path = read.caption, example.path
    template = (concept.class_prompt if read.source.is_class_image else concept.instance_prompt).strip() or FILEWORDS
    if has_filewords(template):
        if caption.source == FROM_FILE_NAME:
            yield FileIssue(
                path,
                "no-caption",
                f'has no caption file; its file name is the caption: "{escape_unprintable(caption.text)}".',
            )
        elif not caption.text:
            empty = f"its caption file {escape_unprintable(caption.source)} is empty."
            yield FileIssue(
                path,
                "empty-caption",
                empty if caption.is_file_empty else f"{escape_unprintable(caption.source)} has no caption for it.",
            )
        elif caption.encoding:
            name = escape_unprintable(caption.source)
            text = f"its caption {name} is not UTF-8, read as {caption.encoding}. If it looks wrong, save it as UTF-8."
            yield FileIssue(path, "caption-encoding", text, detail=caption.encoding)
    if example.is_class:
        return
    prompt = fill_filewords(template, caption.text)
    if not example.caption:
        yield FileIssue(path, "no-words", "has neither a caption nor a token, and is trained with an empty prompt.")
    elif concept.instance_token.strip() and not contains_token(prompt, concept.instance_token):
        inserted = escape_unprintable(example.caption)
        text = f'"{concept.instance_token}" is missing from its caption and is inserted: "{inserted}".'
        yield FileIssue(path, "token-missing", text)


def _unread_captions(read: Sequence[SourceImage], concepts: Sequence[Concept]) -> Iterator[FileIssue]:
    uncaptioned: dict[CaptionSource, list[Path]] = defaultdict(list)
    for image in read:
        concept, is_class_image = concepts[image.source.concept], image.source.is_class_image
        has_metadata = bool(concept.metadata_file.strip()) and not is_class_image
        if image.caption.source in (FROM_FILE_NAME, FROM_DEFAULT) and not has_metadata:
            uncaptioned[CaptionSource.from_concept(concept, is_class_image)].append(image.source.path)
    for source, paths in uncaptioned.items():
        for path, unread in source.find_unread(paths).items():
            text = (
                f"its caption {escape_unprintable(unread.name)} is not read: set Caption file extension "
                f"(caption_extension) to {unread.suffix}."
            )
            yield FileIssue(path, "other-caption", text)


def _text_issues(read: SourceImage, concept: Concept, weighted: bool) -> Iterator[FileIssue]:
    """Captions with parts that have no effect, or that no one wrote."""
    caption, path = read.caption, read.source.path
    text = " ".join((caption.text, *caption.alternatives))
    names = {FROM_FILE_NAME: "file name", FROM_DEFAULT: "default caption"}
    name = names.get(caption.source) or f"caption {escape_unprintable(caption.source)}"
    if caption.source not in names and (parts := list(dict.fromkeys(damaged_text(text)))):
        listed = ", ".join(parts)
        cause = f"its {name} contains {listed}, from a wrong conversion of the text. Correct it."
        yield FileIssue(path, "caption-damaged", cause, detail=parts[0])
    if parts := list(dict.fromkeys(webui_syntax(text, weighted, concept.wildcards))):
        listed = escape_unprintable(", ".join(parts))
        cause = (
            f"its {name} contains {listed}, which is trained as plain words. Remove it{_settings_for(parts, concept)}."
        )
        yield FileIssue(path, "caption-syntax", cause, detail=escape_unprintable(parts[0]))


def _settings_for(parts: Iterable[str], concept: Concept) -> str:
    """The settings with which a part would have an effect."""
    names = {"(": "Weighted captions"} if concept.wildcards else {"{": "Wildcards", "(": "Weighted captions"}
    off = [name for start, name in names.items() if any(part.startswith(start) for part in parts)]
    return f", or turn on {' and '.join(off)}" if off else ""


def _token_issues(concepts: Sequence[Concept]) -> Iterator[FileIssue]:
    for concept in concepts:
        token, word = concept.instance_token.strip(), concept.class_token.strip()
        if token and word and contains_token(token, word):
            text = f'the instance token "{token}" contains the class token "{word}". Use a rare word alone.'
            yield FileIssue(Path(concept.instance_data_dir), "class-in-token", text)


def _folder_issues(read: Sequence[SourceImage], concepts: Sequence[Concept]) -> Iterator[FileIssue]:
    """Folders whose names look like repeats, of concepts without any."""
    sources = [image.source for image in read if not image.source.is_class_image]
    folders = (source.path.parent for source in sources if concepts[source.concept].num_repeats == 1)
    for folder in dict.fromkeys(folders):
        if hint := repeats_hint(folder.name):
            yield FileIssue(folder, "folder-name", hint.text, detail=hint.short)


def _shared_captions(read: Sequence[SourceImage]) -> Iterator[FileIssue]:
    """Images whose names differ only in their extension."""
    sharing = []
    for image in read:
        folder, name = os.path.split(image.source.path)
        if os.path.splitext(image.caption.source)[0] == os.path.splitext(name)[0]:
            sharing.append((_group_key(image, folder, image.caption.source), image))
    for first, *others in _groups(sharing):
        for other in others:
            caption, name = escape_unprintable(other.caption.source), escape_unprintable(first.source.path.name)
            yield FileIssue(other.source.path, "caption-shared", f"shares the caption {caption} with {name}.")


def _duplicates(read: Sequence[SourceImage]) -> Iterator[FileIssue]:
    for first, *others in _groups((_group_key(image, image.image.content), image) for image in read):
        text = f"is a duplicate of {escape_unprintable(first.source.path)}."
        yield from (FileIssue(other.source.path, "duplicate", text) for other in others)


def _near_duplicates(read: Sequence[SourceImage]) -> Iterator[FileIssue]:
    """Each near duplicate with the first image that it resembles; identical files are reported elsewhere."""
    for group in _groups((_group_key(image), image) for image in read):
        by_content = {image.image.content: image for image in reversed(group) if image.image.fingerprint}
        distinct = list(by_content.values())[::-1]
        fingerprints = [image.image.fingerprint for image in distinct if image.image.fingerprint]
        for place, first, distance in find_near_duplicates(fingerprints):
            text = (
                f"looks like {escape_unprintable(distinct[first].source.path)} "
                f"(perceptual hashes differ in {distance} of 64 bits)."
            )
            yield FileIssue(distinct[place].source.path, "near-duplicate", text)


def _group_key(image: SourceImage, *more: Hashable) -> tuple[Hashable, ...]:
    return (image.source.concept, image.source.is_class, *more)


def _groups(keyed: Iterable[tuple[Hashable, SourceImage]]) -> list[list[SourceImage]]:
    groups: dict[Hashable, list[SourceImage]] = defaultdict(list)
    for key, image in keyed:
        groups[key].append(image)
    return list(groups.values())
