"""What the page shows by itself: each open page looks at the desk again and again, and follows what is new there."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from dreambooth.ui.columns import InputColumn, ModelColumn, OutputColumn, TopRow
from dreambooth.ui.gradio_versions import again_and_again
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.page_state import PageState

Updates = list[Any]


class Poller:
    """The parts of the page that follow the work."""

    def __init__(
        self, desk: PageController, top: TopRow, model: ModelColumn, inputs: InputColumn, output: OutputColumn
    ) -> None:
        self.desk, self.top, self.model, self.input, self.output = desk, top, model, inputs, output

    def wire(self, awaited: Any) -> None:
        """``awaited``: the state that holds the model which this browser is having created, or ""."""
        seen = gr.State(value=None)
        parts = [
            self.model.name,
            self.top.load_from,
            self.model.tabs,
            awaited,
            self.output.status,
            self.output.bar,
            self.output.chart,
            self.model.facts,
            self.output.gallery,
            self.output.files,
            *self.top.buttons(),
            self.model.create,
            *self.input.makers(),
            *self.input.makers_of_models(),
            self.top.why,
            self.top.locked,
            *self.input.pictures.outcomes(),
        ]
        again_and_again(self.look, [self.model.name, seen, awaited], [*parts, seen])

    def look(self, name: str | None, shown: Any, awaited: str) -> Updates:
        """Updates for what this browser does not show yet; the rest stays untouched, so that nothing flickers."""
        view = self.desk.look(name)
        outcomes = self.input.pictures.looks()
        now = {"name": name, **dataclasses.asdict(view), **outcomes}
        before = shown or {}
        fresh = {part for part in now if part not in before or before[part] != now[part]}

        def value(part: str, content: Any) -> Any:
            return gr.update(value=content) if part in fresh else gr.update()

        buttons = self._buttons(view, name) if fresh & {"idle", "training", "paused", "names", "name"} else None
        arrived = awaited in view.names and view.idle
        return [
            self._names(view, name, awaited if arrived else "") if "names" in fresh or arrived else gr.update(),
            self._load_from(view, before) if "names" in fresh else gr.update(),
            gr.update(selected="select") if arrived else gr.update(),
            "" if arrived else gr.update(),  # it may have been set since this look was asked for
            value("status", view.status),
            value("bar", view.bar),
            value("chart", view.chart),
            value("facts", view.facts),
            value("pictures", list(view.pictures)),
            value("files", view.files),
            *(buttons or [gr.update()] * self._count()),
            value("why", view.why),
            value("locked", "yes" if view.locked else "no"),
            *(value(part, content) for part, content in outcomes.items()),
            now,
        ]

    @staticmethod
    def _names(view: PageState, name: str | None, arrived: str) -> Any:
        """New models join the list. The page turns to one by itself where it was asked for here, or showed none."""
        names = list(view.names)
        if name in names and not arrived:
            return gr.update(choices=names)
        return gr.update(choices=names, value=arrived or next(iter(names), None))

    @staticmethod
    def _load_from(view: PageState, before: dict[str, Any]) -> Any:
        names = list(view.names)
        if before.get("names"):
            return gr.update(choices=names)
        return gr.update(choices=names, value=next(iter(names), None))

    def _count(self) -> int:
        """Of the buttons that :meth:`_buttons` answers for."""
        return len([*self.top.buttons(), self.model.create, *self.input.makers(), *self.input.makers_of_models()])

    def _buttons(self, view: PageState, name: str | None) -> Updates:
        ready = view.idle and name in view.names
        start = [gr.update(interactive=ready)] * 3
        pause = gr.update(value="Resume" if view.paused else "Pause", interactive=view.training)
        running = [pause, *[gr.update(interactive=view.training)] * 2, gr.update(interactive=not view.idle)]
        makers = [gr.update(interactive=view.idle)] * (1 + len(self.input.makers()))  # Create is one too
        return [*start, *running, *makers, *[gr.update(interactive=ready)] * len(self.input.makers_of_models())]
