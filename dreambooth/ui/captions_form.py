"""The Captions form: tags with their counts, pictures with their captions, edits with a preview, undo and redo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dreambooth.settings.caption_edits import (
    ADD_TAGS,
    MERGE_TAGS,
    REMOVE_TAGS,
    REPLACE_TEXT,
    EDIT_SCOPE,
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
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.page_controller import PageController

# Each kind of edit: its tab, its options, and what they are parsed as.
EDITS: dict[str, tuple[str, Any, type]] = {
    "replace": ("Replace", REPLACE_TEXT, ReplaceText),
    "merge": ("Merge or rename", MERGE_TAGS, MergeTags),
    "add": ("Add", ADD_TAGS, AddTags),
    "remove": ("Remove", REMOVE_TAGS, RemoveTags),
    "sort": ("Sort", SORT_TAGS, SortTags),
    "tidy": ("Tidy", TIDY_TAGS, TidyTags),
}
MOST_FIRST = "most frequent first"


class CaptionsForm:
    """What is seen first stands first; edits of many captions below."""

    def __init__(self) -> None:
        with gr.Accordion("Captions", open=False, elem_id="db_captions_form"):
            with gr.Row(elem_id="db_captions_top"):
                self.show = _button("Show the captions", "show", variant="primary")
                self.undo = _button("Undo", "undo", interactive=False)
                self.redo = _button("Redo", "redo", interactive=False)
            self.said = control(gr.HTML, elem_id="db_captions_said", elem_classes=["db_said_here"])
            with gr.Row(elem_id="db_captions_tags_row"):
                self.part = control(gr.Textbox, label="Tags with", max_lines=1, elem_id="db_captions_part")
                orders = [MOST_FIRST, BY_NAME]
                self.order = control(
                    gr.Dropdown,
                    label="Order of the tags",
                    choices=orders,
                    value=MOST_FIRST,
                    elem_id="db_captions_order",
                )
            self.tags = control(gr.HTML, elem_id="db_captions_tags")
            self.pictures = control(gr.HTML, elem_id="db_captions_pictures")
            self._draw_one()
            self._draw_edits()
            # A click on a tag or picture is told here (javascript/dreambooth.js).
            self.picked = control(gr.Textbox, elem_id="db_captions_picked", elem_classes=["db_hidden"])

    def _draw_one(self) -> None:
        with gr.Column(visible=False, elem_id="db_captions_one") as self.one:
            self.opened = control(gr.HTML, elem_id="db_captions_opened")
            self.text = control(gr.Textbox, label="Caption", lines=3, max_lines=12, elem_id="db_captions_text",
                                info="What you changed is saved, too, when you go on to another picture.")  # fmt: skip
            with gr.Row():
                self.back = _button("‹ Previous", "back")
                self.save = _button("Save", "save", variant="primary")
                self.forward = _button("Next ›", "forward")

    def _draw_edits(self) -> None:
        self.fields, self.previews = {}, {}
        with control(gr.Tabs, elem_id="db_captions_edits"):
            for name, (title, declared, _) in EDITS.items():
                with gr.TabItem(title, elem_id=f"db_tab_captions_{name}"):
                    self.fields[name] = Fields(declared, f"db_captions_{name}_")
                    self.fields[name].add_all()
                    with gr.Row():
                        self.previews[name] = _button("Preview", f"preview_{name}")
                        if name == "replace":
                            self.find = _button("Show what is found", "find")
        with gr.Accordion("Only some of the pictures", open=False, elem_id="db_captions_scope"):
            self.scope = Fields(EDIT_SCOPE, "db_captions_scope_")
            self.scope.add_all()
        self.preview = control(gr.HTML, elem_id="db_captions_preview")
        self.apply = _button("Change", "apply", variant="primary", interactive=False)

    def buttons(self) -> list[Any]:
        """None of them waits for other work: captions are small, and what takes long says so itself."""
        return []

    def wire(self, page_controller: PageController, folder: Any, model: Any, settings: Fields) -> None:
        self.key = gr.State(value="")
        self.parts: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "key": (self.key, lambda value: value),
            "said": (self.said, _value),
            "undo": (self.undo, _labelled("Undo")),
            "redo": (self.redo, _labelled("Redo")),
            "tags": (self.tags, _value),
            "pictures": (self.pictures, _value),
            "opened": (self.opened, _value),
            "one": (self.one, lambda value: gr.update(visible=value)),
            "text": (self.text, _value),
            "preview": (self.preview, _value),
            "apply": (self.apply, _labelled("Change")),
            "merged": (self.fields["merge"].drawn["tags"], _value),
            "removed": (self.fields["remove"].drawn["tags"], _value),
        }
        captions = CaptionController(page_controller)
        self._answer(self.show.click, captions.show, [folder])
        self._answer(self.picked.change, captions.pick, [self.picked, self.text])
        for field in (self.part, self.order):
            self._answer(field.change, captions.filter, [self.part, self.order])
        self._answer(self.save.click, captions.save, [self.text])
        self._answer(self.back.click, lambda key, text: captions.turn(key, -1, text), [self.text])
        self._answer(self.forward.click, lambda key, text: captions.turn(key, 1, text), [self.text])
        self._answer(self.apply.click, captions.apply, [self.text])
        self._answer(self.undo.click, lambda key, text: captions.step(key, "undo", text), [self.text])
        self._answer(self.redo.click, lambda key, text: captions.step(key, "redo", text), [self.text])
        for name, (_, _, kind) in EDITS.items():
            self._edit(self.previews[name], name, lambda key, *given, kind=kind: captions.preview(key, kind, *given))
        self._edit(self.find, "replace", captions.find)

    def _edit(self, button: Any, name: str, act: Callable[..., Parts]) -> None:
        """Have a button call ``act(key, the options of this edit, the pictures that are meant)``."""
        fields = self.fields[name]
        n = len(fields.declared)

        def called(key: str, *given: Any) -> Parts:
            return act(key, fields.values(list(given[:n])), self.scope.values(list(given[n:])))

        self._answer(button.click, called, [*fields.components(), *self.scope.components()])

    def _answer(self, event: Any, act: Callable[..., Parts], inputs: Sequence[Any]) -> None:
        """Have ``act(key, *inputs)`` answer; the parts of the page that it names change."""

        def answer(*given: Any) -> list[Any]:
            parts = act(*given)
            if "opened" in parts:
                parts["one"] = bool(parts["opened"])
            if "ticked" in parts:
                parts["merged"] = parts["removed"] = parts["ticked"]
            return [update(parts[name]) if name in parts else gr.update() for name, (_, update) in self.parts.items()]

        on(event, answer, [self.key, *inputs], [component for component, _ in self.parts.values()])


def _value(value: Any) -> Any:
    return gr.update(value=value)


def _labelled(otherwise: str) -> Callable[[str], Any]:
    return lambda label: gr.update(value=label or otherwise, interactive=bool(label))


def _button(label: str, name: str, **options: Any) -> Any:
    return control(gr.Button, label, size="sm", elem_id=f"db_captions_{name}", **options)
