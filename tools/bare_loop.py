"""The baseline of the benchmark: a minimal torch loop over a session's modules, and its time next to ours."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from dreambooth.dataset.plan import Batch
from dreambooth.training.fused_adamw import has_fused_adamw
from dreambooth.training.inputs import image_size
from dreambooth.training.loop import Loop
from dreambooth.training.session import Session


class BareLoop:
    """Forward, backward and an AdamW step on one batch of the first epoch; the optimizer has its own state."""

    def __init__(self, session: Session) -> None:
        settings = session.settings
        batch = session.plan.epoch(settings.seed, 0, settings.train_batch_size)[0]
        examples = (*batch.instances, *batch.classes)
        self.session = session
        self.latents = session.latents.batch(examples, torch.Generator().manual_seed(0))
        self.sizes = [image_size(example) for example in examples]
        self.captions = [example.caption for example in examples]
        self.embedding = None if session.prompts.trainable else session.prompts.batch(self.captions)
        groups = [{k: group[k] for k in ("params", "lr", "weight_decay")} for group in session.optimizer.param_groups]
        self.optimizer = torch.optim.AdamW(groups, fused=has_fused_adamw(session.device.type))

    def step(self) -> None:
        session, latents = self.session, self.latents
        with session.accelerator.autocast():
            noise = torch.randn_like(latents)
            t = torch.randint(session.process.num_timesteps, (len(latents),), device=latents.device)
            noisy_latents = session.process.add_noise(latents, noise, t)
            embedding = session.prompts.batch(self.captions) if self.embedding is None else self.embedding
            conditioning = session.denoiser.prepare(embedding, self.sizes)
            predicted = session.denoiser.predict(noisy_latents, t, conditioning)
            loss = F.mse_loss(predicted, noise)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(session: Session, loop: Loop, rounds: int = 4, steps: int = 8) -> tuple[float, float]:
    """Median seconds per step of our loop and of the bare one, alternating, so that other load slows both alike."""
    bare, groups = BareLoop(session), _accumulation_groups(loop)
    our_seconds: list[float] = []
    bare_seconds: list[float] = []
    for number in range(rounds + 1):
        ours = [_timed(session, lambda: loop.step(next(groups))) for _ in range(steps)]
        theirs = [_timed(session, bare.step) for _ in range(steps)]
        if number:  # the first round is the warm-up
            our_seconds += ours
            bare_seconds += theirs
    return statistics.median(our_seconds), statistics.median(bare_seconds)


def _accumulation_groups(loop: Loop) -> Iterator[Sequence[Batch]]:
    return itertools.chain.from_iterable(loop.accumulation_groups(epoch) for epoch in itertools.count())


def _timed(session: Session, step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if session.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
