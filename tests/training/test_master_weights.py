"""LoRA in half precision without autocast: the passes use copies of the adapters, whose parameters stay in float32."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreambooth.checkpoints.modules import load_modules
from dreambooth.training import gradient_checkpointing
from dreambooth.training.adapters import AdapterConfig, inject
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.gradient_checkpointing import checkpoint_gradients
from dreambooth.training.loop import Loop
from dreambooth.training.master_weights import groups_of, low_precision

BF16 = {"mixed_precision": "bf16", "use_lora_extended": True, "lora_unet_alpha": 2, "seed": 5}


@pytest.fixture
def layers(mini):
    """Adapters of the UNet, with dropout and a scale other than 1, and nothing that is zero."""
    modules = load_modules(mini.working, vae=False, text_encoder=False)
    modules.denoiser.requires_grad_(False)
    config = AdapterConfig("LoRA", 4, 2.0, conv_rank=2, conv_alpha=3.0, dropout=0.25)
    layers = inject(modules, "unet", config, seed=1, dropout=AdapterDropout(seed=3))
    for i, layer in enumerate(layers.values()):
        with torch.no_grad():
            torch.nn.init.normal_(layer.trainable_parameters()["up"], generator=torch.Generator().manual_seed(i))
    return layers


def _input(layer) -> torch.Tensor:
    shape = (2, layer.weight.shape[1], 6, 6) if layer.conv_args else (2, 7, layer.weight.shape[1])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _gradients(layer) -> list[torch.Tensor]:
    gradients = [layer.down.grad, layer.up.grad]
    layer.down.grad = layer.up.grad = None
    return gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_outputs_and_gradients_are_those_of_float32_up_to_rounding(layers, dtype):
    kinds = {layer.down.shape[2:]: layer for layer in layers.values()}
    assert kinds.keys() >= {(), (1, 1), (3, 3)}, "linear layers and both kinds of convolutions"
    for layer in kinds.values():
        x = _input(layer)
        exact = layer(x)
        exact.square().sum().backward()
        expected = [exact.detach(), *_gradients(layer)]
        layer.base.to(dtype)
        with low_precision([layer], dtype) as copies:
            output = layer(x.to(dtype))
            assert output.dtype == dtype
            output.float().square().sum().backward()
            assert layer.down.grad is None
            copies.collect_gradients()
        ours = [output.detach(), *_gradients(layer)]
        for own, other in zip(ours[1:], expected[1:], strict=True):
            assert own.dtype == torch.float32
            assert (own - other).norm() < 0.02 * other.norm()
        assert (ours[0] - expected[0]).norm() < 0.01 * expected[0].norm()


def test_gradients_of_several_backward_passes_are_summed_in_float32(layers):
    layer, other = list(layers.values())[:2]
    other.requires_grad_(False)
    layer.base.bfloat16()
    x = _input(layer).bfloat16()

    def gradients(*factors: float) -> list[torch.Tensor]:
        with low_precision([layer, other], torch.bfloat16) as copies:
            assert layer.low_precision and not other.low_precision, "frozen adapters have none"
            for factor in factors:
                (layer(x) * factor).float().sum().backward()
                copies.collect_gradients()
        return _gradients(layer)

    one, small, both = gradients(1.0), gradients(1e-3), gradients(1.0, 1e-3)
    for sums, first, second in zip(both, one, small, strict=True):
        assert torch.equal(sums, first + second) and not torch.equal(sums, first)


def test_copies_of_one_stage_are_there_at_a_time(mini, monkeypatch):
    """With gradient checkpointing. The gradients are those of copies that are all there at once, bit for bit."""
    modules = load_modules(mini.working, vae=False, text_encoder=False, dtype=torch.bfloat16)
    unet = modules.denoiser.requires_grad_(False).train()
    checkpoint_gradients(unet)
    layers = inject(modules, "unet", AdapterConfig("LoRA", 4, 2.0, conv_rank=2), seed=1)
    for layer in layers.values():
        torch.nn.init.normal_(layer.up, generator=torch.Generator().manual_seed(1))
    groups, present = groups_of([unet]), []
    assert len(groups) > 5

    def count(*_) -> None:
        present.append(sum(layer.low_precision is not None for layer in layers.values()))

    unet.register_forward_hook(count)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    prompts = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(2)).bfloat16()

    def gradients(groups) -> list[torch.Tensor]:
        for block in (block for group in groups for block in group.blocks):
            block.register_forward_hook(count)
        with low_precision(layers.values(), torch.bfloat16, groups) as copies:
            unet(noise, torch.tensor([3, 700]), prompts)[0].float().square().mean().backward()
            copies.collect_gradients()
        assert not any(layer.low_precision or layer.cast_to for layer in layers.values())
        return [gradient for layer in layers.values() for gradient in _gradients(layer)]

    at_once = gradients(())
    assert present == [len(layers)]
    assert all(map(torch.equal, gradients(groups), at_once))
    assert len(present) > 2 * len(groups) and max(present[1:]) < len(layers) / 2
    monkeypatch.setattr(gradient_checkpointing, "_call_before", lambda function: None)  # as other functions than ours
    for own, other in zip(gradients(groups), at_once, strict=True):
        torch.testing.assert_close(own, other)


def test_copies_end_with_the_block(layers):
    with pytest.raises(RuntimeError), low_precision(layers.values(), torch.bfloat16):
        assert all(layer.low_precision for layer in layers.values())
        raise RuntimeError
    assert not any(layer.low_precision for layer in layers.values())


class _Casts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_casts_the_adapters_of_a_stage_at_once(train, monkeypatch):
    """Of UNet and text encoder; only inputs and the loss are cast besides."""
    steps, step = [], Loop.step

    def counted(self, group):
        with _Casts() as casts:
            step(self, group)
        steps.append((casts.operators, len(self.session.layers)))

    monkeypatch.setattr(Loop, "step", counted)
    assert train(**BF16, gradient_checkpointing=True, max_train_steps=2).error is None
    for operators, n_layers in steps:
        assert n_layers > 40 and operators["_to_copy"] < 20
        assert operators["_foreach_copy_"] < 3 * 12, "to the copies of each stage, twice, and of their gradients"


def test_losses_are_those_of_float32_up_to_rounding(train, models_dir, created):
    losses = {}
    for precision in ("no", "bf16"):
        losses[precision] = train(**{**BF16, "mixed_precision": precision}).losses
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
    assert losses["no"] != losses["bf16"] == pytest.approx(losses["no"], rel=0.01)


def test_a_resumed_run_is_the_same_bit_for_bit(train, models_dir, created):
    """With dropout, accumulation, and a text encoder that is frozen half-way."""
    settings = {**BF16, "lora_unet_dropout": 0.3, "gradient_accumulation_steps": 2, "train_batch_size": 1,
                "gradient_checkpointing": True, "stop_text_encoder": 0.5, "num_train_epochs": 2}  # fmt: skip
    expected = train(**settings).digest()
    for stop_at in (2, 4):
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
        train(**settings, on=lambda event, controls, at=stop_at: event.get("step") == at and controls.cancel())
        assert train(**settings, resume="latest").digest() == expected
