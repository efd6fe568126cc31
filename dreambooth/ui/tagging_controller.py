"""Actions behind the Auto-caption form: plain values in, HTML out. No Gradio."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events
from dreambooth.paths import clean_path
from dreambooth.settings import parse
from dreambooth.settings.tagging import LEAVE, REPLACE, TagOptions
from dreambooth.text import count
from dreambooth.ui import render
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

TRIAL_IMAGES = 8
MAX_WARNINGS = 200

Values = Mapping[str, Any]


class TaggingController:
    """Captions a few images as a trial, or all of them. ``shown_model``: the model that the page shows; the job is
    shown with it.
    """

    def __init__(self, page_controller: PageController) -> None:
        self.host, self.job_runner = page_controller.host, page_controller.job_runner
        self.thumbnails = Thumbnails(page_controller.host.folders())
        self._results = self.job_runner.form_results

    @property
    def result(self) -> str:
        """HTML of the last trial or job, for all browsers."""
        return self._results.get("tag", "")

    @errors_as_html
    def try_some(self, shown_model: str | None, folder: str, values: Values) -> str:
        """Show captions of a few images without writing them, also of images that have captions already."""
        options = _options(folder, values)
        if options.existing == LEAVE:
            options = replace(options, existing=REPLACE)
        name = f"{count(TRIAL_IMAGES, 'image')} of {_name(folder)}"
        return self._start(shown_model, folder, options, name, limit=TRIAL_IMAGES, write=False)

    @errors_as_html
    def tag_all(self, shown_model: str | None, folder: str, values: Values) -> str:
        """Write captions for all images of the folder."""
        return self._start(shown_model, folder, _options(folder, values), _name(folder))

    def _start(self, shown_model: str | None, folder: str, options: TagOptions, name: str, **trial: Any) -> str:
        def job(controls: Controls, events: Events) -> None:
            self._results["tag"] = ""
            report = actions.captions.tag(
                self.host.folders(),
                folder,
                options,
                device=self.host.device(),
                borrow_gpu=self.host.borrow_gpu,
                progress=controls.cancellable(events.progress),
                **trial,
            )
            self._results["tag"] = result(report, self.thumbnails)
            events.send(Ended(report["state"], text=summary(report, is_trial=bool(trial))))

        return self.job_runner.start("tag", name, job, shown_model=shown_model or "")


def summary(report: Mapping[str, Any], is_trial: bool = False) -> str:
    """The result in one line. ``report``: of :func:`actions.captions.tag`."""
    if is_trial:
        parts = [f"Tried on {count(len(report['captions']), 'image')}; nothing was written"]
    else:
        parts = [f"{count(report['written'], 'caption')} written"]
        parts += [f"{report['unchanged']:,} unchanged"] if report["unchanged"] else []
        parts += [f"{report['left']:,} skipped (had captions)"] if report["left"] else []
    parts += [count(len(report["notes"]), "warning")] if report["notes"] else []
    line = ", ".join(parts) + "."
    return f"Canceled; {line}" if report["state"] == "cancelled" else line


def result(report: Mapping[str, Any], thumbnails: Thumbnails) -> str:
    """Images of a trial with their captions, and all warnings. File names and captions are escaped."""
    rows = report["captions"]
    figures = "".join(map(_figure, rows, thumbnails.small([row["picture"] for row in rows])))
    warnings = report["notes"][:MAX_WARNINGS]
    more = len(report["notes"]) - len(warnings)
    lines = render.lines([*warnings, *([f"… and {more:,} more."] if more else [])], "db_problem")
    return (f'<div class="db_tried">{figures}</div>' if figures else "") + lines


def _figure(row: Mapping[str, Any], thumbnail: str) -> str:
    tags = "".join(f"<li>{html.escape(name)} <small>{score:.0%}</small></li>" for name, score in row["tags"].items())
    name = html.escape(Path(row["picture"]).name)
    return (
        f'<figure><img src="{thumbnail}" alt="{name}"><figcaption><b>{name}</b>'
        f"<p>{html.escape(row['caption'])}</p>{f'<ul>{tags}</ul>' if tags else ''}</figcaption></figure>"
    )


def _options(folder: str, values: Values) -> TagOptions:
    options = parse(TagOptions, values)
    if not (folder or "").strip():
        raise UserError("Enter the folder with the images, at the top of this tab.")
    if not options.model.strip():
        raise UserError("Choose a tagging or captioning model.")
    return options


def _name(folder: str) -> str:
    return clean_path(folder).name or folder.strip()
