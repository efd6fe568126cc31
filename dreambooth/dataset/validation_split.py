"""Validation images: from a folder of their own, or a fraction of the instance images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.dataset.class_images import balanced
from dreambooth.dataset.plan import Example, Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.images.issues import FileIssue, warning_lines
from dreambooth.text import count
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE, ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings

_FOLDER = "validation_data_dir"


def with_validation_split(
    plan: Plan,
    concepts: Sequence[Concept],
    settings: Settings,
    progress: ProgressCallback | None = None,
    cache: Path | None = None,
    pixel_multiple: int = DEFAULT_PIXEL_MULTIPLE,
) -> Plan:
    """``plan`` with validation images, which are not trained, if validation is enabled.

    A fraction is chosen by the images' content alone, so that runs can be compared. UserError with the problems of a
    validation folder.
    """
    if not settings.validation_every:
        return plan
    validation: list[Example] = []
    problems: list[str] = []
    warnings, issues = list(plan.warnings), list(plan.issues)
    trained = plan.examples
    for number, concept in enumerate(concepts):
        if getattr(concept, _FOLDER).strip():
            try:
                own, own_issues = _of_folder(number, concept, settings, progress, cache, pixel_multiple)
            except UserError as error:
                problems += error.problems
                continue
            both = {example.content for example in trained} & {example.content for example in own}
            if both:
                warnings.append(
                    f"Concept {number + 1}: {count(len(both), 'validation image')} also in the training data; their "
                    "loss does not "
                    "show overfitting. Remove them from one of the folders."
                )
            validation += own
            issues += own_issues
            warnings += [f"Concept {number + 1}, {_FOLDER}: {line}" for line in warning_lines(own_issues)]
        elif settings.validation_share:
            chosen = _fraction(trained, number, settings.validation_share)
            validation += [example for example in trained if example.concept == number and example.content in chosen]
            trained = tuple(e for e in trained if not (e.concept == number and e.content in chosen))
    if problems:
        raise UserError.from_problems(problems)
    requested = [dataclasses.replace(e, repeats=concepts[e.concept].num_repeats) for e in plan.regularization]
    return dataclasses.replace(
        plan,
        examples=trained,
        regularization=balanced(trained, requested),
        validation=tuple(validation),
        warnings=tuple(warnings),
        issues=tuple(issues),
    )


def _fraction(examples: Sequence[Example], concept: int, fraction: float) -> set[str]:
    """Contents of the concept's images that are held out: at least one, and never all."""
    contents = sorted({example.content for example in examples if example.concept == concept})
    return set(contents[: min(max(1, round(fraction * len(contents))), len(contents) - 1)])


def _of_folder(
    number: int,
    concept: Concept,
    settings: Settings,
    progress: ProgressCallback | None,
    cache: Path | None,
    pixel_multiple: int,
) -> tuple[list[Example], tuple[FileIssue, ...]]:
    """The validation images as examples, and the issues of their files."""
    alone = dataclasses.replace(
        concept, instance_data_dir=getattr(concept, _FOLDER), class_data_dir="", regularization=False
    )
    try:
        planned = make_plan([alone], settings, progress, cache, pixel_multiple)
    except UserError as error:
        named = [text.replace("instance_data_dir", _FOLDER) for text in error.problems]
        raise UserError.from_problems([text.replace("Concept 1", f"Concept {number + 1}") for text in named]) from error
    return [dataclasses.replace(example, concept=number) for example in planned.examples], planned.issues
