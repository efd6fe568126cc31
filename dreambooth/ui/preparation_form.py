"""The Prepare form of the Images tab, created from the declarations of its options."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.preparation import PREPARE_OPTIONS
from dreambooth.ui import render
from dreambooth.ui.components import button, message
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.preparation_controller import PreparationController

BUCKET_SETTINGS = ("resolution", "bucket_step", "bucket_min_side", "bucket_max_side")


class PreparationForm:
    """Options, buttons, and the result of the last dry run or preparation."""

    def __init__(self) -> None:
        self.fields = Fields(PREPARE_OPTIONS, "db_prepare_")
        with gr.Accordion("Prepare", open=False, elem_id="db_pictures_prepare"):
            self.fields.add_groups("Settings", first_open=3)
            self.dependencies = [self.fields.controls[key] for key in self.fields.dependencies()]
            self.disabled = control(gr.HTML, self._disabled(*self._defaults()), elem_classes=["db_unusable"])
            with gr.Row():
                self.dry_run = button("Dry run", "db_prepare_dry_run")
                self.prepare = button("Prepare", "db_prepare_start")
                self.undo = button("Undo last", "db_prepare_undo")
            with gr.Row():
                self.copy_buckets = button("Copy bucket settings", "db_prepare_as_in_settings")
                self.use_prepared = button("Use prepared folder", "db_prepare_take")
            self.message = message("db_prepare_said")
            self.result = message("db_prepare_outcome")

    def job_buttons(self) -> list[Any]:
        """The buttons that start a job."""
        return [self.dry_run, self.prepare, self.undo]

    def result_html(self) -> str:
        """The result of the last dry run or preparation on this server."""
        return self.preparation.result

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        """``folder``: of the tab; ``model``: dropdown of the chosen model; ``settings``: fields of its settings."""
        self.preparation = PreparationController(page_controller)
        inputs = [model, folder, *self.fields.components()]
        on(self.dry_run.click, self._with_options(self.preparation.dry_run), inputs, self.message)
        on(self.prepare.click, self._with_options(self.preparation.prepare), inputs, self.message)
        on(self.undo.click, self.preparation.undo, [model, folder], self.message)
        on(self.use_prepared.click, lambda: self.preparation.prepared_folder or gr.update(), outputs=folder)
        training, own = ([fields.controls[key] for key in BUCKET_SETTINGS] for fields in (settings, self.fields))
        on(self.copy_buckets.click, lambda *values: list(values), training, own)
        changes = [component.change for component in self.dependencies]
        on(changes, self._disabled, self.dependencies, self.disabled, always_last=True)

    def _with_options(self, handler: Any) -> Any:
        return lambda model, folder, *values: handler(model, folder, self.fields.values(list(values)))

    def _defaults(self) -> list[Any]:
        return [PREPARE_OPTIONS[key].default for key in self.fields.dependencies()]

    def _disabled(self, *values: Any) -> str:
        return render.disabled(self.fields.without_effect(list(values)))
