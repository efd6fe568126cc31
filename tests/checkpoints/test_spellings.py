"""Checkpoints whose tensors have the names that converters gave them: read exactly, written with the usual names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.modules import weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.models.sd.clip_names import OpenClipNameMap
from dreambooth.models.sd.keys import UNET, VAE
from dreambooth.models.sd.ldm_names import vae_names
from dreambooth.tensor_files import write_tensors
from tests.mini_models import make

Tensors = dict[str, torch.Tensor]
PARTS = ("q", "k", "v", "proj_out")
NEW, OLD = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")


def attention(names: tuple[str, ...], dimensions: int) -> Callable[[Tensors], Tensors]:
    """The VAE's attention with other names, its weights with 2 (linear) to 4 (convolution) dimensions."""

    def rename(tensors: Tensors) -> Tensors:
        renamed = {}
        for key, tensor in tensors.items():
            for own, other in zip(PARTS, names, strict=True):
                if key.startswith(VAE) and f".attn_1.{own}." in key:
                    key = key.replace(f".attn_1.{own}.", f".attn_1.{other}.")
                    tensor = tensor.reshape(tensor.shape[:dimensions]) if tensor.dim() == 4 else tensor
                    break
            renamed[key] = tensor
        return renamed

    return rename


def prefixed(prefix: str, **others: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**{prefix + key: tensor for key, tensor in tensors.items()}, **others}


def replaced(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key.replace(old, new, 1) if key.startswith(old) else key: t for key, t in tensors.items()}


def diffusers_vae(tensors: Tensors) -> Tensors:
    names = vae_names({"block_out_channels": [0] * 4, "layers_per_block": 1})
    return {
        VAE + names.to_modules(key.removeprefix(VAE))[0] if key.startswith(VAE) else key: tensor
        for key, tensor in tensors.items()
    }


def of_transformers(original: str, prefix: str) -> Callable[[Tensors], Tensors]:
    """A text encoder of open_clip with the names of transformers: three tensors for a fused one, projection turned."""

    def rename(tensors: Tensors) -> Tensors:
        names, renamed = OpenClipNameMap(2, has_projection=prefix.startswith("conditioner")), {}
        for key, tensor in tensors.items():
            if not key.startswith(original):
                renamed[key] = tensor
                continue
            modules = names.to_modules(key.removeprefix(original))
            tensor = tensor.t() if key.endswith("text_projection") else tensor
            parts = tensor.chunk(len(modules)) if modules else ()
            renamed |= {prefix + name: part for name, part in zip(modules, parts, strict=True)}
        return renamed

    return rename


TEXT_2, SD2_TEXT = "conditioner.embedders.1.model.", "cond_stage_model.model."
ROWS = {
    "old extension": ("v1x", attention(NEW, 2)),
    "old extension, convolutions": ("v2x", attention(NEW, 4)),
    "early diffusers": ("SDXL", attention(OLD, 2)),
    "linear layers": ("v1x", attention(PARTS, 2)),
    "one dimension left": ("v1x", attention(PARTS, 3)),
    "VAE of diffusers": ("v2x", diffusers_vae),
    "VAE without its prefix": ("SDXL", replaced(VAE, "vae.")),
    "UNet with half a prefix": ("v1x", replaced(UNET, "diffusion_model.")),
    "parallel training": ("SDXL", prefixed("module.")),
    "with optimizer": ("v1x", prefixed("state.", **{"optimizer.0.exp_avg": torch.ones(3)})),
    "SD1 text encoder": ("v1x", replaced("cond_stage_model.transformer.", "cond_stage_model.")),
    "SD1 in the layout of SDXL": ("v1x", replaced("cond_stage_model.", "conditioner.embedders.0.")),
    "SD2 in the layout of SDXL": ("v2x", replaced("cond_stage_model.", "conditioner.embedders.0.")),
    "SD2 text encoder": ("v2x", of_transformers(SD2_TEXT, "cond_stage_model.transformer.")),
    "SDXL text encoder": ("SDXL", of_transformers(TEXT_2, "conditioner.embedders.1.transformer.")),
}
# What a text encoder of transformers doesn't have; strict readers get zeros and the usual values.
UNUSED = ("logit_scale", SD2_TEXT + "transformer.resblocks.2.", SD2_TEXT + "text_projection")


@pytest.mark.parametrize("what", ROWS)
def test_read_exactly_and_written_with_the_usual_names(what, new, tmp_path, read_all, caplog):
    kind, rename = ROWS[what]
    usual = make(tmp_path / "usual.safetensors", kind)
    source, expected = tmp_path / "源 source.safetensors", read_all(usual)
    with open_tensors(usual) as file:
        write_tensors(source, {key: t.contiguous() for key, t in rename(expected).items()}, file.metadata)
    extract(source, new)
    out = write_checkpoint(new, tmp_path / "out.safetensors")
    assert verify_checkpoint(out, new).n_changed == 0 and verify_checkpoint(out, new).ok
    written = read_all(out)
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        is_filled = what in ("SD2 text encoder", "SDXL text encoder") and any(part in key for part in UNUSED)
        assert is_filled or torch.equal(written[key], tensor), key
    is_renamed = expected.keys() != read_all(source).keys()
    assert ("other names than usual" in caplog.text) == is_renamed
    assert ("1 tensor outside of state.*" in caplog.text) == (what == "with optimizer")
    assert not [issue for issue in inspect(source).issues if "other names" not in issue and "left out" not in issue]


def test_a_folder_and_a_vae_with_early_names(new, tmp_path, read_all):
    """Also as convolutions: both are read by names and values, whatever the shape."""
    source = make(tmp_path / "a.safetensors", "v1x")
    expected = read_all(source)
    vae = {key: tensor for key, tensor in expected.items() if key.startswith(VAE)}
    path = tmp_path / "vae.safetensors"
    write_tensors(path, {key.removeprefix(VAE): tensor for key, tensor in attention(NEW, 4)(vae).items()})
    extract(source, new, vae=path)
    assert all(
        torch.equal(t, expected[k]) for k, t in read_all(write_checkpoint(new, tmp_path / "1.safetensors")).items()
    )
    weights = weights_path(new.working, "vae")
    own = read_all(weights)
    for ours, theirs in zip(NEW, OLD, strict=True):
        own = {key.replace(f".0.{ours}.", f".0.{theirs}."): tensor for key, tensor in own.items()}
    write_tensors(weights, {k: t[:, :, None, None] if ".query.w" in k else t for k, t in own.items()}, {"format": "pt"})
    other = new.__class__(new.folders, "other")
    extract(new.working, other)
    written = read_all(write_checkpoint(other, Path(tmp_path / "2.safetensors")))
    assert all(torch.equal(written[key], tensor) for key, tensor in vae.items())
