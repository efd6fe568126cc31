"""The Look form: pictures as a run would use them, a page at a time, and what was found there put under Concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Concept
from dreambooth.ui import render
from dreambooth.ui.concepts_tab import DRAWN, ConceptsTab
from dreambooth.ui.dataset_preview import DatasetPreviewController
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, followed, on
from dreambooth.ui.page_controller import PageController

Updates = list[Any]
NEW = "as a new concept"


class DatasetPreviewForm:
    """Buttons, what they came to, and the pictures."""

    def __init__(self) -> None:
        with gr.Accordion("Look", open=True, elem_id="db_look_form"):
            with gr.Row(elem_id="db_look_buttons"):
                self.look = _button("Look", "look", variant="primary")
                self.look_concepts = _button("Look at the concepts", "look_concepts")
                self.stop = _button("Stop", "look_stop")
            self.said = followed(control(gr.HTML, elem_id="db_look_said", elem_classes=["db_said_here"]))
            with gr.Row(elem_id="db_look_use_row"):
                choices = [NEW, *(f"as Concept {number}" for number in range(1, DRAWN + 1))]
                self.use = _button("Use what was found", "look_use")
                self.use_as = _list("Use as", "look_use_as", choices=choices, value=NEW)
            self.use_said = control(gr.HTML, elem_id="db_look_use_said", elem_classes=["db_said_here"])
            with gr.Row(elem_id="db_look_pages"):
                self.only = _list("Show", "look_only", choices=[])
                self.back = _button("Page back", "look_back")
                self.forward = _button("Page on", "look_forward")
            self.gallery = control(gr.HTML, elem_id="db_look_gallery")
            self.table = control(gr.HTML, elem_id="db_look_table")
            # A click on a picture writes its number here (javascript/dreambooth.js).
            self.picked = control(gr.Textbox, elem_id="db_look_picked", elem_classes=["db_hidden"])
            self.large = control(gr.HTML, elem_id="db_look_large")

    def buttons(self) -> list[Any]:
        """None of them waits for other work: pictures are only read."""
        return []

    def wire(self, desk: PageController, folder: Any, model: Any, settings: Fields) -> None:
        self.looking = DatasetPreviewController(desk)
        self.key, self.shown, self.page = gr.State(value=""), gr.State(value=""), gr.State(value=0)
        self._settings = settings

        def at_folder(before: str, name: str | None, path: str, *given: Any) -> tuple[str, str, str]:
            return *self.looking.at_folder(before, name, path, settings.values(list(given))), ""

        asked = [self.key, model, folder, *settings.components()]
        on(self.look.click, at_folder, asked, [self.key, self.said, self.use_said])
        on(self.stop.click, self.looking.stop, self.key)
        pictures = [self.gallery, self.table, self.only, self.page]
        on(self.said.mark.change, self._follow, [self.key, self.shown], [self.said, self.shown, *pictures])
        turned = [self.key, self.only, self.page]
        on(self.only.change, lambda key, only, _: self._pictures(key, only, 0), turned, pictures)
        on(self.back.click, lambda key, only, page: self._pictures(key, only, page - 1), turned, pictures)
        on(self.forward.click, lambda key, only, page: self._pictures(key, only, page + 1), turned, pictures)
        on(self.picked.change, self.looking.large, [self.key, self.picked], self.large)

    def wire_concepts(
        self, concepts: ConceptsTab, everything: Sequence[Any], filled: Any, shown: Sequence[Any]
    ) -> None:
        """``everything``: the model, settings and concepts of the page; ``filled(concepts)`` gives the updates of
        ``shown``, the fields of all concepts.
        """
        n = len(self._settings.declared)

        def parts(given: Sequence[Any]) -> tuple[str | None, dict[str, Any], list[dict[str, Any]]]:
            name, *rest = given
            return name, self._settings.values(rest[:n]), concepts.values(rest[n:])

        def at_concepts(before: str, *given: Any) -> tuple[str, str, str]:
            return *self.looking.at_concepts(before, *parts(given)), ""

        def use(key: str, use_as: str, *given: Any) -> Updates:
            at = None if use_as == NEW else int(use_as.split()[-1]) - 1
            try:
                there, settings = self.looking.use(key, at, parts(given)[2])
                if len(there) > DRAWN:
                    raise UserError(f"There are fields for {DRAWN} concepts, and this would make {len(there)}.")
            except UserError as error:
                return [*[gr.update()] * (n + len(shown)), render.problems(error.problems)]
            fields = [
                self._settings.update(key, settings[key]) if key in settings else gr.update()
                for key in self._settings.declared
            ]
            return [*fields, *filled(there), render.lines(_used(there, settings))]

        on(self.look_concepts.click, at_concepts, [self.key, *everything], [self.key, self.said, self.use_said])
        changed = [*self._settings.components(), *shown, self.use_said]
        on(self.use.click, use, [self.key, self.use_as, *everything], changed)

    def _follow(self, key: str, shown: str) -> Updates:
        """Asked anew by each answer of its own, until the look is done and shown."""
        if not key or key == shown:
            return [gr.update()] * 6
        going_on = self.looking.follow(key)
        if going_on is not None:
            return [going_on, *[gr.update()] * 5]
        return [self.looking.said(key), key, *self._pictures(key, "", 0)]

    def _pictures(self, key: str, only: str, page: int) -> Updates:
        shown = self.looking.page(key, only, page)
        choose = gr.update(choices=shown.choices, value=shown.chosen or None)
        return [shown.gallery, shown.table, choose, shown.page]


def _used(concepts: Sequence[Concept], settings: Any) -> list[str]:
    changed = ", ".join(f"{SETTINGS[key].label}: {value}" for key, value in settings.items())
    return [
        f"{len(concepts)} {'concept stands' if len(concepts) == 1 else 'concepts stand'} under Concepts now; Save "
        "Params keeps them.",
        *([f"Settings that were changed with it: {changed}."] if changed else []),
    ]


def _button(label: str, name: str, **options: Any) -> Any:
    return control(gr.Button, label, size="sm", elem_id=f"db_{name}", **options)


def _list(label: str, name: str, **options: Any) -> Any:
    return control(gr.Dropdown, label=label, show_label=False, container=False, elem_id=f"db_{name}", **options)
