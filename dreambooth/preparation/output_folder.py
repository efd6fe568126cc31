"""Writing prepared images to a new folder atomically."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

from dreambooth import files
from dreambooth.captions.reading import read_caption_bytes
from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.parallel import map_files
from dreambooth.preparation.changes import ImageChange, Preparation
from dreambooth.preparation.transform import transform_image, transform_mask
from dreambooth.settings.preparation import PrepareOptions
from dreambooth.types import ProgressCallback


def write_new_folder(preparation: Preparation, progress: ProgressCallback | None = None) -> Preparation:
    """Write the destination folder; the finished preparation. The folder appears once it is complete."""
    out = preparation.out
    files.clear_leftovers(out.parent)
    require_space(preparation)
    with files.atomic_folder(out) as temporary:
        done = write_prepared_files(preparation, temporary, progress)
        if out.is_dir():
            out.rmdir()  # fails if something was put into it meanwhile
    return done


def write_prepared_files(preparation: Preparation, into: Path, progress: ProgressCallback | None = None) -> Preparation:
    """Write all changed files to ``into``, in the structure of the destination; the finished preparation.

    ``into`` must not contain files of these names. An image that turns out unusable is skipped and reported.
    """
    options, out = preparation.options, preparation.out

    def write_change(change: ImageChange) -> ImageChange:
        data = read_bytes(change.source)
        if hashlib.sha256(data).hexdigest() != change.content:
            raise UserError(f"{change.source} changed since it was read. Prepare it again.")
        contents = [
            (into / destination.relative_to(out), _content(change, source, destination, data, options))
            for source, destination in change.writes()
        ]
        try:
            for path, content in contents:
                _write(path, content)
        except UserError:
            for path, _ in contents:
                path.unlink(missing_ok=True)
            raise
        return change

    to_write = [change for change in preparation.changes if change.writes()]
    written, skipped = map_files(to_write, write_change, progress, "preparing images", lambda change: change.source)
    unchanged = [change for change in preparation.changes if not change.writes()]
    order = {change: index for index, change in enumerate(preparation.changes)}
    if to_write and not written:
        raise UserError.from_problems(["No image could be prepared.", *skipped])
    return replace(
        preparation,
        changes=tuple(sorted([*written, *unchanged], key=order.__getitem__)),
        skipped=(*preparation.skipped, *skipped),
    )


def require_space(preparation: Preparation) -> None:
    """UserError when the disk might not hold the result."""
    n_bytes = 0
    for change in preparation.changes:
        width, height = change.new_size
        estimate = width * height * (3 if change.transform.lossless else 1)
        n_bytes += estimate if change.transform.reencode else change.source.stat().st_size
    files.require_free_space(preparation.out, n_bytes, "Preparing the images")


def _content(change: ImageChange, source: Path, destination: Path, data: bytes, options: PrepareOptions) -> bytes:
    """The bytes of one file of a change; ``data``: the image's bytes."""
    if source == change.source:
        return transform_image(data, source, change.transform, options)
    if (source, destination) == change.mask:
        mask = read_bytes(source)
        return transform_mask(mask, source, change.size, change.transform) if change.transform.reencode else mask
    caption = read_caption_bytes(source)
    if caption is None:
        raise UserError(f"{source}: was deleted after it was read.")
    return caption


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        raise UserError(f"{path.name}: the disk does not allow this name ({error.strerror}). Rename it.") from error
