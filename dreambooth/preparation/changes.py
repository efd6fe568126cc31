"""The changes of a preparation, as plain values: shown by a dry run, then followed exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.images.buckets import Size
from dreambooth.preparation.transform import ImageTransform
from dreambooth.settings.preparation import PrepareOptions


@dataclass(frozen=True)
class ImageChange:
    """The change of one image, its captions and its mask."""

    source: Path
    destination: Path
    content: str  # sha256 of the source's bytes, hex
    size: Size  # upright, in pixels
    transform: ImageTransform
    captions: tuple[tuple[Path, Path], ...]  # copied, each (source, destination)
    mask: tuple[Path, Path] | None  # cropped as the image, (source, destination)

    @property
    def new_size(self) -> Size:
        return self.transform.crop.bucket

    @property
    def steps(self) -> tuple[str, ...]:
        """Descriptions of the steps, in order."""
        steps = list(self.transform.steps)
        if self.source.name != self.destination.name:
            steps.append(f"renamed to {self.destination.name}")
        if not self.transform.reencode:
            steps.append("unchanged" if self.source == self.destination else "copied unchanged")
        return tuple(steps)

    def copies(self) -> list[tuple[Path, Path]]:
        """The image with its captions and mask, each (source, destination)."""
        return [(self.source, self.destination), *self.captions, *([self.mask] if self.mask else [])]

    def writes(self) -> list[tuple[Path, Path]]:
        """The copies that must be written: in place, an unchanged file needs no copy."""
        transformed = [(self.source, self.destination), self.mask] if self.transform.reencode else []
        return [copy for copy in self.copies() if copy[0] != copy[1] or copy in transformed]

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.source),
            "becomes": str(self.destination),
            "size": list(self.size),
            "new_size": list(self.new_size),
            "kept": round(self.transform.crop.kept_fraction, 3),
            "done": "; ".join(self.steps),
            "with": [destination.name for _, destination in self.copies()[1:]],
        }


@dataclass(frozen=True)
class Preparation:
    """A planned or finished preparation of a folder."""

    folder: Path
    out: Path  # equal to ``folder`` in place
    options: PrepareOptions
    changes: tuple[ImageChange, ...]
    skipped: tuple[str, ...]  # a line for each image that can't be prepared, with the cause
    warnings: tuple[str, ...] = ()
    originals: Path | None = None  # the folder of the originals after a preparation in place

    def counts(self) -> dict[str, int]:
        n_changed = sum(change.transform.reencode for change in self.changes)
        return {"pictures": len(self.changes), "changed": n_changed, "skipped": len(self.skipped)}

    def as_dict(self) -> dict[str, Any]:
        originals = {"originals": str(self.originals)} if self.originals else {}
        return {
            **self.counts(), "out": str(self.out), **originals,
            "changes": [change.as_dict() for change in self.changes],
            "skipped_because": list(self.skipped), "warnings": list(self.warnings),
        }  # fmt: skip
