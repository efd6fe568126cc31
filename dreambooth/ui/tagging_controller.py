"""What the form for captions by machine does, beside the desk: plain values in, words out. No Gradio."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events
from dreambooth.settings import parse
from dreambooth.settings.tagging import LEAVE, REPLACE, TagOptions
from dreambooth.ui import render
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

TRIED = 8  # pictures
MOST_NOTES = 200

Values = Mapping[str, Any]


class TaggingController:
    """A try, or all of it. ``shown`` is the model on the page that asks: the outcome is shown with it."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.thumbnails = Thumbnails(page_controller.host.folders().dreambooth / ".thumbnails")
        self._kept = page_controller.job_runner.kept

    @property
    def outcome(self) -> str:
        """What came of the last work, as HTML, for all browsers."""
        return self._kept.get("tag", "")

    @errors_as_html
    def try_some(self, shown: str | None, folder: str, given: Values) -> str:
        """Ask the model about a few pictures and write nothing: also about those that have a caption already."""
        options = _options(folder, given)
        asked = replace(options, existing=REPLACE) if options.existing == LEAVE else options
        return self._start(shown, folder, asked, f"{TRIED} pictures of {_name(folder)}", limit=TRIED, write=False)

    @errors_as_html
    def tag_all(self, shown: str | None, folder: str, given: Values) -> str:
        return self._start(shown, folder, _options(folder, given), _name(folder))

    def _start(self, shown: str | None, folder: str, options: TagOptions, name: str, **how: Any) -> str:
        host = self.page_controller.host

        def job(controls: Controls, events: Events) -> None:
            self._kept["tag"] = ""
            told = actions.captions.tag(
                host.folders(), folder, options, device=host.device(), borrow_gpu=host.borrow_gpu,
                progress=controls.cancellable(events.progress), **how,
            )  # fmt: skip
            self._kept["tag"] = outcome(told, self.thumbnails)
            events.send(Ended(told["state"], text=summary(told, tried="limit" in how)))

        return self.page_controller.job_runner.start("tag", name, job, beside=shown or "")


def summary(told: Mapping[str, Any], tried: bool = False) -> str:
    """What came of it, in one line."""
    if tried:
        parts = [f"Tried on {len(told['captions'])} pictures; nothing was written"]
    else:
        parts = [f"{told['written']} captions written"]
        parts += [f"{told['unchanged']} already so"] if told["unchanged"] else []
        parts += [f"{told['left']} pictures had one"] if told["left"] else []
    parts += [f"{len(told['notes'])} remarks"] if told["notes"] else []
    line = ", ".join(parts) + "."
    return f"Cancelled; {line}" if told["state"] == "cancelled" else line


def outcome(told: Mapping[str, Any], thumbnails: Thumbnails) -> str:
    """The pictures that were tried and all remarks, as HTML; everything that files say is escaped."""
    rows = told["captions"]
    tried = "".join(map(_tried, rows, thumbnails.small([row["picture"] for row in rows])))
    notes = told["notes"][:MOST_NOTES]
    more = len(told["notes"]) - len(notes)
    lines = render.lines([*notes, *([f"… and {more} more."] if more else [])], "db_problem")
    return (f'<div class="db_tried">{tried}</div>' if tried else "") + lines


def _tried(row: Mapping[str, Any], thumbnail: str) -> str:
    tags = "".join(f"<li>{html.escape(name)} <small>{score:.0%}</small></li>" for name, score in row["tags"].items())
    name = html.escape(Path(row["picture"]).name)
    return (
        f'<figure><img src="{thumbnail}" alt="{name}"><figcaption><b>{name}</b>'
        f"<p>{html.escape(row['caption'])}</p>{f'<ul>{tags}</ul>' if tags else ''}</figcaption></figure>"
    )


def _options(folder: str, given: Values) -> TagOptions:
    options = parse(TagOptions, given)
    if not (folder or "").strip():
        raise UserError("Give the folder with the pictures, at the top.")
    if not options.model.strip():
        raise UserError("Choose a tagger or captioner.")
    return options


def _name(folder: str) -> str:
    return Path(folder.strip()).name or folder.strip()
