"""What the Captions form does. No Gradio: plain values in; what changes on the page out, by the name of its part.

Each browser has a sitting of its own on the server: a folder's captions as it read them, what it ticked, opened and
planned. Writing looks at the files again, so that nothing is lost that someone else wrote meanwhile.
"""

from __future__ import annotations

import functools
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events, jobs
from dreambooth.settings import parse
from dreambooth.settings.caption_edits import ReplaceText, EditScope
from dreambooth.ui import render, render_captions
from dreambooth.ui.caption_session import CaptionSession, shown
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

if TYPE_CHECKING:
    from dreambooth.captions.writing import WriteResult

Parts = dict[str, Any]
PER_PAGE = 24
KEPT = 8  # sittings: as many browsers can work side by side
MANY = 1000  # files whose writing is shown as work, which can be cancelled
BY_NAME = "by name"


def _answer(act: Callable[..., Parts]) -> Callable[..., Parts]:
    """An answer to the browser with this key; what a person can mend is said on its page."""

    @functools.wraps(act)
    def answer(self: CaptionController, key: str, *args: Any) -> Parts:
        try:
            if key not in self.sessions:
                raise UserError("Show the captions of a folder first.")
            parts = act(self, self.sessions[key], *args)
        except UserError as error:
            parts = {"said": render.problems(error.problems)}
        return {name: _plain(value) for name, value in parts.items()}

    return answer


class CaptionController:
    """The sittings of all browsers."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.sessions: OrderedDict[str, CaptionSession] = OrderedDict()
        self.thumbnails = Thumbnails(page_controller.host.folders().dreambooth / ".thumbnails")

    def show(self, key: str, folder: str) -> Parts:
        """Read a folder's captions; the answer names the new sitting."""
        try:
            session = CaptionSession(folder or "")
        except UserError as error:
            return {"said": _plain(render.problems(error.problems))}
        self.sessions.pop(key, None)
        key = uuid.uuid4().hex
        self.sessions[key] = session
        while len(self.sessions) > KEPT:
            self.sessions.popitem(last=False)
        self.thumbnails.tidy()
        parts = {"key": key, **self._all(session), "preview": "", "apply": ""}
        parts["said"] += render.warnings([*session.unfinished(), *session.captions.problems[:5]])
        return {name: _plain(value) for name, value in parts.items()}

    # -- looking ----------------------------------------------------------------------------------------------

    @_answer
    def pick(self, session: CaptionSession, picked: str, text: str) -> Parts:
        """A click: ``picked`` is when, on what kind of thing, and which one."""
        _, kind, value = (*(picked or "").split(" ", 2), "", "")[:3]
        if kind == "open" and value.isdecimal() and int(value) < len(session.captions.files):
            return self._open(session, int(value), text)
        if kind == "tag":
            ticked = session.ticked
            session.ticked = [t for t in ticked if t != value] if value in ticked else [*ticked, value]
        elif kind == "all":
            session.ticked, session.found = [], None
        session.page = int(value) if kind == "page" and value.isdecimal() else 0
        return {
            "tags": self._tags(session),
            "pictures": self._pictures(session),
            **({"ticked": ", ".join(session.ticked)} if kind == "tag" else {}),
        }

    @_answer
    def filter(self, session: CaptionSession, part: str, order: str) -> Parts:
        session.part, session.order = part or "", order
        return {"tags": self._tags(session)}

    @_answer
    def find(self, session: CaptionSession, given: Mapping[str, Any], scope: Mapping[str, Any]) -> Parts:
        session.read()
        found = actions.captions.find(session.captions, parse(ReplaceText, given), parse(EditScope, scope))
        session.found, session.ticked, session.page = {file.path for file in found}, [], 0
        n = sum(len(file.pictures) for file in found)
        return {
            "said": render.lines([f"Found in {n:,} {'picture' if n == 1 else 'pictures'}, shown above."]),
            "tags": self._tags(session),
            "pictures": self._pictures(session),
        }

    # -- one caption ------------------------------------------------------------------------------------------

    def _open(self, session: CaptionSession, number: int, text: str) -> Parts:
        """Open a caption; what was written into the one before is saved."""
        said = self._save(session, text) if session.opened is not None and text != session.text else {}
        session.opened = number
        session.text = shown(session.captions.files[number])
        return {**said, **self._opened(session), "text": session.text, "pictures": self._pictures(session)}

    @_answer
    def turn(self, session: CaptionSession, by: int, text: str) -> Parts:
        """To the next caption of those that are shown, or the one before."""
        if session.opened is None:
            return {}
        numbers = session.selected()
        later = [n for n in numbers if n > session.opened] if by > 0 else [n for n in numbers if n < session.opened]
        if not later:
            return {"said": render.lines(["That was the last one." if by > 0 else "That was the first one."])}
        number = later[0] if by > 0 else later[-1]
        session.page = numbers.index(number) // PER_PAGE
        return self._open(session, number, text)

    @_answer
    def save(self, session: CaptionSession, text: str) -> Parts:
        return self._save(session, text)

    def _save(self, session: CaptionSession, text: str) -> Parts:
        file = session.file()
        if file is None:
            raise UserError("Choose a picture first.")
        plan = actions.captions.plan_by_hand(file, text)
        if not plan.changes:
            return {"said": render.lines(["Nothing to save: the caption is as it was."])}
        try:
            written = actions.captions.write(session.captions.folder, plan)
        except UserError:
            before = file.data
            session.read()
            file = session.file()
            if file is None or file.data == before:
                raise
            from dreambooth.captions.folder import one_line

            raise UserError(
                f"{file.path} was changed since you opened it. It says: {one_line(file.text) or 'nothing'}. Nothing "
                "was written, and your text is still here: save again to put it in place of that."
            ) from None
        session.text = text
        return self._done(session, written, text)

    # -- edits ------------------------------------------------------------------------------------------------

    @_answer
    def preview(self, session: CaptionSession, kind: type, given: Mapping[str, Any], scope: Mapping[str, Any]) -> Parts:
        """What an edit of this kind would change."""
        session.plan = None
        options, narrowed = parse(kind, given), parse(EditScope, scope)
        session.read()
        plan = actions.captions.plan(session.captions, options, narrowed)
        n = len(plan.changes)
        session.plan = plan if n else None
        apply = f"Change {n:,} {'file' if n == 1 else 'files'}" if n else ""
        return {"said": "", "preview": render_captions.preview(plan), "apply": apply}

    @_answer
    def apply(self, session: CaptionSession, text: str) -> Parts:
        """Carry out what was shown."""
        plan = session.plan
        if plan is None:
            raise UserError("Preview an edit first.")
        work = functools.partial(actions.captions.write, session.captions.folder, plan)
        return self._done(session, self._carried_out(plan.what, len(plan.changes), work), text)

    @_answer
    def step(self, session: CaptionSession, way: str, text: str) -> Parts:
        """``way``: undo or redo, the step that the button was shown for."""
        now = session.ways()
        if way not in now or now[way]["step"] != session.offered.get(way):
            session.read()
            told = "These captions were edited elsewhere meanwhile, so nothing was done. See what the button says now."
            return {**self._all(session, text), "said": render.problems([told])}
        back = actions.captions.undo if way == "undo" else actions.captions.redo
        step = now[way]
        done = self._carried_out(f"{way} {step['what']}", step["files"], functools.partial(back, session.path))
        return self._done(session, done, text, "Undone" if way == "undo" else "Redone")

    def _carried_out(self, what: str, files: int, work: Callable[..., WriteResult]) -> WriteResult:
        """Do it, and come back when it is done. What takes long is seen on the page, and can be cancelled there."""
        if files < MANY:
            return work()
        done: list[WriteResult] = []

        def job(controls: Controls, events: Events) -> None:
            done.append(work(progress=controls.cancellable(events.progress)))
            events.send(Ended("done", text=f"{what}: done."))

        self.page_controller.job_runner.start("captions", what, job)
        mine, error = jobs.current, None
        if mine:
            mine.wait()
            error = mine.error
        if not done:
            raise error if isinstance(error, UserError) else UserError(f"{what}: nothing was changed.")
        return done[0]

    # -- what is shown ----------------------------------------------------------------------------------------

    def _done(self, session: CaptionSession, written: WriteResult, text: str, how: str = "Changed") -> Parts:
        n = written.files
        session.plan = None
        session.read()
        said = [f"{how} {n:,} {'file' if n == 1 else 'files'}: {written.what}."]
        parts = self._all(session, text)
        return {**parts, "said": render.lines(said) + render.warnings(written.told), "preview": "", "apply": ""}

    def _all(self, session: CaptionSession, text: str | None = None) -> Parts:
        """Everything anew. ``text``: what stands in the field of the opened caption; unsaved words stay there."""
        with_file = sum(file.data is not None for file in session.captions.files)
        summary = (
            f"{session.captions.folder}: {session.captions.pictures:,} pictures, {with_file:,} caption files, "
            f"{len(session.counts):,} tags."
        )
        parts = {
            "said": render.lines([summary]),
            **session.offer(),
            "tags": self._tags(session),
            "pictures": self._pictures(session),
            **self._opened(session),
        }
        file = session.file()
        if file is not None and text == session.text and text != shown(file):
            session.text = parts["text"] = shown(file)
        return parts

    def _tags(self, session: CaptionSession) -> str:
        return render_captions.tags(session.counts, session.ticked, session.part, session.order == BY_NAME)

    def _pictures(self, session: CaptionSession) -> str:
        numbers, files = session.selected(), session.captions.files
        pages = max(1, -(-len(numbers) // PER_PAGE))
        session.page = min(session.page, pages - 1)
        here = numbers[session.page * PER_PAGE : (session.page + 1) * PER_PAGE]
        shown = [files[number] for number in here]
        uris = self.thumbnails.small([str(file.pictures[0]) for file in shown])
        selected = sum(len(files[number].pictures) for number in numbers)
        words = render_captions.where(selected, session.captions.pictures, session.page, pages, session.narrowed)
        return render_captions.pictures(shown, here, uris, session.opened, words)

    def _opened(self, session: CaptionSession) -> Parts:
        file = session.file()
        if file is None:
            return {"opened": ""}
        [uri] = self.thumbnails.small([str(file.pictures[0])])
        return {"opened": render_captions.opened(file, uri)}


def _plain(value: Any) -> Any:
    """Names of files need not be text; what is sent to a browser has to be."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
