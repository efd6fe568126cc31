"""What changes about a picture from one showing to the next: the order of its tags, what is left out, its side.

Each draw is a function of (seed, epoch, picture, how often it was shown in this epoch), so that a resumed run
sees what the undisturbed one would have seen, and switching one of them on changes nothing of the others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dreambooth.dataset.plan import Example
    from dreambooth.settings import Settings

E = TypeVar("E", bound="Example")


@dataclass(frozen=True)
class Variation:
    """Which of it is wanted. Shares are 0 to 1."""

    shuffle_tags: bool = False
    keep_tokens: int = 1  # tags at the start that stay where they are
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    hflip: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Variation:
        return cls(
            settings.shuffle_tags, settings.keep_tokens, settings.tag_dropout, settings.caption_dropout, settings.hflip
        )

    def drawn(self, example: E, *showing: object) -> E:
        """The example as it is shown at ``showing``: (seed, epoch, which time in this epoch)."""
        where = (*showing, example.content)
        caption = self._caption(example.caption, where)
        flipped = self.hflip and _chance(0.5, "flip", where)
        if caption == example.caption and not flipped:
            return example
        return replace(example, caption=caption, flipped=flipped)

    def changes_words(self, caption: str) -> bool:
        """Whether a picture may be shown with other words than its caption, or none at all."""
        loose = len(tags_of(caption)) - self.keep_tokens
        return loose > 0 and (self.tag_dropout > 0 or (self.shuffle_tags and loose > 1))

    def _caption(self, caption: str, where: tuple[object, ...]) -> str:
        if self.caption_dropout and _chance(self.caption_dropout, "caption", where):
            return ""
        if not self.changes_words(caption):
            return caption
        tags = tags_of(caption)
        kept, loose = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if self.tag_dropout:
            loose = [tag for number, tag in enumerate(loose) if not _chance(self.tag_dropout, "tag", number, where)]
        if self.shuffle_tags:
            _random("tags", where).shuffle(loose)
        return ", ".join([*kept, *loose])


ALWAYS_THE_SAME = Variation()


def tags_of(caption: str) -> list[str]:
    """The parts of a caption between commas; a comma inside brackets, as in "(red, soft:1.2)", parts nothing."""
    if "(" not in caption and "[" not in caption:
        return [tag.strip() for tag in caption.split(",") if tag.strip()]
    tags, depth, start, escaped = [], 0, 0, False
    for place, character in enumerate(caption):
        if character in "([" and not escaped:
            depth += 1
        elif character in ")]" and not escaped:
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            tags.append(caption[start:place])
            start = place + 1
        escaped = character == "\\" and not escaped
    tags.append(caption[start:])
    if depth:  # a bracket that nobody closed
        tags = caption.split(",")
    return [tag.strip() for tag in tags if tag.strip()]


def _chance(share: float, *key: object) -> bool:
    return _random(*key).random() < share


def _random(*key: object) -> random.Random:
    # Seeded by text: hashed with SHA-512, hence the same on every platform and Python version.
    return random.Random(repr(key))
