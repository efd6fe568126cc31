"""What a trained adapter's file says is what its layer did, for every kind."""

from __future__ import annotations

import pytest
import torch

from dreambooth.checkpoints.lora import apply_lora, read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.training.adapters import AdapterLayer, Form, inject, weights_of

FORMS = {
    "LoRA": Form("LoRA", 4, 2.0),
    "LoCon": Form("LoRA", 4, 2.0, conv_rank=3, conv_alpha=1.5),
    "LoHa": Form("LoHa", 3, 1.0, conv_rank=2),
    "LoKr": Form("LoKr", 3, 1.0, conv_rank=2, conv_alpha=4.0, factor=4),
    "LoKr, both whole": Form("LoKr", 64, 1.0, conv_rank=64),
    "DoRA": Form("LoRA", 4, 2.0, conv_rank=2, dora=True),
    "DoRA of LoHa": Form("LoHa", 3, 0.0, conv_rank=2, dora=True),
    "DoRA of LoKr": Form("LoKr", 3, 1.0, conv_rank=2, dora=True),
}


@pytest.fixture
def trained(mini):
    """``trained(form)``: modules whose adapters took a few steps, and the adapters by name."""

    def make(form: Form):
        modules = load_modules(mini.working)
        modules.unet.requires_grad_(False)
        layers = inject(modules.unet, "unet", form, modules.layout, seed=1)
        layers |= inject(modules.text_encoder, "text_encoder", form, modules.layout, seed=1)
        parameters = [p for layer in layers.values() for p in layer.learned().values()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for step in range(4):
            _answer(modules, step).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return modules, layers

    return make


def _answer(modules, seed: int = 0) -> torch.Tensor:
    """What the unet says to noise, with the text encoder's embeddings of some tokens."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    tokens = torch.randint(0, 1000, (2, 77), generator=generator)
    text = modules.text_encoder(tokens)[0]
    return modules.unet(noise, torch.tensor([3, 700]), text).sample


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_file_read_and_merged_does_what_the_layers_did(trained, mini, tmp_path, form):
    live, layers = trained(form)
    path = tmp_path / "x.safetensors"
    write_lora(path, weights_of(layers), {})
    fresh, merged = load_modules(mini.working), load_modules(mini.working)
    assert apply_lora(merged, read_lora(path)) == len(layers)
    for component in ("unet", "text_encoder"):
        before, after = (
            dict(getattr(fresh, component).named_modules()),
            dict(getattr(merged, component).named_modules()),
        )
        for name, layer in getattr(live, component).named_modules():
            if isinstance(layer, AdapterLayer):
                wanted = layer.adapter().change(layer.weight)
                change = after[name].weight - before[name].weight
                assert (change - wanted).norm() < 1e-3 * wanted.norm(), name
    with torch.no_grad():
        base, ours, theirs = _answer(fresh), _answer(live), _answer(merged)
    assert (ours - base).abs().mean() > 1e-3, "the adapters do nothing"
    assert (ours - theirs).abs().mean() < 0.01 * (ours - base).abs().mean()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_at_first_nothing_changes(mini, form):
    fresh, modules = load_modules(mini.working), load_modules(mini.working)
    inject(modules.unet, "unet", form, modules.layout, seed=1)
    with torch.no_grad():
        assert torch.allclose(_answer(modules), _answer(fresh), atol=1e-5)


def test_a_dora_learns_directions_as_if_lengths_were_constants(mini):
    """The paper's section 4.3: the gradient of V is that of m / ||V|| * V with ||V|| held fixed."""
    modules = load_modules(mini.working)
    layers = inject(modules.unet.requires_grad_(False), "unet", Form("LoRA", 2, 2.0, dora=True), modules.layout, 1)
    layer = layers["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"]
    with torch.no_grad():
        layer.up.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
    layer(x).square().sum().backward()
    weight, down, up = layer.weight, layer.down.detach(), layer.up.detach().requires_grad_()
    direction = weight + up @ down
    scale = layer.magnitude.detach() / direction.detach().norm(dim=0, keepdim=True)
    torch.nn.functional.linear(x, direction * scale, layer.bias).square().sum().backward()
    assert torch.allclose(layer.up.grad, up.grad, rtol=1e-3, atol=1e-3)
    assert layer.magnitude.shape == (1, weight.shape[1]) and layer.magnitude.grad.any()
