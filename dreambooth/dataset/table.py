"""A plan as a table: a row of plain values for each image, and for each other file with an issue."""

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
LEFT_OUT = "left out"  # the kind of a file that is not trained
_NAMED = 3  # class images of a bucket


def table(plan: Plan) -> list[Row]:
    """One row for each image and bucket: instance, class, validation images. Concepts count from 1.

    ``size``, ``bucket`` and ``resized`` are width and height in pixels, ``crop`` is :attr:`Example.box`, ``kept`` the
    fraction of the image inside it. ``captions`` are all captions that may be used, ``caption`` the first of them;
    ``varies`` describes the augmentations in words.
    """
    issues = _by_path(plan.issues)
    class_images = {key: _class_images(examples) for key, examples in plan.class_examples.items()}
    none = _class_images(())
    rows = [
        {**_row(plan, example), **class_images.get((example.concept, example.bucket), none)}
        for example in plan.examples
    ]
    rows += [{**_row(plan, example), **none} for example in plan.all_examples()[len(plan.examples) :]]
    rows += [{**_row(plan, e), **none, "kind": "validation", "varies": []} for e in plan.validation]
    return [{**row, **_warnings(issues.get(row["path"], ()))} for row in rows]


def other_files(plan: Plan) -> list[Row]:
    """Files with issues but without a row of their own: those left out, captions and others."""
    listed, issues = {str(example.path) for example in plan.with_validation()}, _by_path(plan.issues)
    left_out = {str(issue.path) for issue in plan.issues if issue.left_out}
    return [
        {"path": path, "kind": LEFT_OUT if path in left_out else "other", **_warnings(own)}
        for path, own in issues.items()
        if path not in listed
    ]


def trained(plan: Plan) -> tuple[Example, ...]:
    """The examples that an epoch samples ``repeats`` times: all but the class images."""
    examples = plan.all_examples()
    return examples[: len(examples) - sum(map(len, plan.class_examples.values()))]


def bucket_counts(plan: Plan) -> list[Row]:
    """Images by bucket, the fullest first. ``showings``: samples per epoch, without class images."""
    images: Counter[Size] = Counter(example.bucket for example in trained(plan))
    samples: Counter[Size] = Counter()
    classes: Counter[Size] = Counter()
    for example in trained(plan):
        samples[example.bucket] += example.repeats
    for (_, bucket), examples in plan.class_examples.items():
        classes[bucket] += len(examples)
    return [
        {"size": list(size), "pictures": n, "showings": samples[size], "class_pictures": classes[size]}
        for size, n in sorted(images.items(), key=lambda item: (-item[1], item[0]))
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
    texts = list(example.variants) or [example.caption]
    varies: list[str] = []
    if len(texts) > 1:
        varies.append(f"one of {len(texts)} captions each time")
    if any(map(variation.has_choices, texts)):
        varies.append("one option of each wildcard each time")
    fixed, loose, _ = variation.split_tags(texts[0])
    if variation.shuffle_tags and len(loose) > 1:
        varies.append(f"tags shuffled after {', '.join(fixed)}" if fixed else "tags shuffled")
    if variation.tag_dropout and loose:
        varies.append(f"each other tag dropped with a probability of {variation.tag_dropout:.0%}")
    if variation.caption_dropout:
        varies.append(f"no caption with a probability of {variation.caption_dropout:.0%}")
    if variation.hflip:
        varies.append("flipped with a probability of 50%")
    return varies


def _class_images(examples: Iterable[Example]) -> Row:
    names = [example.path.name for example in examples]
    return {"class_partners": len(names), "class_partner_names": names[:_NAMED]}


def _by_path(issues: Iterable[FileIssue]) -> Mapping[str, list[FileIssue]]:
    found = defaultdict(list)
    for issue in issues:
        found[str(Path(issue.path))].append(issue)
    return found


def _warnings(issues: Iterable[FileIssue]) -> Row:
    issues = list(issues)
    return {"warnings": [issue.text for issue in issues], "warning_kinds": [issue.kind for issue in issues]}
