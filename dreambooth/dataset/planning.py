"""From the concepts that a person describes to a `Plan`, with everything that is wrong said at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.dataset.buckets import Size, bucket_sizes, fit, unenlarged, uneven
from dreambooth.dataset.captions import FILEWORDS, build_prompt, is_filled_in
from dreambooth.dataset.notes import Unusable, in_lines
from dreambooth.dataset.plan import Example, Note, Plan
from dreambooth.dataset.remarks import remarks
from dreambooth.dataset.sources import Checks, Read, find_sources, read_sources, require_some
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings

Progress = Callable[[int, int, str], None]

NO_SUCH_SHAPE = "no class picture has the shape"


def make_plan(
    concepts: Sequence[Concept], settings: Settings, progress: Progress | None = None, cache: Path | None = None
) -> Plan:
    """Read every picture and caption of the concepts completely, and lay out the run's data.

    A picture that can't be used is left out, with a note that names the cause. A concept's class_data_dir may be
    empty: then it has no class pictures. Class pictures go to the nearest bucket that the concept's instance pictures
    use, so that each of them can be a partner, if need be enlarged; a bucket that none is nearest to gets all of
    them, cropped to it.

    Raises one UserError with all problems: missing and empty folders, folders of which nothing can be used,
    bucket settings that don't go together, class pictures without words, no concept at all. `progress` may raise
    Cancelled. `cache` is a file that keeps what was read of pictures: those that have not changed since are not read
    again.
    """
    checks = Checks()
    bounds = settings.resolution, settings.bucket_step, settings.bucket_min_side, settings.bucket_max_side
    buckets = checks.collect(bucket_sizes, *bounds)
    sources = find_sources(concepts, checks)
    read = read_sources(sources, checks, progress, cache)
    require_some(sources, [one.source for one in read], checks)
    checks.raise_problems()

    fitted = [(one, _buckets_for(one, settings, buckets, bounds, checks)) for one in read]
    fitted = [(one, fitting) for one, fitting in fitted if fitting]
    require_some(sources, [one.source for one, _ in fitted], checks)
    checks.raise_problems()
    everything = [
        _example(one, concepts[one.source.concept], fitting, settings.dynamic_img_norm) for one, fitting in fitted
    ]
    _require_words_for_classes(everything, checks)
    checks.raise_problems()
    examples = [example for example in everything if not example.is_class]
    classes = [example for example in everything if example.is_class]
    said = remarks([one for one, _ in fitted], everything, concepts)
    notes = list(dict.fromkeys([*checks.notes, *said]))  # concepts may share a folder
    checks.warnings += [*filter(None, [uneven(settings.resolution, settings.bucket_step)]), *in_lines(notes)]
    return Plan(
        tuple(examples),
        _place_classes(examples, classes, checks),
        tuple(checks.warnings),
        variation=Variation.of(settings),
        limits=tuple(max(0, concept.max_steps) for concept in concepts),
        notes=_in_order(notes, everything),
    )


def _buckets_for(
    read: Read, settings: Settings, buckets: Sequence[Size], bounds: tuple[int, ...], checks: Checks
) -> Sequence[Size]:
    """The buckets that a picture may go to; none where it is left out."""
    if read.source.is_class or not settings.bucket_no_upscale:
        return buckets
    try:
        return _without_enlarging(read.picture.size, buckets, bounds)
    except UserError as error:
        checks.leave_out(Unusable(read.source.path, "too-small", str(error)))
        return ()


def _without_enlarging(size: Size, buckets: Sequence[Size], bounds: tuple[int, ...]) -> Sequence[Size]:
    """The buckets that a picture may go to: the usual ones, or one of its own where those would enlarge it."""
    usual = fit(size, buckets)
    if usual.resized_w <= size[0] and usual.resized_h <= size[1]:
        return buckets
    return [unenlarged(size, *bounds)]


def _example(read: Read, concept: Concept, buckets: Sequence[Size], dynamic: bool) -> Example:
    source, picture, caption = read.source, read.picture, read.caption
    template = concept.class_prompt if source.is_class else concept.instance_prompt
    if source.is_class and is_filled_in(template, caption.text, concept.class_token):
        template = FILEWORDS
    return Example(
        path=source.path,
        caption=build_prompt(template, caption.text, concept.instance_token, concept.class_token, source.is_class),
        caption_source=caption.source,
        concept=source.concept,
        is_class=source.is_class,
        content=picture.content,
        original_size=picture.size,
        crop=fit(picture.size, buckets),
        mask=source.mask,
        repeats=1 if source.is_class else concept.num_repeats,
        dynamic=dynamic,
    )


def _require_words_for_classes(examples: Sequence[Example], checks: Checks) -> None:
    for concept in sorted({e.concept for e in examples if e.is_class and not e.caption}):
        wordless = [e.path for e in examples if e.concept == concept and e.is_class and not e.caption]
        checks.problems.append(
            f"Concept {concept + 1}: {len(wordless)} class pictures have no words (such as {wordless[0]}). Give "
            "class_prompt, for instance a photo of a dog, or class_token."
        )


def _place_classes(
    examples: Sequence[Example], classes: Sequence[Example], checks: Checks
) -> dict[tuple[int, Size], tuple[Example, ...]]:
    placed: dict[tuple[int, Size], tuple[Example, ...]] = {}
    for concept in sorted({example.concept for example in classes}):
        own = [example for example in classes if example.concept == concept]
        buckets = sorted({example.bucket for example in examples if example.concept == concept})
        nearest = [_cropped(example, buckets) for example in own]
        for bucket in buckets:
            here = [example for example in nearest if example.bucket == bucket]
            if not here:
                width, height = bucket
                checks.warnings.append(
                    f"Concept {concept + 1}: {NO_SUCH_SHAPE} of its {width}x{height} "
                    "pictures; all of them are cropped to it."
                )
                here = [_cropped(example, [bucket]) for example in own]
            placed[concept, bucket] = tuple(here)
    return placed


def _cropped(example: Example, buckets: Sequence[Size]) -> Example:
    return replace(example, crop=fit(example.original_size, buckets))


def _in_order(notes: Sequence[Note], examples: Sequence[Example]) -> tuple[Note, ...]:
    """Those of pictures in the order of the table, then those of other files."""
    places: dict[Path, int] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.path, place)
    return tuple(sorted(notes, key=lambda note: places.get(note.path, len(examples))))
