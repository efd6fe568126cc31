"""The Captions form: tags with counts, images with captions, edits with preview, undo and redo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dreambooth.settings.caption_edits import (
    ADD_TAGS,
    EDIT_SCOPE,
    MERGE_TAGS,
    REMOVE_TAGS,
    REPLACE_TEXT,
    SORT_TAGS,
    TIDY_TAGS,
    AddTags,
    MergeTags,
    RemoveTags,
    ReplaceText,
    SortTags,
    TidyTags,
)
from dreambooth.ui.caption_controller import BY_NAME, CaptionController, Parts
from dreambooth.ui.components import button, message
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController

# Kinds of edits: title of the tab, declarations and class of the options.
EDITS: dict[str, tuple[str, Any, type]] = {
    "replace": ("Replace", REPLACE_TEXT, ReplaceText),
    "merge": ("Merge or rename", MERGE_TAGS, MergeTags),
    "add": ("Add", ADD_TAGS, AddTags),
    "remove": ("Remove", REMOVE_TAGS, RemoveTags),
    "sort": ("Sort", SORT_TAGS, SortTags),
    "tidy": ("Tidy", TIDY_TAGS, TidyTags),
}
MOST_FREQUENT = "most frequent first"


class CaptionsForm:
    """Tags and images first, the opened caption below them, then edits of many captions."""

    def __init__(self) -> None:
        with gr.Accordion("Captions", open=False, elem_id="db_captions_form"):
            with gr.Row(elem_id="db_captions_top"):
                self.show = button("Show captions", "db_captions_show", variant="primary")
                self.undo = button("Undo", "db_captions_undo", interactive=False)
                self.redo = button("Redo", "db_captions_redo", interactive=False)
            self.message = message("db_captions_said")
            with gr.Row(elem_id="db_captions_tags_row"):
                self.tag_filter = control(gr.Textbox, label="Filter tags", max_lines=1, elem_id="db_captions_part")
                self.tag_order = control(
                    gr.Dropdown,
                    label="Sort tags",
                    choices=[MOST_FREQUENT, BY_NAME],
                    value=MOST_FREQUENT,
                    elem_id="db_captions_order",
                )
            self.tags = control(gr.HTML, elem_id="db_captions_tags")
            self.images = control(gr.HTML, elem_id="db_captions_pictures")
            self._add_editor()
            self._add_edits()
            # javascript/dreambooth.js writes clicks on tags and images here.
            self.picked = control(gr.Textbox, elem_id="db_captions_picked", elem_classes=["db_hidden"])

    def _add_editor(self) -> None:
        with gr.Column(visible=False, elem_id="db_captions_one") as self.editor:
            self.opened = control(gr.HTML, elem_id="db_captions_opened")
            self.text = control(
                gr.Textbox,
                label="Caption",
                info="Changes are also saved when you open another image.",
                lines=3,
                max_lines=12,
                elem_id="db_captions_text",
            )
            with gr.Row():
                self.back = button("‹ Previous", "db_captions_back")
                self.save = button("Save", "db_captions_save", variant="primary")
                self.forward = button("Next ›", "db_captions_forward")

    def _add_edits(self) -> None:
        self.fields, self.previews = {}, {}
        with control(gr.Tabs, elem_id="db_captions_edits"):
            for name, (title, declared, _) in EDITS.items():
                with gr.TabItem(title, elem_id=f"db_tab_captions_{name}"):
                    self.fields[name] = Fields(declared, f"db_captions_{name}_")
                    self.fields[name].add_all()
                    with gr.Row():
                        self.previews[name] = button("Preview", f"db_captions_preview_{name}")
                        if name == "replace":
                            self.find = button("Show matches", "db_captions_find")
        with gr.Accordion("Only some images", open=False, elem_id="db_captions_scope"):
            self.scope = Fields(EDIT_SCOPE, "db_captions_scope_")
            self.scope.add_all()
        self.preview = control(gr.HTML, elem_id="db_captions_preview")
        self.apply = button("Change", "db_captions_apply", variant="primary", interactive=False)

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        """``folder``: of the tab. The chosen model and its settings don't matter to captions."""
        self.key = gr.State(value="")
        # Parts that the handlers return by name: component, and function from the new content to its update.
        self.parts: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "key": (self.key, lambda value: value),
            "message": (self.message, _value),
            "undo": (self.undo, _labeled("Undo")),
            "redo": (self.redo, _labeled("Redo")),
            "tags": (self.tags, _value),
            "images": (self.images, _value),
            "opened": (self.opened, _value),
            "editor": (self.editor, lambda value: gr.update(visible=value)),
            "text": (self.text, _value),
            "preview": (self.preview, _value),
            "apply": (self.apply, _labeled("Change")),
            "tags_to_merge": (self.fields["merge"].controls["tags"], _value),
            "tags_to_remove": (self.fields["remove"].controls["tags"], _value),
        }
        captions = CaptionController(page_controller)
        self._handle(self.show.click, captions.show, [folder])
        self._handle(self.picked.change, captions.pick, [self.picked, self.text])
        for field in (self.tag_filter, self.tag_order):
            self._handle(field.change, captions.filter, [self.tag_filter, self.tag_order])
        self._handle(self.save.click, captions.save, [self.text])
        self._handle(self.back.click, lambda key, text: captions.turn(key, -1, text), [self.text])
        self._handle(self.forward.click, lambda key, text: captions.turn(key, 1, text), [self.text])
        self._handle(self.apply.click, captions.apply, [self.text])
        self._handle(self.undo.click, lambda key, text: captions.step(key, "undo", text), [self.text])
        self._handle(self.redo.click, lambda key, text: captions.step(key, "redo", text), [self.text])
        for name, (_, _, kind) in EDITS.items():
            self._handle_edit(
                self.previews[name].click, name, lambda key, *values, kind=kind: captions.preview(key, kind, *values)
            )
        self._handle_edit(self.find.click, "replace", captions.find)

    def _handle_edit(self, event: Any, name: str, handler: Callable[..., Parts]) -> None:
        """Call ``handler(key, options, scope)`` of the edit ``name`` for an event."""
        fields = self.fields[name]
        n = len(fields.declared)

        def handle(key: str, *values: Any) -> Parts:
            return handler(key, fields.values(list(values[:n])), self.scope.values(list(values[n:])))

        self._handle(event, handle, [*fields.components(), *self.scope.components()])

    def _handle(self, event: Any, handler: Callable[..., Parts], inputs: Sequence[Any]) -> None:
        """Call ``handler(key, *inputs)`` for an event, and update the parts that it returns."""

        def handle(*values: Any) -> list[Any]:
            parts = handler(*values)
            if "opened" in parts:
                parts["editor"] = bool(parts["opened"])
            if "selected_tags" in parts:
                parts["tags_to_merge"] = parts["tags_to_remove"] = parts["selected_tags"]
            return [update(parts[name]) if name in parts else gr.update() for name, (_, update) in self.parts.items()]

        on(event, handle, [self.key, *inputs], [component for component, _ in self.parts.values()])


def _value(value: Any) -> Any:
    return gr.update(value=value)


def _labeled(default: str) -> Callable[[str], Any]:
    """Function from a button's label to its update; without a label, the button is disabled."""
    return lambda label: gr.update(value=label or default, interactive=bool(label))
