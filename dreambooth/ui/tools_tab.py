"""The Tools tab: a form for each thing that can be done with model files, drawn from its declaration."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.tools import EXTRACT_OPTIONS, INSPECT_OPTIONS, MERGE_OPTIONS, MERGE_INPUT, RESIZE_OPTIONS
from dreambooth.ui import render
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.tools_controller import Tools

DRAWN = 8  # LoRAs that can be merged at once
LISTED = 2  # shown at first
HOW_TO_MERGE = (
    "Each with its weight for the unet and its weight for the text encoder; a negative one takes away. Into one LoRA, "
    "or into a checkpoint of the model that is chosen under Select, as Generate Ckpt writes it."
)


class ToolsTab:
    """Each form has its button, and below it a line for what stands in the way."""

    def __init__(self) -> None:
        self.extraction = Fields(EXTRACT_OPTIONS, "db_extract_")
        self.resizing = Fields(RESIZE_OPTIONS, "db_resize_")
        self.merging = Fields(MERGE_OPTIONS, "db_merge_")
        self.looking = Fields(INSPECT_OPTIONS, "db_inspect_")
        self.parts = [Fields(MERGE_INPUT, f"db_m{number}_") for number in range(1, DRAWN + 1)]
        with gr.Accordion("Merge LoRAs", open=True, elem_id="db_tool_merge"):
            control(gr.HTML, render.lines([HOW_TO_MERGE]), elem_id="db_merge_help")
            self._draw_parts()
            self.merging.add_all()
            with gr.Row():
                self.merge = _button("Merge into one LoRA", "merge")
                self.merge_ckpt = _button("Merge into the model's checkpoint", "merge_ckpt")
            self.merge_said = _said("merge")
        with gr.Accordion("Extract a LoRA from two checkpoints", open=False, elem_id="db_tool_extract"):
            self.extraction.add_all()
            self.extract = _button("Extract", "extract")
            self.extract_said = _said("extract")
        with gr.Accordion("Resize a LoRA", open=False, elem_id="db_tool_resize"):
            self.resizing.add_all()
            self.resize = _button("Resize", "resize")
            self.resize_said = _said("resize")

        with gr.Accordion("Look at a file", open=False, elem_id="db_tool_inspect"):
            self.looking.add_all()
            self.inspect = _button("Inspect", "inspect")
            self.inspect_said = _said("inspect")

    def _draw_parts(self) -> None:
        self.rows = []
        for number, part in enumerate(self.parts, 1):
            with gr.Row(visible=number <= LISTED, elem_id=f"db_m{number}", elem_classes=["db_part"]) as row:
                part.add_all()
            self.rows.append(row)
        self.add = control(gr.Button, "Add a LoRA", size="sm", elem_id="db_add_lora")

    def listed(self) -> list[tuple[str, Any]]:
        """(kind of files, control that offers them)."""
        return [
            pair for fields in (self.extraction, self.resizing, self.looking, *self.parts) for pair in fields.listed()
        ]

    def buttons(self) -> list[Any]:
        """What waits for the end of other work."""
        return [self.extract, self.resize, self.merge]

    def wire(self, tools: Tools, model: Any, settings: Fields) -> None:
        """``model``: the control that says which one is shown; ``settings``: its fields."""
        shown = gr.State(value=LISTED)
        on(self.add.click, _one_more, shown, [shown, *self.rows])
        forms = (
            (self.extract, self.extraction, tools.extract, self.extract_said),
            (self.resize, self.resizing, tools.resize, self.resize_said),
            (self.inspect, self.looking, tools.inspect, self.inspect_said),
        )
        for button, fields, make, said in forms:
            on(button.click, _with(make, fields), [model, *fields.components()], said)
        parts = [component for part in self.parts for component in part.components()]
        merged = [model, *self.merging.components(), *parts]
        on(self.merge.click, self._with_parts(tools.merge, self.merging), merged, self.merge_said)
        generated = [model, *settings.components(), *parts]
        on(self.merge_ckpt.click, self._with_parts(tools.merge_into_checkpoint, settings), generated, self.merge_said)

    def _with_parts(self, make: Any, fields: Fields) -> Any:
        """``make(model, values of the fields, values of the parts)`` of what a click sends."""

        def made(model: str | None, *given: Any) -> str:
            own, rest, n = given[: len(fields.declared)], given[len(fields.declared) :], len(MERGE_INPUT)
            parts = [part.values(list(rest[i * n : (i + 1) * n])) for i, part in enumerate(self.parts)]
            return make(model, fields.values(list(own)), parts)

        return made


def _with(make: Any, fields: Fields) -> Any:
    return lambda model, *given: make(model, fields.values(list(given)))


def _one_more(shown: int) -> list[Any]:
    count = min(DRAWN, shown + 1)
    return [count, *(gr.update(visible=number < count) for number in range(DRAWN))]


def _button(label: str, name: str) -> Any:
    return control(gr.Button, label, size="sm", elem_id=f"db_{name}")


def _said(tool: str) -> Any:
    return control(gr.HTML, elem_id=f"db_{tool}_said", elem_classes=["db_said_here"])
