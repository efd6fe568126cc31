"""From the concepts that a person describes to a `Plan`, with everything that is wrong said at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions.kohya_rules import prompts
from dreambooth.captions.reading import FILEWORDS, build_prompt, is_filled_in
from dreambooth.dataset.class_images import assign_class_images, balanced
from dreambooth.dataset.image_warnings import remarks
from dreambooth.dataset.plan import Example, Plan
from dreambooth.dataset.sources import Checks, Read, find_sources, read_sources, require_some
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.images.bucket_rules import BucketRule
from dreambooth.images.buckets import Crop
from dreambooth.images.issues import FileIssue, UnusableFile, warning_lines
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings


def make_plan(
    concepts: Sequence[Concept], settings: Settings, progress: ProgressCallback | None = None, cache: Path | None = None
) -> Plan:
    """Read every picture and caption of the concepts completely, and lay out the run's data.

    A picture that can't be used is left out, with a note that names the cause. A concept's class_data_dir may be
    empty: then it has no class pictures. Class pictures go to the nearest bucket that the concept's instance pictures
    use, so that each of them can be a partner, if need be enlarged; a bucket that none is nearest to gets all of
    them, cropped to it. A concept of regularization pictures is shown among the others, in buckets as theirs.

    Raises one UserError with all problems: missing and empty folders, folders of which nothing can be used,
    bucket settings that don't go together, class pictures without words, no concept at all. `progress` may raise
    Cancelled. `cache` is a file that keeps what was read of pictures: those that have not changed since are not read
    again.
    """
    checks = Checks()
    rule = checks.collect(BucketRule, settings)
    sources = find_sources(concepts, checks)
    read = read_sources(sources, concepts, checks, progress, cache)
    require_some(sources, [one.source for one in read], checks)
    checks.raise_problems()

    assert rule is not None  # or its problems were just raised
    fitted = [(one, _crop(one, rule, checks)) for one in read]
    fitted = [(one, crop) for one, crop in fitted if crop]
    require_some(sources, [one.source for one, _ in fitted], checks)
    checks.raise_problems()
    variations = [Variation.of(settings, concept) for concept in concepts]
    everything = [
        _example(one, concepts[one.source.concept], crop, settings, variations[one.source.concept])
        for one, crop in fitted
    ]
    partners = [example for (one, _), example in zip(fitted, everything, strict=True) if one.source.is_class_image]
    regular = [example for (one, _), example in zip(fitted, everything, strict=True) if one.source.is_regular]
    _require_words_for_classes(partners, checks)
    checks.raise_problems()
    examples = [example for example in everything if not example.is_class]
    shown = _balanced(examples, regular, checks)
    said = remarks([one for one, _ in fitted], everything, concepts)
    notes = list(dict.fromkeys([*checks.notes, *said]))  # concepts may share a folder
    checks.warnings += [*rule.warnings(), *warning_lines(notes)]
    return Plan(
        tuple(examples),
        assign_class_images(examples, partners, checks.warnings.append),
        tuple(checks.warnings),
        variation=Variation.of(settings),
        own_variations=_own_variations(concepts, settings),
        regularization=shown,
        limits=tuple(max(0, concept.max_steps) for concept in concepts),
        notes=_in_order(notes, everything),
    )


def _crop(read: Read, rule: BucketRule, checks: Checks) -> Crop | None:
    """How a picture is shown; None where it is left out."""
    try:
        return rule.crop(read.picture.size, upscale=read.source.is_class_image)
    except UserError as error:
        checks.leave_out(UnusableFile(read.source.path, "too-small", str(error)))
        return None


def _example(read: Read, concept: Concept, crop: Crop, settings: Settings, variation: Variation) -> Example:
    source, picture, caption = read.source, read.picture, read.caption
    template = concept.class_prompt if source.is_class_image else concept.instance_prompt
    if source.is_class_image and is_filled_in(template, caption.text, concept.class_token):
        template = FILEWORDS
    text, variants = variation.settled(_texts(read, concept, template))
    return Example(
        path=source.path,
        caption=text,
        variants=variants,
        caption_source=caption.source,
        concept=source.concept,
        is_class=source.is_class,
        content=picture.content,
        original_size=picture.size,
        crop=crop,
        mask=source.mask,
        repeats=1 if source.is_class_image else concept.num_repeats,
    )


def _texts(read: Read, concept: Concept, template: str) -> list[str]:
    """The prompts that showings of a picture draw from."""
    tokens = concept.instance_token, concept.class_token
    texts = [read.caption.text, *read.caption.more]
    if concept.reading_rule == "kohya" and not read.source.is_class_image:
        texts, template = prompts(template, read.caption.text, concept.caption_lines), FILEWORDS
        if not any(tokens):
            return texts
    return [build_prompt(template, text, *tokens, read.source.is_class) for text in texts]


def _require_words_for_classes(examples: Sequence[Example], checks: Checks) -> None:
    for concept in sorted({e.concept for e in examples if e.is_class and not e.caption}):
        wordless = [e.path for e in examples if e.concept == concept and e.is_class and not e.caption]
        checks.problems.append(
            f"Concept {concept + 1}: {len(wordless)} class pictures have no words (such as {wordless[0]}). Give "
            "class_prompt, for instance a photo of a dog, or class_token."
        )


def _own_variations(concepts: Sequence[Concept], settings: Settings) -> tuple[tuple[int, Variation], ...]:
    own = [(number, Variation.of(settings, concept)) for number, concept in enumerate(concepts)]
    return tuple((number, variation) for number, variation in own if variation != Variation.of(settings))


def _balanced(examples: Sequence[Example], regular: Sequence[Example], checks: Checks) -> tuple[Example, ...]:
    shown = balanced(examples, regular)
    unused = {example.path for example in regular} - {example.path for example in shown}
    checks.note(sorted(unused), "surplus", "is one more than the pictures to learn from are shown.", left_out=True)
    return shown


def _in_order(notes: Sequence[FileIssue], examples: Sequence[Example]) -> tuple[FileIssue, ...]:
    """Those of pictures in the order of the table, then those of other files."""
    places: dict[Path, int] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.path, place)
    return tuple(sorted(notes, key=lambda note: places.get(note.path, len(examples))))
