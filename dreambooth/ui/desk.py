"""What the page's buttons do, and what the page shows. No Gradio: plain values in, plain values out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth import actions, embedded
from dreambooth.errors import Cancelled, UserError
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Events, jobs
from dreambooth.settings import (
    Concept,
    Creation,
    ModelConfig,
    ModelFolder,
    Settings,
    parse,
    parse_concepts,
    read_concepts,
)
from dreambooth.ui import render
from dreambooth.ui.chart import chart
from dreambooth.ui.logs import LogReader
from dreambooth.ui.run_view import STARTS, RunView

NONE = "none"
LATEST = "latest"


@dataclass(frozen=True)
class View:
    """What the page shows of a model and its run, and what can be pressed now. Compared part by part."""

    names: tuple[str, ...]
    status: str
    bar: str
    chart: str
    facts: str
    pictures: tuple[tuple[str, str], ...]
    files: str
    idle: bool  # nothing runs
    training: bool
    paused: bool
    locked: bool  # the model that is shown is the one at work
    why: str  # why some buttons can't be pressed


def _paused_for(rest: float | None) -> str:
    return "Paused." if rest is None else f"Paused, going on in {math.ceil(rest)} s."


def in_words(answer: Callable[..., str]) -> Callable[..., str]:
    """An answer that says what a person can mend, instead of raising it."""

    @functools.wraps(answer)
    def said(*args: Any) -> str:
        try:
            return answer(*args)
        except UserError as error:
            return render.problems(error.problems)

    return said


class Desk:
    """The server's side of the page: one for all browsers that have it open."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._at_work = ""  # the model that the last job worked on
        self._what = ""
        self._own: RunView | None = None  # the last job of this process; others are read from their logs
        self._logs = LogReader()

    # -- lists ------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return self.host.folders().model_names()

    def sources(self) -> list[str]:
        return [title for title, _ in self.host.checkpoints()]

    def loras(self) -> list[str]:
        folder = self.host.folders().loras
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
        return [NONE, *found]

    def snapshots(self, name: str | None) -> list[str]:
        """Steps that a run can go on from, newest first."""
        if name not in self.names():
            return [NONE]
        steps = [str(step) for step in reversed(self._model(name).snapshot_steps())]
        return [NONE, *([LATEST] if steps else []), *steps]

    def current_name(self) -> str | None:
        """The model at work, else the first one."""
        return self._at_work if self._at_work in self.names() else next(iter(self.names()), None)

    def interrupted(self, name: str | None) -> bool:
        """Whether the model's last run broke off, and can go on."""
        return len(self.snapshots(name)) > 1 and self._run_of(name).state in ("working", "failed", "cancelled")

    # -- a model's parameters -----------------------------------------------------------------------------------

    def parameters(self, name: str | None) -> tuple[Settings, tuple[Concept, ...]]:
        """What a model's fields hold: what is saved, or the defaults."""
        if name in self.names():
            try:
                config = self._model(name).load()
                return config.settings, config.concepts
            except UserError:
                pass  # the facts say what is wrong
        return Settings(), ()

    @in_words
    def save(self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]) -> str:
        model = self._model(name)
        model.save(self._edited(model, settings, concepts))
        return render.lines([f"Saved the parameters of {name}."])

    @in_words
    def read_concepts(self, name: str, source: str) -> str:
        """Take over a concepts list: JSON text, or the path of a JSON file."""
        model = self._model(name).require()
        if not (source or "").strip():
            raise UserError("Paste a concepts list (JSON), or give the path of one.")
        try:
            concepts, ignored = read_concepts(source.strip())
        except ValueError as error:
            raise UserError(f"The concepts list is not JSON: {error}.") from None
        model.save(dataclasses.replace(model.load(), concepts=concepts))
        without = f" Without effect here: {', '.join(ignored)}." if ignored else ""
        return render.lines([f"Took over {len(concepts)} concepts.{without}"])

    def check(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str, str]:
        """(message, forecast, table of captions) of the run that the page shows."""
        try:
            model = self._model(name)
            config = self._edited(model, settings, concepts)
            checked = actions.check(model, config, self.host.device()).as_dict()
        except UserError as error:
            return render.problems(error.problems), "", ""
        pace = self._run_of(name).pace()
        said = render.problems(checked["warnings"]) or render.lines(["Ready to train."])
        return said, render.forecast(checked, config.settings, pace), render.caption_table(checked["table"])

    def advise(
        self, kind: str, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """(settings to change on the page, what they are and why)."""
        try:
            model = self._model(name)
            advice = actions.advise(kind, model, self._edited(model, settings, concepts), self.host.device())
        except UserError as error:
            return {}, render.problems(error.problems)
        return advice.changes, render.lines([*advice.reasons, "Chosen on this page, not saved yet."])

    # -- work -------------------------------------------------------------------------------------------------

    @in_words
    def create(self, name: str, source: str, options: Mapping[str, Any]) -> str:
        model = self._model((name or "").strip())
        source = (source or "").strip()
        if not source:
            raise UserError("Choose a source checkpoint.")
        if model.occupied():
            raise UserError(f"There is a model {model.name} already: choose another name.")
        chosen = parse(Creation, options)
        path = dict(self.host.checkpoints()).get(source, source)

        def work(controls: Controls, events: Events) -> None:
            progress = controls.watched(events.progress)
            config = actions.create(model.folders, model.name, path, chosen, progress=progress)
            if path == embedded.CHECKPOINT:  # its own pictures and settings, so that a first try needs no more
                model.save(embedded.filled_in(config))
            events.send("ended", state="done", text=f"Created {model.name} ({config.facts.model_type}).")

        return self._start("create", model, work)

    @in_words
    def train(
        self, name: str, settings: Mapping[str, Any], concepts: Sequence[Mapping[str, Any]], snapshot: str = NONE
    ) -> str:
        """Train what the page shows: it is saved first."""
        model = self._model(name)
        config = self._edited(model, settings, concepts)
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

        return self._start("train", model, work)

    @in_words
    def generate_checkpoint(self, name: str, lora: str, settings: Mapping[str, Any]) -> str:
        """The model as one file, with a LoRA merged in at the weight that the page shows."""
        model = self._model(name)
        config = self._edited(model, settings, None)
        loras = [model.folders.loras / lora] if lora and lora != NONE else []

        def work(controls: Controls, events: Events) -> None:
            model.save(config)
            progress = controls.watched(events.progress)
            path, verification = actions.generate_checkpoint(model, loras=loras, progress=progress)
            events.send("saved", what="checkpoint", path=str(path), summary=verification.summary())
            events.send("ended", state="done", text=f"Generated {path.name}.")

        return self._start("generate", model, work)

    @in_words
    def tell(self, wish: str) -> str:
        """Pass a wish to the run: pause (or resume), sample_now, save_now, cancel (twice: at once)."""
        job = jobs.current
        if not job or not job.running:
            return render.lines(["Nothing is running."])
        controls = job.controls
        if wish == "pause":
            (controls.resume if controls.paused else controls.pause)()
            return render.lines(["Pausing after this step." if controls.paused else "Going on."])
        if wish == "cancel" and controls.cancelled:
            controls.stop_now()
            return render.lines(["Stopping now, without saving."])
        getattr(controls, wish)()
        said = {
            "cancel": f"{self._stopping()} Press again to stop at once.",
            "sample_now": "Samples come after this step.",
            "save_now": "Weights are saved after this step.",
        }
        return render.lines([said[wish]])

    def _start(self, what: str, model: ModelFolder, work: Callable[[Controls, Events], Any]) -> str:
        own = RunView(name=model.name)
        own.feed({"kind": "started", "what": what})

        def job(controls: Controls) -> None:
            events = Events(model.logging if what == "train" else None, own.feed)
            try:
                work(controls, events)
            except BaseException as error:
                if own.state == "working":
                    events.send(
                        "ended", state="cancelled" if isinstance(error, Cancelled) else "failed", text=str(error)
                    )
                raise
            finally:
                events.close()
                self.host.files_changed()

        jobs.start(f"{what} {model.name}", job)
        self._at_work, self._what, self._own = model.name, what, own
        return ""

    # -- the look ---------------------------------------------------------------------------------------------

    def look(self, name: str | None) -> View:
        """Where the work stands: the job that is going on, else the model's last run."""
        job = jobs.current
        busy = bool(job and job.running)
        training = busy and self._what == "train"
        paused = training and job.controls.paused
        cancelling = busy and job.controls.cancelled
        names = self.names()
        run = self._own if busy and self._own else self._run_of(name)
        alive = busy or self._logs.grows(self._model(name).logging if name in names else None)
        line = run.line(alive) or self._invitation(name, names)
        if run.state == "working" and not alive and self.interrupted(name):
            line += " Train goes on from its latest snapshot: see Snapshot, under Select."
        if paused:
            line = f"{_paused_for(job.controls.rest)} {line}"
        elif cancelling:
            line = f"{self._stopping()} {line}"
        state = "paused" if paused else run.state
        return View(
            names=tuple(names),
            status=render.status(line, state, run.warning),
            bar=render.bar(run.share() if run.state == "working" and alive else None, busy and not paused),
            chart=chart(run),
            facts=self._facts(name, names),
            pictures=tuple(run.gallery()),
            files=render.files(run.saved, run),
            idle=not busy,
            training=training,
            paused=paused,
            locked=self.locked(name),
            why=self._why(name, names, busy),
        )

    def _stopping(self) -> str:
        """What a cancel does to the job at hand; only a training has something to save."""
        training = "Finishing this step, then saving as the cancel settings say."
        return training if self._what == "train" else "Stopping; nothing is left half-made."

    def locked(self, name: str | None) -> bool:
        """Whether this model is at work, so that its parameters can be read but not changed."""
        return bool(jobs.current and jobs.current.running and name == self._at_work)

    def _run_of(self, name: str | None) -> RunView:
        """The last run of a model: this process's own, or what its log on disk adds up to."""
        if name not in self.names():
            return RunView()
        logged = self._logs.run(name, self._model(name).logging)
        own = self._own if name == self._at_work else None
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
        model = self._model(name)
        try:
            return render.facts(model.load().facts, model.root)
        except UserError as error:
            return render.problems(error.problems)

    def _why(self, name: str | None, names: Sequence[str], busy: bool) -> str:
        if busy:
            locked = " The settings of this model are locked meanwhile." if self.locked(name) else ""
            doing = f"{STARTS.get(self._what, self._what)} {self._at_work}"
            return f"{doing} is going on: Create, Train and Generate Ckpt wait for its end.{locked}"
        return "" if name in names else "Train, Generate Ckpt and Save Params need a model: create or choose one."

    def _model(self, name: str | None) -> ModelFolder:
        if not name:
            raise UserError("Choose a model first, or give the new one a name.")
        return ModelFolder(self.host.folders(), name)

    def _edited(
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
