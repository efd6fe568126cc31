"""State of one browser's work on the captions of one folder. No Gradio."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import actions

if TYPE_CHECKING:
    from dreambooth.captions.edits import EditPlan
    from dreambooth.captions.folder import CaptionFile, Captions

MAX_LABEL = 40  # characters of an edit's description on a button


class CaptionSession:
    """The captions as they were last read, the filters, the opened caption and the previewed edit."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()  # held while a request is handled
        self.selected_tags: list[str] = []
        self.matches: set[Path] | None = None  # caption files that the last search found; None without a search
        self.tag_filter, self.tag_order = "", ""
        self.page = 0
        self.open_index: int | None = None  # of the opened caption file
        self.text = ""  # of the opened caption when it was shown
        self.plan: EditPlan | None = None  # the previewed edit
        self.shown_steps: dict[str, int] = {}  # numbers of the edits that the Undo and Redo buttons name
        self.read()

    def read(self) -> None:
        """Read the folder again."""
        self.captions: Captions = actions.captions.captions(self.path)
        self.counts = self.captions.tag_counts()
        self.selected_tags = [tag for tag in self.selected_tags if tag in self.counts]
        if self.open_index is not None and self.open_index >= len(self.captions.files):
            self.open_index = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.selected_tags) or self.matches is not None

    def visible(self) -> list[int]:
        """Indices of the caption files that have all selected tags and match the search."""
        selected = set(self.selected_tags)
        return [
            index
            for index, file in enumerate(self.captions.files)
            if selected <= file.tags.keys() and (self.matches is None or file.path in self.matches)
        ]

    def open_file(self) -> CaptionFile | None:
        return None if self.open_index is None else self.captions.files[self.open_index]

    def next_steps(self) -> dict[str, dict[str, Any]]:
        """The edits that "undo" and "redo" would revert or repeat, as far as there are any."""
        history = actions.captions.history(self.path)
        undo = next((step for step in history if step["state"] != "undone"), None)
        redo = next((step for step in reversed(history) if step["state"] != "done"), None)
        return {direction: step for direction, step in (("undo", undo), ("redo", redo)) if step}

    def button_labels(self) -> dict[str, str]:
        """Labels of the Undo and Redo buttons, "" for one that has nothing to do; notes the edits that they name."""
        steps = self.next_steps()
        self.shown_steps = {direction: step["step"] for direction, step in steps.items()}
        return {"undo": _label("Undo", steps.get("undo")), "redo": _label("Redo", steps.get("redo"))}

    def interrupted_edits(self) -> list[str]:
        """Warnings about edits that were interrupted."""
        interrupted = {step["what"] for step in self.next_steps().values() if step["state"] == "broken off"}
        return [f"This edit was interrupted: {what}. Redo completes it, Undo reverts it." for what in interrupted]


def _label(verb: str, step: Mapping[str, Any] | None) -> str:
    if not step:
        return ""
    what = step["what"] if len(step["what"]) <= MAX_LABEL else step["what"][: MAX_LABEL - 1] + "…"
    return f"{verb}: {what} ({step['files']:,})"


def editor_text(file: CaptionFile) -> str:
    """A caption's text as a text box shows it: without line ends after it."""
    from dreambooth.captions.folder import split_lines

    return "\n".join(split_lines(file.text.rstrip("\r\n")))
