"""Updates without a click: each open page polls the server and gets the parts that have changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from dreambooth.ui.columns import InputColumn, ModelColumn, OutputColumn, TopRow
from dreambooth.ui.gradio_versions import poll_while_open
from dreambooth.ui.page_controller import CHOSEN_MODEL, PageController
from dreambooth.ui.page_state import PageState

Updates = list[Any]


class Poller:
    """Compares the server's state with what a browser shows, and updates the difference."""

    def __init__(
        self,
        page_controller: PageController,
        top: TopRow,
        model: ModelColumn,
        inputs: InputColumn,
        output: OutputColumn,
    ) -> None:
        self.page_controller, self.top, self.model = page_controller, top, model
        self.input, self.output = inputs, output

    def wire(self, pending_model: Any) -> None:
        """``pending_model``: state with the name of the model that this browser is creating, or ""."""
        shown = gr.State(value=None)
        outputs = [
            self.model.name,
            self.model.load_from,
            self.model.tabs,
            pending_model,
            self.output.status,
            self.output.progress_bar,
            self.output.chart,
            self.model.summary,
            self.model.resume_offer,
            self.model.resume,
            self.output.gallery,
            self.output.files,
            *self.top.buttons(),
            self.model.create,
            *self.input.job_buttons(),
            *self.input.model_job_buttons(),
            self.top.disabled_reason,
            self.top.locked,
            *self.input.images.results(),
            shown,
        ]
        poll_while_open(self.poll, [self.model.name, shown, pending_model], outputs)

    def poll(self, name: str | None, shown: dict[str, Any] | None, pending_model: str) -> Updates:
        """Updates of the parts that differ from ``shown``. Others are left alone, so that nothing flickers."""
        state = self.page_controller.page_state(name)
        results = self.input.images.result_html()
        now = {"name": name, **dataclasses.asdict(state), **results}
        before = shown or {}
        changed = {part for part in now if part not in before or before[part] != now[part]}

        def value(part: str, content: Any) -> Any:
            return gr.update(value=content) if part in changed else gr.update()

        buttons = self._buttons(state, name) if changed & {"idle", "training", "paused", "names", "name"} else None
        created = pending_model in state.names and state.idle
        return [
            self._names(state, name, pending_model if created else "")
            if "names" in changed or created
            else gr.update(),
            gr.update(choices=[CHOSEN_MODEL, *state.names]) if "names" in changed else gr.update(),
            gr.update(selected="select") if created else gr.update(),
            "" if created else gr.update(),  # Create may have set it after this poll was sent
            value("status", state.status),
            value("progress_bar", state.progress_bar),
            value("chart", state.chart),
            value("model_summary", state.model_summary),
            value("resume_offer", state.resume_offer),
            gr.update(visible=bool(state.resume_offer)) if "resume_offer" in changed else gr.update(),
            value("samples", list(state.samples)),
            value("files", state.files),
            *(buttons or [gr.update()] * self._button_count()),
            value("disabled_reason", state.disabled_reason),
            value("locked", "yes" if state.locked else "no"),
            *(value(part, content) for part, content in results.items()),
            now,
        ]

    @staticmethod
    def _names(state: PageState, name: str | None, created: str) -> Any:
        """Update the list of models; choose the model that this browser created, or the first one if none is chosen."""
        names = list(state.names)
        if name in names and not created:
            return gr.update(choices=names)
        return gr.update(choices=names, value=created or next(iter(names), None))

    def _button_count(self) -> int:
        """Number of the updates from :meth:`_buttons`."""
        return len([*self.top.buttons(), self.model.create, *self.input.job_buttons(), *self.input.model_job_buttons()])

    def _buttons(self, state: PageState, name: str | None) -> Updates:
        """Updates of all buttons that depend on whether a job is running and a model is chosen."""
        ready = state.idle and name in state.names
        start = [gr.update(interactive=ready)] * 3
        pause = gr.update(value="Resume" if state.paused else "Pause", interactive=state.training)
        running = [pause, *[gr.update(interactive=state.training)] * 2, gr.update(interactive=not state.idle)]
        idle = [gr.update(interactive=state.idle)] * (1 + len(self.input.job_buttons()))  # Create and the others
        return [*start, *running, *idle, *[gr.update(interactive=ready)] * len(self.input.model_job_buttons())]
