"""Training of the mini Z-Image: the fast forward pass is the module's, and its files hold what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tools.mini_model import fused_norms
from tools.mini_model.images import render_images
from tools.mini_model.qwen_tokenizer import CONTEXT, toy_names
from tools.mini_model.vae import FLUX_VAE, new_vae
from tools.mini_model.zimage_convert import convert_zimage, module_states
from tools.mini_model.zimage_networks import TEXT_WIDTH, FastForward, new_transformer
from tools.mini_model.zimage_training import FlowTraining

BATCH = 3


@pytest.fixture
def transformer() -> Any:
    """With weights that none of its operations ignores."""
    torch.manual_seed(0)
    transformer = new_transformer()
    for parameter in transformer.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return transformer


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    """Latents, time, states and lengths."""
    torch.manual_seed(1)
    lengths = torch.tensor([12, 29, CONTEXT])
    return torch.randn(BATCH, 16, 16, 16), torch.rand(BATCH), torch.randn(BATCH, CONTEXT, TEXT_WIDTH), lengths


def gradients(transformer: Any, inputs: tuple[torch.Tensor, ...], mixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of the fast forward pass, and the gradients of all weights."""
    transformer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = FastForward(transformer)(*inputs)
    output.square().mean().backward()
    return output.detach(), torch.cat([p.grad.flatten() for p in transformer.parameters() if p.grad is not None])


def test_fast_forward_pass_is_that_of_the_module(transformer, inputs):
    latents, time, states, lengths = inputs
    prompts = [own[:length] for own, length in zip(states, lengths.tolist(), strict=True)]
    with torch.no_grad():
        expected = transformer(list(latents.unsqueeze(2)), time, prompts)[0]
        made = FastForward(transformer)(*inputs)
    assert torch.allclose(made, torch.stack(list(expected)).squeeze(2), atol=1e-5)


@pytest.mark.skipif(not fused_norms.is_available(), reason="needs a C compiler")
def test_fused_operations_are_as_close_to_float32_as_separate_ones(transformer, inputs, monkeypatch):
    expected = gradients(transformer, inputs, mixed=False)
    fused = gradients(transformer, inputs, mixed=True)
    monkeypatch.setattr(fused_norms, "is_available", lambda: False)
    separate = gradients(transformer, inputs, mixed=True)
    for own, other, exact in zip(fused, separate, expected, strict=True):
        assert (own - exact).norm() < 1.2 * (other - exact).norm() + 1e-3 * exact.norm()
    assert not torch.equal(fused[0], separate[0]), "they were not used"


def test_a_training_goes_on_where_it_was_saved_and_its_file_holds_the_model(tmp_path: Path) -> None:
    render_images(tmp_path, toy_names(160), captioned=8, cluttered=1)
    torch.save(torch.randn(8, 16, 16, 16), tmp_path / "latents_0.pt")
    torch.save(new_vae(FLUX_VAE).state_dict(), tmp_path / "vae.pt")
    training = FlowTraining(tmp_path, batch=4, learning_rate=1e-2)
    before = [parameter.detach().clone() for parameter in training.parameters]
    for _ in range(2):
        training.step()
        training.update(progress=0.5)
    training.save(elapsed=7.0)
    assert not any(torch.equal(own, other) for own, other in zip(training.parameters, before, strict=True))
    resumed = FlowTraining(tmp_path, batch=4, learning_rate=1e-2)
    assert (resumed.resume(), resumed.step_count) == (7.0, 2)
    assert all(torch.equal(own, other) for own, other in zip(training.parameters, resumed.parameters, strict=True))
    convert_zimage(tmp_path, tmp_path / "mini.safetensors")
    model = torch.load(tmp_path / "model.pt")
    states = module_states(load_file(tmp_path / "mini.safetensors"))
    for state, saved in zip(states, (model["transformer"], model["text_encoder"]), strict=False):
        assert state.keys() == saved.keys()
        assert all(torch.equal(value, saved[key].half().float()) for key, value in state.items())
