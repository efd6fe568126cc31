"""Validation: the denoising loss on the same images with the same timesteps and noise, each time.

The training loss hardly falls: its timesteps and noise change with every step and hide the progress. Here a fixed set
of images is measured at fixed timesteps with fixed noise, so that two measurements differ by the weights alone. On
held-out images the loss falls while the subject is learned and rises with overfitting; on class images it rises as the
class drifts.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F

from dreambooth.dataset.plan import Example
from dreambooth.models.transfer import to_device
from dreambooth.training.inputs import image_size
from dreambooth.training.noise import generator_for
from dreambooth.training.session import Session

MAX_IMAGES = 24  # per concept
TIMESTEPS_PER_IMAGE = 4  # in the middles of as many equal parts of the process

ImageSets = dict[int, list[Example]]  # by concept, from 0


@dataclass(frozen=True)
class ValidationLosses:
    """Mean squared errors after ``step``, by concept (from 0). Not weighted, so that runs can be compared."""

    step: int
    losses: dict[int, float]
    class_losses: dict[int, float]

    @property
    def loss(self) -> float:
        return fmean(self.losses.values())

    @property
    def class_loss(self) -> float | None:
        return fmean(self.class_losses.values()) if self.class_losses else None


class Validation:
    """Measures a session's weights and leaves it as it was."""

    def __init__(self, session: Session) -> None:
        self.session, plan = session, session.plan
        held_out = _by_concept(plan.validation)
        self.images: ImageSets = {n: held_out.get(n, own) for n, own in _by_concept(plan.examples).items()}
        self.class_images = _by_concept([example for example in plan.all_examples() if example.is_class])
        self.last: ValidationLosses | None = None
        self.lowest = math.inf  # loss of this run

    def measure(self) -> tuple[ValidationLosses, bool]:
        """The losses after the session's current step, and whether they were not measured before."""
        step = self.session.position.step
        if self.last and self.last.step == step:
            return self.last, False
        with self._evaluating():
            losses = [{n: self._mean_loss(examples) for n, examples in images.items()} for images in self._image_sets()]
        self.last = ValidationLosses(step, *losses)
        self.lowest = min(self.lowest, self.last.loss)
        return self.last, True

    def _image_sets(self) -> tuple[ImageSets, ImageSets]:
        return self.images, self.class_images

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No gradients, no dropout; EMA weights if those are used for inference."""
        session = self.session
        weights, autocast = session.inference_weights(sampling=True), session.accelerator.autocast()
        with session.evaluating(), weights, torch.no_grad(), autocast:
            yield

    def _mean_loss(self, examples: Sequence[Example]) -> float:
        return fmean(self._loss(example) for example in examples)

    def _loss(self, example: Example) -> float:
        session, process = self.session, self.session.process
        batch = [example] * TIMESTEPS_PER_IMAGE
        generator = generator_for("validation", example.content, *example.bucket)
        latents = session.latents.batch(batch, generator)
        noise = to_device(torch.randn(latents.shape, generator=generator), latents.device)
        t = to_device(process.evenly_spaced_timesteps(TIMESTEPS_PER_IMAGE), latents.device)
        embedding = session.prompts.batch([e.caption for e in batch])
        noisy_latents = process.add_noise(latents, noise, t)
        extra_channels = session.inpainting.extra_channels(batch, generator) if session.inpainting else None
        conditioning = session.denoiser.prepare(embedding, [image_size(example)] * len(batch))
        predicted = session.denoiser.predict(noisy_latents, t, conditioning, extra_channels)
        return F.mse_loss(predicted, process.target(latents, noise, t)).item()


def _by_concept(examples: Sequence[Example]) -> ImageSets:
    """At most MAX_IMAGES of each concept, each image once. The choice depends on their contents alone."""
    unique: dict[int, dict[str, Example]] = defaultdict(dict)
    for example in examples:
        unique[example.concept].setdefault(example.content, example)
    return {n: [own[key] for key in sorted(own)[:MAX_IMAGES]] for n, own in sorted(unique.items())}
