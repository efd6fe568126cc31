"""Augmentations of a sample: choice of caption, wildcards, shuffled and dropped tags, flip.

Each random number is a function of (seed, epoch, image, number of its samples in this epoch), so that a resumed run
continues with the same samples, and enabling one augmentation does not change the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.tags import split_tags

if TYPE_CHECKING:
    from dreambooth.dataset.plan import Example
    from dreambooth.settings import Concept, Settings

E = TypeVar("E", bound="Example")

# {{ and }} are literal braces, {a|b} is one of its options.
_WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


@dataclass(frozen=True)
class Variation:
    """The augmentations of a run or concept. Dropout probabilities are 0 to 1."""

    shuffle_tags: bool = False
    keep_tokens: int = 1  # tags at the start that are not shuffled or dropped
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    hflip: bool = False
    wildcards: bool = False
    keep_separator: str = ""  # tags before it are fixed at the start, those after a second one at the end
    second_separator: str = ""  # replaced by a comma after shuffling
    word_for_word: bool = False  # captions are not tidied, see :mod:`dreambooth.captions.kohya_rules`

    @classmethod
    def of(cls, settings: Settings, concept: Concept | None = None) -> Variation:
        """Those of the run, with the overrides of a concept."""
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

    def augment(self, example: E, *key: object) -> E:
        """The augmented example. ``key``: (seed, epoch, number of its samples before in this epoch)."""
        key = (*key, example.content)
        caption = self._caption(example, key)
        flipped = self.hflip and _chance(0.5, "flip", key)
        if caption == example.caption and not flipped:
            return example
        return replace(example, caption=caption, flipped=flipped)

    def varies(self, example: Example) -> bool:
        """Whether the caption of an example differs between samples."""
        return len(example.variants) > 1 or any(map(self.changes, example.variants or (example.caption,)))

    def changes(self, text: str) -> bool:
        """Whether this caption text is changed at random."""
        return self.has_choices(text) or self._changes_tags(text)

    def _changes_tags(self, text: str) -> bool:
        loose = len(self.split_tags(text)[1])
        return loose > 0 and (self.tag_dropout > 0 or (self.shuffle_tags and loose > 1))

    def has_choices(self, text: str) -> bool:
        """Whether the text has a wildcard with several options."""
        found: list[list[str]] = []

        def first(parts: list[str], _: int) -> str:
            found.append(parts)
            return parts[0]

        self._filled(text, first)
        return any(len(parts) > 1 for parts in found)

    def settled(self, texts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """(default caption, captions to choose from) of an image's captions as they were read.

        The default is the first caption with the first option of each wildcard and without separators. The second
        part is () where there is nothing to choose.
        """
        first = self._unshuffled(self._filled(texts[0], lambda parts, _: parts[0]))
        return first, () if (first,) == tuple(texts) else tuple(texts)

    def _caption(self, example: Example, key: tuple[object, ...]) -> str:
        if self.caption_dropout and _chance(self.caption_dropout, "caption", key):
            return ""
        texts = example.variants or (example.caption,)
        text = texts[0] if len(texts) == 1 else _random("line", key).choice(texts)
        text = self._filled(text, lambda parts, number: _random("wildcard", number, key).choice(parts))
        if not self._changes_tags(text):  # single braces left now were doubled, and are no wildcards
            return self._unshuffled(text) if example.variants else text
        first, loose, last = self.split_tags(text)
        if self.tag_dropout:
            loose = [tag for number, tag in enumerate(loose) if not _chance(self.tag_dropout, "tag", number, key)]
        if self.shuffle_tags:
            _random("tags", key).shuffle(loose)
        return self._joined([*first, *loose, *last])

    def _filled(self, text: str, choose: Callable[[list[str], int], str]) -> str:
        """The text with one option of each wildcard: ``choose(options, index of the wildcard)``."""
        if not self.wildcards or ("{" not in text and "}" not in text):
            return text
        if self.word_for_word:
            return kohya.fill_wildcards(text, choose)

        def fill(match: re.Match[str]) -> str:
            return choose(match[1].split("|"), match.start()) if match[1] else match[0][0]

        return ", ".join(split_tags(_WILDCARD.sub(fill, text)))

    def split_tags(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """The tags: fixed at the start, movable, fixed at the end."""
        if self.word_for_word:
            return kohya.split_fixed_tags(text, self.keep_tokens, self.keep_separator)
        if self.keep_separator and self.keep_separator in text:
            first, loose, last, *_ = (*text.split(self.keep_separator, 2), "")
            return split_tags(first), split_tags(loose), split_tags(last)
        tags = split_tags(text)
        return tags[: self.keep_tokens], tags[self.keep_tokens :], []

    def _unshuffled(self, text: str) -> str:
        """The text unshuffled, without separators."""
        if self.word_for_word:
            parts = self.split_tags(text) if self.shuffle_tags or self.tag_dropout else ([text],)
            return self._joined([tag for part in parts for tag in part])
        if any(separator and separator in text for separator in (self.keep_separator, self.second_separator)):
            return self._joined([tag for part in self.split_tags(text) for tag in part])
        return text

    def _joined(self, tags: Sequence[str]) -> str:
        joined = ", ".join(tags)
        if self.word_for_word:
            return joined.replace(self.second_separator, ",") if self.second_separator else joined
        return ", ".join(split_tags(joined.replace(self.second_separator, ","))) if self.second_separator else joined


_SWITCHES = ("shuffle_tags", "hflip")
_NUMBERS = ("keep_tokens", "tag_dropout", "caption_dropout")
NO_VARIATION = Variation()


def _chance(p: float, *key: object) -> bool:
    return _random(*key).random() < p


def _random(*key: object) -> random.Random:
    # Seeded by text: hashed with SHA-512, hence the same on every platform and Python version.
    return random.Random(repr(key))
