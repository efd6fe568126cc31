"""Layout of the page: the top row and the three columns. Events are wired in page.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr

from dreambooth.settings import CREATE_OPTIONS, SETTINGS
from dreambooth.ui import render
from dreambooth.ui.chart import loss_chart
from dreambooth.ui.components import button, message
from dreambooth.ui.concepts_tab import ConceptsTab
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control, with_change_event
from dreambooth.ui.images_tab import ImagesTab
from dreambooth.ui.links import guide_link
from dreambooth.ui.page_controller import CHOSEN_MODEL
from dreambooth.ui.resume_offer import NONE
from dreambooth.ui.run_view import RunView
from dreambooth.ui.signposts import CONCEPT_LIST, EXTRAS, signposts
from dreambooth.ui.tools_tab import ToolsTab
from dreambooth.ui.upload_form import UploadForm


class TopRow:
    """The buttons that start a run and control it."""

    def __init__(self) -> None:
        with gr.Column(elem_id="db_bar"):  # stays in view, see style.css
            with gr.Row(elem_id="db_top"):
                self.save_params = button("Save Params", "db_save_params", interactive=False)
                self.train = button("Train", "db_train", interactive=False, variant="primary")
                self.generate_ckpt = button("Generate Ckpt", "db_generate_ckpt", interactive=False)
                self.pause = button("Pause", "db_pause", interactive=False)
                self.sample_now = button("Generate Samples", "db_sample_now", interactive=False)
                self.save_now = button("Save Weights", "db_save_now", interactive=False)
                self.cancel = button("Cancel", "db_cancel", interactive=False, variant="stop")
            self.disabled_reason = control(gr.HTML, elem_id="db_why")
        # Name of the model whose parameters the fields hold. "?" until the first ones have arrived, because they
        # overwrite whatever is typed before.
        self.filled = control(gr.Textbox, value="?", elem_id="db_filled", elem_classes=["db_hidden"])
        self.locked = control(gr.Textbox, elem_id="db_locked", elem_classes=["db_hidden"])  # "yes" or "no"
        self.disabled = control(gr.HTML, elem_id="db_unusable")

    def run_controls(self) -> dict[str, Any]:
        """The buttons for the running job, by the request that each sends."""
        return {
            "pause": self.pause, "sample_now": self.sample_now, "save_now": self.save_now, "cancel": self.cancel,
        }  # fmt: skip

    def buttons(self) -> list[Any]:
        return [self.save_params, self.train, self.generate_ckpt, *self.run_controls().values()]


class ModelColumn:
    """The Select and Create tabs, with a summary of the chosen model."""

    def __init__(
        self,
        missing: Mapping[str, Mapping[str, str]],
        limited: Collection[str],
        missing_families: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Arguments as of :class:`Fields`; ``missing_families``: for the options of Create."""
        # All settings of the page; this column has the first of them.
        self.fields = Fields(SETTINGS, missing=missing, limited=limited)
        self.options = Fields(CREATE_OPTIONS, missing=missing_families)
        with gr.Column(scale=2, min_width=260, elem_id="db_model_column"):
            with control(gr.Tabs, elem_id="db_model_tabs") as self.tabs:
                with gr.TabItem("Select", id="select", elem_id="db_tab_select"):
                    self._add_select()
                with gr.TabItem("Create", id="create", elem_id="db_tab_create"):
                    self._add_create()
            self.refresh = button("Refresh lists", "db_refresh")  # of both tabs
            control(gr.HTML, guide_link(), elem_id="db_guide")

    def _add_select(self) -> None:
        self.name = control(gr.Dropdown, label="Model", choices=[], elem_id="db_model_name")
        self.summary = control(gr.HTML, elem_id="db_facts")
        self.resume_offer = control(gr.HTML, elem_id="db_resume_offer")
        self.resume = button("Continue interrupted run", "db_resume", visible=False, variant="primary")
        with gr.Row(elem_id="db_load_row"):
            self.load_from = control(
                gr.Dropdown,
                label="Load params from",
                info="Load Params fills this page with the saved parameters of this model. Save Params always saves to "
                "the model chosen above.",
                choices=[CHOSEN_MODEL],
                value=CHOSEN_MODEL,
                elem_id="db_load_params_from",
            )
            self.load_params = button("Load Params", "db_load_params")
        self.snapshot = control(
            gr.Dropdown,
            label="Snapshot to resume",
            info="Train resumes exactly from it. latest is the newest of the last run; none starts a new run.",
            choices=[NONE],
            value=NONE,
            elem_id="db_snapshot",
        )
        self.lora = control(
            gr.Dropdown,
            label="LoRA model",
            info="LoRA that Generate Ckpt merges into the checkpoint.",
            choices=[NONE],
            value=NONE,
            elem_id="db_lora_model_name",
        )
        for setting in SETTINGS.values():
            if setting.tab == "Select":
                self.fields.add(setting.key)

    def _add_create(self) -> None:
        self.new_name = control(
            gr.Textbox, label="Name", info="Name of the new model.", max_lines=1, elem_id="db_new_model_name"
        )
        self.source = control(
            gr.Dropdown,
            label="Source checkpoint",
            info="A checkpoint from the list, the path of a file or diffusers folder, or a Hugging Face model id "
            "(org/name).",
            choices=[],
            allow_custom_value=True,
            elem_id="db_new_model_src",
        )
        with gr.Accordion("More options", open=False, elem_id="db_more_options"):
            self.options.add_all()
        self.create = control(gr.Button, "Create", variant="primary", elem_id="db_create")
        self.create_message = message("db_create_said")

    def file_dropdowns(self) -> list[Any]:
        """The dropdowns whose choices are files of the chosen model."""
        return [self.snapshot, self.lora]


class InputColumn:
    """The tabs Settings, Concepts, Images, Saving and Tools."""

    def __init__(self, settings: Fields) -> None:
        self.settings = settings
        with (
            gr.Column(scale=4, min_width=320, elem_id="db_input_column"),
            control(gr.Tabs, elem_id="db_input_tabs") as tabs,
        ):
            self.tabs = tabs
            with gr.TabItem("Settings", id="settings", elem_id="db_tab_settings"):
                with gr.Row(elem_id="db_wizards"):
                    self.performance = button("Performance Wizard", "db_performance_wizard")
                    self.person = button("Training Wizard (Person)", "db_training_wizard_person")
                    self.object = button("Training Wizard (Object/Style)", "db_training_wizard_object")
                notes = signposts("Settings")
                self.settings.add_groups("Settings", first_open=3, notes=notes)
                with gr.Accordion(EXTRAS, open=False, elem_id="db_group_settings_extras"):
                    control(gr.HTML, notes[EXTRAS], elem_classes=["db_signposts"])
            with gr.TabItem("Concepts", id="concepts", elem_id="db_tab_concepts"):
                control(gr.HTML, signposts("Concepts")[CONCEPT_LIST], elem_classes=["db_signposts"])
                with gr.Accordion("Images", open=True, elem_id="db_upload_form"):
                    self.uploads = UploadForm()
                self.concepts = ConceptsTab()
                self.check = control(gr.Button, "Check and preview captions", elem_id="db_check")
                self.table = control(gr.HTML, elem_id="db_captions")
            with gr.TabItem("Images", id="pictures", elem_id="db_tab_pictures"):
                self.images = ImagesTab()
            with gr.TabItem("Saving", id="saving", elem_id="db_tab_saving"):
                self.settings.add_groups("Saving", first_open=10, notes=signposts("Saving"))
            with gr.TabItem("Tools", id="tools", elem_id="db_tab_tools"):
                self.tools = ToolsTab()

    def wizards(self) -> list[tuple[Any, str]]:
        """(button, kind of recommendation)."""
        return [(self.performance, "performance"), (self.person, "person"), (self.object, "object")]

    def editing_buttons(self) -> list[Any]:
        """The buttons that change fields of the settings and concepts."""
        wizards = [wizard for wizard, _ in self.wizards()]
        return [*wizards, self.concepts.add, self.concepts.import_button, self.images.preview.use]

    def job_buttons(self) -> list[Any]:
        """The buttons of the tabs that start a job, disabled while another one is running."""
        return [*self.images.job_buttons(), *self.tools.job_buttons()]

    def model_job_buttons(self) -> list[Any]:
        """As :meth:`job_buttons`, for jobs that need a model."""
        return [self.tools.merge_ckpt, self.concepts.class_images]


class OutputColumn:
    """Status, progress and results of the run. style.css reserves the heights."""

    def __init__(self) -> None:
        with gr.Column(scale=3, min_width=320, elem_id="db_output_column"):
            self.status = control(gr.HTML, render.status("", ""), elem_id="db_status")
            self.progress_bar = control(gr.HTML, render.progress_bar(None, False), elem_id="db_progress")
            self.message = control(gr.HTML, elem_id="db_message")
            self.forecast = control(gr.HTML, elem_id="db_forecast")
            self.chart = control(gr.HTML, loss_chart(RunView()), elem_id="db_loss_chart")
            self.gallery = control(
                gr.Gallery,
                label="Samples",
                columns=3,
                height=420,
                object_fit="contain",
                interactive=False,  # otherwise Gradio 4 shows an upload field
                elem_id="db_gallery",
            )
            self.files = with_change_event(control(gr.HTML, elem_id="db_files"))
