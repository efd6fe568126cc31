"""What the page's buttons do, and what the page shows. No Gradio: plain values in, plain values out."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import Cancelled, UserError
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Events, jobs, latest_log, read_events
from dreambooth.settings import (
    SETTINGS,
    ModelConfig,
    ModelFolder,
    Settings,
    concept_values,
    parse,
    read_concepts,
)
from dreambooth.ui.status import Status, status_of

NO_LORA = "none"
ELSEWHERE_SECONDS = 60  # a log that grew this recently belongs to a run in another process


@dataclass(frozen=True)
class View:
    """What the page shows of a model and its last run, and what can be pressed now."""

    names: list[str]
    select: str | None  # the model that the page should turn to, when the list of names has changed
    facts: str
    status: str
    pictures: list[tuple[str, str]]
    files: str
    busy: bool
    training: bool
    paused: bool


def in_words(answer: Callable[..., str]) -> Callable[..., str]:
    """An answer that says what a person can mend, instead of raising it."""

    @functools.wraps(answer)
    def said(*args: Any) -> str:
        try:
            return _lines([answer(*args)])
        except UserError as error:
            return _lines(error.problems, "db_problem")

    return said


class Desk:
    """The server's side of the page: one for all browsers that have it open."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._name: str | None = None  # the model that the last job worked on
        self._what = ""
        self._told: list[dict[str, Any]] = []  # events of the last job, also of jobs that keep no log

    def names(self) -> list[str]:
        return self.host.folders().model_names()

    def sources(self) -> list[str]:
        return [title for title, _ in self.host.checkpoints()]

    def loras(self) -> list[str]:
        folder = self.host.folders().loras
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
        return [NO_LORA, *found]

    def current_name(self) -> str | None:
        """The model at work, else the first one."""
        return self._name if self._name in self.names() else next(iter(self.names()), None)

    def fields(self, name: str | None) -> tuple[str, str]:
        """A model's settings that differ from the defaults, and its concepts, as JSON to be edited."""
        if name not in self.names():
            return "", ""
        try:
            config = self._model(name).load()
        except UserError:
            return "", ""  # the facts say what is wrong
        chosen = {k: v for k, v in dataclasses.asdict(config.settings).items() if v != SETTINGS[k].default}
        concepts = [concept_values(concept) for concept in config.concepts]
        return json.dumps(chosen, indent=2), json.dumps(concepts, indent=2, ensure_ascii=False)

    def look(self, name: str | None) -> View:
        """Where the work stands: the job that is going on, else the model's last run as its log has it."""
        job = jobs.current
        busy = bool(job and job.running)
        training = busy and self._what == "train"
        paused = training and job.controls.paused
        status = self._status(name, busy)
        names = self.names()
        select = name if name in names and self._what != "create" else self.current_name()
        line = dataclasses.replace(status, line=f"Paused. {status.line}") if paused else status
        pictures, files = list(status.pictures), _files(status.files)
        return View(names, select, self._facts(name), line.as_html(), pictures, files, busy, training, paused)

    def _facts(self, name: str | None) -> str:
        if name not in self.names():
            return _lines(["No model yet. Create one from a checkpoint."])
        try:
            facts = self._model(name).load().facts
        except UserError as error:
            return _lines(error.problems, "db_problem")
        source = Path(facts.src).name or "unknown source"
        return _lines([f"{facts.model_type} from {source} · revision {facts.revision} · epoch {facts.epoch}"])

    def _status(self, name: str | None, busy: bool) -> Status:
        if self._told and (busy or name == self._name):
            return status_of(self._told, running=busy)
        log = latest_log(self._model(name).logging) if name in self.names() else None
        if log is None:
            return Status("Ready." if name else "", ended=True)
        return status_of(read_events(log), running=time.time() - log.stat().st_mtime < ELSEWHERE_SECONDS)

    @in_words
    def create(self, name: str, source: str) -> str:
        model = self._model((name or "").strip())
        source = (source or "").strip()
        if not source:
            raise UserError("Choose a source checkpoint.")
        path = dict(self.host.checkpoints()).get(source, Path(source))

        def work(controls: Controls, events: Events) -> None:
            actions.create(model.folders, model.name, path, progress=controls.watched(events.progress))

        return self._start("create", model, work)

    @in_words
    def save(self, name: str, settings: str, concepts: str) -> str:
        model = self._model(name)
        model.save(self._edited(model, settings, concepts))
        return f"Saved the settings of {name}."

    @in_words
    def train(self, name: str, settings: str, concepts: str) -> str:
        """Train what the page shows: it is saved first."""
        model = self._model(name)
        config = self._edited(model, settings, concepts)
        model.save(config)

        def work(controls: Controls, events: Events) -> None:
            actions.train(
                model,
                config,
                controls=controls,
                events=events,
                device=self.host.device(),
                borrow_gpu=self.host.borrow_gpu,
            )

        return self._start("train", model, work)

    @in_words
    def generate_checkpoint(self, name: str, lora: str) -> str:
        """The model as one file, with a LoRA merged in at the weight that the settings say."""
        model = self._model(name).require()
        adapter = model.folders.loras / lora if lora and lora != NO_LORA else None

        def work(controls: Controls, events: Events) -> None:
            progress = controls.watched(events.progress)
            path, verification = actions.generate_checkpoint(model, lora=adapter, progress=progress)
            events.send("saved", what="checkpoint", path=str(path), summary=verification.summary())

        return self._start("generate", model, work)

    @in_words
    def tell(self, wish: str) -> str:
        """Pass a wish to the run: pause (or resume), sample_now, save_now, cancel (twice: at once)."""
        job = jobs.current
        if not job or not job.running:
            return "Nothing is running."
        controls = job.controls
        if wish == "pause":
            (controls.resume if controls.paused else controls.pause)()
            return "Pausing after this step." if controls.paused else "Going on."
        if wish == "cancel" and controls.cancelled:
            controls.stop_now()
            return "Stopping now, without saving."
        getattr(controls, wish)()
        said = {
            "cancel": "Finishing this step, then saving as the settings say. Press again to stop at once.",
            "sample_now": "Samples come after this step.",
            "save_now": "Weights are saved after this step.",
        }
        return said[wish]

    def _model(self, name: str | None) -> ModelFolder:
        if not name:
            raise UserError("Name a model first.")
        return ModelFolder(self.host.folders(), name)

    def _edited(self, model: ModelFolder, settings: str, concepts: str) -> ModelConfig:
        """The model's config with what the page shows in its two text fields."""
        config = model.require().load()
        try:
            chosen = json.loads(settings or "{}")
        except ValueError as error:
            raise UserError(f"The settings are not JSON: {error}.") from None
        if not isinstance(chosen, dict):
            raise UserError('The settings are an object, such as {"learning_rate": 2e-6}.')
        try:
            read, _ = read_concepts(concepts) if (concepts or "").strip() else ((), [])
        except ValueError as error:
            raise UserError(f"The concepts are not JSON: {error}.") from None
        return dataclasses.replace(config, settings=parse(Settings, chosen), concepts=read)

    def _start(self, what: str, model: ModelFolder, work: Callable[[Controls, Events], Any]) -> str:
        told: list[dict[str, Any]] = []

        def job(controls: Controls) -> None:
            events = Events(model.logging if what == "train" else None, told.append)
            try:
                work(controls, events)
                _end(events, told, "done", "")
            except BaseException as error:
                _end(events, told, "cancelled" if isinstance(error, Cancelled) else "failed", str(error))
                raise
            finally:
                events.close()
                self.host.files_changed()

        jobs.start(f"{what} {model.name}", job)
        self._name, self._what, self._told = model.name, what, told
        return f"Started: {what} {model.name}."


def _end(events: Events, told: list[dict[str, Any]], state: str, text: str) -> None:
    """Say how a job ended, if it has not said so itself."""
    if not any(event["kind"] == "ended" for event in told):
        events.send("ended", state=state, text=text)


def _lines(lines: list[str], css_class: str = "db_said") -> str:
    parts = [html.escape(part) for line in lines for part in line.splitlines()]
    return "".join(f'<p class="{css_class}">{part}</p>' for part in parts)


def _files(files: tuple[str, ...]) -> str:
    if not files:
        return ""
    return "<ul>" + "".join(f"<li><code>{html.escape(path)}</code></li>" for path in files) + "</ul>"
