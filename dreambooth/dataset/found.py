"""What a path stands for: a folder of pictures, a concepts list, a configuration of another trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.settings import Concept, read_concepts


@dataclass(frozen=True)
class Found:
    """What was found at a path, in our own terms."""

    concepts: tuple[Concept, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # to be laid over the defaults, by our keys
    taken: tuple[str, ...] = ()  # one line for each thing that was taken over: what it was, what it became
    without: tuple[str, ...] = ()  # one line for each thing that has no counterpart here, and what that means


def found_at(path: Path) -> Found:
    """Read the path as what it is. UserError names what can't be used, all of it at once."""
    if path.suffix.lower() == ".json":
        concepts, ignored = read_concepts(path)
        return Found(concepts, without=tuple(f"{key} has no effect here." for key in ignored))
    return Found((Concept(instance_data_dir=str(path)),))
