"""Actions behind the page's buttons, and the state that the page shows. No Gradio: plain values in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import actions, embedded
from dreambooth.errors import UserError
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Ended, Events, FileSaved
from dreambooth.jobs.shutdown import saved_at_shutdown
from dreambooth.settings import (
    CREATE_OPTIONS,
    SETTINGS,
    Concept,
    CreateOptions,
    ModelConfig,
    ModelFolder,
    Settings,
    parse,
    parse_concepts,
)
from dreambooth.settings.creation import FAMILIES
from dreambooth.text import count
from dreambooth.ui import render, render_images
from dreambooth.ui.chart import learning_rate_chart, timestep_chart
from dreambooth.ui.file_choices import FileChoices
from dreambooth.ui.job_runner import JobRunner, errors_as_html
from dreambooth.ui.page_state import PageState
from dreambooth.ui.page_view import PageView
from dreambooth.ui.resume_offer import NONE, snapshot_choices

if TYPE_CHECKING:
    from dreambooth.models.family import Family

CHOSEN_MODEL = "(the chosen model)"  # the first choice of Load params from
REFRESH_SECONDS = 5.0


class PageController:
    """Server side of the page: one for all browsers that have it open."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.job_runner = JobRunner(host)
        self.file_choices = FileChoices(host)
        self.view = PageView(host, self.job_runner)

    def page_state(self, name: str | None) -> PageState:
        """The state with model ``name`` chosen."""
        return self.view.state(name)

    # -- lists ------------------------------------------------------------------------------------------------

    def model_names(self) -> list[str]:
        return self.host.folders().model_names()

    def lora_choices(self) -> list[str]:
        return [NONE, *self.file_choices.titles("loras")]

    def refresh(self) -> None:
        """Have the host read its folders again; wait only briefly if it is busy."""
        self.host.files_changed(wait=REFRESH_SECONDS)

    def snapshot_choices(self, name: str | None) -> list[tuple[str, str]]:
        """(title, name) of the snapshots that a run can resume from, newest first."""
        return snapshot_choices(self.model(name)) if name in self.model_names() else [(NONE, NONE)]

    def current_model(self) -> str | None:
        """The model of the last job, else the first one."""
        names = self.model_names()
        return self.job_runner.model if self.job_runner.model in names else next(iter(names), None)

    def is_interrupted(self, name: str | None) -> bool:
        """Whether the model's last run was interrupted and can resume from one of its snapshots."""
        from dreambooth.runs.interrupted import interrupted_run

        return name in self.model_names() and interrupted_run(self.model(name)) is not None

    def missing_requirements(self) -> dict[str, dict[str, str]]:
        """By setting and choice, what a choice needs that this machine lacks."""
        from dreambooth.training.availability import missing_requirements

        return missing_requirements(self.host.device())

    def missing_families(self) -> dict[str, dict[str, str]]:
        """As :meth:`missing_requirements`, for the options of Create."""
        from dreambooth.models.registry import unavailable_families

        return {"model_type": unavailable_families()}

    def limited_settings(self) -> set[str]:
        """The settings that some family can't have."""
        from dreambooth.models.registry import FAMILIES

        return {key for family in FAMILIES for key in family.capabilities.limits}

    # -- a model's parameters -----------------------------------------------------------------------------------

    def parameters(self, name: str | None) -> tuple[Settings, tuple[Concept, ...]]:
        """A model's saved settings and concepts, or the defaults."""
        if name in self.model_names():
            try:
                config = self.model(name).load()
                return config.settings, config.concepts
            except UserError:
                pass  # the model's summary shows the error
        return Settings(), ()

    def family(self, name: str | None) -> Family | None:
        """The family of a model; None without a readable one."""
        from dreambooth.models.registry import find_family

        try:
            return find_family(self.model(name).load().info.model_type) if name in self.model_names() else None
        except UserError:
            return None

    def refused_settings(self, name: str | None, values: Mapping[str, Any]) -> list[str]:
        """What the family of a model can't have of these settings, one line each."""
        from dreambooth.runs.consistency import refused_settings

        family = self.family(name)
        return refused_settings(family, parse(Settings, values)) if family else []

    def refused_value(self, name: str | None, key: str, value: Any) -> str:
        """Why the family of a model can't have this value of a setting; "" if it can, or if the value is invalid."""
        family = self.family(name)
        try:
            parsed = SETTINGS[key].parse(value)
        except ValueError:
            return ""
        if family is None or not family.capabilities.refuses(key, parsed):
            return ""
        return family.capabilities.refusal(family.title, key, parsed)

    def loaded_text(self, source: str | None, name: str | None) -> str:
        """What Load Params has done: the parameters of ``source`` on the page, with the model ``name`` chosen."""
        if source not in self.model_names():
            return "Choose a model under Load params from." if source else "Choose a model, then its parameters load."
        if source == name:
            return f"Loaded the saved parameters of {source}."
        return f"Loaded the parameters of {source}." + (f" Save Params saves them to {name}." if name else "")

    @errors_as_html
    def save(self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]) -> str:
        model = self.model(name)
        model.save(self.edited_config(model, settings, concepts))
        return render.lines([f"Saved the parameters of {name}."])

    def check(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str, str]:
        """(message, forecast, table of images and captions) of the run with these parameters."""
        from dreambooth.runs.memory_need import plan_in_background
        from dreambooth.runs.preflight import preflight

        try:
            model = self.model(name)
            config = self.edited_config(model, settings, concepts)
            result = preflight(model, config, self.host.device())
        except UserError as error:
            return render.refusal(error.problems), "", ""
        checked = result.as_dict()
        seconds_per_step = self.view.training_run(name).seconds_per_step()
        table = render_images.image_table([*checked["table"], *checked["other_files"]])
        self.view.planned_charts[name] = learning_rate_chart(
            result.learning_rates, result.role_titles()
        ) + timestep_chart(result.timestep_shares, config.settings)
        self.view.settled[name] = self.view.shown_run(name).time
        ready = ["Ready to train."]
        if result.memory.is_estimate and plan_in_background(
            model, config.settings, result.precision, result.plan, bool(result.class_images), result.device
        ):
            ready.append("Memory is being planned exactly: check again in half a minute.")
        message = render.warnings(checked["warnings"]) + render.lines(ready)
        return message, render.forecast(checked, config.settings, seconds_per_step), table

    def recommend(
        self, kind: str, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """(settings to change on the page, message with the reasons). ``kind``: performance, person or object."""
        try:
            model = self.model(name)
            config = self.edited_config(model, settings, concepts)
            recommendation = actions.recommend(kind, model, config, self.host.device())
        except UserError as error:
            return {}, render.refusal(error.problems)
        saving = "Filled in on this page. Click Save Params to keep these settings."
        return recommendation.changes, render.lines([*recommendation.reasons, saving])

    # -- jobs -------------------------------------------------------------------------------------------------

    @errors_as_html
    def create(self, name: str, source: str, options: Mapping[str, Any], shown_model: str = "") -> str:
        """Create a model. ``shown_model``: the one that the page shows meanwhile."""
        model = self.model((name or "").strip())
        source = (source or "").strip()
        if not source:
            raise UserError("Choose a source checkpoint.")
        if model.occupied():
            raise UserError(f"A model named {model.name} already exists. Choose another name.")
        listed = {key: setting.file_list for key, setting in CREATE_OPTIONS.items() if setting.file_list}
        paths = {key: self.file_choices.path(kind, options.get(key)) for key, kind in listed.items()}
        chosen = parse(CreateOptions, {**options, **paths})
        path = dict(self.host.checkpoints()).get(source, source)  # a path, or the id of a model on the hub

        def work(controls: Controls, events: Events) -> None:
            progress = controls.cancellable(events.progress)
            config = actions.create(model.folders, model.name, path, chosen, progress=progress)
            if mini := embedded.of_checkpoint(path):  # has images and settings, so that a trial needs nothing else
                model.save(embedded.with_demo_settings(config, mini))
            title = FAMILIES[config.info.model_type]
            for warning in config.info.source_warnings.splitlines():
                events.message(warning, level="warning")
            events.send(Ended("done", text=f"Created {model.name} ({title}). Recognized: {config.info.recognized}."))

        return self.job_runner.start("create", model.name, work, model=model.name, shown_model=shown_model)

    @errors_as_html
    def train(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]], snapshot: str = NONE
    ) -> str:
        """Save the parameters that the page shows, and train with them. ``snapshot``: one of the choices."""
        model = self.model(name)
        config = self.edited_config(model, settings, concepts)
        resume = "" if snapshot in (NONE, None) else snapshot

        def work(controls: Controls, events: Events) -> None:
            with saved_at_shutdown(controls, events):
                model.save(config)
                actions.train(
                    model,
                    config,
                    resume=resume,
                    controls=controls,
                    events=events,
                    device=self.host.device(),
                    borrow_gpu=self.host.borrow_gpu,
                )

        self.view.planned_charts.pop(model.name, None)
        return self.job_runner.start("train", model.name, work, model=model.name, log_folder=model.logging)

    @errors_as_html
    def class_images(self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]) -> str:
        """Generate the class images that a run would generate first."""
        model = self.model(name)
        config = self.edited_config(model, settings, concepts)

        def work(controls: Controls, events: Events) -> None:
            model.save(config)
            generated = actions.class_images(
                model,
                config,
                controls=controls,
                events=events,
                device=self.host.device(),
                borrow_gpu=self.host.borrow_gpu,
            )
            n = len(generated)
            text = f"Generated {count(n, 'class image')}." if n else "No class images are missing."
            events.send(Ended("done", text=text))

        return self.job_runner.start("class-images", model.name, work, model=model.name)

    @errors_as_html
    def generate_checkpoint(self, name: str, lora: str, settings: Mapping[str, Any]) -> str:
        """Export the model as a single file, with a LoRA merged in at the weight that the page shows."""
        loras = [Path(self.file_choices.path("loras", lora))] if lora and lora != NONE else []
        return self.start_generation(name, settings, loras=loras)

    def start_generation(self, name: str | None, settings: Mapping[str, Any], **merged: Any) -> str:
        """Export the model as a single file. ``merged``: LoRAs and weights for :func:`actions.generate_checkpoint`.

        Raises:
            UserError: if no model is chosen, a setting is invalid or another job is running.
        """
        model = self.model(name)
        config = self.edited_config(model, settings, None)

        def work(controls: Controls, events: Events) -> None:
            model.save(config)
            progress = controls.cancellable(events.progress)
            path, verification = actions.generate_checkpoint(model, **merged, progress=progress)
            events.send(FileSaved("checkpoint", str(path), summary=verification.summary()))
            events.send(Ended("done", text=f"Generated {path.name}."))

        return self.job_runner.start("generate", model.name, work, model=model.name)

    # -- helpers ----------------------------------------------------------------------------------------------

    def model(self, name: str | None) -> ModelFolder:
        if not name:
            raise UserError("Choose a model, or enter a name for the new one.")
        return ModelFolder(self.host.folders(), name)

    def edited_config(
        self, model: ModelFolder, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]] | None
    ) -> ModelConfig:
        """The model's config with the page's settings and concepts in place of the saved ones.

        Concepts beyond those that the page has fields for are kept; those without a folder are dropped.

        Raises:
            UserError: with all invalid values at once.
        """
        config, problems = actions.opened(model).load(), []
        new_settings, new_concepts = config.settings, config.concepts
        try:
            new_settings = parse(Settings, settings, base=new_settings)
        except UserError as error:
            problems += error.problems
        if concepts is not None:
            try:
                new_concepts = (*parse_concepts(concepts)[0], *config.concepts[len(concepts) :])
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError.from_problems(problems)
        new_concepts = tuple(concept for concept in new_concepts if concept.instance_data_dir)
        return dataclasses.replace(config, settings=new_settings, concepts=new_concepts)
