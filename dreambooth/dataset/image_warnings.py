"""What a person should know of the pictures of a plan, file by file (notes.KINDS)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions.reading import FILE_NAME, FILEWORDS, holds
from dreambooth.dataset.plan import Example
from dreambooth.dataset.sources import Read
from dreambooth.images.issues import FileIssue
from dreambooth.images.near_duplicates import find_near_duplicates
from dreambooth.text import escape_unprintable

if TYPE_CHECKING:
    from dreambooth.settings import Concept

# From here on an enlarged picture teaches the model blur.
_ENLARGED_TOO_MUCH = 2.0
_KEPT_TOO_LITTLE = 0.75  # of a picture's area


def remarks(read: Sequence[Read], examples: Sequence[Example], concepts: Sequence[Concept]) -> list[FileIssue]:
    """All notes of the pictures that are trained; ``examples`` are those of ``read``, in the same order."""
    found: list[FileIssue] = []
    for one, example in zip(read, examples, strict=True):
        found += [FileIssue(example.path, kind, text) for kind, text in one.picture.findings]
        found += _of_crop(example)
        found += _of_words(one, example, concepts[example.concept])
    found += [*_shared_captions(read), *_the_same(read), *_alike(read)]
    return [*found, *_of_tokens(concepts)]


def _of_crop(example: Example) -> Iterator[FileIssue]:
    width, height = example.original_size
    if example.enlarged > _ENLARGED_TOO_MUCH:
        text = f"is small ({width}x{height}): it would be enlarged {example.enlarged:.1f} times, which teaches blur."
        yield FileIssue(example.path, "enlarged", text)
    if example.crop.kept_fraction < _KEPT_TOO_LITTLE:
        text = (
            f"{1 - example.crop.kept_fraction:.0%} of it is cut off to fit {example.bucket[0]}x{example.bucket[1]} (it is "
            f"{width}x{height}): crop it to what should be learned."
        )
        yield FileIssue(example.path, "cropped", text)


def _of_words(read: Read, example: Example, concept: Concept) -> Iterator[FileIssue]:
    caption, path = read.caption, example.path
    template = (concept.class_prompt if read.source.is_class_image else concept.instance_prompt).strip() or FILEWORDS
    if FILEWORDS in template.lower():
        if caption.source == FILE_NAME:
            yield FileIssue(path, "no-caption", f'has no caption file: its name gives "{escape_unprintable(caption.text)}".')
        elif not caption.text:
            empty = f"its caption file {escape_unprintable(caption.source)} is empty."
            yield FileIssue(
                path, "empty-caption", empty if caption.note else f"{escape_unprintable(caption.source)} gives it no words."
            )
        elif caption.note:
            yield FileIssue(
                path, "caption-encoding", f"its caption {escape_unprintable(caption.source)} is not UTF-8, read as Windows-1252."
            )
    if example.is_class:
        return
    prompt = re.sub(re.escape(FILEWORDS), lambda _: caption.text, template, flags=re.IGNORECASE)
    if not example.caption:
        yield FileIssue(path, "no-words", "has neither caption nor token: it is trained with an empty prompt.")
    elif concept.instance_token.strip() and not holds(prompt, concept.instance_token):
        text = f'"{concept.instance_token}" is not in its caption, so it is put in: "{escape_unprintable(example.caption)}".'
        yield FileIssue(path, "token-missing", text)


def _of_tokens(concepts: Sequence[Concept]) -> Iterator[FileIssue]:
    for concept in concepts:
        token, word = concept.instance_token.strip(), concept.class_token.strip()
        if token and word and holds(token, word):
            text = f'the instance token "{token}" holds the class token "{word}": a rare word alone is learned better.'
            yield FileIssue(Path(concept.instance_data_dir), "class-in-token", text)


def _shared_captions(read: Sequence[Read]) -> Iterator[FileIssue]:
    """Pictures that differ in their suffix alone."""
    paths = [(os.path.split(one.source.path), one) for one in read]
    having = [
        (_side(one, folder, one.caption.source), one)
        for (folder, name), one in paths
        if os.path.splitext(one.caption.source)[0] == os.path.splitext(name)[0]
    ]
    for first, *others in _groups(having):
        for other in others:
            text = f"shares the caption {escape_unprintable(other.caption.source)} with {escape_unprintable(first.source.path.name)}."
            yield FileIssue(other.source.path, "caption-shared", text)


def _the_same(read: Sequence[Read]) -> Iterator[FileIssue]:
    for first, *others in _groups((_side(one, one.picture.content), one) for one in read):
        for other in others:
            yield FileIssue(other.source.path, "duplicate", f"is the same file as {escape_unprintable(first.source.path)}.")


def _alike(read: Sequence[Read]) -> Iterator[FileIssue]:
    """Each later picture beside the first that it looks like; the same files are told of elsewhere."""
    for own in _groups((_side(one), one) for one in read):
        seen = list({one.picture.content: one for one in reversed(own) if one.picture.fingerprint}.values())[::-1]
        for place, first, distance in find_near_duplicates([one.picture.fingerprint for one in seen if one.picture.fingerprint]):
            text = f"looks like {escape_unprintable(seen[first].source.path)} (fingerprints differ in {distance} of 64 bits)."
            yield FileIssue(seen[place].source.path, "near-duplicate", text)


def _side(one: Read, *more: Hashable) -> tuple[Hashable, ...]:
    return (one.source.concept, one.source.is_class, *more)


def _groups(keyed: Iterable[tuple[Hashable, Read]]) -> list[list[Read]]:
    groups: dict[Hashable, list[Read]] = defaultdict(list)
    for key, one in keyed:
        groups[key].append(one)
    return list(groups.values())
