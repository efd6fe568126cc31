"""The loop, compared with one written out as in diffusers' DreamBooth script: same batches and noise, same weights.

Only what must be the same to compare them is shared: the modules' first weights, the plan, the random numbers.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.dataset.pixels import load_pixels
from dreambooth.jobs import Controls, Events
from dreambooth.runs.preflight import preflight
from dreambooth.training.loop import NO_HOOKS, Loop
from dreambooth.training.noise import generator_for
from dreambooth.training.session import Session
from tests.training.conftest import SMALL

RATE, PRIOR_WEIGHT, STEPS = 1e-4, 0.6, 6
SETTINGS = {
    **SMALL, "use_lora": False, "learning_rate": RATE, "txt_learning_rate": RATE, "lr_scheduler": "constant",
    "prior_loss_weight": PRIOR_WEIGHT, "mixed_precision": "no", "seed": 3,
}  # fmt: skip


def test_steps_are_those_of_a_plain_loop(mini, concept):
    config = actions.configure(mini, SETTINGS, [concept])
    checked = preflight(mini, config)
    losses: list[float] = []
    events = Events(None, lambda event: event["kind"] == "step" and losses.append(event["loss"]))
    session = Session(checked.context(Controls(), events))
    try:
        start = {name: tensor.detach().clone() for name, tensor in session.trained_tensors().items()}
        loop = Loop(session, NO_HOOKS)
        batches = []
        while len(batches) < STEPS:
            for (batch,) in loop.accumulation_groups(session.position.epoch):
                batches.append(batch)
                loop.step([batch])
            session.position.epoch += 1
        expected, plain = _plain_loop(mini.working, batches)
        moved = torch.cat([(plain[name] - start[name]).flatten() for name in start])
        apart = torch.cat([(plain[name] - tensor).flatten() for name, tensor in session.trained_tensors().items()])
        assert losses == pytest.approx(expected, rel=1e-4)
        assert apart.norm() <= 1e-3 * moved.norm()
    finally:
        session.close()


def _plain_loop(working, batches):
    """Losses of the instance images, and all weights afterwards."""
    modules = load_modules(working)
    unet, vae, text_encoder = modules.denoiser, modules.vae, modules.parts["text_encoder"]
    tokenizer = CLIPTokenizer.from_pretrained(working / "tokenizer")
    scheduler = DDPMScheduler.from_pretrained(working / "scheduler")
    learns = [*unet.train().requires_grad_(True).parameters(), *text_encoder.train().requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(learns, lr=RATE, weight_decay=1e-2)
    losses = []
    for step, batch in enumerate(batches):
        examples, numbers = (*batch.instances, *batch.classes), generator_for(SETTINGS["seed"], "noise", step, 0)
        with torch.no_grad():
            posterior = vae.encode(torch.stack([load_pixels(example) for example in examples])).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=numbers)
        latents = latents * vae.config.scaling_factor
        timesteps = torch.randint(0, 1000, (len(examples),), generator=numbers)
        noise = torch.randn(latents.shape, generator=numbers)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        words = tokenizer([e.caption for e in examples], padding="max_length", truncation=True, max_length=77,
                          return_tensors="pt").input_ids  # fmt: skip
        predicted, predicted_prior = unet(noisy, timesteps, text_encoder(words)[0]).sample.chunk(2)
        target, target_prior = noise.chunk(2)
        loss = F.mse_loss(predicted, target)
        losses.append(loss.item())
        (loss + PRIOR_WEIGHT * F.mse_loss(predicted_prior, target_prior)).backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    parts = {"unet": unet, "text_encoder": text_encoder}
    return losses, {f"{part}.{k}": p.detach() for part, module in parts.items() for k, p in module.named_parameters()}
