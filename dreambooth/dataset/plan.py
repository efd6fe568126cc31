"""The plan of a training run's data, as plain values.

The dataset preview and the batches of training come from the same `Plan`. The batches of an epoch are a pure
function of (seed, epoch), so that a run can be resumed in any epoch.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from dreambooth.dataset.variation import NO_VARIATION, Variation
from dreambooth.images.buckets import Crop, Size
from dreambooth.images.issues import FileIssue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """One image as it is trained."""

    path: Path
    caption: str  # the final prompt
    caption_source: str  # name of the caption file, or "file name"
    concept: int  # index of its concept, from 0
    is_class: bool
    content: str  # sha256 of the file's bytes, hex
    original_size: Size  # width, height in pixels, upright
    crop: Crop
    mask: Path | None = None  # an image next to it, white where an inpainting model paints
    repeats: int = 1  # how often it is used in each epoch
    variants: tuple[str, ...] = ()  # the captions to choose from, where they vary: see Variation.settled
    has_soft_mask: bool = False  # the mask's gray is a weight, as in sd-scripts; otherwise it is black or white
    flipped: bool = False  # horizontally, after cropping; only in examples of Plan.epoch and Plan.images

    @property
    def bucket(self) -> Size:
        return self.crop.width, self.crop.height

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The crop in pixels of the upright image: left, top, right, bottom."""
        return self.crop.box_in(self.original_size)

    @property
    def pixels_key(self) -> tuple[object, ...]:
        """Everything that determines the pixels that the VAE encodes."""
        return self.content, self.crop, self.flipped

    @property
    def enlarged(self) -> float:
        """Scale factor of the image; above 1 it is enlarged."""
        return self.crop.resized_w / self.original_size[0]


@dataclass(frozen=True)
class Batch:
    """Examples of one bucket: the trained images, and the class images for prior preservation.

    ``instances`` may include regularization images, recognizable by ``is_class``.
    """

    instances: tuple[Example, ...]
    classes: tuple[Example, ...]

    @property
    def bucket(self) -> Size:
        return self.instances[0].bucket

    @property
    def has_regularization(self) -> bool:
        return any(example.is_class for example in self.instances)


@dataclass(frozen=True)
class Plan:
    """All examples of a run.

    `regularization` images show the class and are trained among the examples, see :func:`balanced`. `class_examples`
    holds, for each concept with class images and each bucket of its instance images, the class images in that
    bucket; none of these lists is empty.
    """

    examples: tuple[Example, ...]
    class_examples: dict[tuple[int, Size], tuple[Example, ...]]
    warnings: tuple[str, ...] = ()
    validation: tuple[Example, ...] = ()  # not trained
    variation: Variation = NO_VARIATION
    own_variations: tuple[tuple[int, Variation], ...] = ()  # of concepts with overrides
    regularization: tuple[Example, ...] = ()
    limits: tuple[int, ...] = ()  # by concept: the number of samples after which it is no longer sampled; 0: no limit
    issues: tuple[FileIssue, ...] = ()  # of single files, in the order of the table

    def epoch(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """The batches of one epoch (counted from 0), in order, with all augmentations applied.

        Every instance image is sampled exactly ``repeats`` times, until its concept reaches its limit. The last batch
        of a bucket may be smaller: no image is dropped or repeated to fill it. Each instance image is paired with one
        class image of its concept, if there are any; over the epochs all class images are used equally often.
        """
        batches: list[list[_Sample]] = []
        for bucket, samples in self._buckets(epoch).items():
            order = _shuffled(samples, seed, "instances", epoch, bucket)
            batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        class_orders = {key: self._class_order(key, seed, epoch) for key in self.class_examples}
        times: Counter[str] = Counter()

        def class_image(example: Example) -> Example:
            chosen = next(class_orders[_class_key(example)])
            times[chosen.content] += 1
            return self.variation_of(chosen).augment(chosen, seed, epoch, "class", times[chosen.content])

        return [
            Batch(
                instances=tuple(
                    self.variation_of(example).augment(example, seed, epoch, time) for example, time in batch
                ),
                classes=tuple(class_image(example) for example, _ in batch if _class_key(example) in class_orders),
            )
            for batch in _shuffled(batches, seed, "batches", epoch)
        ]

    def steps_per_epoch(self, batch_size: int, epoch: int = 0) -> int:
        """Number of batches in an epoch; the same in all epochs unless a concept reaches its limit."""
        return sum(-(-len(samples) // batch_size) for samples in self._buckets(epoch).values())

    def epoch_lengths(self, epochs: int, batch_size: int) -> list[int]:
        """Number of batches in each epoch of a run."""
        if not any(self.limits):
            return [self.steps_per_epoch(batch_size)] * epochs
        return [self.steps_per_epoch(batch_size, epoch) for epoch in range(epochs)]

    def all_examples(self) -> tuple[Example, ...]:
        """Instance, regularization, then class images (a class image may be in several buckets)."""
        return (*self.examples, *self.regularization, *itertools.chain.from_iterable(self.class_examples.values()))

    def with_validation(self) -> tuple[Example, ...]:
        """All examples that are trained or validated on."""
        return (*self.all_examples(), *self.validation)

    def images(self) -> tuple[Example, ...]:
        """Everything that the VAE may have to encode: all images, and flipped copies where images are flipped."""
        mirrored = [example for example in self.all_examples() if self.variation_of(example).hflip]
        return (*self.with_validation(), *(replace(example, flipped=True) for example in mirrored))

    def prompts(self) -> list[str]:
        """The prompts that never vary, and the empty prompt where captions are dropped."""
        captions = {e.caption for e in self.all_examples() if not self.variation_of(e).varies(e)}
        captions |= {example.caption for example in self.validation}
        dropped = any(self.variation_of(example).caption_dropout for example in self.all_examples())
        return sorted(captions | ({""} if dropped else set()))

    def captions_of(self, example: Example) -> list[str]:
        """All captions of an example, unshuffled and with the first option of each wildcard."""
        settled = [self.variation_of(example).settled([text])[0] for text in example.variants]
        return list(dict.fromkeys([example.caption, *settled]))

    def variation_of(self, example: Example) -> Variation:
        """The augmentations of an example."""
        return dict(self.own_variations).get(example.concept, self.variation)

    def prompts_vary(self) -> bool:
        """Whether there are more prompts than :meth:`prompts` names."""
        return any(self.variation_of(example).varies(example) for example in self.all_examples())

    def fingerprint(self) -> str:
        """Hash of all images, prompts and crops: unchanged if a run can be resumed exactly."""
        rows = [
            (e.content, e.caption, repr(e.crop), e.concept, e.is_class, *_optional_properties(e))
            for e in self.all_examples()
        ]
        optional = [
            *([self.limits] if any(self.limits) else []),
            *([self.own_variations] if self.own_variations else []),
        ]
        return hashlib.sha256(repr((rows, *optional) if optional else rows).encode()).hexdigest()

    def _buckets(self, epoch: int) -> dict[Size, list[_Sample]]:
        """The samples of an epoch by bucket, in the order of the examples."""
        buckets: dict[Size, list[_Sample]] = defaultdict(list)
        shown = (*self.examples, *self.regularization)
        samples = [(example, time) for example in shown for time in range(example.repeats)]
        dropped = self._beyond_limits(samples, epoch)
        for example, time in samples:
            if (example, time) not in dropped:
                buckets[example.bucket].append((example, time))
        return buckets

    def _beyond_limits(self, samples: Sequence[_Sample], epoch: int) -> set[_Sample]:
        """The samples that this epoch leaves out because their concept has reached its limit."""
        dropped: set[_Sample] = set()
        for concept, limit in enumerate(self.limits):
            own = [sample for sample in samples if sample[0].concept == concept] if limit else []
            left = max(0, limit - epoch * len(own))
            if left < len(own):
                dropped.update(_shuffled(own, "rest", concept)[left:])
        return dropped

    def _class_order(self, key: tuple[int, Size], seed: int, epoch: int) -> Iterator[Example]:
        """Class images from where the previous epoch stopped: pass after pass, each shuffled."""
        pool = self.class_examples[key]
        needed_per_epoch = sum(example.repeats for example in self.examples if _class_key(example) == key)
        first_round, used = divmod(epoch * needed_per_epoch, len(pool))
        rounds = (_shuffled(pool, seed, "classes", number, key) for number in itertools.count(first_round))
        return itertools.islice(itertools.chain.from_iterable(rounds), used, None)


_Sample = tuple[Example, int]  # and how often it was sampled before in this epoch


def _class_key(example: Example) -> tuple[int, Size]:
    return example.concept, example.bucket


def _shuffled(items: Sequence[T], *key: object) -> list[T]:
    # Seeded by text: hashed with SHA-512, hence the same order on every platform and Python version.
    order = list(items)
    random.Random(repr(key)).shuffle(order)
    return order


def _optional_properties(example: Example) -> list[str]:
    """Optional properties, left out of the fingerprint where unset, so that older snapshots keep theirs."""
    return [
        *([str(example.mask)] if example.mask else []),
        *([f"repeats {example.repeats}"] if example.repeats != 1 else []),
        *(["variants", *example.variants] if example.variants else []),
    ]
