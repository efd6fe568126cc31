"""Options of caption edits, declared like all settings: one dataclass per kind of edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.declare import declared, setting

TEXT, TAG, REGEX = "text", "tag", "regex"
ALL, ANY = "all", "any"
FRONT, END = "front", "end"
BY_NAME, BY_COUNT = "name", "count"
UNCHANGED, SPACES, UNDERSCORES = "as they are", "spaces", "underscores"


def _match_case() -> Any:
    return setting(False, "Search", "Match case", "Distinguish upper and lower case: Smith is not smith.")


@dataclass(frozen=True, kw_only=True)
class EditScope:
    """Which images an edit applies to."""

    # fmt: off
    with_tags: str = setting("", "Filter", "Only images with",
        "Comma-separated tags; only images that have all of them. Empty applies to all images.")
    without_tags: str = setting("", "Filter", "Only images without",
        "Comma-separated tags; only images that have none of them.")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class ReplaceText:
    """Search and replace."""

    # fmt: off
    find: str = setting("", "Search", "Search for",
        "Text, tag or regular expression to search for. Matches parts of words too, unless searched as a tag.")
    by: str = setting("", "Search", "Replace with",
        "Empty deletes each match. In a regular expression, \\1 inserts its first group.")
    how: str = setting(TEXT, "Search", "Search as",
        "text: anywhere in the caption; tag: only a whole tag between commas; regex: a regular expression.",
        choices=(TEXT, TAG, REGEX))
    match_case: bool = _match_case()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class MergeTags:
    """Merge several tags into one, or rename one tag."""

    # fmt: off
    tags: str = setting("", "Tags", "Tags to merge",
        "Comma-separated, such as 1boy, facial hair. A single tag is renamed.")
    into: str = setting("", "Tags", "New tag", "Replaces the tags, at the position of the first of them.")
    which: str = setting(ALL, "Tags", "In captions with",
        "Change only captions that have all of the tags, or any of them.", choices=(ALL, ANY))
    match_case: bool = _match_case()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class AddTags:
    """Add tags to the captions that don't have them."""

    # fmt: off
    tags: str = setting("", "Tags", "Tags to add",
        "Comma-separated. Tags that a caption already has stay where they are.")
    place: str = setting(FRONT, "Tags", "Position", "Add at the front or at the end. Trigger words go to the front.",
        choices=(FRONT, END))
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class RemoveTags:
    """Remove tags from captions."""

    tags: str = setting("", "Tags", "Tags to remove", "Comma-separated.")
    match_case: bool = _match_case()


@dataclass(frozen=True, kw_only=True)
class SortTags:
    """Sort the tags of each caption."""

    # fmt: off
    order: str = setting(BY_NAME, "Order", "Order",
        "name: alphabetical; count: most frequent in the folder first.", choices=(BY_NAME, BY_COUNT))
    keep_first: int = setting(1, "Order", "Leading tags kept",
        "Number of leading tags that stay in place, such as the trigger word.", low=0, high=255, step=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class TidyTags:
    """Clean up captions that a tagger wrote."""

    # fmt: off
    keep_duplicates: bool = setting(False, "Cleanup", "Keep duplicates",
        "Keep tags that occur more than once in a caption. Off removes duplicates, keeping the first.")
    underscores: str = setting(UNCHANGED, "Cleanup", "Word separator",
        "What separates the words of a tag: spaces turns facial_hair into facial hair, underscores the reverse. "
        "Emoticons such as ^_^ are kept.", choices=(UNCHANGED, SPACES, UNDERSCORES))
    # fmt: on


EDIT_SCOPE, REPLACE_TEXT, MERGE_TAGS, ADD_TAGS, REMOVE_TAGS, SORT_TAGS, TIDY_TAGS = map(
    declared, (EditScope, ReplaceText, MergeTags, AddTags, RemoveTags, SortTags, TidyTags)
)
