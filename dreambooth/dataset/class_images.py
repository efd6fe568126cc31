"""Pictures of the class: as partners in the batches of a concept's pictures, or among them as regularization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dreambooth.dataset.plan import Example
from dreambooth.images.buckets import Size, fit

NO_SUCH_SHAPE = "no class picture has the shape"


def balanced(examples: Sequence[Example], regularization: Sequence[Example]) -> tuple[Example, ...]:
    """Regularization pictures so often as the examples together: each as often as it asks for, then in turn once more.

    Those that are not needed stay out. As in kohya's sd-scripts, in the order of concepts and file names.
    """
    missing = sum(example.repeats for example in examples)
    shown: list[Example] = []
    for example in sorted(regularization, key=lambda example: (example.concept, str(example.path))):
        if missing > 0:
            shown.append(example)
            missing -= example.repeats
    more, rest = divmod(max(0, missing), len(shown)) if shown else (0, 0)
    return tuple(
        replace(example, repeats=example.repeats + more + (place < rest)) for place, example in enumerate(shown)
    )


def assign_class_images(
    examples: Sequence[Example], classes: Sequence[Example], warn: Callable[[str], None]
) -> dict[tuple[int, Size], tuple[Example, ...]]:
    """Partners by concept and bucket of its pictures: the nearest bucket's; one that is nearest to none has all."""
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
                    f"Concept {concept + 1}: {NO_SUCH_SHAPE} of its {width}x{height} "
                    "pictures; all of them are cropped to it."
                )
                here = [_cropped(example, [bucket]) for example in own]
            placed[concept, bucket] = tuple(here)
    return placed


def _cropped(example: Example, buckets: Sequence[Size]) -> Example:
    return replace(example, crop=fit(example.original_size, buckets))
