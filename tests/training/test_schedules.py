"""Learning rates: equal to a reference at every step, to the plotted curve, and after resuming."""

from __future__ import annotations

import math

import pytest
import torch

from dreambooth.settings import Settings
from dreambooth.training.schedules import base_learning_rates, epochs_trained, learning_rate, lr_curves, warmup_steps
from dreambooth.ui.chart import learning_rate_chart

TOTAL, BASE = 40, 2e-4
LEAST = 1e-5


def _torch(make, **options):
    """The rates that one of torch's own schedulers gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=BASE)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def _warm(shape, warmup):
    """Up to the full rate in step ``warmup``, then ``shape`` over the fraction of the remaining steps."""
    up = [BASE * (step + 1) / (warmup + 1) for step in range(warmup)]
    return up + [BASE * shape((step - warmup) / (TOTAL - warmup)) for step in range(warmup, TOTAL)]


LR = torch.optim.lr_scheduler
REFERENCES = [
    ({"lr_scheduler": "constant"}, [BASE] * TOTAL),
    ({"lr_scheduler": "constant", "lr_factor": 0.25, "lr_scale_pos": 0.4},
     _torch(LR.ConstantLR, factor=0.25, total_iters=16)),
    ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 8}, _warm(lambda x: 1, 8)),
    ({"lr_scheduler": "linear"}, _warm(lambda x: 1 - x, 0)),
    ({"lr_scheduler": "linear", "lr_factor": 0.5, "lr_scale_pos": 0.5},
     [a * b / BASE for a, b in zip(_torch(LR.LinearLR, start_factor=0.5, total_iters=20), _warm(lambda x: 1 - x, 0),
                                   strict=True)]),
    ({"lr_scheduler": "linear_with_warmup", "lr_warmup_steps": 0.1}, _warm(lambda x: 1 - x, 4)),
    ({"lr_scheduler": "cosine", "lr_warmup_steps": 5}, _warm(lambda x: (1 + math.cos(math.pi * x)) / 2, 5)),
    ({"lr_scheduler": "cosine_with_restarts", "lr_cycles": 3, "lr_warmup_steps": 4},
     _warm(lambda x: (1 + math.cos(math.pi * (3 * x % 1))) / 2, 4)),
    ({"lr_scheduler": "cosine_annealing", "learning_rate_min": LEAST, "lr_scale_pos": 0.5},
     _torch(LR.CosineAnnealingLR, T_max=20, eta_min=LEAST)),
    ({"lr_scheduler": "cosine_annealing_with_restarts", "learning_rate_min": LEAST, "lr_scale_pos": 0.25},
     _torch(LR.CosineAnnealingWarmRestarts, T_0=10, eta_min=LEAST)),
    ({"lr_scheduler": "polynomial", "lr_power": 2.5, "lr_warmup_steps": 4}, _warm(lambda x: (1 - x) ** 2.5, 4)),
    ({"lr_scheduler": "rex", "lr_warmup_steps": 0.25}, _warm(lambda x: (1 - x) / (0.5 + 0.5 * (1 - x)), 10)),
    ({"lr_scheduler": "adafactor"}, [min(1e-2, (step + 1) ** -0.5) for step in range(TOTAL)]),
]  # fmt: skip
NAMES = [f"{chosen['lr_scheduler']}-{number}" for number, (chosen, _) in enumerate(REFERENCES)]


@pytest.mark.parametrize(("chosen", "expected"), REFERENCES, ids=NAMES)
def test_every_step_has_the_reference_rate_and_the_plotted_one(chosen, expected):
    settings = Settings(learning_rate=BASE, txt_learning_rate=BASE / 2, stop_text_encoder=0.5, **chosen)
    rates = [learning_rate(settings, BASE, step, TOTAL) for step in range(TOTAL)]
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-15)
    curves = lr_curves(settings, TOTAL)
    assert curves["denoiser"] == list(enumerate(rates, 1))
    text = [
        learning_rate(settings, base_learning_rates(settings)["text_encoder"], step, TOTAL)
        for step in range(TOTAL // 2)
    ]
    assert curves["text_encoder"] == list(enumerate(text, 1))


def test_all_schedules_have_a_reference():
    from dreambooth.settings.training import LR_SCHEDULES

    assert {chosen["lr_scheduler"] for chosen, _ in REFERENCES} == set(LR_SCHEDULES)


def test_a_long_curve_is_thinned_but_keeps_its_ends():
    settings = Settings(lr_scheduler="cosine", learning_rate=BASE, stop_text_encoder=0)
    (points,) = lr_curves(settings, 12_345).values()
    assert len(points) <= 250 and points[0][0] == 1 and points[-1][0] == 12_345
    assert all(rate == learning_rate(settings, BASE, step - 1, 12_345) for step, rate in points)


def test_warmup_is_steps_or_a_fraction():
    assert [warmup_steps(Settings(lr_warmup_steps=asked), 200) for asked in (0, 0.1, 1, 30)] == [0, 20, 1, 30]
    assert warmup_steps(Settings(lr_warmup_steps=30, lr_scheduler="constant"), 200) == 0


def test_the_plotted_curve_is_the_trained_one_resumed_or_not(train, models_dir, created, mini):
    """The logged rates of a run, and of one that was stopped and resumed, are those of the preflight."""
    import shutil

    from dreambooth.runs.preflight import preflight

    chosen = {"lr_scheduler": "cosine_with_restarts", "lr_cycles": 2, "lr_warmup_steps": 2, "seed": 5}
    undisturbed = train(**chosen)
    logged = [(event["step"], event["lr"]) for event in undisturbed.of("step")]
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    stopped = train(on=lambda event, controls: event.get("step") == 3 and controls.cancel(), **chosen)
    resumed = train(resume="latest", **chosen)
    parts = [(event["step"], event["lr"]) for run in (stopped, resumed) for event in run.of("step")]
    checked = preflight(mini, mini.load())
    assert logged == parts == checked.learning_rates["denoiser"]
    assert checked.as_dict()["learning_rates"]["unet"] == logged


def test_the_text_encoder_is_trained_for_its_fraction_of_the_steps(train, models_dir, created):
    """Trained in half of 6 steps, it has the weights of a run of 3 steps that trains it throughout."""
    import shutil

    def text_encoder_weights(**settings):
        weights = train(seed=5, **settings).weights()
        return {key: tensor for key, tensor in weights.items() if key.startswith("lora_te")}

    half = text_encoder_weights(stop_text_encoder=0.5)
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    throughout = text_encoder_weights(stop_text_encoder=1, max_train_steps=3)
    assert half.keys() == throughout.keys() and half
    assert all(torch.equal(half[key], throughout[key]) for key in half)


def test_the_page_plots_a_planned_run():
    curves = lr_curves(Settings(lr_scheduler="cosine", lr_warmup_steps=0.1), 1000)
    svg = learning_rate_chart(curves, {"denoiser": "UNet", "text_encoder": "text encoder"})
    assert svg.count("<polyline") == 2 and "step 1000" in svg and "UNet up to 2e-06" in svg


@pytest.mark.parametrize(
    ("total", "steps", "position", "epochs"),
    [
        (30, [3] * 10, (0, 0, 0), 10),
        (7, [3] * 10, (0, 0, 0), 3),  # limited steps: the third epoch is not finished
        (9, [3, 3, 3, 0, 0], (0, 0, 0), 3),  # all concepts have reached their limits
        (40, [4] * 10, (6, 2, 0), 11),  # began with 3 steps per epoch
        (30, [2] * 15, (7, 1, 3), 14),  # was resumed with larger batches in the middle of an epoch
        (30, [3] * 10, (30, 10, 0), 10),  # nothing left
    ],
)
def test_epochs_that_will_be_trained(total, steps, position, epochs):
    assert epochs_trained(total, steps, *position) == epochs
