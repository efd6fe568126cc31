"""What a model says of a picture, and what all models have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL import Image


class Tag(NamedTuple):
    name: str  # as the model calls it, with its underscores
    score: float  # how sure the model is, 0 to 1


@dataclass(frozen=True)
class Answer:
    """Tags of a tagger, in its own order, or the sentence of a captioner."""

    tags: tuple[Tag, ...] = ()
    sentence: str = ""


class Captioner(Protocol):
    """A model that is ready to look at pictures."""

    notes: list[str]  # what a person should know about how it works here

    def prepare(self, picture: Image.Image) -> Any:
        """What the model takes of one upright RGB picture. Called from other threads, while the model is at work."""
        ...

    def answer(self, prepared: Sequence[Any]) -> list[Answer]:
        """One answer for each of the pictures, all of which are looked at together."""
        ...


@dataclass
class Counted:
    """How a whole folder went."""

    written: int = 0
    unchanged: int = 0  # looked at; the caption is the one that was there
    left: int = 0  # had a caption, and were not looked at
    notes: list[str] = field(default_factory=list)  # what was skipped and why, each naming its file
