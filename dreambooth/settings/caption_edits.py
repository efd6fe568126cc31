"""What can be chosen when captions are edited, declared once as all settings are: a dataclass for each kind of edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.declare import declared, setting

TEXT, TAG, REGEX = "text", "tag", "regex"
ALL, ANY = "all", "any"
FRONT, END = "front", "end"
BY_NAME, BY_COUNT = "name", "count"
AS_THEY_ARE, SPACES, UNDERSCORES = "as they are", "spaces", "underscores"


def _match_case() -> Any:
    return setting(False, "Search", "Match case", "Tell Smith from smith.")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which pictures an edit is for."""

    # fmt: off
    with_tags: str = setting("", "Only for", "Only pictures with",
        "Tags, parted by commas: pictures that have all of them. Empty: all pictures.")
    without_tags: str = setting("", "Only for", "Only pictures without",
        "Tags, parted by commas: pictures that have none of them.")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Replacing:
    """Search, and put something else there."""

    # fmt: off
    find: str = setting("", "Search", "Search for", "Also a part of a word, unless it is searched as a tag.")
    by: str = setting("", "Search", "Replace by",
        "Empty: what is found is taken out. For a regular expression, \\1 is what its first group found.")
    how: str = setting(TEXT, "Search", "Search as",
        "text: wherever it stands. tag: only where it is all between two commas. regex: a regular expression.",
        choices=(TEXT, TAG, REGEX))
    match_case: bool = _match_case()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Merging:
    """Several tags become one; a single tag is renamed."""

    # fmt: off
    tags: str = setting("", "Tags", "Tags", "Parted by commas: 1boy, facial hair. One alone is renamed.")
    into: str = setting("", "Tags", "Become", "The tag that stands in their place, where the first of them stood.")
    which: str = setting(ALL, "Tags", "In captions that have",
        "all of the tags, or any of them. Others stay as they are.", choices=(ALL, ANY))
    match_case: bool = _match_case()
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Adding:
    """Tags that captions don't have yet."""

    # fmt: off
    tags: str = setting("", "Tags", "Tags to add",
        "Parted by commas. A caption that has one already keeps it where it is.")
    place: str = setting(FRONT, "Tags", "Where", "Trigger words go to the front.", choices=(FRONT, END))
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Removing:
    """Tags that captions are to lose."""

    tags: str = setting("", "Tags", "Tags to remove", "Parted by commas.")
    match_case: bool = _match_case()


@dataclass(frozen=True, kw_only=True)
class Sorting:
    """The order of tags within each caption."""

    # fmt: off
    order: str = setting(BY_NAME, "Order", "Order",
        "name: from a to z. count: first what stands in most pictures.", choices=(BY_NAME, BY_COUNT))
    keep_first: int = setting(1, "Order", "Tags that stay first",
        "So many at the start stay where they are, such as the trigger word.", low=0, high=255, step=1)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Tidying:
    """What taggers leave behind."""

    # fmt: off
    keep_duplicates: bool = setting(False, "Tidy", "Keep duplicates",
        "Else, of a tag that stands twice in a caption, only the first stays.")
    underscores: str = setting(AS_THEY_ARE, "Tidy", "Between the words of a tag",
        "spaces: facial_hair becomes facial hair; faces such as ^_^ stay.", choices=(AS_THEY_ARE, SPACES, UNDERSCORES))
    # fmt: on


SCOPE, REPLACING, MERGING, ADDING, REMOVING, SORTING, TIDYING = map(
    declared, (Scope, Replacing, Merging, Adding, Removing, Sorting, Tidying)
)
