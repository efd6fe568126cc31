"""The plan of a training run's data, as plain values.

The table that a person sees before training and the batches of training come from the same `Plan`; what
an epoch holds is a pure function of (seed, epoch), so that a run can be continued from any of them.
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

from dreambooth.dataset.variation import ALWAYS_THE_SAME, Variation
from dreambooth.images.buckets import Crop, Size
from dreambooth.images.issues import FileIssue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """One picture as training uses it."""

    path: Path
    caption: str  # the final prompt
    caption_source: str  # name of the caption file, or "file name"
    concept: int  # index of its concept, from 0
    is_class: bool
    content: str  # sha256 of the file's bytes, hex
    original_size: Size  # width, height in pixels, upright
    crop: Crop
    mask: Path | None = None  # a picture beside, white where an inpainting model is to paint
    repeats: int = 1  # how often it is shown in each epoch
    variants: tuple[str, ...] = ()  # what showings draw the caption from, where it varies: see Variation.settled
    flipped: bool = False  # mirrored after cropping; only in what Plan.epoch and Plan.pictures give

    @property
    def bucket(self) -> Size:
        return self.crop.width, self.crop.height

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What is cut out of it, in the upright picture's own pixels: left, top, right, bottom."""
        return self.crop.box_in(self.original_size)

    @property
    def pixels_key(self) -> tuple[object, ...]:
        """All that decides the pixels that the VAE sees."""
        return self.content, self.crop, self.flipped

    @property
    def enlarged(self) -> float:
        """Factor by which the picture is resized; above 1 it is enlarged."""
        return self.crop.resized_w / self.original_size[0]


@dataclass(frozen=True)
class Batch:
    """Examples of one bucket: what is learned, regularization pictures among it, and the class partners of those.

    Regularization pictures are known by ``is_class``.
    """

    instances: tuple[Example, ...]
    classes: tuple[Example, ...]

    @property
    def bucket(self) -> Size:
        return self.instances[0].bucket

    @property
    def regularizes(self) -> bool:
        return any(example.is_class for example in self.instances)


@dataclass(frozen=True)
class Plan:
    """All examples of a run.

    `regularization` pictures are of the class and shown among the examples, see :func:`balanced`. `class_examples`
    holds, for each concept with class pictures and each bucket of its instance pictures, the class pictures in that
    bucket; none of these lists is empty.
    """

    examples: tuple[Example, ...]
    class_examples: dict[tuple[int, Size], tuple[Example, ...]]
    warnings: tuple[str, ...] = ()
    validation: tuple[Example, ...] = ()  # only measured on
    variation: Variation = ALWAYS_THE_SAME
    own_variations: tuple[tuple[int, Variation], ...] = ()  # of concepts that vary otherwise than the run
    regularization: tuple[Example, ...] = ()
    limits: tuple[int, ...] = ()  # by concept: after so many showings of its pictures it rests; 0: never
    notes: tuple[FileIssue, ...] = ()  # of single files, in the order of the table

    def epoch(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """The batches of one epoch (counted from 0), in order, each picture as it is shown there.

        Every instance picture is shown exactly ``repeats`` times, until its concept rests. A bucket whose pictures
        don't fill its last batch makes that batch smaller: none is dropped, none repeated. Each instance picture
        brings one class picture of its concept, where that has any; over the epochs these go through all of them,
        evenly.
        """
        batches: list[list[_Showing]] = []
        for bucket, showings in self._buckets(epoch).items():
            order = _shuffled(showings, seed, "instances", epoch, bucket)
            batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        walks = {key: self._class_walk(key, seed, epoch) for key in self.class_examples}
        times: Counter[str] = Counter()

        def partner(example: Example) -> Example:
            chosen = next(walks[_class_key(example)])
            times[chosen.content] += 1
            return self.variation_of(chosen).drawn(chosen, seed, epoch, "class", times[chosen.content])

        return [
            Batch(
                instances=tuple(
                    self.variation_of(example).drawn(example, seed, epoch, time) for example, time in batch
                ),
                classes=tuple(partner(example) for example, _ in batch if _class_key(example) in walks),
            )
            for batch in _shuffled(batches, seed, "batches", epoch)
        ]

    def steps_per_epoch(self, batch_size: int, epoch: int = 0) -> int:
        """Number of batches in an epoch; the same in each of them unless a concept rests at some time."""
        return sum(-(-len(showings) // batch_size) for showings in self._buckets(epoch).values())

    def epoch_lengths(self, epochs: int, batch_size: int) -> list[int]:
        """Number of batches in each epoch of a run."""
        if not any(self.limits):
            return [self.steps_per_epoch(batch_size)] * epochs
        return [self.steps_per_epoch(batch_size, epoch) for epoch in range(epochs)]

    def all_examples(self) -> tuple[Example, ...]:
        """Instances, then regularization and class pictures (one of these may stand in several buckets)."""
        return (*self.examples, *self.regularization, *itertools.chain.from_iterable(self.class_examples.values()))

    def everything(self) -> tuple[Example, ...]:
        """All that is trained or measured on."""
        return (*self.all_examples(), *self.validation)

    def pictures(self) -> tuple[Example, ...]:
        """All that the VAE may have to encode: every picture, and its mirror image where pictures are flipped."""
        mirrored = [example for example in self.all_examples() if self.variation_of(example).hflip]
        return (*self.everything(), *(replace(example, flipped=True) for example in mirrored))

    def prompts(self) -> list[str]:
        """The prompts that are the same in each showing, and the empty one where captions are left out."""
        captions = {e.caption for e in self.all_examples() if not self.variation_of(e).varies(e)}
        captions |= {example.caption for example in self.validation}
        dropped = any(self.variation_of(example).caption_dropout for example in self.all_examples())
        return sorted(captions | ({""} if dropped else set()))

    def captions_of(self, example: Example) -> list[str]:
        """The captions that it may be shown with, each in its own order and with the first part of its wildcards."""
        settled = [self.variation_of(example).settled([text])[0] for text in example.variants]
        return list(dict.fromkeys([example.caption, *settled]))

    def variation_of(self, example: Example) -> Variation:
        """What changes about it from one showing to the next."""
        return dict(self.own_variations).get(example.concept, self.variation)

    def words_vary(self) -> bool:
        """Whether there are more prompts than :meth:`prompts` names."""
        return any(self.variation_of(example).varies(example) for example in self.all_examples())

    def fingerprint(self) -> str:
        """Changes when a picture, its prompt or its crop does: what an exact resume must find unchanged."""
        rows = [(e.content, e.caption, repr(e.crop), e.concept, e.is_class, *_unusual(e)) for e in self.all_examples()]
        seldom = [*([self.limits] if any(self.limits) else []), *([self.own_variations] if self.own_variations else [])]
        return hashlib.sha256(repr((rows, *seldom) if seldom else rows).encode()).hexdigest()

    def _buckets(self, epoch: int) -> dict[Size, list[_Showing]]:
        """What an epoch shows, by bucket, in the order of the examples."""
        buckets: dict[Size, list[_Showing]] = defaultdict(list)
        shown = (*self.examples, *self.regularization)
        showings = [(example, time) for example in shown for time in range(example.repeats)]
        resting = self._resting(showings, epoch)
        for example, time in showings:
            if (example, time) not in resting:
                buckets[example.bucket].append((example, time))
        return buckets

    def _resting(self, showings: Sequence[_Showing], epoch: int) -> set[_Showing]:
        """What this epoch shows no more, because its concept has come to its limit."""
        resting: set[_Showing] = set()
        for concept, limit in enumerate(self.limits):
            own = [showing for showing in showings if showing[0].concept == concept] if limit else []
            left = max(0, limit - epoch * len(own))
            if left < len(own):
                resting.update(_shuffled(own, "rest", concept)[left:])
        return resting

    def _class_walk(self, key: tuple[int, Size], seed: int, epoch: int) -> Iterator[Example]:
        """Class pictures from where the epochs before this one stopped: round after round, each shuffled."""
        pool = self.class_examples[key]
        needed_per_epoch = sum(example.repeats for example in self.examples if _class_key(example) == key)
        first_round, used = divmod(epoch * needed_per_epoch, len(pool))
        rounds = (_shuffled(pool, seed, "classes", number, key) for number in itertools.count(first_round))
        return itertools.islice(itertools.chain.from_iterable(rounds), used, None)


_Showing = tuple[Example, int]  # and which time in its epoch, from 0


def _class_key(example: Example) -> tuple[int, Size]:
    return example.concept, example.bucket


def _shuffled(items: Sequence[T], *key: object) -> list[T]:
    # Seeded by text: hashed with SHA-512, hence the same order on every platform and Python version.
    order = list(items)
    random.Random(repr(key)).shuffle(order)
    return order


def _unusual(example: Example) -> list[str]:
    """What most examples don't have: left out of the fingerprint, so that older snapshots keep theirs."""
    return [
        *([str(example.mask)] if example.mask else []),
        *([f"repeats {example.repeats}"] if example.repeats != 1 else []),
        *(["variants", *example.variants] if example.variants else []),
    ]
