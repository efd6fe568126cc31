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
from dreambooth.jobs import Controls, Events, jobs
from dreambooth.settings import parse
from dreambooth.settings.caption_edits import Replacing, Scope
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
            if key not in self.sittings:
                raise UserError("Show the captions of a folder first.")
            parts = act(self, self.sittings[key], *args)
        except UserError as error:
            parts = {"said": render.problems(error.problems)}
        return {name: _plain(value) for name, value in parts.items()}

    return answer


class CaptionController:
    """The sittings of all browsers."""

    def __init__(self, desk: PageController) -> None:
        self.desk = desk
        self.sittings: OrderedDict[str, CaptionSession] = OrderedDict()
        self.thumbnails = Thumbnails(desk.host.folders().dreambooth / ".thumbnails")

    def show(self, key: str, folder: str) -> Parts:
        """Read a folder's captions; the answer names the new sitting."""
        try:
            sitting = CaptionSession(folder or "")
        except UserError as error:
            return {"said": _plain(render.problems(error.problems))}
        self.sittings.pop(key, None)
        key = uuid.uuid4().hex
        self.sittings[key] = sitting
        while len(self.sittings) > KEPT:
            self.sittings.popitem(last=False)
        self.thumbnails.tidy()
        parts = {"key": key, **self._all(sitting), "preview": "", "apply": ""}
        parts["said"] += render.warnings([*sitting.unfinished(), *sitting.captions.problems[:5]])
        return {name: _plain(value) for name, value in parts.items()}

    # -- looking ----------------------------------------------------------------------------------------------

    @_answer
    def pick(self, sitting: CaptionSession, picked: str, text: str) -> Parts:
        """A click: ``picked`` is when, on what kind of thing, and which one."""
        _, kind, value = (*(picked or "").split(" ", 2), "", "")[:3]
        if kind == "open" and value.isdecimal() and int(value) < len(sitting.captions.files):
            return self._open(sitting, int(value), text)
        if kind == "tag":
            ticked = sitting.ticked
            sitting.ticked = [t for t in ticked if t != value] if value in ticked else [*ticked, value]
        elif kind == "all":
            sitting.ticked, sitting.found = [], None
        sitting.page = int(value) if kind == "page" and value.isdecimal() else 0
        return {
            "tags": self._tags(sitting),
            "pictures": self._pictures(sitting),
            **({"ticked": ", ".join(sitting.ticked)} if kind == "tag" else {}),
        }

    @_answer
    def filter(self, sitting: CaptionSession, part: str, order: str) -> Parts:
        sitting.part, sitting.order = part or "", order
        return {"tags": self._tags(sitting)}

    @_answer
    def find(self, sitting: CaptionSession, given: Mapping[str, Any], scope: Mapping[str, Any]) -> Parts:
        sitting.read()
        found = actions.captions.find(sitting.captions, parse(Replacing, given), parse(Scope, scope))
        sitting.found, sitting.ticked, sitting.page = {file.path for file in found}, [], 0
        n = sum(len(file.pictures) for file in found)
        return {
            "said": render.lines([f"Found in {n:,} {'picture' if n == 1 else 'pictures'}, shown above."]),
            "tags": self._tags(sitting),
            "pictures": self._pictures(sitting),
        }

    # -- one caption ------------------------------------------------------------------------------------------

    def _open(self, sitting: CaptionSession, number: int, text: str) -> Parts:
        """Open a caption; what was written into the one before is saved."""
        said = self._save(sitting, text) if sitting.opened is not None and text != sitting.text else {}
        sitting.opened = number
        sitting.text = shown(sitting.captions.files[number])
        return {**said, **self._opened(sitting), "text": sitting.text, "pictures": self._pictures(sitting)}

    @_answer
    def turn(self, sitting: CaptionSession, by: int, text: str) -> Parts:
        """To the next caption of those that are shown, or the one before."""
        if sitting.opened is None:
            return {}
        numbers = sitting.selected()
        later = [n for n in numbers if n > sitting.opened] if by > 0 else [n for n in numbers if n < sitting.opened]
        if not later:
            return {"said": render.lines(["That was the last one." if by > 0 else "That was the first one."])}
        number = later[0] if by > 0 else later[-1]
        sitting.page = numbers.index(number) // PER_PAGE
        return self._open(sitting, number, text)

    @_answer
    def save(self, sitting: CaptionSession, text: str) -> Parts:
        return self._save(sitting, text)

    def _save(self, sitting: CaptionSession, text: str) -> Parts:
        file = sitting.file()
        if file is None:
            raise UserError("Choose a picture first.")
        plan = actions.captions.plan_by_hand(file, text)
        if not plan.changes:
            return {"said": render.lines(["Nothing to save: the caption is as it was."])}
        try:
            written = actions.captions.write(sitting.captions.folder, plan)
        except UserError:
            before = file.data
            sitting.read()
            file = sitting.file()
            if file is None or file.data == before:
                raise
            from dreambooth.captions.folder import one_line

            raise UserError(
                f"{file.path} was changed since you opened it. It says: {one_line(file.text) or 'nothing'}. Nothing "
                "was written, and your text is still here: save again to put it in place of that."
            ) from None
        sitting.text = text
        return self._done(sitting, written, text)

    # -- edits ------------------------------------------------------------------------------------------------

    @_answer
    def preview(self, sitting: CaptionSession, kind: type, given: Mapping[str, Any], scope: Mapping[str, Any]) -> Parts:
        """What an edit of this kind would change."""
        sitting.plan = None
        options, narrowed = parse(kind, given), parse(Scope, scope)
        sitting.read()
        plan = actions.captions.plan(sitting.captions, options, narrowed)
        n = len(plan.changes)
        sitting.plan = plan if n else None
        apply = f"Change {n:,} {'file' if n == 1 else 'files'}" if n else ""
        return {"said": "", "preview": render_captions.preview(plan), "apply": apply}

    @_answer
    def apply(self, sitting: CaptionSession, text: str) -> Parts:
        """Carry out what was shown."""
        plan = sitting.plan
        if plan is None:
            raise UserError("Preview an edit first.")
        work = functools.partial(actions.captions.write, sitting.captions.folder, plan)
        return self._done(sitting, self._carried_out(plan.what, len(plan.changes), work), text)

    @_answer
    def step(self, sitting: CaptionSession, way: str, text: str) -> Parts:
        """``way``: undo or redo, the step that the button was shown for."""
        now = sitting.ways()
        if way not in now or now[way]["step"] != sitting.offered.get(way):
            sitting.read()
            told = "These captions were edited elsewhere meanwhile, so nothing was done. See what the button says now."
            return {**self._all(sitting, text), "said": render.problems([told])}
        back = actions.captions.undo if way == "undo" else actions.captions.redo
        step = now[way]
        done = self._carried_out(f"{way} {step['what']}", step["files"], functools.partial(back, sitting.path))
        return self._done(sitting, done, text, "Undone" if way == "undo" else "Redone")

    def _carried_out(self, what: str, files: int, work: Callable[..., WriteResult]) -> WriteResult:
        """Do it, and come back when it is done. What takes long is seen on the page, and can be cancelled there."""
        if files < MANY:
            return work()
        done: list[WriteResult] = []

        def job(controls: Controls, events: Events) -> None:
            done.append(work(progress=controls.cancellable(events.progress)))
            events.send("ended", state="done", text=f"{what}: done.")

        self.desk.bench.start("captions", what, job)
        mine, error = jobs.current, None
        if mine:
            mine.wait()
            error = mine.error
        if not done:
            raise error if isinstance(error, UserError) else UserError(f"{what}: nothing was changed.")
        return done[0]

    # -- what is shown ----------------------------------------------------------------------------------------

    def _done(self, sitting: CaptionSession, written: WriteResult, text: str, how: str = "Changed") -> Parts:
        n = written.files
        sitting.plan = None
        sitting.read()
        said = [f"{how} {n:,} {'file' if n == 1 else 'files'}: {written.what}."]
        parts = self._all(sitting, text)
        return {**parts, "said": render.lines(said) + render.warnings(written.told), "preview": "", "apply": ""}

    def _all(self, sitting: CaptionSession, text: str | None = None) -> Parts:
        """Everything anew. ``text``: what stands in the field of the opened caption; unsaved words stay there."""
        with_file = sum(file.data is not None for file in sitting.captions.files)
        summary = (
            f"{sitting.captions.folder}: {sitting.captions.pictures:,} pictures, {with_file:,} caption files, "
            f"{len(sitting.counts):,} tags."
        )
        parts = {
            "said": render.lines([summary]),
            **sitting.offer(),
            "tags": self._tags(sitting),
            "pictures": self._pictures(sitting),
            **self._opened(sitting),
        }
        file = sitting.file()
        if file is not None and text == sitting.text and text != shown(file):
            sitting.text = parts["text"] = shown(file)
        return parts

    def _tags(self, sitting: CaptionSession) -> str:
        return render_captions.tags(sitting.counts, sitting.ticked, sitting.part, sitting.order == BY_NAME)

    def _pictures(self, sitting: CaptionSession) -> str:
        numbers, files = sitting.selected(), sitting.captions.files
        pages = max(1, -(-len(numbers) // PER_PAGE))
        sitting.page = min(sitting.page, pages - 1)
        here = numbers[sitting.page * PER_PAGE : (sitting.page + 1) * PER_PAGE]
        shown = [files[number] for number in here]
        uris = self.thumbnails.small([str(file.pictures[0]) for file in shown])
        selected = sum(len(files[number].pictures) for number in numbers)
        words = render_captions.where(selected, sitting.captions.pictures, sitting.page, pages, sitting.narrowed)
        return render_captions.pictures(shown, here, uris, sitting.opened, words)

    def _opened(self, sitting: CaptionSession) -> Parts:
        file = sitting.file()
        if file is None:
            return {"opened": ""}
        [uri] = self.thumbnails.small([str(file.pictures[0])])
        return {"opened": render_captions.opened(file, uri)}


def _plain(value: Any) -> Any:
    """Names of files need not be text; what is sent to a browser has to be."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
