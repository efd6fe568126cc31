"""What the page's buttons do, and what the page shows. No Gradio: plain values in, plain values out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth import actions, embedded
from dreambooth.errors import UserError
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Events
from dreambooth.settings import (
    Concept,
    Creation,
    ModelConfig,
    ModelFolder,
    Settings,
    parse,
    parse_concepts,
)
from dreambooth.settings.creation import FAMILIES
from dreambooth.ui import model_summary, render, render_images
from dreambooth.ui.chart import chart, planned
from dreambooth.ui.file_choices import FileChoices
from dreambooth.ui.job_runner import JobRunner, in_words
from dreambooth.ui.log_reader import LogReader
from dreambooth.ui.page_state import PageState
from dreambooth.ui.run_view import RunView

NONE = "none"
LATEST, BEST = "latest", "best"
REFRESH_SECONDS = 5.0


def _paused_for(rest: float | None) -> str:
    return "Paused." if rest is None else f"Paused, going on in {math.ceil(rest)} s."


class PageController:
    """The server's side of the page: one for all browsers that have it open."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.bench = JobRunner(host)
        self.lists = FileChoices(host)
        self._logs = LogReader()
        self._planned: dict[str, str] = {}  # charts of the runs that were checked since the last one, by model

    # -- lists ------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return self.host.folders().model_names()

    def loras(self) -> list[str]:
        return [NONE, *self.lists.titles("loras")]

    def refresh(self) -> None:
        """Have the host look at its folders anew, but not wait for long work of its own."""
        self.host.files_changed(wait=REFRESH_SECONDS)

    def snapshots(self, name: str | None) -> list[str]:
        """Steps that a run can go on from, newest first."""
        if name not in self.names():
            return [NONE]
        model = self.model(name)
        steps = [str(step) for step in reversed(model.snapshot_steps())]
        return [NONE, *([LATEST] if steps else []), *([BEST] if actions.best_snapshot(model) else []), *steps]

    def current_name(self) -> str | None:
        """The model at work, else the first one."""
        return self.bench.model if self.bench.model in self.names() else next(iter(self.names()), None)

    def interrupted(self, name: str | None) -> bool:
        """Whether the model's last run broke off, and can go on from a snapshot of its own."""
        return name in self.names() and actions.unfinished(self.model(name)) is not None

    # -- a model's parameters -----------------------------------------------------------------------------------

    def parameters(self, name: str | None) -> tuple[Settings, tuple[Concept, ...]]:
        """What a model's fields hold: what is saved, or the defaults."""
        if name in self.names():
            try:
                config = self.model(name).load()
                return config.settings, config.concepts
            except UserError:
                pass  # the facts say what is wrong
        return Settings(), ()

    @in_words
    def save(self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]) -> str:
        model = self.model(name)
        model.save(self.edited(model, settings, concepts))
        return render.lines([f"Saved the parameters of {name}."])

    def check(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str, str]:
        """(message, forecast, table of captions) of the run that the page shows."""
        try:
            model = self.model(name)
            config = self.edited(model, settings, concepts)
            checked = actions.check(model, config, self.host.device()).as_dict()
        except UserError as error:
            return render.problems(error.problems), "", ""
        pace = self._run_of(name).pace()
        shown = render_images.image_table([*checked["table"], *checked["other_files"]])
        self._planned[name] = planned(checked["learning_rates"])
        said = render.warnings(checked["warnings"]) + render.lines(["Ready to train."])
        return said, render.forecast(checked, config.settings, pace), shown

    def recommend(
        self, kind: str, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """(settings to change on the page, what they are and why)."""
        try:
            model = self.model(name)
            advice = actions.recommend(kind, model, self.edited(model, settings, concepts), self.host.device())
        except UserError as error:
            return {}, render.problems(error.problems)
        return advice.changes, render.lines([*advice.reasons, "Chosen on this page, not saved yet."])

    # -- work -------------------------------------------------------------------------------------------------

    @in_words
    def create(self, name: str, source: str, options: Mapping[str, Any], beside: str = "") -> str:
        """Make a model; the page shows ``beside`` meanwhile."""
        model = self.model((name or "").strip())
        source = (source or "").strip()
        if not source:
            raise UserError("Choose a source checkpoint.")
        if model.occupied():
            raise UserError(f"There is a model {model.name} already: choose another name.")
        chosen = parse(Creation, {**options, "vae": self.lists.path("vaes", options.get("vae"))})
        listed = dict(self.host.checkpoints())
        path = listed.get(source, source)  # which may be an id on the hub

        def work(controls: Controls, events: Events) -> None:
            progress = controls.cancellable(events.progress)
            config = actions.create(model.folders, model.name, path, chosen, progress=progress)
            if path == embedded.CHECKPOINT:  # its own pictures and settings, so that a first try needs no more
                model.save(embedded.filled_in(config))
            events.send("ended", state="done", text=f"Created {model.name} ({FAMILIES[config.facts.model_type]}).")

        return self.bench.start("create", model.name, work, model=model.name, beside=beside)

    @in_words
    def train(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]], snapshot: str = NONE
    ) -> str:
        """Train what the page shows: it is saved first."""
        model = self.model(name)
        config = self.edited(model, settings, concepts)
        resume = "" if snapshot in (NONE, None) else snapshot

        def work(controls: Controls, events: Events) -> None:
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

        self._planned.pop(model.name, None)
        return self.bench.start("train", model.name, work, model=model.name, log=model.logging)

    @in_words
    def class_images(self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]) -> str:
        """Draw the class images that a run would draw first."""
        model = self.model(name)
        config = self.edited(model, settings, concepts)
        more = {"device": self.host.device(), "borrow_gpu": self.host.borrow_gpu}

        def work(controls: Controls, events: Events) -> None:
            model.save(config)
            n = len(actions.class_images(model, config, controls=controls, events=events, **more))
            said = f"Drew {n} class images." if n else "No class image is missing."
            events.send("ended", state="done", text=said)

        return self.bench.start("class-images", model.name, work, model=model.name)

    @in_words
    def generate_checkpoint(self, name: str, lora: str, settings: Mapping[str, Any]) -> str:
        """The model as one file, with a LoRA merged in at the weight that the page shows."""
        loras = [Path(self.lists.path("loras", lora))] if lora and lora != NONE else []
        return self.generate(name, settings, loras=loras)

    def generate(self, name: str | None, settings: Mapping[str, Any], **merged: Any) -> str:
        """The model as one file; ``merged``: LoRAs and their weights, as :func:`actions.generate_checkpoint` has them.

        UserError where :meth:`generate_checkpoint` says it in words.
        """
        model = self.model(name)
        config = self.edited(model, settings, None)

        def work(controls: Controls, events: Events) -> None:
            model.save(config)
            progress = controls.cancellable(events.progress)
            path, verification = actions.generate_checkpoint(model, **merged, progress=progress)
            events.send("saved", what="checkpoint", path=str(path), summary=verification.summary())
            events.send("ended", state="done", text=f"Generated {path.name}.")

        return self.bench.start("generate", model.name, work, model=model.name)

    # -- the look ---------------------------------------------------------------------------------------------

    def look(self, name: str | None) -> PageState:
        """Where the work stands: the job that is going on, else the model's last run."""
        bench, names = self.bench, self.names()
        busy, paused = bench.busy, bench.paused
        run = bench.view if busy and bench.view else self._shown(name)
        alive = busy or self._logs.grows(self.model(name).logging if name in names else None)
        line = run.line(alive) or self._invitation(name, names)
        if run.state == "working" and not alive and self.interrupted(name):
            line += " Train goes on from its latest snapshot: see Snapshot, under Select."
        said = [_paused_for(bench.rest) if paused else "", bench.asked(), line]
        line = " ".join(filter(None, said))
        state = "paused" if paused else run.state
        return PageState(
            names=tuple(names),
            status=render.status(line, state, run.warning),
            bar=render.bar(run.share() if run.state == "working" and alive else None, busy and not paused),
            chart=chart(run) if alive else self._planned.get(name or "") or chart(run),
            facts=self._facts(name, names),
            pictures=tuple(run.gallery()),
            files=render.files(run.saved, run),
            idle=not busy,
            training=bench.training,
            paused=paused,
            locked=bench.locked(name),
            why=self._why(name, names, busy),
        )

    def _run_of(self, name: str | None) -> RunView:
        """The last run of a model: this process's own, or what its log on disk adds up to."""
        return self._later(name, name in self.names() and name == self.bench.model)

    def _shown(self, name: str | None) -> RunView:
        """The last work that is shown with a model: a run of it, or what was made beside it."""
        return self._later(name, (name or "") in self.bench.shown_with)

    def _later(self, name: str | None, with_own: bool) -> RunView:
        logged = self._logs.run(name, self.model(name).logging) if name in self.names() else RunView()
        own = self.bench.view if with_own else None
        return own if own and own.time >= logged.time else logged

    def _invitation(self, name: str | None, names: Sequence[str]) -> str:
        if not names:
            return "No model yet. Create one from a checkpoint."
        if name not in names:
            return "Choose a model, or create one."
        _, concepts = self.parameters(name)
        return "Ready." if concepts else "Choose the folder with your pictures, under Concepts."

    def _facts(self, name: str | None, names: Sequence[str]) -> str:
        if name not in names:
            return ""
        model = self.model(name)
        try:
            return render.facts(model_summary.rows(model, model.load().facts))
        except UserError as error:
            return render.problems(error.problems)

    def _why(self, name: str | None, names: Sequence[str], busy: bool) -> str:
        if busy:
            locked = " The settings of this model are locked meanwhile." if self.bench.locked(name) else ""
            return f"{self.bench.doing()} is going on: what else takes time waits for its end.{locked}"
        return "" if name in names else "Train, Generate Ckpt and Save Params need a model: create or choose one."

    def model(self, name: str | None) -> ModelFolder:
        if not name:
            raise UserError("Choose a model first, or give the new one a name.")
        return ModelFolder(self.host.folders(), name)

    def edited(
        self, model: ModelFolder, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]] | None
    ) -> ModelConfig:
        """The model's config with what the page shows laid over it; every wrong value is named at once."""
        config, found = model.require().load(), []
        chosen, read = config.settings, config.concepts
        try:
            chosen = parse(Settings, settings, base=chosen)
        except UserError as error:
            found += error.problems
        if concepts is not None:
            try:
                read = (*parse_concepts(concepts)[0], *config.concepts[len(concepts) :])
            except UserError as error:
                found += error.problems
        if found:
            raise UserError.several(found)
        return dataclasses.replace(config, settings=chosen, concepts=tuple(c for c in read if c.instance_data_dir))
