"""Regularization images among the instance images: losses by weight, and exactly resumed runs."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dreambooth import actions
from dreambooth.dataset.plan import Batch, Example
from dreambooth.images.buckets import Crop
from dreambooth.jobs import Controls, Events
from dreambooth.models.conditioning import Conditioning
from dreambooth.models.process import DDPM
from dreambooth.models.sd.unet_denoiser import UNetDenoiser
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, Settings
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses
from tests.training.conftest import SMALL, Outcome

CROP = Crop(64, 64, 0, 0, 64, 64)


def _image(number: int, is_class: bool) -> Example:
    return Example(None, "x", "x", 0, is_class, f"{number}", (64, 64), CROP)


@pytest.mark.parametrize(("of_class", "class_images"), [([0, 1, 0, 1], 0), ([1, 1], 0), ([0, 1], 1)])
@pytest.mark.parametrize("settings", [Settings(), Settings(min_snr_gamma=5), Settings(split_loss=False)])
def test_one_mean_in_which_they_count_their_weight(of_class, class_images, settings):
    n = len(of_class) + class_images
    latents = torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = Batch(
        tuple(_image(i, bool(c)) for i, c in enumerate(of_class)),
        tuple(_image(i, True) for i in range(class_images)),
    )

    def losses_of(batch, latents):
        return diffusion_losses(
            UNetDenoiser(_Unet()), DDPM({}), SimpleNamespace(batch=lambda examples, generator: latents),
            SimpleNamespace(batch=lambda captions: Conditioning({"states": torch.zeros(len(captions), 77, 8)})), None,
            batch, generator_for(7, 0), settings, prior_weight=0.3,
        )  # fmt: skip

    generator = generator_for(7, 0)
    t = torch.randint(1000, (n,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    each = torch.stack([F.mse_loss(0.5 * torch.ones_like(noise[i]), noise[i]) for i in range(n)])
    if settings.min_snr_gamma:  # weighted by the timestep too: min(SNR, gamma) / SNR, as the unet predicts noise
        alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)
        snr = (alphas_cumprod / (1 - alphas_cumprod))[t]
        assert snr.min() < settings.min_snr_gamma < snr.max()
        each = each * (snr.clamp(max=settings.min_snr_gamma) / snr).float()
    got = losses_of(batch, latents)
    weights = torch.tensor([0.3 if c and settings.split_loss else 1.0 for c in of_class])
    main = (each[: len(of_class)] * weights).mean()
    expected = main if not class_images else main + 0.3 * each[-1] if settings.split_loss else each.mean()
    assert torch.isclose(got.total, expected) and torch.isclose(got.instance, main)
    assert (got.prior is None) == (not class_images)


class _Unet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, noisy, t, encoder_hidden_states, return_dict, added_cond_kwargs=None):
        return (self.one * torch.full_like(noisy, 0.5),)


@pytest.fixture
def run(mini, images):
    """``run(resume="", on=None, **settings)`` with a concept of regularization images, caption lines and wildcards."""
    words = {"caption_lines": "random", "wildcards": True, "save_infer_steps": 2, "n_save_sample": 1}
    learned_concept = Concept(instance_data_dir=str(images / "instance"), num_repeats=1,
                      instance_prompt="{a|my} [filewords]", **words)  # fmt: skip
    regular = Concept(instance_data_dir=str(images / "class"), regularization=True, hflip="on", **words)

    def train(resume="", on=None, **settings):
        controls, recorded = Controls(), []
        listeners = [recorded.append] + ([lambda event: on(event, controls)] if on else [])
        config = actions.configure(mini, {**SMALL, "validation_every": 5, **settings}, [learned_concept, regular])
        events = Events(mini.logging, *listeners)
        result = actions.train(mini, config, resume=resume, controls=controls, events=events)
        return Outcome(result, recorded, None, mini)

    return train


def test_a_disturbed_run_is_the_undisturbed_one(run, mini, models_dir, created):
    left_alone = run(stop_text_encoder=0, save_preview_every=1)
    assert len(left_alone.losses) == 2 * len(_batches(mini)) and left_alone.of("preview")
    weights = left_alone.digest()

    def afresh():
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)

    afresh()
    stopped = run(stop_text_encoder=0, on=lambda event, controls: event.get("step") == 3 and controls.cancel())
    assert stopped.result.steps == 3
    resumed = run(stop_text_encoder=0, resume="latest")
    assert "differs from the original" not in resumed.messages
    assert resumed.digest() == weights
    afresh()
    assert run(stop_text_encoder=0, prior_loss_weight=3).digest() != weights


def _batches(mini):
    config = mini.load()
    plan = preflight(mini, config).plan
    batches = plan.epoch(config.settings.seed, 0, 2)
    shown = [example.is_class for batch in batches for example in batch.instances]
    assert sum(shown) == len(shown) - sum(shown) == 5
    return batches


def test_the_check_counts_them(run, mini, images):
    config = actions.configure(mini, SMALL, [Concept(instance_data_dir=str(images / "instance"))])
    regular = Concept(instance_data_dir=str(images / "class"), regularization=True, default_caption="toy")
    with_them = dataclasses.replace(config, concepts=(*config.concepts, regular))
    alone, both = (preflight(mini, each).as_dict() for each in (config, with_them))
    assert (alone["class_pictures"], both["class_pictures"]) == (0, 3)
    assert both["steps_per_epoch"] > alone["steps_per_epoch"]
    assert [row["repeats"] for row in both["table"] if row["kind"] == "class"] == [2, 2, 1]
