"""A plan as the table that people see: a row of plain values for each picture, and for each file that is none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreambooth.dataset.plan import Example, Plan
from dreambooth.dataset.variation import Variation
from dreambooth.images.buckets import Size
from dreambooth.images.issues import FileIssue

Row = dict[str, Any]
LEFT_OUT = "left out"  # the kind of a file that is no part of the run
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
        {**_row(plan, example), **partners.get((example.concept, example.bucket), nobody)} for example in plan.examples
    ]
    rows += [{**_row(plan, example), **nobody} for example in plan.all_examples()[len(plan.examples) :]]
    rows += [{**_row(plan, e), **nobody, "kind": "validation", "varies": []} for e in plan.validation]
    return [{**row, **_told(notes.get(row["path"], ()))} for row in rows]


def other_files(plan: Plan) -> list[Row]:
    """What was noted of files without a row of their own: those that are left out, and such as captions."""
    shown, notes = {str(example.path) for example in plan.everything()}, _by_path(plan.notes)
    out = {str(note.path) for note in plan.notes if note.left_out}
    return [
        {"path": path, "kind": LEFT_OUT if path in out else "other", **_told(told)}
        for path, told in notes.items()
        if path not in shown
    ]


def shown(plan: Plan) -> tuple[Example, ...]:
    """What an epoch shows ``repeats`` times: all but the class partners that go with it."""
    everything = plan.all_examples()
    return everything[: len(everything) - sum(map(len, plan.class_examples.values()))]


def bucket_counts(plan: Plan) -> list[Row]:
    """How full each bucket is, the fullest first. ``showings`` are those of an epoch, without class partners."""
    pictures: Counter[Size] = Counter(example.bucket for example in shown(plan))
    showings: Counter[Size] = Counter()
    classes: Counter[Size] = Counter()
    for example in shown(plan):
        showings[example.bucket] += example.repeats
    for (_, bucket), examples in plan.class_examples.items():
        classes[bucket] += len(examples)
    return [
        {"size": list(size), "pictures": n, "showings": showings[size], "class_pictures": classes[size]}
        for size, n in sorted(pictures.items(), key=lambda item: (-item[1], item[0]))
    ]


def _row(plan: Plan, example: Example) -> Row:
    crop = example.crop
    return {
        "path": str(example.path),
        "concept": example.concept + 1,
        "kind": "class" if example.is_class else "instance",
        "caption": example.caption,
        "captions": plan.captions_of(example),
        "caption_from": example.caption_source,
        "varies": _varies(plan.variation_of(example), example),
        "size": list(example.original_size),
        "bucket": list(example.bucket),
        "resized": [crop.resized_w, crop.resized_h],
        "crop": list(example.box),
        "enlarged": round(example.enlarged, 2),
        "kept": round(crop.kept_fraction, 3),
        "repeats": example.repeats,
    }


def _varies(variation: Variation, example: Example) -> list[str]:
    texts, said = list(example.variants) or [example.caption], []
    if len(texts) > 1:
        said.append(f"one of {len(texts)} captions each time")
    if any(map(variation.draws_parts, texts)):
        said.append("a part of each wildcard each time")
    kept, loose, _ = variation.parted(texts[0])
    if variation.shuffle_tags and len(loose) > 1:
        said.append(f"tags shuffled after {', '.join(kept)}" if kept else "tags shuffled")
    if variation.tag_dropout and loose:
        said.append(f"each of these tags left out in {variation.tag_dropout:.0%} of showings")
    if variation.caption_dropout:
        said.append(f"no caption in {variation.caption_dropout:.0%} of showings")
    if variation.hflip:
        said.append("mirrored in half of all showings")
    return said


def _partners(examples: Iterable[Example]) -> Row:
    names = [example.path.name for example in examples]
    return {"class_partners": len(names), "class_partner_names": names[:_NAMED]}


def _by_path(notes: Iterable[FileIssue]) -> Mapping[str, list[FileIssue]]:
    found = defaultdict(list)
    for note in notes:
        found[str(Path(note.path))].append(note)
    return found


def _told(notes: Iterable[FileIssue]) -> Row:
    told = list(notes)
    return {"warnings": [note.text for note in told], "warning_kinds": [note.kind for note in told]}
