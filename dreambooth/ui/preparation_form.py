"""The form Prepare of the Pictures tab, drawn from its declaration."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.preparation import PREPARE_OPTIONS
from dreambooth.ui import render
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.preparation_controller import PreparationController

BUCKETS = ("resolution", "bucket_step", "bucket_min_side", "bucket_max_side")


class PreparationForm:
    """Options, buttons, and below them what would be done or was done."""

    def __init__(self) -> None:
        self.fields = Fields(PREPARE_OPTIONS, "db_prepare_")
        with gr.Accordion("Prepare", open=False, elem_id="db_pictures_prepare"):
            self.fields.add_groups("Settings", first_open=3)
            self.deciders = [self.fields.drawn[key] for key in self.fields.deciders()]
            self.unusable = control(gr.HTML, self._unusable(*self._defaults()), elem_classes=["db_unusable"])
            with gr.Row():
                self.dry_run = _button("Dry run", "dry_run")
                self.prepare = _button("Prepare", "start")
                self.undo = _button("Undo last", "undo")
            with gr.Row():
                self.as_in_settings = _button("Buckets as in Settings", "as_in_settings")
                self.take = _button("Go on with the prepared folder", "take")
            self.said = control(gr.HTML, elem_id="db_prepare_said", elem_classes=["db_said_here"])
            self.outcome = control(gr.HTML, elem_id="db_prepare_outcome", elem_classes=["db_said_here"])

    def buttons(self) -> list[Any]:
        """What waits for the end of other work."""
        return [self.dry_run, self.prepare, self.undo]

    def look(self) -> str:
        """What came of the last preparation on this server."""
        return self.preparer.outcome

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        """``folder``: the tab's; ``model``: the control that says which one is shown; ``settings``: its fields."""
        self.preparer = PreparationController(page_controller)
        asked = [model, folder, *self.fields.components()]
        on(self.dry_run.click, self._with(self.preparer.dry_run), asked, self.said)
        on(self.prepare.click, self._with(self.preparer.prepare), asked, self.said)
        on(self.undo.click, self.preparer.undo, [model, folder], self.said)
        on(self.take.click, lambda: self.preparer.destination or gr.update(), outputs=folder)
        theirs, ours = ([fields.drawn[key] for key in BUCKETS] for fields in (settings, self.fields))
        on(self.as_in_settings.click, lambda *values: list(values), theirs, ours)
        on([part.change for part in self.deciders], self._unusable, self.deciders, self.unusable, always_last=True)

    def _with(self, make: Any) -> Any:
        return lambda model, folder, *given: make(model, folder, self.fields.values(list(given)))

    def _defaults(self) -> list[Any]:
        return [PREPARE_OPTIONS[key].default for key in self.fields.deciders()]

    def _unusable(self, *deciding: Any) -> str:
        return render.unusable(self.fields.unusable(list(deciding)))


def _button(label: str, name: str) -> Any:
    return control(gr.Button, label, size="sm", elem_id=f"db_prepare_{name}")
