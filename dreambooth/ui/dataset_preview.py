"""What the Look form does: a look at pictures in a thread of its own, so that it waits for no training, and pages of
what was seen. Plain values in, HTML out; no Gradio.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth import actions
from dreambooth.errors import Cancelled, UserError
from dreambooth.files import expand_user
from dreambooth.jobs import Controls
from dreambooth.settings import CONCEPT, Concept, ModelFolder, Settings, concept_values, parse, parse_concepts
from dreambooth.ui import render, render_images
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

if TYPE_CHECKING:
    from dreambooth.interop.input_kind import RecognizedInput
    from dreambooth.runs.data_report import DataReport

log = logging.getLogger("dreambooth.ui")

Values = Mapping[str, Any]
PER_PAGE = 60
KEPT = 4  # looks: as many browsers can turn pages
ALL, NOTED = "All", "With notes"


class Look:
    """One look: going on, or done. ``problems`` say why nothing was seen."""

    def __init__(self, see: Callable[[Any], tuple[RecognizedInput | None, DataReport]]) -> None:
        self.controls = Controls()
        self.progress = 0, 0, "reading"
        self.found: RecognizedInput | None = None
        self.report: DataReport | None = None
        self.problems: list[str] = []
        self.done = threading.Event()
        self._see = see
        threading.Thread(target=self._run, name="dreambooth look", daemon=True).start()

    def _run(self) -> None:
        try:
            self.found, self.report = self._see(self.controls.cancellable(self._note))
        except Cancelled:
            self.problems = ["Stopped."]
        except UserError as error:
            self.problems = error.problems
        except BaseException as error:
            log.exception("the look failed")
            self.problems = [f"{type(error).__name__}: {error}"]
        finally:
            self.done.set()

    def _note(self, done: int, total: int, what: str) -> None:
        self.progress = done, total, what

    def rows(self) -> list[Mapping[str, Any]]:
        return [*self.report.pictures, *self.report.other_files] if self.report else []

    def choices(self) -> dict[str, list[int]]:
        """Which rows there are to be seen, by what people choose them by."""
        rows = list(enumerate(self.rows()))
        found = {ALL: [n for n, _ in rows], NOTED: [n for n, row in rows if row["warnings"]]}
        kinds = dict.fromkeys(row["kind"] for _, row in rows)
        concepts = sorted({row["concept"] for _, row in rows if "concept" in row})
        notes = sorted({kind for _, row in rows for kind in row["warning_kinds"]})
        if len(kinds) > 1:
            found |= {kind.capitalize(): [n for n, row in rows if row["kind"] == kind] for kind in kinds}
        if len(concepts) > 1:
            found |= {f"Concept {c}": [n for n, row in rows if row.get("concept") == c] for c in concepts}
        found |= {f"Note: {kind}": [n for n, row in rows if kind in row["warning_kinds"]] for kind in notes}
        return {f"{name} ({len(numbers):,})": numbers for name, numbers in found.items() if numbers or name == ALL}


@dataclass(frozen=True)
class Shown:
    """One page of a look."""

    gallery: str
    table: str
    choices: list[str]
    chosen: str
    page: int


class DatasetPreviewController:
    """The looks of all browsers, each by its key."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._beats = itertools.count()
        self.thumbnails = Thumbnails(page_controller.host.folders().dreambooth / ".cache" / "thumbnails")

    def at_folder(self, before: str, name: str | None, folder: str, settings: Values) -> tuple[str, str]:
        """(key of the look, what to say meanwhile). What lies there may bring settings of its own."""

        def see(progress: Any) -> tuple[RecognizedInput, DataReport]:
            if not (folder or "").strip():
                raise UserError("Choose the folder with your pictures, above.")
            from dreambooth.interop.input_kind import recognize_input

            found = recognize_input(expand_user(folder.strip()))
            chosen = parse(Settings, {**settings, **found.settings})
            return found, self._report(name, chosen, found.with_pictures(), progress)

        return self._start(before, see)

    def at_concepts(
        self, before: str, name: str | None, settings: Values, concepts: Sequence[Values]
    ) -> tuple[str, str]:
        """The same for what stands under Concepts: the run that Train would start."""

        def see(progress: Any) -> tuple[None, DataReport]:
            read = tuple(concept for concept in parse_concepts(concepts)[0] if concept.instance_data_dir)
            if not read:
                raise UserError("There is no concept with a folder yet: look at a folder, and use it as one.")
            return None, self._report(name, parse(Settings, settings), read, progress)

        return self._start(before, see)

    def _report(self, name: str | None, settings: Settings, concepts: Sequence[Concept], progress: Any) -> DataReport:
        model = ModelFolder(self.page_controller.host.folders(), name) if name in self.page_controller.names() else None
        device = self.page_controller.host.device() if model else None
        known = self.page_controller.host.folders().image_metadata_cache
        report = actions.images.look(concepts, settings, model, device, progress, known)
        self.thumbnails.tidy()
        return report

    def _start(self, before: str, see: Callable[[Any], tuple[RecognizedInput | None, DataReport]]) -> tuple[str, str]:
        self.stop(before)
        self._looks.pop(before, None)
        key = uuid.uuid4().hex
        self._looks[key] = Look(see)
        while len(self._looks) > KEPT:
            self._looks.popitem(last=False)[1].controls.cancel()
        return key, self._going_on(self._looks[key])

    def stop(self, key: str) -> None:
        if key in self._looks:
            self._looks[key].controls.cancel()

    def follow(self, key: str, wait: float = 0.7) -> str | None:
        """What to say while it goes on; None once it is done."""
        look = self._looks.get(key)
        return None if look is None or look.done.wait(wait) else self._going_on(look)

    def _going_on(self, look: Look) -> str:
        done, total, what = look.progress
        words = f"{what} {done:,} of {total:,}" if total else f"{what} …"
        # Each says something else, so that the page asks again.
        beat = f'<i data-beat="{next(self._beats)}"></i>'
        return render.bar(done / total if total else None, True) + render.lines([words]) + beat

    def said(self, key: str) -> str:
        """Of a look that is done: what is wrong, or what it comes to."""
        look = self._looks.get(key)
        if look is None:
            return render.lines(["This look is no longer kept: look again."])
        if look.report is None:
            return render.problems(look.problems)
        beside = _came_with(look.found) if look.found else ""
        return render_images.totals(look.report.totals, look.report.warnings) + beside

    def page(self, key: str, chosen: str, page: int) -> Shown:
        """``chosen``: one of its choices, else all; ``page`` counts from 0 and is kept within what there is."""
        look = self._looks.get(key)
        if look is None or look.report is None:
            return Shown("", "", [], "", 0)
        choices, rows = look.choices(), look.rows()
        chosen = chosen if chosen in choices else next(iter(choices))
        pages = max(1, -(-len(choices[chosen]) // PER_PAGE))
        page = min(max(0, page), pages - 1)
        numbers = choices[chosen][page * PER_PAGE : (page + 1) * PER_PAGE]
        here = [rows[n] for n in numbers]
        uris = self.thumbnails.small([row["path"] for row in here])
        gallery = render_images.gallery(here, numbers, uris, page, pages)
        return Shown(gallery, render_images.image_table(here), list(choices), chosen, page)

    def large(self, key: str, number: str) -> str:
        """The picture of that number; nothing for no number."""
        look = self._looks.get(key)
        rows = look.rows() if look else []
        if not (number or "").isdecimal() or int(number) >= len(rows):
            return ""
        row = rows[int(number)]
        return render_images.large(row, self.thumbnails.large(row["path"]))

    def use(self, key: str, at: int | None, concepts: Sequence[Values]) -> tuple[list[Concept], Values]:
        """(all concepts, settings to change) with what was found put in at ``at``, from 0; None: after the last one.

        Laid over a concept that is there, what was found changes only what it says. UserError where nothing was found.
        """
        look = self._looks.get(key)
        if look is None or look.found is None or not look.found.concepts:
            raise UserError("Look at a folder first: then it can be used.")
        there = list(parse_concepts(concepts)[0])
        while there and not there[-1].instance_data_dir:
            there.pop()
        start = len(there) if at is None else at
        there += [Concept()] * (start - len(there))
        for number, concept in enumerate(look.found.concepts, start):
            there[number : number + 1] = [_laid_over(there[number] if number < len(there) else Concept(), concept)]
        return there, look.found.settings


def _laid_over(old: Concept, new: Concept) -> Concept:
    values = {key: value for key, value in concept_values(new).items() if value != CONCEPT[key].default}
    return parse(Concept, values, base=old)


def _came_with(found: RecognizedInput) -> str:
    """What else lay there beside pictures."""
    without = [f"Without counterpart: {text}" for text in found.without]
    return render.lines(found.taken) + render.lines(without, "db_warning")
