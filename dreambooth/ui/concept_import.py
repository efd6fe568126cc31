"""Concepts from files and into files: what the Concepts list's buttons do. No Gradio: plain values in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.settings import read_concepts
from dreambooth.ui import render
from dreambooth.ui.job_runner import in_words
from dreambooth.ui.page_controller import PageController

Values = Mapping[str, Any]


class ConceptImport:
    """Answers for one desk."""

    def __init__(self, desk: PageController) -> None:
        self.desk = desk

    @in_words
    def take(self, name: str, source: str, settings: Values) -> str:
        """Take over a concepts list (JSON text) or what lies at a path, and keep the settings that the page shows."""
        model, source = self.desk.model(name), (source or "").strip()
        config = self.desk.edited(model, settings, None)
        if self.desk.bench.locked(name):
            raise UserError(f"{name} is at work: its concepts can be changed when that has ended.")
        if not source:
            raise UserError("Paste a concepts list (JSON), or give the path of one, of a dataset.toml or a folder.")
        if not source.startswith("["):
            took = actions.images.import_configuration(model, Path(source), config)
            return _took(took["concepts"], took["taken"], took["without"])
        concepts, ignored = read_concepts(source)
        model.save(dataclasses.replace(config, concepts=concepts))
        return _took(len(concepts), [], [f"{key} has no effect here." for key in ignored])

    @in_words
    def write(self, name: str, path: str, settings: Values, concepts: Sequence[Values]) -> str:
        """What the page shows as a dataset.toml."""
        config = self.desk.edited(self.desk.model(name), settings, concepts)
        if not (path or "").strip():
            raise UserError("Give the path of the dataset.toml that is to be written.")
        written = actions.images.export_toml(config, Path(path.strip()))
        return render.lines([f"Wrote {written['path']}.", *written["without"]])


def _took(count: int, taken: Sequence[str], without: Sequence[str]) -> str:
    return render.lines([f"Took over {count} concept{'' if count == 1 else 's'}.", *taken]) + render.warnings(without)
