"""Adapters of a family whose files keep the dots of names: what is written, what is read, and fused tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.lora import WeightedLora, apply_lora, match_adapters
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import RankLimit, merge_loras, resize_lora
from dreambooth.checkpoints.modules import Modules, load_modules
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_lora
from dreambooth.errors import UserError
from dreambooth.models import registry
from dreambooth.models.adapter_spelling import AdapterSpelling
from dreambooth.models.layout import TensorRef
from dreambooth.settings import ModelFolder
from dreambooth.training.adapters import AdapterConfig, collect_adapters, inject
from tests.made_up_family import INPUT, TENSORS, WIDTH, MadeUpFamily, create

SAME = ("plain", "conv")  # the same matrix in the original
WRITTEN = {f"diffusion_model.layers.0.{name}" for name in SAME} | {
    f"diffusion_model.{part.removesuffix('.weight')}"
    for original, (parts, _) in TENSORS.items() if original.split(".")[-2] not in SAME for part in parts
}  # fmt: skip


@pytest.fixture
def family(monkeypatch) -> MadeUpFamily:
    family = MadeUpFamily()
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES, family])
    return family


@pytest.fixture
def model(family, tmp_path) -> ModelFolder:
    return create(tmp_path, family)[1]


@pytest.fixture
def modules(model) -> Modules:
    return load_modules(model.working)


def _trained(model: ModelFolder, path: Path, config: AdapterConfig, seed: int = 0) -> dict[TensorRef, torch.Tensor]:
    """Write a file of adapters as after a training, and return what each adds to its weight."""
    modules, generator = load_modules(model.working), torch.Generator().manual_seed(seed)
    layers = inject(modules, "transformer", config, seed=1)
    with torch.no_grad():
        for layer in layers.values():
            for parameter in layer.trainable_parameters().values():
                parameter.normal_(std=0.3, generator=generator)
    write_lora(path, collect_adapters(layers), modules.family.adapter_metadata, torch.float32)
    weights = {name: module for name, module in modules.denoiser.named_modules() if module in layers.values()}
    return {
        TensorRef("transformer", f"{name}.weight"): layer.adapter().delta(layer.weight)
        for name, layer in weights.items()
    }


def _is_close(found: dict[TensorRef, torch.Tensor], expected: dict[TensorRef, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.allclose(found[ref], expected[ref], atol=1e-4) for ref in expected
    )


def _deltas(modules: Modules, path: Path) -> dict[TensorRef, torch.Tensor]:
    """What the file adds to each weight."""
    before = {name: p.clone() for name, p in modules.denoiser.named_parameters()}
    apply_lora(modules, read_lora(path))
    changed = {name: p - before[name] for name, p in modules.denoiser.named_parameters()}
    return {TensorRef("transformer", name): delta for name, delta in changed.items() if delta.any()}


@pytest.mark.parametrize("kind", ["LoRA", "LoKr"])
def test_native_names_with_dots_are_written_read_and_merged_through_the_transforms(model, modules, tmp_path, kind):
    path = tmp_path / "x.safetensors"
    deltas = _trained(model, path, AdapterConfig(kind, 2, 1.0))
    keys = set(safetensors.torch.load_file(path))
    tensors = {"LoRA": ("lora_A.weight", "lora_B.weight", "alpha"), "LoKr": ("lokr_w1", "alpha")}[kind]
    assert {f"{name}.{tensor}" for name in WRITTEN for tensor in tensors} <= keys
    assert not [key for key in keys if not key.startswith(tuple(f"{name}." for name in WRITTEN))]
    assert not [key for key in keys if "lora_down" in key or "lora_up" in key]
    file = read_lora(path)
    assert file.made_for == "Made Up 1" and file.metadata["ss_base_model_version"] == "made_up"
    assert verify_lora(path, model).n_changed == len(deltas) == len(WRITTEN)
    assert _is_close(_deltas(modules, path), deltas)

    plain = safetensors.torch.load_file(write_checkpoint(model, tmp_path / "plain.safetensors"))
    merged = safetensors.torch.load_file(
        write_checkpoint(model, tmp_path / "out.safetensors", loras=[WeightedLora(path)])
    )
    for name, (parts, transform) in TENSORS.items():
        whole = transform.join([deltas[TensorRef("transformer", part)] for part in parts])
        assert torch.allclose(merged[f"net.{name}"] - plain[f"net.{name}"], whole, atol=1e-4), name


def _pair(name: str, rows: int, down: str, up: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {down: (2, INPUT), up: (rows, 2)}
    return {f"{name}.{tensor}": torch.randn(size, generator=generator) for tensor, size in sizes.items()}


PEFT, KOHYA = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
SPELLINGS = {
    "ComfyUI": ("diffusion_model.{}", PEFT), "musubi": ("lora_unet_{}", KOHYA), "diffusers": ("transformer.{}", PEFT),
    "bare": ("{}", PEFT), "peft": ("base_model.model.{}", PEFT), "OneTrainer": ("lora_transformer_{}", KOHYA),
    "LyCORIS": ("lycoris_{}", KOHYA), "checkpoint": ("model.diffusion_model.{}", KOHYA),
}  # fmt: skip


@pytest.mark.parametrize("original", [False, True], ids=["module", "original"])
@pytest.mark.parametrize("program", SPELLINGS)
def test_the_spellings_of_other_programs_are_read(modules, tmp_path, program, original):
    form, (down, up) = SPELLINGS[program]
    module = "layers.0.plain" if original else "blocks.0.plain"
    name = form.format(module if "." in form or form == "{}" else module.replace(".", "_"))
    tensors = _pair(name, WIDTH, down, up)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    expected = tensors[f"{name}.{up}"] @ tensors[f"{name}.{down}"]
    assert _is_close(
        _deltas(modules, tmp_path / "x.safetensors"), {TensorRef("transformer", "blocks.0.plain.weight"): expected}
    )


@pytest.mark.parametrize("name", ["qkv", "linear1", "ada", "turned", "both"])
@pytest.mark.parametrize("form", ["diffusion_model.layers.0.{}", "lora_unet_layers_0_{}"])
def test_an_adapter_of_an_original_tensor_is_split_among_its_modules(modules, tmp_path, name, form):
    parts, transform = TENSORS[f"layers.0.{name}.weight"]
    rows, columns = transform.original_shape([tuple(modules.denoiser.get_parameter(part).shape) for part in parts])
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
    path, module = tmp_path / "x.safetensors", form.format(name)
    safetensors.torch.save_file({f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up,
                                 f"{module}.alpha": torch.tensor(1.0)}, path)  # fmt: skip
    shapes = [tuple(modules.denoiser.get_parameter(part).shape) for part in parts]
    expected = transform.split(up @ down / 2, shapes)
    refs = [TensorRef("transformer", part) for part in parts]
    assert _is_close(_deltas(modules, path), dict(zip(refs, expected, strict=True)))
    kinds = {
        adapter.kind
        for adapter in match_adapters(read_lora(path), dict(zip(refs, shapes, strict=True)), modules.layout).values()
    }
    assert kinds == ({"LoRA"} if name in ("qkv", "linear1") else {"full difference"})

    both = safetensors.torch.load_file(path) | _pair(
        f"transformer.{parts[0].removesuffix('.weight')}", shapes[0][0], *PEFT
    )
    safetensors.torch.save_file(both, path)
    with pytest.raises(UserError, match=r"has two adapters for blocks\.0"):
        _deltas(modules, path)
    safetensors.torch.save_file(_pair(module, rows + 1, *KOHYA), path)
    with pytest.raises(UserError, match="of the wrong size for this model"):
        _deltas(modules, path)


def test_merged_and_resized_files_keep_names_that_hosts_read(model, modules, tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    first, second = (
        _trained(model, path, AdapterConfig("LoRA", 2, 2.0), seed) for seed, path in enumerate((one, other))
    )
    renamed = {
        key.replace("diffusion_model.", "transformer."): tensor
        for key, tensor in safetensors.torch.load_file(other).items()
    }
    safetensors.torch.save_file(renamed, other, {"ss_base_model_version": "made_up"})
    merged = merge_loras(
        [WeightedLora(one, 0.5), WeightedLora(other, -1.0)], tmp_path / "sum.safetensors", torch.float32
    )
    expected = {ref: 0.5 * first[ref] - second[ref] for ref in first}
    assert _is_close(_deltas(modules, merged), expected)
    small = resize_lora(merged, tmp_path / "small.safetensors", RankLimit(rank=4), torch.float32)
    for path in (merged, small):
        assert {key.rpartition(".lora_")[0] for key in safetensors.torch.load_file(path) if ".lora_" in key} == WRITTEN


def test_a_family_may_write_parts_of_fused_tensors_under_another_prefix(family, model, tmp_path):
    family.adapters = AdapterSpelling(
        ("diffusion_model",), ("original", "modules"), keeps_dots=True, part_prefix="transformer"
    )
    path = tmp_path / "x.safetensors"
    deltas = _trained(model, path, AdapterConfig("LoRA", 2, 2.0))
    names = {key.removesuffix(".alpha") for key in safetensors.torch.load_file(path) if key.endswith(".alpha")}
    assert {"diffusion_model.layers.0.plain", "transformer.blocks.0.to_q", "transformer.blocks.0.ada"} <= names
    assert _is_close(_deltas(load_modules(model.working), path), deltas)
