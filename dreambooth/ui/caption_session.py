"""One browser's work on the captions of one folder: what it read, ticked, opened and planned. No Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import actions

if TYPE_CHECKING:
    from dreambooth.captions.edits import Plan
    from dreambooth.captions.folder import CaptionFile, Captions


class CaptionSession:
    """One browser's work on one folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ticked: list[str] = []
        self.found: set[Path] | None = None  # the caption files that a search found
        self.part, self.order = "", ""  # which tags are shown, and how
        self.page = 0
        self.opened: int | None = None
        self.text = ""  # that of the opened one when it was shown
        self.plan: Plan | None = None
        self.offered: dict[str, int] = {}  # the steps that Undo and Redo were shown for
        self.read()

    def read(self) -> None:
        self.captions: Captions = actions.captions.captions(self.path)
        self.counts = self.captions.counts()
        self.ticked = [tag for tag in self.ticked if tag in self.counts]
        if self.opened is not None and self.opened >= len(self.captions.files):
            self.opened = None

    @property
    def narrowed(self) -> bool:
        return bool(self.ticked) or self.found is not None

    def selected(self) -> list[int]:
        """Which captions are shown: those with all ticked tags, of those that were found."""
        ticked = set(self.ticked)
        return [
            number
            for number, file in enumerate(self.captions.files)
            if ticked <= file.tags.keys() and (self.found is None or file.path in self.found)
        ]

    def file(self) -> CaptionFile | None:
        return None if self.opened is None else self.captions.files[self.opened]

    def ways(self) -> dict[str, dict[str, Any]]:
        """The steps that Undo and Redo would take."""
        history = actions.captions.history(self.path)
        back = next((step for step in history if step["state"] != "undone"), None)
        forth = next((step for step in reversed(history) if step["state"] != "done"), None)
        return {way: step for way, step in (("undo", back), ("redo", forth)) if step}

    def offer(self) -> dict[str, str]:
        """What the two buttons are called now, and from now on mean; "" for one that can do nothing."""
        ways = self.ways()
        self.offered = {way: step["step"] for way, step in ways.items()}
        return {"undo": _label("Undo", ways.get("undo")), "redo": _label("Redo", ways.get("redo"))}

    def unfinished(self) -> list[str]:
        """What to say of an edit that was broken off."""
        broken_off = {step["what"] for step in self.ways().values() if step["state"] == "broken off"}
        return [f"This edit was broken off: {what}. Redo finishes it, Undo takes it back." for what in broken_off]


def _label(word: str, step: Mapping[str, Any] | None) -> str:
    """On the button; "" where it can do nothing."""
    if not step:
        return ""
    what = step["what"] if len(step["what"]) <= 40 else step["what"][:39] + "…"
    return f"{word}: {what} ({step['files']:,})"


def shown(file: CaptionFile) -> str:
    """A caption's text as a field holds it."""
    from dreambooth.captions.folder import lines_of

    return "\n".join(lines_of(file.text.rstrip("\r\n")))
