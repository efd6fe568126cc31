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
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dreambooth.dataset.buckets import Crop, Size

T = TypeVar("T")


@dataclass(frozen=True)
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

    @property
    def bucket(self) -> Size:
        return self.crop.width, self.crop.height

    @property
    def enlarged(self) -> float:
        """Factor by which the picture is resized; above 1 it is enlarged."""
        return self.crop.resized_w / self.original_size[0]


@dataclass(frozen=True)
class Batch:
    """Examples of one bucket: what is learned, and their class partners (see Plan.epoch)."""

    instances: tuple[Example, ...]
    classes: tuple[Example, ...]

    @property
    def bucket(self) -> Size:
        return self.instances[0].bucket


@dataclass(frozen=True)
class Plan:
    """All examples of a run.

    `class_examples` holds, for each concept with class pictures and each bucket of its instance pictures,
    the class pictures in that bucket; none of these lists is empty.
    """

    examples: tuple[Example, ...]
    class_examples: dict[tuple[int, Size], tuple[Example, ...]]
    warnings: tuple[str, ...] = ()
    validation: tuple[Example, ...] = ()  # only measured on

    def epoch(self, seed: int, epoch: int, batch_size: int) -> list[Batch]:
        """The batches of one epoch (counted from 0), in order.

        Every instance picture is in exactly one batch. A bucket whose pictures don't fill its last batch
        makes that batch smaller: none is dropped, none repeated. Each instance picture brings one class
        picture of its concept, where that has any; over the epochs these go through all of them, evenly.
        """
        batches: list[list[Example]] = []
        for bucket, examples in self._buckets().items():
            order = _shuffled(examples, seed, "instances", epoch, bucket)
            batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        walks = {key: self._class_walk(key, seed, epoch) for key in self.class_examples}
        return [
            Batch(
                instances=tuple(batch),
                classes=tuple(next(walks[key]) for key in map(_class_key, batch) if key in walks),
            )
            for batch in _shuffled(batches, seed, "batches", epoch)
        ]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in an epoch."""
        return sum(-(-len(examples) // batch_size) for examples in self._buckets().values())

    def all_examples(self) -> tuple[Example, ...]:
        """Instances, then class pictures (one of these may stand in several buckets)."""
        return (*self.examples, *itertools.chain.from_iterable(self.class_examples.values()))

    def everything(self) -> tuple[Example, ...]:
        """All that is trained or measured on."""
        return (*self.all_examples(), *self.validation)

    def table(self) -> list[dict[str, object]]:
        """One plain dict per picture, instances first, for printing and JSON. Concepts count from 1."""
        return [*map(_row, self.all_examples()), *({**_row(e), "kind": "validation"} for e in self.validation)]

    def fingerprint(self) -> str:
        """Changes when a picture, its prompt or its crop does: what an exact resume must find unchanged."""
        rows = [
            (e.content, e.caption, repr(e.crop), e.concept, e.is_class, *([str(e.mask)] if e.mask else []))
            for e in self.all_examples()
        ]
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def _buckets(self) -> dict[Size, list[Example]]:
        buckets: dict[Size, list[Example]] = defaultdict(list)
        for example in self.examples:
            buckets[example.bucket].append(example)
        return buckets

    def _class_walk(self, key: tuple[int, Size], seed: int, epoch: int) -> Iterator[Example]:
        """Class pictures from where the epochs before this one stopped: round after round, each shuffled."""
        pool = self.class_examples[key]
        needed_per_epoch = Counter(map(_class_key, self.examples))[key]
        first_round, used = divmod(epoch * needed_per_epoch, len(pool))
        rounds = (_shuffled(pool, seed, "classes", number, key) for number in itertools.count(first_round))
        return itertools.islice(itertools.chain.from_iterable(rounds), used, None)


def _class_key(example: Example) -> tuple[int, Size]:
    return example.concept, example.bucket


def _shuffled(items: Sequence[T], *key: object) -> list[T]:
    # Seeded by text: hashed with SHA-512, hence the same order on every platform and Python version.
    order = list(items)
    random.Random(repr(key)).shuffle(order)
    return order


def _row(example: Example) -> dict[str, object]:
    crop = example.crop
    return {
        "file": str(example.path),
        "concept": example.concept + 1,
        "kind": "class" if example.is_class else "instance",
        "caption": example.caption,
        "caption_from": example.caption_source,
        "size": list(example.original_size),
        "bucket": list(example.bucket),
        "resized": [crop.resized_w, crop.resized_h],
        "crop": [crop.left, crop.top],
        "enlarged": round(example.enlarged, 2),
        "kept": round(crop.kept, 3),
    }
