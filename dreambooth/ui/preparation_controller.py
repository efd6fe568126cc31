"""What the form Prepare does, beside the desk: plain values in, words out. No Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.jobs import Controls, Ended, Events
from dreambooth.settings import parse
from dreambooth.settings.preparation import PrepareOptions
from dreambooth.ui import preparation_view
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController

PREVIEWS = 12


class PreparationController:
    """One form's; what came of its work is kept on the bench."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller, self._kept = page_controller, page_controller.job_runner.kept

    @property
    def outcome(self) -> str:
        """What came of the last preparation, for all browsers."""
        return self._kept.get("prepare", "")

    @property
    def destination(self) -> str:
        """The folder that it made."""
        return self._kept.get("prepared", "")

    @errors_as_html
    def dry_run(self, shown: str | None, folder: str, given: Mapping[str, Any]) -> str:
        """Say what would be done; ``shown`` is the model on the page that asks."""
        return self._start("dry run", shown, folder, parse(PrepareOptions, given))

    @errors_as_html
    def prepare(self, shown: str | None, folder: str, given: Mapping[str, Any]) -> str:
        return self._start("prepare", shown, folder, parse(PrepareOptions, given))

    @errors_as_html
    def undo(self, shown: str | None, folder: str) -> str:
        """Bring back the originals of the last preparation in place."""
        path = _chosen(folder)

        def work(controls: Controls, events: Events) -> None:
            told = actions.images.undo_preparation(path)
            self._kept["prepare"] = preparation_view.undone(told)
            events.send(Ended("done", text=f"Undone: {told['restored']} originals are back."))

        return self.page_controller.job_runner.start("undo", preparation_view.readable(path.name), work, beside=shown or "")

    def _start(self, what: str, shown: str | None, folder: str, options: PrepareOptions) -> str:
        path, dry = _chosen(folder), what == "dry run"

        def work(controls: Controls, events: Events) -> None:
            self._kept["prepare"] = ""
            progress = controls.cancellable(events.progress)
            done = actions.images.prepare(path, options, dry_run=dry, progress=progress)
            previews = actions.images.preview_preparation(done, PREVIEWS) if dry else []
            self._kept["prepare"] = preparation_view.outcome(done, previews, dry)
            self._kept["prepared"] = self.destination if dry else str(done.out)
            events.send(Ended("done", text=preparation_view.summary(done, dry)))

        return self.page_controller.job_runner.start(what, preparation_view.readable(path.name), work, beside=shown or "")


def _chosen(folder: str | None) -> Path:
    folder = (folder or "").strip()
    if not folder:
        raise UserError("Give the folder with the pictures, at the top of this tab.")
    return expand_user(folder)
