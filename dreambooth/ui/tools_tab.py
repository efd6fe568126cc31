"""The Tools tab: forms to merge, extract, resize and inspect model files, created from the declarations."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.settings.tools import EXTRACT_OPTIONS, INSPECT_OPTIONS, MERGE_INPUT, MERGE_OPTIONS, RESIZE_OPTIONS
from dreambooth.ui import render
from dreambooth.ui.components import button, message, visible_rows
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.tools_controller import ToolsController

MAX_LORAS = 8  # in one merge
INITIALLY_VISIBLE = 2
MERGE_HELP = (
    "Each LoRA has a weight for the UNet and one for the text encoder; negative weights subtract it. Merge them into "
    "one LoRA, or into a checkpoint of the model chosen under Select, as Generate Ckpt does."
)


class ToolsTab:
    """Each form has a button, and below it a line for errors."""

    def __init__(self) -> None:
        self.extract_options = Fields(EXTRACT_OPTIONS, "db_extract_")
        self.resize_options = Fields(RESIZE_OPTIONS, "db_resize_")
        self.merge_options = Fields(MERGE_OPTIONS, "db_merge_")
        self.inspect_options = Fields(INSPECT_OPTIONS, "db_inspect_")
        self.merge_inputs = [Fields(MERGE_INPUT, f"db_m{number}_") for number in range(1, MAX_LORAS + 1)]
        with gr.Accordion("Merge LoRAs", open=True, elem_id="db_tool_merge"):
            control(gr.HTML, render.lines([MERGE_HELP]), elem_id="db_merge_help")
            self._add_merge_inputs()
            self.merge_options.add_all()
            with gr.Row():
                self.merge = button("Merge into LoRA", "db_merge")
                self.merge_ckpt = button("Merge into checkpoint", "db_merge_ckpt")
            self.merge_message = message("db_merge_said")
        with gr.Accordion("Extract LoRA", open=False, elem_id="db_tool_extract"):
            self.extract_options.add_all()
            self.extract = button("Extract", "db_extract")
            self.extract_message = message("db_extract_said")
        with gr.Accordion("Resize LoRA", open=False, elem_id="db_tool_resize"):
            self.resize_options.add_all()
            self.resize = button("Resize", "db_resize")
            self.resize_message = message("db_resize_said")
        with gr.Accordion("Inspect file", open=False, elem_id="db_tool_inspect"):
            self.inspect_options.add_all()
            self.inspect = button("Inspect", "db_inspect")
            self.inspect_message = message("db_inspect_said")

    def _add_merge_inputs(self) -> None:
        self.rows = []
        for number, fields in enumerate(self.merge_inputs, 1):
            visible = number <= INITIALLY_VISIBLE
            with gr.Row(visible=visible, elem_id=f"db_m{number}", elem_classes=["db_part"]) as row:
                fields.add_all()
            self.rows.append(row)
        self.add = button("Add a LoRA", "db_add_lora")

    def file_controls(self) -> list[tuple[str, Any]]:
        """(kind of files, control) of the controls that offer files of the host."""
        forms = (self.extract_options, self.resize_options, self.inspect_options, *self.merge_inputs)
        return [pair for fields in forms for pair in fields.file_controls()]

    def job_buttons(self) -> list[Any]:
        """The buttons that start a job without a model. Inspecting only reads, so that it needs no job."""
        return [self.extract, self.resize, self.merge]

    def wire(self, tools: ToolsController, model: Any, settings: Fields) -> None:
        """``model``: the dropdown of the chosen model; ``settings``: the fields of its settings."""
        visible = gr.State(value=INITIALLY_VISIBLE)
        on(self.add.click, lambda n: visible_rows(n + 1, MAX_LORAS), visible, [visible, *self.rows])
        forms = (
            (self.extract, self.extract_options, tools.extract, self.extract_message),
            (self.resize, self.resize_options, tools.resize, self.resize_message),
            (self.inspect, self.inspect_options, tools.inspect, self.inspect_message),
        )
        for start, fields, handler, output in forms:
            on(start.click, _with_options(handler, fields), [model, *fields.components()], output)
        loras = [component for fields in self.merge_inputs for component in fields.components()]
        merge = self._with_loras(tools.merge, self.merge_options)
        on(self.merge.click, merge, [model, *self.merge_options.components(), *loras], self.merge_message)
        merge_ckpt = self._with_loras(tools.merge_into_checkpoint, settings)
        on(self.merge_ckpt.click, merge_ckpt, [model, *settings.components(), *loras], self.merge_message)

    def _with_loras(self, handler: Any, fields: Fields) -> Any:
        """Handler of a click that calls ``handler(model, values of the fields, values of each LoRA's row)``."""

        def handle(model: str | None, *values: Any) -> str:
            split, n = len(fields.declared), len(MERGE_INPUT)
            own, others = values[:split], values[split:]
            loras = [row.values(list(others[i * n : (i + 1) * n])) for i, row in enumerate(self.merge_inputs)]
            return handler(model, fields.values(list(own)), loras)

        return handle


def _with_options(handler: Any, fields: Fields) -> Any:
    return lambda model, *values: handler(model, fields.values(list(values)))
