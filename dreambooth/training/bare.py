"""The yardstick: a bare torch loop over the same modules. Forward, backward, optimizer step, nothing else."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from dreambooth.checkpoints.text_encoding import unet_kwargs
from dreambooth.training.fused_adamw import has_fused_adamw
from dreambooth.training.inputs import time_ids
from dreambooth.training.loop import Loop
from dreambooth.training.session import Session


class BareLoop:
    """Steps on one ready batch of ``session``'s first epoch, with an optimizer of its own over the same parameters."""

    def __init__(self, session: Session) -> None:
        settings = session.settings
        batch = session.plan.epoch(settings.seed, 0, settings.train_batch_size)[0]
        examples = (*batch.instances, *batch.classes)
        self.session = session
        self.latents = session.latents.batch(examples, torch.Generator().manual_seed(0))
        self.time_ids = time_ids(examples).to(session.device)
        self.captions = [example.caption for example in examples]
        self.text = None if session.prompts.trainable else session.prompts.batch(self.captions)
        groups = [{k: group[k] for k in ("params", "lr", "weight_decay")} for group in session.optimizer.param_groups]
        self.optimizer = torch.optim.AdamW(groups, fused=has_fused_adamw(session.device.type))

    def step(self) -> None:
        session, latents = self.session, self.latents
        dtype = next(session.modules.unet.parameters()).dtype
        with session.accelerator.autocast():
            noise = torch.randn_like(latents)
            t = torch.randint(session.schedule.timesteps, (len(latents),), device=latents.device)
            noisy = session.schedule.add_noise(latents, noise, t).to(dtype)
            text = session.prompts.batch(self.captions) if self.text is None else self.text
            told = unet_kwargs(text, self.time_ids, dtype)
            loss = F.mse_loss(session.modules.unet(noisy, t, **told)[0].float(), noise)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(session: Session, loop: Loop, rounds: int = 4, steps: int = 8) -> tuple[float, float]:
    """Median seconds per step of our loop and of the bare one, in turns, so that a busy machine slows both alike."""
    bare, accumulation_groups = BareLoop(session), _windows(loop)
    ours_seconds: list[float] = []
    bare_seconds: list[float] = []
    for number in range(rounds + 1):
        ours = [_timed(session, lambda: loop.step(next(accumulation_groups))) for _ in range(steps)]
        theirs = [_timed(session, bare.step) for _ in range(steps)]
        if number:  # the first round warms up
            ours_seconds += ours
            bare_seconds += theirs
    return statistics.median(ours_seconds), statistics.median(bare_seconds)


def _windows(loop: Loop) -> Iterator:
    return itertools.chain.from_iterable(loop.accumulation_groups(epoch) for epoch in itertools.count())


def _timed(session: Session, step) -> float:
    start = time.perf_counter()
    step()
    if session.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
