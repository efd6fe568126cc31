"""What changes about a picture from one showing to the next: which of its captions, the order of its tags, its side.

Each draw is a function of (seed, epoch, picture, how often it was shown in this epoch), so that a resumed run
sees what the undisturbed one would have seen, and switching one of them on changes nothing of the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.tags import tags_of

if TYPE_CHECKING:
    from dreambooth.dataset.plan import Example
    from dreambooth.settings import Concept, Settings

E = TypeVar("E", bound="Example")

# {{ and }} are brackets that stay, {a|b} is one of its parts.
_WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


@dataclass(frozen=True)
class Variation:
    """Which of it is wanted. Shares are 0 to 1."""

    shuffle_tags: bool = False
    keep_tokens: int = 1  # tags at the start that stay where they are
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    hflip: bool = False
    wildcards: bool = False
    keep_separator: str = ""  # what stands before it stays at the start, after a second one at the end
    second_separator: str = ""  # becomes a comma after shuffling
    word_for_word: bool = False  # nothing is tidied, see :mod:`dreambooth.captions.kohya_rules`

    @classmethod
    def of(cls, settings: Settings, concept: Concept | None = None) -> Variation:
        """As the run has it, or as a concept has it within the run."""
        run = cls(
            settings.shuffle_tags, settings.keep_tokens, settings.tag_dropout, settings.caption_dropout, settings.hflip
        )
        if concept is None:
            return run
        switches = {key: getattr(concept, key) == "on" for key in _SWITCHES if getattr(concept, key) in ("on", "off")}
        numbers = {key: getattr(concept, key) for key in _NUMBERS if getattr(concept, key) >= 0}
        words = {key: getattr(concept, key) for key in ("wildcards", "keep_separator", "second_separator")}
        words["word_for_word"] = concept.reading_rule == "kohya"
        return replace(run, **switches, **numbers, **words)

    def drawn(self, example: E, *showing: object) -> E:
        """The example as it is shown at ``showing``: (seed, epoch, which time in this epoch)."""
        where = (*showing, example.content)
        caption = self._caption(example, where)
        flipped = self.hflip and _chance(0.5, "flip", where)
        if caption == example.caption and not flipped:
            return example
        return replace(example, caption=caption, flipped=flipped)

    def varies(self, example: Example) -> bool:
        """Whether a picture may be shown with other words than its caption, or none at all."""
        return len(example.variants) > 1 or any(map(self.changes_words, example.variants or (example.caption,)))

    def changes_words(self, text: str) -> bool:
        """Whether there is anything to draw about this one of its captions."""
        return self.draws_parts(text) or self._moves(text)

    def _moves(self, text: str) -> bool:
        loose = len(self.parted(text)[1])
        return loose > 0 and (self.tag_dropout > 0 or (self.shuffle_tags and loose > 1))

    def draws_parts(self, text: str) -> bool:
        """Whether it holds a wildcard with several parts."""
        found: list[list[str]] = []

        def first(parts: list[str], _: int) -> str:
            found.append(parts)
            return parts[0]

        self._filled(text, first)
        return any(len(parts) > 1 for parts in found)

    def settled(self, texts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """(the caption where nothing is drawn, what showings draw from) of a picture's captions as they were read.

        The first caption, with the first part of each wildcard and without separators. Nothing to draw from is ().
        """
        first = self._together(self._filled(texts[0], lambda parts, _: parts[0]))
        return first, () if (first,) == tuple(texts) else tuple(texts)

    def _caption(self, example: Example, where: tuple[object, ...]) -> str:
        if self.caption_dropout and _chance(self.caption_dropout, "caption", where):
            return ""
        texts = example.variants or (example.caption,)
        text = texts[0] if len(texts) == 1 else _random("line", where).choice(texts)
        text = self._filled(text, lambda parts, number: _random("wildcard", number, where).choice(parts))
        if not self._moves(text):  # what is in braces now was in two, and is no wildcard
            return self._together(text) if example.variants else text
        first, loose, last = self.parted(text)
        if self.tag_dropout:
            loose = [tag for number, tag in enumerate(loose) if not _chance(self.tag_dropout, "tag", number, where)]
        if self.shuffle_tags:
            _random("tags", where).shuffle(loose)
        return self._joined([*first, *loose, *last])

    def _filled(self, text: str, choose: Callable[[list[str], int], str]) -> str:
        """The text with one part of each wildcard: ``choose(parts, which wildcard)``."""
        if not self.wildcards or ("{" not in text and "}" not in text):
            return text
        if self.word_for_word:
            return kohya.filled(text, choose)

        def fill(match: re.Match[str]) -> str:
            return choose(match[1].split("|"), match.start()) if match[1] else match[0][0]

        return ", ".join(tags_of(_WILDCARD.sub(fill, text)))

    def parted(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """Its tags: those that stay at the start, those that may move, those that stay at the end."""
        if self.word_for_word:
            return kohya.parted(text, self.keep_tokens, self.keep_separator)
        if self.keep_separator and self.keep_separator in text:
            first, loose, last, *_ = (*text.split(self.keep_separator, 2), "")
            return tags_of(first), tags_of(loose), tags_of(last)
        tags = tags_of(text)
        return tags[: self.keep_tokens], tags[self.keep_tokens :], []

    def _together(self, text: str) -> str:
        """In its own order, without separators."""
        if self.word_for_word:
            parts = self.parted(text) if self.shuffle_tags or self.tag_dropout else ([text],)
            return self._joined([tag for part in parts for tag in part])
        if any(separator and separator in text for separator in (self.keep_separator, self.second_separator)):
            return self._joined([tag for part in self.parted(text) for tag in part])
        return text

    def _joined(self, tags: Sequence[str]) -> str:
        joined = ", ".join(tags)
        if self.word_for_word:
            return joined.replace(self.second_separator, ",") if self.second_separator else joined
        return ", ".join(tags_of(joined.replace(self.second_separator, ","))) if self.second_separator else joined


_SWITCHES = ("shuffle_tags", "hflip")
_NUMBERS = ("keep_tokens", "tag_dropout", "caption_dropout")
ALWAYS_THE_SAME = Variation()


def _chance(share: float, *key: object) -> bool:
    return _random(*key).random() < share


def _random(*key: object) -> random.Random:
    # Seeded by text: hashed with SHA-512, hence the same on every platform and Python version.
    return random.Random(repr(key))
