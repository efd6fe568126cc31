"""Import and export of concepts: what the buttons of the Concepts list do. No Gradio: plain values in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.paths import clean_path
from dreambooth.text import count
from dreambooth.ui import render
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController

Values = Mapping[str, Any]


class ConceptImport:
    """Concepts from files and into files."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller

    @errors_as_html
    def import_from(self, name: str, source: str, settings: Values) -> str:
        """Import concepts into model ``name``, and save the settings that the page shows.

        ``source``: concepts as JSON, or the path of a configuration or folder.
        """
        model, source = self.page_controller.model(name), (source or "").strip()
        config = self.page_controller.edited_config(model, settings, None)
        if self.page_controller.job_runner.is_locked(name):
            raise UserError(f"{name} is in use by a running job. Import the concepts when it has finished.")
        if not source:
            raise UserError(
                "Paste a concepts list (JSON), or enter the path of one, of another trainer's file or of a folder."
            )
        if not source.startswith(("[", "{")):
            report = actions.images.import_configuration(model, clean_path(source), config)
            return _summary(report["concepts"], report["taken"], report["without"])
        from dreambooth.interop.input_kind import recognize_concepts

        found = recognize_concepts(source)
        missing = actions.images.require_images(found.concepts)
        model.save(dataclasses.replace(config, concepts=found.concepts))
        return _summary(len(found.concepts), found.imported, [*missing, *found.unsupported])

    @errors_as_html
    def export_to(self, name: str, path: str, settings: Values, concepts: Sequence[Values]) -> str:
        """Write the concepts that the page shows to a new dataset.toml."""
        config = self.page_controller.edited_config(self.page_controller.model(name), settings, concepts)
        if not (path or "").strip():
            raise UserError("Enter the path of the dataset.toml to write.")
        written = actions.images.export_toml(config, clean_path(path))
        return render.lines([f"Wrote {written['path']}.", *written["without"]])


def _summary(concepts: int, imported: Sequence[str], unsupported: Sequence[str]) -> str:
    return render.lines([f"Imported {count(concepts, 'concept')}.", *imported]) + render.warnings(unsupported)
