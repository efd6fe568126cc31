"""The Pictures tab: one folder, and what can be seen and done with the pictures and captions in it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.ui.captions_form import CaptionsForm
from dreambooth.ui.dataset_preview_form import DatasetPreviewForm
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.preparation_form import PreparationForm
from dreambooth.ui.tagging_form import TaggingForm


class ImagesTab:
    """A folder at the top; below it a form for each thing to do, in the order in which people do them."""

    def __init__(self) -> None:
        self.folder = control(
            gr.Textbox,
            label="Folder",
            info="With the pictures to look at and work on: a flat folder, folders as kohya has them, a concepts list "
            "(.json) or a dataset.toml.",
            max_lines=1,
            elem_id="db_pictures_folder",
        )
        self.look, captions, self.tagging = DatasetPreviewForm(), CaptionsForm(), TaggingForm()
        self.forms: list[Any] = [self.look, captions, self.tagging, PreparationForm()]

    def listed(self) -> list[tuple[str, Any]]:
        """(kind of files, control that offers them)."""
        return self.tagging.listed()

    def buttons(self) -> list[Any]:
        """What waits for the end of other work."""
        return [button for form in self.forms for button in form.buttons()]

    def outcomes(self) -> list[Any]:
        """What shows how the forms' work ended, for all browsers that have the page open."""
        return [form.outcome for form in self.forms if hasattr(form, "outcome")]

    def looks(self) -> dict[str, str]:
        """What is to be seen in :meth:`outcomes` now, in the same order."""
        return {form.outcome.elem_id: form.look() for form in self.forms if hasattr(form, "outcome")}

    def wire(self, desk: PageController, model: Any, settings: Fields) -> None:
        """``model``: the control that says which one is shown; ``settings``: its fields."""
        for form in self.forms:
            form.wire(desk, self.folder, model, settings)
