"""Concepts to a `Plan`, with all problems reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions.kohya_rules import prompts
from dreambooth.captions.prompts import FILEWORDS, build_prompt, is_complete_class_prompt
from dreambooth.dataset.class_images import assign_class_images, balanced
from dreambooth.dataset.image_warnings import image_issues
from dreambooth.dataset.plan import Example, Plan
from dreambooth.dataset.sources import Checks, SourceImage, find_sources, read_sources, require_some
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.images.bucket_rules import BucketRule
from dreambooth.images.buckets import Crop
from dreambooth.images.issues import FileIssue, UnusableFile, warning_lines
from dreambooth.text import count
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE, ProgressCallback

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings


def make_plan(
    concepts: Sequence[Concept],
    settings: Settings,
    progress: ProgressCallback | None = None,
    cache: Path | None = None,
    pixel_multiple: int = DEFAULT_PIXEL_MULTIPLE,
) -> Plan:
    """Read every image and caption of the concepts completely, and plan the run's data.

    An unusable image is left out, with an issue that names the cause. Class images (of class_data_dir, which may be
    empty) go to the nearest bucket of the concept's instance images and are enlarged if necessary; a bucket that is
    nearest to none gets all of them, cropped to it. Regularization images are trained among the others, in their own
    buckets.

    Raises one UserError with all problems: missing and empty folders, folders without usable images, conflicting
    bucket settings, class images without a prompt, no concepts. `progress` may raise Cancelled. `cache`: the file of
    the image metadata cache; unchanged images are not read again. `pixel_multiple`: of the sides of buckets.
    """
    checks = Checks()
    rule = checks.collect(lambda: BucketRule(settings, pixel_multiple))
    sources = find_sources(concepts, checks)
    read = read_sources(sources, concepts, checks, progress, cache)
    require_some(sources, [image.source for image in read], checks)
    checks.raise_problems()

    assert rule is not None  # or its problems were just raised
    fitted = [(image, _crop(image, rule, checks)) for image in read]
    fitted = [(image, crop) for image, crop in fitted if crop]
    require_some(sources, [image.source for image, _ in fitted], checks)
    checks.raise_problems()
    variations = [Variation.of(settings, concept) for concept in concepts]
    everything = [
        _example(image, concepts[image.source.concept], crop, settings, variations[image.source.concept])
        for image, crop in fitted
    ]
    class_images = [
        example for (image, _), example in zip(fitted, everything, strict=True) if image.source.is_class_image
    ]
    regular = [example for (image, _), example in zip(fitted, everything, strict=True) if image.source.is_regular]
    _require_class_prompts(class_images, checks)
    checks.raise_problems()
    examples = [example for example in everything if not example.is_class]
    regularization = _balanced(examples, regular, checks)
    issues = image_issues([image for image, _ in fitted], everything, concepts, settings.weighted_captions)
    issues = list(dict.fromkeys([*checks.issues, *issues]))  # concepts may share a folder
    checks.warnings += [*rule.warnings(), *warning_lines(issues)]
    return Plan(
        tuple(examples),
        assign_class_images(examples, class_images, checks.warnings.append),
        tuple(checks.warnings),
        variation=Variation.of(settings),
        own_variations=_own_variations(concepts, settings),
        regularization=regularization,
        limits=tuple(max(0, concept.max_steps) for concept in concepts),
        issues=_in_table_order(issues, everything),
    )


def _crop(source_image: SourceImage, rule: BucketRule, checks: Checks) -> Crop | None:
    """The crop of an image; None if it is left out."""
    try:
        return rule.crop(source_image.image.size, upscale=source_image.source.is_class_image)
    except UserError as error:
        checks.leave_out(UnusableFile(source_image.source.path, "too-small", str(error)))
        return None


def _example(
    source_image: SourceImage, concept: Concept, crop: Crop, settings: Settings, variation: Variation
) -> Example:
    source, image, caption = source_image.source, source_image.image, source_image.caption
    template = concept.class_prompt if source.is_class_image else concept.instance_prompt
    if source.is_class_image and is_complete_class_prompt(template, caption.text, concept.class_token):
        template = FILEWORDS
    text, variants = variation.settled(_texts(source_image, concept, template))
    return Example(
        path=source.path,
        caption=text,
        variants=variants,
        caption_source=caption.source,
        concept=source.concept,
        is_class=source.is_class,
        content=image.content,
        original_size=image.size,
        crop=crop,
        mask=source.mask,
        has_soft_mask=source.mask is not None and source.has_soft_mask,
        repeats=1 if source.is_class_image else concept.num_repeats,
    )


def _texts(source_image: SourceImage, concept: Concept, template: str) -> list[str]:
    """All prompts of an image, one of which is chosen for each sample."""
    tokens = concept.instance_token, concept.class_token
    texts = [source_image.caption.text, *source_image.caption.alternatives]
    if concept.reading_rule == "kohya" and not source_image.source.is_class_image:
        texts, template = prompts(template, source_image.caption.text, concept.caption_lines), FILEWORDS
        if not any(tokens):
            return texts
    return [build_prompt(template, text, *tokens, source_image.source.is_class) for text in texts]


def _require_class_prompts(examples: Sequence[Example], checks: Checks) -> None:
    for concept in sorted({e.concept for e in examples if e.is_class and not e.caption}):
        without_prompt = [e.path for e in examples if e.concept == concept and e.is_class and not e.caption]
        checks.problems.append(
            f"Concept {concept + 1}: {count(len(without_prompt), 'class image')} without a prompt (such as "
            f"{without_prompt[0]}). Enter class_prompt, for example: a photo of a dog, or class_token."
        )


def _own_variations(concepts: Sequence[Concept], settings: Settings) -> tuple[tuple[int, Variation], ...]:
    own = [(number, Variation.of(settings, concept)) for number, concept in enumerate(concepts)]
    return tuple((number, variation) for number, variation in own if variation != Variation.of(settings))


def _balanced(examples: Sequence[Example], regular: Sequence[Example], checks: Checks) -> tuple[Example, ...]:
    used = balanced(examples, regular)
    unused = {example.path for example in regular} - {example.path for example in used}
    checks.add(
        sorted(unused),
        "surplus",
        "is not used: there are more regularization images than samples of instance images.",
        left_out=True,
    )
    return used


def _in_table_order(issues: Sequence[FileIssue], examples: Sequence[Example]) -> tuple[FileIssue, ...]:
    """Issues of images in the order of the table, then those of other files."""
    places: dict[Path, int] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.path, place)
    return tuple(sorted(issues, key=lambda issue: places.get(issue.path, len(examples))))
