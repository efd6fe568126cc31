"""The file of a trained adapter has the same effect as its layer in training, for every kind."""

from __future__ import annotations

import pytest
import torch

from dreambooth.checkpoints.lora import apply_lora
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.training.adapters import AdapterConfig, AdapterLayer, collect_adapters, inject
from dreambooth.training.dropout import AdapterDropout

FORMS = {
    "LoRA": AdapterConfig("LoRA", 4, 2.0),
    "LoCon": AdapterConfig("LoRA", 4, 2.0, conv_rank=3, conv_alpha=1.5),
    "LoHa": AdapterConfig("LoHa", 3, 1.0, conv_rank=2),
    "LoKr": AdapterConfig("LoKr", 3, 1.0, conv_rank=2, conv_alpha=4.0, factor=4),
    "LoKr, both whole": AdapterConfig("LoKr", 64, 1.0, conv_rank=64),
    "DoRA": AdapterConfig("LoRA", 4, 2.0, conv_rank=2, dora=True),
    "DoRA of LoHa": AdapterConfig("LoHa", 3, 0.0, conv_rank=2, dora=True),
    "DoRA of LoKr": AdapterConfig("LoKr", 3, 1.0, conv_rank=2, dora=True),
}


@pytest.fixture
def trained(mini):
    """``trained(config)``: modules whose adapters were trained for a few steps, and the adapters by name."""

    def make(config: AdapterConfig):
        modules = load_modules(mini.working)
        modules.denoiser.requires_grad_(False)
        layers = inject(modules, "unet", config, seed=1)
        layers |= inject(modules, "text_encoder", config, seed=1)
        parameters = [p for layer in layers.values() for p in layer.trainable_parameters().values()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for step in range(4):
            _output(modules, step).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return modules, layers

    return make


def _output(modules, seed: int = 0) -> torch.Tensor:
    """The UNet's output for noise and the text encoder's embeddings of some tokens."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    tokens = torch.randint(0, 1000, (2, 77), generator=generator)
    text = modules.parts["text_encoder"](tokens)[0]
    return modules.denoiser(noise, torch.tensor([3, 700]), text).sample


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_a_file_read_and_merged_does_what_the_layers_did(trained, mini, tmp_path, config):
    live, layers = trained(config)
    path = tmp_path / "x.safetensors"
    write_lora(path, collect_adapters(layers), {})
    fresh, merged = load_modules(mini.working), load_modules(mini.working)
    assert apply_lora(merged, read_lora(path)) == len(layers)
    for component in ("unet", "text_encoder"):
        before, after = (
            dict(fresh.parts[component].named_modules()),
            dict(merged.parts[component].named_modules()),
        )
        for name, layer in live.parts[component].named_modules():
            if isinstance(layer, AdapterLayer):
                expected = layer.adapter().delta(layer.weight)
                change = after[name].weight - before[name].weight
                assert (change - expected).norm() < 1e-3 * expected.norm(), name
    with torch.no_grad():
        base, ours, theirs = _output(fresh), _output(live), _output(merged)
    assert (ours - base).abs().mean() > 1e-3, "the adapters do nothing"
    assert (ours - theirs).abs().mean() < 0.01 * (ours - base).abs().mean()


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_at_first_nothing_changes(mini, config):
    fresh, modules = load_modules(mini.working), load_modules(mini.working)
    inject(modules, "unet", config, seed=1)
    with torch.no_grad():
        assert torch.allclose(_output(modules), _output(fresh), atol=1e-5)


def test_dora_trains_directions_with_constant_norms(mini):
    """The paper's section 4.3: the gradient of V is that of m / ||V|| * V with ||V|| held fixed."""
    modules = load_modules(mini.working)
    modules.denoiser.requires_grad_(False)
    layers = inject(modules, "unet", AdapterConfig("LoRA", 2, 2.0, dora=True), seed=1)
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


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_dropout_depends_on_position_and_layer_preserves_the_mean_and_is_off_in_sampling(mini, kind):
    modules, dropout = load_modules(mini.working), AdapterDropout(seed=3)
    config = AdapterConfig(kind, 8, 8.0, conv_rank=2, dropout=0.25)
    modules.denoiser.requires_grad_(False)
    layers = inject(modules, "unet", config, 1, dropout)
    first, second = [layer for name, layer in layers.items() if name.endswith("attn1_to_q")][:2]
    for layer in (first, second):
        for parameter in layer.trainable_parameters().values():
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 20_000, first.weight.shape[1], generator=torch.Generator().manual_seed(1)) + 1

    def added(layer, step, batch=0):
        dropout.set_position(step, batch)
        with torch.no_grad():
            return layer(x[..., : layer.weight.shape[1]]) - layer.base(x[..., : layer.weight.shape[1]])

    here = added(first, 4)
    assert torch.equal(added(first, 4), here)
    assert not torch.equal(added(first, 5), here) and not torch.equal(added(first, 4, 1), here)
    masks = [layer.dropout(torch.ones(1000)) for layer in (first, second)]
    assert not torch.equal(*masks)
    assert masks[0].unique().tolist() == pytest.approx([0, 4 / 3]) and 0.2 < (masks[0] == 0).float().mean() < 0.3
    whole = added(first.eval(), 4)
    change = first.adapter().delta(first.weight)
    assert torch.allclose(whole, torch.nn.functional.linear(x, change), atol=1e-2)
    first.train()
    mean = torch.stack([added(first, step) for step in range(30)]).mean(dim=(0, 1, 2))
    assert torch.allclose(mean, whole.mean(dim=(0, 1)), atol=0.02 * whole.abs().mean().item())


def test_dropout_with_and_without_gradient_checkpointing_is_the_same(train, models_dir, created):
    """Up to the order of sums of gradients, see tests/training/test_gradient_checkpointing.py."""
    import shutil

    settings = {"lora_unet_dropout": 0.5, "lora_txt_dropout": 0.5, "use_dream": True, "num_train_epochs": 1}
    expected = train(gradient_checkpointing=False, **settings)
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    ours = train(gradient_checkpointing=True, **settings)
    assert ours.losses == pytest.approx(expected.losses, abs=2e-6)
    for name, tensor in expected.weights().items():
        assert torch.allclose(ours.weights()[name], tensor, atol=2e-5), name
