"""The page's layout: the top row and the three columns. What they do is wired in page.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from dreambooth.settings import CREATION, SETTINGS
from dreambooth.ui import chart, render
from dreambooth.ui.concepts_tab import ConceptsTab
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, followed
from dreambooth.ui.images_tab import ImagesTab
from dreambooth.ui.page_controller import NONE
from dreambooth.ui.run_view import RunView
from dreambooth.ui.tools_tab import ToolsTab


class TopRow:
    """The buttons that start work, and those that steer it."""

    def __init__(self) -> None:
        with gr.Row(elem_id="db_top"):
            self.save_params = _button("Save Params", "save_params", interactive=False)
            self.load_from = control(
                gr.Dropdown,
                label="Model to load params from",
                choices=[],
                show_label=False,
                container=False,
                min_width=120,
                elem_id="db_load_params_from",
            )
            self.load_params = _button("Load Params", "load_params")
            self.train = _button("Train", "train", interactive=False, variant="primary")
            self.generate_ckpt = _button("Generate Ckpt", "generate_ckpt", interactive=False)
            self.pause = _button("Pause", "pause", interactive=False)
            self.sample_now = _button("Generate Samples", "sample_now", interactive=False)
            self.save_now = _button("Save Weights", "save_now", interactive=False)
            self.cancel = _button("Cancel", "cancel", interactive=False, variant="stop")
        self.why = control(gr.HTML, elem_id="db_why")
        # Whose parameters the fields were filled with, "?" until it is known; what is typed before would be lost.
        self.filled = control(gr.Textbox, value="?", elem_id="db_filled", elem_classes=["db_hidden"])
        self.locked = control(gr.Textbox, elem_id="db_locked", elem_classes=["db_hidden"])  # "yes" or "no"
        self.unusable = control(gr.HTML, elem_id="db_unusable")

    def wishes(self) -> dict[str, Any]:
        """What each button of a run asks for."""
        return {
            "pause": self.pause, "sample_now": self.sample_now, "save_now": self.save_now, "cancel": self.cancel,
        }  # fmt: skip

    def buttons(self) -> list[Any]:
        return [self.save_params, self.train, self.generate_ckpt, *self.wishes().values()]


class ModelColumn:
    """Select and Create, and the facts of the model that is chosen."""

    def __init__(self, offered: Mapping[str, list[str]]) -> None:
        self.fields = Fields(SETTINGS, offered=offered)  # all settings of the page; this column draws the first of them
        self.options = Fields(CREATION)
        with gr.Column(scale=2, min_width=260, elem_id="db_model_column"):
            with control(gr.Tabs, elem_id="db_model_tabs") as self.tabs:
                with gr.TabItem("Select", id="select", elem_id="db_tab_select"):
                    self._select()
                with gr.TabItem("Create", id="create", elem_id="db_tab_create"):
                    self._create()
            self.refresh = _button("Refresh lists", "refresh")  # of both tabs

    def _select(self) -> None:
        self.name = control(gr.Dropdown, label="Model", choices=[], elem_id="db_model_name")
        self.facts = control(gr.HTML, elem_id="db_facts")
        self.snapshot = control(
            gr.Dropdown,
            label="Snapshot to resume",
            info="Train goes on exactly where it was made; none: a new run.",
            choices=[NONE],
            value=NONE,
            elem_id="db_snapshot",
        )
        self.lora = control(
            gr.Dropdown,
            label="LoRA model",
            info="Merged in by Generate Ckpt.",
            choices=[NONE],
            value=NONE,
            elem_id="db_lora_model_name",
        )
        for setting in SETTINGS.values():
            if setting.tab == "Select":
                self.fields.draw(setting.key)

    def _create(self) -> None:
        self.new_name = control(
            gr.Textbox, label="Name", info="Of the new model.", max_lines=1, elem_id="db_new_model_name"
        )
        self.source = control(
            gr.Dropdown,
            label="Source checkpoint",
            info="One of the list, the path of a file or diffusers folder, or a model's id on Hugging Face (org/name).",
            choices=[],
            allow_custom_value=True,
            elem_id="db_new_model_src",
        )
        with gr.Accordion("More options", open=False, elem_id="db_more_options"):
            self.options.draw_all()
        self.create = control(gr.Button, "Create", variant="primary", elem_id="db_create")
        self.create_said = control(gr.HTML, elem_id="db_create_said", elem_classes=["db_said_here"])

    def files(self) -> list[Any]:
        """The lists that follow the model's files."""
        return [self.snapshot, self.lora]


class InputColumn:
    """Settings, Concepts, Pictures, Saving, Tools."""

    def __init__(self, select: Fields) -> None:
        self.settings = select
        with (
            gr.Column(scale=4, min_width=320, elem_id="db_input_column"),
            control(gr.Tabs, elem_id="db_input_tabs") as tabs,
        ):
            self.tabs = tabs
            with gr.TabItem("Settings", id="settings", elem_id="db_tab_settings"):
                with gr.Row(elem_id="db_wizards"):
                    self.performance = _button("Performance Wizard", "performance_wizard")
                    self.person = _button("Training Wizard (Person)", "training_wizard_person")
                    self.object = _button("Training Wizard (Object/Style)", "training_wizard_object")
                self.settings.draw_groups("Settings", first_open=3)
            with gr.TabItem("Concepts", id="concepts", elem_id="db_tab_concepts"):
                self.concepts = ConceptsTab()
                self.check = control(gr.Button, "Check and preview captions", elem_id="db_check")
                self.table = control(gr.HTML, elem_id="db_captions")
            with gr.TabItem("Pictures", id="pictures", elem_id="db_tab_pictures"):
                self.pictures = ImagesTab()
            with gr.TabItem("Saving", id="saving", elem_id="db_tab_saving"):
                self.settings.draw_groups("Saving", first_open=10)
            with gr.TabItem("Tools", id="tools", elem_id="db_tab_tools"):
                self.tools = ToolsTab()

    def wizards(self) -> list[tuple[Any, str]]:
        return [(self.performance, "performance"), (self.person, "person"), (self.object, "object")]

    def changing(self) -> list[Any]:
        """The buttons that change what the fields of the settings and concepts hold."""
        wizards = [button for button, _ in self.wizards()]
        return [*wizards, self.concepts.add, self.concepts.take, self.pictures.look.use]

    def makers(self) -> list[Any]:
        """The buttons beside the settings that start work."""
        return [*self.pictures.buttons(), *self.tools.buttons()]

    def makers_of_models(self) -> list[Any]:
        """As :meth:`makers`; they need a model."""
        return [self.tools.merge_ckpt, self.concepts.draw_classes]


class OutputColumn:
    """What is happening, and what came out. Heights are reserved in style.css."""

    def __init__(self) -> None:
        empty = RunView()
        with gr.Column(scale=3, min_width=320, elem_id="db_output_column"):
            self.status = control(gr.HTML, render.status("", ""), elem_id="db_status")
            self.bar = control(gr.HTML, render.bar(None, False), elem_id="db_progress")
            self.message = control(gr.HTML, elem_id="db_message")
            self.forecast = control(gr.HTML, elem_id="db_forecast")
            self.chart = control(gr.HTML, chart.chart(empty), elem_id="db_loss_chart")
            self.gallery = control(
                gr.Gallery,
                label="Samples",
                columns=3,
                height=420,
                object_fit="contain",
                interactive=False,  # else Gradio 4 makes it an upload field
                elem_id="db_gallery",
            )
            self.files = followed(control(gr.HTML, elem_id="db_files"))


def _button(label: str, name: str, **options: Any) -> Any:
    return control(gr.Button, label, size="sm", elem_id=f"db_{name}", **options)
