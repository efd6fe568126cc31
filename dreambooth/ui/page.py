"""The page: its columns put together, and which function answers which control. What the answers do is in desk.py."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.ui import render
from dreambooth.ui.columns import InputColumn, ModelColumn, OutputColumn, TopRow
from dreambooth.ui.concept_import import ConceptImport
from dreambooth.ui.concepts_tab import LISTED, pages
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.job_runner import in_words
from dreambooth.ui.page_controller import LATEST, NONE, PageController
from dreambooth.ui.poller import Poller
from dreambooth.ui.tools_controller import Tools

Updates = list[Any]


class Page:
    """One page for one host. All that must outlive a browser's tab is in its desk, on the server."""

    def __init__(self, desk: PageController) -> None:
        self.desk = desk
        self.files = ConceptImport(self.desk)

    def blocks(self) -> gr.Blocks:
        """Lay out and wire the page."""
        with control(gr.Blocks, title="Dreambooth", analytics_enabled=False, fill_width=True) as page:
            with gr.Column(elem_id="db_page"):
                self.top = TopRow()
                with gr.Row(elem_id="db_columns"):
                    self.model = ModelColumn(self.desk.lists.working_choices())
                    self.input = InputColumn(select=self.model.fields)
                    self.output = OutputColumn()
            self._wire(page)
        return page

    # -- wiring -----------------------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        self.fields = self.input.settings
        self.shown_concepts = gr.State(value=LISTED)
        self.awaited = gr.State(value="")  # the model that this browser is having created
        self.everything = [self.model.name, *self.fields.components(), *self.input.concepts.components()]
        self.sent = [self.top.filled, *self.everything]  # by whatever keeps or uses what the fields hold
        self.deciding = [self.fields.drawn[key] for key in self.fields.deciders()]
        self._wire_lists(page)
        self._wire_parameters()
        self._wire_work()
        self.input.tools.wire(Tools(self.desk), self.model.name, self.fields)
        self.input.pictures.wire(self.desk, self.model.name, self.fields)
        concepts = self.input.concepts
        shown = [*concepts.components(), self.shown_concepts, *concepts.tabs]
        self.input.pictures.look.wire_concepts(concepts, self.everything, self._filled, shown)
        self.follower = Poller(self.desk, self.top, self.model, self.input, self.output)
        self.follower.wire(self.awaited)
        self._wire_files()

    def _wire_lists(self, page: gr.Blocks) -> None:
        listed = [component for _, component in self._listed()]
        lists = [self.model.name, self.model.source, self.top.load_from, self.top.filled, *listed]
        on(page.load, self._lists, outputs=lists)
        on(page.load, lambda: gr.update(selected="select" if self.desk.names() else "create"), outputs=self.model.tabs)
        on(self.model.refresh.click, self._refreshed, [self.model.name, self.model.source], lists)
        on(self.model.refresh.click, self._files_of, self.model.name, self.model.files())
        shown = [
            *self.everything[1:],
            self.shown_concepts,
            *self.input.concepts.tabs,
            self.input.tabs,
            self.top.unusable,
        ]
        on(self.model.name.change, self._arrived, self.model.name, [*shown, self.top.filled])
        on(self.model.name.change, self._files_of, self.model.name, self.model.files())
        on(self.top.load_params.click, self._parameters, self.top.load_from, shown)

    def _wire_parameters(self) -> None:
        concepts, message = self.input.concepts, self.output.message
        on(self.top.save_params.click, self._save, self.sent, message)
        looked = [message, self.output.forecast, self.input.table]
        on(self.input.check.click, self._check, self.sent, looked)
        on(concepts.draw_classes.click, self._class_images, self.sent, message)
        on(concepts.add.click, pages, self.shown_concepts, [self.shown_concepts, *concepts.tabs])
        took = on(concepts.take.click, self._take_concepts, [concepts.listed, *self.sent], message)
        shown = [*self.everything[1:], self.shown_concepts, *concepts.tabs]
        on(took.then, self._taken_over, self.model.name, shown, never_skip=True)
        on(concepts.write.click, self._write_concepts, [concepts.written, *self.sent], message)
        for wizard, kind in self.input.wizards():
            changed = [*self.fields.components(), message]
            on(wizard.click, self._advise(kind), self.sent, changed)
        decided = [part.change for part in (self.top.locked, *self.deciding)]
        on(decided, self._unusable, [self.model.name, *self.deciding], self.top.unusable, never_skip=True)

    def _wire_work(self) -> None:
        message, model = self.output.message, self.model
        options = model.options
        asked = [model.name, model.new_name, model.source, *options.components()]
        on(model.create.click, self._create, asked, [model.create_said, self.awaited, *options.secrets()])
        on(self.top.train.click, self._train, [model.snapshot, *self.sent], message)
        on(self.top.generate_ckpt.click, self._generate, [model.lora, *self.sent], message)
        for wish, button in self.top.wishes().items():
            on(button.click, self._tell(wish), outputs=message)

    def _wire_files(self) -> None:
        """Files land while it runs: their lists follow when a run has ended, not under someone's hand."""
        offering = [component for _, component in self._listed()]
        on(self.output.files.mark.change, self._files_of, self.model.name, self.model.files())
        on(self.output.files.mark.change, self._offered, outputs=offering)

    # -- answers ----------------------------------------------------------------------------------------------

    def _lists(self, name: str | None = None, source: str | None = None) -> Updates:
        names, sources = self.desk.names(), self.desk.lists.titles("checkpoints")
        chosen = name if name in names else self.desk.current_name()
        return [
            gr.update(choices=names, value=chosen),
            gr.update(choices=sources, value=source or next(iter(sources), None)),
            gr.update(choices=names, value=chosen),
            gr.update() if chosen else "",
            *self._offered(),
        ]

    def _refreshed(self, name: str | None, source: str | None) -> Updates:
        self.desk.refresh()
        return self._lists(name, source)

    def _listed(self) -> list[tuple[str, Any]]:
        """(kind of files, control that offers them) wherever a declaration says so."""
        return [*self.model.options.listed(), *self.input.pictures.listed(), *self.input.tools.listed()]

    def _offered(self) -> Updates:
        listed = self._listed()
        titles = {kind: self.desk.lists.titles(kind) for kind in {kind for kind, _ in listed}}  # each folder once
        return [gr.update(choices=titles[kind]) for kind, _ in listed]

    def _files_of(self, name: str | None) -> Updates:
        snapshots = self.desk.snapshots(name)
        chosen = LATEST if self.desk.interrupted(name) else NONE
        return [gr.update(choices=snapshots, value=chosen), gr.update(choices=self.desk.loras())]

    def _parameters(self, name: str | None) -> Updates:
        """A model's parameters into the page's fields."""
        settings, concepts = self.desk.parameters(name)
        unusable = self._unusable(name, *(getattr(settings, key) for key in self.fields.deciders()))
        # What is missing is shown; else people stay where they are: on a slow machine this may come late.
        turn = gr.update(selected="concepts") if name and not concepts else gr.update()
        return [*self._of_settings(settings), *self._filled(concepts), turn, unusable]

    def _arrived(self, name: str | None) -> Updates:
        return [*self._parameters(name), name or ""]

    def _taken_over(self, name: str | None) -> Updates:
        """As :meth:`_parameters`; the tab that is open stays open."""
        settings, concepts = self.desk.parameters(name)
        return [*self._of_settings(settings), *self._filled(concepts)]

    def _of_settings(self, settings: Settings) -> Updates:
        return [self.fields.update(key, getattr(settings, key)) for key in self.fields.declared]

    def _filled(self, concepts: Any) -> Updates:
        """Concepts into their fields, and as many of them shown as there are."""
        count, *tabs = pages(max(LISTED, len(concepts)) - 1)
        return [*self.input.concepts.updates(concepts), count, *tabs]

    def _unusable(self, name: str | None, *deciding: Any) -> str:
        """What has no effect now; all of it while the model that is shown is at work."""
        if self.desk.bench.locked(name):
            changing = [button.elem_id for button in (self.top.load_params, *self.input.changing())]
            return render.unusable([*self.fields.elem_ids(), *self.input.concepts.elem_ids(), *changing])
        return render.unusable(self.fields.unusable(list(deciding)))

    def _shown(self, values: tuple[Any, ...]) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        """(model, settings, concepts) of what a click sent for ``self.sent``.

        UserError in the moment after a model was chosen when the fields still hold another one's parameters.
        """
        filled, name, *rest = values
        if (name or "") != filled:
            raise UserError(f"The fields do not hold the parameters of {name} yet: once more, in a moment.")
        n = len(self.fields.declared)
        return name, self.fields.values(rest[:n]), self.input.concepts.values(rest[n:])

    @in_words
    def _save(self, *values: Any) -> str:
        return self.desk.save(*self._shown(values))

    def _check(self, *values: Any) -> tuple[str, str, str]:
        try:
            return self.desk.check(*self._shown(values))
        except UserError as error:
            return render.problems(error.problems), "", ""

    @in_words
    def _train(self, snapshot: str, *values: Any) -> str:
        return self.desk.train(*self._shown(values), snapshot)

    @in_words
    def _take_concepts(self, source: str, *values: Any) -> str:
        name, settings, _ = self._shown(values)
        return self.files.take(name, source, settings)

    @in_words
    def _write_concepts(self, path: str, *values: Any) -> str:
        name, settings, concepts = self._shown(values)
        return self.files.write(name, path, settings, concepts)

    @in_words
    def _class_images(self, *values: Any) -> str:
        return self.desk.class_images(*self._shown(values))

    @in_words
    def _generate(self, lora: str, *values: Any) -> str:
        name, settings, _ = self._shown(values)
        return self.desk.generate_checkpoint(name, lora, settings)

    def _create(self, shown: str | None, name: str, source: str, *options: Any) -> Updates:
        fields = self.model.options
        said = self.desk.create(name, source, fields.values(list(options)), shown or "")
        # A secret was sent once and is then forgotten, by the browser too.
        secrets = [gr.update() if said else gr.update(value="") for _ in fields.secrets()]
        return [said, "" if said else name.strip(), *secrets]

    def _tell(self, wish: str) -> Any:
        return lambda: self.desk.bench.tell(wish)

    def _advise(self, kind: str) -> Any:
        def recommend(*values: Any) -> Updates:
            try:
                chosen, said = self.desk.recommend(kind, *self._shown(values))
            except UserError as error:
                chosen, said = {}, render.problems(error.problems)
            fields = [
                self.fields.update(key, chosen[key]) if key in chosen else gr.update() for key in self.fields.declared
            ]
            return [*fields, said]

        return recommend
