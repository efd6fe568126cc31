"""From what a model says to the caption: rules of text, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dreambooth.captioning.base import Answer
from dreambooth.captions.folder import parts_of
from dreambooth.settings.tagging import ALPHABET, APPEND, CONFIDENCE, PREPEND, TagOptions

# Tags that are faces: their underscores are mouths. The list that is published with the WD14 taggers.
FACES = frozenset({
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^", "o_o",
    "u_u", "x_x", "|_|", "||_||",
})  # fmt: skip
_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")  # the comma of 1,000 parts nothing


def caption(answer: Answer, existing: str, options: TagOptions) -> str:
    """The caption file's new text; "" when there is nothing to say.

    ``existing``: what the file holds now. Each of its lines, as they are for one caption per line, gets the same.
    """
    new = [*parts(options.additional_tags), *said(answer, options)]
    keeps = options.existing in (APPEND, PREPEND)
    lines = [line for line in existing.splitlines() if line.strip()] if keeps else []
    return "\n".join(_line(new, parts(line), options) for line in lines or [""])


def said(answer: Answer, options: TagOptions) -> list[str]:
    """What is taken of the answer, as it is written."""
    excluded = [_pattern(tag) for tag in parts(options.excluded_tags)]
    if answer.sentence:
        return [part for part in parts(answer.sentence) if not _any(excluded, part)]
    tags = [tag for tag in answer.tags if not _any(excluded, tag.name)]
    if options.tag_order == CONFIDENCE:
        tags.sort(key=lambda tag: -tag.score)
    elif options.tag_order == ALPHABET:
        tags.sort(key=lambda tag: tag.name.casefold())
    return [_spelled(tag.name, options) for tag in tags]


def parts(text: str) -> list[str]:
    """The tags of a text, as training parts them, each on one line."""
    whole = parts_of(_IN_NUMBER.sub("\1", text))
    return [" ".join(part.replace("\1", ",").split()) for part in whole]


def _line(new: list[str], old: list[str], options: TagOptions) -> str:
    joined = old + new if options.existing == APPEND else new + old
    trigger = " ".join(options.trigger_word.split())
    if trigger:
        joined = [trigger, *(part for part in joined if _plain(part) != _plain(trigger))]
    return ", ".join(_once(joined) if options.remove_duplicates else joined)


def _once(joined: Iterable[str]) -> list[str]:
    first: dict[str, str] = {}
    for part in joined:
        first.setdefault(_plain(part), part)
    return list(first.values())


def _spelled(name: str, options: TagOptions) -> str:
    if options.replace_underscores and name not in FACES:
        name = name.replace("_", " ")
    return re.sub(r"([()\[\]\\])", r"\\\1", name) if options.escape_brackets else name


def _plain(part: str) -> str:
    """By what tags are the same: long_hair is Long hair, name_\\(film\\) is name (film)."""
    part = part.replace("\\", "").casefold()
    return part if part in FACES else " ".join(part.replace("_", " ").split())


def _pattern(excluded: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(piece) for piece in _plain(excluded).split("*")), re.DOTALL)


def _any(excluded: Iterable[re.Pattern[str]], part: str) -> bool:
    return any(pattern.fullmatch(_plain(part)) for pattern in excluded)
