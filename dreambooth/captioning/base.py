"""Predictions of captioning models, and the interface that all models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL import Image


class Tag(NamedTuple):
    name: str  # the model's label, with underscores
    score: float  # confidence, 0 to 1


@dataclass(frozen=True)
class Prediction:
    """Tags of a tagger, in its label order, or the sentence of a captioner."""

    tags: tuple[Tag, ...] = ()
    sentence: str = ""


class Captioner(Protocol):
    """A loaded model."""

    notes: list[str]  # warnings about how it runs here

    def prepare(self, image: Image.Image) -> Any:
        """The model's input of one upright RGB image. Called from other threads while the model runs."""
        ...

    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        """One prediction per image, computed as one batch."""
        ...


@dataclass
class CaptioningSummary:
    """The result of captioning a folder. The fields are part of the JSON output."""

    written: int = 0
    unchanged: int = 0  # the predicted caption equals the existing one
    left: int = 0  # skipped because they have a caption
    notes: list[str] = field(default_factory=list)  # what was skipped and why, each with its file
