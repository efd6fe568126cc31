"""LoRAs created from LoRAs and checkpoints have the same effect as their sources."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.adapters import LoHa, Lora
from dreambooth.checkpoints.lora import WeightedLora, lora_name, match_adapters
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import RankLimit, merge_loras, resize_lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.cli import main
from dreambooth.errors import UserError

MID = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def lora(mini, tmp_path):
    """``lora(name, rank)``: a file in float32 with random adapters for all targets, convolutions included."""

    def make(name: str, rank: int, seed: int = 0):
        modules, weights = load_modules(mini.working), {}
        generator = torch.Generator().manual_seed(seed)
        for component in ("unet", "text_encoder"):
            targets = modules.family.adapter_targets(component, modules.parts[component], convolutions=True)
            for path, layer in targets.items():
                out, *inner = layer.weight.shape
                down = torch.randn(rank, *inner, generator=generator)
                up = torch.randn(out, rank, *[1] * len(inner[1:]), generator=generator) * 0.05
                parts = {"lora_down.weight": down, "lora_up.weight": up}
                weights[lora_name(modules.layout, component, path)] = Lora(parts, alpha=rank / 2)
        write_lora(tmp_path / f"{name}.safetensors", weights, {"ss_base_model_version": "sd_v1"}, torch.float32)
        return tmp_path / f"{name}.safetensors"

    return make


def changes(model, path, unet: float = 1.0, text: float = 1.0) -> dict:
    """The delta that the file adds to every weight of the model."""
    manifest = Manifest.load(model.source)
    shapes, layout = (
        manifest.shapes(),
        load_modules(model.working, denoiser=False, vae=False, text_encoder=False).layout,
    )
    found = match_adapters(read_lora(path), shapes, layout)
    strengths = {"unet": unet, "text_encoder": text}
    return {ref: strengths[ref.component] * a.delta(torch.zeros(shapes[ref])) for ref, a in found.items()}


def assert_close(found: dict, wanted: dict, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for ref, change in wanted.items():
        assert (found[ref] - change).norm() <= tolerance * change.norm(), ref


def test_merged_lora_is_the_weighted_sum(mini, lora, tmp_path):
    one, other = lora("one", 2), lora("other", 3, seed=1)
    uses = [WeightedLora(one, 0.7, 0.5), WeightedLora(other, -1.2, 2)]
    merged = read_lora(merge_loras(uses, tmp_path / "merged.safetensors", torch.float32))
    ours, theirs = changes(mini, one, 0.7, 0.5), changes(mini, other, -1.2, 2)
    assert_close(changes(mini, merged.path), {ref: ours[ref] + theirs[ref] for ref in ours}, 1e-5)
    assert {adapter.rank for adapter in merged.weights.values()} == {5}
    assert merged.metadata["ss_network_dim"] == "5" and merged.metadata["modelspec.merged_from"] == "one, other"


def test_a_negative_weight_subtracts(mini, lora, tmp_path):
    one = lora("one", 2)
    gone = changes(
        mini, merge_loras([WeightedLora(one), WeightedLora(one, -1, -1)], tmp_path / "x.safetensors", torch.float32)
    )
    assert all(change.abs().max() < 1e-5 for change in gone.values())


def test_resized_lora_is_the_best_approximation_of_its_rank(mini, lora, tmp_path):
    path = lora("one", 8)
    full = changes(mini, path)
    half = changes(mini, resize_lora(path, tmp_path / "4.safetensors", RankLimit(rank=4), torch.float32))
    most = read_lora(resize_lora(path, tmp_path / "e.safetensors", RankLimit(energy=0.8), torch.float32))
    for ref, change in full.items():
        squares = torch.linalg.svdvals(change.flatten(1).double()).square()
        assert (half[ref] - change).norm().item() ** 2 == pytest.approx(squares[4:].sum().item(), rel=1e-3)
    for ref, change in changes(mini, most.path).items():
        assert change.square().sum() >= 0.799 * full[ref].square().sum()
    assert most.metadata["ss_network_dim"] == "Dynamic"
    assert max(adapter.rank for adapter in most.weights.values()) < 8
    whole = resize_lora(path, tmp_path / "8.safetensors", RankLimit(rank=100), torch.float32)
    assert_close(changes(mini, whole), full, 1e-4)


def test_the_commands_extract_resize_and_merge(mini, mini_checkpoint, lora, tmp_path, capsys):
    """The difference of two checkpoints is extracted: here a LoRA that was merged into one of them."""

    def run(*args) -> dict:
        assert main([*map(str, args), "--json", "--models-dir", str(mini.folders.models)]) == 0
        return json.loads(capsys.readouterr().out)

    path = lora("one", 3)
    tuned = write_checkpoint(
        mini, tmp_path / "tuned.safetensors", loras=[WeightedLora(path, 1, 0)], dtype=torch.float32
    )
    wanted = {ref: change for ref, change in changes(mini, path).items() if ref.component == "unet"}
    rank = ("--rank", 8, "--conv-rank", 8, "--precision", "fp32")
    for base in (mini_checkpoint, "mini"):  # a file, and a model by its name
        summary = run("lora-extract", "--base", base, "--tuned", tuned, *rank, "--energy", 0.99999, "--out",
                   tmp_path / "extracted.safetensors")  # fmt: skip
        assert_close(changes(mini, summary["lora"]), wanted, 1e-3)
        assert summary["modules"] == len(wanted) and summary["ranks"] == {"3": len(wanted)}
        assert summary["energy_kept"] == pytest.approx(1, abs=1e-4)
    assert read_lora(summary["lora"]).metadata["ss_base_model_version"] == "sd_v1"
    small = run("lora-resize", summary["lora"], "--rank", 1, "--out", tmp_path / "small.safetensors")
    assert small["ranks"] == {"1": len(wanted)}
    retained = sum(change.square().sum() for change in changes(mini, small["lora"]).values())
    assert small["energy_kept"] == pytest.approx(
        (retained / sum(c.square().sum() for c in wanted.values())).item(), 1e-2
    )
    both = run("lora-merge", "--lora", small["lora"], "--lora", path, "--lora-weight", 1, "--lora-weight", -1, "--out",
               tmp_path / "both.safetensors")  # fmt: skip
    assert both["modules"] == len(read_lora(path).weights)


def _as_original(tensors: dict) -> dict:
    """The same LoRA with the names that OneTrainer writes: those of the original code, with dots."""
    from dreambooth.models.sd.ldm_names import unet_names

    config = {"block_out_channels": "1234", "layers_per_block": 2, "down_block_types": ["CrossAttn"] * 3 + [""],
              "up_block_types": ["", *["CrossAttn"] * 3]}  # fmt: skip
    names, renamed = unet_names(config), {}
    modules = {name.replace(".", "_"): name for name in names._to_original}
    for key, tensor in tensors.items():
        flat, _, rest = key.removeprefix("lora_unet_").partition(".")
        head = max((name for name in modules if flat == name or flat.startswith(f"{name}_")), key=len)
        renamed[f"unet.{names.to_original(modules[head])}{flat[len(head) :].replace('_', '.')}.{rest}"] = tensor
    return renamed


def test_files_of_several_programs_are_merged_into_one_with_one_name_for_each_module(mini, lora, tmp_path):
    """kohya names the modules as diffusers does, OneTrainer as the original code; each alone keeps its names."""
    one, other = lora("one", 2), tmp_path / "other.safetensors"
    tensors = {key: t for key, t in safetensors.torch.load_file(lora("two", 2, seed=1)).items() if "lora_unet" in key}
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(tensors, plain)
    safetensors.torch.save_file(_as_original(tensors), other)
    assert_close(changes(mini, other), changes(mini, plain), 1e-6)
    merged = merge_loras([WeightedLora(one), WeightedLora(other)], tmp_path / "merged.safetensors", torch.float32)
    wanted = changes(mini, one)
    wanted |= {ref: wanted[ref] + delta for ref, delta in changes(mini, plain).items()}
    assert_close(changes(mini, merged), wanted, 1e-5)
    assert read_lora(merged).weights.keys() == read_lora(one).weights.keys()
    alone = merge_loras([WeightedLora(other)], tmp_path / "alone.safetensors", torch.float32)
    assert any("lora_unet_middle_block_1_" in name for name in read_lora(alone).weights)
    assert_close(changes(mini, alone), changes(mini, plain), 1e-5)


def refused(what: str, do) -> None:
    with pytest.raises(UserError, match=what) as refusal:
        do()
    assert "\n" not in str(refusal.value)


def test_invalid_requests_are_refused_in_one_line(lora, mini_checkpoint, tmp_path):
    from dreambooth.actions.loras import extract_lora, merge_loras, resize_lora
    from dreambooth.settings import Folders

    one, out, folders = lora("one", 2), tmp_path / "out.safetensors", Folders(tmp_path / "models")
    other = tmp_path / "loha.safetensors"
    parts = {f"hada_w{n}_a": torch.ones(32, 2) for n in (1, 2)} | {f"hada_w{n}_b": torch.ones(2, 32) for n in (1, 2)}
    write_lora(other, {MID: LoHa(parts, 1.0)}, {})
    for name, version in (("xl", "sdxl_base_v1-0"), ("1", "sd_v1")):
        pair = {"lora_down.weight": torch.ones(1, 5), "lora_up.weight": torch.ones(7, 1)}
        write_lora(tmp_path / f"{name}.safetensors", {MID: Lora(pair, 1.0)}, {"ss_base_model_version": version})
    refused("only plain LoRAs can be merged", lambda: merge_loras([one, other], out))
    refused("xl.safetensors was made for SDXL: merge", lambda: merge_loras([one, tmp_path / "xl.safetensors"], out))
    refused("differs in size", lambda: merge_loras([one, tmp_path / "1.safetensors"], out))
    refused("1 LoRA but 2 weights", lambda: merge_loras([one], out, lora_weights=[1, 2]))
    refused("nothing to merge", lambda: merge_loras([], out))
    tensors = safetensors.torch.load_file(one)
    zero, broken = tmp_path / "zero.safetensors", tmp_path / "broken.safetensors"
    safetensors.torch.save_file({k: t * (0 if k.endswith("alpha") else 1) for k, t in tensors.items()}, zero)
    safetensors.torch.save_file({k: t * (1 if k.endswith("alpha") else torch.nan) for k, t in tensors.items()}, broken)
    refused("zero.safetensors changes nothing: alpha is 0 in all", lambda: merge_loras([one, zero], out))
    refused("zero.safetensors changes nothing: alpha is 0 in all", lambda: resize_lora(zero, out, rank=1))
    refused("broken.safetensors is damaged: it has NaN", lambda: resize_lora(broken, out, rank=1))
    refused("broken.safetensors is damaged: it has NaN", lambda: merge_loras([one, broken], out))
    refused("Use that file extension", lambda: merge_loras([one], tmp_path / "out.pt"))
    refused("Limit the size", lambda: resize_lora(one, out))
    refused("energy to keep is 7", lambda: resize_lora(one, out, energy=7))
    refused("equal weights", lambda: extract_lora(folders, mini_checkpoint, mini_checkpoint, out, rank=4))
    refused("no-such-model does not exist", lambda: extract_lora(folders, "no-such-model", one, out, rank=4))
    assert not out.exists()
