"""The timesteps that a run trains: which part of them falls into which part of the process."""

from __future__ import annotations

from collections import Counter

import torch

from dreambooth.dataset.plan import Plan
from dreambooth.models.latents import LatentCodec
from dreambooth.models.process import Process
from dreambooth.settings import Settings
from dreambooth.training.noise import generator_for

N_PARTS = 25
_N_DRAWN = 25_000  # timesteps; the shares are right within 0.3 %


def timestep_shares(process: Process, codec: LatentCodec, plan: Plan, settings: Settings) -> list[float]:
    """Shares of the training timesteps in :data:`N_PARTS` equal parts of the process, from the image to noise.

    They are drawn as in training. The shift may depend on the resolution, so that buckets count by their images.
    """
    buckets = Counter(example.crop.bucket for example in plan.all_examples())
    generator = generator_for(settings.seed, "timestep distribution")
    counts = torch.zeros(N_PARTS)
    for (width, height), n in buckets.items():
        columns, rows = codec.size(width, height)
        n_tokens = process.count_tokens(torch.Size((1, codec.channels, rows, columns)))
        drawn = max(1, round(_N_DRAWN * n / buckets.total()))
        t = process.sample_timesteps(drawn, generator, settings, n_tokens).float()
        counts += torch.histc(t / process.num_timesteps, N_PARTS, min=0, max=1)
    return (counts / counts.sum()).tolist()
