"""The Images form: a model's own images by drag and drop or paste, with their captions and tokens."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth.images.uploads import Upload
from dreambooth.settings import CONCEPT
from dreambooth.text import count
from dreambooth.ui import render, render_images
from dreambooth.ui.components import button, message
from dreambooth.ui.concepts_tab import MAX_CONCEPTS, ConceptsTab
from dreambooth.ui.fields import create_control
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.upload_controller import PER_PAGE, TOKENS, ImagePage, ShownImage, UploadController

Updates = list[Any]


class _Slot:
    """One image of the page: thumbnail, caption and a button that removes it."""

    def __init__(self, number: int) -> None:
        with gr.Column(visible=False, min_width=150, elem_id=f"db_upload_image_{number}") as self.column:
            self.thumbnail = control(gr.HTML, elem_classes=["db_upload_thumbnail"])
            self.caption = control(
                gr.Textbox, label="Caption", lines=2, max_lines=6, elem_id=f"db_upload_caption_{number}"
            )
            self.remove = button("Remove", f"db_upload_remove_{number}")
        self.shown = gr.State(value=("", ""))  # name of the image, and its caption on disk

    def outputs(self) -> list[Any]:
        return [self.column, self.thumbnail, self.caption, self.shown]

    def updates(self, image: ShownImage | None) -> Updates:
        if image is None:
            return [gr.update(visible=False), "", gr.update(value=""), ("", "")]
        label = f"Caption of {image.name}"
        return [
            gr.update(visible=True),
            render_images.thumbnail(image.name, image.uri),
            gr.update(value=image.caption, label=label),
            (image.name, image.caption),
        ]


class UploadForm:
    """Creates its controls in the container that it is created in; :meth:`wire` connects them."""

    def __init__(self) -> None:
        with gr.Row(elem_id="db_upload_tokens"):
            self.tokens = [create_control(CONCEPT[key], "db_upload_") for key in TOKENS]
        self.files = control(
            gr.File,
            label="Drop images here, paste or choose them",
            file_count="multiple",
            height=150,
            elem_id="db_upload_files",
        )
        self.message = message("db_upload_said")
        with gr.Row(elem_id="db_upload_images"):
            self.slots = [_Slot(number) for number in range(1, PER_PAGE + 1)]
        with gr.Row(visible=False, elem_id="db_upload_pages") as self.pager:
            self.back = button("‹ Previous", "db_upload_back")
            self.where = control(gr.HTML, elem_id="db_upload_where")
            self.forward = button("Next ›", "db_upload_forward")

    def wire(self, page_controller: PageController, model: Any, concepts: ConceptsTab, visible_concepts: Any) -> None:
        """``model``: the dropdown of the chosen model; ``concepts``: the fields that get the images and words;
        ``visible_concepts``: the gr.State with the number of concepts that are shown.
        """
        self.uploads = UploadController(page_controller)
        self.number = gr.State(value=0)  # of the page
        self.page_outputs = [self.number, self.pager, self.where, *(part for s in self.slots for part in s.outputs())]
        on(model.change, self._open, model, [self.message, *self.tokens, *self.page_outputs])
        acknowledged = on(self.files.upload, _acknowledge, self.files, self.message)
        added = on(
            acknowledged.then,
            self._add,
            [model, self.files, *self.tokens],
            [self.files, self.message, *self.page_outputs],
        )
        for by, turn in ((-1, self.back), (1, self.forward)):
            on(turn.click, functools.partial(self._turn, by), [model, self.number], self.page_outputs)
        for slot in self.slots:
            inputs = [model, slot.shown, slot.caption]
            on([slot.caption.blur, slot.caption.submit], self._save_caption, inputs, [self.message, slot.shown])
            on(slot.remove.click, self._remove, [model, slot.shown, self.number], [self.message, *self.page_outputs])
        self._wire_concepts(added, model, concepts, visible_concepts)

    def _wire_concepts(self, added: Any, model: Any, concepts: ConceptsTab, visible_concepts: Any) -> None:
        """Write folder and words into the concept of these images, on the page; and its words back into this form."""
        written = ("instance_data_dir", "default_caption", "save_sample_prompt", *TOKENS)
        directories = [fields.controls["instance_data_dir"] for fields in concepts.concepts]
        outputs = [fields.controls[key] for fields in concepts.concepts for key in written]

        def write(name: str, instance: str, class_token: str, visible: int, *shown: str) -> Updates:
            index = self.uploads.concept_index(name, shown)
            unchanged: Updates = [gr.update() for _ in range(MAX_CONCEPTS * (len(written) + 1))]
            if index is None or index >= MAX_CONCEPTS:
                return [visible, *unchanged]
            values = self.uploads.concept_values(name, shown[index], instance, class_token)
            updates = [
                gr.update(value=values[key]) if number == index and key in values else gr.update()
                for number in range(MAX_CONCEPTS)
                for key in written
            ]
            visible = max(visible, index + 1)
            return [visible, *(gr.update(visible=n < visible) for n in range(MAX_CONCEPTS)), *updates]

        events = [added.then, *(event for token in self.tokens for event in (token.input, token.blur))]
        outputs = [visible_concepts, *concepts.accordions, *outputs]
        on(events, write, [model, *self.tokens, visible_concepts, *directories], outputs, always_last=True)

        def read(number: int, name: str, directory: str, token: str) -> Any:
            directories = [""] * number + [directory]
            is_own = bool(directory) and self.uploads.concept_index(name, directories) == number
            return token if is_own else gr.update()

        for number, fields in enumerate(concepts.concepts):
            for key, token in zip(TOKENS, self.tokens, strict=True):
                inputs = [model, fields.controls["instance_data_dir"], fields.controls[key]]
                on(fields.controls[key].blur, functools.partial(read, number), inputs, token)

    # -- handlers ---------------------------------------------------------------------------------------------

    def _open(self, name: str | None) -> Updates:
        page = self.uploads.page(name, 0)
        return [render.lines(page.problems, "db_warning"), *self.uploads.tokens(name), *self._page_updates(page)]

    def _add(self, name: str | None, files: Sequence[Any] | None, instance: str, class_token: str) -> Updates:
        text = self.uploads.add(name, [_upload(file) for file in files or []], instance, class_token)
        return [gr.update(value=None), text, *self._page_updates(self.uploads.page(name, 0))]

    def _turn(self, by: int, name: str | None, number: int) -> Updates:
        return self._page_updates(self.uploads.page(name, number + by))

    def _save_caption(self, name: str | None, shown: Sequence[str], text: str) -> Updates:
        image, before = shown
        said, now = self.uploads.save_caption(name, image, before, text)
        return [said or gr.update(), (image, now)]

    def _remove(self, name: str | None, shown: Sequence[str], number: int) -> Updates:
        return [self.uploads.remove(name, shown[0]), *self._page_updates(self.uploads.page(name, number))]

    def _page_updates(self, page: ImagePage) -> Updates:
        images = [*page.images, *[None] * PER_PAGE][:PER_PAGE]
        first = page.number * PER_PAGE + 1
        where = f"{first:,} to {first + len(page.images) - 1:,} of {count(page.total, 'image')}"
        slots = [update for slot, image in zip(self.slots, images, strict=True) for update in slot.updates(image)]
        return [page.number, gr.update(visible=page.pages > 1), render.lines([where]), *slots]


def _acknowledge(files: Sequence[Any] | None) -> str:
    return render.lines([f"Checking {count(len(files or []), 'file')}…"])


def _upload(file: Any) -> Upload:
    """An upload as Gradio hands it over: a path, or in Gradio 3 an object that has one."""
    path = Path(getattr(file, "name", file))
    return Upload(os.path.basename(getattr(file, "orig_name", None) or path.name), path)
