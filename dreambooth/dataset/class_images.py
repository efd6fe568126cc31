"""Class images for prior preservation, and regularization images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dreambooth.dataset.plan import Example
from dreambooth.images.buckets import Size, fit

NO_MATCHING_SHAPE = "no class image has the aspect ratio"


def balanced(examples: Sequence[Example], regularization: Sequence[Example]) -> tuple[Example, ...]:
    """As many samples of regularization images as of the examples, like sd-scripts.

    In the order of concepts and file names each is used ``repeats`` times, then all once more in turn until the
    numbers are equal; surplus images are left out.
    """
    missing = sum(example.repeats for example in examples)
    used: list[Example] = []
    for example in sorted(regularization, key=lambda example: (example.concept, str(example.path))):
        if missing > 0:
            used.append(example)
            missing -= example.repeats
    extra, remainder = divmod(max(0, missing), len(used)) if used else (0, 0)
    return tuple(
        replace(example, repeats=example.repeats + extra + (place < remainder)) for place, example in enumerate(used)
    )


def assign_class_images(
    examples: Sequence[Example], classes: Sequence[Example], warn: Callable[[str], None]
) -> dict[tuple[int, Size], tuple[Example, ...]]:
    """Class images by concept and bucket of its images: each in its nearest bucket, or all in a bucket without any."""
    placed: dict[tuple[int, Size], tuple[Example, ...]] = {}
    for concept in sorted({example.concept for example in classes}):
        own = [example for example in classes if example.concept == concept]
        buckets = sorted({example.bucket for example in examples if example.concept == concept})
        nearest = [_cropped(example, buckets) for example in own]
        for bucket in buckets:
            here = [example for example in nearest if example.bucket == bucket]
            if not here:
                width, height = bucket
                warn(
                    f"Concept {concept + 1}: {NO_MATCHING_SHAPE} of its {width}x{height} "
                    "images; all class images are cropped to it."
                )
                here = [_cropped(example, [bucket]) for example in own]
            placed[concept, bucket] = tuple(here)
    return placed


def _cropped(example: Example, buckets: Sequence[Size]) -> Example:
    return replace(example, crop=fit(example.original_size, buckets))
