"""The job that is running: started by one page, shown and controlled by all of them. No Gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreambooth.errors import Cancelled, UserError, describe_unexpected
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Ended, Events, FileSaved, jobs
from dreambooth.ui import render
from dreambooth.ui.run_view import JOB_TITLES, RunView

Work = Callable[[Controls, Events], Any]


def errors_as_html(handler: Callable[..., str]) -> Callable[..., str]:
    """Decorator for functions that return HTML: a UserError is returned as HTML instead of raised."""

    @functools.wraps(handler)
    def handle(*args: Any) -> str:
        try:
            return handler(*args)
        except UserError as error:
            return render.refusal(error.problems)

    return handle


class JobRunner:
    """Starts and controls jobs, one at a time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.kind = ""  # of the last job, see JOB_TITLES
        self.model = ""  # the model that the last job works on, "" if none
        self.run_view: RunView | None = None  # of this process's last job; those of others are read from their logs
        self.shown_models: set[str] = set()  # models with which that job is shown
        # HTML that the forms show of their last job. It is held here because Reload UI builds the forms again.
        self.form_results: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return bool(jobs.current and jobs.current.running)

    @property
    def training(self) -> bool:
        return self.busy and self.kind == "train"

    @property
    def paused(self) -> bool:
        job = jobs.current
        return job is not None and self.training and job.controls.paused

    @property
    def pause_remaining(self) -> float | None:
        """Seconds until a paused run resumes by itself; None if it waits for Resume."""
        job = jobs.current
        return job.controls.pause_remaining if job and self.paused else None

    def is_locked(self, model: str | None) -> bool:
        """Whether a job works on this model, so that its parameters can't be changed."""
        return self.busy and bool(model) and model == self.model

    def description(self) -> str:
        return f"{JOB_TITLES.get(self.kind, self.kind)} {self.run_view.name if self.run_view else ''}".strip()

    def pending_requests(self) -> str:
        """Requests to the running job that it has not carried out yet, in words."""
        job = jobs.current
        # A job's events say that it has ended a moment before its thread ends.
        if not (job and self.busy and self.run_view and self.run_view.state == "working"):
            return ""
        controls = job.controls
        if controls.stopped:
            return "Stopping now, without saving."
        if controls.shutting_down:
            return "The process is ending: finishing this step and saving a snapshot."
        if controls.cancelled:
            if self.kind != "train":
                return "Stopping. No partial files will remain."
            return "Finishing this step, then saving as set under Saving. Press Cancel again to stop immediately."
        requests = {
            "Samples will be generated after this step.": controls.sample_requested,
            "Weights will be saved after this step.": controls.save_requested,
        }
        return " ".join(text for text, requested in requests.items() if requested)

    def start(
        self,
        kind: str,
        name: str,
        work: Work,
        *,
        shown_model: str = "",
        model: str = "",
        log_folder: Path | None = None,
    ) -> str:
        """Run ``work`` in a thread and return "".

        ``name``: of the model or file, for the status line. ``shown_model``: the model that the page shows; the job is
        shown with it. ``model``: the model that the job works on; its parameters are locked until the job has ended.
        ``log_folder``: where to write the events.

        Raises:
            UserError: if another job is running.
        """
        run_view = RunView(name=name)
        run_view.feed({"kind": "started", "what": kind})

        def job(controls: Controls) -> None:
            events = Events(log_folder, self._receiver(run_view))
            try:
                work(controls, events)
            except BaseException as error:
                if run_view.state == "working":
                    events.send(_outcome(error))
                raise
            finally:
                events.close()
                self.host.files_changed()

        jobs.start(f"{JOB_TITLES.get(kind, kind)} {name}", job)
        self.kind, self.model, self.run_view, self.shown_models = kind, model, run_view, {model, shown_model}
        return ""

    def _receiver(self, run_view: RunView) -> Callable[[dict[str, Any]], None]:
        """What gets the events of a job. The host lists a new LoRA or checkpoint while the job still runs."""

        def receive(event: dict[str, Any]) -> None:
            run_view.feed(event)
            if event["kind"] == FileSaved.kind and event["what"] in ("lora", "checkpoint"):
                self.host.files_changed()

        return receive

    @errors_as_html
    def request(self, name: str) -> str:
        """Pass a request to the running job: pause (again: resume), sample_now, save_now, cancel (again: stop now)."""
        job = jobs.current
        if not job or not job.running:
            return render.lines(["Nothing is running."])
        controls = job.controls
        if name == "pause":
            (controls.resume if controls.paused else controls.pause)()
        elif name == "cancel" and controls.cancelled:
            controls.stop_now()
        else:
            getattr(controls, name)()
        return ""  # the status line shows the request until it is carried out


def _outcome(error: BaseException) -> Ended:
    """The event of a job that raised ``error``."""
    if isinstance(error, Cancelled):
        return Ended("cancelled", "Canceled. No partial files remain.")
    if isinstance(error, UserError):
        return Ended("failed", str(error))
    return Ended("failed", describe_unexpected(error, "the console"))
