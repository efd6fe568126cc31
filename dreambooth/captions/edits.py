"""Edits of captions, planned as values: the list of changes is shown first and then written exactly.

An edit is a function from one line of a caption to the edited line. Lines that it does not change keep their white
space; in changed lines, tags are separated by a comma and a space.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.captions.folder import CaptionFile, Captions, edit_lines, filter_by_tags, split_lines
from dreambooth.captions.history import FileChange
from dreambooth.captions.tags import split_tags_and_wildcards as split_tags
from dreambooth.captions.writing import encode_caption
from dreambooth.errors import UserError
from dreambooth.settings.caption_edits import (
    ANY,
    BY_COUNT,
    FRONT,
    REGEX,
    SPACES,
    TAG,
    UNDERSCORES,
    AddTags,
    EditScope,
    MergeTags,
    RemoveTags,
    ReplaceText,
    SortTags,
    TidyTags,
)
from dreambooth.text import nearest

LineEdit = Callable[[str], str]
REGEX_TIMEOUT = 20.0  # seconds for all captions; some regular expressions never finish
_WORD = re.compile(r"[^\W_]{2}")


@dataclass(frozen=True)
class PlannedChange:
    """A caption and its new text."""

    file: CaptionFile
    text: str

    @property
    def change(self) -> FileChange:
        return FileChange(self.file.path, self.file.data, encode_caption(self.file.path, self.text))

    @property
    def side_effects(self) -> tuple[str, ...]:
        """Changes of the file besides its text."""
        if self.file.data is None:
            return ("new file",)
        is_utf8 = self.file.text.encode("utf-8", "replace") == self.file.data
        return () if is_utf8 else ("written as UTF-8",)


@dataclass(frozen=True)
class EditPlan:
    """An edit of a folder: its description and its changes."""

    description: str
    changes: tuple[PlannedChange, ...] = ()
    missing_tags: tuple[str, ...] = ()  # a line for each tag that no caption has, if nothing changes


def plan_edit(captions: Captions, options: Any, scope: EditScope) -> EditPlan:
    """The changes of an edit by its options (one of the classes in settings/caption_edits.py).

    UserError for invalid options, such as a wrong regular expression.
    """
    description, edit = _line_edit(options, captions)
    files = filter_by_tags(captions.files, scope.with_tags, scope.without_tags)
    changes = _changed(files, lambda file: _edited(file.text, edit))
    return EditPlan(description, changes, () if changes else _missing_tags(options, scope, captions))


def plan_text(file: CaptionFile, text: str) -> EditPlan:
    """The edit of one caption to a text typed by the user; the file's line ends are kept."""
    line_ends = re.findall(r"\r\n|\r|\n", file.text)
    lines = re.split(r"\r\n|\r|\n", text.rstrip("\r\n"))
    final_line_ends = file.text[len(file.text.rstrip("\r\n")) :]
    new_text = (line_ends[0] if line_ends else "\n").join(lines) + final_line_ends
    return EditPlan(f"edit {file.path.name}", _changed([file], lambda _: new_text))


def find_matches(captions: Captions, options: ReplaceText, scope: EditScope) -> list[CaptionFile]:
    """The captions that contain the text, tag or regular expression to find."""
    matches = _matcher(options)
    files = filter_by_tags(captions.files, scope.with_tags, scope.without_tags)
    return [file for file in files if any(map(matches, split_lines(file.text)))]


def _missing_tags(options: Any, scope: EditScope, captions: Captions) -> tuple[str, ...]:
    """A line for each tag of the edit that no caption has."""
    tags = split_tags(getattr(options, "find", "")) if getattr(options, "how", "") == TAG else []
    if isinstance(options, (MergeTags, RemoveTags)):
        tags = split_tags(options.tags)
    counts = captions.tag_counts()
    existing = {tag.casefold() for tag in counts}
    missing = [tag for tag in [*tags, *split_tags(scope.with_tags)] if tag.casefold() not in existing]
    return tuple(f"{tag}: no caption has this tag{nearest(tag, counts)}." for tag in missing)


def _edited(text: str, edit: LineEdit) -> str:
    return edit_lines(text, edit) if text.strip() else edit("") or text


def _changed(files: Iterable[CaptionFile], edited: Callable[[CaptionFile], str]) -> tuple[PlannedChange, ...]:
    planned = (PlannedChange(file, edited(file)) for file in files)
    return tuple(change for change in planned if change.text != change.file.text)


def _line_edit(options: Any, captions: Captions) -> tuple[str, LineEdit]:
    """(description, function that edits a line)."""
    if isinstance(options, ReplaceText):
        return f"replace {options.find} with {options.by or 'nothing'}", _replace(options)
    if isinstance(options, MergeTags):
        return f"merge {options.tags} into {options.into}", _merge(options)
    if isinstance(options, AddTags):
        return f"add {options.tags}", _add(options)
    if isinstance(options, RemoveTags):
        return f"remove {options.tags}", _remove(options)
    if isinstance(options, SortTags):
        return f"sort tags by {options.order}", _sort(options, captions)
    return "tidy tags", _tidy(options)


def _replace(options: ReplaceText) -> LineEdit:
    if options.how == TAG:
        replacement, key = split_tags(_lines_to_commas(options.by)), _case_key(options.match_case)
        keys = {key(tag) for tag in _required_tags(options.find, "Enter the tag to search for.")}
        return _edit_tags(lambda tags: _replace_marked(tags, [key(tag) in keys for tag in tags], replacement))
    search = _Search(options)

    def replace(line: str) -> str:
        changed = search.replace(line)
        has_empty_parts = any(not part.strip() for part in changed.split(","))
        return ", ".join(split_tags(changed)) if changed != line and has_empty_parts else changed

    return replace


def _matcher(options: ReplaceText) -> Callable[[str], bool]:
    if options.how == TAG:
        key = _case_key(options.match_case)
        keys = {key(tag) for tag in _required_tags(options.find, "Enter the tag to search for.")}
        return lambda line: any(key(tag) in keys for tag in split_tags(line))
    return _Search(options).matches


class _Search:
    """A text or regular expression with a timeout. UserError for an invalid expression, and after the timeout."""

    def __init__(self, options: ReplaceText) -> None:
        import regex  # installed with transformers; unlike Python's re, it has a timeout

        if not options.find:
            raise UserError("Enter the text to search for.")
        is_literal = options.how != REGEX
        self.options, self.errors = options, (regex.error, IndexError)
        self.replacement = (lambda _: options.by) if is_literal else options.by
        flags = 0 if options.match_case else regex.IGNORECASE
        try:
            self.pattern = regex.compile(regex.escape(options.find) if is_literal else options.find, flags)
        except (regex.error, RecursionError) as error:
            raise UserError(f"{options.find!r} is not a valid regular expression: {error}.") from None
        self.deadline = time.monotonic() + REGEX_TIMEOUT
        self.replace("")  # reports an invalid replacement

    def matches(self, line: str) -> bool:
        return bool(self._with_timeout(self.pattern.search, line))

    def replace(self, line: str) -> str:
        return self._with_timeout(self.pattern.sub, self.replacement, line)

    def _with_timeout(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args, timeout=max(0.001, self.deadline - time.monotonic()))
        except TimeoutError:
            raise UserError(f"{self.options.find!r} takes too long to search for. Simplify it.") from None
        except self.errors as error:
            raise UserError(f"{self.options.by!r} is not a valid replacement: {error}.") from None


def _merge(options: MergeTags) -> LineEdit:
    tags_to_merge = _required_tags(options.tags, "Enter the tags to merge.")
    into = _required_tags(options.into, "Enter the tag to merge them into.")
    key = _case_key(options.match_case)
    keys = {key(tag) for tag in tags_to_merge}

    def merge(tags: list[str]) -> list[str]:
        marked = [key(tag) in keys for tag in tags]
        present = {key(tag) for tag in tags} & keys
        applies = present if options.which == ANY else present == keys
        return _replace_marked(tags, marked, into) if applies else tags

    return _edit_tags(merge)


def _add(options: AddTags) -> LineEdit:
    tags_to_add = _required_tags(options.tags, "Enter the tags to add.")

    def add(tags: list[str]) -> list[str]:
        existing = {tag.casefold() for tag in tags}
        new = [tag for tag in tags_to_add if tag.casefold() not in existing]
        return [*new, *tags] if options.place == FRONT else [*tags, *new]

    return _edit_tags(add)


def _remove(options: RemoveTags) -> LineEdit:
    key = _case_key(options.match_case)
    keys = {key(tag) for tag in _required_tags(options.tags, "Enter the tags to remove.")}
    return _edit_tags(lambda tags: [tag for tag in tags if key(tag) not in keys])


def _sort(options: SortTags, captions: Captions) -> LineEdit:
    counts = captions.tag_counts() if options.order == BY_COUNT else {}

    def sort_key(tag: str) -> Any:
        return -counts.get(tag, 0), tag.casefold(), tag

    n_fixed = options.keep_first
    return _edit_tags(lambda tags: [*tags[:n_fixed], *sorted(tags[n_fixed:], key=sort_key)])


def _tidy(options: TidyTags) -> LineEdit:
    convert = {SPACES: _to_spaces, UNDERSCORES: _to_underscores}.get(options.underscores, str)

    def tidy(tags: list[str]) -> list[str]:
        tags = [convert(tag) for tag in tags]
        return tags if options.keep_duplicates else _unique(tags)

    return _edit_tags(tidy)


def _to_spaces(tag: str) -> str:
    """facial_hair -> facial hair; emoticons (^_^, o_o) and names of wildcard files (__hats__) are unchanged."""
    return tag.replace("_", " ").strip() if _WORD.search(tag) and "__" not in tag else tag


def _to_underscores(tag: str) -> str:
    """facial hair -> facial_hair; wildcards and groups of several tags are unchanged."""
    return tag if "," in tag or "|" in tag else "_".join(tag.split())


def _edit_tags(edit: Callable[[list[str]], Sequence[str]]) -> LineEdit:
    def edit_line(line: str) -> str:
        tags = split_tags(line)
        changed = list(edit(tags))
        return line if changed == tags else ", ".join(changed)

    return edit_line


def _replace_marked(tags: Sequence[str], marked: Sequence[bool], replacement: Sequence[str]) -> list[str]:
    """The tags with the first marked one replaced by ``replacement`` and the others removed, without duplicates."""
    if not any(marked):
        return list(tags)
    first = marked.index(True)
    before = tags[:first]
    after = [tag for tag, is_marked in zip(tags, marked, strict=True) if not is_marked][first:]
    keys_before, new_keys = ({tag.casefold() for tag in some} for some in (before, replacement))
    return [
        *before,
        *(tag for tag in replacement if tag.casefold() not in keys_before),
        *(tag for tag in after if tag.casefold() not in new_keys),
    ]


def _unique(tags: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(tag.casefold(), tag)
    return list(first.values())


def _required_tags(text: str, message: str) -> list[str]:
    tags = split_tags(_lines_to_commas(text))
    if not tags:
        raise UserError(message)
    return tags


def _lines_to_commas(text: str) -> str:
    """A list of tags that may be separated by commas or line ends."""
    return ", ".join(split_lines(text))


def _case_key(match_case: bool) -> Callable[[str], str]:
    return str if match_case else str.casefold
