"""Captioning a folder: images without a caption are passed to the model, batch by batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth import files
from dreambooth.captioning.base import Captioner, CaptioningSummary, Prediction
from dreambooth.captioning.caption_text import caption
from dreambooth.captions.reading import CaptionSource, decode_caption, encoding_note, read_caption_bytes
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

WRITE_BATCH = 1000  # captions written at once: the most that a power cut can lose, and one step to undo


@dataclass(frozen=True)
class CaptionTask:
    """An image to caption."""

    image: Path
    target: Path  # its caption file
    existing: str  # its current text; "" if there is none


@dataclass(frozen=True)
class CaptionedImage:
    """What the model predicted, and the caption to write."""

    task: CaptionTask
    prediction: Prediction
    caption: str


def tasks_in(folder: Path, options: TagOptions, summary: CaptioningSummary) -> list[CaptionTask]:
    """The images to caption; skipped ones are counted in ``summary``. UserError if the folder has no images."""
    images = find_images(folder)
    if not images:
        raise UserError(f"{folder} contains no images.")
    masks = set(masks_of(images).values())
    targets: dict[Path, list[Path]] = {}  # caption file: its images
    extension = options.caption_extension
    source = CaptionSource((extension,))
    for image in images:
        if image not in masks:
            target = source.find(image) or image.with_suffix(extension)
            targets.setdefault(target, []).append(image)
    read = read_all(list(targets), lambda target, _: decode_caption(read_caption_bytes(target) or b"", target))
    tasks = []
    for (target, sharing), result in zip(targets.items(), read, strict=True):
        if isinstance(result, UserError):
            summary.notes.append(f"{result} The image was skipped.")
            continue
        existing, encoding = result
        if existing.strip() and options.existing == LEAVE:
            summary.left += len(sharing)
            continue
        summary.notes += [encoding_note(target, encoding)] if encoding else []
        shares = f"shares the caption file of {sharing[0].name}. Rename one of them."
        summary.notes += [f"{image}: {shares}" for image in sharing[1:]]
        tasks.append(CaptionTask(sharing[0], target, existing))
    return tasks


def sample_evenly(tasks: Mapping[Path, list[CaptionTask]], limit: int | None) -> dict[Path, list[CaptionTask]]:
    """At most ``limit`` tasks, spread evenly over all folders."""
    every = [(folder, task) for folder, own in tasks.items() for task in own]
    if limit is not None and limit < len(every):
        every = [every[number * len(every) // limit] for number in range(limit)]
    chosen: dict[Path, list[CaptionTask]] = {}
    for folder, task in every:
        chosen.setdefault(folder, []).append(task)
    return chosen


def caption_images(
    captioner: Captioner,
    tasks: Sequence[CaptionTask],
    options: TagOptions,
    summary: CaptioningSummary,
    progress: ProgressCallback,
) -> Iterator[CaptionedImage]:
    """Caption the images. Unreadable ones are noted in ``summary``; any other error is raised.

    The next batch is decoded while the model runs on the current one.
    """
    done, size, stalled = 0, options.batch_size, 0
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    with _decoders() as pool:
        ahead = _prepare_ahead(pool, captioner, batches[0] if batches else [])
        for number, batch in enumerate(batches):
            progress(done, len(tasks), "images")
            current = ahead
            ahead = _prepare_ahead(pool, captioner, batches[number + 1] if number + 1 < len(batches) else [])
            with _memory_errors_explained(options.batch_size):
                results = current.result()
                readable, prepared = _split_usable(batch, results, summary)
                stalled = _count_stalled(batch, results, stalled)
                predictions = captioner.predict(prepared) if prepared else []
            for task, prediction in zip(readable, predictions, strict=True):
                yield CaptionedImage(task, prediction, caption(prediction, task.existing, options))
            done += len(batch)
    progress(done, len(tasks), "images")


def write_captioned(folder: Path, found: Iterator[CaptionedImage], summary: CaptioningSummary, what: str) -> None:
    """Write the captions to this folder, also those made before an error or Cancel."""
    _require_writable(folder)
    changes: dict[Path, str] = {}
    try:
        for image in found:
            if not image.caption:
                summary.notes.append(f"{image.task.image}: the model predicts no tags. Lower the threshold.")
            elif image.caption == image.task.existing:
                summary.unchanged += 1
            else:
                changes[image.task.target] = image.caption
            if len(changes) >= WRITE_BATCH:
                summary.written += write_captions(folder, changes, what)
                changes = {}
    finally:
        if changes:
            summary.written += write_captions(folder, changes, what)


@contextlib.contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """A thread that prepares the next batch; batches that have not started are dropped at the end."""
    pool = ThreadPoolExecutor(1, "dreambooth-images")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_ahead(pool: ThreadPoolExecutor, captioner: Captioner, batch: Sequence[CaptionTask]) -> Future[list[Any]]:
    """The model's input of each image, or the UserError of reading it. A stalled drive does not block."""

    def prepared(path: Path, _: Any) -> Any:
        try:
            return captioner.prepare(open_image(path))
        except MemoryError as error:
            raise UnusableFile(path, "too-large", "is too large for the available memory. Resize it.") from error

    return pool.submit(read_all, [task.image for task in batch], prepared)


def _split_usable(
    batch: Sequence[CaptionTask], results: Sequence[Any], summary: CaptioningSummary
) -> tuple[list[CaptionTask], list[Any]]:
    """The readable images and their inputs; the others are noted in ``summary``."""
    summary.notes += [str(result) for result in results if isinstance(result, UserError)]
    readable = [pair for pair in zip(batch, results, strict=True) if not isinstance(pair[1], UserError)]
    return [task for task, _ in readable], [result for _, result in readable]


def _count_stalled(batch: Sequence[CaptionTask], results: Sequence[Any], before: int) -> int:
    """The number of consecutive images that the drive did not deliver. UserError if the drive seems to be gone."""
    for task, result in zip(batch, results, strict=True):
        before = before + 1 if isinstance(result, UnusableFile) and result.kind == "stalled" else 0
        if before > MAX_STALLED_IN_A_ROW:
            raise drive_lost(escape_unprintable(task.image))
    return before


@contextlib.contextmanager
def _memory_errors_explained(batch_size: int) -> Iterator[None]:
    """Turn out-of-memory errors of a GPU or the machine into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = f"lower Batch size (now {batch_size}), or " if batch_size > 1 else ""
        raise UserError(
            f"Out of memory: {smaller}choose the device cpu or a smaller model. Captions written so far are kept."
        ) from error


def _require_writable(folder: Path) -> None:
    """Checked before the model runs, not after."""
    if not os.access(folder, os.W_OK):
        raise files.as_user_error(PermissionError(13, "permission denied"), folder)
