"""Predictions to captions: text rules only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dreambooth.captioning.base import Prediction
from dreambooth.captions.tags import split_tags_and_wildcards
from dreambooth.settings.tagging import ALPHABET, APPEND, CONFIDENCE, PREPEND, TagOptions

# Emoticons, whose underscores stay. The list published with the WD14 taggers.
FACES = frozenset({
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^", "o_o",
    "u_u", "x_x", "|_|", "||_||",
})  # fmt: skip
_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")  # the comma of 1,000 is no separator


def caption(prediction: Prediction, existing: str, options: TagOptions) -> str:
    """The new text of the caption file; "" if the model predicts nothing.

    ``existing``: the current text. With one caption per line, each line gets the same tags.
    """
    new = [*split_tags(options.additional_tags), *predicted_tags(prediction, options)]
    keeps = options.existing in (APPEND, PREPEND)
    lines = [line for line in existing.splitlines() if line.strip()] if keeps else []
    return "\n".join(_join_line(new, split_tags(line), options) for line in lines or [""])


def predicted_tags(prediction: Prediction, options: TagOptions) -> list[str]:
    """The tags of a prediction that are kept, as they are written."""
    excluded = [_pattern(tag) for tag in split_tags(options.excluded_tags)]
    if prediction.sentence:
        return [part for part in split_tags(prediction.sentence) if not _is_excluded(excluded, part)]
    tags = [tag for tag in prediction.tags if not _is_excluded(excluded, tag.name)]
    if options.tag_order == CONFIDENCE:
        tags.sort(key=lambda tag: -tag.score)
    elif options.tag_order == ALPHABET:
        tags.sort(key=lambda tag: tag.name.casefold())
    return [_format_tag(tag.name, options) for tag in tags]


def split_tags(text: str) -> list[str]:
    """The tags of a text, split as in training, each on one line."""
    whole = split_tags_and_wildcards(_IN_NUMBER.sub("\1", text))
    return [" ".join(part.replace("\1", ",").split()) for part in whole]


def _join_line(new: list[str], old: list[str], options: TagOptions) -> str:
    joined = old + new if options.existing == APPEND else new + old
    trigger = " ".join(options.trigger_word.split())
    if trigger:
        joined = [trigger, *(part for part in joined if _normalize(part) != _normalize(trigger))]
    return ", ".join(_without_duplicates(joined) if options.remove_duplicates else joined)


def _without_duplicates(joined: Iterable[str]) -> list[str]:
    first: dict[str, str] = {}
    for part in joined:
        first.setdefault(_normalize(part), part)
    return list(first.values())


def _format_tag(name: str, options: TagOptions) -> str:
    if options.replace_underscores and name not in FACES:
        name = name.replace("_", " ")
    return re.sub(r"([()\[\]\\])", r"\\\1", name) if options.escape_brackets else name


def _normalize(part: str) -> str:
    """Normal form for comparing tags: long_hair equals Long hair, name_\\(film\\) equals name (film)."""
    part = part.replace("\\", "").casefold()
    return part if part in FACES else " ".join(part.replace("_", " ").split())


def _pattern(excluded: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(piece) for piece in _normalize(excluded).split("*")), re.DOTALL)


def _is_excluded(excluded: Iterable[re.Pattern[str]], part: str) -> bool:
    return any(pattern.fullmatch(_normalize(part)) for pattern in excluded)
