"""Full training in pure bfloat16, EMA on the CPU and in bfloat16, attention, determinism."""

from __future__ import annotations

import dataclasses
import inspect
import os

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.modules import load_component
from dreambooth.errors import UserError
from dreambooth.memory.forecast import ModelSize, forecast_memory
from dreambooth.models.sd.size_estimates import size_estimate
from dreambooth.runs.consistency import precision_problems
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Settings
from dreambooth.settings.legacy import upgrade
from dreambooth.training import attention, session
from dreambooth.training.chunks import in_chunks
from dreambooth.training.ema import EMA
from dreambooth.training.stochastic_rounding import StochasticRoundingAdamW, stochastic_round
from tests.training.conftest import SMALL, tensors
from tests.training.launches import Recorded

CPU = torch.device("cpu")
SD1_SIZE = ModelSize(860_000_000, 123_000_000, size_estimate(860_000_000))
BF16 = {"use_lora": False, "save_ckpt_after": False, "mixed_precision": "bf16", "full_mixed_precision": True, "seed": 5,
        "num_train_epochs": 3}  # fmt: skip


def test_stochastic_rounding_is_exact_on_average_and_gives_a_neighbor():
    exact = torch.tensor([1.0 + 0.3 / 128, -2.0 - 0.9 / 64, 3e-9, 0.0, 1.5])
    sums, generator = torch.zeros(5, dtype=torch.float64), torch.Generator().manual_seed(0)
    n = 4000
    for _ in range(n):
        rounded = torch.empty(5, dtype=torch.bfloat16)
        stochastic_round(rounded, exact, generator)
        assert ((rounded.float() - exact).abs() <= exact.abs() / 128).all()
        sums += rounded.double()
    assert torch.allclose(sums / n, exact.double(), rtol=3e-4)
    assert rounded[3:].tolist() == [0.0, 1.5]  # exactly representable values are unchanged


def test_small_steps_add_up_where_rounding_to_nearest_would_lose_them():
    """200 steps of 1e-5 from 1.0: each is an 800th of what bfloat16 can tell from 1."""
    rounded = torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
    reference = torch.nn.Parameter(torch.ones(1))
    ours = StochasticRoundingAdamW([rounded], seed=1, lr=1e-5, weight_decay=0)
    theirs = torch.optim.AdamW([reference], lr=1e-5, weight_decay=0)
    for _ in range(200):
        rounded.grad, reference.grad = torch.ones_like(rounded), torch.ones_like(reference)
        ours.step()
        theirs.step()
    assert rounded.float().mean().item() == pytest.approx(reference.item(), abs=1e-4)
    assert rounded.dtype == torch.bfloat16 and ours.state[rounded]["exp_avg"].dtype == torch.bfloat16


def test_the_same_seed_and_step_round_the_same():
    def run(seed):
        weight = torch.nn.Parameter(torch.ones(500, dtype=torch.bfloat16))
        optimizer = StochasticRoundingAdamW([weight], seed=seed, lr=1e-4)
        for _ in range(3):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach().float()

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_pure_bf16_trains_samples_and_resumes_exactly(train, mini, models_dir, created):
    import shutil

    settings = {**BF16, "use_ema": True, "infer_ema": True, "learning_rate": 1e-4, "optimizer_args": "eps=1e-7"}
    alone = train(**settings)
    assert alone.error is None and alone.losses[-1] < alone.losses[0] * 1.5
    weights = alone.weights()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)

    def disturb(event, controls):
        if event["kind"] == "step" and event["step"] == 3:
            controls.sample_now()
            controls.cancel()

    stopped = train(on=disturb, **settings)
    assert "failed" not in stopped.messages
    resumed = train(resume="latest", on=lambda e, c: e.get("step") == 5 and e["kind"] == "step" and c.sample_now(),
                    **settings)  # fmt: skip
    assert (
        resumed.of("preview")
        and "differs from the original" not in resumed.messages
        and "failed" not in resumed.messages
    )
    again = resumed.weights()
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_pure_bf16_needs_less_than_half_the_memory():
    def bytes_for(**more):
        settings = Settings(use_lora=False, stop_text_encoder=0, **more)
        return forecast_memory(settings, "bf16", SD1_SIZE, False) - 0.31e9 - 123e6 * 2

    assert bytes_for(full_mixed_precision=True) < 0.5 * bytes_for()
    n_bytes = [bytes_for(use_ema=True, ema_precision=kind) - bytes_for() for kind in ("fp32", "bf16")]
    assert n_bytes == [860e6 * 4, 860e6 * 2]


def test_impossible_settings_are_reported_before_the_run(mini, concept):
    def problems(**settings):
        try:
            preflight(mini, actions.configure(mini, {**SMALL, "use_lora": False, **settings}, [concept]))
        except UserError as error:
            return error.problems
        return []

    assert "bf16" in problems(full_mixed_precision=True, mixed_precision="no")[0]
    in_bf16 = Settings(use_ema=True, ema_precision="bf16")
    assert precision_problems(in_bf16, "no", torch.device("mps")) and not precision_problems(in_bf16, "no", CPU)
    assert not problems(full_mixed_precision=True, mixed_precision="bf16")
    odd = problems(full_mixed_precision=True, mixed_precision="bf16", optimizer_args="eps=1e-6, amsgrad=True")
    assert len(odd) == 1 and "amsgrad" in odd[0]
    assert (
        "needs a GPU" in problems(attention="xformers")[0]
        and attention.unavailable_reason("default", torch.device("cpu")) == ""
    )
    old = {"full_mixed_precision": True, "mixed_precision": "fp16"}
    values, notes = upgrade(old)
    assert values["full_mixed_precision"] is False and "bf16" in notes[0]


@pytest.mark.parametrize("kept_in", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_on_the_cpu_is_the_same_average(dtype, kept_in):
    live = [torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(i)).to(dtype)) for i in range(3)]
    here, there = (EMA(live, 0.9, on_cpu=on_cpu, dtype=kept_in) for on_cpu in (False, True))
    for step in range(4):
        for parameter in live:
            parameter.data += 0.1 * step
        here.update()
        there.update()
    assert all(torch.equal(a, b) for a, b in zip(here.shadow_params, there.shadow_params, strict=True))
    assert {a.device.type for a in there.shadow_params} == {"cpu"}
    before = [p.detach().clone() for p in live]
    there.swap()
    assert all(torch.equal(p.float(), a) for p, a in zip(live, here.shadow_params, strict=True))
    there.swap()
    assert all(torch.equal(p, b) and p.dtype == dtype for p, b in zip(live, before, strict=True))


@pytest.mark.parametrize(("decay", "on_cpu", "every"), [(0.05, False, 1), (0.15, True, 1), (0.05, False, 2)])
def test_the_ema_of_a_run_has_the_decay_and_the_device_of_the_settings(train, mini, monkeypatch, decay, on_cpu, every):
    """Both decays lie below the warm-up's first value, 2 / 11, so that they hold from the first update on."""
    made, weights = [], []

    class WatchedEMA(EMA):
        def __init__(self, parameters, *arguments, **more):
            super().__init__(parameters, *arguments, **more)
            made.append(inspect.signature(EMA).bind(parameters, *arguments, **more).arguments)
            self.watched = list(parameters)
            weights.append([p.detach().double() for p in parameters])

        def update(self):
            weights.append([p.detach().double() for p in self.watched])
            super().update()

    monkeypatch.setattr(session, "EMA", WatchedEMA)
    settings = {"use_lora": False, "save_ckpt_after": False, "learning_rate": 1e-2, "use_ema": True}
    outcome = train(**settings, ema_decay=decay, ema_on_cpu=on_cpu, ema_update_every=every, max_train_steps=3)
    assert outcome.error is None and len(weights) == 1 + 3
    assert [arguments.get("on_cpu", False) for arguments in made] == [on_cpu]
    expected = weights[0]
    for live in weights[every::every]:
        expected = [decay**every * mean + (1 - decay**every) * now for mean, now in zip(expected, live, strict=True)]
    names = [name for name, _ in load_component(mini.working, "unet").named_parameters()]
    saved = tensors(next((mini.working / "ema_unet").glob("*.safetensors")))
    for name, mean, last in zip(names, expected, weights[-1], strict=True):
        torch.testing.assert_close(saved[name].double(), mean, rtol=2e-3, atol=1e-5)  # saved in half precision
        assert last.ndim < 2 or not torch.allclose(mean, last, rtol=2e-3, atol=1e-5), name


@pytest.mark.parametrize("kept_in", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_an_ema_of_bf16_weights_is_updated_in_chunks(on_cpu, kept_in):
    """No copy of all weights is made, the launches are few, and the average does not depend on the chunks."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(37,), (30, 40), (5, 5)] * 20
    live = [torch.nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in shapes]
    averages = []
    for chunk in (1000, 1 << 24):
        ema = EMA(live, 0.5, on_cpu, dtype=kept_in)
        ema.load([torch.ones_like(p, dtype=kept_in) for p in live], 100)
        ema.chunk = chunk
        with Recorded() as recorded:
            ema.update()
        n_chunks = len(list(in_chunks(live, chunk)))
        assert recorded.launches <= 12 * n_chunks + 4 and recorded.largest <= chunk
        averages.append(ema.shadow_params)
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))


@pytest.mark.parametrize(("on_cpu", "device"), [(True, "cpu"), (False, "meta")])
def test_an_ema_on_the_cpu_takes_no_memory_where_the_weights_are(on_cpu, device):
    class NotLoaded(EMA):
        def load(self, ema_weights, updates):
            """Nothing can be copied from the meta device, which stands for a GPU here."""

    (shadow,) = NotLoaded([torch.nn.Parameter(torch.empty(3, device="meta"))], 0.9, on_cpu).shadow_params
    assert shadow.device.type == device
    settings = Settings(use_lora=False, use_ema=True, ema_precision="fp32")

    def bytes_for(settings):
        return forecast_memory(settings, "bf16", SD1_SIZE, False)

    without = bytes_for(dataclasses.replace(settings, use_ema=False))
    expected = 0 if on_cpu else 860_000_000 * 4
    assert bytes_for(dataclasses.replace(settings, ema_on_cpu=on_cpu)) - without == expected


def test_ema_in_bf16_moves_as_far_as_in_float32_and_resumes_exactly():
    """500 updates by a 10,000th of the distance each: bfloat16 can't tell one of them from 1."""
    live = [torch.nn.Parameter(torch.full((20_000,), 1.5))]

    def moved(dtype, stop_at=500):
        ema = EMA(live, 0.9999, dtype=dtype, seed=7)
        ema.load([torch.ones(20_000)], 10**6)  # long after the warm-up
        for step in range(500):
            if step == stop_at:
                before, ema = ema, EMA(live, 0.9999, dtype=dtype, seed=7)
                ema.load(before.shadow_params, before.updates)
            ema.update()
        return ema.shadow_params[0]

    exact, ours = moved(torch.float32), moved(torch.bfloat16)
    assert ours.dtype == torch.bfloat16 and torch.equal(moved(torch.bfloat16, stop_at=250), ours)
    expected = exact.mean().item()
    assert expected == pytest.approx(1.5 - 0.5 * 0.9999**500, abs=1e-4)
    assert ours.float().mean().item() == pytest.approx(expected, abs=1e-3)


def test_an_ema_swap_that_fails_halfway_is_undone(monkeypatch):
    live = [torch.nn.Parameter(torch.full((3,), float(i))) for i in range(3)]
    ema = EMA(live, 0.9, on_cpu=True)
    for mine in ema.shadow_params:
        mine += 10

    class Refuses:
        def to(self, *_):
            raise torch.OutOfMemoryError("out of memory")

    original = ema.shadow_params[2]
    ema.shadow_params[2] = Refuses()
    with pytest.raises(torch.OutOfMemoryError):
        ema.swap()
    ema.shadow_params[2] = original
    assert [p[0].item() for p in live] == [0, 1, 2] and [a[0].item() for a in ema.shadow_params] == [10, 11, 12]


def test_deterministic_applies_to_the_run_and_is_reset(train):
    cudnn = torch.backends.cudnn

    def flags_now():
        return (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
                cudnn.deterministic, cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))  # fmt: skip

    before, during = flags_now(), []
    train(max_train_steps=1, deterministic=True, on=lambda e, c: e["kind"] == "step" and during.append(flags_now()))
    assert during == [(True, True, True, False, ":4096:8")] and flags_now() == before
    during.clear()
    train(max_train_steps=1, deterministic=False, on=lambda e, c: e["kind"] == "step" and during.append(flags_now()))
    assert during == [before]


def test_previews_use_ema_weights_if_enabled(train, mini, tmp_path):
    """The last preview is generated with the EMA weights in working/, not with those of the last step."""
    import numpy as np
    from PIL import Image

    from dreambooth.sampling.generate import SampleRequest

    settings = {"use_lora": False, "save_ckpt_after": False, "learning_rate": 1e-2, "use_ema": True, "infer_ema": True}
    outcome = train(**settings, sanity_prompt="a red star", samples=0)
    (preview,) = (event["path"] for event in outcome.of("preview"))

    def sampled_with(infer_ema):
        mini.save(actions.configure(mini, {"infer_ema": infer_ema}))
        request = SampleRequest("a red star", seed=Settings().sanity_seed, width=64, height=64)
        (path,) = actions.sample(mini, [request], tmp_path / str(infer_ema))
        return np.asarray(Image.open(path)).astype(int)

    preview_pixels = np.asarray(Image.open(preview)).astype(int)
    assert (
        np.abs(preview_pixels - sampled_with(True)).max() <= 1
        and np.abs(preview_pixels - sampled_with(False)).mean() > 2
    )
