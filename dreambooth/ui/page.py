"""The page: puts its columns together and connects events with their handlers (page_controller.py and others)."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from dreambooth.errors import UserError
from dreambooth.settings import Settings
from dreambooth.ui import render
from dreambooth.ui.columns import InputColumn, ModelColumn, OutputColumn, TopRow
from dreambooth.ui.components import visible_rows
from dreambooth.ui.concept_import import ConceptImport
from dreambooth.ui.concepts_tab import INITIALLY_VISIBLE, MAX_CONCEPTS
from dreambooth.ui.gradio_versions import control, on
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.language import PageLanguage
from dreambooth.ui.page_controller import CHOSEN_MODEL, PageController
from dreambooth.ui.poller import Poller
from dreambooth.ui.resume_offer import LATEST, NONE, snapshot_name
from dreambooth.ui.tools_controller import ToolsController

Updates = list[Any]


class Page:
    """The page as Gradio Blocks. State that outlives a browser tab is in the controllers."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.concept_import = ConceptImport(page_controller)

    def blocks(self) -> gr.Blocks:
        """Build the layout and connect its events."""
        with control(gr.Blocks, title="Dreambooth", analytics_enabled=False, fill_width=True) as page:
            with gr.Column(elem_id="db_page"):
                self.top = TopRow()
                with gr.Row(elem_id="db_columns"):
                    self.model = ModelColumn(
                        self.page_controller.missing_requirements(),
                        self.page_controller.limited_settings(),
                        self.page_controller.missing_families(),
                    )
                    self.input = InputColumn(self.model.fields)
                    self.output = OutputColumn()
            PageLanguage(self.page_controller.host.language()).add(page)
            self._wire(page)
        return page

    # -- events -----------------------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        concepts = self.input.concepts
        self.fields = self.input.settings
        self.visible_concepts = gr.State(value=INITIALLY_VISIBLE)
        self.pending_model = gr.State(value="")  # name of the model that this browser is creating
        self.parameters = [*self.fields.components(), *concepts.components()]
        self.parameter_outputs = [*self.parameters, self.visible_concepts, *concepts.accordions]
        # Inputs of every handler that uses the parameters, see _submitted.
        self.inputs = [self.top.filled, self.model.name, *self.parameters]
        self.dependencies = [self.fields.controls[key] for key in self.fields.dependencies()]
        self._wire_lists(page)
        self._wire_parameters()
        self._wire_jobs()
        self.input.tools.wire(ToolsController(self.page_controller), self.model.name, self.fields)
        self.input.images.wire(self.page_controller, self.model.name, self.fields)
        self.input.uploads.wire(self.page_controller, self.model.name, concepts, self.visible_concepts)
        self.input.images.preview.wire_concepts(
            concepts,
            [self.model.name, *self.parameters],
            self._concept_updates,
            [*concepts.components(), self.visible_concepts, *concepts.accordions],
        )
        self.poller = Poller(self.page_controller, self.top, self.model, self.input, self.output)
        self.poller.wire(self.pending_model)
        self._wire_file_lists()

    def _wire_lists(self, page: gr.Blocks) -> None:
        name, source, file_dropdowns = self.model.name, self.model.source, self.model.file_dropdowns()
        lists = [name, source, self.model.load_from, self.top.filled, *self._host_file_dropdowns()]
        on(page.load, self._update_lists, outputs=lists)
        on(page.load, self._initial_tab, outputs=self.model.tabs)
        on(self.model.refresh.click, self._refresh, [name, source], lists)
        on(self.model.refresh.click, self._update_model_files, name, file_dropdowns)
        outputs = [*self.parameter_outputs, self.input.tabs, self.top.disabled]
        messages = [self.output.message, self.output.forecast, self.input.table]  # about the model that was chosen
        on(name.change, self._show_model, name, [*outputs, self.top.filled, *messages])
        on(name.change, self._update_model_files, name, file_dropdowns)
        load = [self.model.load_from, name]
        on(self.model.load_params.click, self._load_params_from, load, [*outputs, self.output.message])

    def _wire_parameters(self) -> None:
        concepts, message = self.input.concepts, self.output.message
        on(self.top.save_params.click, self._save, self.inputs, message)
        on(self.input.check.click, self._check, self.inputs, [message, self.output.forecast, self.input.table])
        on(concepts.class_images.click, self._generate_class_images, self.inputs, message)
        rows = [self.visible_concepts, *concepts.accordions]
        on(concepts.add.click, lambda n: visible_rows(n + 1, MAX_CONCEPTS), self.visible_concepts, rows)
        imported = on(concepts.import_button.click, self._import_concepts, [concepts.source, *self.inputs], message)
        on(imported.then, self._saved_parameters, self.model.name, self.parameter_outputs, always_last=True)
        on(concepts.export_button.click, self._export_concepts, [concepts.export_path, *self.inputs], message)
        for wizard, kind in self.input.wizards():
            on(wizard.click, self._recommend(kind), self.inputs, [*self.fields.components(), message])
        for key in dict.fromkeys((*self.fields.missing, *self.fields.limited)):
            field = self.fields.controls[key]
            on(field.input, self._refuse_unusable(key), [field, self.model.name], message)
        changes = [component.change for component in (self.top.locked, *self.dependencies)]
        on(changes, self._disabled, [self.model.name, *self.dependencies], self.top.disabled, always_last=True)

    def _wire_jobs(self) -> None:
        message, model = self.output.message, self.model
        options = model.options
        inputs = [model.name, model.new_name, model.source, *options.components()]
        outputs = [model.create_message, self.pending_model, *options.secrets()]
        on(model.create.click, self._create, inputs, outputs)
        on(self.top.train.click, lambda: "", outputs=self.output.forecast)  # it may be of other settings
        on(self.top.train.click, self._train, [model.snapshot, *self.inputs], message)
        on(model.resume.click, self._resume, self.inputs, message)
        on(self.top.generate_ckpt.click, self._generate_checkpoint, [model.lora, *self.inputs], message)
        for request, button in self.top.run_controls().items():
            on(button.click, self._send_request(request), outputs=message)

    def _wire_file_lists(self) -> None:
        """Update the lists of files when the list of saved files changes, not while someone has one of them open."""
        saved = self.output.files.fingerprint
        on(saved.change, self._update_model_files, self.model.name, self.model.file_dropdowns())
        on(saved.change, self._update_host_files, outputs=self._host_file_dropdowns())

    # -- handlers ---------------------------------------------------------------------------------------------

    def _initial_tab(self) -> Any:
        return gr.update(selected="select" if self.page_controller.model_names() else "create")

    def _update_lists(self, name: str | None = None, source: str | None = None) -> Updates:
        names = self.page_controller.model_names()
        sources = self.page_controller.file_choices.titles("checkpoints")
        chosen = name if name in names else self.page_controller.current_model()
        return [
            gr.update(choices=names, value=chosen),
            gr.update(choices=sources, value=source or self.page_controller.host.preselected_checkpoint()),
            gr.update(choices=[CHOSEN_MODEL, *names]),
            gr.update() if chosen else "",
            *self._update_host_files(),
        ]

    def _refresh(self, name: str | None, source: str | None) -> Updates:
        self.page_controller.refresh()
        return self._update_lists(name, source)

    def _file_controls(self) -> list[tuple[str, Any]]:
        """(kind of files, control) of all controls that offer files of the host."""
        images, tools = self.input.images, self.input.tools
        return [*self.model.options.file_controls(), *images.file_controls(), *tools.file_controls()]

    def _host_file_dropdowns(self) -> list[Any]:
        return [dropdown for _, dropdown in self._file_controls()]

    def _update_host_files(self) -> Updates:
        kinds = [kind for kind, _ in self._file_controls()]
        titles = {kind: self.page_controller.file_choices.titles(kind) for kind in set(kinds)}  # list each folder once
        return [gr.update(choices=titles[kind]) for kind in kinds]

    def _update_model_files(self, name: str | None) -> Updates:
        snapshots = self.page_controller.snapshot_choices(name)
        chosen = LATEST if self.page_controller.is_interrupted(name) else NONE
        loras = self.page_controller.lora_choices()
        return [gr.update(choices=[title for title, _ in snapshots], value=chosen), gr.update(choices=loras)]

    def _load_params(self, name: str | None, chosen: str | None = None) -> Updates:
        """Fill the fields with a model's parameters, and turn to the Concepts tab if it has none yet.

        ``chosen``: the model that the page shows, if it is another one.

        Otherwise the tab stays as it is, since on a slow machine the user may have turned to another one meanwhile.
        """
        settings, concepts = self.page_controller.parameters(name)
        disabled = self._disabled(chosen or name, *(getattr(settings, key) for key in self.fields.dependencies()))
        tab = gr.update(selected="concepts") if name and not concepts else gr.update()
        return [*self._setting_updates(settings), *self._concept_updates(concepts), tab, disabled]

    def _show_model(self, name: str | None) -> Updates:
        no_messages = ["", "", ""]
        return [*self._load_params(name), name or "", *no_messages]

    def _load_params_from(self, source: str | None, name: str | None) -> Updates:
        """Fill the fields with the parameters of the model ``source``, while the model ``name`` stays chosen."""
        source = name if source in (None, CHOSEN_MODEL) else source
        loaded = render.lines([self.page_controller.loaded_text(source, name)])
        refused = self.page_controller.refused_settings(
            name, dataclasses.asdict(self.page_controller.parameters(source)[0])
        )
        return [*self._load_params(source, name), loaded + render.warnings(refused)]

    def _saved_parameters(self, name: str | None) -> Updates:
        settings, concepts = self.page_controller.parameters(name)
        return [*self._setting_updates(settings), *self._concept_updates(concepts)]

    def _setting_updates(self, settings: Settings) -> Updates:
        return [self.fields.update(key, getattr(settings, key)) for key in self.fields.declared]

    def _concept_updates(self, concepts: Any) -> Updates:
        """Updates of the concepts' fields, the number of visible concepts, and their accordions."""
        visible = visible_rows(max(INITIALLY_VISIBLE, len(concepts)), MAX_CONCEPTS)
        return [*self.input.concepts.updates(concepts), *visible]

    def _disabled(self, name: str | None, *values: Any) -> str:
        """Disables settings without effect or that the model's family can't have; all parameters while a job works
        on the model.

        ``values``: of the dependencies.
        """
        without_effect, family = self.fields.without_effect(list(values)), self.page_controller.family(name)
        unavailable = self.fields.unavailable(list(values), family.capabilities) if family else {}
        without_effect = list(dict.fromkeys((*without_effect, *unavailable)))
        reasons = render.reasons(unavailable, family.title) if family else ""
        if self.page_controller.job_runner.is_locked(name):
            buttons = [button.elem_id for button in (self.model.load_params, *self.input.editing_buttons())]
            locked = [*self.fields.elem_ids(), *self.input.concepts.elem_ids(), *buttons]
            return render.locked(locked, without_effect) + reasons
        return render.disabled(without_effect) + reasons

    def _submitted(self, values: tuple[Any, ...]) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        """(model name, settings, concepts) of the submitted values of ``self.inputs``.

        Raises:
            UserError: in the moment after a model was chosen, while the fields still hold another model's parameters.
        """
        filled, name, *fields = values
        if (name or "") != filled:
            raise UserError(f"The parameters of {name} are still loading. Try again in a moment.")
        n = len(self.fields.declared)
        return name, self.fields.values(fields[:n]), self.input.concepts.values(fields[n:])

    @errors_as_html
    def _save(self, *values: Any) -> str:
        name, settings, concepts = self._submitted(values)
        unusable = [self.fields.unusable_choice(key, settings[key]) for key in self.fields.missing]
        saved = self.page_controller.save(name, settings, concepts)
        refused = self.page_controller.refused_settings(name, settings)
        return saved + render.warnings([*filter(None, unusable), *refused])

    def _check(self, *values: Any) -> tuple[str, str, str]:
        try:
            return self.page_controller.check(*self._submitted(values))
        except UserError as error:
            return render.refusal(error.problems), "", ""

    @errors_as_html
    def _train(self, snapshot: str, *values: Any) -> str:
        return self.page_controller.train(*self._submitted(values), snapshot_name(snapshot))

    @errors_as_html
    def _resume(self, *values: Any) -> str:
        """Continue the interrupted run."""
        return self.page_controller.train(*self._submitted(values), LATEST)

    @errors_as_html
    def _import_concepts(self, source: str, *values: Any) -> str:
        name, settings, _ = self._submitted(values)
        return self.concept_import.import_from(name, source, settings)

    @errors_as_html
    def _export_concepts(self, path: str, *values: Any) -> str:
        name, settings, concepts = self._submitted(values)
        return self.concept_import.export_to(name, path, settings, concepts)

    @errors_as_html
    def _generate_class_images(self, *values: Any) -> str:
        return self.page_controller.class_images(*self._submitted(values))

    @errors_as_html
    def _generate_checkpoint(self, lora: str, *values: Any) -> str:
        name, settings, _ = self._submitted(values)
        return self.page_controller.generate_checkpoint(name, lora, settings)

    def _create(self, shown_model: str | None, name: str, source: str, *options: Any) -> Updates:
        fields = self.model.options
        error = self.page_controller.create(name, source, fields.values(list(options)), shown_model or "")
        # A secret is sent once and then cleared in the browser too.
        secrets = [gr.update() if error else gr.update(value="") for _ in fields.secrets()]
        return [error, "" if error else name.strip(), *secrets]

    def _send_request(self, request: str) -> Any:
        return lambda: self.page_controller.job_runner.request(request)

    def _refuse_unusable(self, key: str) -> Any:
        """Handler that says at once why a choice can't be used on this machine, or with this model."""

        def refuse(choice: Any, name: str | None = None) -> Any:
            if problem := self.fields.unusable_choice(key, choice):
                return render.refusal([f"{problem} Choose another one."])
            problem = self.page_controller.refused_value(name, key, choice)
            return render.refusal([problem]) if problem else gr.update()

        return refuse

    def _recommend(self, kind: str) -> Any:
        def recommend(*values: Any) -> Updates:
            try:
                changes, message = self.page_controller.recommend(kind, *self._submitted(values))
            except UserError as error:
                changes, message = {}, render.refusal(error.problems)
            return [*self.fields.updates(changes), message]

        return recommend
