"""Quantized layers: their rounding error, gradients, memory, and which layers they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dreambooth.checkpoints.modules import load_component
from dreambooth.memory.quantized import Quantizer, quantize_layer
from dreambooth.memory.weight_formats import FORMATS, unavailable_reason
from dreambooth.training.availability import missing_requirements

CPU = torch.device("cpu")
LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "without bias": lambda: nn.Linear(24, 40, bias=False),
    "3x3": lambda: nn.Conv2d(24, 16, 3, padding=1),
    "strided": lambda: nn.Conv2d(24, 16, 3, stride=2, padding=1, dilation=2, groups=4),
}


@pytest.fixture(params=LAYERS)
def layer(request) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LAYERS[request.param]().requires_grad_(False)


def _input(layer: nn.Module) -> torch.Tensor:
    shape = (2, 5, 24) if isinstance(layer, nn.Linear) else (2, 24, 9, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)


def _roundtrip(kind: str, weight: torch.Tensor) -> torch.Tensor:
    return FORMATS[kind].dequantize(FORMATS[kind].quantize(weight.float()), weight.shape, torch.float32).double()


def test_int8_differs_by_at_most_half_a_step():
    weight = torch.randn(64, 48, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-6, 4, 64, dtype=torch.float64)[:, None, None, None]
    weight[3], weight[4, 1:] = 0, 0
    values, scale = FORMATS["int8"].quantize(weight.float()).values()
    error = (_roundtrip("int8", weight) - weight).abs()
    bound = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127 / 2
    assert values.dtype == torch.int8 and scale.shape == (64, 1, 1, 1)
    assert (error <= bound * (1 + 1e-5)).all() and error.max() > 0.9 * bound.max(), "the bound is tight"
    assert not error[3].any()


def test_fp8_differs_by_at_most_half_a_unit_in_the_last_place():
    weight = torch.randn(64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-6, 4, 64, dtype=torch.float64)[:, None]
    values, scale = FORMATS["fp8"].quantize(weight.float()).values()
    error = (_roundtrip("fp8", weight) - weight).abs()
    assert values.dtype == torch.float8_e4m3fn and error.isfinite().all()
    assert (error <= torch.maximum(weight.abs() / 16, scale.double() / 1024) * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_dequantized_weights_are_rounded_once(kind, dtype):
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    tensors = FORMATS[kind].quantize(weight)
    restored = FORMATS[kind].dequantize(tensors, weight.shape, dtype)
    assert torch.equal(restored, (tensors["values"].float() * tensors["scale"]).to(dtype))


@pytest.mark.parametrize("shape", [(48, 40), (24, 16, 3, 3), (5, 7)])
def test_nf4_rounds_to_the_nearest_level_of_its_block(shape):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight.flatten()[:20] = 0
    n_blocks = -(-weight.numel() // 64)
    tensors = FORMATS["nf4"].quantize(weight.float())
    assert (tensors["values"].nbytes, tensors["scale"].nbytes) == (32 * n_blocks, 4 * n_blocks), "4.5 bits per value"
    blocks = torch.nn.functional.pad(weight.flatten(), (0, 64 * n_blocks - weight.numel())).view(-1, 64)
    levels, largest = tensors["pairs"][:16, 1].double(), blocks.abs().amax(dim=1, keepdim=True)
    nearest = levels[(blocks[..., None] / largest[..., None] - levels).abs().argmin(dim=-1)] * largest
    expected = nearest.flatten()[: weight.numel()].view(shape)
    assert torch.allclose(_roundtrip("nf4", weight), expected, atol=1e-6)
    half = FORMATS["nf4"].dequantize(tensors, weight.shape, torch.bfloat16)
    assert torch.allclose(half.double(), expected, rtol=2**-7, atol=0)


def test_nf4_is_that_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    values, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    tensors = FORMATS["nf4"].quantize(weight)
    assert torch.equal(tensors["values"], values.flatten()) and torch.equal(tensors["scale"][:, 0], state.absmax)
    assert torch.equal(_roundtrip("nf4", weight).float(), functional.dequantize_4bit(values, state))


@pytest.mark.parametrize("kind", FORMATS)
def test_output_and_input_gradient_are_those_of_a_layer_with_the_dequantized_weight(layer, kind):
    plain, x = copy.deepcopy(layer), _input(layer)
    quantize_layer(layer, layer.weight, kind, torch.float32)
    plain.weight.copy_(layer.weight)
    assert isinstance(layer, type(plain)) and "weight" not in dict(layer.named_parameters())
    results = []
    for each in (layer, plain):
        output = each(x)
        (gradient,) = torch.autograd.grad(output.square().sum(), x)
        results.append((output, gradient))
    (output, gradient), (expected, expected_gradient) = results
    assert torch.equal(output, expected) and torch.allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_in_bf16_they_are_those_of_autocast():
    layer, x = nn.Linear(24, 40).requires_grad_(False), _input(nn.Linear(24, 40))
    plain = copy.deepcopy(layer).bfloat16()
    layer.bfloat16()
    quantize_layer(layer, layer.weight, "int8", torch.bfloat16)
    plain.weight.copy_(layer.weight)
    gradients = []
    for each in (layer, plain):
        with torch.autocast("cpu", torch.bfloat16):
            output = each(x)
        assert output.dtype == torch.bfloat16
        gradients += torch.autograd.grad(output.float().square().sum(), x)
    assert gradients[0].dtype == torch.float32 and torch.allclose(*gradients, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_of_the_size_of_a_weight_is_saved_for_the_backward_pass(layer, kind):
    saved: list[torch.Tensor] = []
    n_weight = layer.weight.numel()
    quantize_layer(layer, layer.weight, kind, torch.float32)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(_input(layer))
    assert output.requires_grad and all(tensor.numel() < n_weight for tensor in saved)


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_of_a_component_are_quantized_while_it_is_loaded(mini, kind, monkeypatch):
    """The weights of the file are, one by one; no parameter in the blocks is left but biases and norms."""
    largest = []
    take = Quantizer.__call__

    def recorded(self, module, name, weight):
        real = [p for p in module.parameters() if not p.is_meta and p.dim() > 1]
        largest.append(sum(p.numel() for p in real))
        return take(self, module, name, weight)

    monkeypatch.setattr(Quantizer, "__call__", recorded)
    plain = load_component(mini.working, "unet")
    unet = load_component(mini.working, "unet", torch.float32, Quantizer(kind, torch.float32, CPU))
    kept = {name.split(".")[0] for name, p in unet.named_parameters() if p.dim() > 1}
    assert kept == {"conv_in", "conv_out", "time_embedding"}
    assert max(largest) == sum(p.numel() for n, p in unet.named_parameters() if p.dim() > 1), "no full copy in memory"
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            other = unet.get_submodule(name)
            assert torch.equal(other.weight, _roundtrip(kind, layer.weight).float()) == (name.split(".")[0] not in kept)
            assert (other.bias is None) == (layer.bias is None)
    text = load_component(mini.working, "text_encoder", torch.float32, Quantizer(kind, torch.float32, CPU))
    kept = {name.split(".")[-2] for name, p in text.named_parameters() if p.dim() > 1}
    assert kept == {"token_embedding", "position_embedding"}


def test_a_unet_in_int8_takes_half_of_bf16_and_one_in_nf4_little_more_than_a_quarter(created_embedded):
    def bytes_of(module):
        tensors = [*module.parameters(), *module.buffers()]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    working = created_embedded / "dreambooth" / "mini" / "working"
    bf16 = bytes_of(load_component(working, "unet", torch.bfloat16))
    for kind, most in (("int8", 0.53), ("fp8", 0.53), ("nf4", 0.4)):
        n_bytes = bytes_of(load_component(working, "unet", torch.bfloat16, Quantizer(kind, torch.bfloat16, CPU)))
        assert n_bytes < most * bf16


def test_fp8_is_not_offered_where_torch_lacks_it(monkeypatch):
    def missing(device):
        return missing_requirements(torch.device(device))["base_precision"]

    assert missing("cpu") == {} and missing("mps").keys() == {"fp8"}
    monkeypatch.delattr(torch, "float8_e4m3fn")
    assert missing("cpu")["fp8"] == "torch 2.1 or newer"
    assert unavailable_reason("fp8", CPU) == "it needs torch 2.1 or newer."
    assert unavailable_reason("int8", CPU) == ""
