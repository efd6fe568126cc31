"""What the page shows of a model and of the running job or the model's last run. Read at each poll."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from dreambooth.errors import UserError
from dreambooth.hosts import Host
from dreambooth.settings import ModelFolder
from dreambooth.ui import model_summary, render
from dreambooth.ui.chart import loss_chart
from dreambooth.ui.job_runner import JobRunner
from dreambooth.ui.log_reader import LogReader
from dreambooth.ui.page_state import PageState
from dreambooth.ui.resume_offer import damaged_snapshots, resume_offer
from dreambooth.ui.run_view import RunView


class PageView:
    """Reads the state that the page shows with a model chosen."""

    def __init__(self, host: Host, job_runner: JobRunner) -> None:
        self.host, self.job_runner = host, job_runner
        self.planned_charts: dict[str, str] = {}  # by model, of the run that was checked but not started yet
        self.settled: dict[str, float] = {}  # by model, time of a failed run after which a check passed
        self._logs = LogReader()

    def state(self, name: str | None) -> PageState:
        """The state with model ``name`` chosen: of the running job, else of the model's last run."""
        job_runner, names = self.job_runner, self.host.folders().model_names()
        busy, paused = job_runner.busy, job_runner.paused
        run = job_runner.run_view if busy and job_runner.run_view else self.shown_run(name)
        training = run if run.job in ("train", "") else self.training_run(name)  # its chart and samples stay
        alive = busy or self._logs.is_alive(self._model(name).logging if name in names else None)
        is_settled = not busy and run.state == "failed" and self.settled.get(name or "") == run.time
        state = "" if is_settled else run.state
        line = (run.status_line(alive) if state else "") or self._next_step(name, names)
        offer = self._resume_offer(name, names, busy or (run.state == "working" and alive))
        if run.state == "working" and offer:
            line += " Continue it under Select."
        parts = [_paused_text(job_runner.pause_remaining) if paused else "", job_runner.pending_requests(), line]
        shown_state = "paused" if paused else state
        fraction = run.fraction_done() if run.state == "working" and alive else None
        return PageState(
            names=tuple(names),
            status=render.status(" ".join(filter(None, parts)), shown_state, run.warning, run.result()),
            progress_bar=render.progress_bar(fraction, busy and not paused),
            chart=(not alive and self.planned_charts.get(name or "")) or loss_chart(training),
            model_summary=self._model_summary(name, names),
            resume_offer=offer,
            samples=tuple(run.gallery() or training.gallery()),
            files=render.saved_files(training.saved if training is run else [*training.saved, *run.saved]),
            idle=not busy,
            training=job_runner.training,
            paused=paused,
            locked=job_runner.is_locked(name),
            disabled_reason=self._disabled_reason(name, names, busy),
        )

    def training_run(self, name: str | None) -> RunView:
        """The model's last training run, of this process or from its log on disk."""
        own, names = self.job_runner.run_view, self.host.folders().model_names()
        is_own = name in names and name == self.job_runner.model
        return self._latest(name, is_own and own is not None and own.job == "train")

    def shown_run(self, name: str | None) -> RunView:
        """What the page shows with a model: its last run, or a later job that was started while it was shown."""
        return self._latest(name, (name or "") in self.job_runner.shown_models)

    def _latest(self, name: str | None, include_own: bool) -> RunView:
        is_model = name in self.host.folders().model_names()
        logged = self._logs.run(name or "", self._model(name).logging) if is_model else RunView()
        own = self.job_runner.run_view if include_own else None
        return own if own and own.time >= logged.time else logged

    def _next_step(self, name: str | None, names: Sequence[str]) -> str:
        """What to do next, for a model that has never been trained."""
        if not names:
            return "No model yet. Create one from a checkpoint."
        if name not in names:
            return "Choose a model, or create one."
        with contextlib.suppress(UserError):  # the model's summary shows the error
            if self._model(name).load().concepts:
                return "Ready."
        return "Choose the folder with your images, under Concepts."

    def _model_summary(self, name: str | None, names: Sequence[str]) -> str:
        if name not in names:
            return ""
        model = self._model(name)
        try:
            return render.definitions(model_summary.rows(model, model.load().info)) + damaged_snapshots(model)
        except UserError as error:
            return render.problems(error.problems)

    def _resume_offer(self, name: str | None, names: Sequence[str], is_running: bool) -> str:
        return resume_offer(self._model(name)) if name in names and not is_running else ""

    def _disabled_reason(self, name: str | None, names: Sequence[str], busy: bool) -> str:
        if busy:
            locked = " The settings of this model are locked until then." if self.job_runner.is_locked(name) else ""
            return f"{self.job_runner.description()} is running; other jobs can start when it finishes.{locked}"
        return "" if name in names else "Train, Generate Ckpt and Save Params need a model. Create or choose one."

    def _model(self, name: str | None) -> ModelFolder:
        return ModelFolder(self.host.folders(), name or "")


def _paused_text(remaining: float | None) -> str:
    return "Paused." if remaining is None else f"Paused. Resumes in {math.ceil(remaining)} s."
