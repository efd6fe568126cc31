"""A folder of pictures from first to last: what has no caption yet is shown to the model, batch by batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth import files
from dreambooth.captioning.base import Answer, Captioner, Counted
from dreambooth.captioning.caption_text import caption
from dreambooth.captions.reading import CaptionFiles, bytes_of, decode_text
from dreambooth.captions.writing import write_captions
from dreambooth.errors import UserError
from dreambooth.images.decoding import open_image
from dreambooth.images.file_reader import MAX_STALLED_IN_A_ROW, drive_lost, read_all
from dreambooth.images.issues import UnusableFile
from dreambooth.images.listing import find_images, masks_of
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.settings.tagging import LEAVE, TagOptions
from dreambooth.text import escape_unprintable
from dreambooth.types import ProgressCallback

WRITTEN_AT_ONCE = 1000  # captions: so many can be lost to a power cut, and are one step to take back


@dataclass(frozen=True)
class Wanted:
    """A picture that is to get a caption."""

    picture: Path
    target: Path  # its caption file
    existing: str  # what that holds, with its lines; "" without one


@dataclass(frozen=True)
class Captioned:
    """What the model said, and what is written for it."""

    wanted: Wanted
    answer: Answer
    caption: str


def wanted_in(folder: Path, options: TagOptions, counted: Counted) -> list[Wanted]:
    """The pictures that are to get a caption; what is left out is counted. UserError when the folder has none."""
    pictures = find_images(folder)
    if not pictures:
        raise UserError(f"{folder}: there is no picture in it.")
    masks = set(masks_of(pictures).values())
    targets: dict[Path, list[Path]] = {}  # each with the pictures that it is for
    ending = options.caption_extension
    kept = CaptionFiles((ending,))
    for picture in pictures:
        if picture not in masks:
            target = kept.file_of(picture) or picture.with_suffix(ending)
            targets.setdefault(target, []).append(picture)
    read = read_all(list(targets), lambda target, _: decode_text(bytes_of(target) or b"", target))
    wanted = []
    for (target, its), one in zip(targets.items(), read, strict=True):
        if isinstance(one, UserError):
            counted.notes.append(f"{one} The picture was left out.")
            continue
        existing, note = one
        if existing.strip() and options.existing == LEAVE:
            counted.left += len(its)
            continue
        counted.notes += [note] if note else []
        shares = f"has the caption file of {its[0].name}, which it shares. Rename one of them."
        counted.notes += [f"{picture}: {shares}" for picture in its[1:]]
        wanted.append(Wanted(its[0], target, existing))
    return wanted


def spread(wanted: Mapping[Path, list[Wanted]], limit: int | None) -> dict[Path, list[Wanted]]:
    """So many of them at most, taken from all over."""
    every = [(folder, one) for folder, its in wanted.items() for one in its]
    if limit is not None and limit < len(every):
        every = [every[number * len(every) // limit] for number in range(limit)]
    chosen: dict[Path, list[Wanted]] = {}
    for folder, one in every:
        chosen.setdefault(folder, []).append(one)
    return chosen


def captioned(
    captioner: Captioner, wanted: Sequence[Wanted], options: TagOptions, counted: Counted, progress: ProgressCallback
) -> Iterator[Captioned]:
    """What the model says of each. A picture that can't be read is noted; anything else ends the work.

    The next batch is decoded while the model is at work on this one.
    """
    done, size, silent = 0, options.batch_size, 0
    batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    with _decoders() as pool:
        ahead = _submitted(pool, captioner, batches[0] if batches else [])
        for number, batch in enumerate(batches):
            progress(done, len(wanted), "pictures")
            current = ahead
            ahead = _submitted(pool, captioner, batches[number + 1] if number + 1 < len(batches) else [])
            with _in_words(options.batch_size):
                results = current.result()
                readable, prepared = _usable(batch, results, counted)
                silent = _silent(batch, results, silent)
                answers = captioner.answer(prepared) if prepared else []
            for one, answer in zip(readable, answers, strict=True):
                yield Captioned(one, answer, caption(answer, one.existing, options))
            done += len(batch)
    progress(done, len(wanted), "pictures")


def write_all(folder: Path, found: Iterator[Captioned], counted: Counted, what: str) -> None:
    """Write what was found below this folder: also what was found before the work was broken off."""
    _require_writable(folder)
    changes: dict[Path, str] = {}
    try:
        for one in found:
            if not one.caption:
                counted.notes.append(f"{one.wanted.picture}: the model says nothing of it. Lower the threshold.")
            elif one.caption == one.wanted.existing:
                counted.unchanged += 1
            else:
                changes[one.wanted.target] = one.caption
            if len(changes) >= WRITTEN_AT_ONCE:
                counted.written += write_captions(folder, changes, what)
                changes = {}
    finally:
        if changes:
            counted.written += write_captions(folder, changes, what)


@contextlib.contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """A thread that has a batch read by others; what it did not begin with is left when the work ends."""
    pool = ThreadPoolExecutor(1, "dreambooth-pictures")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ThreadPoolExecutor, captioner: Captioner, batch: Sequence[Wanted]) -> Future[list[Any]]:
    """What the captioner takes of each, or the UserError why not; a drive that gives no answer is not waited for."""

    def prepared(path: Path, _: Any) -> Any:
        try:
            return captioner.prepare(open_image(path))
        except MemoryError as error:
            raise UnusableFile(
                path, "too-large", "there is not enough memory to look at it. Make it smaller."
            ) from error

    return pool.submit(read_all, [one.picture for one in batch], prepared)


def _usable(batch: Sequence[Wanted], results: Sequence[Any], counted: Counted) -> tuple[list[Wanted], list[Any]]:
    """The pictures that can be shown to the model, and what it takes of them; the others are noted."""
    counted.notes += [str(result) for result in results if isinstance(result, UserError)]
    usable = [pair for pair in zip(batch, results, strict=True) if not isinstance(pair[1], UserError)]
    return [one for one, _ in usable], [result for _, result in usable]


def _silent(batch: Sequence[Wanted], results: Sequence[Any], before: int) -> int:
    """How many pictures in a row the drive told nothing of, ``before`` them and now. UserError when it is gone."""
    for one, result in zip(batch, results, strict=True):
        before = before + 1 if isinstance(result, UnusableFile) and result.kind == "stalled" else 0
        if before > MAX_STALLED_IN_A_ROW:
            raise drive_lost(escape_unprintable(one.picture))
    return before


@contextlib.contextmanager
def _in_words(batch_size: int) -> Iterator[None]:
    """Memory that ran out, of a GPU or of the machine, said to people. Libraries have no common name for it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = f"set Batch size to 1 (it is {batch_size}), or " if batch_size > 1 else ""
        raise UserError(
            f"The memory was not enough: {smaller}choose the device cpu or a smaller model. "
            "Captions that were made before are kept."
        ) from error


def _require_writable(folder: Path) -> None:
    """Before the work rather than after it."""
    if not os.access(folder, os.W_OK):
        raise files.as_user_error(PermissionError(13, "permission denied"), folder)
