"""The folders of class images. Imports no torch: a dataset preview needs no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dreambooth.images.listing import find_images
from dreambooth.paths import clean_path
from dreambooth.settings import Concept, ModelFolder


def folder_of(model: ModelFolder, number: int, concept: Concept) -> Path:
    """The class image folder of concept ``number``, counted from 0."""
    chosen = concept.class_data_dir.strip()
    return clean_path(chosen) if chosen else model.root / f"classifiers_{number}"


def with_folders(model: ModelFolder | None, concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """The concepts with the model's own class image folders filled in; empty folders are left out.

    Concepts for which no class images are generated are unchanged. ``model``: None where there is none yet.
    """
    return tuple(
        dataclasses.replace(concept, class_data_dir=_filled_folder(model, number, concept))
        if concept.num_class_images_per
        else concept
        for number, concept in enumerate(concepts)
    )


def _filled_folder(model: ModelFolder | None, number: int, concept: Concept) -> str:
    """The class image folder; "" while it has no images."""
    if model is None and not concept.class_data_dir.strip():
        return ""
    folder = folder_of(model, number, concept) if model else clean_path(concept.class_data_dir)
    return str(folder) if folder.is_dir() and find_images(folder) else ""
