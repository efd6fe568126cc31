"""Dataset previews: the images of a folder or of the concepts as a run would use them, shown page by page.

Each preview has a thread of its own, so that it doesn't wait for a running job. Plain values in, HTML out; no Gradio.
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

from dreambooth.errors import Cancelled, UserError
from dreambooth.jobs import Controls
from dreambooth.paths import clean_path
from dreambooth.settings import CONCEPT, Concept, ModelFolder, Settings, concept_values, parse, parse_concepts
from dreambooth.types import ProgressCallback
from dreambooth.ui import render, render_images
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

if TYPE_CHECKING:
    from dreambooth.interop.input_kind import RecognizedInput
    from dreambooth.runs.data_report import DataReport

log = logging.getLogger("dreambooth.ui")

Values = Mapping[str, Any]
PER_PAGE = 60
MAX_PREVIEWS = 4  # held at once, each for one browser
ALL, WITH_WARNINGS = "All", "With warnings"


class DatasetPreview:
    """One preview, running or finished. ``problems``: why there is no report."""

    def __init__(self, read: Callable[[ProgressCallback], tuple[RecognizedInput | None, DataReport]]) -> None:
        self.controls = Controls()
        self.progress = 0, 0, "reading"
        self.input: RecognizedInput | None = None  # None for the concepts of the page
        self.report: DataReport | None = None
        self.problems: list[str] = []
        self.finished = threading.Event()
        self._read = read
        threading.Thread(target=self._run, name="dreambooth dataset preview", daemon=True).start()

    def _run(self) -> None:
        try:
            self.input, self.report = self._read(self.controls.cancellable(self._set_progress))
        except Cancelled:
            self.problems = ["Stopped."]
        except UserError as error:
            self.problems = error.problems
        except BaseException as error:
            log.exception("the dataset preview failed")
            self.problems = [f"{type(error).__name__}: {error}"]
        finally:
            self.finished.set()

    def _set_progress(self, done: int, total: int, what: str) -> None:
        self.progress = done, total, what

    def rows(self) -> list[Mapping[str, Any]]:
        return [*self.report.pictures, *self.report.other_files] if self.report else []

    def filters(self) -> dict[str, list[int]]:
        """Title of each filter -> numbers of its rows."""
        rows = list(enumerate(self.rows()))
        filters = {ALL: [n for n, _ in rows], WITH_WARNINGS: [n for n, row in rows if row["warnings"]]}
        kinds = dict.fromkeys(row["kind"] for _, row in rows)
        concepts = sorted({row["concept"] for _, row in rows if "concept" in row})
        warnings = sorted({kind for _, row in rows for kind in row["warning_kinds"]})
        if len(kinds) > 1:
            filters |= {kind.capitalize(): [n for n, row in rows if row["kind"] == kind] for kind in kinds}
        if len(concepts) > 1:
            filters |= {f"Concept {c}": [n for n, row in rows if row.get("concept") == c] for c in concepts}
        filters |= {f"Warning: {kind}": [n for n, row in rows if kind in row["warning_kinds"]] for kind in warnings}
        return {f"{name} ({len(numbers):,})": numbers for name, numbers in filters.items() if numbers or name == ALL}


@dataclass(frozen=True)
class PreviewPage:
    """One page of a preview; ``page`` counts from 0."""

    gallery: str
    table: str
    filters: list[str]
    filter: str
    page: int


class DatasetPreviewController:
    """The previews of all browsers, by key."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.thumbnails = Thumbnails(page_controller.host.folders())
        self._previews: OrderedDict[str, DatasetPreview] = OrderedDict()
        self._heartbeats = itertools.count()

    def start_for_folder(self, old_key: str, name: str | None, folder: str, settings: Values) -> tuple[str, str]:
        """Start a preview of a folder or configuration, which may bring settings of its own.

        ``old_key``: of the browser's last preview, which is stopped. ``name``: of the chosen model.

        Returns:
            (key, progress as HTML).
        """

        def read(progress: ProgressCallback) -> tuple[RecognizedInput, DataReport]:
            if not (folder or "").strip():
                raise UserError("Enter the folder with your images above.")
            from dreambooth.interop.input_kind import recognize_input

            found = recognize_input(clean_path(folder))
            merged = parse(Settings, {**settings, **found.settings})
            return found, self._report(name, merged, found.require_concepts(), progress)

        return self._start(old_key, read)

    def start_for_concepts(
        self, old_key: str, name: str | None, settings: Values, concepts: Sequence[Values]
    ) -> tuple[str, str]:
        """As :meth:`start_for_folder`, for the concepts of the page: the data of the run that Train would start."""

        def read(progress: ProgressCallback) -> tuple[None, DataReport]:
            used = tuple(concept for concept in parse_concepts(concepts)[0] if concept.instance_data_dir)
            if not used:
                raise UserError("No concept has a folder yet. Preview a folder, then click Use as concept.")
            return None, self._report(name, parse(Settings, settings), used, progress)

        return self._start(old_key, read)

    def _report(
        self, name: str | None, settings: Settings, concepts: Sequence[Concept], progress: ProgressCallback
    ) -> DataReport:
        host = self.page_controller.host
        model = ModelFolder(host.folders(), name) if name in self.page_controller.model_names() else None
        device = host.device() if model else None
        cache = host.folders().image_metadata_cache
        from dreambooth.runs import data_report

        report = data_report.preview_dataset(concepts, settings, model, device, progress, cache)
        self.thumbnails.remove_oldest()
        return report

    def _start(
        self, old_key: str, read: Callable[[ProgressCallback], tuple[RecognizedInput | None, DataReport]]
    ) -> tuple[str, str]:
        self.stop(old_key)
        self._previews.pop(old_key, None)
        key = uuid.uuid4().hex
        self._previews[key] = DatasetPreview(read)
        while len(self._previews) > MAX_PREVIEWS:
            self._previews.popitem(last=False)[1].controls.cancel()
        return key, self._progress(self._previews[key])

    def stop(self, key: str) -> None:
        if key in self._previews:
            self._previews[key].controls.cancel()

    def poll(self, key: str, wait: float = 0.7) -> str | None:
        """Progress as HTML after up to ``wait`` seconds; None once the preview is finished."""
        preview = self._previews.get(key)
        return None if preview is None or preview.finished.wait(wait) else self._progress(preview)

    def _progress(self, preview: DatasetPreview) -> str:
        done, total, what = preview.progress
        text = f"{what} {done:,} of {total:,}" if total else f"{what} …"
        # Different each time, so that the page's change event fires again and it keeps polling.
        heartbeat = f'<i data-heartbeat="{next(self._heartbeats)}"></i>'
        return render.progress_bar(done / total if total else None, True) + render.lines([text]) + heartbeat

    def summary(self, key: str) -> str:
        """Totals and warnings of a finished preview, or its errors."""
        preview = self._previews.get(key)
        if preview is None:
            return render.lines(["This preview has expired. Refresh it."])
        if preview.report is None:
            return render.problems(preview.problems)
        imported = _import_report(preview.input) if preview.input else ""
        return render_images.totals(preview.report.totals, preview.report.warnings) + imported

    def page(self, key: str, chosen: str, page: int) -> PreviewPage:
        """One page of the images. ``chosen``: a filter, else all; ``page``: from 0, limited to the pages there are."""
        preview = self._previews.get(key)
        if preview is None or preview.report is None:
            return PreviewPage("", "", [], "", 0)
        filters, rows = preview.filters(), preview.rows()
        chosen = chosen if chosen in filters else next(iter(filters))
        pages = max(1, -(-len(filters[chosen]) // PER_PAGE))
        page = min(max(0, page), pages - 1)
        numbers = filters[chosen][page * PER_PAGE : (page + 1) * PER_PAGE]
        on_page = [rows[n] for n in numbers]
        uris = self.thumbnails.small([row["path"] for row in on_page])
        gallery = render_images.gallery(on_page, numbers, uris, page, pages)
        return PreviewPage(gallery, render_images.image_table(on_page), list(filters), chosen, page)

    def large(self, key: str, number: str) -> str:
        """One image in large, by its row number; "" if there is no such row."""
        preview = self._previews.get(key)
        rows = preview.rows() if preview else []
        if not (number or "").isdecimal() or int(number) >= len(rows):
            return ""
        row = rows[int(number)]
        return render_images.large(row, self.thumbnails.large(row["path"]))

    def use_as_concept(self, key: str, at: int | None, concepts: Sequence[Values]) -> tuple[list[Concept], Values]:
        """Put the previewed concepts among those of the page.

        ``at``: index of the first one, None for after the last. A concept that is there already keeps the values that
        the previewed one does not set.

        Returns:
            (all concepts, settings to change).

        Raises:
            UserError: if the preview is not of a folder or configuration, or not finished.
        """
        preview = self._previews.get(key)
        if preview is None or preview.input is None or not preview.input.concepts:
            raise UserError("Preview a folder first.")
        merged = list(parse_concepts(concepts)[0])
        while merged and not merged[-1].instance_data_dir:
            merged.pop()
        start = len(merged) if at is None else at
        merged += [Concept()] * (start - len(merged))
        for index, concept in enumerate(preview.input.concepts, start):
            merged[index : index + 1] = [_override(merged[index] if index < len(merged) else Concept(), concept)]
        return merged, preview.input.settings


def _override(base: Concept, concept: Concept) -> Concept:
    """``base`` with the values of ``concept`` that are not defaults."""
    values = {key: value for key, value in concept_values(concept).items() if value != CONCEPT[key].default}
    return parse(Concept, values, base=base)


def _import_report(found: RecognizedInput) -> str:
    """What was imported along with the images, and what is not supported."""
    unsupported = [f"Not supported: {text}" for text in found.unsupported]
    return render.lines(found.imported) + render.lines(unsupported, "db_warning")
