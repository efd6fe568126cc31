"""What can be done with the captions of a folder, one function each; beside :mod:`dreambooth.actions`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.files import expand_user
from dreambooth.settings import Concept, Folders, nearest
from dreambooth.settings.tagging import CPU, TagOptions
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.captioning.base import Captioner
    from dreambooth.captioning.folder_captioning import Captioned
    from dreambooth.captions.edits import Plan
    from dreambooth.captions.folder import CaptionFile, Captions
    from dreambooth.captions.writing import WriteResult
    from dreambooth.settings.caption_edits import EditScope, ReplaceText


def captions(path: str | Path, progress: ProgressCallback | None = None) -> Captions:
    """The captions of a folder, or of the one folder that a concepts list or configuration names."""
    from dreambooth.captions.folder import read_captions
    from dreambooth.captions.reading import CaptionFiles

    concept = _concept(path)
    return read_captions(expand_user(concept.instance_data_dir), CaptionFiles.of(concept), progress)


def folder_of(path: str | Path) -> Path:
    """The folder whose captions they are: where its history lies. UserError where there is none."""
    folder = expand_user(_concept(path).instance_data_dir)
    if not os.path.isdir(folder):  # unlike Path's, it takes any name
        raise UserError(f"{folder}: there is no such folder. Correct the path.")
    return folder


def within(captions: Captions, scope: EditScope) -> Captions:
    """Those of the pictures that are meant."""
    from dreambooth.captions.folder import having

    return dataclasses.replace(captions, files=tuple(having(captions.files, scope.with_tags, scope.without_tags)))


def file_of(captions: Captions, name: str) -> CaptionFile:
    """The caption of a picture, by the name of the picture or of its caption file, seen from the folder."""
    path = captions.folder / name
    for file in captions.files:
        if path == file.path or path in file.pictures:
            return file
    names = [picture.name for file in captions.files for picture in file.pictures]
    raise UserError(f"{name}: is no picture of {captions.folder}{nearest(name, names)}.")


def _concept(path: str | Path) -> Concept:
    """Where the captions are, and how they are read. UserError where they are in several places, or in no files."""
    from dreambooth.interop.input_kind import recognize_input

    if not str(path).strip():
        raise UserError("Give the folder with the pictures.")
    path = expand_user(str(path).strip())
    if not os.path.isfile(path):
        return Concept(instance_data_dir=str(path))
    found = {concept.instance_data_dir: concept for concept in recognize_input(path).concepts}
    if len(found) != 1:
        raise UserError(f"{path}: names {len(found)} folders. Give one of them: {', '.join(found)}.")
    [concept] = found.values()
    if concept.metadata_file.strip():
        raise UserError(f"{path}: its captions stand in {concept.metadata_file}, not in files beside the pictures.")
    return concept


def find(captions: Captions, options: ReplaceText, scope: EditScope) -> list[CaptionFile]:
    """The captions in which something is found."""
    from dreambooth.captions.edits import matching

    return matching(captions, options, scope)


def plan(captions: Captions, options: Any, scope: EditScope) -> Plan:
    """What an edit would change; ``options``: one of those in settings/caption_edits.py. Nothing is written."""
    from dreambooth.captions.edits import plan

    return plan(captions, options, scope)


def plan_by_hand(file: CaptionFile, text: str) -> Plan:
    """One caption as it was written by hand."""
    from dreambooth.captions.edits import plan_text

    return plan_text(file, text)


def write(folder: Path, plan: Plan, progress: ProgressCallback | None = None) -> WriteResult:
    """Carry out what was planned. UserError, and nothing is written, where a file changed since."""
    from dreambooth.captions.writing import write_changes

    return write_changes(folder, [planned.change for planned in plan.changes], plan.what, progress)


def undo(path: str | Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Take back the last edit of this folder's captions."""
    from dreambooth.captions.writing import undo

    return undo(folder_of(path), progress)


def redo(path: str | Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Do again what was taken back last."""
    from dreambooth.captions.writing import redo

    return redo(folder_of(path), progress)


def history(path: str | Path) -> list[dict[str, Any]]:
    """The edits of this folder's captions, newest first: what, when, how many files, and whether it is in effect."""
    from dreambooth.captions.history import Journal

    journal = Journal(folder_of(path))
    done, going_to = journal.position()
    broken_off = journal.between(done, going_to)
    return [
        {
            "step": step.number,
            "when": step.when,
            "what": step.what,
            "files": step.files,
            "state": "broken off" if step.number == broken_off else "done" if step.number <= done else "undone",
        }
        for step in reversed(journal.steps())
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
    """Have a model write captions for the pictures of a folder, or of what else stands for some (see found.py).

    ``limit``: look at so many pictures only, spread over all; without ``write`` no file is touched, and what would
    have been written is in ``captions``. What was written before Cancel stays; ``state`` says "cancelled" then.
    ``borrow_gpu``: the host's context manager that frees the GPU for us and takes it back afterwards.
    """
    from dreambooth.captioning import folder_captioning, model_files
    from dreambooth.captioning.base import Counted
    from dreambooth.captioning.loading import ask_model
    from dreambooth.hosts.standalone import best_device

    counted, rows, state = Counted(), [], "done"
    wanted = {folder: folder_captioning.wanted_in(folder, options, counted) for folder in _folders_of(source)}
    wanted = folder_captioning.spread(wanted, limit)

    def ask(captioner: Captioner) -> None:
        counted.notes += captioner.notes
        for folder, its in wanted.items():
            found = folder_captioning.captioned(captioner, its, options, counted, progress)
            if write:
                folder_captioning.write_all(folder, found, counted, f"tagged with {options.model.strip()}")
            else:
                rows.extend(map(_row, found))

    if wanted:
        path = model_files.located(options.model, folders.models, options.token, progress)
        on = "cpu" if options.device == CPU else device or best_device()
        try:
            ask_model(path, options, on, borrow_gpu, progress, ask)
        except Cancelled:
            state = "cancelled"
    return {"state": state, "model": options.model.strip(), **dataclasses.asdict(counted), "captions": rows}


def _folders_of(source: str | Path) -> list[Path]:
    """The folders of instance pictures that a path stands for, each once."""
    from dreambooth.interop.input_kind import recognize_input

    if not str(source).strip():
        raise UserError("Give the folder with the pictures.")
    concepts = recognize_input(expand_user(str(source).strip())).concepts
    return list(dict.fromkeys(expand_user(concept.instance_data_dir) for concept in concepts))


def _row(one: Captioned) -> dict[str, Any]:
    tags = {tag.name: round(tag.score, 4) for tag in sorted(one.answer.tags, key=lambda tag: -tag.score)}
    return {"picture": str(one.wanted.picture), "caption": one.caption, "tags": tags}
