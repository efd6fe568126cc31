"""The one piece of work that is going on: started by a page, seen by all of them. No Gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.hosts import Host
from dreambooth.jobs import Controls, Events, jobs
from dreambooth.ui import render
from dreambooth.ui.run_view import STARTS, RunView

Job = Callable[[Controls, Events], Any]


def in_words(answer: Callable[..., str]) -> Callable[..., str]:
    """An answer that says what a person can mend, instead of raising it."""

    @functools.wraps(answer)
    def said(*args: Any) -> str:
        try:
            return answer(*args)
        except UserError as error:
            return render.problems(error.problems)

    return said


class JobRunner:
    """Where work is started and steered, one at a time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.what = ""
        self.model = ""  # the one that the last work was about, if it was about one
        self.view: RunView | None = None  # of the last work of this process; others' are read from their logs
        self.shown_with: set[str] = set()  # the models with which that is shown
        # What forms show of their last work, and what they need of it: Reload UI builds them anew, but not us.
        self.kept: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return bool(jobs.current and jobs.current.running)

    @property
    def training(self) -> bool:
        return self.busy and self.what == "train"

    @property
    def paused(self) -> bool:
        job = jobs.current
        return job is not None and self.training and job.controls.paused

    @property
    def rest(self) -> float | None:
        """Seconds until a paused run goes on by itself; None when it waits for a person."""
        job = jobs.current
        return job.controls.rest if job and self.paused else None

    def locked(self, model: str | None) -> bool:
        """Whether this model is at work, so that its parameters can be read but not changed."""
        return self.busy and bool(model) and model == self.model

    def doing(self) -> str:
        return f"{STARTS.get(self.what, self.what)} {self.view.name if self.view else ''}".strip()

    def asked(self) -> str:
        """What was asked of the work and is still to come, in words: with whatever is done, its line goes."""
        job = jobs.current
        if not (
            job and self.busy and self.view and self.view.state == "working"
        ):  # it says how it has ended a moment before it has
            return ""
        controls = job.controls
        if controls.stopped:
            return "Stopping now, without saving."
        if controls.cancelled:  # only a training has something to save
            training = "Finishing this step, then saving as the cancel settings say. Press again to stop at once."
            return training if self.what == "train" else "Stopping; nothing is left half-made."
        told = {
            "Samples come after this step.": controls.sample_requested,
            "Weights are saved after this step.": controls.save_requested,
        }
        return " ".join(words for words, wanted in told.items() if wanted)

    def start(
        self, what: str, name: str, work: Job, *, beside: str = "", model: str = "", log: Path | None = None
    ) -> str:
        """Do ``work`` in a thread; UserError when some is going on already.

        ``name``: what people call that which is made; ``beside``: the model that was shown when it was asked for, and
        with which the outcome is shown too; ``model``: the one that it is about, whose parameters can't be changed
        meanwhile; ``log``: the folder for its events.
        """
        view = RunView(name=name)
        view.feed({"kind": "started", "what": what})

        def job(controls: Controls) -> None:
            events = Events(log, view.feed)
            try:
                work(controls, events)
            except BaseException as error:
                if view.state == "working":
                    events.send("ended", **_ending(error))
                raise
            finally:
                events.close()
                self.host.files_changed()

        jobs.start(f"{what} {name}", job)
        self.what, self.model, self.view, self.shown_with = what, model, view, {model, beside}
        return ""

    @in_words
    def tell(self, wish: str) -> str:
        """Pass a wish to the run: pause (or resume), sample_now, save_now, cancel (twice: at once)."""
        job = jobs.current
        if not job or not job.running:
            return render.lines(["Nothing is running."])
        controls = job.controls
        if wish == "pause":
            (controls.resume if controls.paused else controls.pause)()
        elif wish == "cancel" and controls.cancelled:
            controls.stop_now()
        else:
            getattr(controls, wish)()
        return ""  # the status says it, as long as it is so


def _ending(error: BaseException) -> dict[str, str]:
    """What to say of work that broke off."""
    if isinstance(error, Cancelled):
        return {"state": "cancelled", "text": "Cancelled; nothing is left half-made."}
    unexpected = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return {"state": "failed", "text": f"{unexpected}{error}"}
