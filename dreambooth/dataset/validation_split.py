"""Pictures that are not trained, only measured on: from a folder of their own, or a share of the instance pictures."""

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
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings

_FOLDER = "validation_data_dir"


def hold_out(
    plan: Plan,
    concepts: Sequence[Concept],
    settings: Settings,
    progress: ProgressCallback | None = None,
    cache: Path | None = None,
) -> Plan:
    """``plan`` with its validation pictures, when validation is asked for; those are not among the trained ones.

    Which pictures a share takes depends on their content alone, so that runs can be compared. UserError names what
    is wrong with a validation folder.
    """
    if not settings.validation_every:
        return plan
    held: list[Example] = []
    problems: list[str] = []
    warnings, notes = list(plan.warnings), list(plan.notes)
    trained = plan.examples
    for number, concept in enumerate(concepts):
        if getattr(concept, _FOLDER).strip():
            try:
                own, said = _of_folder(number, concept, settings, progress, cache)
            except UserError as error:
                problems += error.problems
                continue
            both = {example.content for example in trained} & {example.content for example in own}
            if both:
                warnings.append(
                    f"Concept {number + 1}: {len(both)} of its validation pictures are trained too, so they say "
                    "nothing about new ones."
                )
            held += own
            notes += said
            warnings += [f"Concept {number + 1}, {_FOLDER}: {line}" for line in warning_lines(said)]
        elif settings.validation_share:
            taken = _share(trained, number, settings.validation_share)
            held += [example for example in trained if example.concept == number and example.content in taken]
            trained = tuple(e for e in trained if not (e.concept == number and e.content in taken))
    if problems:
        raise UserError.from_problems(problems)
    asked = [dataclasses.replace(e, repeats=concepts[e.concept].num_repeats) for e in plan.regularization]
    return dataclasses.replace(
        plan,
        examples=trained,
        regularization=balanced(trained, asked),
        validation=tuple(held),
        warnings=tuple(warnings),
        notes=tuple(notes),
    )


def _share(examples: Sequence[Example], concept: int, share: float) -> set[str]:
    """Contents of a concept's pictures that are held out: at least one, and never all."""
    contents = sorted({example.content for example in examples if example.concept == concept})
    return set(contents[: min(max(1, round(share * len(contents))), len(contents) - 1)])


def _of_folder(
    number: int, concept: Concept, settings: Settings, progress: ProgressCallback | None, cache: Path | None
) -> tuple[list[Example], tuple[FileIssue, ...]]:
    """Planned as if they were to be trained, and what is to be said of the files."""
    alone = dataclasses.replace(
        concept, instance_data_dir=getattr(concept, _FOLDER), class_data_dir="", regularization=False
    )
    try:
        planned = make_plan([alone], settings, progress, cache)
    except UserError as error:
        named = [text.replace("instance_data_dir", _FOLDER) for text in error.problems]
        raise UserError.from_problems([text.replace("Concept 1", f"Concept {number + 1}") for text in named]) from error
    return [dataclasses.replace(example, concept=number) for example in planned.examples], planned.notes
