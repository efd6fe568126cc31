"""The page's layout, and which function answers which control. What the answers do is in desk.py."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.hosts import Host
from dreambooth.ui.desk import NO_LORA, Desk, View
from dreambooth.ui.gradio_versions import control, every, on

POLL_SECONDS = 1.0


class Page:
    """One page for one host. All that must outlive a browser's tab is in its desk, on the server."""

    def __init__(self, host: Host) -> None:
        self.desk = Desk(host)

    def blocks(self) -> gr.Blocks:
        """Lay out and wire the page."""
        with gr.Blocks(title="Dreambooth", analytics_enabled=False) as page:
            with gr.Row(elem_id="db_page"):
                with gr.Column(scale=2, min_width=280):
                    self._model_column()
                with gr.Column(scale=3, min_width=320):
                    self._settings_column()
                with gr.Column(scale=3, min_width=320):
                    self._output_column()
            self._wire(page)
        return page

    def _model_column(self) -> None:
        self.model = control(gr.Dropdown, label="Model", choices=[], elem_id="db_model_name")
        self.facts = control(gr.HTML, elem_id="db_facts")
        with gr.Group():
            self.new_name = control(gr.Textbox, label="New model", max_lines=1, elem_id="db_new_model_name")
            self.source = control(
                gr.Dropdown,
                label="Source checkpoint",
                info="One of the list, or the path of a file or diffusers folder",
                choices=[],
                allow_custom_value=True,
                elem_id="db_source",
            )
            self.create = control(gr.Button, "Create", elem_id="db_create")
        self.lora = control(gr.Dropdown, label="LoRA to merge into generated checkpoints", elem_id="db_lora")
        self.refresh = control(gr.Button, "Refresh lists", size="sm", elem_id="db_refresh")

    def _settings_column(self) -> None:
        self.settings = control(
            gr.Textbox,
            label="Settings other than the defaults (JSON)",
            placeholder='{"use_lora": true, "num_train_epochs": 100}',
            lines=12,
            max_lines=30,
            elem_id="db_settings_json",
        )
        self.concepts = control(
            gr.Textbox,
            label="Concepts (JSON, or the path of a JSON file)",
            placeholder='[{"instance_data_dir": "...", "instance_prompt": "a photo of zwx dog"}]',
            lines=12,
            max_lines=30,
            elem_id="db_concepts_json",
        )
        with gr.Row():
            self.save = control(gr.Button, "Save Params", elem_id="db_save_params")
            self.train = control(gr.Button, "Train", variant="primary", elem_id="db_train")
            self.checkpoint = control(gr.Button, "Generate Ckpt", elem_id="db_generate_ckpt")

    def _output_column(self) -> None:
        self.status = control(gr.HTML, elem_id="db_status")
        with gr.Row():
            self.pause = control(gr.Button, "Pause", elem_id="db_pause")
            self.sample_now = control(gr.Button, "Generate Samples", elem_id="db_sample_now")
            self.save_now = control(gr.Button, "Save Weights", elem_id="db_save_now")
            self.cancel = control(gr.Button, "Cancel", elem_id="db_cancel")
        self.message = control(gr.HTML, elem_id="db_message")
        self.gallery = control(
            gr.Gallery,
            label="Samples",
            columns=3,
            height=420,
            object_fit="contain",
            interactive=False,  # else Gradio 4 makes it an upload field
            elem_id="db_gallery",
        )
        self.files = control(gr.HTML, elem_id="db_files")

    def _wire(self, page: gr.Blocks) -> None:
        desk = self.desk
        seen = gr.State(value=None)
        lists = [self.model, self.source, self.lora]
        fields = [self.settings, self.concepts]
        live = [self.model, self.facts, self.status, self.gallery, self.files, *self._buttons(), seen]

        def pressed(wish: str):
            return lambda: desk.tell(wish)

        on(page.load, lambda: _lists(desk, desk.current_name()), outputs=lists)
        on(self.refresh.click, lambda name: _lists(desk, name), self.model, lists)
        on(self.model.change, desk.fields, self.model, fields, show_progress="hidden")
        on(self.create.click, desk.create, [self.new_name, self.source], self.message)
        edited = [self.model, self.settings, self.concepts]
        on(self.save.click, desk.save, edited, self.message)
        on(self.train.click, desk.train, edited, self.message)
        on(self.checkpoint.click, desk.generate_checkpoint, [self.model, self.lora], self.message)
        on(self.pause.click, pressed("pause"), outputs=self.message)
        on(self.sample_now.click, pressed("sample_now"), outputs=self.message)
        on(self.save_now.click, pressed("save_now"), outputs=self.message)
        on(self.cancel.click, pressed("cancel"), outputs=self.message)

        def look(name: str, shown: Any) -> list[Any]:
            return _changes(desk.look(name), shown)

        every(POLL_SECONDS, page, look, [self.model, seen], live)

    def _buttons(self) -> list[Any]:
        start = [self.create, self.train, self.checkpoint]
        return [*start, self.pause, self.sample_now, self.save_now, self.cancel]


def _lists(desk: Desk, name: str | None) -> list[Any]:
    names, sources = desk.names(), desk.sources()
    name = name if name in names else next(iter(names), None)
    source = next(iter(sources), None)
    return [
        gr.update(choices=names, value=name),
        gr.update(choices=sources, value=source),
        gr.update(choices=desk.loras(), value=NO_LORA),
    ]


def _changes(view: View, shown: Any) -> list[Any]:
    """Updates for what this browser does not show yet; the rest stays untouched, so that nothing flickers."""
    plain = [view.facts, view.status, view.pictures, view.files]
    now = [view.names, *plain, [view.busy, view.training, view.paused]]
    before = shown or [None] * len(now)
    fresh = [a != b for a, b in zip(now, before, strict=True)]
    idle, training = gr.update(interactive=not view.busy), gr.update(interactive=view.training)
    pause = gr.update(value="Resume" if view.paused else "Pause", interactive=view.training)
    cancel = gr.update(interactive=view.busy)
    buttons = [idle, idle, idle, pause, training, training, cancel]
    return [
        gr.update(choices=view.names, value=view.select) if fresh[0] else gr.update(),
        *(gr.update(value=plain[i]) if fresh[i + 1] else gr.update() for i in range(len(plain))),
        *(buttons if fresh[-1] else [gr.update()] * len(buttons)),
        now,
    ]
