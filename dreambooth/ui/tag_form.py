"""The form for captions by machine, drawn from its declaration."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.tagging import TAGGING
from dreambooth.ui.desk import Desk
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.tagging import TRIED, PageTagging


class TagForm:
    """The model and what becomes of captions; below the buttons what was said of the pictures that were tried."""

    def __init__(self) -> None:
        self.fields = Fields(TAGGING, "db_tag_")
        with gr.Accordion("Captions by machine", open=False, elem_id="db_tag_form"):
            self.fields.draw("model")
            self.fields.draw_groups("Settings")
            with gr.Row():
                self.some = control(gr.Button, f"Try on {TRIED} pictures", size="sm", elem_id="db_tag_try")
                self.all = control(gr.Button, "Tag all", size="sm", elem_id="db_tag_all")
            self.said = control(gr.HTML, elem_id="db_tag_said", elem_classes=["db_said_here"])
            self.made = control(gr.HTML, elem_id="db_tag_made")

    def buttons(self) -> list[Any]:
        """What waits for the end of other work."""
        return [self.some, self.all]

    def listed(self) -> list[tuple[str, Any]]:
        """(kind of files, control that offers them)."""
        return self.fields.listed()

    def wire(self, desk: Desk, folder: Any, model: Any, settings: Fields) -> None:
        tagging = PageTagging(desk)
        asked = [model, folder, *self.fields.components()]
        for button, make in ((self.some, tagging.try_some), (self.all, tagging.tag_all)):
            said = on(button.click, self._with(make), asked, [self.said, *self.fields.secrets()])
            on(said.then, tagging.outcome, self.said, self.made)

    def _with(self, make: Any) -> Any:
        """A secret was sent once and is then forgotten, by the browser too."""

        def made(model: str | None, folder: str, *given: Any) -> list[Any]:
            said = make(model, folder, self.fields.values(list(given)))
            return [said, *(gr.update() if said else gr.update(value="") for _ in self.fields.secrets())]

        return made
