"""AdamW in pure bfloat16 works on chunks: few launches, small temporaries, the numbers of AdamW."""

from __future__ import annotations

import math

import pytest
import torch

from dreambooth.training.chunks import in_chunks
from dreambooth.training.stochastic_rounding import StochasticRoundingAdamW
from tests.training.launches import Recorded

SHAPES = [(7,), (64, 33, 3, 3), (1,), (129, 17), (40, 50)]


def _optimizer(chunk: int, copies: int = 1) -> tuple[StochasticRoundingAdamW, list[torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES * copies]
    weights[1] = weights[1].to(memory_format=torch.channels_last)  # not contiguous: it can't be cut
    params = [torch.nn.Parameter(weight.bfloat16()) for weight in weights]
    optimizer = StochasticRoundingAdamW(params, seed=3, lr=1e-3)
    optimizer.chunk = chunk
    return optimizer, params


def _give_gradients(params: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).bfloat16()


@pytest.mark.parametrize("copies", [1, 20])
def test_launches_depend_on_chunks_and_temporaries_on_their_size(copies):
    optimizer, params = _optimizer(chunk=25_000, copies=copies)
    _give_gradients(params, 0)
    optimizer.step()  # makes the moments
    _give_gradients(params, 1)
    with Recorded() as recorded:
        optimizer.step(found_inf=torch.tensor(False))
    n_chunks = len(list(in_chunks(params, 25_000)))
    assert n_chunks <= 2 + math.ceil(sum(p.numel() for p in params) / 25_000)
    assert recorded.launches <= 14 * n_chunks + 20
    assert recorded.largest <= 3 * 25_000


@pytest.mark.parametrize("chunk", [1000, 25_000, 1 << 24])
def test_chunks_of_any_size_take_the_steps_of_adamw(chunk):
    """Rounding moves a value by less than one unit of bfloat16: 2 ** -7 of it."""
    optimizer, params = _optimizer(chunk)
    _give_gradients(params, 0)
    exact = [torch.nn.Parameter(p.detach().float()) for p in params]
    reference = torch.optim.AdamW(exact, lr=1e-3, weight_decay=0.01)
    for p, e in zip(params, exact, strict=True):
        assert p.grad is not None
        e.grad = p.grad.float()
    optimizer.step()
    reference.step()
    for p, e in zip(params, exact, strict=True):
        torch.testing.assert_close(p.float(), e, rtol=2**-7, atol=1e-30)
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[p][key].float(), reference.state[e][key], rtol=2**-7, atol=1e-30)
    changed = [bool((p != e.detach().bfloat16()).any()) for p, e in zip(params, exact, strict=True)]
    assert any(changed), "some values are rounded away from the nearest"


def test_chunks_cover_every_element_once():
    tensors = [torch.arange(n) for n in (3, 10, 1, 4)]
    chunks = [[part.of(tensors).tolist() for part in chunk] for chunk in in_chunks(tensors, 4)]
    assert chunks == [[[0, 1, 2], [0]], [[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9], [0], [0, 1]], [[2, 3]]]


def test_a_step_that_is_not_finite_leaves_weights_and_moments():
    optimizer, params = _optimizer(chunk=1000)
    for step in range(2):
        _give_gradients(params, step)
        optimizer.step()
    state = [optimizer.state[p][key] for p in params for key in ("exp_avg", "exp_avg_sq")]
    before = [tensor.clone() for tensor in [*params, *state]]
    _give_gradients(params, 2)
    grad = params[0].grad
    assert grad is not None
    grad[0] = math.nan
    optimizer.step(found_inf=torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(before, [*params, *state], strict=True))
