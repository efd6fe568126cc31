"""Actions behind the Captions form. No Gradio: plain values in; out, new contents by the name of a part of the form.

Each browser has a session on the server with the captions as it read them. Before writing, the files are compared with
it, so that no change by another program is overwritten.
"""

from __future__ import annotations

import functools
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dreambooth import actions
from dreambooth.captions import edits
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events, jobs
from dreambooth.settings import parse
from dreambooth.settings.caption_edits import EditScope, ReplaceText
from dreambooth.text import count, printable
from dreambooth.ui import render, render_captions
from dreambooth.ui.caption_session import CaptionSession, editor_text
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

if TYPE_CHECKING:
    from dreambooth.captions.writing import WriteResult

Parts = dict[str, Any]
PER_PAGE = 24
MAX_SESSIONS = 8  # held at once, each for one browser
MANY_FILES = 1000  # an edit of so many files runs as a job, with progress and Cancel
MAX_PROBLEMS = 5  # unreadable captions that are named
BY_NAME = "by name"


def _in_session(handler: Callable[..., Parts]) -> Callable[..., Parts]:
    """Decorator: ``handler(self, session, ...)`` is called with a session's key; a UserError becomes a message.

    The requests of one browser are handled one after another: clicked while a preview is being computed, "Change"
    carries out that preview.
    """

    @functools.wraps(handler)
    def handle(self: CaptionController, key: str, *args: Any) -> Parts:
        try:
            if key not in self.sessions:
                raise UserError("Show the captions of a folder first.")
            session = self.sessions[key]
            with session.lock:
                parts = handler(self, session, *args)
        except UserError as error:
            parts = {"message": render.refusal(error.problems)}
        return _printable(parts)

    return handle


class CaptionController:
    """The sessions of all browsers, by key."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.sessions: OrderedDict[str, CaptionSession] = OrderedDict()
        self.thumbnails = Thumbnails(page_controller.host.folders())

    def show(self, key: str, folder: str) -> Parts:
        """Read a folder's captions into a new session, in place of the one with ``key``."""
        try:
            session = CaptionSession(folder or "")
        except UserError as error:
            return _printable({"message": render.refusal(error.problems)})
        self.sessions.pop(key, None)
        key = uuid.uuid4().hex
        self.sessions[key] = session
        while len(self.sessions) > MAX_SESSIONS:
            self.sessions.popitem(last=False)
        self.thumbnails.remove_oldest()
        parts = {"key": key, **self._all_parts(session), "preview": "", "apply": ""}
        parts["message"] += render.warnings([*session.interrupted_edits(), *session.captions.problems[:MAX_PROBLEMS]])
        return _printable(parts)

    # -- filters and pages ------------------------------------------------------------------------------------

    @_in_session
    def pick(self, session: CaptionSession, picked: str, text: str) -> Parts:
        """Handle a click. ``picked``: time, kind and value, as javascript/dreambooth.js writes them."""
        _, kind, value = (*(picked or "").split(" ", 2), "", "")[:3]
        if kind == "open" and value.isdecimal() and int(value) < len(session.captions.files):
            return self._open(session, int(value), text)
        if kind == "tag":
            selected = session.selected_tags
            session.selected_tags = [t for t in selected if t != value] if value in selected else [*selected, value]
        elif kind == "all":
            session.selected_tags, session.matches = [], None
        session.page = int(value) if kind == "page" and value.isdecimal() else 0
        parts = {"tags": self._tags(session), "images": self._images(session)}
        return parts | ({"selected_tags": ", ".join(session.selected_tags)} if kind == "tag" else {})

    @_in_session
    def filter(self, session: CaptionSession, part: str, order: str) -> Parts:
        """Show the tags that contain ``part``, in this order."""
        session.tag_filter, session.tag_order = part or "", order
        return {"tags": self._tags(session)}

    @_in_session
    def find(self, session: CaptionSession, options: Mapping[str, Any], scope: Mapping[str, Any]) -> Parts:
        """Show the images whose captions a replacement would change."""
        session.read()
        found = edits.find_matches(session.captions, parse(ReplaceText, options), parse(EditScope, scope))
        session.matches, session.selected_tags, session.page = {file.path for file in found}, [], 0
        n = sum(len(file.images) for file in found)
        return {
            "message": render.lines([f"Found in {count(n, 'image')}, shown above."]),
            "tags": self._tags(session),
            "images": self._images(session),
        }

    # -- one caption ------------------------------------------------------------------------------------------

    def _open(self, session: CaptionSession, index: int, text: str) -> Parts:
        """Open a caption. ``text``: of the one that is open, which is saved if it was changed."""
        saved = self._save(session, text) if session.open_index is not None and text != session.text else {}
        session.open_index = index
        session.text = editor_text(session.captions.files[index])
        return {**saved, **self._opened(session), "text": session.text, "images": self._images(session)}

    @_in_session
    def turn(self, session: CaptionSession, by: int, text: str) -> Parts:
        """Open the next visible caption (``by`` = 1) or the previous one (-1)."""
        if session.open_index is None:
            return {}
        indices = session.visible()
        if by > 0:
            others = [index for index in indices if index > session.open_index]
        else:
            others = [index for index in indices if index < session.open_index]
        if not others:
            return {"message": render.lines(["This is the last image." if by > 0 else "This is the first image."])}
        index = others[0] if by > 0 else others[-1]
        session.page = indices.index(index) // PER_PAGE
        return self._open(session, index, text)

    @_in_session
    def save(self, session: CaptionSession, text: str) -> Parts:
        """Write the opened caption."""
        return self._save(session, text)

    def _save(self, session: CaptionSession, text: str) -> Parts:
        file = session.open_file()
        if file is None:
            raise UserError("Choose an image first.")
        plan = edits.plan_text(file, text)
        if not plan.changes:
            return {"message": render.lines(["Nothing to save: the caption has not changed."])}
        try:
            written = actions.captions.write(session.captions.folder, plan)
        except UserError:
            before = file.data
            session.read()
            file = session.open_file()
            if file is None or file.data == before:
                raise
            from dreambooth.captions.folder import preview_line

            raise UserError(
                f"{file.path} was changed by another program since you opened it, and now contains: "
                f"{preview_line(file.text) or 'nothing'}. Your text was not written. Save again to overwrite the file."
            ) from None
        session.text = text
        return self._after_edit(session, written, text)

    # -- edits of many captions -------------------------------------------------------------------------------

    @_in_session
    def preview(
        self, session: CaptionSession, kind: type, options: Mapping[str, Any], scope: Mapping[str, Any]
    ) -> Parts:
        """Show what an edit would change. ``kind``: the class of its options."""
        session.plan = None
        edit, edit_scope = parse(kind, options), parse(EditScope, scope)
        session.read()
        plan = edits.plan_edit(session.captions, edit, edit_scope)
        n = len(plan.changes)
        session.plan = plan if n else None
        apply = f"Change {count(n, 'file')}" if n else ""
        return {"message": "", "preview": render_captions.preview(plan), "apply": apply}

    @_in_session
    def apply(self, session: CaptionSession, text: str) -> Parts:
        """Carry out the previewed edit. ``text``: in the editor."""
        plan = session.plan
        if plan is None:
            raise UserError("Preview an edit first.")
        work = functools.partial(actions.captions.write, session.captions.folder, plan)
        return self._after_edit(session, self._run(plan.description, len(plan.changes), work), text)

    @_in_session
    def step(self, session: CaptionSession, direction: str, text: str) -> Parts:
        """Undo or redo the edit that the button names. ``direction``: "undo" or "redo"."""
        steps = session.next_steps()
        if direction not in steps or steps[direction]["step"] != session.shown_steps.get(direction):
            session.read()
            changed = (
                "These captions were edited elsewhere in the meantime. Check the button's new label, then try again."
            )
            return {**self._all_parts(session, text), "message": render.refusal([changed])}
        step, act = steps[direction], actions.captions.undo if direction == "undo" else actions.captions.redo
        work = functools.partial(act, session.path)
        written = self._run(f"{direction} {step['what']}", step["files"], work)
        return self._after_edit(session, written, text, "Undone in" if direction == "undo" else "Redone in")

    def _run(self, what: str, files: int, work: Callable[..., WriteResult]) -> WriteResult:
        """Call ``work`` and wait for its result; as a job with progress and Cancel if there are many files."""
        if files < MANY_FILES:
            return work()
        done: list[WriteResult] = []

        def job(controls: Controls, events: Events) -> None:
            done.append(work(progress=controls.cancellable(events.progress)))
            events.send(Ended("done", text=f"{what}: done."))

        self.page_controller.job_runner.start("captions", what, job)
        current, error = jobs.current, None
        if current:
            current.wait()
            error = current.error
        if not done:
            raise error if isinstance(error, UserError) else UserError(f"{what}: nothing was changed.")
        return done[0]

    # -- parts of the form ------------------------------------------------------------------------------------

    def _after_edit(self, session: CaptionSession, written: WriteResult, text: str, verb: str = "Changed") -> Parts:
        session.plan = None
        session.read()
        lines = [f"{verb} {count(written.n_files, 'file')}: {written.description}."]
        message = render.lines(lines) + render.warnings(written.messages)
        return {**self._all_parts(session, text), "message": message, "preview": "", "apply": ""}

    def _all_parts(self, session: CaptionSession, text: str | None = None) -> Parts:
        """Every part of the form. ``text``: in the editor, where changes that are not saved yet are preserved."""
        with_file = sum(file.data is not None for file in session.captions.files)
        summary = (
            f"{session.captions.folder}: {count(session.captions.n_images, 'image')}, "
            f"{count(with_file, 'caption file')}, {count(len(session.counts), 'tag')}."
        )
        parts = {
            "message": render.lines([summary]),
            **session.button_labels(),
            "tags": self._tags(session),
            "images": self._images(session),
            **self._opened(session),
        }
        file = session.open_file()
        if file is not None and text == session.text and text != editor_text(file):
            session.text = parts["text"] = editor_text(file)
        return parts

    def _tags(self, session: CaptionSession) -> str:
        by_name = session.tag_order == BY_NAME
        return render_captions.tags(session.counts, session.selected_tags, session.tag_filter, by_name)

    def _images(self, session: CaptionSession) -> str:
        indices, files = session.visible(), session.captions.files
        pages = max(1, -(-len(indices) // PER_PAGE))
        session.page = min(session.page, pages - 1)
        on_page = indices[session.page * PER_PAGE : (session.page + 1) * PER_PAGE]
        shown = [files[index] for index in on_page]
        uris = self.thumbnails.small([str(file.images[0]) for file in shown])
        visible = sum(len(files[index].images) for index in indices)
        total = session.captions.n_images
        navigation = render_captions.navigation(visible, total, session.page, pages, session.is_filtered)
        return render_captions.images(shown, on_page, uris, session.open_index, navigation)

    def _opened(self, session: CaptionSession) -> Parts:
        file = session.open_file()
        if file is None:
            return {"opened": ""}
        [uri] = self.thumbnails.small([str(file.images[0])])
        return {"opened": render_captions.opened(file, uri)}


def _printable(parts: Parts) -> Parts:
    """``parts`` as valid Unicode, because file names may contain bytes that are not UTF-8."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in parts.items()}
