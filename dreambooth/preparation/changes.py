"""What becomes of the pictures of a folder, as plain values: what a dry run shows and the work follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.images.buckets import Size
from dreambooth.preparation.transform import Recipe
from dreambooth.settings.preparation import PrepareOptions


@dataclass(frozen=True)
class Change:
    """What becomes of one picture, and of what goes with it."""

    source: Path
    destination: Path
    content: str  # sha256 of the source's bytes, hex
    size: Size  # upright, in pixels
    recipe: Recipe
    captions: tuple[tuple[Path, Path], ...]  # copied, each from and to
    mask: tuple[Path, Path] | None  # cut as the picture is, from and to

    @property
    def new_size(self) -> Size:
        return self.recipe.crop.bucket

    @property
    def words(self) -> tuple[str, ...]:
        """What is done, in its order."""
        steps = list(self.recipe.words)
        if self.source.name != self.destination.name:
            steps.append(f"called {self.destination.name}")
        if not self.recipe.anew:
            steps.append("left as it is" if self.source == self.destination else "bytes as they are")
        return tuple(steps)

    def copies(self) -> list[tuple[Path, Path]]:
        """All that is written for it, from and to."""
        return [(self.source, self.destination), *self.captions, *([self.mask] if self.mask else [])]

    def writes(self) -> list[tuple[Path, Path]]:
        """Those of them that are not there already: in place, what stays as it is needs no copy."""
        cut = [(self.source, self.destination), self.mask] if self.recipe.anew else []
        return [(source, to) for source, to in self.copies() if source != to or (source, to) in cut]

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.source),
            "becomes": str(self.destination),
            "size": list(self.size),
            "new_size": list(self.new_size),
            "kept": round(self.recipe.crop.kept_fraction, 3),
            "done": "; ".join(self.words),
            "with": [to.name for _, to in self.copies()[1:]],
        }


@dataclass(frozen=True)
class Preparation:
    """What is to be done, or was done."""

    folder: Path
    out: Path  # the same as ``folder`` when done in place
    options: PrepareOptions
    changes: tuple[Change, ...]
    skipped: tuple[str, ...]  # a line for each picture that can't be prepared, with its cause
    warnings: tuple[str, ...] = ()
    originals: Path | None = None  # where they are kept, once it was done in place

    def counts(self) -> dict[str, int]:
        anew = sum(change.recipe.anew for change in self.changes)
        return {"pictures": len(self.changes), "changed": anew, "skipped": len(self.skipped)}

    def as_dict(self) -> dict[str, Any]:
        kept = {"originals": str(self.originals)} if self.originals else {}
        return {
            **self.counts(), "out": str(self.out), **kept, "changes": [change.as_dict() for change in self.changes],
            "skipped_because": list(self.skipped), "warnings": list(self.warnings),
        }  # fmt: skip
