"""A plan as the table that people see: one row of plain values for each picture, and what was left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreambooth.dataset.buckets import Size
from dreambooth.dataset.plan import Example, Note, Plan
from dreambooth.dataset.variation import Variation, tags_of

Row = dict[str, Any]
_NAMED = 3  # class pictures of a bucket


def table(plan: Plan) -> list[Row]:
    """One row for each picture and bucket: instances, class pictures, validation. Concepts count from 1.

    ``size``, ``bucket`` and ``resized`` are width and height in pixels, ``crop`` is the part that stays as
    :attr:`Example.box` has it, ``kept`` its share of the picture. ``captions`` are all that may be shown, ``caption``
    the first of them; ``varies`` says in words what else changes from one showing to the next.
    """
    notes = _by_path(plan.notes)
    partners = {key: _partners(examples) for key, examples in plan.class_examples.items()}
    nobody = _partners(())
    rows = [
        {**_row(example, plan.variation), **partners.get((example.concept, example.bucket), nobody)}
        for example in plan.examples
    ]
    rows += [{**_row(e, plan.variation), **nobody} for e in plan.all_examples()[len(plan.examples) :]]
    rows += [{**_row(e), **nobody, "kind": "validation"} for e in plan.validation]
    return [{**row, **_told(notes.get(row["path"], ()))} for row in rows]


def left_out(plan: Plan) -> list[Row]:
    """The files that are no part of the run, each with its reasons."""
    notes = _by_path(plan.notes)
    paths = dict.fromkeys(str(note.path) for note in plan.notes if note.left_out)
    return [{"path": path, "kind": "left out", **_told(notes[path])} for path in paths]


def elsewhere(plan: Plan) -> list[str]:
    """What was noted of files that have no row of their own, such as caption files."""
    shown = {str(e.path) for e in plan.everything()} | {str(note.path) for note in plan.notes if note.left_out}
    return [f"{note.path}: {note.text}" for note in plan.notes if str(note.path) not in shown]


def bucket_counts(plan: Plan) -> list[Row]:
    """How full each bucket is, the fullest first. ``showings``: of instance pictures in an epoch."""
    pictures: Counter[Size] = Counter(example.bucket for example in plan.examples)
    showings: Counter[Size] = Counter()
    classes: Counter[Size] = Counter()
    for example in plan.examples:
        showings[example.bucket] += example.repeats
    for (_, bucket), examples in plan.class_examples.items():
        classes[bucket] += len(examples)
    return [
        {"size": list(size), "pictures": n, "showings": showings[size], "class_pictures": classes[size]}
        for size, n in sorted(pictures.items(), key=lambda item: (-item[1], item[0]))
    ]


def captions_of(example: Example) -> tuple[str, ...]:
    """All captions that a picture may be shown with, before its tags are shuffled or left out."""
    return (example.caption,)


def _row(example: Example, variation: Variation | None = None) -> Row:
    crop = example.crop
    return {
        "path": str(example.path),
        "concept": example.concept + 1,
        "kind": "class" if example.is_class else "instance",
        "caption": example.caption,
        "captions": list(captions_of(example)),
        "caption_from": example.caption_source,
        "varies": _varies(example, variation) if variation else [],
        "size": list(example.original_size),
        "bucket": list(example.bucket),
        "resized": [crop.resized_w, crop.resized_h],
        "crop": list(example.box),
        "enlarged": round(example.enlarged, 2),
        "kept": round(crop.kept, 3),
        "repeats": example.repeats,
    }


def _varies(example: Example, variation: Variation) -> list[str]:
    said = []
    words_vary = any(variation.changes_words(caption) for caption in captions_of(example))
    if words_vary and variation.shuffle_tags:
        kept = tags_of(example.caption)[: variation.keep_tokens]
        said.append(f"tags shuffled after {', '.join(kept)}" if kept else "tags shuffled")
    if words_vary and variation.tag_dropout:
        said.append(f"each of these tags left out in {variation.tag_dropout:.0%} of showings")
    if variation.caption_dropout:
        said.append(f"no caption in {variation.caption_dropout:.0%} of showings")
    if variation.hflip:
        said.append("mirrored in half of all showings")
    return said


def _partners(examples: Iterable[Example]) -> Row:
    names = [example.path.name for example in examples]
    return {"class_partners": len(names), "class_partner_names": names[:_NAMED]}


def _by_path(notes: Iterable[Note]) -> Mapping[str, list[Note]]:
    found = defaultdict(list)
    for note in notes:
        found[str(Path(note.path))].append(note)
    return found


def _told(notes: Iterable[Note]) -> Row:
    told = list(notes)
    return {"warnings": [note.text for note in told], "warning_kinds": [note.kind for note in told]}
