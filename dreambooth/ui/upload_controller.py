"""Actions behind the Images form: a model's own images, page by page. No Gradio: plain values in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth import actions
from dreambooth.actions import model_images
from dreambooth.errors import UserError
from dreambooth.jobs import jobs
from dreambooth.settings import Concept, ModelFolder
from dreambooth.text import count, escape_unprintable, printable
from dreambooth.ui import render
from dreambooth.ui.page_controller import PageController
from dreambooth.ui.thumbnails import Thumbnails

if TYPE_CHECKING:
    from dreambooth.images.uploads import Added, Upload

PER_PAGE = 12
TOKENS = ("instance_token", "class_token")
_ENDING = 3.0  # seconds to wait for a running job, before images are refused because of it
_MAX_NAMED = 5  # renamed and duplicate files that a message names; refused ones are all named


@dataclasses.dataclass(frozen=True)
class ShownImage:
    """An image on the page. ``caption``: as its file was read, empty without one."""

    name: str
    uri: str
    caption: str


@dataclasses.dataclass(frozen=True)
class ImagePage:
    """One page of a model's images, counted from 0."""

    images: tuple[ShownImage, ...] = ()
    number: int = 0
    pages: int = 1
    total: int = 0
    problems: tuple[str, ...] = ()  # of captions that can't be read


class UploadController:
    """The same for all browsers: what they show is on disk."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller = page_controller
        self.thumbnails = Thumbnails(page_controller.host.folders())

    # -- images -----------------------------------------------------------------------------------------------

    def add(self, name: str | None, uploads: Sequence[Upload], instance_token: str, class_token: str) -> str:
        """Add uploaded files to the images of model ``name``, and save the concept that has them; the message."""
        try:
            model = self._editable(name)
            added = model_images.add(model, uploads)
            if added.images:
                model_images.save_concept(model, instance_token or "", class_token or "")
        except UserError as error:
            return render.refusal(error.problems)
        return _summary(added, model.name)

    def remove(self, name: str | None, image: str) -> str:
        """Delete an image with its caption; the message."""
        try:
            model_images.remove(self._editable(name), image)
        except UserError as error:
            return render.refusal(error.problems)
        return render.lines([f"Removed {escape_unprintable(image)}."])

    def save_caption(self, name: str | None, image: str, before: str, text: str) -> tuple[str, str]:
        """Write a caption; (message, text that is on disk now). No message if nothing changed."""
        if not image or (text or "").strip() == before.strip():
            return "", before
        path = self.page_controller.model(name).images / Path(image).name
        try:
            model_images.write_caption(path, before, text)
        except UserError as error:
            return render.refusal(error.problems), _read_caption(path, before)
        return render.lines([f"Saved the caption of {escape_unprintable(image)}."]), text.strip()

    def page(self, name: str | None, number: int) -> ImagePage:
        """Page ``number`` of the images of model ``name``, or the last one; empty without a model."""
        if name not in self.page_controller.model_names():
            return ImagePage()
        try:
            paths = model_images.images(self.page_controller.model(name))
        except UserError as error:
            return ImagePage(problems=tuple(error.problems))
        pages = max(1, -(-len(paths) // PER_PAGE))
        number = max(0, min(number, pages - 1))
        shown = paths[number * PER_PAGE : (number + 1) * PER_PAGE]
        uris, problems, images = self.thumbnails.small([str(path) for path in shown]), [], []
        for path, uri in zip(shown, uris, strict=True):
            try:
                caption = model_images.read_caption(path)
            except UserError as error:
                caption, problems = "", [*problems, *error.problems]
            images.append(ShownImage(path.name, uri, caption))
        return ImagePage(tuple(images), number, pages, len(paths), tuple(problems))

    # -- concept ----------------------------------------------------------------------------------------------

    def tokens(self, name: str | None) -> tuple[str, ...]:
        """The instance token and class token of the model's images."""
        if name not in self.page_controller.model_names():
            return "", ""
        concepts = [*self.page_controller.parameters(name)[1], Concept()]
        directories = [concept.instance_data_dir for concept in concepts]
        concept = concepts[model_images.concept_index(self.page_controller.model(name), directories)]
        return tuple(getattr(concept, key) for key in TOKENS)

    def concept_index(self, name: str | None, directories: Sequence[str]) -> int | None:
        """Which of the page's concepts, by their dataset directories, has the images of model ``name``.

        None if it has no images yet, or can't be edited now.
        """
        if name not in self.page_controller.model_names() or self.page_controller.job_runner.is_locked(name):
            return None
        model = self.page_controller.model(name)
        try:
            return model_images.concept_index(model, directories) if model_images.images(model) else None
        except UserError:
            return None

    def concept_values(self, name: str, directory: str, instance_token: str, class_token: str) -> dict[str, Any]:
        """The fields of that concept to change on the page; ``directory``: the one that it has there."""
        model = self.page_controller.model(name)
        return model_images.concept_values(model, directory or "", instance_token or "", class_token or "")

    def _editable(self, name: str | None) -> ModelFolder:
        if not name:
            raise UserError("Choose or create a model first, then add its images.")
        model = actions.opened(self.page_controller.model(name))
        if self.page_controller.job_runner.is_locked(name) and jobs.current:
            jobs.current.wait(_ENDING)  # one that has reported its end may still be ending
        if self.page_controller.job_runner.is_locked(name):
            raise UserError(f"{name} is in use by a running job. Change its images when it has finished.")
        return model


def _read_caption(path: Path, otherwise: str) -> str:
    try:
        return model_images.read_caption(path)
    except UserError:
        return otherwise


def _summary(added: Added, name: str) -> str:
    """What became of the uploaded files, each refused one by name."""
    lines = [f"Added {count(len(added.new), 'image')} to {name}."]
    if added.duplicates:
        pairs = [f"{upload} (is {path.name})" for upload, path in added.duplicates]
        lines.append(f"Already there, added once: {_some(pairs)}.")
    if added.renamed:
        lines.append(f"Renamed: {_some([f'{upload} to {path.name}' for upload, path in added.renamed])}.")
    refused = [f"Not added: {line}" for line in added.refused]
    return printable(render.lines(lines) + render.lines(refused, "db_warning"))


def _some(names: Sequence[str]) -> str:
    more = f" and {count(len(names) - _MAX_NAMED, 'more file')}" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
