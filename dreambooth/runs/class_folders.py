"""Where the class pictures of a model's concepts lie. Without torch, as all that plans a run which has no model yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dreambooth.files import expand_user
from dreambooth.images.listing import find_images
from dreambooth.settings import Concept, ModelFolder


def folder_of(model: ModelFolder, number: int, concept: Concept) -> Path:
    """Where a concept's class pictures lie; ``number`` counts from 0."""
    chosen = concept.class_data_dir.strip()
    return expand_user(chosen) if chosen else model.root / f"classifiers_{number}"


def with_folders(model: ModelFolder | None, concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """The concepts as they can be planned now: with the model's own folders, and without folders still to be filled.

    A concept that asks for no class images is left as it is. ``model``: None where there is none yet.
    """
    return tuple(
        dataclasses.replace(concept, class_data_dir=_now(model, number, concept))
        if concept.num_class_images_per
        else concept
        for number, concept in enumerate(concepts)
    )


def _now(model: ModelFolder | None, number: int, concept: Concept) -> str:
    """The folder of class pictures, "" while it is empty."""
    if model is None and not concept.class_data_dir.strip():
        return ""
    folder = folder_of(model, number, concept) if model else expand_user(concept.class_data_dir.strip())
    return str(folder) if folder.is_dir() and find_images(folder) else ""
