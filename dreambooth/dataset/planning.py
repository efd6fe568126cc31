"""From the concepts that a person describes to a `Plan`, with everything that is wrong said at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dreambooth.dataset.bucket_rules import BucketRule
from dreambooth.dataset.buckets import Crop, Size, fit
from dreambooth.dataset.captions import (
    DEFAULT,
    FILE_NAME,
    FILEWORDS,
    Caption,
    CaptionFiles,
    build_prompt,
    is_filled_in,
    read_caption,
)
from dreambooth.dataset.metadata_file import MetadataFile
from dreambooth.dataset.pictures import OTHER_SUFFIXES, Examined, examine, find_pictures, masks_of
from dreambooth.dataset.plan import Example, Plan, balanced
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError

if TYPE_CHECKING:
    from dreambooth.settings import Concept, Settings

T = TypeVar("T")
Progress = Callable[[int, int, str], None]

# Decoding leaves Python's lock, so threads help; each holds one decoded picture, so few do.
_READERS = min(4, os.cpu_count() or 1)

# From here on an enlarged picture teaches the model blur.
_ENLARGED_TOO_MUCH = 2.0

NO_SUCH_SHAPE = "no class picture has the shape"


def make_plan(concepts: Sequence[Concept], settings: Settings, progress: Progress | None = None) -> Plan:
    """Read every picture and caption of the concepts completely, and lay out the run's data.

    A concept's class_data_dir may be empty: then it has no class pictures. Class pictures go to the
    nearest bucket that the concept's instance pictures use, so that each of them can be a partner, if need be
    enlarged; a bucket that none is nearest to gets all of them, cropped to it.

    Raises one UserError with all problems: missing and empty folders, unreadable pictures and captions,
    bucket settings that don't go together, class pictures without words, no concept at all. `progress` may raise
    Cancelled.
    """
    checks = _Checks()
    rule = checks.collect(BucketRule, settings)
    sources = _find_sources(concepts, checks)
    examined = _examine_all([source.path for source in sources], checks, progress)
    captions = [checks.collect(_caption_of, source, concepts[source.concept]) for source in sources]
    checks.raise_problems()

    crops = [checks.collect(_crop, source, picture, rule) for source, picture in zip(sources, examined, strict=True)]
    checks.raise_problems()
    everything = [
        _example(source, concepts[source.concept], picture, caption, crop, settings)
        for source, picture, caption, crop in zip(sources, examined, captions, crops, strict=True)
    ]
    partners = [example for source, example in zip(sources, everything, strict=True) if source.is_partner]
    regular = [example for source, example in zip(sources, everything, strict=True) if source.is_regular]
    _require_words_for_classes(partners, checks)
    checks.raise_problems()
    examples = [example for example in everything if not example.is_class]
    checks.warnings += [caption.note for caption in captions if caption.note]
    checks.warnings += rule.doubts()
    _warn_of_pictures(everything, checks)
    _warn_of_shared_captions(sources, captions, checks)
    return Plan(
        tuple(examples),
        _place_classes(examples, partners, checks),
        tuple(checks.warnings),
        variation=Variation.of(settings),
        own_variations=_own_variations(concepts, settings),
        regularization=_balanced(examples, regular, checks),
        limits=tuple(max(0, concept.max_steps) for concept in concepts),
    )


@dataclass(frozen=True)
class _Source:
    path: Path
    concept: int
    is_partner: bool  # from class_data_dir
    is_regular: bool = False
    mask: Path | None = None

    @property
    def is_class(self) -> bool:
        return self.is_partner or self.is_regular


@dataclass
class _Checks:
    """Problems and warnings as they are found."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def collect(self, action: Callable[..., T], *args: object) -> T | None:
        """The action's result, or None and its complaints among the problems."""
        try:
            return action(*args)
        except UserError as error:
            self.problems += error.problems
            return None

    def warn_of(self, paths: Sequence[Path], what: str) -> None:
        """One warning for many files, naming the first."""
        if paths:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            self.warnings.append(f"{what}: {', '.join(map(str, paths[:3]))}{more}")

    def raise_problems(self) -> None:
        if self.problems:
            raise UserError.several(self.problems)


def _find_sources(concepts: Sequence[Concept], checks: _Checks) -> list[_Source]:
    if not concepts:
        checks.problems.append("There is no concept: add one, with a folder of pictures (instance_data_dir).")
    elif all(concept.regularization for concept in concepts):
        checks.problems.append("There are only regularization pictures: add a concept with pictures to learn from.")
    sources: list[_Source] = []
    for index, concept in enumerate(concepts):
        for key, is_partner in (("instance_data_dir", False), ("class_data_dir", True)):
            if is_partner and (concept.regularization or not concept.class_data_dir.strip()):
                continue
            is_regular = concept.regularization
            paths = checks.collect(_pictures_of, concept, key, f"Concept {index + 1}", checks) or []
            masks = masks_of(paths)
            checks.warn_of(list(masks.values()), "Taken as masks of the pictures beside them, not trained as pictures")
            pictures = [path for path in paths if path not in set(masks.values())]
            sources += [_Source(path, index, is_partner, is_regular, masks.get(path)) for path in pictures]
    return sources


def _pictures_of(concept: Concept, key: str, name: str, checks: _Checks) -> list[Path]:
    text = getattr(concept, key).strip()
    if not text:
        raise UserError(f"{name}: {key} is empty. Give the folder with the pictures to learn from.")
    folder = Path(os.path.expanduser(text))  # unlike Path's, it leaves a user that isn't there
    try:
        paths, left_out = find_pictures(folder), find_pictures(folder, OTHER_SUFFIXES)
        if key == "instance_data_dir":
            paths, left_out = _wanted(concept, folder, paths, checks), _wanted(concept, folder, left_out, checks)
        if key == "class_data_dir":
            require_apart(folder, os.path.expanduser(concept.instance_data_dir.strip()))
    except UserError as error:
        raise UserError.several([f"{name}, {key}: {problem}" for problem in error.problems]) from error
    checks.warn_of(left_out, f"{name}, {key}: left out, convert to PNG or JPEG to use them")
    if not paths:
        also = f", only of kinds that can't be used, such as {left_out[0].name}" if left_out else ""
        raise UserError(f"{name}, {key}: {folder} holds no picture (png, jpg, webp, bmp, avif){also}.")
    return paths


def require_apart(classes: Path, instance_dir: str) -> None:
    """UserError when one folder lies inside the other. A missing one is complained of elsewhere."""
    if not os.path.isdir(instance_dir):
        return
    own, instances = classes.resolve(), Path(instance_dir).resolve()
    if own.is_relative_to(instances):
        raise UserError(
            f"{classes} lies inside instance_data_dir, so its pictures would be learned as the subject. Move it beside."
        )
    if instances.is_relative_to(own):
        raise UserError(
            f"{classes} holds instance_data_dir, so the subject would count among its class. Move that beside."
        )


def _examine_all(paths: Sequence[Path], checks: _Checks, progress: Progress | None) -> list[Examined | None]:
    results: list[Examined | None] = []
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        pending = [pool.submit(examine, path) for path in paths]
        try:
            for done, future in enumerate(pending, start=1):
                results.append(checks.collect(future.result))
                if progress:
                    progress(done, len(paths), "checking pictures")
        except BaseException:  # cancelled: leave without reading the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _wanted(concept: Concept, folder: Path, paths: list[Path], checks: _Checks) -> list[Path]:
    """Those of the pictures below a concept's folder that are its own."""
    if concept.metadata_file.strip():
        return MetadataFile.of(concept).among(paths)
    below = [] if concept.subfolders else [path for path in paths if path.parent != folder]
    checks.warn_of(below, "Left out, in folders below one that is to be taken alone")
    return [path for path in paths if path not in set(below)]


def _caption_of(source: _Source, concept: Concept) -> Caption:
    if concept.metadata_file.strip() and not source.is_partner:
        return MetadataFile.of(concept).caption(source.path)
    return read_caption(source.path, CaptionFiles.of(concept, class_pictures=source.is_partner))


def _crop(source: _Source, picture: Examined, rule: BucketRule) -> Crop:
    try:
        return rule.crop(picture.size, enlarge=source.is_partner)
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from error


def _own_variations(concepts: Sequence[Concept], settings: Settings) -> tuple[tuple[int, Variation], ...]:
    own = [(number, Variation.of(settings, concept)) for number, concept in enumerate(concepts)]
    return tuple((number, variation) for number, variation in own if variation != Variation.of(settings))


def _balanced(examples: Sequence[Example], regular: Sequence[Example], checks: _Checks) -> tuple[Example, ...]:
    shown = balanced(examples, regular)
    unused = {example.path for example in regular} - {example.path for example in shown}
    checks.warn_of(sorted(unused), "More regularization pictures than showings of the others, so not used")
    return shown


def _warn_of_shared_captions(sources: Sequence[_Source], captions: Sequence[Caption], checks: _Checks) -> None:
    """Two pictures that differ only in their ending have one caption file."""
    first: dict[Path, Path] = {}
    shared: list[Path] = []
    for source, caption in zip(sources, captions, strict=True):
        if caption.source not in (FILE_NAME, DEFAULT):
            other = first.setdefault(source.path.with_name(caption.source), source.path)
            shared += [source.path] if other != source.path else []
    checks.warn_of(shared, "Share their caption file with another picture of the same name")


def _example(
    source: _Source, concept: Concept, picture: Examined, caption: Caption, crop: Crop, settings: Settings
) -> Example:
    template = concept.class_prompt if source.is_partner else concept.instance_prompt
    if source.is_partner and is_filled_in(template, caption.text, concept.class_token):
        template = FILEWORDS
    tokens = concept.instance_token, concept.class_token
    texts = [build_prompt(template, text, *tokens, source.is_class) for text in (caption.text, *caption.more)]
    text, variants = Variation.of(settings, concept).settled(texts)
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
        repeats=1 if source.is_partner else concept.num_repeats,
        dynamic=settings.dynamic_img_norm,
    )


def _require_words_for_classes(examples: Sequence[Example], checks: _Checks) -> None:
    for concept in sorted({e.concept for e in examples if e.is_class and not e.caption}):
        wordless = [e.path for e in examples if e.concept == concept and e.is_class and not e.caption]
        checks.problems.append(
            f"Concept {concept + 1}: {len(wordless)} class pictures have no words (such as {wordless[0]}). Give "
            "class_prompt, for instance a photo of a dog, or class_token."
        )


def _place_classes(
    examples: Sequence[Example], classes: Sequence[Example], checks: _Checks
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


def _warn_of_pictures(examples: Sequence[Example], checks: _Checks) -> None:
    wordless = [example.path for example in examples if not example.caption and not example.is_class]
    checks.warn_of(wordless, "Neither caption nor token, trained with an empty prompt")
    small = [example.path for example in examples if example.enlarged > _ENLARGED_TOO_MUCH]
    checks.warn_of(small, f"Small pictures, enlarged more than {_ENLARGED_TOO_MUCH:g} times")
