"""Actions behind the Prepare form: plain values in, HTML out. No Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events
from dreambooth.paths import clean_path
from dreambooth.settings import parse
from dreambooth.settings.preparation import PrepareOptions
from dreambooth.text import count, printable
from dreambooth.ui import preparation_view
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController

PREVIEWS = 12


class PreparationController:
    """Starts preparations. ``shown_model``: the model that the page shows; the job is shown with it."""

    def __init__(self, page_controller: PageController) -> None:
        self.job_runner = page_controller.job_runner
        self._results = self.job_runner.form_results

    @property
    def result(self) -> str:
        """HTML of the last preparation, for all browsers."""
        return self._results.get("prepare", "")

    @property
    def prepared_folder(self) -> str:
        """The folder that the last preparation wrote, "" before the first one."""
        return self._results.get("prepared_folder", "")

    @errors_as_html
    def dry_run(self, shown_model: str | None, folder: str, options: Mapping[str, Any]) -> str:
        """Show what :meth:`prepare` would do."""
        return self._start("dry run", shown_model, folder, parse(PrepareOptions, options))

    @errors_as_html
    def prepare(self, shown_model: str | None, folder: str, options: Mapping[str, Any]) -> str:
        return self._start("prepare", shown_model, folder, parse(PrepareOptions, options))

    @errors_as_html
    def undo(self, shown_model: str | None, folder: str) -> str:
        """Restore the originals of the last preparation in place."""
        path = _path(folder)

        def work(controls: Controls, events: Events) -> None:
            undone = actions.images.undo_preparation(path)
            self._results["prepare"] = preparation_view.undone(undone)
            events.send(Ended("done", text=f"Undone: restored {count(undone['restored'], 'original')}."))

        return self.job_runner.start("undo", printable(path.name), work, shown_model=shown_model or "")

    def _start(self, kind: str, shown_model: str | None, folder: str, options: PrepareOptions) -> str:
        path, dry = _path(folder), kind == "dry run"

        def work(controls: Controls, events: Events) -> None:
            self._results["prepare"] = ""
            progress = controls.cancellable(events.progress)
            preparation = actions.images.prepare(path, options, dry_run=dry, progress=progress)
            previews = actions.images.preview_preparation(preparation, PREVIEWS) if dry else []
            self._results["prepare"] = preparation_view.result(preparation, previews, dry)
            if not dry:
                self._results["prepared_folder"] = str(preparation.out)
            events.send(Ended("done", text=preparation_view.summary(preparation, dry)))

        return self.job_runner.start(kind, printable(path.name), work, shown_model=shown_model or "")


def _path(folder: str | None) -> Path:
    if not (folder or "").strip():
        raise UserError("Enter the folder with the images, at the top of this tab.")
    return clean_path(folder or "")
