"""Optimizers with small states on weights in pure bfloat16, with stochastic rounding."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from dreambooth.memory.forecast import GRADIENT_BATCH, ModelSize, forecast_memory
from dreambooth.models.sd.size_estimates import size_estimate
from dreambooth.runs.consistency import precision_problems
from dreambooth.settings import Folders, ModelFolder, Settings
from dreambooth.settings.training import GLOBAL_OPTIMIZERS, OPTIMIZERS
from dreambooth.training.optimizer_kinds import OPTIMIZER_KINDS
from dreambooth.training.optimizers import (
    load_optimizer_state,
    make_optimizer,
    make_stepper,
    optimizer_state,
    parameter_groups,
)
from dreambooth.training.rounded_adafactor import StochasticRoundingAdafactor
from dreambooth.training.rounded_optimizer import StochasticRounding
from dreambooth.training.snapshot import Position, Snapshot, read_snapshot, write_snapshot
from tests.training.launches import Recorded
from tests.training.test_optimizer_kinds import made_here

NAMES = [name for name in OPTIMIZERS if name not in GLOBAL_OPTIMIZERS]
SHAPES = [(20, 6, 3, 3), (96, 64), (7,), (5000,)]
BF16 = {"use_lora": False, "save_ckpt_after": False, "mixed_precision": "bf16", "full_mixed_precision": True,
        "max_grad_norm": 0.0, "learning_rate": 1e-3, "txt_learning_rate": 1e-4}  # fmt: skip


def _needs(name: str) -> None:
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")


class Toy:
    def __init__(self, name: str, weights: list[torch.Tensor] | None = None, **settings) -> None:
        generator = torch.Generator().manual_seed(3)
        start = weights or [torch.randn(shape, generator=generator).bfloat16() for shape in SHAPES]
        self.parameters = [torch.nn.Parameter(w.clone()) for w in start]
        self.settings = Settings(
            **{
                "optimizer": name,
                "full_mixed_precision": True,
                "use_lora": False,
                "max_grad_norm": 0.0,
                "learning_rate": 1e-2,
                "txt_learning_rate": 1e-2,
                **settings,
            }
        )
        groups = parameter_groups(self.settings, self.parameters[:2], self.parameters[2:])
        self.optimizer = make_optimizer(self.settings, groups)
        self.stepper = make_stepper(self.optimizer, self.settings, None)

    def step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        noise = [torch.randn(p.shape, generator=generator) for p in self.parameters]
        losses = [(p.float() + n).square().sum() for p, n in zip(self.parameters, noise, strict=True)]
        torch.stack(losses).sum().backward()
        self.stepper.step()


@pytest.mark.parametrize("name", NAMES)
def test_the_average_update_is_that_of_float32_weights(name):
    """Updates far below what bfloat16 can tell from 1, by 8000 weights that are the same."""
    _needs(name)

    def moved(dtype):
        weight = torch.nn.Parameter(torch.ones(8000, 4, dtype=dtype))
        settings = Settings(optimizer=name, full_mixed_precision=dtype == torch.bfloat16, use_lora=False,
                            learning_rate=2e-5, weight_decay=0.0)  # fmt: skip
        optimizer = make_optimizer(settings, parameter_groups(settings, [weight], []))
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        assert weight.dtype == dtype and weight.shape == (8000, 4)
        return (1 - weight.float()).mean().item()

    exact = moved(torch.float32)
    assert exact > 1e-4 and moved(torch.bfloat16) == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_goes_on_exactly_from_a_snapshot(name, fused, tmp_path):
    _needs(name)
    alone, stopped = Toy(name, fused_backward=fused), Toy(name, fused_backward=fused)
    start = copy.deepcopy(alone.parameters)
    for step in range(6):
        alone.step(step)
    for step in range(3):
        stopped.step(step)
    model = ModelFolder(Folders(tmp_path), "toy")
    weights = {str(i): p.detach() for i, p in enumerate(stopped.parameters)}
    write_snapshot(model, 1, Snapshot(Position(), weights, optimizer_state(stopped.optimizer)), keep=0)
    found = read_snapshot(model)
    resumed = Toy(name, [found.tensors[str(i)].bfloat16() for i in range(len(weights))], fused_backward=fused)
    load_optimizer_state(resumed.optimizer, found.optimizer)
    for step in range(3, 6):
        resumed.step(step)
    for a, b, before in zip(alone.parameters, resumed.parameters, start, strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all() and not torch.equal(a, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_finite_changes_nothing(name):
    _needs(name)
    toy = Toy(name)
    toy.step(0)
    before = copy.deepcopy([p.detach() for p in toy.parameters])
    toy.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    toy.step(1)
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters, before, strict=True))


def test_adafactor_factors_convolutions_by_their_output_channels():
    """(out, in * 3 * 3): a row and a column. Of the last two axes it would keep two thirds of the weight."""
    toy = Toy("Adafactor")
    toy.step(0)
    state = toy.optimizer.state[toy.parameters[0]]
    assert (state["exp_avg_sq_row"].shape, state["exp_avg_sq_col"].shape) == ((20,), (6 * 9,))
    assert toy.parameters[0].shape == SHAPES[0] and state["exp_avg_sq_row"].dtype == torch.float32


def test_the_forecast_counts_small_states():
    """SD 1.5: weights, gradients and states of AdamW take 2 + 2 + 4 bytes, of 8-bit AdamW 2 + 2 + 2."""
    size = ModelSize(860_000_000, 0, size_estimate(860_000_000))

    def memory(name, **settings):
        bf16 = Settings(optimizer=name, full_mixed_precision=True, use_lora=False, stop_text_encoder=0.0, **settings)
        return forecast_memory(bf16, "bf16", size, False)

    assert memory("Torch AdamW") - memory("8bit AdamW") == 2 * 860e6
    saved = memory("8bit AdamW") - memory("8bit AdamW", fused_backward=True)
    assert saved == pytest.approx(2 * 860e6 - (2 + 8) * GRADIENT_BATCH, abs=0.25e9)
    assert memory("Adafactor", fused_backward=True) < 860e6 * 2.1 + 0.6e9


def test_optimizers_that_need_all_weights_are_refused():
    settings = Settings(optimizer="Prodigy", full_mixed_precision=True, use_lora=False)
    (problem,) = precision_problems(settings, "bf16", torch.device("cpu"))
    assert problem.startswith("optimizer: Prodigy") and "Choose Torch AdamW, 8bit AdamW or Adafactor" in problem


def test_batches_bound_the_float32_copies(monkeypatch):
    """Of weights in a step: no more than one batch is in float32 at a time."""
    toy, seen = Toy("SGD Nesterov"), []
    assert isinstance(toy.optimizer, StochasticRounding)
    inner = toy.optimizer.optimizer
    monkeypatch.setattr(toy.optimizer, "batch", 1)
    original = inner.step

    def step():
        seen.append([p.dtype for p in toy.parameters])
        original()

    monkeypatch.setattr(inner, "step", step)
    toy.step(0)
    assert len(seen) == len(toy.parameters) and all(dtypes.count(torch.float32) == 1 for dtypes in seen)


@pytest.mark.parametrize("settings", [{}, {"lr_scheduler": "adafactor"}, {"optimizer_args": "beta1=0.9"}], ids=str)
def test_adafactor_is_that_of_transformers(settings):
    """Bit for bit, with fewer launches; in chunks of rows up to the order of sums, with small temporaries."""
    ours, chunked, theirs = (Toy("Adafactor", **settings) for _ in range(3))
    assert isinstance(chunked.optimizer, StochasticRoundingAdafactor)
    chunked.optimizer.chunk = 700
    assert isinstance(theirs.optimizer, StochasticRounding)
    library = StochasticRounding(theirs.optimizer.optimizer, theirs.settings.seed)
    theirs.optimizer = theirs.stepper.optimizer = library
    launches = []
    for step in range(3):
        for toy in (ours, chunked, theirs):
            with Recorded() as recorded:
                toy.step(step)
            launches.append(recorded.launches)
    assert launches[0] < launches[2] or settings
    for p, q, r in zip(ours.parameters, chunked.parameters, theirs.parameters, strict=True):
        assert torch.equal(p, r)
        assert (q.float() - r.float()).abs().max() <= 2**-7 * r.float().abs().max(), "rounded to a neighbor"
        states = [toy.optimizer.state[x] for toy, x in ((ours, p), (chunked, q), (theirs, r))]
        assert states[0].keys() == states[1].keys() == states[2].keys()
        for key, value in states[2].items():
            if key == "RMS" and "lr_scheduler" not in settings:
                continue  # of no use then
            torch.testing.assert_close(torch.as_tensor(states[0][key]), torch.as_tensor(value), rtol=0, atol=0)
            torch.testing.assert_close(torch.as_tensor(states[1][key]), torch.as_tensor(value), rtol=1e-2, atol=1e-6)


def test_adafactor_computes_large_weights_in_rows():
    weight = torch.nn.Parameter(torch.ones(64, 50, 3, 3, dtype=torch.bfloat16))
    settings = Settings(optimizer="Adafactor", full_mixed_precision=True, use_lora=False)
    optimizer = make_optimizer(settings, parameter_groups(settings, [weight], []))
    assert isinstance(optimizer, StochasticRoundingAdafactor)
    optimizer.chunk = 1000
    weight.grad = torch.ones_like(weight)
    with Recorded() as recorded:
        optimizer.step()
    assert recorded.largest <= 1000 and bool((weight != 1).any())


@pytest.mark.parametrize("name", ["Adafactor", "8bit AdamW"])
def test_a_fused_run_stopped_and_resumed_is_the_undisturbed_run(train, models_dir, created, name):
    _needs(name)
    settings = {**BF16, "optimizer": name, "fused_backward": True, "num_train_epochs": 3, "seed": 5}
    alone = train(**settings)
    assert alone.error is None and alone.losses[-1] < alone.losses[0] * 1.5
    expected = alone.digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    train(on=lambda e, c: e["kind"] == "step" and e["step"] == 3 and c.cancel(), **settings)
    resumed = train(resume="latest", **settings)
    assert "differs from the original" not in resumed.messages and resumed.digest() == expected


def test_an_8_bit_optimizer_trains_on_the_cpu_and_resumes_exactly(train, models_dir, created):
    _needs(name := "8bit AdamW")
    settings = {"use_lora": False, "save_ckpt_after": False, "optimizer": name, "seed": 5}
    alone = train(**settings)
    assert alone.error is None
    expected = alone.digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    train(on=lambda e, c: e["kind"] == "step" and e["step"] == 2 and c.cancel(), **settings)
    resumed = train(resume="latest", **settings)
    assert "differs from the original" not in resumed.messages and resumed.digest() == expected
