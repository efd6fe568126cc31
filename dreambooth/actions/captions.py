"""Captions of a folder: read, edit, undo, and generate with a captioning model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.paths import clean_path
from dreambooth.settings import Concept, Folders
from dreambooth.settings.tagging import CPU, TagOptions
from dreambooth.text import count, nearest
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.captioning.base import Captioner
    from dreambooth.captioning.folder_captioning import CaptionedImage
    from dreambooth.captions.edits import EditPlan
    from dreambooth.captions.folder import CaptionFile, Captions
    from dreambooth.captions.writing import WriteResult
    from dreambooth.settings.caption_edits import EditScope


def captions(path: str | Path, progress: ProgressCallback | None = None) -> Captions:
    """The captions of a folder, or of the one folder that a concepts list or configuration names."""
    from dreambooth.captions.folder import read_captions
    from dreambooth.captions.reading import CaptionSource

    concept = _concept(path)
    return read_captions(clean_path(concept.instance_data_dir), CaptionSource.from_concept(concept), progress)


def folder_of(path: str | Path) -> Path:
    """The caption folder that ``path`` stands for. UserError if it does not exist."""
    folder = clean_path(_concept(path).instance_data_dir)
    if not os.path.isdir(folder):  # unlike Path's, it takes any name
        raise UserError(f"{folder}: there is no such folder. Correct the path.")
    return folder


def within(captions: Captions, scope: EditScope) -> Captions:
    """The captions that an edit's scope selects."""
    from dreambooth.captions.folder import filter_by_tags

    return dataclasses.replace(
        captions, files=tuple(filter_by_tags(captions.files, scope.with_tags, scope.without_tags))
    )


def file_of(captions: Captions, name: str) -> CaptionFile:
    """The caption file of an image, by the path or relative name of either; of an image also without its extension."""
    path = clean_path(name, captions.folder)
    for file in captions.files:
        if path == file.path or path in file.images or path == file.path.with_suffix(""):
            return file
    names = [image.name for file in captions.files for image in file.images]
    raise UserError(f"{name} is not an image in {captions.folder}{nearest(name, names)}.")


def _concept(path: str | Path) -> Concept:
    """Where the captions are, and how they are read. UserError for several folders, or for a metadata file."""
    from dreambooth.interop.input_kind import recognize_input

    if not str(path).strip():
        raise UserError("Enter the folder that holds the images.")
    path = clean_path(path)
    if not os.path.isfile(path):
        return Concept(instance_data_dir=str(path))
    found = {concept.instance_data_dir: concept for concept in recognize_input(path).require_concepts()}
    if len(found) != 1:
        raise UserError(f"{path} lists {count(len(found), 'folder')}. Enter one of them: {', '.join(found)}.")
    [concept] = found.values()
    if concept.metadata_file.strip():
        raise UserError(
            f"{path} has its captions in {concept.metadata_file}, which can't be edited here. Edit that file."
        )
    return concept


def write(folder: Path, plan: EditPlan, progress: ProgressCallback | None = None) -> WriteResult:
    """Write a planned edit. UserError, and nothing is written, if a file has changed since."""
    from dreambooth.captions.writing import write_changes

    return write_changes(folder, [planned.change for planned in plan.changes], plan.description, progress)


def undo(path: str | Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Undo the last edit of this folder's captions."""
    from dreambooth.captions.writing import undo

    return undo(folder_of(path), progress)


def redo(path: str | Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Redo the last undone edit."""
    from dreambooth.captions.writing import redo

    return redo(folder_of(path), progress)


def history(path: str | Path) -> list[dict[str, Any]]:
    """The edits of this folder's captions, newest first: what, when, how many files, and its state."""
    from dreambooth.captions.history import EditHistory

    edit_history = EditHistory(folder_of(path))
    done, target = edit_history.position()
    interrupted = edit_history.interrupted(done, target)
    return [
        {
            "step": edit.number,
            "when": edit.time,
            "what": edit.description,
            "files": edit.n_files,
            "state": "broken off" if edit.number == interrupted else "done" if edit.number <= done else "undone",
        }
        for edit in reversed(edit_history.edits())
    ]


def tag(
    folders: Folders,
    source: str | Path,
    options: TagOptions,
    *,
    limit: int | None = None,
    write: bool = True,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
    progress: ProgressCallback = lambda done, total, what: None,
) -> dict[str, Any]:
    """Caption the images of a folder, or of a concepts list or configuration, with a model.

    ``limit``: only this many images, spread evenly over all. Without ``write`` no file is changed, and the captions
    are returned under "captions". Captions written before Cancel stay; "state" is "cancelled" then. ``borrow_gpu``:
    the host's context manager that frees the GPU for the model and gives it back afterwards.
    """
    from dreambooth.captioning import folder_captioning, model_files
    from dreambooth.captioning.base import CaptioningSummary
    from dreambooth.captioning.loading import run_model
    from dreambooth.hosts.standalone import best_device

    summary, rows, state = CaptioningSummary(), [], "done"
    tasks = {folder: folder_captioning.tasks_in(folder, options, summary) for folder in _folders_of(source)}
    tasks = folder_captioning.sample_evenly(tasks, limit)

    def caption_all(captioner: Captioner) -> None:
        summary.notes += captioner.notes
        for folder, own in tasks.items():
            found = folder_captioning.caption_images(captioner, own, options, summary, progress)
            if write:
                folder_captioning.write_captioned(folder, found, summary, f"tagged with {options.model.strip()}")
            else:
                rows.extend(map(_row, found))

    if tasks:
        path = model_files.find_model(options.model, folders.models, options.token, progress)
        on = "cpu" if options.device == CPU else device or best_device()
        try:
            run_model(path, options, on, borrow_gpu, progress, caption_all)
        except Cancelled:
            state = "cancelled"
    return {"state": state, "model": options.model.strip(), **dataclasses.asdict(summary), "captions": rows}


def _folders_of(source: str | Path) -> list[Path]:
    """The instance image folders that a path stands for, each once."""
    from dreambooth.interop.input_kind import recognize_input

    if not str(source).strip():
        raise UserError("Enter the folder that holds the images.")
    concepts = recognize_input(clean_path(source)).require_concepts()
    return list(dict.fromkeys(clean_path(concept.instance_data_dir) for concept in concepts))


def _row(image: CaptionedImage) -> dict[str, Any]:
    tags = {tag.name: round(tag.score, 4) for tag in sorted(image.prediction.tags, key=lambda tag: -tag.score)}
    return {"picture": str(image.task.image), "caption": image.caption, "tags": tags}
