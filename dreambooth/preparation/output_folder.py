"""Writing prepared pictures into a folder of their own: all of it, or nothing."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

from dreambooth import files
from dreambooth.captions.reading import bytes_of
from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.parallel import map_files
from dreambooth.preparation.changes import Change, Preparation
from dreambooth.preparation.transform import prepared, prepared_mask
from dreambooth.settings.preparation import PrepareOptions
from dreambooth.types import ProgressCallback


def into_new_folder(preparation: Preparation, progress: ProgressCallback | None = None) -> Preparation:
    """Write the destination; what was done. It appears once all is in it; broken off, it does not appear."""
    out = preparation.out
    files.clear_leftovers(out.parent)
    require_space(preparation)
    with files.atomic_folder(out) as beside:
        done = write(preparation, beside, progress)
        if out.is_dir():
            out.rmdir()  # refused by the system where something has been put into it meanwhile
    return done


def write(preparation: Preparation, into: Path, progress: ProgressCallback | None = None) -> Preparation:
    """Write all that changes below ``into`` as it is to lie below the destination; what was done.

    Nothing there may bear the names yet. A picture that can't be prepared after all is skipped and named.
    """
    options, out = preparation.options, preparation.out

    def do(change: Change) -> Change:
        data = read_bytes(change.source)
        if hashlib.sha256(data).hexdigest() != change.content:
            raise UserError(f"{change.source}: changed since it was looked at. Prepare it again.")
        contents = [(into / to.relative_to(out), _content(change, source, to, data, options))
                    for source, to in change.writes()]  # fmt: skip
        try:
            for path, content in contents:
                _write(path, content)
        except UserError:
            for path, _ in contents:
                path.unlink(missing_ok=True)
            raise
        return change

    to_do = [change for change in preparation.changes if change.writes()]
    done, skipped = map_files(to_do, do, progress, "preparing pictures", lambda change: change.source)
    untouched = [change for change in preparation.changes if not change.writes()]
    order = {change: place for place, change in enumerate(preparation.changes)}
    if to_do and not done:
        raise UserError.from_problems(["None of the pictures could be prepared.", *skipped])
    return replace(
        preparation,
        changes=tuple(sorted([*done, *untouched], key=order.__getitem__)),
        skipped=(*preparation.skipped, *skipped),
    )


def require_space(preparation: Preparation) -> None:
    """Refuse when the disk might not hold the result."""
    needed = 0
    for change in preparation.changes:
        width, height = change.new_size
        anew = width * height * (3 if change.recipe.lossless else 1)
        needed += anew if change.recipe.anew else change.source.stat().st_size
    files.require_free_space(preparation.out, needed, "Preparing the pictures")


def _content(change: Change, source: Path, to: Path, data: bytes, options: PrepareOptions) -> bytes:
    """The bytes of one of the files that are written for a picture, which holds ``data``."""
    if source == change.source:
        return prepared(data, source, change.recipe, options)
    if (source, to) == change.mask:
        mask = read_bytes(source)
        return prepared_mask(mask, source, change.size, change.recipe) if change.recipe.anew else mask
    caption = bytes_of(source)
    if caption is None:
        raise UserError(f"{source}: is gone since it was looked at.")
    return caption


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        raise UserError(f"{path.name}: the disk takes no such name ({error.strerror}). Choose other names.") from error
