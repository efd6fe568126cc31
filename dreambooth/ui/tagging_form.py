"""The Auto-caption form of the Images tab, created from the declarations of its options."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.tagging import TAG_OPTIONS
from dreambooth.ui.components import button, message
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.tagging_controller import TRIAL_IMAGES, TaggingController


class TaggingForm:
    """The model, its options, and the result of the last trial or job."""

    def __init__(self) -> None:
        self.fields = Fields(TAG_OPTIONS, "db_tag_")
        with gr.Accordion("Auto-caption", open=False, elem_id="db_tag_form"):
            self.fields.add("model")
            self.fields.add_groups("Settings")
            with gr.Row():
                self.try_some = button(f"Try on {TRIAL_IMAGES} images", "db_tag_try")
                self.tag_all = button("Caption all images", "db_tag_all")
            self.message = message("db_tag_said")
            self.result = control(gr.HTML, elem_id="db_tag_made")

    def job_buttons(self) -> list[Any]:
        """The buttons that start a job."""
        return [self.try_some, self.tag_all]

    def result_html(self) -> str:
        """The result of the last trial or job on this server."""
        return self.tagging.result

    def file_controls(self) -> list[tuple[str, Any]]:
        """(kind of files, control) of the controls that offer files of the host."""
        return self.fields.file_controls()

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        """``folder``: of the tab; ``model``: the dropdown of the chosen model. Its settings don't matter here."""
        self.tagging = TaggingController(page_controller)
        inputs = [model, folder, *self.fields.components()]
        outputs = [self.message, *self.fields.secrets()]
        on(self.try_some.click, self._with_options(self.tagging.try_some), inputs, outputs)
        on(self.tag_all.click, self._with_options(self.tagging.tag_all), inputs, outputs)

    def _with_options(self, handler: Any) -> Any:
        def handle(model: str | None, folder: str, *values: Any) -> list[Any]:
            error = handler(model, folder, self.fields.values(list(values)))
            # A secret is sent once and then cleared in the browser too.
            secrets = [gr.update() if error else gr.update(value="") for _ in self.fields.secrets()]
            return [error, *secrets]

        return handle
