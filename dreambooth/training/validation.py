"""Is it still learning, or already forgetting? The denoising loss on the same pictures with the same noise, each time.

The training loss hardly falls: its timesteps and noise change with every step and drown what is learnt. Here a set of
pictures is measured at fixed timesteps with fixed noise, so that two measurements differ by the weights alone. On
held-out pictures the loss falls while the subject is learnt and rises when its pictures are learnt by heart; on class
pictures it rises as the class drifts away.
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

from dreambooth.checkpoints.text_encoding import unet_kwargs
from dreambooth.dataset.plan import Example
from dreambooth.training.inputs import time_ids
from dreambooth.training.noise import generator_for
from dreambooth.training.precision import to_device
from dreambooth.training.session import Session

MAX_IMAGES = 24  # pictures of a concept
TIMESTEPS_PER_IMAGE = 4  # timesteps of each, in the middles of as many equal parts of the schedule

Sets = dict[int, list[Example]]


@dataclass(frozen=True)
class ValidationLosses:
    """Plain mean squared errors after ``step``, by concept (from 0); whatever the objective weighs, these compare."""

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
    """Measures a session's weights as they are; afterwards everything is as before."""

    def __init__(self, session: Session) -> None:
        self.session, plan = session, session.plan
        held = _by_concept(plan.validation)
        self.pictures: Sets = {n: held.get(n, own) for n, own in _by_concept(plan.examples).items()}
        self.class_pictures = _by_concept([example for example in plan.all_examples() if example.is_class])
        self.last: ValidationLosses | None = None
        self.lowest = math.inf  # loss of all that was measured in this run

    def measure(self) -> tuple[ValidationLosses, bool]:
        """The measurement after the step that the session stands at, and whether it is a new one."""
        step = self.session.position.step
        if self.last and self.last.step == step:
            return self.last, False
        with self._still():
            losses = [{n: self._loss(examples) for n, examples in sets.items()} for sets in self._sets()]
        self.last = ValidationLosses(step, *losses)
        self.lowest = min(self.lowest, self.last.loss)
        return self.last, True

    def _sets(self) -> tuple[Sets, Sets]:
        return self.pictures, self.class_pictures

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """No gradients, no dropout; the averages in place of the weights where those are what will be used."""
        session = self.session
        modes = {m: m.training for m in (session.modules.unet, *session.modules.text_encoders.values())}
        try:
            for module in modes:
                module.eval()
            with session.inference_weights(drawing=True), torch.no_grad(), session.accelerator.autocast():
                yield
        finally:
            for module, mode in modes.items():
                module.train(mode)

    def _loss(self, examples: Sequence[Example]) -> float:
        return fmean(self._loss_of(example) for example in examples)

    def _loss_of(self, example: Example) -> float:
        session, schedule = self.session, self.session.schedule
        unet, same = session.modules.unet, [example] * TIMESTEPS_PER_IMAGE
        generator = generator_for("validation", example.content, *example.bucket)
        clean = session.latents.batch(same, generator)
        noise = to_device(torch.randn(clean.shape, generator=generator), clean.device)
        t = to_device((torch.arange(TIMESTEPS_PER_IMAGE) * 2 + 1) * schedule.timesteps // (2 * TIMESTEPS_PER_IMAGE), clean.device)
        embedding = session.prompts.batch([e.caption for e in same])
        dtype = next(unet.parameters()).dtype
        seen = schedule.add_noise(clean, noise, t)
        if session.inpainting:
            seen = torch.cat([seen, session.inpainting.extra_channels(same, generator)], dim=1)
        sizes = None if embedding.pooled is None else to_device(time_ids(same), clean.device)
        predicted = unet(seen.to(dtype), t, **unet_kwargs(embedding, sizes, dtype))[0].float()
        return F.mse_loss(predicted, schedule.target(clean, noise, t)).item()


def _by_concept(examples: Sequence[Example]) -> Sets:
    """At most MOST of each concept, each picture once; which ones depends on their content alone."""
    found: dict[int, dict[str, Example]] = defaultdict(dict)
    for example in examples:
        found[example.concept].setdefault(example.content, example)
    return {n: [own[key] for key in sorted(own)[:MAX_IMAGES]] for n, own in sorted(found.items())}
