"""The form for captions by machine, drawn from its declaration."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.tagging import TAG_OPTIONS
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.tagging_controller import TRIED, TaggingController


class TaggingForm:
    """The model and what becomes of captions; below the buttons what was said of the pictures that were tried."""

    def __init__(self) -> None:
        self.fields = Fields(TAG_OPTIONS, "db_tag_")
        with gr.Accordion("Captions by machine", open=False, elem_id="db_tag_form"):
            self.fields.add("model")
            self.fields.add_groups("Settings")
            with gr.Row():
                self.some = control(gr.Button, f"Try on {TRIED} pictures", size="sm", elem_id="db_tag_try")
                self.all = control(gr.Button, "Tag all", size="sm", elem_id="db_tag_all")
            self.said = control(gr.HTML, elem_id="db_tag_said", elem_classes=["db_said_here"])
            self.outcome = control(gr.HTML, elem_id="db_tag_made")

    def buttons(self) -> list[Any]:
        """What waits for the end of other work."""
        return [self.some, self.all]

    def look(self) -> str:
        """What came of the last work of this form on this server."""
        return self.tagging.outcome

    def listed(self) -> list[tuple[str, Any]]:
        """(kind of files, control that offers them)."""
        return self.fields.listed()

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        self.tagging = TaggingController(page_controller)
        asked = [model, folder, *self.fields.components()]
        answered = [self.said, *self.fields.secrets()]
        on(self.some.click, self._with(self.tagging.try_some), asked, answered)
        on(self.all.click, self._with(self.tagging.tag_all), asked, answered)

    def _with(self, make: Any) -> Any:
        def made(model: str | None, folder: str, *given: Any) -> list[Any]:
            said = make(model, folder, self.fields.values(list(given)))
            # A secret was sent once and is then forgotten, by the browser too.
            secrets = [gr.update() if said else gr.update(value="") for _ in self.fields.secrets()]
            return [said, *secrets]

        return made
