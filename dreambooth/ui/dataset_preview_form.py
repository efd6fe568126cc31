"""The Dataset preview form: images as a run would use them, page by page, and their use as concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Concept
from dreambooth.text import count
from dreambooth.ui import render
from dreambooth.ui.components import button, message
from dreambooth.ui.concepts_tab import MAX_CONCEPTS, ConceptsTab
from dreambooth.ui.dataset_preview import DatasetPreviewController
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on, with_change_event
from dreambooth.ui.page_controller import PageController

Updates = list[Any]
NEW = "New concept"


class DatasetPreviewForm:
    """Buttons, totals and warnings, gallery and table."""

    def __init__(self) -> None:
        with gr.Accordion("Dataset preview", open=True, elem_id="db_look_form"):
            with gr.Row(elem_id="db_look_buttons"):
                self.start = button("Preview", "db_look", variant="primary")
                self.start_concepts = button("Preview concepts", "db_look_concepts")
                self.stop = button("Stop", "db_look_stop")
            self.summary = with_change_event(message("db_look_said"))
            with gr.Row(elem_id="db_look_use_row"):
                choices = [NEW, *(f"Concept {number}" for number in range(1, MAX_CONCEPTS + 1))]
                self.use = button("Use as concept", "db_look_use")
                self.use_as = _dropdown("Use as", "db_look_use_as", choices=choices, value=NEW)
            self.use_message = message("db_look_use_said")
            with gr.Row(elem_id="db_look_pages"):
                self.filter = _dropdown("Show", "db_look_only", choices=[])
                self.back = button("Previous", "db_look_back")
                self.forward = button("Next", "db_look_forward")
            self.gallery = control(gr.HTML, elem_id="db_look_gallery")
            self.table = control(gr.HTML, elem_id="db_look_table")
            # javascript/dreambooth.js writes the number of a clicked image here.
            self.picked = control(gr.Textbox, elem_id="db_look_picked", elem_classes=["db_hidden"])
            self.large = control(gr.HTML, elem_id="db_look_large")

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        """``folder``: of the tab; ``model``: dropdown of the chosen model; ``settings``: fields of its settings."""
        self.previews = DatasetPreviewController(page_controller)
        self.key, self.shown_key, self.page = gr.State(value=""), gr.State(value=""), gr.State(value=0)
        self._settings = settings

        def start(old_key: str, name: str | None, path: str, *values: Any) -> tuple[str, str, str]:
            return *self.previews.start_for_folder(old_key, name, path, settings.values(list(values))), ""

        inputs = [self.key, model, folder, *settings.components()]
        on(self.start.click, start, inputs, [self.key, self.summary, self.use_message])
        on(self.stop.click, self.previews.stop, self.key)
        page = [self.gallery, self.table, self.filter, self.page]
        on(
            self.summary.fingerprint.change,
            self._poll,
            [self.key, self.shown_key],
            [self.summary, self.shown_key, *page],
        )
        position = [self.key, self.filter, self.page]
        on(self.filter.change, lambda key, chosen, _: self._page(key, chosen, 0), position, page)
        on(self.back.click, lambda key, chosen, n: self._page(key, chosen, n - 1), position, page)
        on(self.forward.click, lambda key, chosen, n: self._page(key, chosen, n + 1), position, page)
        on(self.picked.change, self.previews.large, [self.key, self.picked], self.large)

    def wire_concepts(
        self,
        concepts: ConceptsTab,
        inputs: Sequence[Any],
        concept_updates: Callable[[Sequence[Concept]], Updates],
        concept_outputs: Sequence[Any],
    ) -> None:
        """``inputs``: the chosen model, all settings and concepts of the page.

        ``concept_updates(concepts)``: the updates of ``concept_outputs``, the fields of all concepts.
        """
        n = len(self._settings.declared)

        def submitted(values: Sequence[Any]) -> tuple[str | None, dict[str, Any], list[dict[str, Any]]]:
            name, *fields = values
            return name, self._settings.values(fields[:n]), concepts.values(fields[n:])

        def start(old_key: str, *values: Any) -> tuple[str, str, str]:
            return *self.previews.start_for_concepts(old_key, *submitted(values)), ""

        def use(key: str, use_as: str, *values: Any) -> Updates:
            at = None if use_as == NEW else int(use_as.split()[-1]) - 1
            before = submitted(values)[2]
            try:
                merged, settings = self.previews.use_as_concept(key, at, before)
                if len(merged) > MAX_CONCEPTS:
                    raise UserError(f"The page has fields for {MAX_CONCEPTS} concepts, but this makes {len(merged)}.")
            except UserError as error:
                return [*[gr.update()] * (n + len(concept_outputs)), render.refusal(error.problems)]
            added = _used(merged) - sum(bool(concept["instance_data_dir"]) for concept in before)
            lines = [_summary(added, use_as), *_changed(settings)]
            return [*self._settings.updates(settings), *concept_updates(merged), render.lines(lines)]

        on(self.start_concepts.click, start, [self.key, *inputs], [self.key, self.summary, self.use_message])
        outputs = [*self._settings.components(), *concept_outputs, self.use_message]
        on(self.use.click, use, [self.key, self.use_as, *inputs], outputs)

    def _poll(self, key: str, shown_key: str) -> Updates:
        """Progress, whose change calls this again; once the preview is finished, its summary and first page."""
        if not key or key == shown_key:
            return [gr.update()] * 6
        progress = self.previews.poll(key)
        if progress is not None:
            return [progress, *[gr.update()] * 5]
        return [self.previews.summary(key), key, *self._page(key, "", 0)]

    def _page(self, key: str, chosen: str, page: int) -> Updates:
        shown = self.previews.page(key, chosen, page)
        filters = gr.update(choices=shown.filters, value=shown.filter or None)
        return [shown.gallery, shown.table, filters, shown.page]


def _used(concepts: Sequence[Concept]) -> int:
    return sum(bool(concept.instance_data_dir) for concept in concepts)


def _summary(added: int, use_as: str) -> str:
    if added < 1:
        return f"Updated {use_as}. Click Save Params to keep it."
    return f"Added {count(added, 'concept')}. Click Save Params to keep {'it' if added == 1 else 'them'}."


def _changed(settings: Any) -> list[str]:
    changes = ", ".join(f"{SETTINGS[key].label}: {value}" for key, value in settings.items())
    return [f"Changed settings: {changes}."] if changes else []


def _dropdown(label: str, elem_id: str, **options: Any) -> Any:
    return control(gr.Dropdown, label=label, show_label=False, container=False, elem_id=elem_id, **options)
