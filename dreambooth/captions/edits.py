"""Edits of captions, as values: first a list of what would change, which the write then follows exactly.

An edit is a function from one line of a caption to that line as it is to be. Lines that it doesn't change keep every
blank; in those that it changes, tags are parted by a comma and a space.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.captions.folder import CaptionFile, Captions, by_line, having, lines_of, parts_of
from dreambooth.captions.history import Change
from dreambooth.captions.writing import encoded
from dreambooth.errors import UserError
from dreambooth.settings import nearest
from dreambooth.settings.caption_edits import (
    ANY,
    BY_COUNT,
    FRONT,
    REGEX,
    SPACES,
    TAG,
    UNDERSCORES,
    AddTags,
    MergeTags,
    RemoveTags,
    ReplaceText,
    EditScope,
    SortTags,
    TidyTags,
)

Edit = Callable[[str], str]
SECONDS = 20.0  # that a regular expression may take for all captions; some take for ever
_WORD = re.compile(r"[^\W_]{2}")


@dataclass(frozen=True)
class PlannedEdit:
    """What one caption is, and what it becomes."""

    file: CaptionFile
    text: str

    @property
    def change(self) -> Change:
        return Change(self.file.path, self.file.data, encoded(self.file.path, self.text))

    @property
    def notes(self) -> tuple[str, ...]:
        """What else changes with it."""
        if self.file.data is None:
            return ("new file",)
        return () if self.file.text.encode("utf-8", "replace") == self.file.data else ("written as UTF-8",)


@dataclass(frozen=True)
class Plan:
    """An edit of a folder: its name, and what it changes."""

    what: str
    changes: tuple[PlannedEdit, ...] = ()
    missing: tuple[str, ...] = ()  # why nothing changes, where that can be told: a line for each tag


def plan(captions: Captions, options: Any, scope: EditScope) -> Plan:
    """What an edit would change, by its options (one of those in settings/caption_edits.py).

    UserError for options that can't be carried out, such as a regular expression that is none.
    """
    what, edit = _edit(options, captions)
    files = having(captions.files, scope.with_tags, scope.without_tags)
    changes = _changed(files, lambda file: _edited(file.text, edit))
    return Plan(what, changes, () if changes else _missing(options, scope, captions))


def plan_text(file: CaptionFile, text: str) -> Plan:
    """One caption as it was written by hand; the file's kind of line ends stays."""
    ends = re.findall(r"\r\n|\r|\n", file.text)
    lines = re.split(r"\r\n|\r|\n", text.rstrip("\r\n"))
    last = file.text[len(file.text.rstrip("\r\n")) :]
    written = (ends[0] if ends else "\n").join(lines) + last
    return Plan(f"edit {file.path.name}", _changed([file], lambda _: written))


def matching(captions: Captions, options: ReplaceText, scope: EditScope) -> list[CaptionFile]:
    """The captions in which something is found."""
    finds = _finder(options)
    files = having(captions.files, scope.with_tags, scope.without_tags)
    return [file for file in files if any(map(finds, lines_of(file.text)))]


def _missing(options: Any, scope: EditScope, captions: Captions) -> tuple[str, ...]:
    """The tags that an edit names and no caption has."""
    named = parts_of(getattr(options, "find", "")) if getattr(options, "how", "") == TAG else []
    if isinstance(options, (MergeTags, RemoveTags)):
        named = parts_of(options.tags)
    counts = captions.counts()
    known = {tag.casefold() for tag in counts}
    unknown = [tag for tag in [*named, *parts_of(scope.with_tags)] if tag.casefold() not in known]
    return tuple(f"{tag}: no caption has this tag{nearest(tag, counts)}." for tag in unknown)


def _edited(text: str, edit: Edit) -> str:
    return by_line(text, edit) if text.strip() else edit("") or text


def _changed(files: Iterable[CaptionFile], edited: Callable[[CaptionFile], str]) -> tuple[PlannedEdit, ...]:
    planned = (PlannedEdit(file, edited(file)) for file in files)
    return tuple(each for each in planned if each.text != each.file.text)


def _edit(options: Any, captions: Captions) -> tuple[str, Edit]:
    """What people call it, and how it changes a line."""
    if isinstance(options, ReplaceText):
        return f"replace {options.find} by {options.by or 'nothing'}", _replacing(options)
    if isinstance(options, MergeTags):
        return f"merge {options.tags} into {options.into}", _merging(options)
    if isinstance(options, AddTags):
        return f"add {options.tags}", _adding(options)
    if isinstance(options, RemoveTags):
        return f"remove {options.tags}", _removing(options)
    if isinstance(options, SortTags):
        return f"sort tags by {options.order}", _sorting(options, captions)
    return "tidy tags", _tidying(options)


def _replacing(options: ReplaceText) -> Edit:
    if options.how == TAG:
        by, same = parts_of(_one_by_one(options.by)), _same(options.match_case)
        wanted = {same(tag) for tag in _tags(options.find, "Give the tag to search for.")}
        return _on_tags(lambda tags: _exchanged(tags, [same(tag) in wanted for tag in tags], by))
    search = _Search(options)

    def replaced(line: str) -> str:
        changed = search.replaced(line)
        gaps = any(not part.strip() for part in changed.split(","))
        return ", ".join(parts_of(changed)) if changed != line and gaps else changed

    return replaced


def _finder(options: ReplaceText) -> Callable[[str], bool]:
    if options.how == TAG:
        same = _same(options.match_case)
        wanted = {same(tag) for tag in _tags(options.find, "Give the tag to search for.")}
        return lambda line: any(same(tag) in wanted for tag in parts_of(line))
    return _Search(options).found


class _Search:
    """A text or a regular expression. UserError for one that is none, or that doesn't come to an end."""

    def __init__(self, options: ReplaceText) -> None:
        import regex  # comes with transformers; unlike Python's own, it can be stopped

        if not options.find:
            raise UserError("Give the text to search for.")
        literal = options.how != REGEX
        self.options, self.errors = options, (regex.error, IndexError)
        self.by = (lambda _: options.by) if literal else options.by
        flags = 0 if options.match_case else regex.IGNORECASE
        try:
            self.pattern = regex.compile(regex.escape(options.find) if literal else options.find, flags)
        except (regex.error, RecursionError) as error:
            raise UserError(f"{options.find!r} is no regular expression: {error}.") from None
        self.until = time.monotonic() + SECONDS
        self.replaced("")

    def found(self, line: str) -> bool:
        return bool(self._in_time(self.pattern.search, line))

    def replaced(self, line: str) -> str:
        return self._in_time(self.pattern.sub, self.by, line)

    def _in_time(self, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args, timeout=max(0.001, self.until - time.monotonic()))
        except TimeoutError:
            raise UserError(f"{self.options.find!r} takes too long to search for. Write it more simply.") from None
        except self.errors as error:
            raise UserError(f"{self.options.by!r} can't be put in its place: {error}.") from None


def _merging(options: MergeTags) -> Edit:
    wanted, into = _tags(options.tags, "Give the tags to merge."), _tags(options.into, "Give the tag that they become.")
    same = _same(options.match_case)
    keys = {same(tag) for tag in wanted}

    def merged(tags: list[str]) -> list[str]:
        found = [same(tag) in keys for tag in tags]
        present = {same(tag) for tag in tags} & keys
        enough = present if options.which == ANY else present == keys
        return _exchanged(tags, found, into) if enough else tags

    return _on_tags(merged)


def _adding(options: AddTags) -> Edit:
    added = _tags(options.tags, "Give the tags to add.")

    def with_them(tags: list[str]) -> list[str]:
        known = {tag.casefold() for tag in tags}
        new = [tag for tag in added if tag.casefold() not in known]
        return [*new, *tags] if options.place == FRONT else [*tags, *new]

    return _on_tags(with_them)


def _removing(options: RemoveTags) -> Edit:
    same = _same(options.match_case)
    unwanted = {same(tag) for tag in _tags(options.tags, "Give the tags to remove.")}
    return _on_tags(lambda tags: [tag for tag in tags if same(tag) not in unwanted])


def _sorting(options: SortTags, captions: Captions) -> Edit:
    counts = captions.counts() if options.order == BY_COUNT else {}

    def place(tag: str) -> Any:
        return -counts.get(tag, 0), tag.casefold(), tag

    kept = options.keep_first
    return _on_tags(lambda tags: [*tags[:kept], *sorted(tags[kept:], key=place)])


def _tidying(options: TidyTags) -> Edit:
    exchanged = {SPACES: _with_spaces, UNDERSCORES: _with_underscores}.get(options.underscores, str)

    def tidied(tags: list[str]) -> list[str]:
        tags = [exchanged(tag) for tag in tags]
        return tags if options.keep_duplicates else _once(tags)

    return _on_tags(tidied)


def _with_spaces(tag: str) -> str:
    """facial_hair -> facial hair; a face (^_^, o_o) stays, and so does the name of a wildcard file (__hats__)."""
    return tag.replace("_", " ").strip() if _WORD.search(tag) and "__" not in tag else tag


def _with_underscores(tag: str) -> str:
    """facial hair -> facial_hair; wildcards and groups of several tags stay."""
    return tag if "," in tag or "|" in tag else "_".join(tag.split())


def _on_tags(edit: Callable[[list[str]], Sequence[str]]) -> Edit:
    def edited(line: str) -> str:
        tags = parts_of(line)
        changed = list(edit(tags))
        return line if changed == tags else ", ".join(changed)

    return edited


def _exchanged(tags: Sequence[str], found: Sequence[bool], by: Sequence[str]) -> list[str]:
    """Those that were found, gone; in the place of the first of them others, each of which then stands only once."""
    if not any(found):
        return list(tags)
    first = found.index(True)
    before = tags[:first]
    after = [tag for tag, hit in zip(tags, found, strict=True) if not hit][first:]
    known, new = ({tag.casefold() for tag in some} for some in (before, by))
    return [
        *before,
        *(tag for tag in by if tag.casefold() not in known),
        *(tag for tag in after if tag.casefold() not in new),
    ]


def _once(tags: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(tag.casefold(), tag)
    return list(first.values())


def _tags(text: str, otherwise: str) -> list[str]:
    tags = parts_of(_one_by_one(text))
    if not tags:
        raise UserError(otherwise)
    return tags


def _one_by_one(text: str) -> str:
    """A list of tags as a person writes it: by commas, or one on each line."""
    return ", ".join(lines_of(text))


def _same(match_case: bool) -> Callable[[str], str]:
    return str if match_case else str.casefold
