"""A model's own images: added from uploaded files, captioned, removed, and trained as one of its concepts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth import embedded
from dreambooth.errors import UserError
from dreambooth.settings import Concept, ModelFolder

if TYPE_CHECKING:
    from dreambooth.images.uploads import Added, Upload


def images(model: ModelFolder) -> list[Path]:
    """The images in the model's own folder, without masks, in natural order."""
    from dreambooth.images.listing import find_images, masks_of

    if not os.path.isdir(model.images):
        return []
    found = find_images(model.images)
    masks = set(masks_of(found).values())
    return [path for path in found if path not in masks]


def add(model: ModelFolder, uploads: Sequence[Upload], on_done: Callable[[int], None] = lambda n_done: None) -> Added:
    """Add uploaded images, and the caption files that have the name of one of them."""
    from dreambooth.images.file_kinds import FileKind, kind_of
    from dreambooth.images.uploads import add_uploads

    model.require()
    captions = [upload for upload in uploads if kind_of(upload.name) is FileKind.CAPTION]
    pictures = [upload for upload in uploads if upload not in captions]
    added = add_uploads(model.images, pictures, on_done)
    _add_captions(model, captions, pictures, added)
    return added


def remove(model: ModelFolder, name: str) -> None:
    """Delete one of the model's own images, with its caption."""
    from dreambooth.images.uploads import remove_image

    remove_image(model.require().images, name)


def concept_index(model: ModelFolder, directories: Sequence[str]) -> int:
    """Which of the concepts with these dataset directories has the model's own images.

    Else the first that is free, without a directory or with the demo's images; else a new one.
    """
    for is_wanted in (lambda directory: _is_own(model, directory), _is_free):
        for index, directory in enumerate(directories):
            if is_wanted(directory or ""):
                return index
    return len(directories)


def concept_values(model: ModelFolder, directory: str, instance_token: str, class_token: str) -> dict[str, str]:
    """The fields to change of the concept with this dataset directory, so that it has the model's own images.

    An image without a caption is trained with the tokens alone, since names such as IMG_1234 describe nothing. Empty
    tokens change nothing.
    """
    tokens = {"instance_token": instance_token.strip(), "class_token": class_token.strip()}
    values = {key: value for key, value in tokens.items() if value}
    if _is_own(model, directory):
        return values
    values |= {"instance_data_dir": str(model.images), "default_caption": ""}
    is_demo = bool(directory.strip())
    return values | ({"save_sample_prompt": Concept().save_sample_prompt} if is_demo else {})


def save_concept(model: ModelFolder, instance_token: str, class_token: str) -> None:
    """Save the concept of the model's own images, and leave its other parameters as they are."""
    config = model.require().load()
    concepts = [*config.concepts, Concept()]
    index = concept_index(model, [concept.instance_data_dir for concept in config.concepts])
    values = concept_values(model, concepts[index].instance_data_dir, instance_token, class_token)
    concepts[index] = dataclasses.replace(concepts[index], **values)
    concepts = [concept for concept in concepts if concept.instance_data_dir]
    model.save(dataclasses.replace(config, concepts=tuple(concepts)))


def read_caption(image: Path) -> str:
    """The text of an image's caption file; "" without one. UserError for one that is not text."""
    from dreambooth.captions.reading import CaptionSource, decode_caption, read_caption_bytes

    path = CaptionSource().find(image)
    data = read_caption_bytes(path) if path else None
    return decode_caption(data, path)[0].strip() if path and data else ""


def write_caption(image: Path, before: str, text: str) -> int:
    """Write an image's caption; an empty one removes its file. The number of files that changed.

    UserError, and nothing is written, if the caption on disk is no longer ``before``.
    """
    from dreambooth.captions.history import FileChange
    from dreambooth.captions.reading import CaptionSource, read_caption_bytes
    from dreambooth.captions.writing import encode_caption, write_changes

    if not image.is_file():
        raise UserError(f"{image.name}: the image was removed. Reload the page.")
    text, current = text.strip(), read_caption(image)
    if text == current:
        return 0
    if current != before.strip():
        raise UserError(
            f"{image.name}: another program changed the caption to: {current or '(empty)'}. "
            "Your text was not written. Edit it again to overwrite the file."
        )
    path = CaptionSource().find(image) or image.with_suffix(".txt")
    change = FileChange(path, read_caption_bytes(path), encode_caption(path, text + "\n") if text else None)
    return write_changes(image.parent, [change], f"edit {path.name}").n_files


def _is_own(model: ModelFolder, directory: str) -> bool:
    return bool(directory.strip()) and os.path.normpath(directory) == os.path.normpath(model.images)


def _is_free(directory: str) -> bool:
    """Without images of the user: those of the demo make way for the first own ones."""
    return not directory.strip() or os.path.normpath(directory) == os.path.normpath(embedded.SUBJECT)


def _add_captions(model: ModelFolder, captions: Sequence[Upload], pictures: Sequence[Upload], added: Added) -> None:
    """Write uploaded captions beside the images that were uploaded with them."""
    from dreambooth.captions.reading import decode_caption, read_caption_bytes

    of_stem = {_stem(upload): added.images.get(str(upload.path)) for upload in pictures}
    for upload in captions:
        image = of_stem.get(_stem(upload))
        if image is None:
            added.refused.append(f"{upload.shown_name}: is a caption. Add the image of the same name with it.")
            continue
        try:
            text = decode_caption(read_caption_bytes(upload.path) or b"", Path(upload.name))[0]
            write_caption(image, read_caption(image), text)
        except UserError as error:
            added.refused += error.problems


def _stem(upload: Upload) -> str:
    return os.path.splitext(upload.name)[0].casefold()
