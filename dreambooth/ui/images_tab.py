"""The Images tab: preview, caption, tag and prepare the images of one folder."""

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
    """The folder at the top, and a form for each task below it."""

    def __init__(self) -> None:
        self.folder = control(
            gr.Textbox,
            label="Folder",
            info="A folder of images, a folder with subfolders named as sd-scripts expect, a concepts list "
            "(.json), or a configuration of another trainer.",
            max_lines=1,
            elem_id="db_pictures_folder",
        )
        self.preview, self.captions = DatasetPreviewForm(), CaptionsForm()
        self.tagging, self.preparation = TaggingForm(), PreparationForm()

    def file_controls(self) -> list[tuple[str, Any]]:
        """(kind of files, control) of the controls that offer files of the host."""
        return self.tagging.file_controls()

    def job_buttons(self) -> list[Any]:
        """The buttons that start a job. Previews and captions need none: they don't wait for a running job."""
        return [*self.tagging.job_buttons(), *self.preparation.job_buttons()]

    def results(self) -> list[Any]:
        """The components with the results of the forms' last jobs, which all browsers show."""
        return [form.result for form in (self.tagging, self.preparation)]

    def result_html(self) -> dict[str, str]:
        """The current contents of :meth:`results`, in the same order, by elem_id."""
        return {form.result.elem_id: form.result_html() for form in (self.tagging, self.preparation)}

    def wire(self, page_controller: PageController, model: Any, settings: Fields) -> None:
        """``model``: the dropdown of the chosen model; ``settings``: the fields of its settings."""
        for form in (self.preview, self.captions, self.tagging, self.preparation):
            form.wire(page_controller, self.folder, model, settings)
